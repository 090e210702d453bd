"""``notifications/progress`` of a call that waits for a job, for a caller who has given a progress token.

A notification says in words what the job does: its turn, tool and tokens, or what it waits for and how many jobs are
ahead. There is one at the begin, and one after each change: at most one a second, and never two under way, so where a
caller does not read, those between are left out. None follows the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Final

import trio

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.jobs.words import outcome, progress, waiting
from supervisor.mcp_server.changes import Changes
from supervisor.mcp_server.series import last_attempt
from supervisor.mcp_server.tools.tool import Call
from supervisor.model import Job, JobEvent
from supervisor.system.observing import NotKnown

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["Reporter"]

_BETWEEN_SECONDS: Final = 1.0
_STEP: Final = 0.001
"""What two values of the progress differ by at least: seconds of this call, to the millisecond."""
_MAX_TEXT: Final = 200


class Reporter:
    """Reports the progress of jobs.

    Args:
        changes: tell when the place of a waiting job may be another.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    async def report(self, call: Call, supervisor: Supervisor, job: Job) -> None:
        """Report on a job and its further attempts until the last one has ended, or the call is cancelled."""
        if not isinstance((call.context.meta or {}).get("progress_token"), str | int):
            return
        report = _Report(call)
        try:
            job = await last_attempt(supervisor, job)
            while not job.status.terminal and await _Following(supervisor, self._changes, report).follow(job):
                job = await last_attempt(supervisor, await supervisor.status(job.job_id))
        except (SupervisorError, NotKnown):  # the wait for the job meets it, too
            pass


class _Report:
    """The notifications for one call."""

    def __init__(self, call: Call) -> None:
        self._session = call.context.session
        self._begun = trio.current_time()
        self._value = 0.0
        self._text: str | None = None

    async def say(self, job: Job) -> None:
        """Send what a job does, unless that is the same as before."""
        text = _activity(job)
        if text == self._text:
            return
        self._text = text
        self._value = max(round(trio.current_time() - self._begun, 3), self._value + _STEP)
        await self._session.report_progress(self._value, message=text)


class _Following:
    """Reports on one attempt of a job."""

    def __init__(self, supervisor: Supervisor, changes: Changes, report: _Report) -> None:
        self._supervisor = supervisor
        self._changes = changes
        self._report = report
        self._news = trio.Event()
        self._has_place = False

    async def follow(self, job: Job) -> bool:
        """Report until the attempt has ended; return false if no report is possible any more."""
        has_ended = False
        async with self._supervisor.events(job.job_id) as events, trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, events)
            nursery.start_soon(self._look)
            try:  # inside of the nursery, which would wrap an error
                await self._say(job.job_id)
                has_ended = True
            except (SupervisorError, NotKnown):  # the wait for the job meets it, too
                pass
            except Exception as error:  # noqa: BLE001  # the wait for the job goes on
                log.warning("mcp_background_failed", error=repr(error))
            nursery.cancel_scope.cancel()
        return has_ended

    async def _say(self, job_id: str) -> None:
        while True:
            news = self._news = trio.Event()
            job = await self._supervisor.status(job_id)
            if job.status.terminal:
                return
            self._has_place = job.queue_reason is not None
            await self._report.say(job)
            await trio.sleep(_BETWEEN_SECONDS)  # also if there was nothing to say: a look costs time, too
            await news.wait()

    async def _hear(self, events: AsyncIterable[JobEvent]) -> None:
        async for _ in events:
            self._news.set()

    async def _look(self) -> None:
        """Look again after each commit while the job waits: there is no event for its place alone."""
        with self._changes.watching() as watch:
            while True:  # the first look is for a change that the watch has not seen
                if self._has_place:
                    self._news.set()
                await watch.next()


def _activity(job: Job) -> str:
    """Return what a job does, or waits for."""
    why, does = waiting(job), progress(job.progress)
    text = f"waiting: {why}" if why is not None else f"{outcome(job)}: {does}" if does else outcome(job)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}\N{HORIZONTAL ELLIPSIS}"
