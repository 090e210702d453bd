"""The waiting jobs in the index: which groups they are in, their order, and the slots that admitted jobs hold.

Admission is one transaction, and any process that causes a change runs it: SQLite's single writer decides every race.
A **lane** is one distinct set of groups. Its waiting jobs are admitted by rank, and only while each of its groups has
room, so a heavy job at the head blocks its lane, and no job of its lane passes it. Jobs of another lane may.

A job that waits for anything but room is in the table ``later``, see the module ``later``. ``order`` says which job of
several lanes is next, with ``flows`` for groups that are shared fairly; ``ranks`` counts the jobs ahead of one;
``usage`` has what groups have in use, and ``queries`` answers about the queue. Beside this package, ``pacing`` has how
fast groups may start jobs.

A slot belongs to a job, not to a process. An SQL trigger frees it in the transaction that ends or deletes the row of
the job, so no version of the package can leave that out, and no kill can fall in between. The slots in use are summed
over the jobs that hold them, so there is no counter that could differ from the rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from supervisor.store.pacing import NO_SETTINGS, Pacing, Settings
from supervisor.store.queue.flows import Flows
from supervisor.store.queue.order import fair_pace, head_of
from supervisor.store.queue.queries import End, QueueQueries
from supervisor.store.queue.ranks import delete_empty, set_rank
from supervisor.store.queue.usage import FOR_EVER_NS, lanes_of, usage_of
from supervisor.store.tickets import Moment, Ticket

__all__ = ["FOR_EVER_NS", "SCHEMA", "TURN", "Grant", "Queue", "Turn"]

# A new connection reads the whole schema: each table, index and trigger costs it 2 to 6 us. So there are no tables and
# triggers for counters. The sums are short: groups and lanes are few, and the limits bound the jobs that hold slots.
SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS groups (
        name TEXT PRIMARY KEY,
        most INTEGER,
        paused_until_ns INTEGER NOT NULL DEFAULT 0,
        aging_ns INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS lanes (
        lane INTEGER PRIMARY KEY,
        names TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS waiting (
        lane INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        weight INTEGER NOT NULL,
        PRIMARY KEY (lane, rank, seq)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS waiting_seq ON waiting (seq);
    CREATE TABLE IF NOT EXISTS held (
        seq INTEGER PRIMARY KEY,
        lane INTEGER NOT NULL,
        weight INTEGER NOT NULL
    );
    CREATE TRIGGER IF NOT EXISTS admission_ended AFTER UPDATE OF completed_ns ON jobs
    WHEN NEW.completed_ns IS NOT NULL AND OLD.completed_ns IS NULL
    BEGIN
        DELETE FROM waiting WHERE seq = NEW.seq;
        DELETE FROM held WHERE seq = NEW.seq;
    END;
    CREATE TRIGGER IF NOT EXISTS admission_gone AFTER DELETE ON jobs
    BEGIN
        DELETE FROM waiting WHERE seq = OLD.seq;
        DELETE FROM held WHERE seq = OLD.seq;
    END;
"""

TURN: Final = 64
"""How many jobs a turn admits, and how many it looks at: some milliseconds. The next turn goes on."""

_LONG_AGO: Final = Moment(0, 0, "")


class Grant(NamedTuple):
    """A job that was admitted, and the supervisor that is to launch it.

    Attributes:
        job_id: of the job.
        owner: of the job.
        workspace_key: of the job.
        reserved: what it has reserved in each of its groups that has budgets.
    """

    job_id: str
    owner: str
    workspace_key: str
    reserved: Mapping[str, Mapping[str, int]] = MappingProxyType({})


class Turn(NamedTuple):
    """What a turn has decided, for the caller to carry out after the commit.

    Attributes:
        grants: the jobs that got their slots.
        ends: jobs that are to end without a launch; later turns return them again until their rows have ended.
        more: whether there is more to decide at once.
    """

    grants: list[Grant]
    ends: list[End]
    more: bool


