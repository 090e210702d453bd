"""A driver in memory that runs jobs as described, or falsifies selected ones."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import trio

from supervisor.load.driver import RUN_LABEL, Refused, Request
from supervisor.load.program import expected_output
from supervisor.model import Job
from supervisor.states import Reason, State

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def wall() -> float:
    """Return the time of day on the machine, by the clock of the event loop."""
    return EPOCH.timestamp() + trio.current_time()


@attrs.define(eq=False)
class Running:
    """A job, and how it ends."""

    job: Job
    ends: float
    outcome: Mapping[str, Any]
    output: bytes
    number: int
    waits: bool = False
    stopped: trio.Event = attrs.field(factory=trio.Event)


class Liar:
    """A driver. ``lies`` maps the numbers of falsified jobs to the kind of lie; 0 is the trial job."""

    same_machine = True

    def __init__(
        self,
        lies: Mapping[int, str] | None = None,
        *,
        keeps_jobs: bool = True,
        slow: float = 0,
        slots: int | None = None,
        limit: int | None = None,
    ) -> None:
        """Make a driver whose jobs wait for one of ``slots``, and which claims that ``limit`` is their number."""
        self.facts: dict[str, Any] = {"kind": "liar"}
        if limit is not None:
            self.facts |= {"group": "g", "limit": limit}
        self.slots = None if slots is None else trio.Semaphore(slots)
        self.keeps_jobs = keeps_jobs
        self.lies = {} if lies is None else lies
        self.jobs: dict[str, Running] = {}
        self.requests: list[tuple[float, Request]] = []
        self.slow = slow
        self.most_running = 0
        self.enough = trio.Event()
        """Set when eight jobs have been asked for, the trial job beside."""
        self._ids = (f"{number:032x}" for number in itertools.count(1))

    async def start(self, request: Request) -> Job:
        self.requests.append((trio.current_time(), request))
        if len(self.requests) > 8:
            self.enough.set()
        await trio.sleep(self.slow)
        _, _, _, _, tag, marks, seconds, before, after, stderr, exit_code, _ = request.argv
        number = int(tag.rpartition("-")[2])
        lie = self.lies.get(number, "")
        if lie in {"refuse", "refuse and run", "refuse and keep"}:
            if lie == "refuse and run":
                self._mark(marks, tag, "+")
            if lie == "refuse and keep":
                self._make(request, number)
            message = "there is no room"
            raise Refused(message, code="state_full")
        if lie == "no answer":
            self._make(request, number)
            message = "broken"
            raise Refused(message, code="connection", certain=False)
        running = self._make(request, number)
        self._mark(marks, tag, "" if lie == "never runs" else "++" if lie == "runs twice" else "+")
        length = min(float(seconds), request.deadline_seconds)
        if length < float(seconds):
            running.outcome = {"status": State.TIMEOUT, "reason": Reason.DEADLINE, "signal": 15}
        elif exit_code != "0":
            running.outcome = {"status": State.FAILED, "reason": Reason.NONZERO_EXIT, "exit_code": int(exit_code)}
        running.output = expected_output(tag, int(before), 0 if length < float(seconds) else int(after))
        running.ends = trio.current_time() + length
        running.outcome = {**running.outcome, "stderr_bytes": int(stderr), "result_available": True}
        if running.outcome["status"] in {State.DONE, State.FAILED} and lie != "cut short" and float(seconds) < 3600:
            self._mark(marks, tag, "-")
        self._lie(running, lie)
        if self.slots is not None:
            running.waits = True
            running.job = attrs.evolve(running.job, status=State.QUEUED, started_at=None)
        if lie == "same id":
            return attrs.evolve(running.job, job_id=f"{2:032x}")
        return running.job

    def _make(self, request: Request, number: int) -> Running:
        now = EPOCH + timedelta(seconds=trio.current_time())
        job = Job(
            job_id=next(self._ids),
            kind="raw",
            status=State.RUNNING,
            workspace="/",
            argv=request.argv,
            labels={RUN_LABEL: request.run},
            created_at=now,
            started_at=now,
            deadline_at=now + timedelta(seconds=request.deadline_seconds),
        )
        done = {"status": State.DONE, "reason": Reason.EXITED, "exit_code": 0}
        running = self.jobs[job.job_id] = Running(job, trio.current_time(), done, b"", number)
        self.most_running = max(self.most_running, sum(not each.job.status.terminal for each in self.jobs.values()))
        return running

    @staticmethod
    def _lie(running: Running, lie: str) -> None:
        wrong: dict[str, dict[str, Any]] = {
            "other state": {"status": State.FAILED, "reason": Reason.NONZERO_EXIT, "exit_code": 1},
            "other exit": {"exit_code": 5},
            "lost": {"status": State.FAILED, "reason": Reason.LOST, "exit_code": None},
            "short stderr": {"stderr_bytes": 1},
            "done": {"status": State.DONE, "reason": Reason.EXITED, "exit_code": 0},
        }
        running.outcome = {**running.outcome, **wrong.get(lie, {})}
        if lie == "early":
            running.ends = trio.current_time()
        if lie == "short output":
            running.output = running.output[:-1]
        if lie == "mixed output":
            running.output = running.output.replace(b"-", b"+")
        if lie == "hangs":
            running.ends = float("inf")

    @staticmethod
    def _mark(marks: str, tag: str, signs: str) -> None:
        if marks:
            with Path(marks).open("a", encoding="ascii") as file:
                file.writelines(f"{tag} {sign} 1\n" for sign in signs)

    def _end(self, running: Running, **outcome: Any) -> Job:
        if not running.job.status.terminal:
            ended = EPOCH + timedelta(seconds=trio.current_time())
            running.job = attrs.evolve(running.job, completed_at=ended, **{**running.outcome, **outcome})
        return running.job

    def _find(self, job_id: str) -> Running:
        running = self.jobs.get(job_id)
        if running is None or self.lies.get(running.number) == "forgets":
            message = f"there is no job {job_id}"
            raise Refused(message, code="job_not_found")
        return running

    async def wait(self, job_id: str, seconds: float) -> Job:
        running = self._find(job_id)
        if running.waits:
            assert self.slots is not None
            until = trio.current_time() + seconds
            with trio.move_on_at(until):
                await self.slots.acquire()
                running.waits = False
                length = running.ends - (running.job.created_at - EPOCH).total_seconds()
                running.ends = trio.current_time() + length
                now = EPOCH + timedelta(seconds=trio.current_time())
                running.job = attrs.evolve(running.job, status=State.RUNNING, started_at=now)
            if running.waits:
                return running.job
            seconds = until - trio.current_time()
        with trio.move_on_after(min(seconds, max(0, running.ends - trio.current_time()))):
            await running.stopped.wait()
        if trio.current_time() < running.ends:
            return running.job
        if self.slots is not None:
            self.slots.release()
        return self._end(running)

    async def cancel(self, job_id: str) -> Job:
        running = self._find(job_id)
        lie = self.lies.get(running.number, "")
        await trio.sleep(0.25)
        cancelled = {"status": State.CANCELLED, "reason": Reason.CANCELLED, "exit_code": None}
        running.output = running.output[: len(running.output) // 2]
        running.stopped.set()
        return self._end(running, **({} if lie == "done" else cancelled))

    async def fetch(self, job: Job) -> bytes:
        await trio.lowlevel.checkpoint()
        running = self._find(job.job_id)
        if not self.keeps_jobs:
            del self.jobs[job.job_id]
        return running.output

    async def listed(self, run: str) -> AsyncIterator[Job]:
        await trio.lowlevel.checkpoint()
        if self.lies.get(-1) == "no list":
            message = "broken"
            raise Refused(message, code="connection", certain=False)
        for running in list(self.jobs.values()):
            if running.job.labels[RUN_LABEL] == run and self.lies.get(running.number) != "not listed":
                changed = self.lies.get(running.number) == "changes"
                yield attrs.evolve(running.job, exit_code=9) if changed else running.job

    async def forget(self, job_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self._find(job_id)
        del self.jobs[job_id]
