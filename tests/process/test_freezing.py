"""Pausing a job whose control group has version 2: it is frozen, and thawed by whatever stops it.

The keeper here may have put its processes into another kind of control group: so the tests move them. ``tests/vm`` has
the whole path.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.jobdir import records
from supervisor.jobs import pausing
from supervisor.keeper.tree_killer import Stop, TreeKiller
from supervisor.system import cgroups, processes
from supervisor.system.cgroups import TreeGroup

if TYPE_CHECKING:
    from tests.process.conftest import Fifo, Proc, World

UNIFIED = dict(cgroups._own_groups()).get("")
pytestmark = pytest.mark.skipif(
    UNIFIED is None or not cgroups._is_writable(UNIFIED), reason="no unified control group can be made here"
)

# Its child has a session of its own. Both write until they get a signal, which they report.
COUNTING = """
import os, signal, sys, time
told = os.open(sys.argv[1], os.O_WRONLY)
if os.fork() == 0:
    os.setsid()
def note(number, frame):
    os.write(told, b"signal %d\\n" % number)
    os._exit(3)
for number in (signal.SIGTERM, signal.SIGCONT):
    signal.signal(number, note)
os.write(told, b"%d\\n" % os.getpid())
while True:
    os.write(1, b"x")
    time.sleep(0.001)
"""


class Job:
    """A job whose two processes are in a control group of version 2."""

    def __init__(self, world: World, fifo: Fifo, job_id: str, group: TreeGroup) -> None:
        self.world, self.fifo, self.job_id, self.group = world, fifo, job_id, group
        self.processes: list[Proc] = [world.hold(fifo.number()) for _ in range(2)]
        for each in self.processes:
            cgroups.write(f"{group.directory}/cgroup.procs", str(each.pid))
        record = world.record(job_id, records.PROCESS)
        assert record is not None
        records.replace(str(world.job(job_id)), records.PROCESS, {**record, records.CGROUP: group.directory})
        self.output = world.job(job_id) / records.STDOUT

    def states(self) -> set[str]:
        found = [processes.read_process(each.pid) for each in self.processes]
        return {each.state for each in found if each is not None}

    def goes_on(self) -> bool:
        size = self.output.stat().st_size
        while self.output.stat().st_size == size:
            os.sched_yield()
        return True


@pytest.fixture
def job(world: World) -> Iterator[Job]:
    fifo = world.fifo()
    job_id = world.host().start(sys.executable, "-I", "-S", "-c", COUNTING, str(fifo), grace_seconds=600)
    directory = f"{UNIFIED}/test-{os.getpid()}/{cgroups.JOB_PREFIX}{job_id}"
    os.makedirs(directory)
    group = TreeGroup(directory, 2)
    try:
        yield Job(world, fifo, job_id, group)
    finally:
        group.kill()
        while not group.is_empty():
            os.sched_yield()
        for path in (directory, os.path.dirname(directory)):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path)


def test_a_job_is_frozen_and_goes_on_without_a_signal(job: Job) -> None:
    assert pausing.pause(job.world.catalog, job.job_id).paused
    assert job.group.is_frozen
    assert "T" not in job.states()
    size = job.output.stat().st_size
    assert pausing.pause(job.world.catalog, job.job_id).paused
    assert job.output.stat().st_size == size
    assert not pausing.resume(job.world.catalog, job.job_id).paused
    assert not job.group.is_frozen
    assert job.goes_on()
    assert job.fifo.silent  # no SIGCONT


def test_a_control_group_that_another_program_has_frozen_stays_frozen(job: Job) -> None:
    job.group.freeze()
    while not job.group.is_frozen:
        os.sched_yield()
    pausing.pause(job.world.catalog, job.job_id)
    assert pausing.pause(job.world.catalog, job.job_id).paused
    assert not pausing.resume(job.world.catalog, job.job_id).paused
    assert job.group.is_frozen
    job.group.thaw()
    assert job.goes_on()
    assert job.fifo.silent
    pausing.pause(job.world.catalog, job.job_id)  # which is its own
    pausing.resume(job.world.catalog, job.job_id)
    assert job.goes_on()


def test_what_has_left_the_control_group_is_stopped_and_continued(job: Job) -> None:
    outside = job.processes[1]
    cgroups.write(f"{UNIFIED}/cgroup.procs", str(outside.pid))
    pausing.pause(job.world.catalog, job.job_id)
    found = processes.read_process(outside.pid)
    assert found is not None
    assert (found.state, job.group.is_frozen) == ("T", True)
    pausing.resume(job.world.catalog, job.job_id)
    assert job.fifo.line() == f"signal {signal.SIGCONT.value}"
    assert job.goes_on()


def test_a_control_group_with_another_keeper_is_not_frozen(job: Job) -> None:
    nested = Path(job.group.directory) / f"{cgroups.KEEPER_PREFIX}1.2.boot.ns"
    nested.mkdir()
    try:
        pausing.pause(job.world.catalog, job.job_id)
        assert (job.group.is_frozen, job.states()) == (False, {"T"})
    finally:
        nested.rmdir()


def test_a_keeper_that_cannot_thaw_has_its_jobs_stopped_by_signals(job: Job) -> None:
    record = job.world.record(job.job_id, records.PROCESS)
    assert record is not None
    records.replace(str(job.world.job(job.job_id)), records.PROCESS, {**record, "controls": 1})
    pausing.pause(job.world.catalog, job.job_id)
    assert (job.group.is_frozen, job.states()) == (False, {"T"})


def test_a_cancel_by_any_process_thaws_a_frozen_job_whose_handlers_run_first(job: Job) -> None:
    keeper = job.world.keeper(job.job_id)
    pausing.pause(job.world.catalog, job.job_id)
    keeper.kill()
    size = job.output.stat().st_size
    assert job.world.catalog.cancel(job.job_id).status == "cancelled"
    assert {job.fifo.line() for _ in job.processes} == {f"signal {signal.SIGTERM.value}"}
    assert job.output.stat().st_size <= size + len(job.processes)  # a write that was under way


@pytest.mark.parametrize("at_once", [True, False])
def test_a_stop_thaws_a_frozen_tree(job: Job, *, at_once: bool) -> None:
    """``at_once``: the leader gets its signal before the first search, as one without children does."""
    leader = job.world.leader(job.job_id)
    job.group.freeze()
    signalled = processes.boottime_ns() if at_once else None
    stop = Stop(job.job_id, leader.pid, leader.start, 600, lambda _: None, tree=job.group, signalled_ns=signalled)
    killer = TreeKiller()
    if at_once:
        killer.signal_leader(stop)
        assert leader.ended()
    killer.add(stop)
    while not killer.tick():
        os.sched_yield()
    assert {job.fifo.line() for _ in job.processes} == {f"signal {signal.SIGTERM.value}"}


def test_the_process_that_freezes_is_killed_before_it_has_recorded_that(job: Job) -> None:
    job.group.freeze()
    records.create(
        str(job.world.job(job.job_id)),
        records.PAUSE,
        {"state": records.CHANGING, "held_ns": 0, "held_since_boot_ns": None, "before": ""},
    )
    assert not job.world.catalog.status(job.job_id).paused
    assert not pausing.resume(job.world.catalog, job.job_id).paused
    assert job.goes_on()
