"""What ``explain`` says about real jobs: all that keeps them waiting, and the evidence that they run or have ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import supervisor
from supervisor.errors import JobNotFound
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.explaining import explain
from supervisor.model import Explanation, to_json
from supervisor.system import processes
from tests.process.test_groups import command

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")


def evidence(found: Explanation) -> dict[str, str]:
    return {each.source: each.text for each in found.evidence}


async def test_a_waiting_job_says_all_that_it_waits_for_in_the_order_of_the_contract(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("full", limit=2)
        await sup.set_group("lunch", limit=2)
        await sup.pause_group("lunch", reason="until two")
        first = await sup.start(["sleep", "60"], groups=["full"], weight=1)
        groups = ["full", "lunch"]
        job = await sup.start(
            ["true"], groups=groups, weight=2, hold=True, after=[("any", first.job_id)], delay_seconds=600, priority=3
        )
        found = await sup.explain(job.job_id)
        assert [each.reason for each in found.waits_for] == ["held", "dependency", "not_before", "paused", "limit"]
        held, dependency, not_before, paused, limit = found.waits_for
        assert (found.status, found.queue_reason, found.queue_position) == ("queued", "held", None)
        assert (found.summary, found.priority, found.weight) == (held.text, 3, 2)
        assert dependency.jobs == ({"job_id": first.job_id, "when": "any", "status": "running", "reason": None},)
        assert dependency.text == f"it waits for job {first.job_id} (running) to end"
        assert not_before.until is not None
        assert 590 < (not_before.until - job.created_at).total_seconds() < 610
        assert paused.text == "group lunch is paused by user (until two)"
        assert [group.name for group in paused.groups] == ["lunch"]
        assert limit.text == "group full has room for 1 of 2, and the job takes 2"
        assert [(group.name, group.limit, group.running) for group in limit.groups] == [("full", 2, 1)]
        assert evidence(found).keys() == {"orders", "owner", "index"}

        shown = json.loads(command(world, "explain", job.job_id[:10], "--json").stdout)
        assert shown["ok"] is True
        assert shown.keys() == to_json(found).keys()
        assert [each["reason"] for each in shown["waits_for"]] == [each.reason for each in found.waits_for]
        lines = command(world, "explain", job.job_id).stdout.splitlines()
        assert f"  limit       {limit.text}" in lines

        await sup.release(job.job_id)
        assert (await sup.explain(job.job_id)).queue_reason == "dependency"
        await sup.cancel(job.job_id)
        await sup.cancel(first.job_id)


@pytest.mark.usefixtures("world")
async def test_a_job_behind_another_one_says_so() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=3)
        first = await sup.start(["sleep", "60"], groups=["g"], weight=2)
        await sup.start(["true"], groups=["g"], weight=2)
        light = await sup.start(["true"], groups=["g"])
        found = await sup.explain(light.job_id)
        assert [(each.reason, each.text) for each in found.waits_for] == [
            ("limit", "its groups have room, but not for all before it (1 job ahead)")
        ]
        assert found.queue_position == 2
        await sup.cancel(first.job_id)


@pytest.mark.usefixtures("world")
async def test_a_job_that_waits_for_a_token_says_so() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=5, rate="1/d")
        await sup.run(["true"], groups=["g"])
        job = await sup.start(["true"], groups=["g"])
        (wait,) = (await sup.explain(job.job_id)).waits_for
        assert (wait.reason, wait.text) == (
            "limit",
            "group g has started as many jobs as its rate of 1/d allows now",
        )
        assert [group.name for group in wait.groups] == ["g"]
        await sup.cancel(job.job_id)


def test_a_job_that_has_its_slots_says_since_when_and_who_launches_it(world: World) -> None:
    host = world.host()
    job_id = host.start("true", hold=True)
    world.stop(world.hold(host.pid))
    assert command(world, "release", job_id).returncode == 0
    found = explain(world.catalog, job_id)
    (wait,) = found.waits_for
    assert (found.queue_reason, wait.reason) == ("launching", "launching")
    assert wait.since is not None
    assert f"the supervisor with pid {host.pid} is to launch it" in wait.text
    host.kill()
    (wait,) = explain(world.catalog, job_id).waits_for
    assert (wait.reason, "no process is there to launch it" in wait.text) == ("no_launcher", True)


def test_a_running_job_names_its_claim_and_its_process(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    found = explain(world.catalog, job_id)
    says = evidence(found)
    assert (found.status, found.waits_for) == ("running", ())
    assert says["claim"] == f"held by the keeper with pid {keeper.pid}: no other launches it"
    group = (world.record(job_id, "process.json") or {}).get("cgroup")
    inside = "" if group is None else f", in the control group {group}"
    assert says["process.json"] == f"pid {leader.pid}, started by the keeper with pid {keeper.pid}{inside}"
    assert says["process"].endswith("its keeper is alive")
    assert says["owner"] == f"its supervisor, pid {host.pid}, is open"
    keeper.kill()
    assert evidence(explain(world.catalog, job_id))["process"].endswith("its keeper is gone")


def test_an_ended_job_names_the_record_that_says_so(world: World) -> None:
    host = world.host()
    ended = host.start("sh", "-c", "exit 3")
    host.call("wait", ended)
    found = explain(world.catalog, ended)
    assert found.summary.startswith("it ended failed, reason nonzero_exit")
    assert found.summary.endswith("exit.json says so")
    assert evidence(found)["exit.json"].startswith("it has ended with status 3: its keeper, which has waited")
    assert "nonzero_exit" in evidence(found)["index"]

    cancelled = host.start("sleep", "600")
    host.call("cancel", cancelled)
    found = explain(world.catalog, cancelled)
    assert found.summary == "it ended cancelled, reason cancelled: stop.json and exit.json say so"
    assert evidence(found)["stop.json"] == "cancelled, asked for by supervisor; no process of it is left"

    never = host.start("true", after=[("failed", cancelled), ("start", cancelled), ("ok", cancelled)])
    host.call("wait", never)
    found = explain(world.catalog, never)
    assert f"job {cancelled} ended cancelled (cancelled), and it had to be done" in found.summary
    assert evidence(found)["claim"] == "taken for nobody: no process launches it any more"

    killed = host.start("sh", "-c", "kill -9 $$")
    host.call("wait", killed)
    assert evidence(explain(world.catalog, killed))["exit.json"].startswith("signal 9 has ended it")


def test_damaged_records_and_jobs_of_another_place_are_said_to_be_that(world: World) -> None:
    host = world.host()
    job_id = host.start("sleep", "600")
    host.kill()
    world.keeper(job_id).kill()
    leader = world.leader(job_id)
    path = world.job(job_id) / "process.json"
    good = path.read_bytes()
    path.write_bytes(good.replace(processes.boot_id().encode(), b"0" * 36))
    with Catalog(world.catalog.settings) as catalog:
        assert explain(catalog, job_id).job_id == job_id
    path.write_bytes(good)
    leader.kill()
    (world.job(job_id) / "stop.json").write_text("nonsense")
    assert evidence(explain(world.catalog, job_id))["stop.json"] == "damaged"


def test_an_unknown_job_is_not_explained(world: World) -> None:
    with pytest.raises(JobNotFound):
        explain(world.catalog, "0" * 32)
    assert command(world, "explain", "0" * 32).returncode == 3
