"""How fast the groups in the index may start jobs, and what else of a group changes with its jobs.

A **rate** of N in a unit is a bucket with N tokens. A start takes one, and one comes back each N-th part of the unit.
The bucket is one number: when it will be full again. It is kept by two clocks. The boot clock counts within a boot,
whatever is done to the wall clock. After a reboot the wall clock counts, and no jump of it makes a bucket emptier than
empty or fuller than full.

A group without such settings has no row.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

import attrs

from supervisor.store.tickets import Moment
from supervisor.store.usage_limits import LimitState

__all__ = ["NO_SETTINGS", "SCHEMA", "Pace", "Pacing", "Settings"]

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS pacing (
        name TEXT PRIMARY KEY,
        interval_ns INTEGER NOT NULL,
        burst INTEGER NOT NULL,
        fair_by TEXT,
        most_failures INTEGER,
        on_reboot TEXT NOT NULL,
        boot TEXT NOT NULL DEFAULT '',
        full_boot_ns INTEGER NOT NULL DEFAULT 0,
        full_wall_ns INTEGER NOT NULL DEFAULT 0,
        virtual_ns INTEGER NOT NULL DEFAULT 0,
        advance_ns INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS noticed (
        what TEXT PRIMARY KEY,
        held TEXT NOT NULL
    ) WITHOUT ROWID;
"""


class Settings(NamedTuple):
    """What the user has set.

    Attributes:
        interval_ns: the time for one token; 0 for no rate.
        burst: the tokens in a full bucket.
        fair_by: what the flows are among which the group is shared; ``None`` for no such order.
        most_failures: how many failures in a row pause the group; ``None`` for none.
        on_reboot: what a reboot does to waiting jobs.
    """

    interval_ns: int = 0
    burst: int = 0
    fair_by: str | None = None
    most_failures: int | None = None
    on_reboot: str = "keep"


NO_SETTINGS: Final = Settings()


@attrs.define(slots=True)
class Pace:
    """The bucket and the fair order of a group, at one moment.

    Attributes:
        name: of the group.
        settings: of the group.
        owed_ns: after which time the bucket is full.
        virtual_ns: see ``flows``.
        advance_ns: see ``flows``.
        moved: whether the clocks have changed, so that what is recorded is to be recorded anew.
    """

    name: str
    settings: Settings
    owed_ns: int
    virtual_ns: int
    advance_ns: int
    moved: bool = False

    @property
    def wait_ns(self) -> int:
        """After which time the bucket has a token."""
        return max(0, self.owed_ns - (self.settings.burst - 1) * self.settings.interval_ns)

    def take(self) -> None:
        """Take a token for a start."""
        self.owed_ns += self.settings.interval_ns


