"""Real jobs that are tried again: each attempt is a job that is launched at most once, and the series goes on."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.admission.launch_helper import only_one
from supervisor.errors import InvalidArguments, JobNotFound, JobRunning
from supervisor.jobdir.records import ORDERS, STDIN
from supervisor.jobs.catalog import Catalog
from supervisor.retry import attempt_id
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import Fifo, Host, World

pytestmark = [
    pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux"),
    pytest.mark.usefixtures("world"),
]
PATIENCE = 60
POINTS = Path(__file__).parents[1] / "chaos"
POLICY = {"maximum_attempts": 3, "initial_interval": 0, "retry_on": ["job_failed"]}
FAILS = 'echo x >> "$0"; exit 7'
COUNTS = 'echo x >> "$0"; test "$(wc -l < "$0")" -ge "$1" || exit 7; echo "$SECRET"; cat'
WAITS = 'echo x >> "$0"; echo up > "$1"; read line < "$2"; exit 7'


def retry(**others: Any) -> supervisor.Retry:
    return supervisor.Retry(**POLICY | others)


def tries(path: Path) -> int:
    return len(path.read_text().splitlines())


def command(world: World, *words: str, **others: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "supervisor", *words]
    environment = world.environment | others
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=PATIENCE)


def killed_at(world: World, point: str, *words: str) -> bool:
    """Run a command that is killed at a failpoint; ``False`` if it did not get there."""
    program = (
        f"import sys; sys.path.insert(0, {str(POINTS)!r}); import points\n"
        "points.install(points.RETRIES, points.module_of_package, keeper=False)\n"
        "from supervisor.cli import main; main()"
    )
    plan = json.dumps([{"point": point, "nth": 1, "do": "self"}])
    environment = world.environment | {"CHAOS_PLAN": plan, "CHAOS_HITS": str(world.directory / "hits")}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, timeout=PATIENCE, check=False
    )
    return done.returncode == -9


@contextlib.contextmanager
def unrecorded(world: World, host: Host, **policy: Any) -> Generator[tuple[str, Path, Fifo, Fifo]]:
    """Have a job that has failed, and no process that records that in the block.

    Gives its id, the file of its attempts, and the pipes that let an attempt end, and tell that one has begun.
    """
    marks, up, gate = world.directory / "marks", world.fifo(), world.fifo()
    named = {"retry": POLICY | policy}
    job_id = host.start("sh", "-c", WAITS, str(marks), str(up), str(gate), **named)
    assert up.line() == "up"
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    with only_one(world.catalog.index) as alone:  # its keeper starts no helper, which would record the end
        assert alone
        host.kill()
        gate.open()
        assert leader.ended()
        assert keeper.ended()
        yield job_id, marks, gate, up


async def test_a_job_is_tried_until_it_is_done_with_its_environment_and_input(world: World) -> None:
    marks = world.directory / "marks"
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(
            ["sh", "-c", COUNTS, str(marks), "3"],
            retry=retry(initial_interval=0.05),
            env={**os.environ, "SECRET": "s3"},
            stdin=b"input",
            labels={"a": "b"},
            idempotency_key="k",
        )
        with trio.fail_after(PATIENCE):
            last = await sup.wait(job.job_id)
        assert (last.status, last.attempt, last.labels) == ("done", 3, {"a": "b"})
        assert (await sup.result(job.job_id)).value == "s3\ninput"
        first = await sup.status(job.job_id)
        assert (first.status, first.exit_code, first.attempt, first.retry_of) == ("failed", 7, 1, None)
        second = await sup.status(first.retried_by or "")
        assert (second.retry_of, second.retried_by) == (first.job_id, last.job_id)
        assert {each.series_id for each in (first, second, last)} == {first.job_id}
        again = await sup.start(
            ["sh", "-c", COUNTS, str(marks), "3"], stdin=b"input", env={**os.environ, "SECRET": ""}, idempotency_key="k"
        )
        assert again.job_id == first.job_id
        assert tries(marks) == 3
    assert not [*world.root.glob(f"*/*/{ORDERS}"), *world.root.glob(f"*/*/{STDIN}")]


async def test_the_last_attempt_is_the_result_also_of_run(world: World) -> None:
    marks = world.directory / "marks"
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(PATIENCE):
            result = await sup.run(["sh", "-c", FAILS, str(marks)], retry=retry())
        assert (result.job.attempt, result.job.exit_code, tries(marks)) == (3, 7, 3)
        assert result.error is not None
        await sup.forget(result.job_id)
        with pytest.raises(JobNotFound):
            await sup.result(result.job.series_id or "")
        assert (await sup.wait(result.job.series_id or "")).attempt == 2


async def test_one_try_and_what_is_not_named_are_not_tried_again(world: World) -> None:
    marks = world.directory / "marks"
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(PATIENCE):
            for policy in (None, retry(maximum_attempts=1), retry(retry_on=[8])):
                marks.unlink(missing_ok=True)
                assert (await sup.run(["sh", "-c", FAILS, str(marks)], retry=policy)).job.retried_by is None
                assert tries(marks) == 1


async def test_an_attempt_waits_for_its_time_and_a_cancel_of_any_attempt_ends_the_series(world: World) -> None:
    marks = world.directory / "marks"
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", FAILS, str(marks)], retry=retry(initial_interval=3600))
        with pytest.raises(JobRunning):
            await sup.wait(job.job_id, timeout=1)
        first = await sup.status(job.job_id)
        second = await sup.status(first.retried_by or "")
        assert (first.status, second.status, second.queue_reason) == ("failed", "queued", "retry")
        assert first.next_attempt_at == second.next_attempt_at is not None
        assert stat.S_IMODE((world.job(second.job_id) / ORDERS).stat().st_mode) == 0o600
        with pytest.raises(JobRunning):
            await sup.result(job.job_id)
        with pytest.raises(JobRunning):
            await sup.forget(job.job_id)
        ended = await sup.cancel(job.job_id)
        assert (ended.job_id, ended.status, ended.started_at) == (second.job_id, "cancelled", None)
        assert (await sup.wait(job.job_id)).status == "cancelled"
        assert tries(marks) == 1
        assert not list(world.root.glob(f"*/*/{ORDERS}"))


async def test_a_cancelled_job_is_not_tried_again(world: World) -> None:
    up = world.fifo()
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(
            ["sh", "-c", 'trap "exit 7" TERM; echo up > "$0"; while :; do sleep 0.05; done', str(up)], retry=retry()
        )
        assert up.line() == "up"
        ended = await sup.cancel(job.job_id)
        assert (ended.job_id, ended.status, ended.retried_by) == (job.job_id, "cancelled", None)


async def test_a_dependency_on_a_series_waits_for_its_last_attempt(world: World) -> None:
    marks = world.directory / "marks"
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", COUNTS, str(marks), "2"], retry=retry(initial_interval=0.05))
        then = await sup.start(["wc", "-l", str(marks)], after=[job.job_id])
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(then.job_id)).status == "done"
        assert str((await sup.result(then.job_id)).value).split()[0] == "2"


async def test_a_workspace_that_is_gone_ends_the_series(world: World) -> None:
    gone = world.directory / "gone"
    gone.mkdir()
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", 'rmdir "$PWD"; exit 7'], workspace=gone, retry=retry())
        with trio.fail_after(PATIENCE):
            last = await sup.wait(job.job_id)
        assert (last.attempt, last.reason, last.retried_by) == (2, "launch_failed", None)


async def test_a_command_that_is_not_there_is_tried_as_often_as_said() -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["/no/such/program"], retry=retry(retry_on=["launch_failed"]))
        with trio.fail_after(PATIENCE):
            last = await sup.wait(job.job_id)
        assert (last.attempt, last.reason) == (3, "launch_failed")
        once = await sup.start(["/no/such/program"], retry=retry())
        assert once.retried_by is None


async def test_a_limit_holds_for_attempts(world: World) -> None:
    """Ten jobs that fail at once, in a group of two: no more than two attempts run at a time."""
    marks = world.directory / "marks"
    script = 'echo + >> "$0"; sleep 0.05; echo - >> "$0"; exit 7'
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=2)
        jobs = [
            await sup.start(["sh", "-c", script, str(marks)], groups=["g"], retry=retry(initial_interval=0.02))
            for _ in range(10)
        ]
        with trio.fail_after(2 * PATIENCE):
            for job in jobs:
                assert (await sup.wait(job.job_id)).attempt == 3
    running = most = 0
    for line in marks.read_text().splitlines():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert (running, most, tries(marks)) == (0, 2, 60)


def test_a_lost_job_is_tried_again_only_if_that_is_wanted(world: World) -> None:
    for wanted in (False, True):
        marks, up = world.directory / f"marks{wanted}", world.fifo()
        host = world.host()
        job_id = host.start(
            *("sh", "-c", 'echo x >> "$0"; echo up > "$1"; exec sleep 600', str(marks), str(up)),
            retry=POLICY | {"maximum_attempts": 2, "retry_lost": wanted, "initial_interval": 3600},
        )
        assert up.line() == "up"
        leader, keeper = world.leader(job_id), world.keeper(job_id)
        with only_one(world.catalog.index) as alone:  # no other process watches it
            assert alone
            host.kill()
            keeper.kill()
            leader.kill()
            assert leader.reaped()
        job = world.catalog.status(job_id)
        assert (job.reason, job.retried_by is not None) == ("lost", wanted)


@pytest.mark.parametrize(
    "point",
    ["settle.before", "retry.described", "retry.moved", "retry.inserted", "retry.depending", "settle.uncommitted"],
)
def test_a_process_that_is_killed_while_it_ends_an_attempt_leaves_one_next_attempt(world: World, point: str) -> None:
    with unrecorded(world, world.host(), maximum_attempts=2) as (job_id, marks, gate, up):
        assert killed_at(world, point, "status", job_id)
        assert killed_at(world, point, "status", job_id) or point == "retry.described"  # that is done once
    host = world.host()
    assert up.line() == "up"
    gate.open()
    last = host.call("wait", job_id, timeout=PATIENCE)
    assert (last["attempt"], last["retry_of"], last["exit_code"]) == (2, job_id, 7)
    assert tries(marks) == 2
    assert len(world.catalog.list().jobs) == 2


def test_a_process_that_is_killed_after_the_commit_leaves_one_next_attempt(world: World) -> None:
    with unrecorded(world, world.host(), maximum_attempts=2) as (job_id, marks, gate, up):
        assert killed_at(world, "write.committed", "status", job_id)
    host = world.host()
    assert up.line() == "up"
    gate.open()
    assert host.call("wait", job_id, timeout=PATIENCE)["attempt"] == 2
    assert tries(marks) == 2


@pytest.mark.parametrize("point", ["settle.before", "retry.described", "retry.inserted", "settle.uncommitted"])
def test_no_attempt_follows_a_cancel_that_was_answered(world: World, point: str) -> None:
    """The process that ended the first attempt was killed before the commit: the cancel ends that attempt first."""
    with unrecorded(world, world.host(), initial_interval=3600) as (job_id, marks, _, _):
        assert killed_at(world, point, "status", job_id)
        assert command(world, "cancel", job_id).returncode == 0
    host = world.host()
    assert host.call("wait", job_id, timeout=PATIENCE)["status"] in {"cancelled", "failed"}
    assert {job.status for job in world.catalog.list().jobs} <= {"cancelled", "failed"}
    assert tries(marks) == 1
    assert not list(world.root.glob(f"*/*/{ORDERS}"))


def test_a_rebuild_in_the_middle_of_a_series_gives_the_same_series(world: World) -> None:
    with unrecorded(world, world.host(), initial_interval=3600) as (job_id, marks, _, _):
        pass
    host = world.host()
    second = attempt_id(job_id, 2)
    assert host.call("wait", job_id, timeout=0) == "job_running"
    world.catalog.status(job_id)
    before = [supervisor.to_json(job) for job in world.catalog.list().jobs]
    (world.root / "registry.db").write_bytes(b"rubbish" * 1000)
    with Catalog(supervisor.Settings(state_dir=world.root)) as catalog:
        after = [supervisor.to_json(job) for job in catalog.list().jobs]
    assert [job["job_id"] for job in after] == [second, job_id]
    for job in (*before, *after):
        del job["elapsed_ms"]
    assert after == before
    assert tries(marks) == 1


def test_attempts_are_launched_after_the_command_that_has_started_the_first(world: World) -> None:
    """No supervisor is open: the process that the command leaves behind ends the attempts, and launches the next."""
    marks = world.directory / "marks"
    words = ("--attempts", "3", "--retry-on", "7", "--retry-delay", "0.1", "--", "sh", "-c", COUNTS, str(marks), "3")
    started = command(world, "start", *words, SECRET="")
    assert started.returncode == 0
    waited = command(world, "wait", started.stdout.strip())
    assert waited.returncode == 0
    assert tries(marks) == 3


def test_the_keeper_has_the_next_attempt_launched_if_no_process_of_ours_is_left(world: World) -> None:
    marks, up, gate = world.directory / "marks", world.fifo(), world.fifo()
    words = ("--attempts", "3", "--retry-on", "7", "--retry-delay", "0", "--", "sh", "-c", WAITS)
    started = command(world, "start", *words, *map(str, (marks, up, gate)))
    assert started.returncode == 0
    for attempt in (1, 2, 3):
        assert up.line() == "up"
        assert tries(marks) == attempt
        gate.open()
    (job,) = world.catalog.wait([started.stdout.strip()], timeout=PATIENCE)
    assert (job.attempt, job.exit_code) == (3, 7)


def test_run_shows_the_output_of_each_attempt(world: World) -> None:
    marks = world.directory / "marks"
    words = ("--attempts", "3", "--retry-on", "job_failed", "--retry-delay", "0.1", "--retry-factor", "1")
    script = 'echo x >> "$0"; wc -l < "$0"; test "$(wc -l < "$0")" -ge 3'
    done = command(world, "run", *words, "--", "sh", "-c", script, str(marks))
    assert done.returncode == 0
    assert done.stdout.split() == ["1", "2", "3"]
    assert "attempt 2 of 3: failed (exit status 1)" in done.stderr
    listed = command(world, "status", world.catalog.list().jobs[0].job_id).stdout
    assert "Attempt" in listed
    assert "3 of 3, after " in listed
    shown = json.loads(command(world, "run", *words, "--json", "--", "false").stdout)
    assert shown["job"]["attempt"] == 3


def test_wrong_options_are_refused(world: World) -> None:
    for words, text in [
        (("--retry-on", "7"), "--retry-on needs --attempts"),
        (("--attempts", "0"), "maximum_attempts"),
        (("--attempts", "2", "--retry-on", "No"), "retry_on"),
        (("--attempts", "2", "--retry-on", "job_fialed"), "Name an exit code, or one of job_failed, "),
        (("--attempts", "2", "--retry-never-on", "api_overloaded"), "never_retry_on has 'api_overloaded'"),
        (("--attempts", "2", "--retry-factor", "0"), "backoff_coefficient"),
    ]:
        done = command(world, "start", *words, "--", "true")
        assert done.returncode == 2
        assert text in done.stderr


async def test_what_is_no_policy_is_refused(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        with pytest.raises(InvalidArguments, match="retry"):
            await sup.start(["true"], retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a mistake
        assert (await sup.list()).jobs == ()
    assert not list(world.root.glob("*-*/*"))
