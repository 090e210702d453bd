"""A job that deletes or replaces its own records, or its whole directory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.system import observing

if TYPE_CHECKING:
    from tests.process.conftest import Proc, World

PATIENCE = 60
OLD = "started before"


def started(world: World) -> tuple[str, Proc, Path]:
    """Start a job with a supervisor and a row that say that it runs, and close the supervisor."""
    done = cli(world, "start", "--key", OLD, "--", "sleep", "600")
    job_id = done.stdout.strip()
    assert world.catalog.status(job_id).status == "running"
    return job_id, world.leader(job_id), world.job(job_id)


def cli(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, env=world.environment, capture_output=True, text=True, timeout=PATIENCE, check=False)


def delete(directory: Path, *names: str) -> None:
    for name in names or os.listdir(directory):
        (directory / name).unlink()


DELETED = {
    "claim and process": (records.CLAIM, records.PROCESS),
    "request as well": (records.CLAIM, records.PROCESS, records.JOB),
    "all": (),
}
deleted = pytest.mark.parametrize("names", DELETED.values(), ids=DELETED)


@deleted
def test_a_running_job_without_its_records_is_no_job_that_never_ran(world: World, names: tuple[str, ...]) -> None:
    job_id, leader, directory = started(world)
    delete(directory, *names)
    job = world.catalog.status(job_id)
    assert (job.status, job.pid) == ("running", leader.pid)
    assert cli(world, "start", "--key", OLD, "--", "sleep", "600").stdout.strip() == job_id
    assert world.catalog.cancel(job_id).status == "cancelled"
    assert leader.ended(0)


@deleted
def test_one_that_has_ended_unseen_is_lost(world: World, names: tuple[str, ...]) -> None:
    job_id, leader, directory = started(world)
    world.keeper(job_id).kill()
    leader.kill()
    delete(directory, *names)
    job = world.catalog.status(job_id)
    assert (job.status, job.reason) == ("failed", "lost")
    error = world.catalog.result(job_id).error
    assert error is not None
    assert (error.code, error.retryable, "never_launched" in error.details) == ("job_lost", False, False)
    again = cli(world, "start", "--key", OLD, "--", "sleep", "600")
    assert again.stdout.strip() == job_id  # whether it succeeded is not known


@deleted
async def test_a_supervisor_that_adopts_it_finds_it_by_its_mark(world: World, names: tuple[str, ...]) -> None:
    job_id, leader, directory = started(world)
    async with supervisor.open_supervisor() as sup:
        delete(directory, *names)
        with trio.fail_after(PATIENCE):
            assert (await sup.status(job_id)).status == "running"
            assert (await sup.cancel(job_id)).status == "cancelled"
    assert leader.ended(0)


def test_a_record_that_denies_a_launch_which_is_known_is_not_believed(world: World) -> None:
    job_id, leader, directory = started(world)
    world.keeper(job_id).kill()
    leader.kill()
    delete(directory)
    forged = {"launch_error": "x", "launch_status": 125, "never_launched": True, "ended_ns": 1}
    records.create(str(directory), records.EXIT, dict[str, object](forged))
    error = world.catalog.result(job_id).error
    assert error is not None
    assert (error.code, "never_launched" in error.details) == ("job_lost", False)


# ---------------------------------------------------------------- its directory


REPLACED = {
    "a loop of links": 'ln -s "$D" "$D"',
    "a longer loop": 'ln -s "$D.other" "$D"; ln -s "$D" "$D.other"',
    "a link to nowhere": 'ln -s /nowhere "$D"',
    "a file": 'echo > "$D"',
}


@pytest.mark.parametrize("how", REPLACED.values(), ids=REPLACED)
async def test_a_job_that_replaces_its_directory_ends(world: World, how: str) -> None:
    told, gate = world.fifo(), world.fifo()
    script = f'D=$(dirname "$(readlink /proc/$$/fd/1)"); mv "$D" "$D.x"; {how}; echo "$D" > {told}; read x < {gate}'
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", script])
        directory = await trio.to_thread.run_sync(told.line)
        gate.open()
        with trio.fail_after(PATIENCE):
            ended = await sup.wait(job.job_id)
        assert ended.status.terminal
        logs = await trio.to_thread.run_sync(cli, world, "logs", "--follow", job.job_id)
        assert "internal_error" not in logs.stderr
    with Catalog(supervisor.Settings()) as catalog:
        assert catalog.status(job.job_id).status.terminal
        assert catalog.cancel(job.job_id).status.terminal
    for path in (directory, f"{directory}.other"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    os.rename(f"{directory}.x", directory)


def test_what_is_behind_a_loop_of_links_is_not_there(tmp_path: Path) -> None:
    loop, other = tmp_path / "loop", tmp_path / "other"
    loop.symlink_to(other)
    other.symlink_to(loop)
    assert observing.find(str(loop / "x")) is None
    assert observing.find(str(loop / "x" / "y")) is None
    assert observing.find(str(loop)) is not None
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert not observing.is_absent(OSError(errno.ELOOP, "x"), str(link / "loop"))  # the file itself exists


# ---------------------------------------------------------------- what is not known now


@pytest.mark.parametrize("words", [("logs",), ("logs", "--follow"), ("logs", "--stderr")])
def test_output_that_cannot_be_read_now_is_an_error_that_passes(
    world: World, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    from click.testing import CliRunner

    from supervisor.cli.app import app

    job_id, _, directory = started(world)
    monkeypatch.setattr(os, "fstat", failing(os.fstat, directory))
    done = CliRunner().invoke(app, [*words, "--json", job_id])
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    assert (error["code"], error["retryable"]) == ("state_busy", True)


def failing(fstat: Any, directory: Path) -> Any:
    def fails(descriptor: int) -> os.stat_result:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(directory)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        found: os.stat_result = fstat(descriptor)
        return found

    return fails


# ---------------------------------------------------------------- its output


DELETES = 'F=$(readlink /proc/$$/fd/1); echo 1; rm "$F"'
MOVES = 'F=$(readlink /proc/$$/fd/1); echo 1; mv "$F" "$F.x"; mkdir "$F"'


@pytest.mark.parametrize("script", [DELETES, MOVES], ids=["deleted", "a directory in its place"])
async def test_an_output_that_the_command_has_deleted_is_no_empty_answer(world: World, script: str) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.wait((await sup.start(["sh", "-c", script])).job_id)
        assert job.status == "done"
        with pytest.raises(supervisor.SupervisorError, match="the file with the stdout of job") as caught:
            await sup.result(job.job_id)
        assert caught.value.code == "output_lost"
        with pytest.raises(supervisor.SupervisorError, match="is gone"):
            async with sup.follow(job.job_id) as chunks:
                assert [chunk async for chunk in chunks] == []
        async with sup.follow(job.job_id, "stderr") as chunks:
            assert [chunk async for chunk in chunks] == []
    for words in (("result",), ("logs",), ("logs", "--follow")):
        done = await trio.to_thread.run_sync(cli, world, *words, "--json", job.job_id)
        assert json.loads(done.stdout)["error"]["code"] == "output_lost"
        assert done.returncode == 125


def test_the_logs_of_a_job_that_was_never_launched_are_empty(world: World) -> None:
    done = cli(world, "start", "--json", "--", "/nowhere/nothing")
    job_id = json.loads(done.stdout)["job"]["job_id"]
    logs = cli(world, "logs", job_id)
    assert (logs.returncode, logs.stdout) == (0, "")
