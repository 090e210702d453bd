"""The queue in the index: limits, order, and counters that agree with the rows whatever happens."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from itertools import count

import pytest

from supervisor.store.changes import is_valid
from supervisor.store.queue import Queue
from supervisor.store.queue.usage import FOR_EVER_NS
from supervisor.store.schema import MIGRATIONS, statements
from supervisor.store.tickets import Moment, Ticket, groups_of, ticket_of

SECOND = 10**9
AGING_NS = 300 * SECOND
NOW = Moment(1, 1, "boot")


class World:
    """An index in memory, without anything that would write job directories."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for script in MIGRATIONS:
            for statement in statements(script):
                self.db.execute(statement)
        self.queue = Queue(self.db)
        self.numbers = count(1)

    def group(self, name: str, limit: int | None = None, *, paused_until_ns: int = 0) -> None:
        self.queue.set_group(name, limit=limit, paused_until_ns=paused_until_ns, aging_ns=AGING_NS)

    def enter(self, *groups: str, priority: int = 0, weight: int = 1, at: int | None = None) -> str:
        number = next(self.numbers)
        created = number * SECOND if at is None else at
        cursor = self.db.execute(
            """INSERT INTO jobs (job_id, workspace_key, kind, state, created_ns, digest, owner, spec)
               VALUES (?, 'w', 'raw', 'queued', ?, '', 'me', '{"labels":{}}')""",
            (f"job{number}", created),
        )
        ticket = Ticket(tuple(sorted(groups)), priority, weight, created=Moment(created, 0, "boot"))
        self.queue.enter(cursor.lastrowid or 0, ticket, NOW)
        return f"job{number}"

    def admit(self, now_ns: int = 1) -> list[str]:
        return [grant.job_id for grant in self.queue.admit(Moment(now_ns, 1, "boot"))]

    def end(self, *job_ids: str) -> None:
        for job_id in job_ids:
            self.db.execute("UPDATE jobs SET state = 'done', completed_ns = 1 WHERE job_id = ?", (job_id,))

    def running(self, name: str) -> int:
        return self.queue.counts(name).running

    def waiting(self, name: str) -> int:
        return self.queue.counts(name).waiting


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.db.close()


def test_jobs_are_admitted_up_to_the_limit_in_the_order_of_their_arrival(world: World) -> None:
    world.group("g", 2)
    jobs = [world.enter("g") for _ in range(5)]
    assert world.admit() == jobs[:2]
    assert (world.running("g"), world.waiting("g")) == (2, 3)
    assert world.admit() == []
    world.end(jobs[1])
    assert world.admit() == [jobs[2]]
    world.end(jobs[0], jobs[2])
    assert world.admit() == jobs[3:]
    assert (world.running("g"), world.waiting("g")) == (2, 0)


def test_a_slot_is_freed_by_an_end_or_by_the_row_that_goes_and_only_once(world: World) -> None:
    world.group("g", 2)
    jobs = [world.enter("g") for _ in range(3)]
    world.admit()
    world.end(jobs[0])
    world.end(jobs[0])
    world.db.execute("DELETE FROM jobs WHERE job_id = ?", (jobs[0],))
    assert world.running("g") == 1
    world.db.execute("DELETE FROM jobs WHERE job_id = ?", (jobs[1],))
    assert world.running("g") == 0


def test_a_job_that_ends_while_it_waits_leaves_the_queue(world: World) -> None:
    world.group("g", 0)
    job = world.enter("g")
    world.end(job)
    assert (world.running("g"), world.waiting("g")) == (0, 0)
    assert not world.queue.any_waits()


def test_a_group_without_a_limit_admits_all_and_one_with_zero_admits_none(world: World) -> None:
    world.group("open")
    world.group("closed", 0)
    free = [world.enter("open") for _ in range(3)]
    world.enter("closed")
    world.enter("closed", "open")
    assert world.admit() == free


def test_a_job_in_several_groups_needs_room_in_each(world: World) -> None:
    world.group("a", 1)
    world.group("b", 5)
    first, second, third = world.enter("a", "b"), world.enter("b", "a"), world.enter("b")
    assert world.admit() == [first, third]
    assert world.running("b") == 2
    world.end(first)
    assert world.admit() == [second]


