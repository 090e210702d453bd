"""Jobs on Slurm through the whole supervisor, against an imitation of Slurm's commands.

``slurm/test_cluster.py`` has the same tests on a real cluster, and tests with parts of it killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisor
from supervisor.engines.cluster import engine as batch
from supervisor.engines.cluster.interface import QueueState
from supervisor.errors import InvalidArguments, JobNotFound, StateUnsafe
from supervisor.jobdir import records
from supervisor.model import Job
from supervisor.states import Reason, State
from supervisor.system import processes

PACKAGE = Path(supervisor.__file__).parents[1]
PATIENCE = 60


class Site:
    """A shared directory on an imitated cluster."""

    def __init__(self, slurm: Any, directory: Path) -> None:
        self.slurm = slurm
        self.shared = directory / "shared"
        self.work = directory / "work"
        self.work.mkdir()

    async def start(self, sup: supervisor.Supervisor, script: str, **rest: Any) -> Job:
        options = {"shared_dir": str(self.shared), **rest.pop("options", {})}
        return await sup.start(["sh", "-c", script], engine="slurm", engine_options=options, **rest)

    def directory(self, job: Job | str) -> Path:
        return self.shared / (job if isinstance(job, str) else job.job_id)

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "supervisor", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.work,
            env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        )

    def shown(self, *words: str) -> dict[str, Any]:
        shape: dict[str, Any] = json.loads(self.cli(*words, "--json").stdout)
        return shape


@pytest.fixture
def site(fake_slurm: Any, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    assert state_dir.is_dir()
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.3")
    made = Site(fake_slurm, tmp_path)
    monkeypatch.chdir(made.work)
    return made


@contextlib.asynccontextmanager
async def opened() -> AsyncGenerator[supervisor.Supervisor]:
    with trio.fail_after(PATIENCE):
        async with supervisor.open_supervisor() as sup:
            yield sup


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110  # other programs, which send no event
        await trio.sleep(0.02)


async def test_a_job_runs_and_is_settled(site: Site) -> None:
    async with opened() as sup, sup.events() as events:
        begun = await site.start(
            sup, "cat; echo $KIND; echo err >&2; exit 7", stdin=b"in\n", env={"KIND": "x", **os.environ}
        )
        assert (begun.status, begun.engine) == (State.QUEUED, "slurm")
        job = await sup.wait(begun.job_id)
        told = [(await anext(events)).status for _ in range(3)]
    assert (job.status, job.exit_code, job.stdout_bytes, job.stderr_bytes) == (State.FAILED, 7, 5, 4)
    assert told == [State.QUEUED, State.RUNNING, State.FAILED]
    assert (site.directory(job) / "result.json").read_text() == "in\nx\n"
    assert (site.directory(job) / "job.json").stat().st_mode & 0o777 == 0o600


async def test_slurm_gets_no_secret_and_leaves_none(site: Site) -> None:
    async with opened() as sup:
        job = await site.start(
            sup, "exit 0 # hush-hush", env={"TOKEN": "hush-hush", "PATH": "/bin"}, stdin=b"hush-hush"
        )
        await sup.wait(job.job_id)
    files = [path for path in site.slurm.directory.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 5
    assert not [path for path in files if b"hush-hush" in path.read_bytes()]
    assert not {"orders", "stdin"} & set(os.listdir(site.directory(job)))


async def test_a_job_has_a_place_on_its_cluster(site: Site) -> None:
    async with opened() as sup:
        job = await site.start(sup, "env | grep ^SLURM_JOB_ID")
        await sup.wait(job.job_id)
        assert (await sup.result(job.job_id)).value == "SLURM_JOB_ID=1\n"


async def test_a_job_has_its_own_settings_on_its_cluster(site: Site) -> None:
    async with opened() as sup:
        loud = "trap '' TERM; echo out; echo err >&2; while :; do echo 1234567 >&2; sleep 0.01; done"
        own = {"merge_stderr": True, "max_output_bytes": 100, "grace_seconds": 0.1, "ttl_seconds": 5}
        job = await sup.wait((await site.start(sup, loud, **own)).job_id)
        assert (job.reason, job.stderr_bytes, job.ttl_seconds) == ("output_limit", 0, 5)
        data, _ = await sup.read(job.job_id)
        assert data.startswith(b"out\nerr\n1234567\n")
        assert len(data) == 100


async def test_pwd_names_the_workspace_on_the_node(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/of/the/submitter")
    (site.work / "below").mkdir()
    options = {"engine": "slurm", "engine_options": {"shared_dir": str(site.shared)}}
    async with opened() as sup:
        for env in (None, dict(os.environ)):
            result = await sup.run(["printenv", "PWD"], workspace="below", env=env, **options)
            assert result.value == f"{site.work / 'below'}\n"


async def test_a_workspace_that_is_not_there_on_the_node_will_not_be_later(site: Site) -> None:
    async with opened() as sup:
        job = await site.start(sup, "true", workspace="missing")
        job = await sup.wait(job.job_id)
        result = await sup.result(job.job_id)
    assert job.reason is Reason.LAUNCH_FAILED
    assert result.error is not None
    assert "missing: No such file or directory" in result.error.message
    assert not result.error.retryable


async def test_the_options_reach_sbatch(site: Site) -> None:
    async with opened() as sup:
        job = await site.start(sup, "true", options={"partition": "gpu", "cpus": 4}, deadline_seconds=60)
        await sup.wait(job.job_id)
    (call,) = site.slurm.calls("sbatch")
    assert {"--partition=gpu", "--cpus-per-task=4", "--time=4"} <= set(call.split())


@pytest.mark.parametrize(
    ("engine", "options", "named"),
    [
        ("slurm", {}, "shared_dir"),
        ("slurm", {"shared_dir": "/x", "deadline_from": "birth"}, "deadline_from"),
        ("slurm", {"shared_dir": "/x", "cpus": "many"}, "cpus"),
        ("slurm", {"shared_dir": "/x", "colour": "red"}, "colour"),
        ("kubernetes", {}, "kubernetes"),
        (None, {"cpus": 1}, "engine_options"),
    ],
)
async def test_what_does_not_fit_makes_no_job(site: Site, engine: str | None, options: Any, named: str) -> None:
    async with opened() as sup:
        with pytest.raises(InvalidArguments, match=named):
            await sup.start(["true"], engine=engine, engine_options=options)
        assert (await sup.list()).jobs == ()
    assert site.slurm.calls("sbatch") == []


async def test_a_shared_directory_that_others_can_write_to_is_refused(site: Site) -> None:
    site.shared.mkdir()
    site.shared.chmod(0o777)
    async with opened() as sup:
        with pytest.raises(StateUnsafe, match="yours alone"):
            await site.start(sup, "true")


async def test_a_refused_job_is_a_job_that_says_why(site: Site) -> None:
    async with opened() as sup:
        job = await site.start(sup, "true", options={"partition": "nowhere"})
        assert (job.status, job.reason) == (State.FAILED, Reason.LAUNCH_FAILED)
        error = (await sup.result(job.job_id)).error
    assert error is not None
    assert "Invalid partition name" in error.message
    assert not (site.directory(job) / "orders").exists()


@pytest.mark.parametrize("log", [True, False])
async def test_a_node_that_does_not_see_the_directory(site: Site, log: bool) -> None:  # noqa: FBT001
    site.slurm.arrange("blind", "one that sees it begins by making engine.log" if log else "")
    async with opened() as sup:
        begun = await site.start(sup, "true")
        job = await sup.wait(begun.job_id)
    assert (job.status, job.reason) == (State.FAILED, Reason.LAUNCH_FAILED)
    assert job.detail is not None
    assert (
        f"FAILED ({'see engine.log' if log else f'it made no engine.log: does the node see {site.shared}?'})"
        in job.detail
    )


@pytest.mark.parametrize(("version", "complaint"), [("slurm 20.11.9", "22.05 or newer"), ("", "22.05")])
async def test_an_old_slurm_is_refused(site: Site, version: str, complaint: str) -> None:
    if version:
        site.slurm.arrange("version", version)
    else:
        site.slurm.arrange("version", "slurm 21.08.0")
    async with opened() as sup:
        job = await site.start(sup, "true")
        assert job.reason is Reason.LAUNCH_FAILED
        assert job.detail is not None
        assert complaint in job.detail


async def test_without_slurm_the_job_says_what_is_missing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(site.work))
    async with opened() as sup:
        job = await site.start(sup, "true")
    assert job.reason is Reason.LAUNCH_FAILED
    assert job.detail is not None
    assert "sbatch is not on PATH" in job.detail


async def test_a_job_that_waits_says_why_everywhere(site: Site) -> None:
    site.slurm.arrange("hold")
    async with opened() as sup:
        begun = await site.start(sup, "echo ran")
        await until(lambda: len(site.slurm.calls("squeue")) > 1)
        assert (await sup.status(begun.job_id)).queue_reason == "Resources"
        (listed,) = site.shown("list")["jobs"]
        shown = site.shown("status", begun.job_id)
        assert [(each["status"], each["queue_reason"]) for each in (listed, shown)] == [("queued", "Resources")] * 2
        site.slurm.release()
        job = await sup.wait(begun.job_id)
    assert (job.status, job.queue_reason) == (State.DONE, None)


@pytest.mark.parametrize("reachable", [True, False])
@pytest.mark.parametrize("way", ["library", "command line"])
async def test_a_job_that_waits_can_be_cancelled_even_out_of_reach(site: Site, way: str, reachable: bool) -> None:  # noqa: FBT001
    site.slurm.arrange("hold")
    async with opened() as sup:
        begun = await site.start(sup, "echo ran > ran")
        if not reachable:
            site.slurm.arrange("down")
        if way == "library":
            job = await sup.cancel(begun.job_id)
        else:
            await trio.to_thread.run_sync(site.cli, "cancel", begun.job_id)
            job = await sup.wait(begun.job_id)
        assert (job.status, job.reason, job.started_at) == (State.CANCELLED, Reason.CANCELLED, None)
        site.slurm.mend("down")
        site.slurm.release()  # the claim prevents it from running, should Slurm still start it
    assert not (site.work / "ran").exists()
    assert not (site.directory(begun) / "orders").exists()


async def test_a_job_that_slurm_runs_twice_runs_once(site: Site) -> None:
    site.slurm.arrange("twice")
    async with opened() as sup:
        job = await site.start(sup, "echo ran >> runs; sleep 0.3")
        assert (await sup.wait(job.job_id)).status is State.DONE
    assert (site.work / "runs").read_text() == "ran\n"


async def test_a_submission_waits_for_a_controller_that_is_away(site: Site) -> None:
    site.slurm.arrange("down")
    async with opened() as sup, trio.open_nursery() as nursery:
        jobs: list[Job] = []

        async def start() -> None:
            jobs.append(await site.start(sup, "echo ran >> runs"))

        nursery.start_soon(start)
        await until(lambda: len(site.slurm.calls("sbatch")) > 1)
        assert jobs == []
        site.slurm.mend("down")
        await until(lambda: jobs)
        assert (await sup.wait(jobs[0].job_id)).status is State.DONE
    assert (site.work / "runs").read_text() == "ran\n"


async def test_a_submission_is_given_up_for_good(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_SUBMIT_FOR_SECONDS", 0.3)
    site.slurm.arrange("down")
    async with opened() as sup:
        job = await site.start(sup, "echo ran > ran")
        assert (job.status, job.reason) == (State.FAILED, Reason.LAUNCH_FAILED)
        assert job.detail is not None
        assert "slurm could not be reached" in job.detail
    assert records.read_claim(str(site.directory(job))) == records.NOBODY
    assert not (site.directory(job) / "orders").exists()


async def test_a_submission_whose_answer_got_lost_is_not_called_failed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm has accepted the job and runs it, while the supervisor has given up."""
    monkeypatch.setattr(batch, "_SUBMIT_FOR_SECONDS", 4)  # it must be claimed by then, on the slowest machine
    site.slurm.arrange("mute")
    os.mkfifo(site.work / "fifo")
    async with opened() as sup:
        job = await site.start(sup, "echo ran >> runs; read line < fifo; exit 6")
        await trio.to_thread.run_sync((site.work / "fifo").write_text, "go\n")
        assert (await sup.wait(job.job_id)).exit_code == 6
    assert (site.work / "runs").read_text() == "ran\n"


