"""When a keeper starts the process that launches waiting jobs, and that only one keeper does."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.keeper import helper_starts, loop, protocol, unwritten
from supervisor.keeper.resource_limits import Limits
from supervisor.system import processes

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")


def launch(*, queued: bool) -> protocol.Launch:
    return protocol.Launch(
        token=1,
        directory="./w/1",
        argv=[b"true"],
        environment=0,
        changes={},
        deadline_seconds=None,
        grace_seconds=1,
        output_limit=1,
        stop_leftovers=False,
        descriptors=1,
        queued=queued,
    )


class Started:
    """What stands for the helper: it says that it was started, holds its input, and ends when the gate is opened."""

    SCRIPT = b'exec 3<&0; readlink /proc/self/fd/3 > "$0"; echo "$SUPERVISOR_STATE_DIR $A" > "$0"; read line < "$1"'

    def __init__(self, directory: Path) -> None:
        self.up, self.gate = directory / "up", directory / "gate"
        for path in (self.up, self.gate):
            os.mkfifo(path)
        self.descriptors = [os.open(path, os.O_RDWR) for path in (self.up, self.gate)]
        words = [b"/bin/sh", b"-c", self.SCRIPT, bytes(self.up), bytes(self.gate)]
        variables = {
            b"A": b"1",
            helper_starts.STATE_DIR: b"/else",
            b"SUPERVISOR_JOB_ID": b"x",
            b"PATH": b"/bin:/usr/bin",
        }
        self.asked = protocol.SetEnvironment(token=1, variables=variables, helper=words)

    def line(self) -> str:
        found = b""
        while not found.endswith(b"\n"):
            found += os.read(self.descriptors[0], 1)
        return found.decode().strip()

    def end(self, pid: int) -> None:
        os.write(self.descriptors[1], b"\n")
        os.waitpid(pid, 0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "root"
    (made / helper_starts.OWNERS).mkdir(parents=True)
    monkeypatch.chdir(made)  # as a keeper does
    return made


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    made = Started(tmp_path)
    yield made
    for descriptor in made.descriptors:
        os.close(descriptor)


def a_helper(asked: protocol.SetEnvironment | None) -> helper_starts.Helper:
    made = helper_starts.Helper(".", os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), Limits())
    if asked is not None:
        made.learn(asked)
    return made


def owner(pid: int, start: int, boot: str | None = None, namespace: str | None = None) -> str:
    return f"{pid}.{start}.{boot or processes.boot_id()[:12]}.{namespace or processes.pid_namespace()}.abcd"


def alive() -> str:
    return owner(*processes.own_identity())


DEAD = (1, 1)


def test_it_is_due_after_the_end_of_a_job_in_the_queue_without_a_supervisor(started: Started) -> None:
    made = a_helper(started.asked)
    made.involve(launch(queued=False))
    made.free(launch(queued=False))
    assert made.next_ns(connected=False) is None
    made.free(launch(queued=True))
    assert made.next_ns(connected=True) is None
    assert made.next_ns(connected=False) == 0
    assert made.take() is True
    assert made.next_ns(connected=False) is None


def test_the_end_of_its_supervisor_is_looked_at_a_little_later(started: Started) -> None:
    made = a_helper(started.asked)
    made.involve(launch(queued=True))
    made.free(launch(queued=True))  # it may have seen that
    assert made.next_ns(connected=True) is None
    due = made.next_ns(connected=False)
    assert due is not None
    assert due > processes.boottime_ns() - 10**9
    assert made.take() is False
    assert made.next_ns(connected=False) is None
    made.free(launch(queued=True))
    assert made.next_ns(connected=False) == 0


def test_a_supervisor_that_is_alive_is_looked_at_once_more(root: Path, started: Started) -> None:
    (root / helper_starts.OWNERS / alive()).touch()
    made = a_helper(started.asked)
    made.next_ns(connected=False)
    made.free(launch(queued=True))
    assert made.next_ns(connected=False) == 0
    made.wake(made.take())
    assert (made.next_ns(connected=False) or 0) > 0
    assert made.take() is False
    made.wake(False)
    assert made.next_ns(connected=False) is None


def test_a_supervisor_of_a_version_without_groups_names_no_helper() -> None:
    made = a_helper(None)
    made.learn(protocol.SetEnvironment(token=1, variables={}))
    made.involve(launch(queued=True))
    assert made.next_ns(connected=False) is None
    made.free(launch(queued=True))
    assert made.next_ns(connected=False) is None


@pytest.mark.parametrize(
    ("owners", "found"),
    [
        ([], (False, False)),
        ([owner(*DEAD)], (False, True)),
        ([owner(*DEAD, boot="0123456789ab")], (False, True)),
        ([alive()], (True, False)),
        ([alive(), owner(*DEAD)], (True, True)),
        ([owner(*DEAD, namespace="4026000000"), "rubbish", "a.b.c.d.e"], (False, False)),
    ],
)
def test_supervisors_that_live_and_that_have_died(root: Path, owners: list[str], found: tuple[bool, bool]) -> None:
    for name in owners:
        (root / helper_starts.OWNERS / name).touch()
    assert helper_starts.find_owners(str(root)) == found


def test_one_of_many_keepers_starts_it_and_it_holds_the_lock_until_it_ends(root: Path, started: Started) -> None:
    many = [a_helper(started.asked) for _ in range(5)]
    for each in many:
        each.wake(True)
    assert started.line() == str(root / helper_starts.lock_name())
    assert started.line() == f"{root} 1"  # the environment of its supervisor, with the root of this keeper
    pids = [pid for each in many for pid in each._pids]
    assert len(pids) == 1
    assert stat.S_IMODE((root / helper_starts.lock_name()).stat().st_mode) == 0o600
    assert helper_starts.take_lock(helper_starts.lock_name()) is None
    started.end(*pids)
    assert [each.has_ended(*pids) for each in many].count(True) == 1
    many[1].wake(True)
    assert started.line()
    assert started.line()
    (pid,) = many[1]._pids
    started.end(pid)


@pytest.mark.parametrize(("always", "there"), [(False, None), (True, "alive"), (False, "alive")])
def test_it_is_not_started_beside_a_supervisor_nor_after_one_that_has_left_in_order(
    root: Path,
    started: Started,
    always: bool,  # noqa: FBT001  # a parameter of the test
    there: str | None,
) -> None:
    if there is not None:
        (root / helper_starts.OWNERS / alive()).touch()
        (root / helper_starts.OWNERS / owner(*DEAD)).touch()
    made = a_helper(started.asked)
    made.wake(always)
    assert not made._pids


def test_a_supervisor_that_died_may_have_missed_an_end(root: Path, started: Started) -> None:
    (root / helper_starts.OWNERS / owner(*DEAD)).touch()
    made = a_helper(started.asked)
    made.wake(False)
    assert started.line()
    assert started.line()
    started.end(*made._pids)


def test_a_program_that_cannot_be_started_leaves_no_lock(root: Path) -> None:
    made = a_helper(protocol.SetEnvironment(token=1, variables={}, helper=[b"/nowhere/python"]))
    with pytest.raises(FileNotFoundError):
        made.wake(True)
    descriptor = helper_starts.take_lock(str(root / helper_starts.lock_name()))
    assert descriptor is not None
    os.close(descriptor)


def test_a_state_root_that_is_gone_is_not_looked_at_again(root: Path, started: Started) -> None:
    root.joinpath(helper_starts.OWNERS).rmdir()
    root.rmdir()
    made = a_helper(started.asked)
    keeper = loop.Keeper.__new__(loop.Keeper)
    keeper.helper = made
    keeper.journal = unwritten.Journal("/nowhere/keeper.log", 1)
    keeper._wake_now(True)
    assert made.next_ns(connected=False) is None


def test_a_shortage_is_reported_to_the_loop_for_another_try(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> tuple[bool, bool]:
        raise OSError(errno.EMFILE, "no more")

    monkeypatch.setattr(helper_starts, "find_owners", fail)
    keeper = loop.Keeper.__new__(loop.Keeper)
    keeper.helper = a_helper(started.asked)
    with pytest.raises(OSError, match="no more"):
        keeper._wake_now(True)


def test_a_lock_that_was_removed_is_not_held(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that sweeps old locks may remove one between the opening and the locking."""
    path = str(root / helper_starts.lock_name())
    flock = helper_starts._flock

    def removed(descriptor: int, how: int) -> None:
        monkeypatch.setattr(helper_starts, "_flock", flock)
        flock(descriptor, how)
        os.unlink(path)

    monkeypatch.setattr(helper_starts, "_flock", removed)
    held = helper_starts.take_lock(path)
    assert held is not None
    assert helper_starts.take_lock(path) is None
    os.close(held)


