"""Random walks over the public API, compared with a model that has no states, rows or records.

The model is a list of jobs as a user would remember them. Its source is the contract alone.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import supervisor
from supervisor.system import processes
from supervisor.testing import FakeEngine, Script
from tests.clock import jumping_clock

CAP = 3
TTL = 1000
WORKSPACES = ("one", "two")
AGAIN = supervisor.Retry(maximum_attempts=3, initial_interval=0.1, jitter=0, retry_on=("7",))


@attrs.define
class Known:
    """A job as a user remembers it."""

    job_id: str
    workspace: str
    request: tuple[Any, ...]
    key: str | None
    number: int
    status: str = "running"
    code: int | None = None
    fetched: bool = False
    ended_at: float = math.inf
    following: Known | None = attrs.field(default=None, eq=False)

    @property
    def live(self) -> bool:
        return self.status == "running"


class Walk:
    """Takes each step with a supervisor and with the model."""

    def __init__(self, root: Path, clock: MockClock) -> None:
        self.root = root
        self.options = supervisor.Settings(
            state_dir=root / "state",
            job_max_seconds=math.inf,
            job_ttl=TTL,
            job_max_count=CAP,
            stop_grace_seconds=1,
        )
        self.clock = clock
        self.engine = FakeEngine(lambda request: _script(request.argv[1], request.record.get("attempt", 1)))
        self.known: list[Known] = []
        self.offset = 0.0
        self.count = 0

    # ------------------------------------------------------------ the model

    def kept(self) -> list[Known]:
        """Jobs that have not expired."""
        return [job for job in self.known if job.ended_at + TTL > self.offset]

    def keeps(self, job: Known) -> bool:
        return any(each is job for each in self.kept())

    def evict(self, workspace: str) -> None:
        """Fetched jobs go first, then the oldest; an unfinished job stays."""
        ended = [job for job in self.kept() if job.workspace == workspace and not job.live]
        ended.sort(key=lambda job: (not job.fetched, job.number))
        for job in ended[: max(0, len(ended) - CAP)]:
            self.known.remove(job)

    def end(self, job: Known, status: str, code: int | None) -> None:
        job.status, job.code, job.ended_at = status, code, self.offset

    # ------------------------------------------------------------ the steps

    async def start(self, sup: supervisor.Supervisor, script: str, workspace: str, key: str | None) -> None:
        (self.root / workspace).mkdir(exist_ok=True)
        request = (script, workspace)
        holder = next((job for job in self.kept() if key and (job.key, job.workspace) == (key, workspace)), None)
        try:
            options: supervisor.JobOptions = {"retry": AGAIN} if script == "again" else {}
            job = await sup.start(["tool", script], workspace=self.root / workspace, idempotency_key=key, **options)
        except supervisor.IdempotencyConflict:
            assert holder is not None
            assert holder.request != request
            return
        if holder is not None:
            assert holder.request == request
            assert job.job_id == holder.job_id
            return
        assert job.job_id not in {other.job_id for other in self.known}
        self.count += 1
        known = Known(job.job_id, workspace, request, key, self.count)
        self.evict(workspace)
        self.known.append(known)
        if script == "missing":
            assert job.reason == "launch_failed"
            self.end(known, "failed", None)
        elif script == "again":
            last = await sup.wait(job.job_id)
            assert (last.attempt, last.retry_of) == (2, job.job_id)
            self.end(known, "failed", 7)
            self.count += 1
            known.following = Known(last.job_id, workspace, request, None, self.count)
            self.known.append(known.following)
            self.end(known.following, "done", 0)
        elif script != "endless":
            await sup.wait(job.job_id)
            self.end(known, "done" if script == "0" else "failed", int(script))

    async def finish(self, sup: supervisor.Supervisor, job: Known, code: int) -> None:
        if job.live:
            self.engine.command(job.job_id).finish(code)
            await sup.wait(job.job_id)
            self.end(job, "done" if code == 0 else "failed", code)

    async def cancel(self, sup: supervisor.Supervisor, job: Known) -> None:
        found = await sup.cancel(job.job_id)
        if job.live:
            self.end(job, "cancelled", None)
        last = job.following if job.following is not None and self.keeps(job.following) else job
        assert (found.job_id, found.status) == (last.job_id, last.status)

    async def result(self, sup: supervisor.Supervisor, job: Known, *, consume: bool) -> None:
        last = job.following or job
        try:
            result = await sup.result(job.job_id, consume=consume)
        except supervisor.JobRunning:
            assert job.live
            return
        except supervisor.JobNotFound:
            assert not self.keeps(last)
            return
        assert self.keeps(last)
        assert not last.live
        assert (result.job_id, result.ok) == (last.job_id, last.status == "done")
        last.fetched = True
        if consume:
            self.known.remove(last)

    async def forget(self, sup: supervisor.Supervisor, job: Known) -> None:
        try:
            await sup.forget(job.job_id)
        except supervisor.JobRunning:
            assert job.live
        else:
            assert not job.live
            self.known.remove(job)

    async def check(self, sup: supervisor.Supervisor, gone: set[str]) -> None:
        """Every query has the answer that the model gives."""
        kept = self.kept()
        for job in kept:
            found = await sup.status(job.job_id)
            assert (found.status, found.exit_code) == (job.status, job.code)
        for job_id in gone - {job.job_id for job in kept}:
            try:
                await sup.status(job_id)
            except supervisor.JobNotFound:
                continue
            raise AssertionError(job_id)
        for workspace in (*WORKSPACES, None):
            for status in ("running", "done", "failed", "cancelled", None):
                where = None if workspace is None else self.root / workspace
                listed = [job.job_id for job in (await sup.list(workspace=where, state=status)).jobs]
                fitting = [job for job in kept if workspace in {None, job.workspace} and status in {None, job.status}]
                assert listed == [job.job_id for job in reversed(fitting)]


def _script(word: bytes, attempt: int) -> Script:
    if word == b"again":
        return Script(exit_code=7 if attempt == 1 else 0)
    if word == b"endless":
        return Script(seconds=None)
    if word == b"missing":
        return Script(launch_error="tool: command not found in its PATH", launch_status=127)
    return Script(exit_code=int(word))


pick = st.integers(0, 30)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("start"),
            st.sampled_from(["endless", "0", "7", "missing", "again"]),
            st.sampled_from(WORKSPACES),
            st.sampled_from([None, None, "a", "b"]),
        ),
        st.tuples(st.just("finish"), pick, st.sampled_from([0, 3])),
        st.tuples(st.just("cancel"), pick),
        st.tuples(st.just("result"), pick, st.booleans()),
        st.tuples(st.just("forget"), pick),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("prune")),
        st.tuples(st.just("pass"), st.sampled_from([TTL / 2 + 1, TTL + 1])),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_walks(walk_steps: list[tuple[Any, ...]]) -> None:
    """Starting, ending, fetching, forgetting, expiring, evicting and reopening, in any order."""
    with tempfile.TemporaryDirectory() as name:
        real, boot = time.time_ns, processes.boottime_ns
        with pytest.MonkeyPatch.context() as patched:
            walk = Walk(Path(name), jumping_clock(patched, threshold=0.01))
            patched.setattr(time, "time_ns", lambda: real() + int(walk.offset * 1e9))
            # The boot clock moves with it, for the time to live. Other readers would see a machine that has slept.
            passed = SimpleNamespace(boottime_ns=lambda: boot() + int(walk.offset * 1e9), boot_id=processes.boot_id)
            patched.setattr("supervisor.store.clock.processes", passed)
            trio.run(_go, walk, walk_steps, clock=walk.clock)


async def _go(walk: Walk, walk_steps: list[tuple[Any, ...]]) -> None:
    remaining = list(walk_steps)
    seen: set[str] = set()
    while True:
        async with supervisor.open_supervisor(walk.options, engine=walk.engine) as sup:
            while remaining:
                step, *arguments = remaining.pop(0)
                if step == "reopen":
                    break
                await _take(walk, sup, step, arguments)
                seen |= {job.job_id for job in walk.known}
                await walk.check(sup, seen)
            else:
                for job in [job for job in walk.known if job.live]:
                    await walk.finish(sup, job, 0)
                return


async def _take(walk: Walk, sup: supervisor.Supervisor, step: str, arguments: list[Any]) -> None:
    if step == "start":
        await walk.start(sup, *arguments)
    elif step == "pass":
        walk.offset += arguments[0]
        walk.clock.jump(arguments[0])
    elif step == "prune":
        await sup.prune()
        for workspace in WORKSPACES:
            walk.evict(workspace)
    elif kept := walk.kept():
        job = kept[arguments[0] % len(kept)]
        if step == "finish":
            await walk.finish(sup, job, arguments[1])
        elif step == "cancel":
            await walk.cancel(sup, job)
        elif step == "result":
            await walk.result(sup, job, consume=arguments[1])
        else:
            await walk.forget(sup, job)