@pytest.mark.parametrize("reachable", [True, False])
@pytest.mark.parametrize("way", ["library", "command line"])
async def test_a_cancel_while_sbatch_is_under_way(site: Site, way: str, reachable: bool) -> None:  # noqa: FBT001
    """The cancel waits for nothing. If Slurm still accepts the job, the node finds it claimed."""
    site.slurm.arrange("tarry" if reachable else "down")
    async with opened() as sup, trio.open_nursery() as nursery:
        nursery.start_soon(site.start, sup, "echo ran > ran")
        await until(lambda: site.slurm.calls("sbatch"))
        (begun,) = (await sup.list()).jobs
        if way == "library":
            job = await sup.cancel(begun.job_id)
        else:
            await trio.to_thread.run_sync(site.cli, "cancel", begun.job_id)
            job = await sup.status(begun.job_id)
        assert (job.status, job.reason, job.started_at) == (State.CANCELLED, Reason.CANCELLED, None)
        assert records.read_claim(str(site.directory(begun))) == records.NOBODY
        site.slurm.mend("tarry")
        site.slurm.mend("down")
    assert not (site.work / "ran").exists()
    assert not (site.directory(begun) / "orders").exists()


async def test_two_supervisors_share_a_directory(site: Site, tmp_path: Path) -> None:
    other = supervisor.Settings(state_dir=tmp_path / "other")
    async with opened() as sup, supervisor.open_supervisor(other) as another:
        mine = [await site.start(sup, f"exit {number}") for number in range(3)]
        theirs = [await site.start(another, f"exit {number}") for number in range(3, 6)]
        ended = [await sup.wait(job.job_id) for job in mine] + [await another.wait(job.job_id) for job in theirs]
        assert [job.exit_code for job in ended] == list(range(6))
        for job in mine:
            await sup.forget(job.job_id)
        await sup.prune()
        assert {each.job_id for each in (await another.list()).jobs} == {job.job_id for job in theirs}
    assert [site.directory(job).exists() for job in (*mine, *theirs)] == [False] * 3 + [True] * 3


