"""A wall clock that is set forward makes nothing older than the boot clock says."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings
from supervisor.store.clock import Clock
from supervisor.system import processes

HOUR = 3600 * 10**9
BOOT = "b" * 32


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(wall: int, boot: int, boot_id: str = BOOT) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: wall)
        monkeypatch.setattr(processes, "boottime_ns", lambda: boot)
        monkeypatch.setattr(processes, "boot_id", lambda: boot_id)

    return put


def seconds(clock: Clock) -> int:
    return round(clock.now_ns() / 1e9)


def test_without_a_mark_the_wall_clock_tells(tmp_path: Path, clocks: Callable[..., None]) -> None:
    clocks(100 * HOUR, HOUR)
    assert Clock(str(tmp_path)).now_ns() == 100 * HOUR
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("anew", [False, True])
def test_a_clock_that_is_set_forward_is_not_believed_in_the_same_boot(
    tmp_path: Path, clocks: Callable[..., None], *, anew: bool
) -> None:
    clocks(100 * HOUR, HOUR)
    clock = Clock(str(tmp_path))
    clock.mark()
    clocks(10_000 * HOUR, 2 * HOUR)
    clock = Clock(str(tmp_path)) if anew else clock
    clock.mark()
    assert abs(clock.now_ns() - 101 * HOUR) <= 2 * 10**9
    clocks(90 * HOUR, 3 * HOUR)
    assert clock.now_ns() == 90 * HOUR  # set back: at once
    clock.mark()
    clocks(10_000 * HOUR, 4 * HOUR)
    assert abs(Clock(str(tmp_path)).now_ns() - 91 * HOUR) <= 2 * 10**9


def test_after_a_boot_the_wall_clock_tells_how_long_the_machine_was_off(
    tmp_path: Path, clocks: Callable[..., None]
) -> None:
    clocks(100 * HOUR, HOUR)
    Clock(str(tmp_path)).mark()
    clocks(500 * HOUR, HOUR, "c" * 32)
    clock = Clock(str(tmp_path))
    assert clock.now_ns() == 500 * HOUR
    clock.mark()
    clocks(900 * HOUR, 2 * HOUR, "c" * 32)
    assert abs(Clock(str(tmp_path)).now_ns() - 501 * HOUR) <= 2 * 10**9
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("rubbish", ["", "x", f"{BOOT[:12]}.x", f"{BOOT[:12]}.", f"{BOOT[:12]}.{'9' * 40}", "a.b.c"])
def test_rubbish_is_no_mark(tmp_path: Path, clocks: Callable[..., None], rubbish: str) -> None:
    clocks(100 * HOUR, HOUR)
    if rubbish:
        (tmp_path / ".clock").write_text(rubbish)
    else:
        (tmp_path / ".clock").symlink_to("nowhere")
    assert Clock(str(tmp_path)).now_ns() == 100 * HOUR
    Clock(str(tmp_path)).mark()
    clocks(200 * HOUR, HOUR)
    assert abs(Clock(str(tmp_path)).now_ns() - 100 * HOUR) <= 2 * 10**9


def test_nothing_is_forgotten_because_a_clock_was_set(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.embedding.threads import BlockingSupervisor
    from supervisor.testing import FakeEngine

    settings = Settings(state_dir=state_dir, job_ttl=3600)
    with BlockingSupervisor(settings, engine=FakeEngine()) as sup:
        job_id = sup.run(["true"]).job_id
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10_000 * HOUR)
    with Catalog(settings) as catalog:
        assert catalog.prune() == []
        assert catalog.status(job_id).status == "done"
        assert [job.job_id for job in catalog.list().jobs] == [job_id]
        assert catalog.result(job_id).error is None
    later = processes.boottime_ns
    monkeypatch.setattr(processes, "boottime_ns", lambda: later() + 2 * HOUR)
    with Catalog(settings) as catalog:
        assert catalog.list().jobs == ()
        assert catalog.prune() == [job_id]


@pytest.mark.parametrize("text", ["-9999999999999999999", "-99999999999999999999", "9" * 20, "--5", "1e5", "²"])
def test_a_number_that_is_no_time_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ".clock").write_text(f"{processes.boot_id()[:12]}.{text}", encoding="utf-8")
    clock = Clock(str(tmp_path))
    assert abs(clock.now_ns() - time.time_ns()) < HOUR
    clock.mark()
    assert abs(Clock(str(tmp_path)).now_ns() - time.time_ns()) < HOUR
    assert text not in (tmp_path / ".clock").read_text(encoding="utf-8")


def test_what_is_no_file_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / ".clock"
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path), lambda: bind(path)):
        make()
        clock = Clock(str(tmp_path))
        clock.mark()
        assert abs(clock.now_ns() - time.time_ns()) < HOUR
        path.rmdir() if path.is_dir() else path.unlink()
        assert os.listdir(tmp_path) == []


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # its name has to be short


def test_a_root_with_a_directory_in_its_place_can_be_used(state_dir: Path) -> None:
    (state_dir / ".clock").mkdir()
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert catalog.list().jobs == ()
        assert catalog.prune() == []
