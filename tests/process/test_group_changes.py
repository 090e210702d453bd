"""Changes of groups by several processes, one of which may be killed at the worst moment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.admission import groups
from supervisor.errors import InvalidArguments
from supervisor.jobdir import records
from supervisor.jobs import places
from supervisor.system import processes
from tests.process.test_groups import counts, held, make
from tests.process.test_places import rebuilt

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 60
KILLED_AFTER_THE_FILE = """
import os, signal, sys
from supervisor.admission import groups
from supervisor.cli import main

write = groups.save

def save(*arguments, **named):
    write(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)

groups.save = save
sys.exit(main())
"""
KILLED_AFTER_A_JOB = """
import os, signal, sys
from supervisor.cli import main
from supervisor.store import turns

write = turns.write_changes

def write_one(*arguments, **named):
    write(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)

turns.write_changes = write_one
sys.exit(main())
"""


def command(world: World, *words: str) -> Any:
    argv = [sys.executable, "-m", "supervisor", "--json", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=world.environment, timeout=PATIENCE)
    return {"exit": done.returncode, **json.loads(done.stdout)}


def test_a_resume_that_was_killed_after_its_file_is_made_up_for_by_the_next_command(world: World) -> None:
    command(world, "group", "set", "g", "--limit", "1")
    command(world, "group", "pause", "g")
    job = command(world, "start", "--group", "g", "--", "true")
    assert job["queue_reason"] == "paused"
    argv = [sys.executable, "-c", KILLED_AFTER_THE_FILE, "group", "resume", "g"]
    killed = subprocess.run(argv, check=False, env=world.environment, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    ended = command(world, "wait", job["job_id"], "--timeout", str(PATIENCE))
    assert ended["status"] == "done"


def test_processes_that_set_a_group_at_once_lose_no_setting(world: World) -> None:
    settings = {"--limit": "7", "--rate": "10/min", "--fair-by": "workspace", "--on-reboot": "pause"}
    several = [
        subprocess.Popen(
            [sys.executable, "-m", "supervisor", "group", "set", "g", option, value],
            env=world.environment,
            stdout=subprocess.DEVNULL,
        )
        for option, value in settings.items()
    ]
    assert [process.wait(PATIENCE) for process in several] == [0] * len(settings)
    shown = command(world, "group", "show", "g")
    assert [shown[name] for name in ("limit", "rate", "fair_by", "on_reboot")] == [7, "10/min", "workspace", "pause"]


def test_show_has_every_field_of_a_group(world: World) -> None:
    made = command(world, "group", "set", "g", "--pause-on-failure", "1", "--on-rate-limit", "ignore")
    assert made == {
        "ok": True,
        "exit": 0,
        "name": "g",
        "limit": None,
        "running": 0,
        "waiting": 0,
        "oldest_wait_seconds": None,
        "paused": [],
        "aging_seconds": 300.0,
        "fair_by": None,
        "rate": None,
        "pause_on_failure": 1,
        "on_rate_limit": "ignore",
        "on_reboot": "keep",
        "budgets": [],
        "tz": "UTC",
        "on_end": None,
        "webhook": None,
    }
    command(world, "run", "--group", "g", "--", "false")
    (pause,) = command(world, "group", "show", "g")["paused"]
    assert (pause["by"], pause["until"]) == ("failures", None)
    assert command(world, "group", "resume", "g")["paused"] == []
    refused = command(world, "group", "set", "g", "--rate", "10/fortnight")
    assert (refused["exit"], refused["error"]["code"]) == (2, "invalid_arguments")


def test_a_group_with_a_held_job_is_not_removed(world: World) -> None:
    command(world, "group", "set", "g", "--limit", "1")
    job = command(world, "start", "--group", "g", "--hold", "--", "true")
    assert command(world, "group", "rm", "g")["error"]["code"] == "invalid_arguments"
    assert groups.group_info(world.catalog.index, "g").waiting == 1
    command(world, "cancel", job["job_id"])
    assert command(world, "group", "rm", "g")["ok"]


def test_waiting_jobs_of_a_removed_group_run_under_the_limit_of_another(world: World) -> None:
    make(world, "g", 1)
    make(world, "h", 1)
    make(world, "other", None)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    blocker = host.start(*held(gate, up, "0"), groups=["h"])
    assert up.line() == "0"
    groups.change_group(world.catalog.index, "g", groups.pause(None, None))
    one, two = (host.start(*held(gate, up, name), groups=["g", "other"]) for name in "12")
    on_hold = host.start("true", groups=["g"], hold=True)
    delayed = host.start("true", groups=["g"], delay_seconds=3600)
    dependent = host.start("true", groups=["g"], after=[one])
    places.move(world.catalog, two, priority=1)
    assert command(world, "group", "rm", "g", "--to", "h")["removed"] == "g"
    assert command(world, "group", "show", "g")["error"]["code"] == "group_not_found"
    for again in (False, True):
        if again:
            rebuilt(world)
        assert counts(world, "h") == (1, 5)
        shown = {job_id: world.catalog.status(job_id) for job_id in (one, two, on_hold, delayed, dependent)}
        assert [job.groups for job in shown.values()] == [("h", "other")] * 2 + [("h",)] * 3
        reasons = [job.queue_reason for job in shown.values()]
        assert reasons == ["limit", "limit", "held", "not_before", "dependency"]
    assert world.record(two, records.QUEUE) == {"v": 1, "priority": 1, "groups": ["h", "other"]}
    for name in "21":  # each alone: the limit of h is 1
        gate.open()
        assert up.line() == name
        assert counts(world, "h")[0] == 1
    gate.open()
    for job_id in (blocker, two, one, dependent):
        ended = host.call("wait", job_id, timeout=PATIENCE)
        assert (ended["status"], "g" in ended["groups"]) == ("done", False)
    places.release(world.catalog, on_hold)
    assert host.call("wait", on_hold, timeout=PATIENCE)["status"] == "done"
    host.call("cancel", delayed)


@pytest.mark.usefixtures("world")
async def test_a_supervisor_moves_its_own_jobs() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        await sup.set_group("h", fair_by="workspace")
        await sup.pause_group("g")
        job = await sup.start(["true"], groups=["g"])
        last = await sup.start(["true"], groups=["g"], hold=True)
        with pytest.raises(InvalidArguments, match="2 jobs waiting"):
            await sup.remove_group("g")
        await sup.remove_group("g", to="h")
        assert [group.name for group in await sup.groups()] == ["h"]
        assert (await sup.status(last.job_id)).groups == ("h",)
        with trio.fail_after(PATIENCE):
            ended = await sup.wait(job.job_id)
        assert (ended.status, ended.groups) == ("done", ("h",))
        await sup.cancel(last.job_id)


@pytest.mark.usefixtures("world")
async def test_a_moved_job_is_tried_again_in_its_new_group() -> None:
    async with supervisor.open_supervisor() as sup:
        for name in "gh":
            await sup.set_group(name, limit=1)
        await sup.pause_group("g")
        policy = supervisor.Retry(maximum_attempts=2, initial_interval=0, retry_on=["job_failed"])
        job = await sup.start(["false"], groups=["g"], retry=policy)
        await sup.remove_group("g", to="h")
        with trio.fail_after(PATIENCE):
            ended = await sup.wait(job.job_id)
        assert (ended.attempt, ended.status, ended.groups) == (2, "failed", ("h",))


@pytest.mark.usefixtures("world")
async def test_an_attempt_that_waits_for_its_time_moves_with_its_group() -> None:
    async with supervisor.open_supervisor() as sup:
        for name in "gh":
            await sup.set_group(name, limit=1)
        policy = supervisor.Retry(maximum_attempts=2, initial_interval=1, retry_on=["job_failed"])
        job = await sup.start(["false"], groups=["g"], retry=policy)
        with trio.fail_after(PATIENCE):
            while (first := await sup.status(job.job_id)).retried_by is None:  # noqa: ASYNC110  # an end has no event here
                await trio.sleep(0.02)
            await sup.remove_group("g", to="h")
            ended = await sup.wait(job.job_id)
        assert (ended.job_id, ended.attempt, ended.groups) == (first.retried_by, 2, ("h",))
        assert (await sup.status(job.job_id)).groups == ("g",)


def test_failures_of_moved_jobs_count_in_their_new_group(world: World) -> None:
    make(world, "g", 1)
    command(world, "group", "set", "h", "--pause-on-failure", "1")
    command(world, "group", "pause", "g")
    job = world.host().start("false", groups=["g"])
    command(world, "group", "rm", "g", "--to", "h")
    assert command(world, "wait", job, "--timeout", str(PATIENCE))["status"] == "failed"
    assert [each["by"] for each in command(world, "group", "show", "h")["paused"]] == ["failures"]


def test_a_removal_that_is_refused_moves_no_job(world: World) -> None:
    make(world, "g", 3)
    make(world, "small", 1)
    make(world, "closed", 0)
    job = command(world, "start", "--group", "g", "--hold", "--weight", "2", "--", "true")["job_id"]
    codes = {"nowhere": "group_not_found", "g": "invalid_arguments", "closed": "group_closed"}
    codes |= {"small": "invalid_arguments", "no name": "invalid_arguments"}
    for to, code in codes.items():
        error = command(world, "group", "rm", "g", "--to", to)["error"]
        assert (error["code"], bool(error["repair"])) == (code, True)
    make(world, "h", None)
    gate, up = world.fifo(), world.fifo()
    runs = command(world, "start", "--group", "g", "--", *held(gate, up, "x"))["job_id"]
    assert up.line() == "x"
    refused = command(world, "group", "rm", "g", "--to", "h")["error"]
    assert (refused["code"], "1 slots in use" in refused["message"]) == ("invalid_arguments", True)
    assert world.catalog.status(job).groups == ("g",)
    assert world.record(job, records.QUEUE) is None
    gate.open()
    command(world, "wait", runs)
    assert command(world, "group", "rm", "g", "--to", "h")["ok"]
    assert command(world, "start", "--group", "g", "--", "true")["error"]["code"] == "group_not_found"


def test_a_removal_that_was_killed_half_way_is_completed_by_the_same_command(world: World) -> None:
    make(world, "g", None)
    make(world, "h", None)
    jobs = [command(world, "start", "--group", "g", "--hold", "--", "true")["job_id"] for _ in range(2)]
    argv = [sys.executable, "-c", KILLED_AFTER_A_JOB, "group", "rm", "g", "--to", "h"]
    assert subprocess.run(argv, check=False, env=world.environment, timeout=PATIENCE).returncode == -signal.SIGKILL
    assert [world.catalog.status(job).groups for job in jobs] == [("g",), ("g",)]
    rebuilt(world)
    assert [world.catalog.status(job).groups for job in jobs] == [("h",), ("g",)]
    assert command(world, "group", "rm", "g", "--to", "h")["ok"]
    assert [world.catalog.status(job).groups for job in jobs] == [("h",), ("h",)]


def test_a_new_group_is_not_paused_by_what_has_paused_one_of_its_name(world: World) -> None:
    command(world, "group", "set", "g", "--pause-on-failure", "1")
    command(world, "run", "--group", "g", "--", "false")
    assert command(world, "group", "rm", "g")["ok"]
    assert command(world, "group", "set", "g")["paused"] == []