async def test_out_of_reach_is_not_gone(site: Site) -> None:
    async with opened() as sup:
        os.mkfifo(site.work / "fifo")
        begun = await site.start(sup, "echo > running; read line < fifo; exit 4")
        await until((site.work / "running").exists)
        await until(lambda: sup._registry.entries[begun.job_id].row.started_ns)
        site.slurm.arrange("down")
        before = len(site.slurm.calls("squeue"))
        await until(lambda: len(site.slurm.calls("squeue")) > before + 1)
        assert (await sup.status(begun.job_id)).status is State.RUNNING
        assert site.shown("status", begun.job_id)["status"] == "running"
        await trio.to_thread.run_sync((site.work / "fifo").write_text, "go\n")
        assert (await sup.wait(begun.job_id)).exit_code == 4  # the node's record is enough


async def test_a_forgotten_submission_is_repeated(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a controller that is killed right after its acknowledgement."""
    monkeypatch.setattr(batch, "_ABSENT_SECONDS", 0.2)
    site.slurm.arrange("forget")
    async with opened() as sup:
        begun = await site.start(sup, "echo ran >> runs")
        site.slurm.mend("forget")
        assert (await sup.wait(begun.job_id)).status is State.DONE
    assert (site.work / "runs").read_text() == "ran\n"
    assert len(site.slurm.calls("sbatch")) == 2


async def test_a_job_that_left_the_queue_long_after_its_submission_is_not_repeated(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_ABSENT_SECONDS", 0.2)
    monkeypatch.setattr(batch, "_SETTLED_SECONDS", 0.0)
    site.slurm.arrange("hold")
    async with opened() as sup:
        begun = await site.start(sup, "echo ran > ran")
        directory = str(site.directory(begun))
        await until(lambda: (records.read(directory, records.SUBMISSION) or {}).get("confirmed"))
        shutil.rmtree(site.slurm.directory / "jobs" / "1")
        job = await sup.wait(begun.job_id)
    assert (job.status, job.reason) == (State.FAILED, Reason.LAUNCH_FAILED)
    assert len(site.slurm.calls("sbatch")) == 1


async def test_what_one_supervisor_left_the_next_one_goes_on_with(site: Site) -> None:
    site.slurm.arrange("hold")
    async with opened() as sup:
        waiting = await site.start(sup, "echo ran >> runs; exit 5")
    assert site.shown("status", waiting.job_id)["status"] == "queued"
    site.slurm.release()
    async with opened() as sup:
        job = await sup.wait(waiting.job_id)
    assert (job.status, job.exit_code) == (State.FAILED, 5)
    assert (site.work / "runs").read_text() == "ran\n"


async def test_a_supervisor_in_another_container_goes_on_with_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local job of another container would not be touched."""
    site.slurm.arrange("hold")
    async with opened() as sup:
        waiting = await site.start(sup, "exit 5")
    monkeypatch.setitem(processes._facts, "pid_namespace", "4")
    async with opened() as sup, sup.events() as events:
        await until(lambda: waiting.job_id in sup._registry.entries)
        site.slurm.release()
        while not (event := await anext(events)).status.terminal:
            pass
    assert event.job.exit_code == 5


async def test_no_supervisor_is_needed_to_see_the_end(site: Site) -> None:
    started = await trio.to_thread.run_sync(
        lambda: site.cli(
            "start", "--engine", "slurm", "--shared-dir", str(site.shared), "--", "sh", "-c", "echo hi; exit 7"
        ),
    )
    assert started.returncode == 0, started.stderr
    job_id = started.stdout.strip()
    assert site.cli("wait", job_id).returncode == 1
    shown = site.shown("status", job_id)
    assert (shown["status"], shown["exit_code"], shown["engine"]) == ("failed", 7, "slurm")
    assert site.cli("logs", job_id).stdout == "hi\n"
    assert site.cli("result", job_id).returncode == 1
    assert site.cli("rm", job_id).returncode == 0
    site.cli("prune", "--all")
    assert not site.directory(job_id).exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--slurm-partition", "gpu"], "the local engine has no option 'partition'; --engine slurm has it"),
        (["--engine-option", "partition=gpu"], "the local engine has no option 'partition'"),
        (["--engine", "local", "--shared-dir", "/tmp"], "the local engine has no option 'shared_dir'"),
        (["--engine", "slurm", "--engine-option", "colour=red"], "no option 'colour'; it has shared_dir, "),
        (
            ["--engine", "slurm", "--shared-dir", ".", "--engine-option", "memory=much"],
            "memory is 'much'; the slurm engine accepts a number",
        ),
        (["--engine-option", "partition"], "'partition' is not NAME=VALUE"),
        (["--engine-option", "=x"], "'=x' is not NAME=VALUE"),
        (["--engine-option", "qos=a", "--engine-option", "qos=b"], "'qos' is given twice"),
        (
            ["--engine", "slurm", "--slurm-qos", "a", "--engine-option", "qos=b"],
            "--slurm-qos and --engine-option qos exclude each other",
        ),
    ],
)
def test_a_wrong_option_of_an_engine_is_a_mistake(site: Site, words: list[str], complaint: str) -> None:
    done = site.cli("start", *words, "--", "true")
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.split())


