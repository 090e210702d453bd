"""All tasks of a server, job tasks and function tasks: read, followed, answered, cancelled.

Every method that takes a task id checks the principal. For other principals, a task does not exist.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from supervisor import log
from supervisor.errors import JobElsewhere, JobNotFound, StateCorrupt, SupervisorError
from supervisor.mcp_server.access.principals import may_see, own_labels
from supervisor.mcp_server.series import last_attempt
from supervisor.mcp_server.tasks import refusals
from supervisor.mcp_server.tasks.functions import FunctionTask
from supervisor.mcp_server.tasks.jobs import Render, ends_with_result, spoilt, task_of
from supervisor.mcp_server.tasks.records import Made, TaskRecords
from supervisor.mcp_server.tasks.state import Task
from supervisor.model import Job
from supervisor.store import is_job_id

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["Runtime"]

_CANCEL_SECONDS: Final = 0.5
"""How long a cancel request waits for the end, so that its answer usually has the final state."""
_MAX_SLEEP_SECONDS: Final = 86400
_PAGE: Final = 50
_CURSOR: Final = re.compile(r"f:(?P<functions>[0-9]{1,20})|j:(?P<jobs>[0-9]{1,20})", re.ASCII)


class Runtime:
    """The tasks of one server, over an open supervisor.

    Attributes:
        supervisor: the supervisor of job tasks.
        nursery: the nursery of function tasks.
    """

    def __init__(self, supervisor: Supervisor, nursery: trio.Nursery, records: TaskRecords, render: Render) -> None:
        self.supervisor = supervisor
        self.nursery = nursery
        self._render = render
        self._records = records
        self._functions: dict[str, FunctionTask] = {}
        self._expiries: list[tuple[int, str]] = []
        self._expiring = trio.Event()

    # ------------------------------------------------------------ reading

    async def get(self, task_id: str, principal: str | None) -> Task:
        """Return the current state of a task.

        Raises:
            MCPError: there is no such task for ``principal``.
        """
        function = self._functions.get(task_id)
        if function is not None:
            self._check(function.made, principal)
            await trio.lowlevel.checkpoint()
            return function.task()
        made = self._records.find(task_id)
        if made is not None:
            self._check(made, principal)
            await trio.lowlevel.checkpoint()
            return await self._records.write(partial(self._records.observe, made))
        task = await self._job_task(await last_attempt(self.supervisor, await self._job(task_id, principal)))
        return task if task.task_id == task_id else attrs.evolve(task, task_id=task_id)

    async def _job(self, task_id: str, principal: str | None) -> Job:
        if not is_job_id(task_id):
            raise refusals.no_such_task(task_id)
        try:
            job = await self.supervisor.status(task_id)
        except JobNotFound:
            raise refusals.no_such_task(task_id) from None
        if not may_see(principal, job):
            raise refusals.no_such_task(task_id)
        return job

    async def _job_task(self, job: Job) -> Task:
        if not ends_with_result(job):
            return task_of(job)
        try:
            result = await self.supervisor.result(job.job_id)
        except JobNotFound:  # it was consumed or has expired
            raise refusals.no_such_task(job.job_id) from None
        except StateCorrupt as error:
            return task_of(job, spoilt(error, job))
        return task_of(result.job, self._render(result))

    def _check(self, made: Made, principal: str | None) -> None:
        if (principal is not None and principal != made.principal) or made.expired(self._records.now_ns()):
            raise refusals.no_such_task(made.task_id)

    async def page(self, principal: str | None, cursor: str | None) -> tuple[list[Task], str | None]:
        """Return a page of tasks that ``principal`` may access, and the next cursor.

        Function tasks come first, and newer tasks before older ones.

        Raises:
            MCPError: the cursor is not valid.
        """
        if cursor is None:
            return await self._page_of_functions(principal, None)
        match = _CURSOR.fullmatch(cursor)
        if match is not None and match["functions"] is not None:
            return await self._page_of_functions(principal, int(match["functions"]))
        if match is not None:
            return await self._page_of_jobs(principal, match["jobs"])
        raise MCPError(INVALID_PARAMS, f"cursor is {cursor!r:.80}; it must be the nextCursor of an earlier page")

    async def _page_of_functions(self, principal: str | None, before: int | None) -> tuple[list[Task], str | None]:
        found, more = await trio.to_thread.run_sync(self._recorded, principal, before)
        tasks = [self._functions[task.task_id].task() if task.task_id in self._functions else task for task in found]
        if more:
            return tasks, f"f:{tasks[-1].created_ns}"
        jobs, following = await self._page_of_jobs(principal, None)
        return tasks + jobs, following

    def _recorded(self, principal: str | None, before: int | None) -> tuple[list[Task], bool]:
        """Read a page of function tasks from the disk, in a thread; return also whether there are more."""
        mine = [
            made
            for made in self._records.all()
            if principal in {None, made.principal} and (before is None or made.created_ns < before)
        ]
        mine.sort(key=lambda made: made.created_ns, reverse=True)
        return [self._records.observe(made) for made in mine[:_PAGE]], len(mine) > _PAGE

    async def _page_of_jobs(self, principal: str | None, cursor: str | None) -> tuple[list[Task], str | None]:
        try:
            page = await self.supervisor.list(limit=_PAGE, cursor=cursor, labels=own_labels(principal))
        except SupervisorError as error:
            raise MCPError(INVALID_PARAMS, error.message) from None
        return [task_of(job) for job in page.jobs], None if page.next_cursor is None else f"j:{page.next_cursor}"

    # ------------------------------------------------------------ following

    async def follow(self, task_id: str, principal: str | None, notify: Callable[[Task], Awaitable[object]]) -> None:
        """Call ``notify`` with the current state of a task, then after changes, until it has ended.

        Changes during a call of ``notify`` are merged.

        Raises:
            MCPError: the task does not exist, or was deleted.
        """
        function = self._functions.get(task_id)
        if function is not None:
            self._check(function.made, principal)
            while True:
                changed, task = function.changed, function.task()
                await notify(task)
                if task.status.terminal:
                    return
                await changed.wait()
        if self._records.find(task_id) is not None:  # it has ended, or is run by another process
            await notify(await self.get(task_id, principal))
            return
        shown: Task | None = None
        try:
            while shown is None or not shown.status.terminal:
                job = await last_attempt(self.supervisor, await self._job(task_id, principal))
                async with self.supervisor.events(job.job_id) as events:
                    ended = job.status.terminal
                    while True:
                        before, shown = shown, await self.get(task_id, principal)
                        if shown != before:
                            await notify(shown)
                        if ended or shown.status.terminal:
                            break
                        ended = (await anext(events)).status.terminal  # another attempt may follow
        except (JobNotFound, JobElsewhere, StopAsyncIteration):
            return

    async def ended(
        self, task_id: str, principal: str | None, meanwhile: Callable[[FunctionTask], Awaitable[None]]
    ) -> Task:
        """Wait for the end of a task and return it; call ``meanwhile`` with a function task before each wait."""
        task = await self.get(task_id, principal)
        function = self._functions.get(task_id)
        while function is not None and not task.status.terminal:
            changed = function.changed
            await meanwhile(function)
            await changed.wait()
            task = function.task()
        if not task.status.terminal and self._records.find(task_id) is None:
            try:
                await self.supervisor.wait(task_id)
            except JobNotFound:
                raise refusals.no_such_task(task_id) from None
            task = await self.get(task_id, principal)
        if not task.status.terminal:
            raise refusals.elsewhere(task_id, "wait for it")
        return task

    # ------------------------------------------------------------ changing

    async def begin(
        self, tool: str, principal: str | None, ttl_ms: int | None, scope: trio.CancelScope
    ) -> FunctionTask:
        """Create and record a function task; ``scope`` is around the function.

        Raises:
            StateFull, PermissionDenied: it cannot be recorded.
        """
        longest = round(self.supervisor.settings.job_ttl * 1000)
        lasts_ms = longest if ttl_ms is None else min(ttl_ms, longest)
        made = await self._records.write(partial(self._records.make, tool, principal, lasts_ms))
        function = self._functions[made.task_id] = FunctionTask(made, self._records, scope)
        self._schedule_expiry(made)
        return function

    def finished(self, function: FunctionTask) -> None:
        """Read a function task from its record from now on."""
        self._functions.pop(function.made.task_id, None)

    async def update(self, task_id: str, principal: str | None, responses: Mapping[str, Any]) -> None:
        """Pass answers to the questions of a task; ignore them if it has no open questions.

        Raises:
            MCPError: there is no such task, it is run by another process, or an answer does not fit.
        """
        function = self._functions.get(task_id)
        if function is None:
            task = await self.get(task_id, principal)
            if not task.status.terminal and self._records.find(task_id) is not None:
                raise refusals.elsewhere(task_id, "answer its questions")
            return
        self._check(function.made, principal)
        await trio.lowlevel.checkpoint()
        function.answer(responses)

    async def cancel(self, task_id: str, principal: str | None) -> Task:
        """Cancel a task, and return its state shortly after; a task that has ended is returned unchanged.

        Cancellation of this call does not withdraw the request.

        Raises:
            MCPError: there is no such task, or another process runs it.
        """
        function = self._functions.get(task_id)
        if function is not None:
            self._check(function.made, principal)
            function.cancel()
            with trio.move_on_after(_CANCEL_SECONDS):
                while not function.task().status.terminal:
                    await function.changed.wait()
            return function.task()
        task = await self.get(task_id, principal)
        if task.status.terminal:
            return task
        if self._records.find(task_id) is not None:
            raise refusals.elsewhere(task_id, "cancel it")
        with trio.move_on_after(_CANCEL_SECONDS):
            await self._cancel_job(task_id)
        return await self.get(task_id, principal)

    async def _cancel_job(self, job_id: str) -> None:
        problem: list[MCPError] = []
        done = trio.Event()

        async def stop() -> None:  # in another Trio task than the request, whose cancellation must not withdraw it
            try:
                await self.supervisor.cancel(job_id)
            except JobNotFound:
                problem.append(refusals.no_such_task(job_id))
            except SupervisorError as error:
                problem.append(MCPError(INTERNAL_ERROR, error.message))
            done.set()

        self.nursery.start_soon(stop)
        await done.wait()
        if problem:
            raise problem[0]

    # ------------------------------------------------------------ expiry

    def _schedule_expiry(self, made: Made) -> None:
        if made.expires_ns is not None:
            heapq.heappush(self._expiries, (made.expires_ns, made.task_id))
            self._expiring.set()
            self._expiring = trio.Event()

    async def expire(self) -> None:
        """Delete function tasks when they expire, and stop their functions."""
        for made in await trio.to_thread.run_sync(self._sweep):
            self._schedule_expiry(made)
        while True:
            left = math.inf if not self._expiries else (self._expiries[0][0] - self._records.now_ns()) / 1e9
            if left > 0:
                with trio.move_on_after(min(left, _MAX_SLEEP_SECONDS)):
                    await self._expiring.wait()
                continue
            _, task_id = heapq.heappop(self._expiries)
            function = self._functions.pop(task_id, None)
            if function is not None:
                function.expire()
            with contextlib.suppress(SupervisorError):  # it is not shown any more; the next server deletes it
                self._records.forget(task_id)
            await trio.lowlevel.checkpoint()

    def _sweep(self) -> list[Made]:
        try:
            return list(self._records.all())
        except SupervisorError as error:
            log.warning("mcp_tasks_not_swept", error=str(error))
            return []
