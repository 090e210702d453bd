"""A record of a running job is damaged or lies: the job's true state is reported, and a cancel completes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.engines.local.client import LocalClient
from supervisor.jobdir import records
from supervisor.jobs import refreshing
from tests.process.conftest import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import Proc, World


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def lie(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="ascii")

    return change


def remove(path: Path) -> None:
    path.unlink()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


DAMAGES = {
    "torn": tear,
    "missing": remove,
    "a loop": loop,
    "of an odd type": lie(pid="x"),
    "too large": lie(pid=2**80),
    "of another keeper": lie(keeper_pid=1, keeper_start=1),
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def cancel_by_its_own(world: World, job_id: str, host: Any) -> str:
    status: str = host.call("cancel", job_id)["status"]
    assert world.catalog.status(job_id).status == status
    return status


def cancel_by_another(world: World, job_id: str, _: Any) -> str:
    return cancel_by_its_own(world, job_id, world.host())


def cancel_without_an_event_loop(world: World, job_id: str, _: Any) -> str:
    return world.catalog.cancel(job_id).status


cancelled = pytest.mark.parametrize("cancel", [cancel_by_its_own, cancel_by_another, cancel_without_an_event_loop])


@damaged
@cancelled
def test_cancel_under_a_damaged_process_record(
    world: World,
    damage: Callable[[Path], None],
    cancel: Callable[[World, str, Any], str],
) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader = world.leader(job_id)
    damage(world.job(job_id) / records.PROCESS)
    assert cancel(world, job_id, host) == "cancelled"
    assert leader.ended(0)


@pytest.mark.parametrize("damage", [DAMAGES["torn"], DAMAGES["of an odd type"]])
def test_a_damaged_process_record_is_restored(world: World, damage: Callable[[Path], None]) -> None:
    job_id = world.host().start("sleep", "600", deadline_seconds=500)
    leader, before = world.leader(job_id), world.record(job_id, records.PROCESS)
    assert before is not None
    assert world.catalog.status(job_id).status == "running"  # its row has the launch from now on
    damage(world.job(job_id) / records.PROCESS)
    give_up = time.monotonic() + PATIENCE
    after: dict[str, Any] | None = None
    while not after:  # a look that does not find the mark of a process says nothing: the next one looks again
        assert time.monotonic() < give_up
        job = world.catalog.status(job_id)
        assert (job.status, job.pid, job.detail) == ("running", leader.pid, "process.json cannot be read")
        after = world.record(job_id, records.PROCESS)
    same = ("pid", "start", "boot", "ns", "keeper_pid", "keeper_start")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert abs(after["deadline_boot_ns"] - before["deadline_boot_ns"]) < 20_000_000  # two ticks of the clock
    assert world.catalog.status(job_id).detail is None


def test_one_without_its_mark_is_left_to_its_keeper(world: World) -> None:
    told = world.fifo()
    job_id = world.host().start("sh", "-c", 'exec env -i sh -c "echo up > $1; exec sleep 600"', "sh", str(told))
    leader = world.leader(job_id)
    assert told.line() == "up"
    tear(world.job(job_id) / records.PROCESS)
    assert not world.catalog.status(job_id).status.terminal
    assert leader.alive
    assert world.catalog.cancel(job_id).status == "cancelled"
    assert leader.ended(0)


@pytest.mark.slow  # an observer waits two seconds for a keeper
@pytest.mark.parametrize("damage", [tear, remove])
@cancelled
def test_cancel_while_the_keeper_is_stopped_as_well(
    world: World,
    damage: Callable[[Path], None],
    cancel: Callable[[World, str, Any], str],
) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader = world.leader(job_id)
    world.stop(world.keeper(job_id))
    damage(world.job(job_id) / records.PROCESS)
    assert cancel(world, job_id, host) == "cancelled"
    assert leader.ended(0)


@pytest.mark.slow
def test_a_keeper_that_falls_silent_in_a_stop_is_outlasted(world: World) -> None:
    told = world.fifo()
    host = world.host()
    stubborn = """trap 'echo termed > "$1"' TERM; echo up > "$1"; while :; do sleep 600 & wait; done"""
    job_id = host.start("sh", "-c", stubborn, "sh", str(told))
    keeper, leader = world.keeper(job_id), world.leader(job_id)
    assert told.line() == "up"
    host.kill()
    records.create(
        str(world.job(job_id)),
        records.STOP,
        {"why": "cancelled", "by": "test", "requested_ns": 1, "signalled_boot_ns": None, "gone": False},
    )
    keeper.send(signal.SIGUSR1)
    assert told.line() == "termed"
    world.stop(keeper)
    assert world.catalog.cancel(job_id).status == "cancelled"
    assert leader.ended(0)


@pytest.fixture
def stranger(world: World) -> Iterator[Proc]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield world.hold(process.pid)
        process.kill()


@pytest.mark.parametrize("keeper_is", ["alive", "dead"])
@pytest.mark.parametrize("which", ["leader", "keeper", "both"])
def test_a_record_that_names_a_stranger_exactly(world: World, stranger: Proc, keeper_is: str, which: str) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader = world.leader(job_id)
    if keeper_is == "dead":
        keeper = world.keeper(job_id)
        host.kill()
        keeper.kill()
    path = world.job(job_id) / records.PROCESS
    record = json.loads(path.read_bytes())
    if which != "keeper":
        record |= {"pid": stranger.pid, "start": stranger.start}
    if which != "leader":
        record |= {"keeper_pid": stranger.pid, "keeper_start": stranger.start}
    path.write_text(json.dumps(record), encoding="ascii")
    assert world.catalog.status(job_id).status == "running"
    assert world.catalog.cancel(job_id).status == "cancelled"
    assert leader.ended(0)
    assert stranger.alive


def test_an_exit_record_that_was_damaged_under_its_keeper_is_waited_for_no_longer(world: World) -> None:
    """The keeper lives, has written the record once, and will not write it again."""
    host = world.host()
    host.start("sleep", "600")
    ended = host.call("run", ["sh", "-c", "exit 3"])["job"]["job_id"]
    tear(world.job(ended) / records.EXIT)
    for path in world.root.glob("registry.db*"):
        path.unlink()
    (job,) = world.catalog.wait([ended], timeout=60)
    assert (job.status, job.reason, job.exit_code) == ("failed", "lost", None)
    assert world.catalog.result(ended).error is not None


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"{",
        b"[]",
        b'{"v":1}',
        b'{"v":1,"why":[],"signalled_boot_ns":"x"}',
        b'{"v":1,"why":"x","signalled_boot_ns":-1}',
    ],
)
def test_a_damaged_stop_request_does_not_prevent_a_stop(world: World, request_: bytes) -> None:
    host = world.host()
    jobs = [host.start("sleep", "600") for _ in range(3)]
    leaders = [world.leader(job_id) for job_id in jobs]
    (world.job(jobs[0]) / records.STOP).write_bytes(request_)
    world.keeper(jobs[0]).send(signal.SIGUSR1)  # as a process that requests a stop does
    assert host.call("cancel", jobs[1])["status"] == "cancelled"
    assert [world.catalog.cancel(job_id).status for job_id in jobs] == ["cancelled"] * 3
    assert all(leader.ended(0) for leader in leaders)


def test_a_directory_in_place_of_a_record_costs_no_other_job(world: World) -> None:
    host = world.host()
    damaged_one, other = host.start("sleep", "600"), host.start("sleep", "600")
    leader = world.leader(damaged_one)
    path = world.job(damaged_one) / records.PROCESS
    path.unlink()
    path.mkdir()
    (path / "full").touch()
    assert {job.job_id: job.status for job in world.catalog.list().jobs} == {damaged_one: "running", other: "running"}
    assert world.catalog.cancel(damaged_one).status == "cancelled"
    assert leader.ended(0)


def test_a_job_that_cannot_be_looked_at_hides_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host = world.host()
    odd, other = host.start("sleep", "600"), host.start("sleep", "600")
    look = refreshing._observe

    def refuse(jobs: Any, row: Any, directory: str, **options: Any) -> Any:
        if row.job_id == odd:
            raise OSError(28, "No space left on device")
        return look(jobs, row, directory, **options)

    with monkeypatch.context() as patched:
        patched.setattr(refreshing, "_observe", refuse)
        patched.setattr(LocalClient, "cached", lambda *_: None)
        found = {job.job_id: job for job in world.catalog.list().jobs}
    assert found.keys() == {odd, other}
    assert "No space left" in (found[odd].detail or "")
    assert found[other].detail is None
