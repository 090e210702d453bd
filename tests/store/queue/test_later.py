"""Jobs that are not ready: on hold, before their time, after other jobs; by both clocks, in every order of changes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.store.queue import FOR_EVER_NS, Queue, Turn
from supervisor.store.schema import MIGRATIONS, statements
from supervisor.store.tickets import Moment, Ticket, ticket_of

SECOND = 10**9


class World:
    """An index in memory at a time that the test sets."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for script in MIGRATIONS:
            for statement in statements(script):
                self.db.execute(statement)
        self.queue = Queue(self.db)
        self.now = Moment(1000 * SECOND, 50 * SECOND, "boot")
        self.made = 0

    def job(self, **members: Any) -> str:
        self.made += 1
        job_id = f"job{self.made}"
        request = {"created_ns": self.now.wall_ns, "created_boot_ns": self.now.boot_ns, "boot": self.now.boot} | members
        cursor = self.db.execute(
            """INSERT INTO jobs (job_id, workspace_key, kind, state, created_ns, digest, owner, spec)
               VALUES (?, 'w', 'raw', 'queued', ?, '', 'me', ?)""",
            (job_id, self.now.wall_ns, json.dumps({"labels": {}} | request)),
        )
        ticket = ticket_of(request)
        if ticket is not None:
            self.queue.enter(cursor.lastrowid or 0, ticket, self.now)
        return job_id

    def passes(self, seconds: float, *, wall: float | None = None, boot: str | None = None) -> None:
        """Have time pass by the boot clock, and by the wall clock if that is not set otherwise."""
        self.now = Moment(
            self.now.wall_ns + int((seconds if wall is None else wall) * SECOND),
            self.now.boot_ns + int(seconds * SECOND) if boot is None else SECOND,
            boot or self.now.boot,
        )

    def turn(self) -> Turn:
        grants, turn = [], Turn([], [], more=True)
        while turn.more:
            turn = self.queue.turn(self.now)
            grants += turn.grants
        assert not self.queue.is_due(lambda: self.now) or turn.ends or self.queue.any_waits()
        return turn._replace(grants=grants)

    def admitted(self) -> list[str]:
        return [grant.job_id for grant in self.turn().grants]

    def ends(self) -> list[tuple[str, str, str]]:
        """Return (job, reason, the job that has failed it or the reason that it waited for)."""
        found = [(end, json.loads(end.cause)) for end in self.turn().ends]
        return [(end.job_id, end.why, cause.get("job_id") or cause["queue_reason"]) for end, cause in found]

    def launch(self, job_id: str) -> None:
        self.db.execute("UPDATE jobs SET state = 'running', started_ns = 1 WHERE job_id = ?", (job_id,))

    def end(self, job_id: str, state: str = "done") -> None:
        self.db.execute("UPDATE jobs SET state = ?, completed_ns = 1 WHERE job_id = ?", (state, job_id))

    def delete(self, job_id: str) -> None:
        self.db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def reason(self, job_id: str) -> str | None:
        return self.queue.standing(job_id, self.now)[0]

    def left(self) -> dict[str, int]:
        tables = ("waiting", "later", "deps")
        return {
            table: self.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables
        }  # names of this test


NOTHING = {"waiting": 0, "later": 0, "deps": 0}


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.db.close()


def after(when: str, *job_ids: str) -> list[dict[str, str]]:
    return [{"job_id": job_id, "when": when} for job_id in job_ids]


@pytest.mark.parametrize(
    ("when", "launched", "state", "holds"),
    [
        ("ok", True, "done", True),
        ("ok", True, "failed", False),
        ("ok", False, "cancelled", False),
        ("ok", True, "timeout", False),
        ("any", True, "done", True),
        ("any", False, "failed", True),
        ("failed", True, "failed", True),
        ("failed", True, "timeout", True),
        ("failed", False, "cancelled", True),
        ("failed", True, "done", False),
        ("start", True, None, True),
        ("start", True, "failed", True),
        ("start", False, "cancelled", False),
    ],
)
@pytest.mark.parametrize("when_entered", ["before", "afterwards"])
def test_a_dependency_holds_or_fails(
    world: World, when: str, *, launched: bool, state: str | None, holds: bool, when_entered: str
) -> None:
    first = world.job()
    job = world.job(after=after(when, first)) if when_entered == "before" else ""
    if job:
        assert (world.admitted(), world.reason(job)) == ([], "dependency")
    if launched:
        world.launch(first)
    if state is not None:
        world.end(first, state)
    job = job or world.job(after=after(when, first))
    if holds:
        assert world.admitted() == [job]
    else:
        assert world.ends() == [(job, "dependency_failed", first)]
        assert world.admitted() == []
        world.end(job, "cancelled")
        assert world.ends() == []
    assert world.left() == NOTHING


