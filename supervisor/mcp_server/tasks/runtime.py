"""All tasks that a server answers for, whatever stands behind them: asked, followed, answered, cancelled.

Every way in takes a principal and checks it. A task of somebody else is answered for as one that
does not exist.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio
from mcp.shared.exceptions import MCPError

from supervisor import log
from supervisor.errors import JobElsewhere, JobNotFound, StateCorrupt, SupervisorError
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL, may_see
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
"""How long the answer to a cancel waits, so that what stops quickly is seen as stopped by the next question."""
_LONGEST_SLEEP_SECONDS: Final = 86400
_PAGE: Final = 50
_CURSOR: Final = re.compile(r"f:(?P<functions>[0-9]{1,20})|j:(?P<jobs>[0-9]{1,20})", re.ASCII)


class Runtime:
    """The tasks of one server, over an open supervisor.

    Attributes:
        supervisor: whose jobs are tasks.
        nursery: where functions run.
    """

    def __init__(self, supervisor: Supervisor, nursery: trio.Nursery, records: TaskRecords, render: Render) -> None:
        """Keep what is given."""
        self.supervisor = supervisor
        self.nursery = nursery
        self._render = render
        self._records = records
        self._functions: dict[str, FunctionTask] = {}
        self._expiries: list[tuple[int, str]] = []
        self._expiring = trio.Event()

    # ------------------------------------------------------------ asking

    async def get(self, task_id: str, principal: str | None) -> Task:
        """Return a task as it is now.

        Raises:
            MCPError: there is none that ``principal`` may see.
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
            return self._records.seen(made)
        return await self._job_task(await self._job(task_id, principal))

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
        except JobNotFound:  # consumed or expired since
            raise refusals.no_such_task(job.job_id) from None
        except StateCorrupt as error:
            return task_of(job, spoilt(error, job))
        return task_of(result.job, self._render(result))

    def _check(self, made: Made, principal: str | None) -> None:
        if (principal is not None and principal != made.principal) or made.expired(self._records.now_ns()):
            raise refusals.no_such_task(made.task_id)

    async def page(self, principal: str | None, cursor: str | None) -> tuple[list[Task], str | None]:
        """Return some tasks that ``principal`` may see, function tasks first, newest first; and the next cursor.

        Raises:
            MCPError: the cursor is none of ours.
        """
        if cursor is None:
            return await self._page_of_functions(principal, None)
        match = _CURSOR.fullmatch(cursor)
        if match is not None and match["functions"] is not None:
            return await self._page_of_functions(principal, int(match["functions"]))
        if match is not None:
            return await self._page_of_jobs(principal, match["jobs"])
        message = f"cursor is {cursor!r:.80}; it must be the nextCursor of an earlier page"
        raise refusals.invalid(message)

    async def _page_of_functions(self, principal: str | None, before: int | None) -> tuple[list[Task], str | None]:
        found, more = await trio.to_thread.run_sync(self._recorded, principal, before)
        tasks = [self._functions[task.task_id].task() if task.task_id in self._functions else task for task in found]
        if more:
            return tasks, f"f:{tasks[-1].created_ns}"
        jobs, following = await self._page_of_jobs(principal, None)
        return tasks + jobs, following

    def _recorded(self, principal: str | None, before: int | None) -> tuple[list[Task], bool]:
        """Read a page of function tasks from the disk, in a thread; say whether there are more."""
        mine = [
            made
            for made in self._records.all()
            if principal in {None, made.principal} and (before is None or made.created_ns < before)
        ]
        mine.sort(key=lambda made: made.created_ns, reverse=True)
        return [self._records.seen(made) for made in mine[:_PAGE]], len(mine) > _PAGE

    async def _page_of_jobs(self, principal: str | None, cursor: str | None) -> tuple[list[Task], str | None]:
        labels = None if principal is None else {PRINCIPAL_LABEL: principal}
        try:
            page = await self.supervisor.list(limit=_PAGE, cursor=cursor, labels=labels)
        except SupervisorError as error:
            raise refusals.invalid(error.message) from None
        return [task_of(job) for job in page.jobs], None if page.next_cursor is None else f"j:{page.next_cursor}"

    # ------------------------------------------------------------ following

    async def follow(self, task_id: str, principal: str | None, tell: Callable[[Task], Awaitable[object]]) -> None:
        """Tell of a task as it is now, then of every change, until it has ended; unread changes are merged.

        Raises:
            MCPError: there is no such task, or none any more.
        """
        function = self._functions.get(task_id)
        if function is not None:
            self._check(function.made, principal)
            while True:
                changed, task = function.changed, function.task()
                await tell(task)
                if task.status.terminal:
                    return
                await changed.wait()
        if self._records.find(task_id) is not None:  # it has ended, or is run by another process
            await tell(await self.get(task_id, principal))
            return
        await self._job(task_id, principal)
        try:
            async with self.supervisor.events(task_id) as events:
                task = await self.get(task_id, principal)
                await tell(task)
                while not task.status.terminal:
                    await anext(events)
                    before, task = task, await self.get(task_id, principal)
                    if task != before:
                        await tell(task)
        except (JobNotFound, JobElsewhere, StopAsyncIteration):
            return

    async def ended(
        self,
        task_id: str,
        principal: str | None,
        meanwhile: Callable[[FunctionTask], Awaitable[None]],
    ) -> Task:
        """Wait for the end of a task and return it; ``meanwhile`` is given a function task before each wait."""
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

    # ------------------------------------------------------------ doing

    def begin(self, tool: str, principal: str | None, ttl_ms: int | None, scope: trio.CancelScope) -> FunctionTask:
        """Make a function task; ``scope`` is around the function. It is on record when this returns.

        Raises:
            StateFull, PermissionDenied: it cannot be recorded.
        """
        longest = round(self.supervisor.settings.job_ttl * 1000)
        made = self._records.make(tool, principal, longest if ttl_ms is None else min(ttl_ms, longest))
        function = self._functions[made.task_id] = FunctionTask(made, self._records, scope)
        self._expect(made)
        return function

    def finished(self, function: FunctionTask) -> None:
        """Answer for a function task from its record from now on."""
        self._functions.pop(function.made.task_id, None)

    async def update(self, task_id: str, principal: str | None, responses: Mapping[str, Any]) -> None:
        """Give a task answers to its questions; to one without open questions that means nothing.

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
        """Ask a task to stop, and return it as it is soon after; one that has ended is returned unchanged.

        Cancelling the call does not take the request back.

        Raises:
            MCPError: there is no such task, or it cannot be stopped from here.
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

        async def stop() -> None:  # not in the task of the request: a client that leaves does not take it back
            try:
                await self.supervisor.cancel(job_id)
            except JobNotFound:
                problem.append(refusals.no_such_task(job_id))
            except SupervisorError as error:
                problem.append(refusals.internal(error.message))
            done.set()

        self.nursery.start_soon(stop)
        await done.wait()
        if problem:
            raise problem[0]

    # ------------------------------------------------------------ forgetting

    def _expect(self, made: Made) -> None:
        if made.expires_ns is not None:
            heapq.heappush(self._expiries, (made.expires_ns, made.task_id))
            self._expiring.set()
            self._expiring = trio.Event()

    async def expire(self) -> None:
        """Forget function tasks when their time is over; a function that still runs then is stopped."""
        for made in await trio.to_thread.run_sync(self._sweep):
            self._expect(made)
        while True:
            left = math.inf if not self._expiries else (self._expiries[0][0] - self._records.now_ns()) / 1e9
            if left > 0:
                with trio.move_on_after(min(left, _LONGEST_SLEEP_SECONDS)):
                    await self._expiring.wait()
                continue
            _, task_id = heapq.heappop(self._expiries)
            function = self._functions.pop(task_id, None)
            if function is not None:
                function.expire()
            with contextlib.suppress(SupervisorError):  # it is not shown any more; the next server tries again
                self._records.forget(task_id)
            await trio.lowlevel.checkpoint()

    def _sweep(self) -> list[Made]:
        try:
            return list(self._records.all())
        except SupervisorError as error:
            log.warning("mcp_tasks_not_swept", error=str(error))
            return []