class Queue(QueueQueries):
    """The queue in one index. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_flows", "_pacing")

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        super().__init__(connection)
        self._flows = Flows(connection)
        self._pacing = Pacing(connection)

    # ------------------------------------------------------------ groups

    def set_group(
        self,
        name: str,
        *,
        limit: int | None,
        paused_until_ns: int,
        aging_ns: int,
        settings: Settings = NO_SETTINGS,
        now: Moment = _LONG_AGO,
        empty: bool = False,
    ) -> None:
        """Insert or change a group; its running jobs go on. ``empty``: it has no token now, if it is new here."""
        self._order.forget()
        self._pacing.set(name, settings, now, empty=empty)
        self._db.execute("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)", (name, limit, paused_until_ns, aging_ns))

    @property
    def pacing(self) -> Pacing:
        """How fast the groups may start jobs, and their failures."""
        return self._pacing

    def pause(self, name: str, until_ns: int) -> None:
        """Pause a group until a time, unless it is paused for longer."""
        self._db.execute("UPDATE groups SET paused_until_ns = max(paused_until_ns, ?) WHERE name = ?", (until_ns, name))

    def end_waiting(self, name: str, why: str, cause: dict[str, Any]) -> None:
        """Mark all waiting jobs of a group to end without a launch."""
        for lane, names in lanes_of(self._db).items():
            if name in names:
                self._later.end_all(lane, why, cause)

    def remove_group(self, name: str) -> None:
        """Remove a group, and its lanes in which there is no job; others admit nothing until it is there again."""
        self._order.forget()
        self._db.execute("DELETE FROM groups WHERE name = ?", (name,))
        self._pacing.remove(name)
        self._pacing.note_limit(name, None)
        self._pacing.note_budgets(name, None)
        self._flows.begin_anew(name)
        empty = " AND ".join(
            f"NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.lane = lanes.lane)"  # noqa: S608  # our own names
            for table in ("waiting", "held", "later")
        )
        for lane, names in lanes_of(self._db).items():
            if name in names:
                self._db.execute(f"DELETE FROM lanes WHERE lane = ? AND {empty}", (lane,))  # noqa: S608  # our own names

    def groups(self) -> set[str]:
        """Return the names of all groups."""
        return {name for (name,) in self._db.execute("SELECT name FROM groups")}

    def clear(self) -> None:
        """Delete everything."""
        self._order.forget()
        tables = ("groups", "lanes", "waiting", "ranks", "held", "later", "times", "deps", "pacing", "flows", "noticed")
        for table in tables:
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # our own names
        self.spending.clear()

    # ------------------------------------------------------------ jobs

    def enter(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Insert a waiting job."""
        lane = self._order.lane(ticket, now)
        if ticket.must_wait:
            order = (lane, self._order.unready_rank(ticket, now), ticket.weight)
            self._later.enter(seq, order, ticket, now)
            return
        self._wait(seq, lane, self._order.rank(seq, ticket, now), ticket.weight)
        self._later.note_expiry(seq, ticket, now)

    def _wait(self, seq: int, lane: int, rank: int, weight: int) -> None:
        values = (lane, rank, seq, weight)
        self._db.execute("INSERT OR IGNORE INTO waiting (lane, rank, seq, weight) VALUES (?, ?, ?, ?)", values)

    def change(self, seq: int, ticket: Ticket, before: Ticket, now: Moment) -> None:
        """Follow a change of the ticket of a waiting job: whether it is held, its groups, and its rank."""
        lane = self._order.lane(ticket, now)
        rank = self._order.changed_rank(seq, ticket, before, now)
        if ticket.hold:
            self._later.put_back(seq)
        set_rank(self._db, seq, rank, lane)
        self._later.change(seq, lane, self._order.unready_rank(ticket, now), hold=ticket.hold, now=now)

    def before_all(self, seq: int) -> int:
        """Return a rank before all others of the lane of a waiting job."""
        ranks = self._db.execute(
            "WITH lane AS (SELECT lane FROM waiting WHERE seq = :seq UNION ALL SELECT lane FROM later WHERE seq = :seq)"
            " SELECT min(rank) FROM waiting WHERE lane IN lane"
            " UNION ALL SELECT min(rank) FROM later WHERE lane IN lane",
            {"seq": seq},
        )
        return min((rank for (rank,) in ranks if rank is not None), default=0) - 1

    def depend_on_next(self, seq: int, next_seq: int, *, launched: bool) -> None:
        """Have the jobs that wait for an attempt wait for the next one; those that wait for a launch, if it was not."""
        self._later.depend_on_next(seq, next_seq, launched=launched)

    def unfit(self, ticket: Ticket) -> str | None:
        """Return a group in which a job could wait for ever: it is not there, or its limit is below the weight."""
        for name in ticket.groups:
            found = self._db.execute("SELECT coalesce(most >= ?, 1) FROM groups WHERE name = ?", (ticket.weight, name))
            if found.fetchone() != (1,):
                return name
        return None

    def hold(self, seq: int) -> None:
        """Give a waiting job its slots without a check: the caller has checked, or the job had them before."""
        self._later.ready(seq)
        found = self._db.execute("SELECT lane, weight FROM waiting WHERE seq = ?", (seq,)).fetchone()
        if found is not None:
            self._take(seq, *found)

    def _take(self, seq: int, lane: int, weight: int) -> None:
        self._db.execute("DELETE FROM waiting WHERE seq = ?", (seq,))
        self._db.execute("INSERT INTO held VALUES (?, ?, ?)", (seq, lane, weight))
        self._later.admitted(seq)

    def hold_if_room(self, seq: int) -> bool:
        """Give a job that was admitted its slots again, unless that exceeds a limit; return whether it has them."""
        waits = (
            "SELECT lane, weight FROM waiting WHERE seq = ?1 UNION ALL SELECT lane, weight FROM later WHERE seq = ?1"
        )
        found = self._db.execute(waits, (seq,)).fetchone()
        if found is None:
            return True
        lane, weight = found
        lanes = lanes_of(self._db)
        groups = usage_of(self._db, lanes, _LONG_AGO)
        limits = ((group.running, group.most) for name in lanes[lane] if (group := groups.get(name)) is not None)
        has_room = all(most is None or running + weight <= most for running, most in limits)
        if has_room:
            self.hold(seq)
        return has_room

    def put_back(self, seq: int, ticket: Ticket, now: Moment) -> None:
        """Take its slots from a job that was admitted and never launched: it waits again, and for room only."""
        if self._db.execute("DELETE FROM held WHERE seq = ?", (seq,)).rowcount == 1:
            self._wait(seq, self._order.lane(ticket, now), self._order.front(ticket, now), ticket.weight)
        self._later.were_met(seq, ticket)

    def turn(self, now: Moment, most: int = TURN) -> Turn:
        """Look at the jobs whose time has come or whose dependencies have changed, then admit waiting jobs."""
        reviewed = self._later.review(now, most)
        grants = self.admit(now, most)
        ends = [End(*each) for each in self._later.ends(most)]
        return Turn(grants, ends, more=reviewed > 0 or len(grants) == most)

    def is_due(self, clock: Callable[[], Moment], *, freed: bool = True) -> bool:
        """Whether a turn may have something to decide; ``freed``: there may be more room than in the last turn."""
        statement = "SELECT EXISTS (SELECT 1 FROM waiting), EXISTS (SELECT 1 FROM later)"
        waits, later = self._db.execute(statement).fetchone()  # 3 us, of the 25 of all questions
        if not (waits or later) or (freed and waits):
            return bool(waits)
        now = clock()
        return self._later.is_due(now) or self._pacing.noticed().get("boot", now.boot) != now.boot

    def admit(self, now: Moment, most: int = TURN) -> list[Grant]:
        """Give free slots to waiting jobs, by rank over all lanes; return up to ``most`` jobs that got theirs.

        A lane whose first job does not fit is left out for the rest of the call.
        """
        if not self.any_waits():
            return []
        self._order.forget()  # their virtual time advances
        lanes = lanes_of(self._db)
        groups = usage_of(self._db, lanes, now)
        heads = {lane: head for lane in lanes if (head := head_of(self._db, lane)) is not None}
        fair = {lane: pace for lane in heads if (pace := fair_pace(groups, lanes[lane])) is not None}
        changed = {name: pace for name, group in groups.items() if (pace := group.pace) is not None and pace.moved}
        granted: list[Grant] = []
        has_budgets = any(group.budgets for group in groups.values())
        own = None
        while heads and len(granted) < most:
            lane = self._order.first(heads, fair)
            rank, seq, weight = heads[lane]
            if has_budgets:
                own = self._own_ask(seq, lanes[lane], groups)
            for name in lanes[lane]:
                if name not in groups or groups[name].closed_by(weight, now, own):
                    del heads[lane]
                    break
            if lane not in heads:
                continue
            self._take(seq, lane, weight)
            for name in lanes[lane]:
                groups[name].running += weight
                if (pace := groups[name].pace) is not None:
                    pace.take()
                    changed[name] = pace
            if lane in fair:
                self._flows.note_admission(fair[lane], rank, weight)
            job = self._db.execute("SELECT job_id, owner, workspace_key FROM jobs WHERE seq = ?", (seq,)).fetchone()
            grant = Grant(*job)
            if has_budgets:
                budgeted = {name: groups[name].budgets for name in lanes[lane] if groups[name].budgets}
                reserved = {name: self.spending.reserve(seq, name, each, own, now) for name, each in budgeted.items()}
                grant = grant._replace(reserved=reserved)
            granted.append(grant)
            head = head_of(self._db, lane)
            delete_empty(self._db, lane, rank, None if head is None else head[0])
            if head is None:
                del heads[lane]
            else:
                heads[lane] = head
        for pace in changed.values():
            self._pacing.save(pace, now)
        return granted