def test_a_look_at_the_lock_takes_it_from_no_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(root / helper_starts.lock_name())
    assert not helper_starts.is_locked(path)
    held = helper_starts.take_lock(path)
    assert held is not None
    assert helper_starts.is_locked(path)
    os.close(held)
    assert not helper_starts.is_locked(path)
    flock = helper_starts._flock

    def looked_at(descriptor: int, how: int) -> None:
        del descriptor, how
        monkeypatch.setattr(helper_starts, "_flock", flock)
        raise BlockingIOError(errno.EWOULDBLOCK, "held for a moment")

    monkeypatch.setattr(helper_starts, "_flock", looked_at)
    held = helper_starts.take_lock(path)
    assert held is not None
    os.close(held)


def test_a_lock_comes_with_a_descriptor_and_another_file_is_no_lock(root: Path) -> None:
    path = str(root / helper_starts.lock_name())
    held = helper_starts.take_lock(path)
    assert held is not None
    assert helper_starts.take_lock(path, held) == held
    with open(os.devnull, "rb") as null:
        assert helper_starts.take_lock(path, null.fileno()) is None
    other = os.open(path, os.O_RDWR)
    assert helper_starts.take_lock(path, other) is None
    fcntl.flock(held, fcntl.LOCK_UN)
    assert helper_starts.take_lock(path, other) == other
    os.close(held)
    os.close(other)
