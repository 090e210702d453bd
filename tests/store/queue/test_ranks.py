"""The positions of waiting jobs, which triggers count by ranges of the ranks."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator

import pytest

from supervisor.store.queue import Queue, ranks
from supervisor.store.schema import MIGRATIONS, statements

LANES = (1, 2)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for script in MIGRATIONS:
        for statement in statements(script):
            connection.execute(statement)
    yield connection
    connection.close()


def waiting(db: sqlite3.Connection) -> list[tuple[int, int, int]]:
    return db.execute("SELECT lane, rank, seq FROM waiting").fetchall()


def enter(db: sqlite3.Connection, lane: int, rank: int, seq: int) -> None:
    db.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, 1)", (lane, rank, seq))


def ranges(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM ranks").fetchone()[0])


@pytest.mark.parametrize("spread", [30, 100 << 27, 1 << 60])
def test_a_position_is_the_number_of_jobs_before_it(db: sqlite3.Connection, spread: int) -> None:
    chance = random.Random(spread)
    for seq in range(600):
        enter(db, chance.choice(LANES), chance.randrange(-spread, spread), seq)
        enter(db, chance.choice(LANES), chance.randrange(-spread, spread), seq)  # ignored
    for seq in chance.sample(range(600), 250):
        db.execute("DELETE FROM waiting WHERE seq = ?", (seq,))
    left = waiting(db)
    assert len(left) == 350
    for lane in LANES:
        in_order = sorted((rank, seq) for each, rank, seq in left if each == lane)
        assert ranks.count(db, lane) == len(in_order)
        assert [ranks.ahead(db, lane, *place) for place in in_order] == list(range(len(in_order)))
    wanted = {seq: ranks.ahead(db, lane, rank, seq) + 1 for lane, rank, seq in left}
    assert Queue(db).positions(wanted) == wanted
    assert {seq: Queue(db).positions([seq])[seq] for seq in wanted} == wanted


def test_jobs_far_apart_have_their_positions_too(db: sqlite3.Connection) -> None:
    for seq in range(500):
        enter(db, 1, seq << 20, seq)
    assert Queue(db).positions([3, 480]) == {3: 4, 480: 481}


def test_ranges_without_jobs_are_deleted_when_a_later_job_is_admitted(db: sqlite3.Connection) -> None:
    for seq in range(100):
        enter(db, 1, seq << 30, seq)
        enter(db, 2, seq << 30, 100 + seq)
    assert ranges(db) > 200
    db.execute("DELETE FROM waiting WHERE lane = 1 AND seq < 99")
    ranks.delete_empty(db, 1, 98 << 30, 99 << 30)
    assert db.execute("SELECT count(*), sum(jobs) FROM ranks WHERE lane = 1").fetchone() == (2, 2)
    db.execute("DELETE FROM waiting WHERE lane = 1")
    ranks.delete_empty(db, 1, 99 << 30, None)
    assert db.execute("SELECT sum(jobs) FROM ranks WHERE lane = 1").fetchone() == (None,)
    assert ranks.count(db, 2) == 100
