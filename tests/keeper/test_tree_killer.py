"""What belongs to a job, as one look at the processes tells. Ending trees is tested in ``tests/process``."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path

import attrs
import pytest

from supervisor.engines.local import stopping
from supervisor.jobdir import job_marks, stops
from supervisor.keeper.job_processes import JobProcesses, Snapshot
from supervisor.keeper.tree_killer import Stop, TreeKiller
from supervisor.system import processes
from supervisor.system.process_table import ProcessTable

linux = pytest.mark.skipif(not processes.HAVE_PROC, reason="reads /proc")


@linux
def test_the_mark_is_read_from_the_environment() -> None:
    mark = "0123456789abcdef" * 2
    environment = {"NOT_SUPERVISOR_JOB_ID": "wrong", "SUPERVISOR_JOB_ID": mark, "PATH": os.environ["PATH"]}
    with subprocess.Popen(["sleep", "600"], env=environment) as process:
        assert _marks_in_time(process.pid) == mark.encode()
        held = JobProcesses()
        table = held.list()
        assert process.pid in table
        assert held.marks(table)[process.pid] == mark.encode()
        process.kill()
    assert job_marks.mark_of(process.pid) == b""


def _marks_in_time(pid: int) -> bytes:
    """Return the mark once the child has come from its fork to its exec, of which nobody is told."""
    give_up = time.monotonic() + 5
    while not (mark := job_marks.mark_of(pid)) and time.monotonic() < give_up:
        select.select([], [], [], 0.001)
    return mark


@linux
def test_a_look_leaves_out_zombies() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.pid not in ProcessTable().list()
        assert os.getpid() in ProcessTable().list()


@linux
def test_leaders_of_other_trees_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    read = processes.read_process
    monkeypatch.setattr(processes, "read_process", lambda pid: (looked.append(pid), read(pid))[1])
    argv = ["sh", "-c", "echo; exec sleep 600"]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as mine,
        subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as other,
    ):
        for each in (mine, other):
            assert each.stdout is not None
            each.stdout.readline()
        found = read(mine.pid)
        assert found is not None
        killer = TreeKiller({mine.pid, other.pid})
        signalled: list[int] = []
        stop = Stop("0" * 32, mine.pid, found.start, 5, signalled.append, is_child=True)
        killer.add(stop)
        assert killer.tick() == []
        assert len(signalled) == 1
        assert mine.wait(60) == -signal.SIGTERM
        assert killer.next_ns is not None
        assert killer.next_ns > 0
        stop.ended_at(processes.boottime_ns())
        killer.hurry(stop)
        assert killer.tick() == [stop]
        assert killer.next_ns is None
        assert mine.pid in looked
        assert other.pid not in looked
        other.kill()


def test_a_process_is_in_a_tree_once_it_was_seen_there() -> None:
    leader, child = processes.Process(10, "S", 1, 10, 10, 100), processes.Process(11, "S", 10, 11, 11, 101)
    stranger = processes.Process(12, "S", 1, 12, 12, 102)
    stop = Stop("a" * 32, 10, 100, 5, lambda _: None)

    def members(*table: processes.Process) -> set[int]:
        view = Snapshot({each.pid: each for each in table}, {}, {}, lambda _: False)
        return {each.pid for each in view.members(stop)}

    assert members(leader, child, stranger) == {10, 11}
    alone = processes.Process(11, "S", 1, 11, 11, 101)  # its parent is gone, and it has a session of its own
    assert members(alone, stranger) == {11}
    assert members(processes.Process(11, "S", 1, 11, 11, 999), stranger) == set()  # another one of that number


@pytest.mark.parametrize(
    ("mark", "tag", "is_member"),
    [
        (None, None, True),
        (b"b" * 32, None, True),  # every process can change its own
        (b"b" * 32, "a" * 32, True),
        (None, "b" * 32, False),
        (b"a" * 32, "a" * 32, True),
    ],
)
def test_whose_child_it_is_the_tag_tells_and_not_the_mark(
    mark: bytes | None, tag: str | None, *, is_member: bool
) -> None:
    leader, child = processes.Process(10, "S", 1, 10, 10, 100), processes.Process(11, "S", 10, 11, 11, 101)
    marks = {} if mark is None else {11: mark}
    tags = {} if tag is None else {11: job_marks.tag_of_job(tag)}
    view = Snapshot({10: leader, 11: child}, marks, tags, lambda _: False)
    stop = Stop("a" * 32, 10, 100, 5, lambda _: None)
    assert ({each.pid for each in view.members(stop)} == {10, 11}) is is_member


def test_an_orphan_is_known_by_its_tag() -> None:
    orphan = processes.Process(11, "S", 1, 11, 11, 101)
    view = Snapshot({11: orphan}, {11: b"x"}, {11: job_marks.tag_of_job("a" * 32)}, lambda _: False)
    assert view.members(Stop("a" * 32, 10, 100, 5, lambda _: None)) == [orphan]
    assert view.members(Stop("b" * 32, 10, 100, 5, lambda _: None)) == []


@linux
@pytest.mark.parametrize("slower_began", ["before", "after"])
@pytest.mark.parametrize("noted_first", ["faster", "slower"])
@pytest.mark.parametrize("kind", ["new", "successor"])
def test_of_two_who_stop_a_tree_the_slower_takes_nothing_back(
    tmp_path: Path, slower_began: str, noted_first: str, kind: str
) -> None:
    """The tree is gone before the slower one, whose first signal is on record, has looked at it."""
    directory = str(tmp_path / ("a" * 32))
    os.mkdir(directory)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as leader:
        found = processes.read_process(leader.pid)
        assert found is not None
        tree = stopping.Tree(directory, {"pid": leader.pid, "start": found.start})
        stopping.request_stop(directory, "cancelled", "test")
        fast, slow = TreeKiller(), TreeKiller()
        faster, slower = stopping.make_stop(tree), stopping.make_stop(tree)

        def ended_by_the_faster(now: int) -> None:
            if slower_began == "before":
                stops.mark_stop(directory, signalled=now)
            fast.add(faster)
            assert fast.tick() == []
            assert leader.wait(30) == -signal.SIGTERM
            fast.hurry(faster)
            assert fast.tick() == [faster]
            if slower_began == "after":
                stops.mark_stop(directory, signalled=now)

        if kind == "new":
            slower.on_signal = ended_by_the_faster
        else:  # it goes on with a stop that is on record
            ended_by_the_faster(processes.boottime_ns())
            slower = stopping.make_stop(attrs.evolve(tree, request=stops.read_stop(directory) or {}))
        slow.add(slower)
        if kind == "new":  # in its first look the leader still lives
            assert slow.tick() == []
            slow.hurry(slower)
        assert slow.tick() == [slower]
    assert not faster.natural
    assert not slower.natural
    both = [faster, slower] if noted_first == "faster" else [slower, faster]
    for stop in both:
        stopping.note_gone(tree, stop)
    noted = stops.read_stop(directory)
    assert noted is not None
    assert (noted["why"], noted["gone"], noted["signalled_boot_ns"] is not None) == ("cancelled", True, True)


@pytest.mark.parametrize("known", ["afresh", "from before"])
def test_one_who_was_refused_takes_nothing_back_from_one_who_was_not(tmp_path: Path, known: str) -> None:
    directory = str(tmp_path)
    stopping.request_stop(directory, "cancelled", "test")
    stops.mark_stop(directory, signalled=1)
    before = stops.read_stop(directory)
    stops.mark_stop(directory, gone=True)
    stops.take_back_stop(directory, "12", before if known == "from before" else None)
    noted = stops.read_stop(directory)
    assert noted is not None
    assert (noted["gone"], noted["signalled_boot_ns"], noted.get("refused")) == (True, 1, None)