def test_all_dependencies_must_hold_and_the_first_that_cannot_ends_the_job(world: World) -> None:
    first, second = world.job(), world.job()
    both = world.job(after=after("ok", first, second))
    third = world.job(after=after("ok", both))
    world.end(first)
    assert world.admitted() == []
    world.end(second, "failed")
    assert world.ends() == [(both, "dependency_failed", second)]
    world.end(both, "cancelled")
    assert world.ends() == [(third, "dependency_failed", both)]
    world.end(third, "cancelled")
    assert world.left() == NOTHING


def test_a_dependency_that_is_deleted_can_never_hold(world: World) -> None:
    first = world.job()
    job = world.job(after=after("any", first))
    world.delete(first)
    assert world.ends() == [(job, "dependency_failed", first)]
    world.delete(job)
    assert world.left() == NOTHING
    assert world.ends() == []


def test_a_job_that_waits_for_one_that_is_not_there_ends(world: World) -> None:
    job = world.job(after=after("any", "nowhere"))
    assert world.ends() == [(job, "dependency_failed", "nowhere")]


def test_a_delay_counts_by_the_boot_clock(world: World) -> None:
    job = world.job(delay_ns=10 * SECOND)
    assert world.admitted() == []
    assert world.reason(job) == "not_before"
    assert world.queue.next_seconds(world.now) == 10
    world.passes(9, wall=86400)  # the wall clock is set forward
    assert world.admitted() == []
    world.passes(1, wall=-2 * 86400)  # and back
    assert world.admitted() == [job]
    assert world.left() == NOTHING


def test_after_a_reboot_a_delay_counts_by_the_wall_clock(world: World) -> None:
    job = world.job(delay_ns=100 * SECOND)
    world.admitted()
    world.passes(0, wall=40, boot="next")
    assert world.admitted() == []
    assert world.queue.next_seconds(world.now) == 60
    world.passes(60)
    assert world.admitted() == [job]


def test_a_time_of_the_wall_clock_follows_that_clock(world: World) -> None:
    job = world.job(not_before_ns=1100 * SECOND)
    assert world.admitted() == []
    world.passes(200, wall=-500)
    assert world.admitted() == []
    assert world.queue.next_seconds(world.now) == 600
    world.passes(1, wall=601)
    assert world.admitted() == [job]


def test_a_job_on_hold_stays_whatever_else_comes(world: World) -> None:
    first = world.job()
    job = world.job(hold=True, after=after("ok", first), delay_ns=SECOND)
    world.passes(5)
    world.end(first)
    assert world.admitted() == []
    assert world.reason(job) == "held"
    assert not world.queue.is_due(lambda: world.now)
    assert not world.queue.can_go_on()


def test_a_job_on_hold_needs_a_process_only_for_its_end(world: World) -> None:
    first = world.job()
    world.job(hold=True, after=after("ok", first))
    assert world.admitted() == []
    assert not world.queue.can_go_on()
    world.end(first, "failed")  # a process that was killed now has not looked at the dependents
    assert world.queue.can_go_on()
    world.job(hold=True, start_within_ns=30 * SECOND)
    world.db.execute("DELETE FROM later WHERE seq = 2")
    world.turn()
    assert world.queue.can_go_on()


def test_a_job_behind_one_on_hold_needs_no_process(world: World) -> None:
    """Nor does one behind that, or one behind a job of a group that is paused until it is resumed."""
    first = world.job(hold=True)
    second = world.job(after=after("ok", first))
    world.job(after=after("any", second))
    world.queue.set_group("g", limit=1, paused_until_ns=FOR_EVER_NS, aging_ns=0)
    world.job(after=after("ok", world.job(groups=["g"])))
    assert world.admitted() == []
    assert not world.queue.can_go_on()
    running = world.job()
    world.job(after=after("ok", running))
    assert world.admitted() == []
    assert world.queue.can_go_on()


