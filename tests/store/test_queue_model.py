"""The queue against a model that is slow and obvious: lists, and a look at every job for each decision."""

from __future__ import annotations

import sqlite3
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.store.pacing import Settings
from supervisor.store.queue import Queue
from supervisor.store.schema import MIGRATIONS, statements
from supervisor.store.tickets import Moment, Ticket
from supervisor.store.usage import FOR_EVER_NS

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
    state: str = "waiting"


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
        return True

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
            admitted.append(job.number)
        return admitted

    def position(self, job: ModelJob) -> int:
        same = [each for each in self.jobs if each.state == "waiting" and each.groups == job.groups]
        return sum((each.rank, each.number) <= (job.rank, job.number) for each in same)


GROUPS = st.sets(st.sampled_from(NAMES), min_size=1).map(lambda names: tuple(sorted(names)))
STEPS = st.one_of(
    st.tuples(st.just("enter"), GROUPS, st.integers(-3, 3), st.integers(1, 3)),
    st.tuples(st.just("end"), st.integers(0, 50)),
    st.tuples(st.just("limit"), st.sampled_from(NAMES), st.sampled_from([None, 0, 1, 3, 5])),
    st.tuples(st.just("pause"), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("rate"), st.sampled_from(NAMES)),
    st.tuples(st.just("wait"), st.integers(0, 40)),
    st.tuples(st.just("set clock"), st.integers(-100000, 100000)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_the_queue_decides_as_the_model_does(steps: list[tuple[Any, ...]]) -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for script in MIGRATIONS:
        for statement in statements(script):
            db.execute(statement)
    queue, model = Queue(db), Model({name: ModelGroup(2) for name in NAMES})
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

    for name in NAMES:
        set_group(name)
    for step in steps:
        match step:
            case "enter", names, priority, weight:
                number = len(model.jobs) + 1
                db.execute(
                    """INSERT INTO jobs (job_id, workspace_key, kind, state, created_ns, digest, owner, spec)
                       VALUES (?, 'w', 'raw', 'queued', ?, '', 'me', '{"labels":{}}')""",
                    (str(number), wall_ns),
                )
                queue.enter(number, Ticket(names, priority, weight, created=now()), now())
                model.jobs.append(ModelJob(number, names, wall_ns - priority * AGING_NS, weight))
            case "end", index:
                running = [job for job in model.jobs if job.state != "ended"]
                if running:
                    job = running[index % len(running)]
                    job.state = "ended"
                    db.execute("UPDATE jobs SET state = 'done', completed_ns = 1 WHERE seq = ?", (job.number,))
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
            waiting = sum(job.state == "waiting" and name in job.groups for job in model.jobs)
            assert queue.counts(name)[:2] == (model.running(name), waiting)
        for job in model.jobs:
            place = queue.place(str(job.number), now())
            assert (place and place.position) == (model.position(job) if job.state == "waiting" else None)
    for group in model.groups.values():
        group.limit, group.paused, group.has_rate = None, False, False
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