def test_a_heavy_job_at_the_head_blocks_its_lane_and_so_is_not_starved(world: World) -> None:
    world.group("g", 4)
    small = [world.enter("g") for _ in range(3)]
    heavy = world.enter("g", weight=4)
    later = [world.enter("g") for _ in range(3)]
    assert world.admit() == small
    world.end(*small[:2])
    assert world.admit() == []
    world.end(small[2])
    assert world.admit() == [heavy]
    assert world.running("g") == 4
    world.end(heavy)
    assert world.admit() == later


def test_lowering_a_limit_stops_nothing_and_admits_nothing_until_there_is_room(world: World) -> None:
    world.group("g", 3)
    jobs = [world.enter("g") for _ in range(4)]
    world.admit()
    world.group("g", 1)
    assert world.running("g") == 3
    world.end(*jobs[:2])
    assert world.admit() == []
    world.end(jobs[2])
    assert world.admit() == [jobs[3]]


def test_a_point_of_priority_is_worth_the_aging_time(world: World) -> None:
    world.group("g", 1)
    early = world.enter("g", at=0)
    wanted = world.enter("g", at=299 * SECOND, priority=1)
    late = world.enter("g", at=301 * SECOND, priority=1)
    order = []
    for _ in range(3):
        (job,) = world.admit()
        order.append(job)
        world.end(job)
    assert order == [wanted, early, late]


def test_a_pause_holds_until_its_end(world: World) -> None:
    world.group("g", 1, paused_until_ns=50)
    job = world.enter("g")
    assert world.admit(49) == []
    assert world.queue.next_seconds(Moment(49, 1, "boot")) == 1e-9
    place = world.queue.place(job, Moment(49, 1, "boot"))
    assert place is not None
    assert place.closed == (("g", "paused"),)
    assert world.admit(50) == [job]
    assert world.queue.next_seconds(Moment(50, 1, "boot")) is None


def test_a_pause_without_an_end_is_no_time_to_wake_for(world: World) -> None:
    world.group("g", 1, paused_until_ns=FOR_EVER_NS)
    world.enter("g")
    assert world.admit(FOR_EVER_NS - 1) == []
    assert world.queue.next_seconds(NOW) is None


def test_a_lane_without_a_known_group_admits_none(world: World) -> None:
    world.enter("nowhere")
    assert world.admit() == []
    world.group("nowhere", 1)
    assert world.admit() == ["job1"]


def test_the_place_of_a_job_counts_those_before_it_in_its_lane(world: World) -> None:
    world.group("g", 1)
    world.group("h", 1)
    jobs = [world.enter("g") for _ in range(3)]
    other = world.enter("h", "g")
    world.admit()
    places = [world.queue.place(job, NOW) for job in (*jobs, other)]
    assert places[0] is None
    assert [place.position for place in places[1:] if place] == [1, 2, 1]
    assert world.queue.holds(jobs[0])


def test_the_oldest_waiting_job_is_known_by_its_creation(world: World) -> None:
    world.group("g", 1)
    world.group("h", 1)
    assert world.queue.counts("g").oldest_ns is None
    world.enter("g", at=1)
    world.enter("g", at=7)
    world.enter("g", "h", at=5, priority=3)
    world.admit()
    counts = world.queue.counts("g")
    assert (counts.running, counts.waiting, counts.oldest_ns) == (1, 2, 1)
    assert world.queue.heaviest("g") == 1


def test_removing_a_group_takes_its_lanes_along(world: World) -> None:
    world.group("g", 1)
    job = world.enter("g")
    world.admit()
    world.end(job)
    world.queue.remove_group("g")
    assert world.queue.groups() == set()
    assert world.db.execute("SELECT count(*) FROM lanes").fetchone()[0] == 0


