"""The session that a tool's function sees once its call has become a task.

The call's own session is of no use then: its request has been answered. What the function asks the
client for (``ctx.elicit``, ``ctx.session.create_message``, ``ctx.session.list_roots``) becomes a
question of the task instead, and progress its status message, so that a function need not know
whether it is run as a task.
"""

from __future__ import annotations

from typing import Any, TypeVar

from mcp.server.session import ServerSession
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    ClientCapabilities,
    InitializeRequestParams,
    LoggingLevel,
    RequestId,
    ServerNotification,
    ServerRequest,
)
from pydantic import BaseModel

from supervisor.mcp_server.tasks import refusals
from supervisor.mcp_server.tasks.functions import FunctionTask

__all__ = ["TaskSession"]

_ResultT = TypeVar("_ResultT", bound=BaseModel)

_NEEDS = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


class TaskSession(ServerSession):
    """A call's session until the call becomes a task, from then on the task's."""

    def __init__(self, session: ServerSession) -> None:
        """Stand before ``session``. The base class is not initialised: all it does with its own state is replaced."""
        self._before = session
        self.task: FunctionTask | None = None

    @property
    def client_params(self) -> InitializeRequestParams | None:
        """As the call's."""
        return self._before.client_params

    @property
    def client_capabilities(self) -> ClientCapabilities | None:
        """As the call's."""
        return self._before.client_capabilities

    @property
    def can_send_request(self) -> bool:
        """A task can always ask, of clients that have said that they answer such questions."""
        return self.task is not None or self._before.can_send_request

    @property
    def protocol_version(self) -> str:
        """As the call's."""
        return self._before.protocol_version

    def check_client_capability(self, capability: ClientCapabilities) -> bool:
        """As the call's."""
        return self._before.check_client_capability(capability)

    async def send_request(
        self,
        request: ServerRequest,
        result_type: type[_ResultT],
        request_read_timeout_seconds: float | None = None,
        metadata: ServerMessageMetadata | None = None,
        progress_callback: ProgressFnT | None = None,
    ) -> _ResultT:
        """Ask the client and wait for its answer, however long that takes.

        Raises:
            MCPError: the client has not declared that it answers this, or it refuses to.
        """
        if self.task is None:
            return await self._before.send_request(
                request,
                result_type,
                request_read_timeout_seconds,
                metadata,
                progress_callback,
            )
        needed = _NEEDS.get(request.method)
        if needed is None:
            message = f"A task cannot send {request.method} to its client"
            raise refusals.internal(message)
        declared = self.client_capabilities
        if declared is None or getattr(declared, needed) is None:
            raise refusals.missing_capability({needed: {}}, needed)
        shape = request.model_dump(by_alias=True, mode="json", exclude_none=True)
        return result_type.model_validate(await self.task.ask(shape), by_name=False)

    async def send_notification(
        self,
        notification: ServerNotification,
        related_request_id: RequestId | None = None,
    ) -> None:
        """Send a notification; a task has no stream that would carry it, and drops it."""
        if self.task is None:
            await self._before.send_notification(notification, related_request_id)

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress: as the task's status message."""
        if self.task is None:
            await self._before.report_progress(progress, total, message)
        else:
            so_far = f"{progress:g}" if total is None else f"{progress:g}/{total:g}"
            self.task.report(so_far if message is None else f"{message} ({so_far})")

    async def send_log_message(
        self,
        level: LoggingLevel,
        data: Any,
        logger: str | None = None,
        related_request_id: RequestId | None = None,
    ) -> None:
        """Send a log message; one of a task has nowhere to go, and is dropped."""
        if self.task is None:
            await self._before.send_log_message(level, data, logger, related_request_id)  # pyright: ignore[reportDeprecated]
