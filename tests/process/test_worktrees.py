"""Jobs in worktrees of their own: from the command line to the keeper and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

import supervisor
from supervisor.errors import FeatureUnavailable, InvalidArguments, JobRunning
from supervisor.jobs import worktrees
from supervisor.jobs.catalog import Catalog
from supervisor.runtime import janitor
from supervisor.settings import Settings
from supervisor.testing import FakeEngine

if TYPE_CHECKING:
    from tests.process.conftest import World

ROOT = Path(__file__).parents[2]
_GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "init.defaultBranch=main")


def git(where: Path | str, *words: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run([*_GIT, *words], cwd=where, env=env, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    (path / "below").mkdir(parents=True)
    (path / "kept.txt").write_text("one\n")
    (path / "below/other.txt").write_text("two\n")
    git(path, "init", "-q")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "one")
    return path


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


def worktree_of(job: supervisor.Job) -> Mapping[str, Any]:
    assert job.worktree is not None
    return job.worktree


async def test_a_job_runs_in_its_worktree_and_is_listed_under_its_workspace(
    settings: Settings, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("PWD", str(repository / "below"))
    async with supervisor.open_supervisor(settings) as sup:
        words = ["sh", "-c", "pwd; echo $PWD; git rev-parse --abbrev-ref HEAD; echo x > new.txt"]
        result = await sup.run(words, workspace=repository / "below", worktree="head")
        (listed,) = (await sup.list(workspace=repository / "below")).jobs
    job = result.job
    path = f"{settings.state_dir}/worktrees/{job.job_id}"
    assert result.value == f"{path}/below\n{path}/below\nsupervisor/{job.job_id}\n"
    assert job.workspace == str(repository / "below")
    assert worktree_of(job)["state"] == "changed"
    assert worktree_of(listed) == worktree_of(job)
    assert worktree_of(job)["base"] == git(repository, "rev-parse", "main").strip()
    assert result.changes is not None
    assert {name: result.changes[name] for name in ("files", "insertions", "deletions", "commits")} == {
        "files": 1, "insertions": 1, "deletions": 0, "commits": 0,
    }  # fmt: skip
    assert "+++ b/below/new.txt" in result.changes["diff"]
    assert not (repository / "below/new.txt").exists()


async def test_nothing_is_left_of_a_worktree_in_which_a_job_has_changed_nothing(
    settings: Settings, repository: Path
) -> None:
    async with supervisor.open_supervisor(settings) as sup:
        result = await sup.run(["cat", "kept.txt"], workspace=repository, worktree="dirty")
    assert result.value == "one\n"
    assert worktree_of(result.job)["state"] == "removed"
    assert not await trio.Path(worktree_of(result.job)["path"]).exists()
    assert git(repository, "branch", "--list", "supervisor/*") == ""


async def test_a_workspace_in_no_repository_is_refused(settings: Settings, tmp_path: Path) -> None:
    async with supervisor.open_supervisor(settings) as sup:
        with pytest.raises(InvalidArguments, match="is in no git repository"):
            await sup.start(["true"], workspace=tmp_path, worktree="head")
        with pytest.raises(InvalidArguments, match="it must be fresh, head, dirty or the id of a job"):
            await sup.start(["true"], workspace=tmp_path, worktree="tail")
        assert not (await sup.list()).jobs


async def test_an_engine_that_makes_no_worktrees_says_so(settings: Settings, repository: Path) -> None:
    async with supervisor.open_supervisor(settings, engine=FakeEngine()) as sup:
        with pytest.raises(FeatureUnavailable, match="makes no worktrees"):
            await sup.start(["true"], workspace=repository, worktree="head")


async def test_a_git_that_fails_fails_the_launch_with_its_message(settings: Settings, repository: Path) -> None:
    async with supervisor.open_supervisor(settings) as sup:
        result = await sup.run(["true"], workspace=repository, worktree="fresh")
    assert result.job.reason == "launch_failed"
    assert result.error is not None
    assert "the default branch of origin is not known" in result.error.message
    assert "without a worktree" in result.error.repair
    assert worktree_of(result.job)["state"] == "removed"


async def test_attempts_share_a_worktree_and_reruns_do_not(settings: Settings, repository: Path) -> None:
    retry = supervisor.Retry(maximum_attempts=2, initial_interval=0.01, retry_on=("3",))
    async with supervisor.open_supervisor(settings) as sup:
        words = ["sh", "-c", "echo x >> count.txt; test $(wc -l < count.txt) -ge 2 || exit 3"]
        job = await sup.start(words, workspace=repository, worktree="head", retry=retry)
        ended = await sup.wait(job.job_id)
        assert (ended.attempt, ended.status) == (2, "done")
        assert worktree_of(ended)["path"] == worktree_of(job)["path"]
        again = await sup.rerun(ended.job_id, argv=["test", "!", "-e", "count.txt"], retry=None)
        assert (await sup.wait(again.job_id)).exit_code == 0
        assert worktree_of(again)["path"].endswith(again.job_id)
        beside = await sup.run(["cat", "count.txt"], workspace=repository, worktree=ended.job_id)
    assert beside.value == "x\nx\n"


async def test_a_worktree_with_work_outlives_its_job(settings: Settings, repository: Path) -> None:
    async with supervisor.open_supervisor(settings) as sup:
        words = ["sh", "-c", "echo x > new.txt; echo ready; exec sleep 60"]
        job = await sup.start(words, workspace=repository, worktree="head")
        path = Path(worktree_of(job)["path"])
        async with sup.follow(job.job_id) as chunks:
            async for _ in chunks:
                break
        with Catalog(settings) as catalog, pytest.raises(JobRunning, match="is in use"):
            worktrees.remove(catalog, job.job_id)
        await sup.cancel(job.job_id)
    with Catalog(settings) as catalog:
        catalog.forget(job.job_id)
        catalog.prune()
        (found,) = worktrees.listing(catalog)
        assert (found["job_id"], found["job_known"], found["state"]) == (job.job_id, False, "changed")
        with pytest.raises(InvalidArguments, match=r"there are new files: new\.txt"):
            worktrees.remove(catalog, job.job_id)
        assert (path / "new.txt").read_text() == "x\n"
        (path / "new.txt").unlink()
        worktrees.remove(catalog, worktrees.resolve(catalog, job.job_id[:8]))
        assert worktrees.listing(catalog) == []
    assert sorted(os.listdir(settings.state_dir / "worktrees")) == []


@pytest.mark.parametrize("forgotten_by", ["time to live", "count"])
async def test_retention_deletes_a_worktree_only_if_there_is_no_work_in_it(
    settings: Settings, repository: Path, monkeypatch: pytest.MonkeyPatch, forgotten_by: str
) -> None:
    """The supervisor that ran the jobs was killed before it could examine the worktrees."""
    swept, sweep_worktrees = trio.Event(), janitor.sweep_worktrees

    def sweep(catalog: Catalog) -> None:
        sweep_worktrees(catalog)
        trio.from_thread.run_sync(swept.set)

    with monkeypatch.context() as patches:
        patches.setattr("supervisor.runtime.worktrees.settle_worktree", _nothing)
        short = attrs.evolve(settings, job_ttl=1e-3 if forgotten_by == "time to live" else 60)
        async with supervisor.open_supervisor(short) as sup:
            jobs = [
                await sup.wait((await sup.start(words, workspace=repository, worktree="head")).job_id)
                for words in (["true"], ["sh", "-c", "echo x > new.txt"])
            ]
    assert [worktree_of(job)["state"] for job in jobs] == ["in_use", "in_use"]
    if forgotten_by == "count":
        async with supervisor.open_supervisor(attrs.evolve(settings, job_max_count=1)) as sup:
            for _ in jobs:
                await sup.wait((await sup.start(["true"], workspace=repository)).job_id)
    monkeypatch.setattr("supervisor.runtime.janitor.sweep_worktrees", sweep)
    async with supervisor.open_supervisor(settings):
        with trio.fail_after(60):
            await swept.wait()
    unchanged, changed = (Path(worktree_of(job)["path"]) for job in jobs)
    with Catalog(settings) as catalog:
        assert [catalog.index.get(job.job_id) for job in jobs] == [None, None]
        assert [(each["path"], each["state"]) for each in worktrees.listing(catalog)] == [(str(changed), "changed")]
    assert not unchanged.exists()
    assert (changed / "new.txt").read_text() == "x\n"
    assert git(repository, "branch", "--list", "supervisor/*").split()[-1] == f"supervisor/{changed.name}"


async def _nothing(*_: object) -> None:
    pass


def test_the_command_line_says_where_the_change_is(world: World, repository: Path) -> None:
    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "supervisor", *words]
        return subprocess.run(
            command, cwd=repository, env=world.environment, capture_output=True, text=True, check=False
        )

    done = ask("run", "--worktree", "head", "--", "sh", "-c", "echo x > new.txt; echo out")
    assert (done.returncode, done.stdout) == (0, "out\n")
    (job,) = world.catalog.list(workspace=repository).jobs
    path = worktree_of(job)["path"]
    assert f"job {job.job_id} has changed 1 file +1 -0 in {path}, branch supervisor/{job.job_id}" in done.stderr
    result = ask("result", job.job_id)
    assert (result.stdout, "has changed 1 file +1 -0" in result.stderr) == ("out\n", True)
    listed = json.loads(ask("worktree", "list", "--json").stdout)
    assert [each["state"] for each in listed["worktrees"]] == ["changed"]
    assert json.loads(ask("worktree", "diff", "--json", job.job_id[:6]).stdout)["diff"].endswith("+x\n")
    refused = ask("worktree", "rm", job.job_id[:6])
    assert refused.returncode == 2
    assert "there are new files: new.txt" in refused.stderr
    assert f"Commit what is to be kept, or discard it, in {path}" in refused.stderr
    Path(path, "new.txt").unlink()
    assert ask("worktree", "rm", job.job_id[:6]).stdout == f"Removed {path}.\n"
    unchanged = ask("run", "--worktree", "head", "--", "true")
    assert (unchanged.stdout, unchanged.stderr) == ("", "")
    assert ask("worktree", "diff", "ffff").returncode == 3


async def test_a_waiting_job_gets_its_worktree_from_the_helper(world: World, repository: Path) -> None:
    """No supervisor is open when it has its slot: it begins with the commit of that moment."""
    settings = world.catalog.settings
    async with supervisor.open_supervisor(settings) as sup:
        words = ["sh", "-c", "cat later.txt; echo x > new.txt"]
        job = await sup.start(words, workspace=repository, worktree="head", hold=True)
        assert worktree_of(job) == {**worktree_of(job), "state": "waiting", "base": None}
        assert not await trio.Path(worktree_of(job)["path"]).exists()
    (repository / "later.txt").write_text("later\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "later")
    command = [sys.executable, "-m", "supervisor", "release", job.job_id]
    await trio.run_process(command, env=world.environment, stdout=subprocess.DEVNULL)
    ended = await trio.to_thread.run_sync(lambda: _waited(settings, job.job_id))
    assert ended.status == "done"
    with Catalog(settings) as catalog:
        result = catalog.result(job.job_id)
    assert result.value == "later\n"
    assert result.changes is not None
    assert result.changes["files"] == 1
    assert worktree_of(result.job)["state"] == "changed"


def _waited(settings: Settings, job_id: str) -> supervisor.Job:
    with Catalog(settings, launches_waiting=True) as catalog:
        (job,) = catalog.wait([job_id], timeout=30)
        return job


async def test_a_session_is_continued_in_its_worktree(
    settings: Settings, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/claude"
    program.parent.mkdir()
    run = json.loads((ROOT / "tests/interpret/fixtures/claude/stream.json").read_text("utf-8"))
    (tmp_path / "stdout").write_text(run["stdout"])
    program.write_text(f'#!/bin/sh\npwd >&2\necho "$1" >> seen.txt\ncat {tmp_path}/stdout\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    async with supervisor.open_supervisor(settings) as sup:
        first = await sup.run(["claude", "-p", "hi"], kind="claude", workspace=repository, worktree="head")
        again = await sup.rerun(first.job_id, resume="and now the tests")
        second = await sup.wait(again.job_id)
        third = await sup.wait((await sup.rerun(second.job_id, resume="go on")).job_id)
        other = await sup.wait((await sup.rerun(first.job_id)).job_id)
    path = Path(worktree_of(first.job)["path"])
    assert [worktree_of(job)["path"] for job in (second, third)] == [str(path), str(path)]
    assert (path / "seen.txt").read_text() == "--session-id\n--resume\n--resume\n"
    assert worktree_of(other)["path"].endswith(other.job_id)


async def test_a_launch_that_is_cancelled_while_git_works_leaves_nothing(
    settings: Settings, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = tmp_path / "gate", shutil.which("git")
    os.mkfifo(gate)
    shim = tmp_path / "bin/git"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\ncase "$*" in *read-tree*) exec cat {gate};; esac\nexec {real} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    async with supervisor.open_supervisor(settings) as sup, trio.open_nursery() as nursery:
        nursery.start_soon(partial(sup.start, ["true"], workspace=repository, worktree="head", deadline_seconds=1))
        opened = await trio.to_thread.run_sync(lambda: open(gate, "w"))  # noqa: SIM115  # once git is at the gate
        (job,) = (await sup.list(workspace=repository)).jobs
        assert (job.status, worktree_of(job)["state"]) == ("queued", "making")
        ended = await sup.cancel(job.job_id)
        assert (ended.status, ended.started_at) == ("cancelled", None)
        opened.close()
    with Catalog(settings) as catalog:
        assert worktrees.listing(catalog) == []
    assert git(repository, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert git(repository, "branch", "--list", "supervisor/*") == ""