@pytest.mark.parametrize("words", [["--engine-option", "partition=gpu"], ["--slurm-partition", "gpu"]])
def test_an_option_of_an_engine_has_two_names(site: Site, words: list[str]) -> None:
    done = site.cli("start", "--engine", "slurm", "--shared-dir", str(site.shared), *words, "--", "true")
    assert done.returncode == 0, done.stderr
    (job,) = site.directory(done.stdout.strip()).glob("job.json")
    assert json.loads(job.read_bytes())["engine_options"] == {"partition": "gpu"}
    assert "--slurm-" not in site.cli("start", "--help").stdout


def test_run_streams_from_a_cluster(site: Site) -> None:
    words = ("--engine", "slurm", "--shared-dir", str(site.shared))
    done = site.cli("run", *words, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


async def test_an_index_that_was_lost_is_rebuilt_with_them(site: Site, state_dir: Path) -> None:
    async with opened() as sup:
        job = await site.start(sup, "echo hi")
        await sup.wait(job.job_id)
    for name in os.listdir(state_dir):
        if name.startswith("registry.db"):
            os.unlink(f"{state_dir}/{name}")
    assert site.shown("status", job.job_id)["status"] == "done"


@pytest.mark.parametrize("stopped", ["cancelled", "deadline", None])
async def test_the_record_of_an_end_says_why_it_was_stopped(site: Site, stopped: str | None) -> None:
    async with opened() as sup:
        script = "true" if stopped is None else "exec sleep 600"
        job = await site.start(sup, script, deadline_seconds=0.5 if stopped == "deadline" else None)
        if stopped == "cancelled":
            await until((site.directory(job) / records.PROCESS).exists)
            await sup.cancel(job.job_id)
        await sup.wait(job.job_id)
    end = records.read(str(site.directory(job)), records.EXIT)
    assert end is not None
    assert end.get("stopped") == stopped


async def test_a_shared_directory_that_is_away_loses_no_job(site: Site) -> None:
    site.slurm.arrange("hold")
    async with opened() as sup:
        job = await site.start(sup, "echo hi")
    away = site.shared.with_name("away")
    os.rename(site.shared, away)
    shown = site.shown("status", job.job_id)
    assert (shown["status"], shown["detail"]) == ("queued", "its shared directory cannot be seen from here")
    os.rename(away, site.shared)
    assert site.shown("cancel", job.job_id)["status"] == "cancelled"


async def test_a_cancel_says_that_the_shared_directory_is_away(site: Site) -> None:
    site.slurm.arrange("hold")
    async with opened() as sup:
        job = await site.start(sup, "echo hi")
    away = site.shared.with_name("away")
    os.rename(site.shared, away)
    error = site.shown("cancel", job.job_id)["error"]
    assert error["message"] == f"the shared directory {site.shared} of job {job.job_id} cannot be seen from here"
    assert "Mount" in error["repair"]
    assert (error["code"], error["retryable"]) == ("state_busy", True)
    os.rename(away, site.shared)
    assert site.shown("cancel", job.job_id)["status"] == "cancelled"


async def test_one_request_serves_all_jobs(site: Site) -> None:
    """For Slurm the cost of a round does not grow with the number of jobs."""
    site.slurm.arrange("hold")
    async with opened() as sup:
        for _ in range(5):
            await site.start(sup, "true")
        before = len(site.slurm.calls("squeue"))
        engine = sup.launcher._engines._engines["slurm"]
        assert isinstance(engine, batch.ClusterEngine)
        reports = await engine._backend.observe(())
        assert [report.queue_state for report in reports.values()] == [QueueState.QUEUED] * 5
        assert len(site.slurm.calls("squeue")) <= before + 2
        for job in (await sup.list()).jobs:
            await sup.cancel(job.job_id)


# ---------------------------------------------------------------- admission by Slurm

BY_SLURM = {"admission": "engine"}


async def test_slurm_admits_a_job_that_is_left_to_it(site: Site) -> None:
    site.slurm.arrange("hold")
    async with opened() as sup:
        waits = [(when, await site.start(sup, "true")) for when in ("ok", "any", "failed", "start")]
        after = [(when, job.job_id) for when, job in waits]
        job = await site.start(sup, "true", options=BY_SLURM, after=after, delay_seconds=3600)
        assert (job.status, job.queue_reason, job.queue_position) == (State.QUEUED, None, None)
        assert job.after == tuple({"job_id": each, "when": when} for when, each in after)
        call = site.slurm.calls("sbatch")[-1]
        site.slurm.release()
        await sup.wait(job.job_id)
    assert "--dependency=afterok:1,afterany:2,afternotok:3,after:4 --kill-on-invalid-dep=yes" in call
    (begin,) = (word for word in call.split() if word.startswith("--begin="))
    assert 3590 < int(begin.removeprefix("--begin=now+")) <= 3600


async def test_a_dependency_that_holds_is_not_left_to_slurm_and_one_that_cannot_ends_the_job(site: Site) -> None:
    """Slurm forgets jobs that have ended."""
    async with opened() as sup:
        done = await sup.wait((await site.start(sup, "true")).job_id)
        job = await site.start(sup, "true", options=BY_SLURM, after=[done.job_id, ("any", done.job_id)])
        assert (await sup.wait(job.job_id)).status is State.DONE
        calls = site.slurm.calls("sbatch")
        assert "--dependency" not in calls[-1]
        never = await site.start(sup, "true", options=BY_SLURM, after=[("failed", done.job_id)])
        never = await sup.wait(never.job_id)
        assert (never.status, never.reason) == (State.CANCELLED, Reason.DEPENDENCY_FAILED)
        assert site.slurm.calls("sbatch") == calls


async def test_what_slurm_does_not_know_cannot_be_left_to_it(site: Site) -> None:
    site.slurm.arrange("hold")
    async with opened() as sup:
        await sup.set_group("g")
        local = await sup.start(["sleep", "60"])
        unsubmitted = await site.start(sup, "true", hold=True)
        refused: list[tuple[dict[str, Any], str]] = [
            ({"groups": ["g"]}, "a group is given, and admission by slurm"),
            ({"hold": True}, "hold is given"),
            ({"start_within_seconds": 5}, "start_within is given"),
            ({"priority": 1}, "a priority is given"),
            ({"after": [local.job_id]}, f"job {local.job_id} is of engine local"),
            ({"after": [unsubmitted.job_id]}, "has not been submitted to slurm"),
        ]
        for options, words in refused:
            with pytest.raises(InvalidArguments, match=words):
                await site.start(sup, "true", options=BY_SLURM, **options)
        with pytest.raises(JobNotFound, match="to wait for"):
            await site.start(sup, "true", options=BY_SLURM, after=["0" * 32])
        with pytest.raises(InvalidArguments, match="'supervisor' or 'engine'"):
            await site.start(sup, "true", options={"admission": "slurm"})
        assert len((await sup.list()).jobs) == 2
        assert site.slurm.calls("sbatch") == []
        for job in (local, unsubmitted):
            await sup.cancel(job.job_id)


async def test_a_job_whose_dependency_failed_in_slurms_queue_says_so(site: Site) -> None:
    site.slurm.arrange("hold")
    async with opened() as sup:
        first = await site.start(sup, "false")
        job = await site.start(sup, "true", options=BY_SLURM, after=[first.job_id])
        (site.slurm.directory / "jobs/2/reason").write_text("DependencyNeverSatisfied\n")
        (site.slurm.directory / "jobs/2/state").write_text("CANCELLED\n")
        job = await sup.wait(job.job_id)
        assert (job.status, job.reason, job.started_at) == (State.CANCELLED, Reason.DEPENDENCY_FAILED, None)
        await sup.cancel(first.job_id)


def test_the_command_line_leaves_the_order_to_slurm(site: Site) -> None:
    site.slurm.arrange("hold")
    words = ("start", "--engine", "slurm", "--shared-dir", str(site.shared), "--admission", "engine")
    first = site.cli(*words, "--", "true").stdout.strip()
    second = site.cli(*words, "--after", f"any:{first}", "--", "true")
    assert second.returncode == 0, second.stderr
    assert "--dependency=afterany:1" in site.slurm.calls("sbatch")[-1]
    refused = site.cli("start", "--admission", "engine", "--", "true")
    assert refused.returncode == 2
    assert "the local engine has no option 'admission'" in refused.stderr
    for job_id in (first, second.stdout.strip()):
        assert site.shown("cancel", job_id)["status"] == "cancelled"
