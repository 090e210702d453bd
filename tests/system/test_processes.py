"""Who a process is, and what the kernel tells about it. Ending trees is tested in ``tests/process``."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.system import pidfd, processes

linux = pytest.mark.skipif(not processes.HAVE_PROC, reason="reads /proc")

FIELDS = ("S", *map(str, (41, 42, 43, 0, -1, 4194304, 1, 2, 3, 4, 5, 6, 7, 8, 20, 0, 1, 0, 5555, 1000, 200)))


def stat_line(name: bytes, state: str = "S", threads: int = 1, status: int | None = None) -> bytes:
    fields = [state, *FIELDS[1:17], str(threads), *FIELDS[18:]]
    fields += ["0"] * (49 - len(fields))
    fields.append(str(status or 0))
    return b"123 (" + name + b") " + " ".join(fields).encode() + b"\n"


@given(st.binary(max_size=15))
def test_a_name_may_hold_anything(name: bytes) -> None:
    found = processes._parse_stat(123, stat_line(name))
    assert (found.pid, found.state, found.parent, found.group, found.session) == (123, "S", 41, 42, 43)
    assert (found.start, found.flags, found.exit_status, found.dead) == (5555, 4194304, None, False)


@pytest.mark.parametrize("name", [b") R 1 1 1", b"a) Z 9 9 9 (b", b"((((", b"\n) S 1\n", b"a b\tc"])
def test_a_name_that_looks_like_fields_deceives_nobody(name: bytes) -> None:
    assert processes._parse_stat(123, stat_line(name)).session == 43


@pytest.mark.parametrize(("state", "dead"), [("R", False), ("D", False), ("T", False), ("Z", True), ("X", True)])
def test_which_states_are_the_end(state: str, dead: bool) -> None:  # noqa: FBT001
    found = processes._parse_stat(123, stat_line(b"x", state, status=256))
    assert found.dead is dead
    assert found.exit_status == (256 if dead else None)


def test_a_process_lives_on_when_its_first_thread_has_ended() -> None:
    found = processes._parse_stat(123, stat_line(b"x", "Z", threads=3))
    assert (found.dead, found.exit_status) == (False, None)


def test_an_old_kernel_shows_no_status() -> None:
    found = processes._parse_stat(123, stat_line(b"x", "Z").rsplit(maxsplit=6)[0])
    assert (found.dead, found.exit_status) == (True, None)


# ---------------------------------------------------------------- real processes


@linux
def test_this_process() -> None:
    pid, start = processes.own_identity()
    found = processes.read_process(pid)
    assert found is not None
    assert pid == os.getpid()
    assert (found.parent, found.group, found.session) == (os.getppid(), os.getpgrp(), os.getsid(0))
    assert processes.ticks_to_ns(start) < processes.boottime_ns()
    assert processes.is_alive(pid, start)
    assert not processes.is_alive(pid, start + 1)


@linux
def test_a_process_with_an_odd_name() -> None:
    rename = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a) Z 1 (\\n'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = processes.read_process(process.pid)
        assert found is not None
        assert (found.parent, found.dead) == (os.getpid(), False)
        process.communicate()


@linux
@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 5", 5 << 8), ("kill -9 $$", 9)])
def test_a_zombie_tells_its_status_until_it_is_reaped(command: str, status: int) -> None:
    with subprocess.Popen(["sh", "-c", command]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        found = processes.read_process(process.pid)
        assert found is not None
        assert found.dead
        assert not processes.is_alive(process.pid, found.start)
        assert processes.exit_status_of_zombie(process.pid, found.start) == status
        assert processes.exit_status_of_zombie(process.pid, found.start + 1) is None
        process.wait()
        assert processes.exit_status_of_zombie(process.pid, found.start) is None
        assert processes.read_process(process.pid) is None


@linux
@pytest.mark.parametrize("has_waitid", [True, False])
def test_a_child_that_has_ended_is_still_to_be_reaped(monkeypatch: pytest.MonkeyPatch, *, has_waitid: bool) -> None:
    if not has_waitid:
        monkeypatch.delattr(os, "waitid")
    with subprocess.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE) as process:
        assert not processes.has_child_ended(process.pid)
        assert process.stdin is not None
        descriptor = os.pidfd_open(process.pid)
        process.stdin.close()
        select.select([descriptor], [], [], 5)
        os.close(descriptor)
        assert processes.has_child_ended(process.pid)
        assert process.wait() == 3
        assert processes.has_child_ended(process.pid)


def test_what_lives_has_no_status() -> None:
    assert processes.exit_status_of_zombie(*processes.own_identity()) is None


@linux
def test_the_status_of_a_zombie_that_we_may_not_see_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        found = processes.read_process(process.pid)
        assert found is not None
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
        assert processes.exit_status_of_zombie(process.pid, found.start) is None


@linux
def test_a_pidfd_is_of_exactly_one_process() -> None:
    pid, start = processes.own_identity()
    descriptor = pidfd.open_of(pid, start)
    assert descriptor is not None
    assert pidfd.exit_status_of(descriptor) is None  # it lives
    os.close(descriptor)
    before = len(os.listdir("/proc/self/fd"))
    assert pidfd.open_of(pid, start + 1) is None
    assert len(os.listdir("/proc/self/fd")) == before


def _kernel_tells_after_reaping() -> bool:
    release = os.uname().release.split(".")
    return sys.platform == "linux" and (int(release[0]), int(release[1].split("-")[0])) >= (6, 15)


@pytest.mark.skipif(not _kernel_tells_after_reaping(), reason="needs PIDFD_GET_INFO with exit status, Linux 6.15")
@pytest.mark.parametrize(("command", "status"), [("exit 5", 5 << 8), ("kill -9 $$", 9)])
def test_a_pidfd_tells_the_status_after_the_process_was_reaped(command: str, status: int) -> None:
    with subprocess.Popen(["sh", "-c", f"read x; {command}"], stdin=subprocess.PIPE) as process:
        found = processes.read_process(process.pid)
        assert found is not None
        descriptor = pidfd.open_of(process.pid, found.start)
        assert descriptor is not None
        process.communicate(b"\n")
        try:
            told = pidfd.exit_status_of(descriptor)
        finally:
            os.close(descriptor)
    if told is None:
        pytest.skip("this kernel (or sandbox) does not tell")
    assert told == status


def test_what_is_no_pidfd_has_no_status() -> None:
    assert pidfd.exit_status_of(0) is None


@linux
def test_a_signal_goes_to_exactly_one_process() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        found = processes.read_process(process.pid)
        assert found is not None
        assert not processes.send_signal(process.pid, found.start + 1, signal.SIGKILL)
        assert process.poll() is None
        assert processes.send_signal(process.pid, found.start, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        assert not processes.send_signal(process.pid, found.start, signal.SIGKILL)


@linux
def test_without_pidfds_the_same_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    test_a_signal_goes_to_exactly_one_process()
    assert pidfd.open_of(*processes.own_identity()) is None


@linux
def test_nobody_signals_a_zombie() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        found = processes.read_process(process.pid)
        assert found is not None
        assert not processes.send_signal(process.pid, found.start, signal.SIGTERM)


@linux
def test_a_start_is_told_by_the_clock_only_where_it_leaves_no_doubt() -> None:
    tick = processes.ticks_to_ns(1)
    assert processes.start_from_boottime(7 * tick, 8 * tick - 1) == 7
    assert processes.start_from_boottime(7 * tick, 8 * tick) is None


def test_facts_do_not_change() -> None:
    assert len(processes.boot_id()) == 32
    before = (processes.boot_id(), processes.pid_namespace(), processes.host_id())
    processes.forget_facts()
    assert (processes.boot_id(), processes.pid_namespace(), processes.host_id()) == before
    assert before[2]
