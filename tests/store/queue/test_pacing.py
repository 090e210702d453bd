"""Rates and fair orders of groups in the queue, by a clock that the tests set."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest

from supervisor.store.pacing import Settings
from supervisor.store.queue import Queue
from supervisor.store.schema import MIGRATIONS, statements
from supervisor.store.tickets import Moment, Ticket, ticket_of

SECOND = 10**9
DAY = 86400 * SECOND
AGING_NS = 300 * SECOND
TEN_A_MINUTE = Settings(interval_ns=6 * SECOND, burst=10)
FAIR = Settings(fair_by="label:flow")


class World:
    """An index in memory, and the two clocks."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for script in MIGRATIONS:
            for statement in statements(script):
                self.db.execute(statement)
        self.queue = Queue(self.db)
        self.wall_ns, self.boot_ns, self.boot = 1000 * DAY, DAY, "first"

    @property
    def now(self) -> Moment:
        return Moment(self.wall_ns, self.boot_ns, self.boot)

    def pass_time(self, seconds: float) -> None:
        self.wall_ns += int(seconds * SECOND)
        self.boot_ns += int(seconds * SECOND)

    def group(self, name: str, settings: Settings, limit: int | None = None, *, empty: bool = False) -> None:
        self.queue.set_group(
            name, limit=limit, paused_until_ns=0, aging_ns=AGING_NS, settings=settings, now=self.now, empty=empty
        )

    def enter(self, *groups: str, flow: str = "", number: int = 1, priority: int = 0, weight: int = 1) -> None:
        for _ in range(number):
            row = self.db.execute(
                """INSERT INTO jobs (job_id, workspace_key, kind, state, created_ns, digest, owner, spec)
                   VALUES (hex(randomblob(16)), 'w', ?, 'queued', ?, '', 'me', '{"labels":{}}')""",
                (flow, self.wall_ns),
            )
            ticket = Ticket(tuple(sorted(groups)), priority, weight, created=self.now, labels={"flow": flow})
            self.queue.enter(row.lastrowid or 0, ticket, self.now)

    def admit(self, most: int = 64) -> list[str]:
        """Return the flows of the admitted jobs, in order."""
        found = [grant.job_id for grant in self.queue.admit(self.now, most)]
        select = "SELECT kind FROM jobs WHERE job_id = ?"
        return [self.db.execute(select, (job_id,)).fetchone()[0] for job_id in found]

    def end_all(self) -> None:
        self.db.execute(
            "UPDATE jobs SET state = 'done', completed_ns = 1 WHERE seq IN (SELECT seq FROM held)",
        )

    def serve(self, number: int) -> list[str]:
        """Run jobs one after the other, a second each; return their flows."""
        served: list[str] = []
        for _ in range(number):
            served += self.admit()
            self.pass_time(1)
            self.end_all()
        return served


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    yield found
    found.db.close()


# ------------------------------------------------------------ rates


def test_a_bucket_is_full_at_first_and_then_gives_a_token_at_a_time(world: World) -> None:
    world.group("g", TEN_A_MINUTE)
    world.enter("g", number=40, weight=5)
    assert len(world.admit()) == 10
    assert world.admit() == []
    assert world.queue.next_seconds(world.now) == 6
    world.pass_time(5.9)
    assert world.admit() == []
    world.pass_time(0.1)
    assert len(world.admit()) == 1
    world.pass_time(18)
    assert len(world.admit()) == 3
    world.pass_time(3600)
    assert len(world.admit()) == 10


def test_only_a_rate_closes_the_group_and_says_so(world: World) -> None:
    world.group("g", Settings(interval_ns=60 * SECOND, burst=1))
    world.enter("g", number=2)
    world.admit()
    (job_id,) = world.db.execute("SELECT job_id FROM jobs JOIN waiting USING (seq)").fetchone()
    place = world.queue.place(job_id, world.now)
    assert place is not None
    assert place.closed == (("g", "rate"),)
    assert world.queue.standing(job_id, world.now) == ("limit", 1)
    assert world.queue.can_go_on()


