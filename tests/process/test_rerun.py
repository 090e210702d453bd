"""Starting a job again, with changes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

import supervisor
from supervisor.errors import InvalidArguments, JobElsewhere, JobNotFound
from supervisor.jobdir import records
from supervisor.jobdir.validation import MEMBERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import World

PRINT = ["sh", "-c", "echo $X; pwd; cat"]


def command(*words: str, given: bytes = b"", cwd: str = "/") -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, input=given, capture_output=True, check=False, cwd=cwd)


SAID_ANEW = {"stdin", "env", "idempotency_key"}  # what is not on record, or is for one start only
NOW = {"hold", "after", "not_before", "delay_seconds", "start_within_seconds"}  # a job that is run again waits no more
OTHERS = {"engine", "engine_options", "on_end", "spool", "webhook", "worktree"}  # not beside those below


async def test_every_option_is_kept(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=3)
        spec = supervisor.JobSpec(
            argv=["true"],
            kind="json",
            deadline_seconds=77,
            labels={"a": "b"},
            groups=["g"],
            priority=4,
            weight=2,
            retry=supervisor.Retry(maximum_attempts=3, retry_on=["7"]),
            ttl_seconds=1234,
            max_output_bytes=4321,
            grace_seconds=0.25,
            merge_stderr=True,
            no_new_privs=True,
            workspace=str(world.directory),
            stdin_open=True,
            pty=True,
            window=(10, 20),
            limits=supervisor.Limits(pids=100, enforce="best-effort"),
        )
        left_out = {
            field.name for field in attrs.fields(supervisor.JobSpec) if getattr(spec, field.name) == field.default
        }
        new = left_out - SAID_ANEW - NOW - OTHERS
        assert new == set(), (
            "give the new option a value in `spec` above, and have supervisor/jobs/rerunning.py keep it"
        )
        first = await sup.wait((await sup.start(spec)).job_id)
        again = await sup.rerun(first.job_id)
        assert again.job_id != first.job_id
        ours = {"job_id", "created_ns", "owner", "series_id"}
        records_of = [
            {name: value for name, value in (world.record(job_id, records.JOB) or {}).items() if name not in ours}
            for job_id in (first.series_id or "", again.job_id)
        ]
        assert records_of[0] == records_of[1], "supervisor/jobs/rerunning.py, _spec_of_record, lacks an option"
        for job_id in (first.series_id or "", again.job_id):
            record = world.record(job_id, records.JOB) or {}
            assert record.keys() <= MEMBERS, (
                "add the new member of job.json to MEMBERS in supervisor/jobdir/validation.py"
            )
        await sup.cancel(again.job_id)


async def test_changes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", "first")
    async with supervisor.open_supervisor() as sup:
        first = await sup.wait((await sup.start(PRINT, labels={"a": "b"}, idempotency_key="k")).job_id)
        monkeypatch.setenv("X", "caller")
        for options, value in (
            ({}, f"caller\n{world.directory}\n"),
            ({"env": {"X": "7", "PATH": "/usr/bin:/bin"}}, f"7\n{world.directory}\n"),
            ({"workspace": tmp_path, "stdin": b"in"}, f"caller\n{tmp_path}\nin"),
            ({"argv": ["echo", "other"]}, "other\n"),
        ):
            job = await sup.rerun(first.job_id, **options)  # type: ignore[arg-type]
            assert (await sup.wait(job.job_id)).labels == {"a": "b"}
            assert (await sup.result(job.job_id)).value == value
        with pytest.raises(InvalidArguments, match="there is no option 'colour'"):
            await sup.rerun(first.job_id, colour="red")  # type: ignore[call-arg]
        with pytest.raises(InvalidArguments):
            await sup.rerun(first.job_id, priority=10**6)
        with pytest.raises(JobNotFound):
            await sup.rerun("f" * 32)


async def test_the_input_has_to_be_given_again(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        ended = await sup.wait((await sup.start(["cat"], stdin=b"one")).job_id)
        waits = await sup.start(["cat"], stdin=b"two", hold=True)
        for job_id in (ended.job_id, waits.job_id):
            with pytest.raises(InvalidArguments, match="had input on stdin"):
                await sup.rerun(job_id)
            none = await sup.rerun(job_id, stdin=None)
            await sup.wait(none.job_id)
            assert (await sup.result(none.job_id)).value == ""
            await sup.wait((await sup.rerun(none.job_id)).job_id)
        await sup.cancel(waits.job_id)
    done = command("rerun", ended.job_id)
    assert done.returncode == 2
    assert b"--stdin FILE" in done.stderr
    again = command("rerun", "--stdin", "-", ended.job_id, given=b"three").stdout.decode().strip()
    assert [job.status for job in world.catalog.wait([again], timeout=30)] == ["done"]
    assert world.catalog.result(again).value == "three"


async def test_jobs_that_run_or_wait(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        runs = await sup.start(["sleep", "600"])
        waits = await sup.start(["true"], hold=True, after=[("any", runs.job_id)], delay_seconds=600)
        with trio.fail_after(30):
            again = await sup.wait((await sup.rerun(waits.job_id)).job_id)  # what it waited for is not repeated
        assert again.status == "done"
        second = await sup.rerun(runs.job_id)
        assert second.pid not in {None, runs.pid}
        with trio.fail_after(30):
            for each in (runs, waits, second):
                await sup.cancel(each.job_id)
    assert world.record(runs.job_id, records.STOP) is not None


def test_the_command_line(world: World) -> None:
    host = world.host()
    first = host.start(*PRINT, labels={"a": "b"}, deadline_seconds=50)
    host.call("wait", first)
    host.leave()
    words = [
        "rerun",
        first,
        "--env",
        "X=7",
        "--label",
        "c=d",
        "--attempts",
        "2",
        "--retry-delay",
        "3s",
        "--memory",
        "1G",
    ]
    done = command(*words, "--limits", "best-effort", "--json")
    assert done.returncode == 0, done.stderr
    (again,) = [job for job in world.catalog.list().jobs if job.job_id != first]
    (ended,) = world.catalog.wait([again.job_id], timeout=30)
    assert (ended.labels, ended.deadline_seconds, ended.maximum_attempts) == ({"c": "d"}, 50, 2)
    assert world.catalog.result(again.job_id).value == f"7\n{world.directory}\n"
    other = (
        command("rerun", again.job_id[:8], "--priority", "3", "--", "echo", "--deadline", "x").stdout.decode().strip()
    )
    (ended,) = world.catalog.wait([other], timeout=30)
    assert (ended.argv, ended.labels, ended.priority) == (("echo", "--deadline", "x"), {"c": "d"}, 3)
    assert command("rerun", "f" * 32).returncode == 3
    assert command("rerun", first, "--retry-delay", "3s").returncode == 2
    assert command("rerun", first, "--engine-option", "partition=x").returncode == 2


def test_a_job_of_a_newer_version_is_left_to_that(world: World) -> None:
    job_id = world.host().start("true")
    from supervisor.jobs.rerunning import request_again

    row = world.catalog.row(job_id)
    row.request["colour"] = "red"
    world.catalog.index.get = lambda _: row  # type: ignore[method-assign]
    with pytest.raises(JobElsewhere, match="newer version"):
        request_again(world.catalog, job_id, None, {})


AGENT = """#!/bin/sh
echo "$@" >&2
cat >&2
echo '{"type":"result","subtype":"success","is_error":false,"result":"ok"}'
"""


async def stderr_of(sup: supervisor.Supervisor, job: supervisor.Job) -> str:
    content, _ = await sup.read(job.job_id, "stderr")
    return content.decode()


async def test_an_agent_is_continued(world: World, tmp_path: Path) -> None:  # noqa: ARG001  # its root
    agent = tmp_path / "claude"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    async with supervisor.open_supervisor() as sup:
        first = await sup.start([str(agent), "-p", "--model", "x", "count"], kind="claude", stdin=b"the stars")
        session = first.session_id
        assert session is not None
        await sup.wait(first.job_id)
        assert await stderr_of(sup, first) == f"--session-id {session} -p --model x count\nthe stars"
        again = await sup.wait((await sup.rerun(first.job_id, resume="and now the planets")).job_id)
        assert await stderr_of(sup, again) == f"--resume {session} -p --model x\nand now the planets"
        assert (again.status, again.session_id) == ("done", session)
        done = command("rerun", "--resume", again.job_id, "and", "the moons")
        assert done.returncode == 0, done.stderr
        last = await sup.wait(done.stdout.decode().strip())
        assert await stderr_of(sup, last) == f"--resume {session} -p --model x\nand the moons"


async def test_what_cannot_be_continued_is_refused(world: World, tmp_path: Path) -> None:  # noqa: ARG001  # its root
    agent = tmp_path / "claude"
    agent.write_text("#!/bin/sh\nexec sleep 1000\n")
    agent.chmod(0o755)
    async with supervisor.open_supervisor() as sup:
        running = await sup.start([str(agent), "-p", "count"], kind="claude")
        with pytest.raises(InvalidArguments, match="has not ended"):
            await sup.rerun(running.job_id, resume="more")
        await sup.cancel(running.job_id)
        await sup.wait(running.job_id)
        for prompt in ("", " \n"):
            with pytest.raises(InvalidArguments, match="takes a prompt"):
                await sup.rerun(running.job_id, resume=prompt)
        with pytest.raises(InvalidArguments, match="no command"):
            await sup.rerun(running.job_id, ["true"], resume="more")
        plain = await sup.start(["true"])
        await sup.wait(plain.job_id)
        with pytest.raises(InvalidArguments, match="is not known"):
            await sup.rerun(plain.job_id, resume="more")
