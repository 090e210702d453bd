"""Calls of the keeper fail, whichever they are: no end is lost or wrong, deadlines and cancels hold, it lives on."""

from __future__ import annotations

import errno
import mmap
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import supervisor
from supervisor.jobdir import records
from supervisor.keeper import entry as keeper_entry
from supervisor.system import processes
from tests.faults.shimmed.keeper.entry import PLAN
from tests.process.conftest import World, world

__all__ = ["world"]  # a fixture

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")

ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EIO, errno.ENOMEM)
PATIENCE = 60
ONCE, OFTEN = 1, 8  # calls in a row, whatever they are


class Plan:
    """Which call of the keeper is to fail, and how often, shared with it."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(PLAN.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), PLAN.size)

    def arm(self, error: int, skipped: int, failures: int = 1) -> None:
        self._memory[:] = PLAN.pack(error, skipped, failures, 0, 0)

    @property
    def calls(self) -> int:
        """How many were made since it was armed."""
        return int(PLAN.unpack(self._memory[:])[3])

    @property
    def failed(self) -> int:
        """How many of them have failed."""
        return int(PLAN.unpack(self._memory[:])[4])


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    """Have keepers started that fail as planned."""
    place = tmp_path / "shimmed" / "keeper"
    place.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("shimmed") / "keeper" / "entry.py", place)
    (place / "real").write_text(str(Path(keeper_entry.__file__).parent), encoding="utf-8")
    monkeypatch.setattr(keeper_entry, "__file__", str(place / "entry.py"))
    return Plan(place / "plan")


def is_running(world: World, job_id: str) -> bool:
    found = records.read(str(world.job(job_id)), records.PROCESS)
    return bool(found and processes.is_alive(found["pid"], found["start"]))


async def ends(sup: supervisor.Supervisor, world: World) -> None:
    """Have a job end with a status of its own; one that cannot be started says so."""
    job = await sup.wait((await sup.start(["sh", "-c", "echo out; exit 5"])).job_id)
    if job.reason == "launch_failed":
        assert job.exit_code is None
        return
    assert (job.status, job.exit_code, job.stdout_bytes) == ("failed", 5, 4), job
    end = records.read(str(world.job(job.job_id)), records.EXIT)
    assert end is None or end.get("exit_code") == 5, end  # one that could not be written comes later


async def is_late(sup: supervisor.Supervisor, world: World) -> None:
    """Have a job meet its deadline."""
    job = await sup.wait((await sup.start(["sleep", "600"], deadline_seconds=0.05)).job_id)
    assert job.status == "timeout" or job.reason == "launch_failed", job
    assert not is_running(world, job.job_id)


async def is_cancelled(sup: supervisor.Supervisor, world: World) -> None:
    """Have a job with a child cancelled."""
    job = await sup.cancel((await sup.start(["sh", "-c", "sleep 600 & wait"])).job_id)
    assert job.status == "cancelled" or job.reason == "launch_failed", job
    assert not is_running(world, job.job_id)


Scenario = Callable[[supervisor.Supervisor, World], Awaitable[None]]


@pytest.mark.parametrize("first", range(len(ERRORS)))
@pytest.mark.parametrize("scenario", [ends, is_late, is_cancelled])
async def test_calls_that_fail_cost_no_job(world: World, plan: Plan, scenario: Scenario, first: int) -> None:
    """Each call of a scenario fails in one of the tests, and each error comes to a spread of them."""
    failed = 0
    wrong: list[object] = []
    async with supervisor.open_supervisor() as sup:
        kept = world.keeper((await sup.start(["sleep", "600"])).job_id)
        await scenario(sup, world)
        plan.arm(0, 0, 0)
        await scenario(sup, world)
        calls = plan.calls
        for skipped in range(first, calls, len(ERRORS)):
            error = ERRORS[(first + skipped // len(ERRORS)) % len(ERRORS)]
            plan.arm(error, skipped, ONCE if skipped % 2 else OFTEN)
            try:
                with trio.fail_after(PATIENCE):
                    await scenario(sup, world)
            except supervisor.SupervisorError as problem:
                if not problem.retryable:
                    wrong.append((skipped, errno.errorcode[error], repr(problem)))
            except (AssertionError, trio.TooSlowError) as problem:
                wrong.append((skipped, errno.errorcode[error], repr(problem)))
            assert kept.alive, (skipped, errno.errorcode[error])
            failed += plan.failed
        plan.arm(0, 0, 0)
        assert not wrong, "\n".join(map(str, wrong))
        assert failed > 5
        await ends(sup, world)
        assert kept.alive
