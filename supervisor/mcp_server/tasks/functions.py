"""Function tasks: a tool's function that runs on after its call has been answered.

The function runs in the nursery of the server, so that the end of a connection does not cancel it. Its
questions and its progress are in memory; its creation and its end are recorded, see ``records``. A function
does not survive its process. Its task does, and has then failed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import attrs
import trio
from mcp.server.context import HandlerResult
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitResult,
    ListRootsResult,
)
from pydantic import BaseModel, ValidationError

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.mcp_server.tasks.records import Made, TaskRecords
from supervisor.mcp_server.tasks.state import Status, Task

__all__ = ["FunctionTask", "on_the_wire"]


_ANSWERS: Final[Mapping[str, tuple[type[BaseModel], ...]]] = {
    "elicitation/create": (ElicitResult,),
    "sampling/createMessage": (CreateMessageResult, CreateMessageResultWithTools),
    "roots/list": (ListRootsResult,),
}


def on_the_wire(result: HandlerResult) -> dict[str, Any]:
    """Return a handler's result as JSON values."""
    if isinstance(result, BaseModel):
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dict(result or {})


@attrs.define(eq=False)
class _Question:
    request: dict[str, Any]
    answered: trio.Event = attrs.field(factory=trio.Event)
    answer: dict[str, Any] = attrs.field(factory=dict[str, Any])
    refusal: MCPError | None = None


class FunctionTask:
    """A function task of this process.

    Attributes:
        made: the record of its creation.
        changed: set, and replaced by a new event, at every change.

    Args:
        scope: the cancel scope around the function.
    """

    def __init__(self, made: Made, records: TaskRecords, scope: trio.CancelScope) -> None:
        self.made = made
        self.changed = trio.Event()
        self._records = records
        self._scope = scope
        self._message: str | None = None
        self._updated_ns = made.created_ns
        self._asked: dict[str, _Question] = {}
        self._count = 0
        self._ended: Task | None = None
        self._stop_requested = False
        self._expired = False

    # ------------------------------------------------------------ its state

    def task(self) -> Task:
        """Return the current state of the task."""
        if self._ended is not None:
            return self._ended
        if self._asked:
            return self.made.task(
                Status.INPUT_REQUIRED, self._updated_ns, message=self._message, input_requests=self.questions()
            )
        return self.made.task(Status.WORKING, self._updated_ns, message=self._message)

    def _mark_changed(self) -> None:
        self._updated_ns = max(self._updated_ns + 1, time.time_ns())
        self.changed.set()
        self.changed = trio.Event()

    # ------------------------------------------------------------ for the function

    def report(self, message: str) -> None:
        """Set the status message."""
        self._message = message
        self._mark_changed()

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the client a question, and wait for the answer; until then the task is ``input_required``.

        Each question has a unique key.
        """
        self._count += 1
        key = f"{request['method'].partition('/')[0]}-{self._count}"
        question = self._asked[key] = _Question(request)
        self._mark_changed()
        try:
            await question.answered.wait()
        finally:
            if self._asked.pop(key, None) is not None:  # the wait was cancelled
                self._mark_changed()
        if question.refusal is not None:
            raise question.refusal
        return question.answer

    # ------------------------------------------------------------ for clients

    def answer(self, responses: Mapping[str, Any]) -> None:
        """Accept answers. Answers to questions that are not open are ignored, as the specification says.

        Raises:
            MCPError: an answer does not fit its question, and no answer was accepted.
        """
        fitting = {
            key: _checked(key, self._asked[key].request, given)
            for key, given in responses.items()
            if key in self._asked
        }
        for key, given in fitting.items():
            question = self._asked.pop(key)
            question.answer = given
            question.answered.set()
        if fitting:
            self._mark_changed()

    def questions(self) -> Mapping[str, dict[str, Any]]:
        """Return the open questions."""
        return {key: question.request for key, question in self._asked.items()}

    def refuse(self, key: str, error: MCPError) -> None:
        """Raise ``error`` in the function, where it waits for the answer."""
        question = self._asked.pop(key, None)
        if question is not None:
            question.refusal = error
            question.answered.set()
            self._mark_changed()

    def cancel(self) -> None:
        """Cancel the function."""
        if self._ended is None:
            self._stop_requested = True
            self._scope.cancel()

    def expire(self) -> None:
        """Cancel the function because its task is deleted."""
        self._expired = True
        self.cancel()

    # ------------------------------------------------------------ its end

    async def finish(self, outcome: HandlerResult | MCPError | None, *, cancelled: bool) -> bool:
        """Record the end of the function: a result, an error, or a cancellation.

        Returns ``False`` if the end could not be recorded, and is only in memory.
        """
        self._asked.clear()
        recorded = True
        status, facts = self._end(outcome, cancelled=cancelled)
        try:
            if self._expired:
                self._ended = self.made.task(status, time.time_ns(), **facts)
            else:
                self._ended = await self._records.write(partial(self._records.end, self.made, status, **facts))
        except SupervisorError as error:  # a full disk, for instance: this process still answers for the task
            log.warning("mcp_task_end_not_recorded", task_id=self.made.task_id, error=str(error))
            self._ended = self.made.task(status, time.time_ns(), **facts)
            recorded = False
        self._mark_changed()
        return recorded

    def _end(self, outcome: HandlerResult | MCPError | None, *, cancelled: bool) -> tuple[Status, dict[str, Any]]:
        if cancelled:
            if self._stop_requested:
                return Status.CANCELLED, {"message": "Cancelled at the client's request"}
            message = "The server was shut down before this task had ended"
            return Status.FAILED, {"message": message, "error": {"code": INTERNAL_ERROR, "message": message}}
        if isinstance(outcome, MCPError):
            error = outcome.error.model_dump(by_alias=True, mode="json", exclude_none=True)
            return Status.FAILED, {"message": outcome.message, "error": error}
        return Status.COMPLETED, {"message": None, "result": on_the_wire(outcome)}


def _checked(key: str, request: Mapping[str, Any], given: object) -> dict[str, Any]:
    for model in _ANSWERS[request["method"]]:
        try:
            checked = model.model_validate(given, by_name=False)
        except ValidationError:
            continue
        return checked.model_dump(by_alias=True, mode="json", exclude_none=True)
    message = f"The response to {key!r:.80} is not an answer to {request['method']}; no answer was accepted"
    raise MCPError(INVALID_PARAMS, message)
