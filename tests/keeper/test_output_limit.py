"""How the keeper sees that a job writes too much: looks at a clock of its own, and the kernel's word."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

import pytest

from supervisor.jobdir import records
from supervisor.keeper import output_limit
from supervisor.system import processes
from supervisor.system.inotify import OVERFLOWN, Inotify

SECOND = 1_000_000_000
LIMIT = 1000


class Clock:
    """A boot clock that goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100 * SECOND
        monkeypatch.setattr(processes, "boottime_ns", lambda: self.now)

    def look(self, outputs: output_limit.Outputs) -> tuple[float, list[int]]:
        """Go on to the next look, and return how many seconds that took and what it found."""
        begun, due = self.now, outputs.next_ns
        assert due is not None
        self.now = max(self.now, due)
        return (self.now - begun) / SECOND, outputs.check()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(output_limit, "_MANY", 1)
    return Clock(monkeypatch)


def write(directory: Path, count: int, name: str = records.STDOUT) -> None:
    with open(directory / name, "ab") as file:
        file.write(bytes(count))


def is_told(outputs: output_limit.Outputs) -> bool:
    return outputs.descriptor >= 0 and bool(select.select([outputs.descriptor], [], [], 0)[0])


def quiet(clock: Clock, outputs: output_limit.Outputs) -> list[float]:
    """Look until looks are rare; return the intervals."""
    gaps: list[float] = []
    while not gaps or gaps[-1] < 100:
        gap, over = clock.look(outputs)
        assert over == []
        gaps.append(gap)
    return gaps


needs_inotify = pytest.mark.skipif(Inotify.open() is None, reason="needs inotify")


@needs_inotify
def test_of_a_quiet_job_the_kernel_tells(tmp_path: Path, clock: Clock) -> None:
    outputs = output_limit.Outputs()
    outputs.add(7, str(tmp_path), LIMIT, clock.now)
    write(tmp_path, 10)
    gaps = quiet(clock, outputs)
    assert gaps[0] == 0.5
    assert sum(gaps[:-1]) < 5  # seconds; most of a thousand that only sleep cost nothing soon
    assert not is_told(outputs)
    write(tmp_path, 10)
    assert is_told(outputs)
    outputs.handle_events()
    assert clock.look(outputs) == (0.0, [])
    write(tmp_path, LIMIT)
    outputs.handle_events()
    gap, over = clock.look(outputs)  # at intervals from here on, however often it writes
    assert 0 < gap <= 1
    assert over == [7]


@needs_inotify
@pytest.mark.parametrize("name", [records.STDOUT, records.STDERR])
def test_a_burst_after_a_long_time_is_seen_at_once(tmp_path: Path, clock: Clock, name: str) -> None:
    outputs = output_limit.Outputs()
    outputs.add(7, str(tmp_path), LIMIT, clock.now)
    quiet(clock, outputs)
    write(tmp_path, LIMIT + 1, name)
    outputs.handle_events()
    assert clock.look(outputs) == (0.0, [7])


