"""What belongs to a job, as one look at the processes tells. Ending trees is tested in ``tests/process``."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time

import pytest

from supervisor.engines import processes, trees

linux = pytest.mark.skipif(not processes.HAVE_PROC, reason="reads /proc")


@linux
def test_the_mark_is_read_from_the_environment() -> None:
    mark = "0123456789abcdef" * 2
    environment = {"NOT_SUPERVISOR_JOB_ID": "wrong", "SUPERVISOR_JOB_ID": mark, "PATH": os.environ["PATH"]}
    with subprocess.Popen(["sleep", "600"], env=environment) as process:
        assert _marks_in_time(process.pid) == mark.encode()
        table = trees.ProcessTable()
        look = table.look()
        assert process.pid in look
        assert table.marks(look)[process.pid] == mark.encode()
        process.kill()
    assert trees._mark_of(process.pid) == b""


def _marks_in_time(pid: int) -> bytes:
    """Return the mark once the child has come from its fork to its exec, of which nobody is told."""
    give_up = time.monotonic() + 5
    while not (mark := trees._mark_of(pid)) and time.monotonic() < give_up:
        select.select([], [], [], 0.001)
    return mark


@linux
def test_a_look_leaves_out_zombies() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.pid not in trees.ProcessTable().look()
        assert os.getpid() in trees.ProcessTable().look()


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
        killer = trees.TreeKiller({mine.pid, other.pid})
        signalled: list[int] = []
        stop = trees.Stop("0" * 32, mine.pid, found.start, 5, signalled.append, is_child=True)
        killer.add(stop)
        assert killer.tick() == []
        assert len(signalled) == 1
        assert mine.wait(5) == -signal.SIGTERM
        assert killer.next_ns is not None
        assert killer.next_ns > 0
        stop.ended_at(processes.boottime_ns())
        killer.hurry(stop)
        assert killer.tick() == [stop]
        assert killer.next_ns is None
        assert mine.pid in looked
        assert other.pid not in looked
        other.kill()


@linux
@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        (["-I", "-S", "/x/engines/keeper.py", "/root"], True),
        (["-S", "-I", "/x/engines/keeper.py", "/root"], False),
        (["-I", "-S", "/x/engines/keeper.pyc"], False),
        (["-c", "", "-I", "-S", "/x/engines/keeper.py"], False),
    ],
)
def test_keepers_are_known_by_their_command(words: list[str], is_one: bool) -> None:  # noqa: FBT001
    reads = {"/proc/4/cmdline": b"\0".join([b"python", *(word.encode() for word in words), b""])}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "slurp", reads.__getitem__)
        assert trees._looks_like_keeper(4) is is_one
