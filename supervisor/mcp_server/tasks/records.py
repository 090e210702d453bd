"""What is on disk of function tasks: who made one and when, and how it ended.

::

    <state root>/.tasks/<task id>/      0700, laid out, checked and discarded as a job directory is
      job.json                          written once, before anybody is told of the task
      end.json                          written once, by whoever is first to know the end

What happens in between lives with the function, in its process, and dies with it: then whoever asks
next finds the owner gone, and writes the end that is left to write, a failure that says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from supervisor.jobdir import records
from supervisor.mcp_server.tasks.state import Status, Task
from supervisor.store import Layout, is_job_id
from supervisor.store.rows import dump
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import TASKS, new_job_id

__all__ = ["Made", "TaskRecords"]

_END: Final = "end.json"
_POLL_MS: Final = 1000
_SERVER_GONE: Final = "The server that ran this task ended before the task did; what it was doing is unknown"
_INTERNAL_ERROR: Final = -32603


@attrs.frozen(slots=True, kw_only=True)
class Made:
    """A function task as it was made.

    Attributes:
        task_id: 32 lowercase hex digits.
        tool: the name of the tool.
        principal: who made it; ``None`` is the owner of the state root.
        created_ns: wall-clock nanoseconds since the epoch.
        ttl_ms: milliseconds from then on for which it is kept; ``None`` is for good.
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
        """When it is forgotten, likewise."""
        return None if self.ttl_ms is None else self.created_ns + self.ttl_ms * 1_000_000

    def expired(self, now_ns: int) -> bool:
        """Whether its time is over."""
        return self.expires_ns is not None and self.expires_ns <= now_ns

    def task(self, status: Status, updated_ns: int, *, result: Mapping[str, Any] | None = None, **others: Any) -> Task:
        """Return the task at the moment that the arguments describe."""
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
    """The function tasks of one state root. Small files, read and written where they are asked for.

    Raises:
        StateUnsafe, PermissionDenied, StateFull: the state root cannot be used.
    """

    def __init__(self, state_dir: Path) -> None:
        """Check the state root, and announce this process as one that runs tasks."""
        self._layout = Layout(state_dir)
        self.owner = self._layout.owners.register()

    def close(self) -> None:
        """Say that what this process was running is over."""
        self._layout.owners.unregister(self.owner)

    def now_ns(self) -> int:
        """Return the time by which tasks expire: that of the state root, whatever becomes of the wall clock."""
        return self._layout.clock.now_ns()

    def make(self, tool: str, principal: str | None, ttl_ms: int | None) -> Made:
        """Make a task. Once this has returned, it is there for everybody and after every crash of ours.

        Raises:
            StateFull, PermissionDenied: it cannot be written down; there is no task.
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
        """Return a task that is kept; ``None`` for anything else, whatever it looks like."""
        if not is_job_id(task_id) or not self._layout.is_sound(TASKS, task_id):
            return None
        held = records.read(self._directory(task_id), records.JOB) or {}
        try:
            made = Made(
                task_id=task_id,
                tool=str(held["tool"]),
                principal=None if held["principal"] is None else str(held["principal"]),
                created_ns=int(held["created_ns"]),
                ttl_ms=None if held["ttl_ms"] is None else int(held["ttl_ms"]),
                owner=str(held["owner"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return None if made.expired(self.now_ns()) else made

    def end(self, made: Made, status: Status, **others: Any) -> Task:
        """Write down how a task ended, and return how it did: as somebody else said, if they were first.

        Raises:
            StateFull, PermissionDenied: it cannot be written down.
        """
        record: dict[str, object] = {"status": status.value, "updated_ns": time.time_ns(), **others}
        try:
            records.create(self._directory(made.task_id), _END, record)
        except OSError as error:
            raise state_error(error, "cannot write down how a task ended") from error
        return self._ended(made) or made.task(status, time.time_ns(), **others)

    def seen(self, made: Made) -> Task:
        """Return what the disk tells of a task; the end of one whose process is gone is written now."""
        ended = self._ended(made)
        if ended is None and self._layout.owners.is_alive(made.owner):
            return made.task(Status.WORKING, made.created_ns)
        if ended is None:  # its last words may have come between the two looks
            ended = self._ended(made) or self.end(
                made,
                Status.FAILED,
                message=_SERVER_GONE,
                error={"code": _INTERNAL_ERROR, "message": _SERVER_GONE},
            )
        return ended

    def forget(self, task_id: str) -> None:
        """Forget a task; the janitor of the state root deletes what is left of it."""
        self._layout.discard(TASKS, task_id)

    def all(self) -> Iterator[Made]:
        """Yield every task that is kept; forget those whose time is over."""
        now_ns = self.now_ns()
        try:
            names = os.listdir(f"{self._layout.root}/{TASKS}")
        except OSError:  # there never was one, mostly
            return
        for name in names:
            made = self.find(name)
            if made is not None:
                yield made
            elif is_job_id(name) and self._is_over(name, now_ns):
                self.forget(name)

    def _is_over(self, task_id: str, now_ns: int) -> bool:
        held: Mapping[str, Any] = records.read(self._directory(task_id), records.JOB) or {}
        created_ns, ttl_ms = held.get("created_ns"), held.get("ttl_ms")
        if not isinstance(created_ns, int) or not isinstance(ttl_ms, int):
            return False
        return created_ns + ttl_ms * 1_000_000 <= now_ns

    def _directory(self, task_id: str) -> str:
        return self._layout.job(TASKS, task_id)

    def _ended(self, made: Made) -> Task | None:
        held = records.read(self._directory(made.task_id), _END)
        if held is None:
            return None
        try:
            return made.task(
                Status(held["status"]),
                int(held["updated_ns"]),
                message=held.get("message"),
                result=held.get("result"),
                error=held.get("error"),
            )
        except (KeyError, TypeError, ValueError):
            message = "The record of how this task ended is damaged"
            return made.task(
                Status.FAILED,
                made.created_ns,
                message=message,
                error={"code": _INTERNAL_ERROR, "message": message},
            )