@needs_inotify
def test_writes_that_the_kernel_has_lost_are_looked_for(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = output_limit.Outputs()
    outputs.add(7, str(tmp_path), LIMIT, clock.now)
    quiet(clock, outputs)
    write(tmp_path, LIMIT + 1)
    monkeypatch.setattr(Inotify, "read", lambda _: {OVERFLOWN})
    outputs.handle_events()
    assert clock.look(outputs) == (0.0, [7])


@pytest.mark.parametrize("error", [OSError(errno.EIO, "as if"), MemoryError()])
def test_a_look_that_fails_is_taken_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    outputs = output_limit.Outputs()
    outputs.add(7, str(tmp_path), LIMIT, clock.now)
    write(tmp_path, LIMIT + 1)

    def fail(_: object) -> int:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(output_limit.Output, "size", fail)
        assert clock.look(outputs)[1] == []
    assert clock.look(outputs) == (1.0, [7])


@needs_inotify
def test_what_is_written_while_the_kernel_is_asked_is_not_missed(
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = output_limit.Outputs()
    outputs.add(7, str(tmp_path), LIMIT, clock.now)
    watch = Inotify.watch

    def late(notify: Inotify, directory: str, mask: int) -> int | None:
        write(tmp_path, LIMIT + 1)
        return watch(notify, directory, mask)

    monkeypatch.setattr(Inotify, "watch", late)
    gaps: list[float] = []
    while not (found := clock.look(outputs))[1]:
        gaps.append(found[0])
    assert found[0] <= 8
    assert max(gaps) <= 8


@pytest.mark.parametrize("fewer", [True, False])
def test_a_few_or_without_the_kernel_are_looked_at(
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fewer: bool,
) -> None:
    if fewer:
        monkeypatch.setattr(output_limit, "_MANY", 2)
    else:
        monkeypatch.setattr(Inotify, "open", lambda: None)
    outputs = output_limit.Outputs()
    outputs.add(7, str(tmp_path), LIMIT, clock.now)
    gaps = [clock.look(outputs)[0] for _ in range(20)]
    assert 7 <= max(gaps) <= 9
    assert outputs.descriptor < 0
    write(tmp_path, LIMIT + 1)
    assert clock.look(outputs)[1] == [7]


@needs_inotify
def test_one_that_is_dropped_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    outputs = output_limit.Outputs()
    for token in (7, 8):
        directory = tmp_path / str(token)
        directory.mkdir()
        outputs.add(token, str(directory), LIMIT, clock.now)
    quiet(clock, outputs)
    outputs.drop(7)
    outputs.drop(7)
    write(tmp_path / "7", LIMIT + 1)
    outputs.handle_events()
    assert outputs.next_ns is not None
    assert outputs.next_ns > clock.now
    write(tmp_path / "8", LIMIT + 1)
    outputs.handle_events()
    assert clock.look(outputs) == (0.0, [8])


# ------------------------------------------------------------ what was left behind, and truncations


class Left:
    """A job whose leader has ended, and something that it left behind with stdout open."""

    def __init__(self, directory: Path, clock: Clock, outputs: output_limit.Outputs, *, watch: bool = True) -> None:
        for name in (records.STDOUT, records.STDERR):
            write(directory, 0, name)
        outputs.add(7, str(directory), LIMIT, clock.now)
        self.descriptor = os.open(directory / records.STDOUT, os.O_WRONLY | os.O_APPEND)
        os.write(self.descriptor, bytes(10))
        self.found, self.may_grow = outputs.end(7, str(directory), 2**22 + 1, watch=watch)


def test_what_was_left_behind_is_watched_until_nothing_can_write(tmp_path: Path, clock: Clock) -> None:
    outputs = output_limit.Outputs()
    left = Left(tmp_path, clock, outputs)
    try:
        assert (left.may_grow, left.found) == (True, {"stdout_bytes": 10, "stderr_bytes": 0, "may_grow": True})
        for _ in range(5):
            assert clock.look(outputs)[1] == []
        assert outputs.take_quiet() == []
    finally:
        os.close(left.descriptor)
    assert clock.look(outputs)[1] == []
    assert outputs.take_quiet() == [7]
    assert outputs.take_quiet() == []
    assert outputs.next_ns is None


def test_the_limit_holds_for_what_was_left_behind(tmp_path: Path, clock: Clock) -> None:
    outputs = output_limit.Outputs()
    left = Left(tmp_path, clock, outputs)
    try:
        os.write(left.descriptor, bytes(LIMIT))
        assert clock.look(outputs)[1] == [7]
    finally:
        os.close(left.descriptor)


def test_without_a_writer_nothing_is_watched_on(tmp_path: Path, clock: Clock) -> None:
    outputs = output_limit.Outputs()
    for name in (records.STDOUT, records.STDERR):
        write(tmp_path, 3, name)
    outputs.add(7, str(tmp_path), LIMIT, clock.now)
    found, may_grow = outputs.end(7, str(tmp_path), 2**22 + 1, watch=True)
    assert (found, may_grow) == ({"stdout_bytes": 3, "stderr_bytes": 3}, False)
    clock.look(outputs)
    assert outputs.next_ns is None


@pytest.mark.parametrize(("then", "truncated"), [(b"", True), (b"two", True), (b"four", True), (b"onetwo", False)])
def test_a_truncation_is_noted(tmp_path: Path, clock: Clock, then: bytes, *, truncated: bool) -> None:
    outputs = output_limit.Outputs()
    stream = tmp_path / records.STDERR
    write(tmp_path, 0)
    stream.write_bytes(b"four" if then == b"four" else b"one")
    os.utime(stream, ns=(1, 1))
    outputs.add(7, str(tmp_path), LIMIT, clock.now)
    clock.look(outputs)
    stream.write_bytes(then)
    os.utime(stream, ns=(2, 2))
    found, _ = outputs.end(7, str(tmp_path), 2**22 + 1, watch=True)
    assert found.get("truncated", False) is truncated