class Pacing:
    """The rows of the groups. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection

    def set(self, name: str, settings: Settings, now: Moment, *, empty: bool) -> None:
        """Set what the user has set; the rest stays. ``empty``: the bucket of a group that is new here is empty."""
        if settings == NO_SETTINGS:
            self.remove(name)
            return
        columns = ("interval_ns", "burst", "fair_by", "most_failures", "on_reboot")
        changed = ", ".join(f"{column} = excluded.{column}" for column in columns)
        known = self.load(now).get(name)
        self._db.execute(
            f"INSERT INTO pacing (name, {', '.join(columns)}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608  # our own names
            f" ON CONFLICT (name) DO UPDATE SET {changed}",
            (name, *settings),
        )
        full_ns = settings.interval_ns * settings.burst
        if known is None:
            known = Pace(name, settings, full_ns if empty else 0, 0, 0)
        known.owed_ns = min(known.owed_ns, full_ns)
        self.save(known, now)

    def remove(self, name: str) -> None:
        """Delete the row of a group."""
        self._db.execute("DELETE FROM pacing WHERE name = ?", (name,))

    def load(self, now: Moment) -> dict[str, Pace]:
        """Return the paces of all groups that have one."""
        found = self._db.execute(
            "SELECT name, interval_ns, burst, fair_by, most_failures, on_reboot,"
            " boot, full_boot_ns, full_wall_ns, virtual_ns, advance_ns FROM pacing"
        )
        paces: dict[str, Pace] = {}
        for name, *given, boot, full_boot_ns, full_wall_ns, virtual_ns, advance_ns in found:
            settings = Settings(*given)
            owed_ns = full_boot_ns - now.boot_ns if boot == now.boot else full_wall_ns - now.wall_ns
            known_ns, owed_ns = owed_ns, min(max(owed_ns, 0), settings.interval_ns * settings.burst)
            moved = settings.burst > 0 and (boot != now.boot or known_ns > owed_ns)
            paces[name] = Pace(name, settings, owed_ns, virtual_ns, advance_ns, moved)
        return paces

    def save(self, pace: Pace, now: Moment) -> None:
        """Record what admissions have changed."""
        self._db.execute(
            "UPDATE pacing SET boot = ?, full_boot_ns = ?, full_wall_ns = ?, virtual_ns = ?, advance_ns = ?"
            " WHERE name = ?",
            (
                now.boot,
                now.boot_ns + pace.owed_ns,
                now.wall_ns + pace.owed_ns,
                pace.virtual_ns,
                pace.advance_ns,
                pace.name,
            ),
        )

    def note_end(self, name: str, *, failed: bool) -> bool:
        """Count the failures in a row; return whether that is now one too many."""
        statement = "UPDATE pacing SET failures = CASE WHEN ? THEN failures + 1 ELSE 0 END WHERE name = ?"
        if self._db.execute(statement, (failed, name)).rowcount == 0:
            return False
        found = self._db.execute("SELECT failures >= most_failures FROM pacing WHERE name = ?", (name,)).fetchone()
        return bool(failed and found[0])

    def on_reboot(self) -> list[tuple[str, str]]:
        """Return the groups whose waiting jobs a reboot pauses or fails, each with which of the two."""
        return self._db.execute("SELECT name, on_reboot FROM pacing WHERE on_reboot <> 'keep'").fetchall()

    def noticed(self) -> dict[str, str]:
        """Return what an earlier turn has noticed: the ``boot``, the ``files`` of the groups, and usage limits."""
        return dict(self._db.execute("SELECT what, held FROM noticed").fetchall())

    def notice(self, what: str, held: str) -> None:
        """Record what this turn has noticed."""
        self._db.execute("INSERT OR REPLACE INTO noticed VALUES (?, ?)", (what, held))

    def limit_of(self, name: str) -> LimitState | None:
        """Return the usage limit that a group waits out or has waited out, see ``usage_limits``."""
        found = self._db.execute("SELECT held FROM noticed WHERE what = 'limit:' || ?", (name,)).fetchone()
        return LimitState.decode(found[0]) if found else None

    def note_limit(self, name: str, state: LimitState | None) -> None:
        """Record the usage limit of a group, or that there is none."""
        if state is None:
            self._db.execute("DELETE FROM noticed WHERE what = 'limit:' || ?", (name,))
        else:
            self.notice(f"limit:{name}", state.encode())

    def budgets_of(self, name: str) -> str | None:
        """Return the row of the budgets of a group, ``None`` for a group without any; see ``budgets``."""
        found = self._db.execute("SELECT held FROM noticed WHERE what = 'budget:' || ?", (name,)).fetchone()
        return found[0] if found else None

    def all_budgets(self) -> list[tuple[str, str]]:
        """Return the groups that have budgets, each with their row."""
        found = self._db.execute("SELECT what, held FROM noticed WHERE what >= 'budget:' AND what < 'budget;'")
        return [(what.removeprefix("budget:"), held) for what, held in found.fetchall()]

    def note_budgets(self, name: str, held: str | None) -> None:
        """Record the budgets of a group, or that it has none."""
        if held is None:
            self._db.execute("DELETE FROM noticed WHERE what = 'budget:' || ?", (name,))
        else:
            self.notice(f"budget:{name}", held)

    def forget_failures(self, name: str) -> None:
        """Begin to count anew."""
        self._db.execute("UPDATE pacing SET failures = 0 WHERE name = ?", (name,))