def test_a_new_job_with_the_number_of_a_deleted_one_is_awaited_by_none(world: World) -> None:
    kept = world.job(hold=True)
    deleted = world.job()
    waiting = world.job(after=after("ok", deleted, kept))
    assert world.admitted() == []
    world.delete(waiting)
    waiting = world.job(after=after("ok", deleted, kept))
    world.db.execute("UPDATE jobs SET seq = 100 WHERE job_id = ?", (deleted,))
    world.db.execute("UPDATE deps SET on_seq = 100 WHERE cause = ?", (deleted,))
    world.delete(deleted)
    new = world.job()
    world.db.execute("UPDATE jobs SET seq = 100 WHERE job_id = ?", (new,))
    assert not world.queue.is_awaited(100)
    assert world.ends() == [(waiting, "dependency_failed", deleted)]


def test_a_job_whose_slots_are_taken_back_keeps_what_it_has_waited_for(world: World) -> None:
    first = world.job()
    world.end(first)
    job = world.job(after=after("ok", first))
    assert world.admitted() == [job]
    assert not world.queue.is_awaited(1)
    request = json.loads(world.db.execute("SELECT spec FROM jobs WHERE job_id = ?", (job,)).fetchone()[0])
    world.queue.put_back(2, ticket_of(request) or Ticket(), world.now)
    assert world.queue.is_awaited(1)
    assert world.queue.awaiting(1, 10) == [job]
    assert world.admitted() == [job]
    assert not world.queue.is_awaited(1)


@pytest.mark.parametrize("waits_in", ["waiting", "later"])
def test_a_job_that_is_not_launched_in_time_ends(world: World, waits_in: str) -> None:
    world.queue.set_group("g", limit=0, paused_until_ns=0, aging_ns=0)
    first = world.job()
    conditions = {"groups": ["g"]} if waits_in == "waiting" else {"after": after("ok", first)}
    job = world.job(**conditions, start_within_ns=30 * SECOND)
    world.passes(29)
    assert world.ends() == []
    world.passes(1)
    assert world.ends() == [(job, "start_expired", "limit" if waits_in == "waiting" else "dependency")]
    world.end(job, "cancelled")
    assert world.left() == NOTHING


def test_a_job_that_was_launched_in_time_does_not_end(world: World) -> None:
    world.queue.set_group("g", limit=1, paused_until_ns=0, aging_ns=0)
    job = world.job(groups=["g"], start_within_ns=30 * SECOND)
    assert world.admitted() == [job]
    world.passes(60)
    assert world.ends() == []
    assert not world.queue.is_due(lambda: world.now)


def test_many_changes_at_once_are_reviewed_in_portions(world: World) -> None:
    first = world.job()
    jobs = [world.job(after=after("ok", first)) for _ in range(200)]
    world.admitted()
    world.end(first)
    assert len(world.queue.turn(world.now, most=64).grants) == 64
    assert world.queue.is_due(lambda: world.now)
    assert len(world.admitted()) == 136
    assert len(jobs) == 200


def test_a_job_that_is_held_released_and_moved_is_counted_where_it_is(world: World) -> None:
    world.queue.set_group("g", limit=1, paused_until_ns=0, aging_ns=300 * SECOND)
    running, first, second = (world.job(groups=["g"]) for _ in range(3))
    assert world.admitted() == [running]
    seq = world.db.execute("SELECT seq FROM jobs WHERE job_id = ?", (second,)).fetchone()[0]

    def change(**changes: Any) -> list[int | None]:
        request = {"created_ns": world.now.wall_ns, "groups": ["g"], "queue": changes}
        world.queue.change(seq, ticket_of(request) or Ticket(), Ticket(), world.now)
        return [world.queue.standing(job_id, world.now)[1] for job_id in (first, second)]

    assert change(priority=2) == [2, 1]
    assert change(hold=True) == [1, None]
    assert change(hold=False, priority=-2) == [1, 2]
    assert change(first_ns=-world.queue.before_all(seq)) == [2, 1]
    assert world.queue.counts("g") == (1, 2, 1000 * SECOND)
    for job_id in (running, first, second):
        world.end(job_id)
    assert world.left() == NOTHING
    assert world.db.execute("SELECT count(*) FROM ranks WHERE jobs <> 0").fetchone() == (0,)
