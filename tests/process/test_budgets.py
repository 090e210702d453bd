"""Budgets with real processes: one start for the last dollar, and sums that no kill changes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from supervisor.admission import groups
from supervisor.jobs.spend import spend
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 60
AGENT = """
read line < "$0"
test -n "$1" && echo '{"type":"result","subtype":"success","is_error":false,"result":"done","total_cost_usd":'$1'}'
exit 0
"""


def make(world: World, *budgets: str, **settings: Any) -> None:
    changes = {"budgets": budgets, **settings}
    groups.change_group(world.catalog.index, "g", lambda group: attrs.evolve(group, **changes), create=True)


def budget(world: World) -> tuple[float, float]:
    (found,) = groups.group_info(world.catalog.index, "g").budgets
    return found["used"], found["reserved"]


def agent(gate: object, cost: str, *words: str) -> list[str]:
    """Return a command that says what it has spent once ``gate`` opens."""
    return ["sh", "-c", AGENT, str(gate), cost, *words]


def command(world: World, *words: str) -> Any:
    argv = [sys.executable, "-m", "supervisor", *words, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=world.environment, timeout=PATIENCE)
    return json.loads(done.stdout)


def waiting_for(holds: Callable[[], bool]) -> None:
    """Wait until another process has recorded something; there is no event for that."""
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_two_supervisors_and_one_dollar_left_start_one_job(world: World) -> None:
    make(world, "usd=1/day")
    gate = world.fifo()
    hosts = world.hosts(2)
    asked = [
        host.ask("start", agent(gate, "0.75", "--max-budget-usd", "1"), groups=["g"], kind="claude") for host in hosts
    ]
    jobs = sorted(
        (host.answer(number) for host, number in zip(hosts, asked, strict=True)), key=lambda job: job["status"]
    )
    assert [(job["status"], job["queue_reason"]) for job in jobs] == [("queued", "budget"), ("running", None)]
    assert budget(world) == (0, 1)
    gate.open()
    ended = hosts[0].call("wait", jobs[1]["job_id"], timeout=PATIENCE)
    assert ended["cost_usd"] == 0.75
    assert budget(world) == (0.75, 0)
    assert command(world, "status", jobs[0]["job_id"])["queue_reason"] == "budget"
    make(world, "usd=2/day")
    gate.open()
    assert hosts[1].call("wait", jobs[0]["job_id"], timeout=PATIENCE)["status"] == "done"
    report = command(world, "spend")
    assert (report["total"]["cost_usd"], report["total"]["jobs"], report["spend"][0]["group"]) == (1.5, 2, "g")


def test_a_job_that_asks_for_more_than_the_limit_is_told_apart_from_one_that_waits_for_the_next_window(
    world: World,
) -> None:
    make(world, "usd=1/day")
    host = world.host()
    too_much = host.start("true", "--max-budget-usd", "2", groups=["g"])
    behind = host.start("true", "--max-budget-usd", "0.5", groups=["g"])
    reasons = {job["job_id"]: job["queue_reason"] for job in command(world, "list", "--all")["jobs"]}
    assert reasons == {too_much: "budget", behind: "limit"}
    (wait,) = command(world, "explain", too_much)["waits_for"]
    assert wait["text"].endswith("and the job asks for 2 usd, which is more than the budget ever allows")
    make(world, "usd=5/day")
    assert host.call("wait", behind, timeout=PATIENCE)["status"] == "done"


def test_jobs_whose_keepers_are_killed_are_charged_what_they_had_reserved(world: World) -> None:
    make(world, "usd=10/day")
    gate = world.fifo()
    host = world.host()
    jobs = [host.start(*agent(gate, "0.5", "--max-budget-usd", "2"), groups=["g"], kind="claude") for _ in range(3)]
    keeper, leader = world.keeper(jobs[0]), world.leader(jobs[0])
    host.kill()
    keeper.kill()
    leader.kill()
    gate.open(2)
    ended = world.catalog.wait(jobs, timeout=PATIENCE)
    assert [(job.status, job.cost_usd) for job in ended] == [("failed", None), ("done", 0.5), ("done", 0.5)]
    assert budget(world) == (2 + 2 * 0.5, 0)
    total = spend(world.catalog).total
    assert (total.cost_usd, total.estimated) == (3, 1)


def test_a_launcher_waits_for_the_next_window_without_a_command(world: World, tmp_path: Path) -> None:
    make(world, "starts=0/hour")
    done = tmp_path / "done"
    host = world.host()
    job = host.call("start", ["touch", str(done)], groups=["g"])
    assert (job["status"], job["queue_reason"]) == ("queued", "budget")
    make(world, "starts=1/hour")
    assert host.call("wait", job["job_id"], timeout=PATIENCE)["status"] == "done"
    assert done.exists()


def test_a_group_that_spends_too_much_time_stops_its_jobs(world: World) -> None:
    make(world, "seconds=0.3/total", on_exceed="stop")
    host = world.host()
    job = host.call("start", ["sleep", "600"], groups=["g"])
    assert job["status"] == "running"
    ended = host.call("wait", job["job_id"], timeout=PATIENCE)
    assert (ended["status"], ended["reason"]) == ("cancelled", "budget")
    assert "group g has spent more than its budget of seconds=0.3/total" in ended["detail"]
    error = host.call("result", job["job_id"])["error"]
    assert (error["code"], error["details"]["group"]) == ("budget", "g")
    assert budget(world)[0] > 0.3
    waits = host.call("start", ["true"], groups=["g"])
    assert waits["queue_reason"] == "budget"


def test_the_progress_of_a_running_agent_is_charged_and_stops_the_group(world: World) -> None:
    make(world, "tokens=1000/day", on_exceed="stop")
    gate = world.fifo()
    said, more = (
        json.dumps({"type": "assistant", "message": {"id": name, "usage": {"input_tokens": read, "output_tokens": 50}}})
        for name, read in (("m1", 300), ("m2", 900))
    )
    script = 'echo "$1"; read line < "$0"; echo "$2"; sleep 600'
    host, other = world.hosts(2)
    job_id = host.start("sh", "-c", script, str(gate), said, more, groups=["g"], kind="claude")
    waiting_for(lambda: budget(world) == (0, 350))
    assert other.call("start", ["true"], groups=["g"])["queue_reason"] == "budget"
    gate.open()
    ended = other.call("wait", job_id, timeout=PATIENCE)
    assert (ended["status"], ended["reason"]) == ("cancelled", "budget")
    assert budget(world) == (1300, 0), "what it had spent is more than it had reserved"


def test_jobs_of_another_supervisor_are_stopped_too(world: World) -> None:
    make(world, "usd=1/day", on_exceed="stop")
    gate = world.fifo()
    host, other = world.hosts(2)
    job_id = host.start("sh", "-c", "sleep 600", "--max-budget-usd", "0.2", groups=["g"])
    cheap = other.start(*agent(gate, "1.5", "--max-budget-usd", "0.5"), groups=["g"], kind="claude")
    gate.open()
    assert other.call("wait", cheap, timeout=PATIENCE)["cost_usd"] == 1.5
    ended = host.call("wait", job_id, timeout=PATIENCE)
    assert (ended["status"], ended["reason"]) == ("cancelled", "budget")


def test_a_group_that_holds_leaves_its_running_jobs_alone(world: World) -> None:
    make(world, "usd=1/day", on_exceed="hold")
    gate = world.fifo()
    host = world.host()
    first = host.start(*agent(gate, "1.5", "--max-budget-usd", "0.5"), groups=["g"], kind="claude")
    second = host.start(*agent(gate, "0", "--max-budget-usd", "0.5"), groups=["g"], kind="claude")
    gate.open(2)
    for job_id in (first, second):
        assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
    assert budget(world) == (1.5, 0)
