"""The rows of the schedules in the index, which are derived from their files, see ``schedule_files``.

``due_ns`` in a row is when to look at the schedule next: a hint, which may be too early. It is ``NULL`` for a schedule
that fires nothing, and void if the clock was set back to before ``looked_ns``, when it was found.

The state says which instants were decided: fired, or passed over. A transaction decides an instant
together with the insertion of its job, so no instant has two jobs, however many processes fire it.

Few state roots have a schedule, so this module imports the one about their files late.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Final

from supervisor import log
from supervisor.store.named_files import replace_file
from supervisor.store.schedule_directory import DIRECTORY, FIRED
from supervisor.store.state_errors import find_in_root
from supervisor.system.file_systems import has_settled

if TYPE_CHECKING:
    from supervisor.store.schedule_files import Schedule, State

__all__ = ["SCHEMA", "ScheduleRows"]

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS schedules (
        name TEXT PRIMARY KEY,
        due_ns INTEGER,
        looked_ns INTEGER NOT NULL,
        state TEXT NOT NULL
    ) WITHOUT ROWID;
"""

_NOTICED: Final = "schedules"


class ScheduleRows:
    """The rows of the schedules. Every method runs within a transaction of the caller.

    Args:
        root: the state root.
        connection: to the index.
        durable: whether the copies of states are on the disk before the commit.
    """

    __slots__ = ("_db", "_durable", "_root")

    def __init__(self, root: str, connection: sqlite3.Connection, *, durable: bool = False) -> None:
        """Work on this connection."""
        self._root = root
        self._durable = durable
        self._db = connection

    def next_ns(self) -> tuple[int, int] | None:
        """Return when a process has to look at a schedule next: from one time on, or at any time before another.

        ``None`` if no schedule fires anything.
        """
        due_ns, looked_ns = self._db.execute(
            "SELECT min(due_ns), max(looked_ns) FROM schedules WHERE due_ns NOTNULL"
        ).fetchone()
        return None if due_ns is None else (due_ns, looked_ns)

    def count(self) -> int:
        """Return how many schedules fire."""
        found: int = self._db.execute("SELECT count(due_ns) FROM schedules").fetchone()[0]
        return found

    def due(self, now_ns: int) -> list[str]:
        """Return the names of the schedules that are to be looked at."""
        statement = "SELECT name FROM schedules WHERE due_ns <= ?1 OR (looked_ns > ?1 AND due_ns NOTNULL)"
        return [name for (name,) in self._db.execute(statement, (now_ns,))]

    def state(self, schedule: Schedule) -> State | None:
        """Return the state of a schedule; ``None`` if it has just been removed."""
        from supervisor.store.schedule_files import State

        found = self._db.execute("SELECT state FROM schedules WHERE name = ?", (schedule.name,)).fetchone()
        return None if found is None else State.decode(found[0], schedule.created_ns)

    def decide(self, name: str, instant_ns: int, job_id: str | None, note: str | None = None) -> bool:
        """Decide an instant; ``False`` if that was done, or the schedule was paused or removed."""
        from supervisor.store.schedule_files import State

        found = self._db.execute("SELECT state FROM schedules WHERE name = ? AND due_ns NOTNULL", (name,)).fetchone()
        if found is None:
            return False
        state = State.decode(found[0], 0)
        if state.has_decided(instant_ns):
            return False
        self._set(name, 0, 0, state.deciding(instant_ns, job_id, note))
        return True

    def note_run(self, name: str, job_id: str) -> None:
        """Note a job that was started out of turn."""
        from supervisor.store.schedule_files import State

        statement = "SELECT state, due_ns, looked_ns FROM schedules WHERE name = ?"
        found = self._db.execute(statement, (name,)).fetchone()
        if found is not None:
            self._set(name, found[1], found[2], State.decode(found[0], 0).running(job_id))

    def silence(self, name: str, note: str) -> None:
        """Have a schedule fire nothing until its file changes: it is not understood."""
        from supervisor.store.schedule_files import State

        found = self._db.execute("SELECT state FROM schedules WHERE name = ?", (name,)).fetchone()
        if found is not None:
            self._set(name, None, 0, State.decode(found[0], 0).silenced(note))

    def settle(self, name: str, due_ns: int | None, state: State, looked_ns: int = 0) -> None:
        """Record when to look at a schedule next, as was found at ``looked_ns``, and a state in fewer words."""
        self._set(name, due_ns, looked_ns, state)

    def _set(self, name: str, due_ns: int | None, looked_ns: int, state: State) -> None:
        text = state.encode()
        statement = "UPDATE schedules SET due_ns = ?, looked_ns = ?, state = ? WHERE name = ?"
        self._db.execute(statement, (due_ns, looked_ns, text, name))
        try:  # without it, an index that is made anew knows what was decided by the jobs that are still there
            durable_in = self._root if self._durable else None
            replace_file(f"{self._root}/{FIRED}/{name}.json", text.encode("ascii"), durable_in)
        except OSError as error:
            log.warning("schedule_not_copied", schedule=name, error=str(error))

    # ------------------------------------------------------------ following the files

    def enter(self, schedule: Schedule) -> None:
        """Copy what the file says about a schedule: it is looked at soon, unless it is paused."""
        from supervisor.store.schedule_files import State

        found = self._db.execute("SELECT state FROM schedules WHERE name = ?", (schedule.name,)).fetchone()
        text = b"" if found is None else found[0]
        if found is None:
            with contextlib.suppress(OSError), open(f"{self._root}/{FIRED}/{schedule.name}.json", "rb") as file:
                text = file.read()
        state = State.decode(text, schedule.created_ns)
        values = (schedule.name, None if schedule.paused else 0, state.encode())
        self._db.execute("INSERT OR REPLACE INTO schedules VALUES (?, ?, 0, ?)", values)

    def forget(self, name: str) -> None:
        """Delete the row of a schedule."""
        self._db.execute("DELETE FROM schedules WHERE name = ?", (name,))

    def have_changed(self) -> bool:
        """Whether the rows may not have what the files say."""
        stamp = self._stamp()
        return stamp is None or stamp != self._noticed()

    def _noticed(self) -> str:
        found = self._db.execute("SELECT held FROM noticed WHERE what = ?", (_NOTICED,)).fetchone()
        return "" if found is None else str(found[0])

    def _stamp(self) -> str | None:
        """Return what any change of a file changes; ``None`` if one was changed a moment ago."""
        found = find_in_root(f"{self._root}/{DIRECTORY}")
        if found is None:
            return ""
        return f"{found.st_ino}.{found.st_ctime_ns}" if has_settled(found) else None

    def follow(self) -> None:
        """Copy the files again if any was changed."""
        stamp = self._stamp()
        if stamp is not None and stamp == self._noticed():
            return
        from supervisor.store.schedule_files import Schedule, load_all

        gone = {name for (name,) in self._db.execute("SELECT name FROM schedules")}
        for name, schedule in load_all(self._root):
            if isinstance(schedule, Schedule):
                gone.discard(name)
                self.enter(schedule)
            else:
                log.warning("schedule_not_understood", schedule=name, error=schedule.message)
        for name in gone:
            self.forget(name)
        self._db.execute("INSERT OR REPLACE INTO noticed VALUES (?, ?)", (_NOTICED, stamp or ""))
