"""The queue against a model that is slow and obvious: lists, and a look at every job for each decision."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.store.budgets import Budgets, BudgetSetting, shown_amount
from supervisor.store.pacing import Settings
from supervisor.store.queue import Queue
from supervisor.store.queue.usage import FOR_EVER_NS
from supervisor.store.schema import MIGRATIONS, statements
from supervisor.store.tickets import Moment, Ticket

SECOND = 10**9
AGING_NS = 300 * SECOND
NAMES = ("a", "b", "c")
RATE = Settings(interval_ns=10 * SECOND, burst=3)


@attrs.define
class ModelGroup:
    limit: int | None
    paused: bool = False
    has_rate: bool = False
    starts: list[int] = attrs.field(factory=list[int])
    """The tokens that were taken: when each comes back to a bucket of three."""
    budget: int | None = None
    """How much money its jobs may spend in total."""
    spent: int = 0
    figures: list[int] = attrs.field(factory=list[int])

    def ask(self, own: int | None) -> int:
        if own is not None:
            return own
        if self.figures:
            ordered = sorted(self.figures)
            middle = ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]
            return min(-(-3 * -(-middle // 2) // 2), self.budget or 0)
        return max(1, (self.budget or 0) // 10)

    def tokens(self, now_ns: int) -> int:
        return 3 - sum(back_ns > now_ns for back_ns in self.starts)

    def take(self, now_ns: int) -> None:
        self.starts.append(max([now_ns, *self.starts]) + 10 * SECOND)


@attrs.define
class ModelJob:
    number: int
    groups: tuple[str, ...]
    rank: int
    weight: int
    own: int | None = None
    state: str = "waiting"
    reserved: dict[str, int] = attrs.field(factory=dict[str, int])


@attrs.define
class Model:
    groups: dict[str, ModelGroup] = attrs.field(factory=dict[str, ModelGroup])
    jobs: list[ModelJob] = attrs.field(factory=list[ModelJob])

    def running(self, name: str) -> int:
        return sum(job.weight for job in self.jobs if job.state == "running" and name in job.groups)

    def fits(self, job: ModelJob, now_ns: int) -> bool:
        for name in job.groups:
            group = self.groups[name]
            full = group.limit is not None and self.running(name) + job.weight > group.limit
            if full or group.paused or (group.has_rate and group.tokens(now_ns) < 1):
                return False
            if group.budget is not None:
                running = [each for each in self.jobs if each.state == "running"]
                reserved = [each.reserved[name] for each in running if name in each.reserved]
                if not group.figures and reserved and job.own is None:
                    return False
                if group.spent + sum(reserved) + group.ask(job.own) > group.budget:
                    return False
        return True

    def end(self, job: ModelJob, cost: int | None) -> dict[str, int]:
        """Charge a job; return what its groups charge that is not known."""
        charged: dict[str, int] = {}
        for name in job.groups if job.state == "running" else ():
            group = self.groups[name]
            if cost is None and group.budget is not None:
                charged[name] = job.reserved.get(name, group.ask(job.own))
            group.spent += charged.get(name, 0) if cost is None else cost
            if cost:
                group.figures.append(cost)
        job.state = "ended"
        return charged

    def admit(self, now_ns: int) -> list[int]:
        admitted: list[int] = []
        blocked: set[tuple[str, ...]] = set()
        while waiting := [job for job in self.jobs if job.state == "waiting" and job.groups not in blocked]:
            job = min(waiting, key=lambda job: (job.rank, job.number))
            if not self.fits(job, now_ns):
                blocked.add(job.groups)
                continue
            job.state = "running"
            for name in job.groups:
                if self.groups[name].has_rate:
                    self.groups[name].take(now_ns)
                if self.groups[name].budget is not None:
                    job.reserved[name] = self.groups[name].ask(job.own)
            admitted.append(job.number)
        return admitted

    def position(self, job: ModelJob) -> int:
        same = [each for each in self.jobs if each.state == "waiting" and each.groups == job.groups]
        return sum((each.rank, each.number) <= (job.rank, job.number) for each in same)


GROUPS = st.sets(st.sampled_from(NAMES), min_size=1).map(lambda names: tuple(sorted(names)))
STEPS = st.one_of(
    st.tuples(st.just("enter"), GROUPS, st.integers(-3, 3), st.integers(1, 3), st.none() | st.integers(0, 150)),
    st.tuples(st.just("end"), st.integers(0, 50), st.none() | st.integers(0, 60)),
    st.tuples(st.just("budget"), st.sampled_from(NAMES), st.sampled_from([None, 40, 200, 1000])),
    st.tuples(st.just("limit"), st.sampled_from(NAMES), st.sampled_from([None, 0, 1, 3, 5])),
    st.tuples(st.just("pause"), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("rate"), st.sampled_from(NAMES)),
    st.tuples(st.just("wait"), st.integers(0, 40)),
    st.tuples(st.just("set clock"), st.integers(-100000, 100000)),
)


def asking(own: int | None) -> list[str]:
    return [] if own is None else ["--max-budget-usd", shown_amount("usd", own)]


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=60))
def test_the_queue_decides_as_the_model_does(steps: list[tuple[Any, ...]]) -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for script in MIGRATIONS:
        for statement in statements(script):
            db.execute(statement)
    queue, model = Queue(db), Model({name: ModelGroup(2) for name in NAMES})
    model.groups["b"] = ModelGroup(4, budget=200)
    wall_ns, boot_ns = 10**18, 10**15

    def now() -> Moment:
        return Moment(wall_ns, boot_ns, "boot")

    def set_group(name: str) -> None:
        group = model.groups[name]
        queue.set_group(
            name,
            limit=group.limit,
            paused_until_ns=FOR_EVER_NS if group.paused else 0,
            aging_ns=AGING_NS,
            settings=RATE if group.has_rate else Settings(),
            now=now(),
        )
        budget = None if group.budget is None else (BudgetSetting("usd", group.budget, "total"),)
        queue.pacing.note_budgets(name, budget and Budgets("UTC", "hold", budget).encode())

    for name in NAMES:
        set_group(name)
    for step in steps:
        match step:
            case "enter", names, priority, weight, own:
                number = len(model.jobs) + 1
                db.execute(
                    """INSERT INTO jobs (job_id, workspace_key, kind, state, created_ns, digest, owner, spec)
                       VALUES (?, 'w', 'raw', 'queued', ?, '', 'me', ?)""",
                    (str(number), wall_ns, json.dumps({"labels": {}, "argv": ["a", *asking(own)]})),
                )
                queue.enter(number, Ticket(names, priority, weight, created=now()), now())
                model.jobs.append(ModelJob(number, names, wall_ns - priority * AGING_NS, weight, own))
            case "end", index, cost:
                running = [job for job in model.jobs if job.state != "ended"]
                if running:
                    job = running[index % len(running)]
                    was_running = job.state == "running"
                    record: dict[str, Any] = {"at_ns": wall_ns, "usd": cost, "groups": job.groups}
                    record["charged"] = {name: {"usd": each} for name, each in model.end(job, cost).items()}
                    db.execute("UPDATE jobs SET state = 'done', completed_ns = 1 WHERE seq = ?", (job.number,))
                    if was_running:
                        queue.spending._add(record)
            case "budget", name, budget:
                model.groups[name].budget = budget
                set_group(name)
            case "limit", name, limit:
                model.groups[name].limit = limit
                set_group(name)
            case "pause", name, paused:
                model.groups[name].paused = paused
                set_group(name)
            case "rate", name:
                group = model.groups[name]
                group.has_rate, group.starts = not group.has_rate, []
                set_group(name)
            case "wait", seconds:
                wall_ns, boot_ns = wall_ns + seconds * SECOND, boot_ns + seconds * SECOND
            case _, seconds:
                wall_ns += seconds * SECOND
        assert [int(grant.job_id) for grant in queue.admit(now(), 1000)] == model.admit(boot_ns)
        for name in NAMES:
            for each in queue.budgets(name, now()):
                running = [job.reserved.get(name, 0) for job in model.jobs if job.state == "running"]
                assert (each.used, each.reserved) == (model.groups[name].spent, sum(running))
            waiting = sum(job.state == "waiting" and name in job.groups for job in model.jobs)
            assert queue.counts(name)[:2] == (model.running(name), waiting)
        for job in model.jobs:
            place = queue.place(str(job.number), now())
            assert (place and place.position) == (model.position(job) if job.state == "waiting" else None)
    for group in model.groups.values():
        group.limit, group.paused, group.has_rate, group.budget = None, False, False, None
    for name in NAMES:
        set_group(name)
    queue.admit(now(), 1000)
    assert db.execute("SELECT count(*) FROM waiting").fetchone() == (0,), "nothing waits for ever"
    db.execute("DELETE FROM jobs")
    assert [
        db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("held", "later", "ranks WHERE jobs <> 0")
    ] == [
        0,
        0,
        0,
    ]
    db.close()