@pytest.mark.parametrize("jump", [-DAY, DAY, -365 * DAY, 365 * DAY])
def test_a_wall_clock_that_is_set_changes_nothing(jump: int, world: World) -> None:
    world.group("g", TEN_A_MINUTE)
    world.enter("g", number=40)
    world.admit()
    world.wall_ns += jump
    assert world.admit() == []
    world.pass_time(6)
    assert len(world.admit()) == 1


@pytest.mark.parametrize("jump", [-DAY, 0, DAY])
def test_after_a_reboot_one_bucket_at_most_and_no_token_later_than_it_takes_to_make_it(jump: int, world: World) -> None:
    world.group("g", TEN_A_MINUTE)
    world.enter("g", number=40)
    world.admit()
    world.boot, world.boot_ns = "second", 0
    world.wall_ns += jump
    first = len(world.admit())
    assert first == (10 if jump > 0 else 0)
    assert world.admit() == []
    world.pass_time(6)
    assert len(world.admit()) == 1


def test_a_group_of_a_new_index_has_no_token(world: World) -> None:
    world.group("g", TEN_A_MINUTE, empty=True)
    world.enter("g", number=40)
    assert world.admit() == []
    world.pass_time(6)
    assert len(world.admit()) == 1


def test_a_change_of_a_group_gives_no_new_bucket(world: World) -> None:
    world.group("g", TEN_A_MINUTE)
    world.enter("g", number=40)
    world.admit()
    world.group("g", TEN_A_MINUTE, limit=100, empty=True)
    assert world.admit() == []
    world.group("g", Settings(interval_ns=SECOND, burst=1))
    world.pass_time(1)
    assert len(world.admit()) == 1


def test_a_job_needs_a_token_of_each_group_and_a_refusal_takes_none(world: World) -> None:
    world.group("a", TEN_A_MINUTE)
    world.group("b", Settings(interval_ns=60 * SECOND, burst=1))
    world.enter("a", "b", number=3)
    assert len(world.admit()) == 1
    world.enter("a", number=20)
    assert len(world.admit()) == 9


# ------------------------------------------------------------ fairness


def test_ten_jobs_behind_a_thousand_of_another_flow_begin_at_once(world: World) -> None:
    world.group("g", FAIR, limit=1)
    world.enter("g", flow="many", number=1000)
    world.serve(5)
    world.enter("g", flow="few", number=10)
    served = world.serve(21)
    assert "few" in served[:2]
    assert served.count("few") == 10


def test_without_fairness_they_wait_for_all(world: World) -> None:
    world.group("g", Settings(), limit=1)
    world.enter("g", flow="many", number=1000)
    world.serve(5)
    world.enter("g", flow="few", number=10)
    assert world.serve(995) == ["many"] * 995
    assert world.serve(1) == ["few"]


def test_a_flow_that_comes_late_gets_its_share_and_no_more(world: World) -> None:
    world.group("g", FAIR, limit=1)
    world.enter("g", flow="old", number=1000)
    world.serve(500)
    world.enter("g", flow="new", number=200)
    served = world.serve(200)
    assert 99 <= served.count("new") <= 101
    assert all(45 <= served[start : start + 100].count("new") <= 55 for start in (0, 50, 100))


def test_weights_count(world: World) -> None:
    world.group("g", FAIR, limit=3)
    world.enter("g", flow="heavy", number=100, weight=3)
    world.enter("g", flow="light", number=100)
    served = [flow for _ in range(50) for flow in world.serve(1)]
    assert 2 <= served.count("light") / served.count("heavy") <= 4


def test_jobs_of_high_priority_at_the_end_of_a_long_flow_do_not_put_new_flows_behind_it(world: World) -> None:
    world.group("g", FAIR, limit=1)
    world.enter("g", flow="many", number=1000)
    world.enter("g", flow="many", number=50, priority=10)
    assert world.serve(50) == ["many"] * 50
    world.enter("g", flow="few", number=10)
    assert world.serve(22).count("few") == 10