def test_a_job_changes_its_lane_and_its_order_follows_the_new_groups(world: World) -> None:
    world.group("g", 1)
    world.group("h", 0)
    first, moved, last = world.enter("h", at=1), world.enter("g", at=2), world.enter("h", at=3)
    before = Ticket(("g",), created=Moment(2, 0, "boot"))
    world.queue.change(2, before._replace(groups=("h",)), before, NOW)
    assert (world.waiting("g"), world.waiting("h"), world.admit()) == (0, 3, [])
    assert world.queue.positions([1, 2, 3]) == {1: 1, 2: 2, 3: 3}
    world.group("h", 3)
    assert world.admit() == [first, moved, last]
    assert world.db.execute("SELECT count(*) FROM ranks WHERE jobs <> 0").fetchone()[0] == 0


def test_groups_that_are_not_a_list_of_names_are_damaged_changes() -> None:
    assert is_valid({"groups": ["a"], "of_a_newer_version": 1})
    assert not is_valid({"groups": "a"})
    assert not is_valid({"groups": [1]})
    request = {"groups": ["b", "a"], "created_ns": 5, "queue": {"groups": ["c", "b"]}}
    ticket = ticket_of(request)
    assert ticket is not None
    assert ticket.groups == groups_of(request) == ("b", "c")


def test_the_grants_of_a_supervisor_that_it_has_not_launched(world: World) -> None:
    world.group("g", 2)
    first, second = world.enter("g"), world.enter("g")
    world.admit()
    world.db.execute("UPDATE jobs SET started_ns = 1 WHERE job_id = ?", (first,))
    assert world.queue.granted_to("me") == [second]
    assert world.queue.granted_to("another") == []


def test_a_ticket_is_what_job_json_says() -> None:
    assert ticket_of({}) is None
    assert ticket_of({"groups": []}) is None
    request = {"groups": ["b", "a", "b"], "priority": 2, "created_ns": 5}
    assert ticket_of(request) == Ticket(("a", "b"), 2, 1, created=Moment(5, 0, ""))


@pytest.mark.parametrize("seed", range(20))
def test_random_walks_exceed_no_limit_and_admit_every_job(world: World, seed: int) -> None:
    chance = random.Random(seed)
    limits: dict[str, int | None] = {}
    for name in "abcd":
        limits[name] = chance.choice([1, 2, 3, None])
        world.group(name, limits[name])
    held: dict[str, tuple[tuple[str, ...], int]] = {}
    waiting: dict[str, tuple[tuple[str, ...], int]] = {}

    def used(name: str) -> int:
        return sum(weight for groups, weight in held.values() if name in groups)

    def admit() -> None:
        before = {name: used(name) for name in limits}
        for job in world.admit():
            held[job] = waiting.pop(job)
        for name, limit in limits.items():
            assert world.running(name) == used(name)
            assert world.waiting(name) == sum(name in groups for groups, _ in waiting.values())
            assert limit is None or used(name) <= max(limit, before[name])

    for _ in range(300):
        what = chance.random()
        if what < 0.5:
            groups = tuple(sorted(chance.sample("abcd", chance.choice([1, 1, 2, 3]))))
            most = min((limit for name in groups if (limit := limits[name]) is not None), default=3)
            weight = chance.randint(1, max(1, min(3, most)))
            job = world.enter(*groups, weight=weight, priority=chance.randint(-2, 2))
            waiting[job] = groups, weight
        elif what < 0.9 and (held or waiting):
            job = chance.choice([*held, *waiting])
            world.end(job)
            held.pop(job, None) or waiting.pop(job, None)
        else:
            name = chance.choice("abcd")
            limits[name] = chance.choice([3, 4, None])  # never below a weight, as `group set` refuses
            world.group(name, limits[name])
        admit()
    while held:
        world.end(*held)
        held.clear()
        admit()
    assert not waiting
    assert not world.queue.any_waits()
    assert all(world.running(name) == 0 for name in limits)


def test_the_held_slots_of_a_group_without_a_limit_are_counted_where_they_matter(world: World) -> None:
    world.group("free")
    world.group("limited", 2)
    world.enter("free", weight=5)
    world.enter("free", "limited", weight=2)
    third = world.enter("limited")
    assert len(world.admit()) == 2
    assert (world.running("free"), world.running("limited")) == (7, 2)
    place = world.queue.place(third, NOW)
    assert place is not None
    assert place.closed == (("limited", "limit"),)
