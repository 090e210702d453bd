"""The registry: SQLite over the job directories, shared by every process on the state root.

It is never opened except through ``sqlite3`` (closing a stray descriptor would drop SQLite's
locks). It is created, migrated, set aside and rebuilt under the root's lock. ``synchronous`` is
NORMAL and checkpoints are explicit, so that a commit neither syncs nor waits and can be made on
an event loop; with ``wait_seconds=0`` a lock held by somebody else raises ``StateBusy`` at once.

A damaged registry is set aside under a name that says so and rebuilt; whoever still holds the
old file open notices by its inode before the next write.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from supervisor import log
from supervisor.engines import Launched, records
from supervisor.errors import PermissionDenied, StateBusy, StateFull, SupervisorError
from supervisor.forking import forked_error, inherited, never_free, tell_in_child
from supervisor.store.layout import Layout
from supervisor.store.rows import COLUMNS, Outcome, Row, check_row, row_of_record

__all__ = ["Index"]

_T = TypeVar("_T")

MIGRATIONS: Final = (
    """
    CREATE TABLE IF NOT EXISTS jobs (
        seq INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL UNIQUE,
        workspace_key TEXT NOT NULL,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        started_ns INTEGER,
        completed_ns INTEGER,
        expires_ns INTEGER,
        idempotency_key TEXT,
        digest TEXT NOT NULL,
        owner TEXT NOT NULL,
        fetched INTEGER NOT NULL DEFAULT 0,
        pid INTEGER,
        deadline_boot_ns INTEGER,
        spec TEXT NOT NULL,
        outcome TEXT
    );
    CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs (workspace_key, idempotency_key)
        WHERE idempotency_key IS NOT NULL;
    CREATE INDEX IF NOT EXISTS jobs_workspace ON jobs (workspace_key);
    CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state);
    CREATE INDEX IF NOT EXISTS jobs_workspace_state ON jobs (workspace_key, state);
    CREATE INDEX IF NOT EXISTS jobs_kept ON jobs (workspace_key, fetched) WHERE completed_ns IS NOT NULL;
    CREATE INDEX IF NOT EXISTS jobs_expiry ON jobs (expires_ns) WHERE expires_ns IS NOT NULL;
    """,
)

_OPENING_SECONDS: Final = 5  # somebody else may be creating it just now
_ALL: Final = ", ".join(COLUMNS)
_INSERT: Final = f"INSERT OR IGNORE INTO jobs ({', '.join(COLUMNS[1:])}) VALUES ({', '.join('?' * (len(COLUMNS) - 1))})"  # noqa: S608
_UNFINISHED: Final = "('queued', 'running')"
_DAMAGE: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN", "SQLITE_ERROR", "SQLITE_SCHEMA"})
# A file that was replaced while it was being opened gives an error of input; ``_heal`` tells damage from that.
_WORTH_A_LOOK: Final = _DAMAGE | {"SQLITE_IOERR", "SQLITE_READONLY"}


def _kind_of(error: sqlite3.Error) -> str:
    """Return the primary result code of an SQLite error by name."""
    name: str = getattr(error, "sqlite_errorname", "") or ""
    if not name and "decode to UTF-8" in str(error):  # from the sqlite3 module itself, which gives it no code
        return "SQLITE_CORRUPT"
    return "_".join(name.split("_")[:2])


class Index:
    """The registry of one state root.

    ``judge`` says how a job found on disk ended (``None`` while it lives) and is asked when the
    registry has to be rebuilt. ``wait_seconds`` is how long a lock of somebody else is waited for.
    """

    def __init__(
        self,
        layout: Layout,
        judge: Callable[[Row], tuple[Launched | None, Outcome | None]],
        *,
        wait_seconds: float = 5,
        any_thread: bool = False,
    ) -> None:
        """Open the registry; create, migrate or rebuild it first where that is needed."""
        self.layout = layout
        self._judge = judge
        self._wait_seconds = wait_seconds
        self._any_thread = any_thread
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._seen_version = -1
        self._kept: dict[str, int] = {}
        self.set_aside: str | None = None
        tell_in_child(self)
        self._guarded(self._connect)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def in_child(self) -> None:
        """Leave the connection to the parent: SQLite forbids a child to use it, and even to close it."""
        if self._connection is not None:
            never_free(self._connection)
            inherited.add(self.layout.registry)
            self._connection = None

    # ------------------------------------------------------------ opening and healing

    def _connect(self) -> None:
        self.close()
        path = self.layout.registry
        if not _has_content(path):
            with self.layout.locked():
                if not _has_content(path):
                    self._set_aside(path)  # a log without its registry would be taken for that of the next
                self._create(path)
                self._open(path)
                self._migrate()
        else:
            self._open(path)
            if self._version() < len(MIGRATIONS):
                with self.layout.locked():
                    self._migrate()
        self._db.execute(f"PRAGMA busy_timeout = {int(self._wait_seconds * 1000)}")

    @staticmethod
    def _create(path: str) -> None:
        """Make the file with its mode; SQLite's own files beside it take that over."""
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)  # no connection to this file can be open yet, so no lock is dropped

    def _open(self, path: str) -> None:
        if path in inherited:
            raise forked_error()
        if _has_strangers(path):
            message = f"something that is no file stands in the place of {path} or of a file of SQLite beside it"
            raise _Damaged(message)  # before SQLite opens it and hangs on a pipe
        connection = sqlite3.connect(
            path,
            timeout=max(self._wait_seconds, _OPENING_SECONDS),
            isolation_level=None,
            check_same_thread=not self._any_thread,
            cached_statements=64,
        )
        self._connection = connection
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        found = os.stat(path)
        if found.st_mode & 0o777 != 0o600:
            os.chmod(path, 0o600)
        self._inode = found.st_ino
        self._seen_version = -1
        self._kept.clear()

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        if self._db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            self._db.execute("PRAGMA journal_mode = WAL")
        # A newer version than ours has only added to what we know, or it would be another file.
        self._db.execute("BEGIN IMMEDIATE")
        new = self._version() == 0
        try:
            for number, script in enumerate(MIGRATIONS[self._version() :], self._version() + 1):
                for statement in script.split(";"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number}")
            if new:  # in the same transaction: nobody ever sees a registry that is empty while there are jobs
                self._import_all()
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connect()
            assert self._connection is not None  # noqa: S101  # that is what connecting does
        return self._connection

    def _guarded(self, action: Callable[[], _T]) -> _T:
        """Do ``action``; heal a damaged registry and do it again (twice, as others may be healing it too)."""
        for attempt in (1, 2, 3):
            try:
                return action()
            except sqlite3.Error as error:
                if self._connection is not None and self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                kind = _kind_of(error)
                if kind in _WORTH_A_LOOK and attempt < 3 and not isinstance(error, sqlite3.ProgrammingError):
                    try:
                        self._heal(error)
                    except sqlite3.Error as another:
                        if _kind_of(another) not in _WORTH_A_LOOK or attempt == 2:
                            raise self._translated(another, _kind_of(another)) from error
                    continue
                raise self._translated(error, kind) from error
            except OSError as error:
                from supervisor.store.layout import state_error

                raise state_error(error, "cannot use the registry") from error
        raise AssertionError  # pragma: no cover  # the loop returns or raises

    def _translated(self, error: sqlite3.Error, kind: str) -> SupervisorError:
        message = f"the registry {self.layout.registry}: {error}"
        if kind in {"SQLITE_BUSY", "SQLITE_LOCKED"}:
            return StateBusy(message)
        if kind == "SQLITE_FULL" or (kind == "SQLITE_IOERR" and _disk_is_full(self.layout.root)):
            return StateFull(message)
        if kind in {"SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_CANTOPEN"}:
            return PermissionDenied(message)
        return SupervisorError(message)

    def _heal(self, error: sqlite3.Error) -> None:
        """Set the damaged registry aside and rebuild it, unless somebody has done so already."""
        with self.layout.locked():
            self.close()
            path = self.layout.registry
            if self._is_damaged(path):
                if _kind_of(error) == "SQLITE_CANTOPEN" and not os.access(self.layout.root, os.W_OK):
                    raise self._translated(error, "SQLITE_READONLY") from error
                self._set_aside(path)
                self._create(path)
                self._open(path)
                self._migrate()
                log.warning("registry_rebuilt", error=str(error), kept_as=self.set_aside, jobs=self.row_count())
            else:
                self._open(path)
                self._migrate()
            self._db.execute(f"PRAGMA busy_timeout = {int(self._wait_seconds * 1000)}")

    def _set_aside(self, path: str) -> None:
        """Rename what there is of a registry. Whoever holds it open keeps it until the next write."""
        aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() % 10**6}"
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(path + suffix, aside + suffix)
                self.set_aside = aside

    @staticmethod
    def _is_damaged(path: str) -> bool:
        if not os.path.lexists(path):
            return False
        if not os.path.isfile(path) or not _has_content(path):
            return True
        if _has_strangers(path):
            return True
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as probe:
                whole = probe.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
                probe.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if whole and probe.execute("PRAGMA user_version").fetchone()[0]:
                    for columns in probe.execute(f"SELECT {_ALL} FROM jobs"):  # noqa: S608  # our own names
                        _row_of(columns)
                return not whole
        except sqlite3.Error as error:
            return _kind_of(error) in _DAMAGE

    def _import_all(self) -> None:
        """Enter every job directory into an empty registry, oldest first, each with how it ended."""
        rows = sorted(
            filter(None, (self.read_job(workspace, job_id) for workspace, job_id in self.layout.jobs())),
            key=lambda row: row.created_ns,
        )
        holders: dict[tuple[str, str], Row] = {}
        for row in sorted(rows, key=self._may_have_run):
            if row.idempotency_key is not None:
                holders[row.workspace_key, row.idempotency_key] = row
        for row in rows:
            if row.idempotency_key is not None and holders[row.workspace_key, row.idempotency_key] is not row:
                row.idempotency_key = None  # of two that were written down, one was refused or never ran
            self.insert(row)
            launched, outcome = self._judge(row)
            if launched is not None:
                self.set_launched(row.job_id, launched)
                row = row.with_launch(launched)  # noqa: PLW2901  # the same job, further on
            if outcome is not None:
                self.settle(row.with_outcome(outcome))

    def _may_have_run(self, row: Row) -> tuple[bool, int]:
        claim = records.read_claim(self.layout.job(row.workspace_key, row.job_id))
        return claim not in {None, records.NOBODY}, row.created_ns

    def read_job(self, workspace: str, job_id: str) -> Row | None:
        """Return a fresh row for what ``job.json`` says, ``None`` when it says nothing sensible."""
        record = records.read(self.layout.job(workspace, job_id), records.JOB)
        if not record or record.get("job_id") != job_id:
            return None
        from supervisor.store.rows import dump

        try:
            return row_of_record(workspace, record, dump(record))
        except (KeyError, ValueError, RecursionError):
            return None

    # ------------------------------------------------------------ transactions

    def changed(self) -> bool:
        """Whether another process (or connection) has written since the last call."""
        version = self._guarded(lambda: self._db.execute("PRAGMA data_version").fetchone()[0])
        if version == self._seen_version:
            return False
        self._seen_version = version
        self._kept.clear()
        return True

    def write(self, action: Callable[[], _T], *, single: bool = False) -> _T:
        """Do ``action`` in one transaction, which a ``single`` statement that depends on nothing is by itself.

        Raises:
            StateBusy: somebody else holds the lock for longer than ``wait_seconds``.
            StateFull, PermissionDenied: it cannot be written.
        """

        def transaction() -> _T:
            try:
                moved = os.stat(self.layout.registry).st_ino != self._inode
            except FileNotFoundError:
                moved = True
            if moved:
                self._connect()
            if single:
                return action()
            self.changed()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = action()
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._kept.clear()
                raise
            self._db.execute("COMMIT")
            return result

        return self._guarded(transaction)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the registry; waits for the disk, so not on an event loop."""
        self._guarded(lambda: self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    # ------------------------------------------------------------ changes, inside ``write``

    def insert(self, row: Row) -> bool:
        """Enter a new job; ``False`` when its idempotency key is taken by another."""
        values = (
            row.job_id,
            row.workspace_key,
            row.kind,
            row.state,
            row.created_ns,
            row.started_ns,
            row.completed_ns,
            row.expires_ns,
            row.idempotency_key,
            row.digest,
            row.owner,
            row.fetched,
            row.pid,
            row.deadline_boot_ns,
            row.spec,
            row.outcome,
        )
        cursor = self._db.execute(_INSERT, values)
        if cursor.rowcount == 1:
            row.seq = cursor.lastrowid or 0
            return True
        # A rebuild may have come between its directory and this, and entered it already.
        there = self._db.execute("SELECT seq FROM jobs WHERE job_id = ?", (row.job_id,)).fetchone()
        if there is not None:
            row.seq = there[0]
        return there is not None

    def set_launched(self, job_id: str, launched: Launched) -> None:
        """Note that a job runs, unless it has ended already."""
        self._db.execute(
            "UPDATE jobs SET state = 'running', started_ns = ?, pid = ?, deadline_boot_ns = ?"  # noqa: S608
            f" WHERE job_id = ? AND state IN {_UNFINISHED}",
            (launched.started_ns, launched.pid, launched.deadline_boot_ns, job_id),
        )

    def settle(self, row: Row) -> bool:
        """Write how a job ended; ``False`` when somebody else has, or it is gone. Only the first counts."""
        found = self._db.execute(
            "UPDATE jobs SET state = ?, completed_ns = ?, outcome = ?, expires_ns = ?,"  # noqa: S608  # our own names
            " started_ns = coalesce(started_ns, ?), pid = coalesce(pid, ?),"
            " deadline_boot_ns = coalesce(deadline_boot_ns, ?)"
            f" WHERE job_id = ? AND state IN {_UNFINISHED}",
            (
                row.state,
                row.completed_ns,
                row.outcome,
                row.expires_ns,
                row.started_ns,
                row.pid,
                row.deadline_boot_ns,
                row.job_id,
            ),
        )
        if found.rowcount == 1 and row.workspace_key in self._kept:
            self._kept[row.workspace_key] += 1
        return found.rowcount == 1

    def set_owner(self, job_id: str, owner: str, previous: str) -> bool:
        """Take an unfinished job over from a supervisor that is gone."""
        cursor = self._db.execute(
            f"UPDATE jobs SET owner = ? WHERE job_id = ? AND owner = ? AND state IN {_UNFINISHED}",  # noqa: S608
            (owner, job_id, previous),
        )
        return cursor.rowcount == 1

    def set_fetched(self, job_id: str) -> None:
        """Note that somebody has seen the result: it may go first when room is needed."""
        self._db.execute("UPDATE jobs SET fetched = 1 WHERE job_id = ? AND fetched = 0", (job_id,))

    def release_key(self, job_id: str) -> None:
        """Take the idempotency key from a job that provably never ran."""
        self._db.execute("UPDATE jobs SET idempotency_key = NULL WHERE job_id = ?", (job_id,))

    def delete(self, *job_ids: str) -> None:
        """Remove the rows of jobs whose directories are gone."""
        self._db.executemany("DELETE FROM jobs WHERE job_id = ?", [(job_id,) for job_id in job_ids])
        self._kept.clear()

    def evict(self, workspace: str, most: int, spared: Iterable[str] = ()) -> list[str]:
        """Forget finished jobs of ``workspace`` beyond ``most``: expired, then fetched ones, then the oldest."""
        kept = self._kept.get(workspace)
        if kept is None:
            kept = self._db.execute(
                "SELECT count(*) FROM jobs WHERE workspace_key = ? AND completed_ns IS NOT NULL",
                (workspace,),
            ).fetchone()[0]
            self._kept[workspace] = kept
        if kept <= most:
            return []
        keep = set(spared)
        victims: list[str] = []
        # One question each, so that an index answers in order whatever the number of jobs kept.
        for clause, value in (("expires_ns <= ?", time.time_ns()), ("fetched = ?", 1), ("fetched = ?", 0)):
            room = kept - most - len(victims)
            if room > 0:
                found = self._db.execute(
                    f"SELECT job_id FROM jobs WHERE workspace_key = ? AND completed_ns IS NOT NULL AND {clause}"  # noqa: S608
                    " ORDER BY seq LIMIT ?",
                    (workspace, value, room + len(keep) + len(victims)),
                ).fetchall()
                passed = keep.union(victims)
                victims += [job_id for (job_id,) in found if job_id not in passed][:room]
        for job_id in victims:
            self.layout.discard(workspace, job_id)
            self._db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))
        self._kept[workspace] = kept - len(victims)
        return victims

    # ------------------------------------------------------------ reading

    def _select(self, clause: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._guarded(
            lambda: list(map(_row_of, self._db.execute(f"SELECT {_ALL} FROM jobs {clause}", values).fetchall())),  # noqa: S608
        )

    def row_count(self) -> int:
        """Return how many jobs there are."""
        return int(self._db.execute("SELECT count(*) FROM jobs").fetchone()[0])

    def get(self, job_id: str) -> Row | None:
        """Return the row of a job."""
        rows = self._select("WHERE job_id = ?", (job_id,))
        return rows[0] if rows else None

    def with_prefix(self, prefix: str) -> list[str]:
        """Return up to three ids that begin with ``prefix``."""
        rows = self._select("WHERE job_id >= ? AND job_id < ? LIMIT 3", (prefix, prefix + "g"))
        return [row.job_id for row in rows]

    def with_key(self, workspace: str, key: str) -> Row | None:
        """Return the job that holds an idempotency key."""
        rows = self._select("WHERE workspace_key = ? AND idempotency_key = ?", (workspace, key))
        return rows[0] if rows else None

    def page(
        self,
        *,
        workspace: str | None = None,
        state: str | None = None,
        labels: Iterable[tuple[str, str]] = (),
        before: int | None = None,
        limit: int = 50,
        now_ns: int | None = None,
    ) -> list[Row]:
        """Return up to ``limit`` jobs, newest first; ``before`` is the ``seq`` of the last one seen."""
        clauses, values = ["(expires_ns IS NULL OR expires_ns > ?)"], [now_ns or time.time_ns()]
        parameters: list[Any] = list(values)
        if workspace is not None:
            clauses.append("workspace_key = ?")
            parameters.append(workspace)
        if state in {"queued", "running"}:  # which of the two, the evidence knows better than the row
            clauses.append(f"state IN {_UNFINISHED}")
        elif state is not None:
            clauses.append("state = ?")
            parameters.append(state)
        if before is not None:
            clauses.append("seq < ?")
            parameters.append(before)
        for name, value in labels:
            clauses.append("EXISTS (SELECT 1 FROM json_each(spec, '$.labels') WHERE key = ? AND value = ?)")
            parameters += [name, value]
        parameters.append(limit)
        return self._select(f"WHERE {' AND '.join(clauses)} ORDER BY seq DESC LIMIT ?", parameters)

    def unfinished(self, after: int = 0) -> list[Row]:
        """Return every job that is not in a terminal state, of all workspaces, by age."""
        return self._select(f"WHERE state IN {_UNFINISHED} AND seq > ? ORDER BY seq", (after,))

    def expired(self, now_ns: int, limit: int, workspace: str | None = None) -> list[Row]:
        """Return jobs whose time to live is over, of one workspace or of all."""
        if workspace is None:
            return self._select("WHERE expires_ns <= ? ORDER BY expires_ns LIMIT ?", (now_ns, limit))
        clause = "WHERE expires_ns <= ? AND workspace_key = ? ORDER BY expires_ns LIMIT ?"
        return self._select(clause, (now_ns, workspace, limit))

    def count(self, workspace: str | None = None) -> int:
        """Return how many jobs are kept, in one workspace or in all."""
        clause, values = ("", ()) if workspace is None else ("WHERE workspace_key = ?", (workspace,))
        statement = f"SELECT count(*) FROM jobs {clause}"  # noqa: S608  # our own names
        return int(self._guarded(lambda: self._db.execute(statement, values).fetchone()[0]))


class _Damaged(sqlite3.DatabaseError):
    """Damage that SQLite does not find itself: a row that nobody can have written, a pipe where a file should be."""

    sqlite_errorname = "SQLITE_CORRUPT"


def _row_of(columns: Sequence[Any]) -> Row:
    row = Row(*columns)
    try:
        check_row(row)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        message = f"the row of job {columns[1]!r:.80} is damaged: {error}"
        raise _Damaged(message) from error
    return row


def _has_strangers(path: str) -> bool:
    """Whether the registry or a file that SQLite keeps beside it is there as something that is no file."""
    for each in (path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        try:
            if not stat.S_ISREG(os.lstat(each).st_mode):
                return True
        except FileNotFoundError:
            continue
    return False


def _has_content(path: str) -> bool:
    try:
        found = os.lstat(path)  # a link is none of ours, wherever it leads
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _disk_is_full(path: str) -> bool:
    import shutil

    try:
        return shutil.disk_usage(path).free < 1 << 16
    except OSError:
        return False