def test_priority_counts_within_and_between_flows(world: World) -> None:
    world.group("g", FAIR, limit=1)
    world.enter("g", flow="a", number=20)
    world.enter("g", flow="b", number=1, priority=1)
    assert world.serve(1) == ["b"]
    world.enter("g", flow="low", number=1, priority=-1)
    assert world.serve(20) == ["a"] * 20
    assert world.serve(1) == ["low"]


def test_new_flows_of_high_priority_do_not_starve_others(world: World) -> None:
    world.group("g", FAIR, limit=1)
    world.enter("g", flow="patient")
    for number in range(1000):
        world.enter("g", flow=f"urgent {number}", priority=1)
        if "patient" in world.serve(1):
            break
    assert number < 320


def test_a_lane_without_fairness_and_a_fair_one_share_a_group_by_age(world: World) -> None:
    world.group("fair", FAIR)
    world.group("both", Settings(), limit=1)
    world.enter("fair", "both", flow="fair", number=500)
    for _ in range(200):
        world.enter("both", flow="plain")
        world.serve(1)
    world.pass_time(1)
    world.enter("both", flow="last")
    assert "last" in world.serve(502)
    for _ in range(50):  # and the other way round: newer jobs do not pass
        world.enter("both", flow="newer")
    world.enter("fair", "both", flow="fair")
    world.enter("both", flow="newest", number=100)
    assert "fair" in world.serve(252)


def test_an_idle_group_begins_anew(world: World) -> None:
    world.group("g", FAIR, limit=1)
    world.enter("g", flow="a", number=20, priority=10)
    world.serve(20)
    world.enter("g", flow="a", number=2)
    world.enter("g", flow="b", number=2)
    assert world.serve(4) == ["a", "b", "a", "b"]
    assert world.db.execute("SELECT count(*) FROM flows").fetchone() == (2,)


def test_a_job_gets_its_tag_when_it_is_ready(world: World) -> None:
    world.group("g", FAIR, limit=1)
    until_ns = world.wall_ns + 500 * SECOND
    request = {
        "groups": ["g"],
        "labels": {"flow": "late"},
        "not_before_ns": until_ns,
        "created_ns": world.wall_ns,
    }
    for number in range(2):
        row = world.db.execute(
            """INSERT INTO jobs (job_id, workspace_key, kind, state, created_ns, digest, owner, spec)
               VALUES (?, 'w', 'late', 'queued', ?, '', 'me', ?)""",
            (f"late {number}", world.wall_ns, json.dumps(request)),
        )
        ticket = ticket_of(request)
        assert ticket is not None
        world.queue.enter(row.lastrowid or 0, ticket, world.now)
    world.enter("g", flow="many", number=1000)
    world.serve(600)
    world.queue.turn(world.now, 64)
    world.end_all()
    served = world.serve(4)
    assert served.count("late") == 1, "one was in the turn, and the other flow has its share"


def test_a_flow_is_not_charged_for_changes_of_a_job_that_is_not_ready(world: World) -> None:
    world.group("g", FAIR, 1)
    world.enter("g")
    held = Ticket(("g",), hold=True, created=world.now, labels={"flow": "changed"})
    row = world.db.execute(
        """INSERT INTO jobs (job_id, workspace_key, kind, state, created_ns, digest, owner, spec)
           VALUES ('held', 'w', '', 'queued', ?, '', 'me', '{}')""",
        (world.wall_ns,),
    )
    seq = row.lastrowid or 0
    world.queue.enter(seq, held, world.now)
    for priority in range(5):
        world.queue.change(seq, held._replace(priority=priority + 1), held._replace(priority=priority), world.now)
    assert world.db.execute("SELECT count(*) FROM flows WHERE flow = ?", (b"changed",)).fetchone() == (0,)


def test_setting_fairness_leaves_waiting_jobs_where_they_are(world: World) -> None:
    world.group("g", Settings(), limit=1)
    world.enter("g", flow="a", number=3)
    world.group("g", FAIR, limit=1)
    world.pass_time(1)
    world.enter("g", flow="b", number=2)
    world.enter("g", flow="a", number=2)
    assert world.serve(7) == ["a", "a", "a", "b", "a", "b", "a"]
