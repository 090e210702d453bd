"""The session of a tool's function whose call has become a task.

The session of the call cannot be used any more, because its request has been answered. Requests of the
function to the client (``ctx.elicit``, ``ctx.session.create_message``, ``ctx.session.list_roots``) become
questions of the task, and progress becomes its status message. So a function works the same as a task.
"""

from __future__ import annotations

from typing import Any, TypeVar

from mcp.server.session import ServerSession
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    INTERNAL_ERROR,
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
    """The session of a call until the call becomes a task, then the session of the task.

    The base class is not initialised, because all methods that use its state are overridden.
    """

    def __init__(self, session: ServerSession) -> None:
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
        """Whether requests are possible: always for a task, if the client has declared the capability."""
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
        """Send a request to the client and wait for its answer, without a time limit.

        Raises:
            MCPError: the client has not declared the capability, or it refuses.
        """
        if self.task is None:
            return await self._before.send_request(
                request, result_type, request_read_timeout_seconds, metadata, progress_callback
            )
        needed = _NEEDS.get(request.method)
        if needed is None:
            raise MCPError(INTERNAL_ERROR, f"A task cannot send {request.method} to its client")
        declared = self.client_capabilities
        if declared is None or getattr(declared, needed) is None:
            raise refusals.missing_capability({needed: {}}, needed)
        shape = request.model_dump(by_alias=True, mode="json", exclude_none=True)
        return result_type.model_validate(await self.task.ask(shape), by_name=False)

    async def send_notification(
        self, notification: ServerNotification, related_request_id: RequestId | None = None
    ) -> None:
        """Send a notification; that of a task is dropped, because the task has no stream."""
        if self.task is None:
            await self._before.send_notification(notification, related_request_id)

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress; that of a task becomes its status message."""
        if self.task is None:
            await self._before.report_progress(progress, total, message)
        else:
            so_far = f"{progress:g}" if total is None else f"{progress:g}/{total:g}"
            self.task.report(so_far if message is None else f"{message} ({so_far})")

    async def send_log_message(
        self, level: LoggingLevel, data: Any, logger: str | None = None, related_request_id: RequestId | None = None
    ) -> None:
        """Send a log message; that of a task is dropped, because the task has no stream."""
        if self.task is None:
            await self._before.send_log_message(level, data, logger, related_request_id)  # pyright: ignore[reportDeprecated]
