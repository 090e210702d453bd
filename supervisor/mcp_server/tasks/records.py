"""The files of function tasks: their creation and their end.

::

    <state root>/.tasks/<task id>/      0700, created, checked and deleted as a job directory is
      job.json                          written once, before the answer with the task
      end.json                          written once, by the process that knows the end first

The states in between are in the memory of the function's process. If that process dies, the next process
that reads the task finds its owner gone, and records that the task failed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import trio
from mcp_types import INTERNAL_ERROR

from supervisor.jobdir import records
from supervisor.mcp_server.tasks.state import Status, Task
from supervisor.store import Layout, is_job_id
from supervisor.store.rows import dump
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import TASKS, new_job_id

__all__ = ["Made", "TaskRecords"]

_T = TypeVar("_T")

_END: Final = "end.json"
_POLL_MS: Final = 1000
_SERVER_GONE: Final = "The server that ran this task ended before the task did; how far the task was is unknown"


@attrs.frozen(slots=True, kw_only=True)
class Made:
    """The record of a function task's creation.

    Attributes:
        task_id: 32 lowercase hex digits.
        tool: the name of the tool.
        principal: the principal of the request; ``None`` is the owner of the state root.
        created_ns: the time of creation, in wall-clock nanoseconds since the epoch.
        ttl_ms: the time to live from then on in milliseconds; ``None`` for no limit.
        owner: the process that runs it, by its name in the state root.
    """

    task_id: str
    tool: str
    principal: str | None
    created_ns: int
    ttl_ms: int | None
    owner: str

    @property
    def expires_ns(self) -> int | None:
        """The time when it expires, in the unit of ``created_ns``."""
        return None if self.ttl_ms is None else self.created_ns + self.ttl_ms * 1_000_000

    def expired(self, now_ns: int) -> bool:
        """Whether it has expired."""
        return self.expires_ns is not None and self.expires_ns <= now_ns

    def task(self, status: Status, updated_ns: int, *, result: Mapping[str, Any] | None = None, **others: Any) -> Task:
        """Return the task in the state that the arguments describe."""
        return Task(
            task_id=self.task_id,
            status=status,
            created_ns=self.created_ns,
            updated_ns=updated_ns,
            ttl_ms=self.ttl_ms,
            poll_ms=_POLL_MS,
            result=result,
            is_error=bool(result is not None and result.get("isError")),
            **others,
        )


class TaskRecords:
    """The function tasks of one state root; this process is registered as an owner of tasks.

    The files are small, so every call reads and writes them without a thread, unless they are durable: then ``write``
    has a call wait for the disk in one.

    Args:
        state_dir: the state root.
        durable: whether a creation and an end are on the disk before they are told.

    Raises:
        StateUnsafe, PermissionDenied, StateFull: the state root cannot be used.
    """

    def __init__(self, state_dir: Path, *, durable: bool = False) -> None:
        self._layout = Layout(state_dir, durable=durable)
        self.owner = self._layout.owners.register()

    async def write(self, function: Callable[[], _T]) -> _T:
        """Call ``function``, which writes, in a thread if it waits for the disk; it is not cancelled."""
        if not self._layout.durable:
            return function()
        with trio.CancelScope(shield=True):  # as long as the disk takes
            return await trio.to_thread.run_sync(function)
        raise AssertionError  # type checkers take it that a scope may end its block; nothing cancels this one

    def close(self) -> None:
        """Remove the registration of this process."""
        self._layout.owners.unregister(self.owner)

    def now_ns(self) -> int:
        """Return the time by which tasks expire: the state root's, which does not jump with the wall clock."""
        return self._layout.clock.now_ns()

    def make(self, tool: str, principal: str | None, ttl_ms: int | None) -> Made:
        """Create a task. Once this has returned, every process finds it, also after a crash.

        Raises:
            StateFull, PermissionDenied: it cannot be recorded, and does not exist.
        """
        made = Made(
            task_id=new_job_id(),
            tool=tool,
            principal=principal,
            created_ns=time.time_ns(),
            ttl_ms=ttl_ms,
            owner=self.owner,
        )
        record = {"v": records.VERSION, **attrs.asdict(made)}
        self._layout.make_job(TASKS, made.task_id, dump(record).encode("ascii"))
        return made

    def find(self, task_id: str) -> Made | None:
        """Return an existing task; ``None`` if there is none or its record is not valid."""
        if not is_job_id(task_id) or not self._layout.is_sound(TASKS, task_id):
            return None
        made = self._read(task_id)
        return None if made is None or made.expired(self.now_ns()) else made

    def _read(self, task_id: str) -> Made | None:
        record = records.read(self._directory(task_id), records.JOB) or {}
        try:
            return Made(
                task_id=task_id,
                tool=str(record["tool"]),
                principal=None if record["principal"] is None else str(record["principal"]),
                created_ns=int(record["created_ns"]),
                ttl_ms=None if record["ttl_ms"] is None else int(record["ttl_ms"]),
                owner=str(record["owner"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def end(self, made: Made, status: Status, **others: Any) -> Task:
        """Record the end of a task; return the recorded end, which another process may have written first.

        Raises:
            StateFull, PermissionDenied: it cannot be recorded.
        """
        record: dict[str, object] = {"status": status.value, "updated_ns": time.time_ns(), **others}
        try:
            records.create(self._directory(made.task_id), _END, record, durable=self._layout.durable)
        except OSError as error:
            raise state_error(error, "cannot record the end of a task") from error
        return self._ended(made) or made.task(status, time.time_ns(), **others)

    def observe(self, made: Made) -> Task:
        """Return the recorded state of a task; if its process is gone, record that it failed."""
        ended = self._ended(made)
        if ended is None and self._layout.owners.is_alive(made.owner):
            return made.task(Status.WORKING, made.created_ns)
        if ended is None:  # its process may have recorded the end since
            ended = self._ended(made) or self.end(
                made, Status.FAILED, message=_SERVER_GONE, error={"code": INTERNAL_ERROR, "message": _SERVER_GONE}
            )
        return ended

    def forget(self, task_id: str) -> None:
        """Delete a task; the janitor of the state root deletes its remaining files."""
        self._layout.discard(TASKS, task_id)

    def all(self) -> Iterator[Made]:
        """Yield every existing task; delete expired ones."""
        try:
            names = os.listdir(f"{self._layout.root}/{TASKS}")
        except OSError:  # usually because there never was a task
            return
        for name in names:
            made = self.find(name)
            if made is not None:
                yield made
            elif is_job_id(name) and (found := self._read(name)) is not None and found.expired(self.now_ns()):
                self.forget(name)

    def _directory(self, task_id: str) -> str:
        return self._layout.job(TASKS, task_id)

    def _ended(self, made: Made) -> Task | None:
        record = records.read(self._directory(made.task_id), _END)
        if record is None:
            return None
        try:
            return made.task(
                Status(record["status"]),
                int(record["updated_ns"]),
                message=record.get("message"),
                result=record.get("result"),
                error=record.get("error"),
            )
        except (KeyError, TypeError, ValueError):
            message = "The record of the end of this task is damaged"
            error = {"code": INTERNAL_ERROR, "message": message}
            return made.task(Status.FAILED, made.created_ns, message=message, error=error)
