"""Changes of what is no job's own life, and every order in which their writes may reach the disk.

After each change that was told, the state is the told one, or a later one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import supervisor
from supervisor.admission import groups as group_changes
from supervisor.errors import GroupNotFound, ScheduleNotFound, SupervisorError
from supervisor.jobdir import records
from supervisor.jobs import deliveries, places, schedules
from supervisor.jobs.catalog import Catalog
from supervisor.model import JobSpec
from supervisor.settings import Settings
from supervisor.store import ledger, outbox, subscriptions
from supervisor.store.changes import read_changes
from supervisor.store.groups import Pause
from supervisor.store.schedule_files import read_stdin
from supervisor.store.subscriptions import Subscription
from supervisor.system import processes
from tests.power.conftest import Disk, Life
from tests.power.replay import moments

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs /proc")

SEED = 20261129

Changing = Callable[[Life], Awaitable[Callable[[Catalog], Any]]]
"""Makes changes, and returns the question whose answer each of them changes."""


def tell(life: Life, value: Any) -> None:
    """Note that a caller was told of a change, after which this is the answer."""
    life.recorder.mark("told", value=value)


def pass_by(life: Life, value: Any) -> None:
    """Note that before the next change was told this may be the answer, too."""
    life.recorder.mark("passed", value=value)


def root_of(catalog: Catalog) -> str:
    return catalog.layout.root


def only_job(catalog: Catalog) -> str:
    """Settle the only job, and return its directory."""
    ((workspace, job_id),) = catalog.layout.jobs()
    catalog.status(job_id)
    return catalog.layout.job(workspace, job_id)


async def change_a_group(life: Life) -> Callable[[Catalog], Any]:
    def answer(catalog: Catalog) -> Any:
        try:
            info = group_changes.group_info(catalog.index, "g")
        except GroupNotFound:
            return None
        return [info.limit, sorted(each.by for each in info.paused)]

    with Catalog(life.settings()) as catalog:
        index = catalog.index
        group_changes.change_group(index, "g", lambda group: attrs.evolve(group, limit=1), create=True)
        tell(life, [1, []])
        group_changes.change_group(index, "g", lambda group: attrs.evolve(group, limit=2))
        tell(life, [2, []])
        group_changes.change_group(index, "g", group_changes.pause(None, "of a user"))
        tell(life, [2, ["user"]])
        index.write(lambda: index.group_files.pause("g", Pause("failures", None, "of a cause")))
        tell(life, [2, ["failures", "user"]])
        group_changes.resume_group(index, "g")
        tell(life, [2, ["failures"]])
        group_changes.resume_group(index, "g")
        tell(life, [2, []])
        group_changes.remove_group(index, "g")
        tell(life, None)
    return answer


async def change_a_schedule(life: Life) -> Callable[[Catalog], Any]:
    def answer(catalog: Catalog) -> Any:
        try:
            info = schedules.schedule_info(catalog, "s")
        except ScheduleNotFound:
            return None
        stdin = read_stdin(root_of(catalog), schedules.load_schedule(catalog, "s")) or b""
        return [info.cron, stdin.decode(), info.paused, info.last_job_id]

    def spec(stdin: bytes) -> JobSpec:
        return JobSpec(argv=("cat",), workspace=str(life.log.parent), stdin=stdin)

    with Catalog(life.settings()) as catalog:
        schedules.add_schedule(catalog, "s", spec(b"first"), cron="0 4 * * *", zone="UTC")
        tell(life, ["0 4 * * *", "first", False, None])
        schedules.add_schedule(catalog, "s", spec(b"second"), cron="0 5 * * *", zone="UTC", replace=True)
        tell(life, ["0 5 * * *", "second", False, None])
        schedules.note_run(catalog, "s", "a" * 32)
        tell(life, ["0 5 * * *", "second", False, "a" * 32])
        schedules.pause_schedule(catalog, "s")
        tell(life, ["0 5 * * *", "second", True, "a" * 32])
        schedules.remove_schedule(catalog, "s")
        tell(life, None)
    return answer


async def move_a_waiting_job(life: Life) -> Callable[[Catalog], Any]:
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(["true"], hold=True)
        tell(life, None)
    with Catalog(life.settings()) as catalog:
        for priority in (5, 7):
            places.move(catalog, job.job_id, priority=priority)
            tell(life, priority)
    return lambda catalog: read_changes(only_job(catalog)).get("priority")


async def pause_a_job(life: Life) -> Callable[[Catalog], Any]:
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(["sleep", "600"])
        await sup.pause(job.job_id)
        tell(life, records.PAUSED)
        pass_by(life, records.CHANGING)
        await sup.resume(job.job_id)
        tell(life, records.RUNNING)
        await sup.cancel(job.job_id)
    return lambda catalog: (records.read(only_job(catalog), records.PAUSE) or {}).get("state")


async def spend(life: Life) -> Callable[[Catalog], Any]:
    def answer(catalog: Catalog) -> Any:
        only_job(catalog)
        return [line["job_id"] for line in ledger.read_all(root_of(catalog))]

    with Catalog(life.settings()) as catalog:
        budgets = ("seconds=1000/day",)
        group_changes.change_group(catalog.index, "g", lambda group: attrs.evolve(group, budgets=budgets), create=True)
    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(["true"], groups=["g"])
        await sup.wait(job.job_id)
        tell(life, [job.job_id])
    return answer


async def deliver(life: Life) -> Callable[[Catalog], Any]:
    def answer(catalog: Catalog) -> Any:
        only_job(catalog)
        return sorted({deliveries.to_json(each)["state"] for each in deliveries.deliveries(root_of(catalog))})

    async with supervisor.open_supervisor(life.settings()) as sup:
        job = await sup.start(["sh", "-c", "sleep 0.2"], on_end="true")
    with Catalog(life.settings("process")) as catalog:
        catalog.wait([job.job_id])
        tell(life, ["waiting"])
        root, delivery_id = root_of(catalog), f"{job.job_id}.{outbox.ON_END}"
        delivery = outbox.read(root, delivery_id)
        assert delivery is not None
        outbox.bury(root, attrs.evolve(delivery, failures=9))
        tell(life, ["dead"])
        deliveries.retry(root, delivery_id)
        tell(life, ["waiting"])
        deliveries.drop(root, delivery_id)
        tell(life, [])
    return answer


async def run_a_function_as_a_task(life: Life) -> Callable[[Catalog], Any]:
    from supervisor.mcp_server.tasks.records import TaskRecords
    from supervisor.mcp_server.tasks.state import Status

    def answer(catalog: Catalog) -> Any:
        held = TaskRecords(Path(root_of(catalog)))
        try:
            made = held.find(task_id)
            return None if made is None else held.observe(made).status.value
        finally:
            held.close()

    held = TaskRecords(life.settings().state_dir, durable=life.durability == "power")
    made = await held.write(lambda: held.make("tool", None, None))
    task_id = made.task_id
    tell(life, "failed")  # since its server is gone
    await held.write(lambda: held.end(made, Status.COMPLETED, message=None, result={"content": []}))
    tell(life, "completed")
    held.close()
    return answer


async def subscribe(life: Life) -> Callable[[Catalog], Any]:
    def answer(catalog: Catalog) -> Any:
        found = subscriptions.load(root_of(catalog), "sub_1")
        return None if found is None else found.secret

    with Catalog(life.settings()) as catalog:
        root, durable = root_of(catalog), catalog.layout.durable
        for secret in ("first", "second"):
            with subscriptions.locked(root):
                made = Subscription(
                    subscription_id="sub_1",
                    principal="p",
                    url="https://example.com/",
                    name="job.ended",
                    arguments={},
                    secret=secret,
                    start="x",
                    made_ns=1,
                    refreshed_ns=1,
                    expires_ns=2,
                )
                subscriptions.save(root, made, durable=durable)
            tell(life, secret)
        subscriptions.remove(root, "sub_1", durable=durable)
        tell(life, None)
    return answer


async def make_the_secret_of_webhooks(life: Life) -> Callable[[Catalog], Any]:
    with Catalog(life.settings()) as catalog:
        root = root_of(catalog)
        tell(life, [key.hex() for key in deliveries.webhook_keys(life.settings(), root)])
    return lambda catalog: [key.hex() for key in deliveries.webhook_keys(Settings(), root_of(catalog))]


CHANGES = (
    *(change_a_group, change_a_schedule, move_a_waiting_job, pause_a_job, spend, deliver),
    *(run_a_function_as_a_task, subscribe, make_the_secret_of_webhooks),
)


def check(life: Life, disk: Disk, answer: Callable[[Catalog], Any], most: float) -> list[tuple[int, Any, Any]]:
    """Ask what each moment may leave on the disk; return what is wrong."""
    lived = list(moments(life.log))
    values = [(mark["name"], mark["value"]) for mark in lived[-1].marks if "value" in mark]
    chance, found, known = random.Random(SEED), list[tuple[int, Any, Any]](), dict[Any, Any]()
    for number, moment in enumerate(lived):
        marks = [mark["name"] for mark in moment.marks if "value" in mark]
        if "told" not in marks:
            continue
        last = max(at for at, name in enumerate(marks) if name == "told")
        under_way = [at for at, (name, _) in enumerate(values) if at > last and name == "told"]
        allowed = [value for _, value in values[last : under_way[0] + 1 if under_way else None]]
        for crash in moment.crashes(most, chance):
            if crash not in known:
                try:
                    known[crash] = disk.ask(crash, answer)
                except (SupervisorError, ValueError) as error:
                    known[crash] = repr(error)
            if known[crash] not in allowed:
                found.append((number, known[crash], allowed))
    return found


@pytest.mark.parametrize("changing", CHANGES)
async def test_samples_of_what_a_loss_of_power_leaves(life: Life, disk: Callable[[], Disk], changing: Changing) -> None:
    answer = await changing(life)
    assert check(life, disk(), answer, 2) == []


@pytest.mark.slow
@pytest.mark.parametrize("changing", CHANGES)
async def test_all_that_a_loss_of_power_leaves(life: Life, disk: Callable[[], Disk], changing: Changing) -> None:
    answer = await changing(life)
    assert check(life, disk(), answer, math.inf) == []


@pytest.mark.parametrize("changing", [change_a_group, spend, subscribe])
async def test_without_syncs_a_change_is_found_lost(life: Life, disk: Callable[[], Disk], changing: Changing) -> None:
    life.durability = "process"
    answer = await changing(life)
    assert check(life, disk(), answer, 2) != []
