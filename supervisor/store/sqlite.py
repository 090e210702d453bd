"""The connection to the registry: opened, migrated, healed, and written through in transactions.

The file is never opened except through ``sqlite3`` (closing a stray descriptor would drop SQLite's
locks). It is created, migrated, set aside and rebuilt under the root's lock. ``synchronous`` is
NORMAL and checkpoints are explicit, so that a commit neither syncs nor waits and can be made on
an event loop; with ``wait_seconds=0`` a lock held by somebody else raises ``StateBusy`` at once.

A damaged registry is set aside under a name that says so and rebuilt; whoever still holds the
old file open notices by its inode before the next read or write. Damage is what was read whole and
makes no sense. An error while reading (no descriptor is free, the disk does not answer) is no
evidence of anything: nothing on disk changes, and the caller may try again.

Where SQLite cannot make the files that it keeps beside the registry, because the disk is full or
can only be read, the registry is read all the same, see ``Way``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, TypeVar

from supervisor import log
from supervisor.errors import PermissionDenied, StateBusy, StateFull, StateUnsafe, SupervisorError
from supervisor.store.state_root import Layout, state_error
from supervisor.system.fork_safety import forked_error, inherited, never_free, tell_in_child

__all__ = ["MIGRATIONS", "Connection", "Damaged"]

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
    # What jobs are found by besides; kept by triggers, so that a version that does not know of it keeps it as well.
    # SQLite cuts a text of JSON at its first NUL, and knows no Infinity, which Python reads and writes.
    """
    CREATE TABLE IF NOT EXISTS labels (
        name BLOB NOT NULL,
        value BLOB NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (name, value, seq)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS labels_seq ON labels (seq);
    CREATE TRIGGER IF NOT EXISTS labels_given AFTER INSERT ON jobs
    WHEN CASE WHEN json_valid(NEW.spec) THEN json_extract(NEW.spec, '$.labels') <> '{}' ELSE 0 END
    BEGIN
        INSERT OR IGNORE INTO labels
            SELECT CAST(key AS BLOB), CAST(value AS BLOB), NEW.seq FROM json_each(NEW.spec, '$.labels');
    END;
    CREATE TRIGGER IF NOT EXISTS labels_gone AFTER DELETE ON jobs
    BEGIN
        DELETE FROM labels WHERE seq = OLD.seq;
    END;
    INSERT OR IGNORE INTO labels
        SELECT CAST(given.key AS BLOB), CAST(given.value AS BLOB), jobs.seq
        FROM jobs, json_each(CASE WHEN json_valid(jobs.spec) THEN jobs.spec ELSE '{}' END, '$.labels') AS given;
    """,
)

_NOWHERE: Final = 0
_OPENING_SECONDS: Final = 5  # somebody else may be creating it just now
_DAMAGE: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})
_WORTH_A_CHECK: Final = _DAMAGE | {"SQLITE_ERROR", "SQLITE_SCHEMA"}
"""What may come of damage. Whether there is any, a check of the whole registry decides."""
_NO_FILES_BESIDE: Final = frozenset({"SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY"})
"""What comes of a log or an index of the log that cannot be made, and of much else."""
_MAX_ATTEMPTS: Final = 4
_PROBE_BYTES: Final = 1 << 16
_AGAIN: Final = "Try again; if it stays so, run `supervisor doctor`."


class Way(Enum):
    """How the registry is opened. The later ones are for one action each, since they keep others out or miss them."""

    SHARED = "with a log and an index of the log beside it, as everybody does"
    ALONE = "with its lock held and the index of the log in memory, which takes no room on the disk"
    AS_IT_IS = "without a log, where there is none and none can be made: only to be read"


def _kind_of(error: Exception) -> str:
    """Return the primary result code of an SQLite error by name."""
    if isinstance(error, MemoryError):
        return "SQLITE_NOMEM"
    name: str = getattr(error, "sqlite_errorname", "") or ""
    if not name and "decode to UTF-8" in str(error):  # from the sqlite3 module itself, which gives it no code
        return "SQLITE_CORRUPT"
    return "_".join(name.split("_")[:2])


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script one by one; a trigger, which holds some, is one."""
    begun = ""
    for part in script.split(";"):
        begun += part + ";"
        if sqlite3.complete_statement(begun):
            yield begun
            begun = ""
    if begun.strip(" \n;"):
        yield begun


class Connection(ABC):
    """A connection to the registry of one state root.

    What the rows mean is the subclass's: it says how an empty registry is filled (``import_all``) and
    which rows nobody can have written (``check_rows``). ``wait_seconds`` is how long a lock of somebody
    else is waited for. ``is_newer``: a version that knows more has written it, so that what makes no sense
    here is no damage.
    """

    def __init__(self, layout: Layout, *, wait_seconds: float = 5, any_thread: bool = False) -> None:
        """Open the registry; create, migrate or rebuild it first where that is needed."""
        self.layout = layout
        self._wait_seconds = wait_seconds
        self._any_thread = any_thread
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._seen_version = -1
        self._is_tuned = False
        self._way = Way.SHARED
        self.is_newer = False
        self.set_aside: str | None = None
        tell_in_child(self)
        self._guarded(self._connect)

    @abstractmethod
    def import_all(self) -> None:
        """Fill a registry that has just been made, within the transaction that makes it."""

    @staticmethod
    @abstractmethod
    def check_rows(connection: sqlite3.Connection, version: int) -> None:
        """Raise ``Damaged`` if there is a table or a row that no version makes."""

    @abstractmethod
    def invalidate(self) -> None:
        """Drop what was remembered of the rows: they may be others by now."""

    def row_count(self) -> int:
        """Return how many jobs there are."""
        return int(self._db.execute("SELECT count(*) FROM jobs").fetchone()[0])

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
        self.layout.check_in_place()  # what lies there now may be another root's
        path = self.layout.registry
        try:
            found = _content(path)
            if found is None and not self.layout.create and not any(self.layout.jobs()):
                self._open_nothing()
            elif found is None:
                with self.layout.locked():
                    if _content(path) is None:
                        self._set_aside(path)  # a log without its registry would be taken for that of the next
                    self._create(path)
                    self._open(path)
                    self._migrate()
            else:
                self._open(path, found)
                version = self._version()
                self.is_newer = version > len(MIGRATIONS)
                if version < len(MIGRATIONS):
                    with self.layout.locked():
                        self._migrate()
            self._be_patient()
        except BaseException:
            self.close()  # half open it would be used as it is
            raise

    @staticmethod
    def _create(path: str) -> None:
        """Make the file with its mode; SQLite's own files beside it take that over."""
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)  # no connection to this file can be open yet, so no lock is dropped

    def _open(self, path: str, found: os.stat_result | None = None) -> None:
        """Open a registry; ``found`` is its file, looked at before: one that has replaced it since is noticed."""
        if path in inherited:
            raise forked_error()
        found = found or os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or _has_strangers_beside(path):
            message = f"something that is no file stands in the place of {path} or of a file of SQLite beside it"
            raise Damaged(message)  # before SQLite opens it and hangs on a pipe
        as_it_is = self._way is Way.AS_IT_IS
        self._inode = found.st_ino
        self._connection = sqlite3.connect(
            f"file:{_quoted(path)}?mode=ro&immutable=1" if as_it_is else path,
            uri=as_it_is,
            timeout=self._wait_seconds if self._way is Way.ALONE else max(self._wait_seconds, _OPENING_SECONDS),
            isolation_level=None,
            check_same_thread=not self._any_thread,
            cached_statements=64,
        )
        if found.st_mode & 0o777 != 0o600:
            os.chmod(path, 0o600)
        if self._way is Way.ALONE:
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._seen_version = -1
        self._is_tuned = False
        self.invalidate()

    def _open_nothing(self) -> None:
        """Open a registry without jobs that is nowhere on disk: reading makes nothing."""
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=not self._any_thread)
        self._inode = _NOWHERE
        self._migrate()
        self.invalidate()

    def _be_patient(self) -> None:
        """Wait for locks from now on as long as was asked for: to open it, it took longer than not at all."""
        if self._wait_seconds < _OPENING_SECONDS:
            self._db.execute(f"PRAGMA busy_timeout = {int(self._wait_seconds * 1000)}")

    def _tune(self) -> None:
        """Set what matters to whoever writes, and costs those who only read a tenth of their time."""
        if not self._is_tuned:
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")
            self._is_tuned = True

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        self._tune()
        if self._db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            self._db.execute("PRAGMA journal_mode = WAL")
        # A newer version than ours has only added to what we know, or it would be another file.
        self._db.execute("BEGIN IMMEDIATE")
        new = self._version() == 0
        try:
            for number, script in enumerate(MIGRATIONS[self._version() :], self._version() + 1):
                for statement in _statements(script):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number}")
            if new:  # in the same transaction: nobody ever sees a registry that is empty while there are jobs
                self.import_all()
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
        """Do ``action``; where the registry is damaged or cannot be opened as usual, deal with that and do it again."""
        attempt = 0
        try:
            while True:
                attempt += 1
                try:
                    return action()
                except (sqlite3.Error, MemoryError) as error:  # SQLite's own want of memory comes as the latter
                    if self._connection is not None and self._connection.in_transaction:
                        with contextlib.suppress(sqlite3.Error):
                            self._connection.execute("ROLLBACK")
                    if attempt == _MAX_ATTEMPTS or not self._may_go_better(error):
                        raise self._translated(error) from error
                except OSError as error:
                    raise state_error(error, "cannot use the registry") from error
        finally:
            if self._way is not Way.SHARED:
                self.close()
                self._way = Way.SHARED

    def _may_go_better(self, error: sqlite3.Error | MemoryError) -> bool:
        """Do something about an error, if that can be; whether it is worth another attempt."""
        kind = _kind_of(error)
        if kind in _WORTH_A_CHECK and self._way is not Way.AS_IT_IS and not isinstance(error, sqlite3.ProgrammingError):
            try:
                self._heal(error)
            except (sqlite3.Error, MemoryError) as another:  # whether it is damaged cannot be told now
                if _kind_of(another) in _NO_FILES_BESIDE and self._is_replaced():
                    return True
                raise self._translated(another) from error
            return True
        if kind not in _NO_FILES_BESIDE:
            return False
        replaced = self._is_replaced()
        self.close()
        if replaced:  # while it was being opened
            return True
        if self._way is Way.SHARED:
            self._way = Way.ALONE
            return True
        if self._way is Way.ALONE and not _has_log(self.layout.registry) and _takes_no_file(self.layout.root):
            self._way = Way.AS_IT_IS
            return True
        return False

    def _is_replaced(self) -> bool:
        try:
            return os.lstat(self.layout.registry).st_ino != self._inode
        except FileNotFoundError:
            return True

    def _translated(self, error: sqlite3.Error | MemoryError) -> SupervisorError:
        """Return the error of ours that says what could not be done, and whether to try again."""
        kind, path = _kind_of(error), self.layout.registry
        message = f"the registry {path}: {str(error) or 'out of memory'}"
        if kind in {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"}:
            return StateBusy(message)
        if kind == "SQLITE_FULL":
            return StateFull(message)
        if kind in {"SQLITE_NOMEM", "SQLITE_INTERRUPT"}:
            return StateBusy(message, repair=_AGAIN)
        if kind in _NO_FILES_BESIDE | {"SQLITE_PERM", "SQLITE_AUTH", "SQLITE_NOLFS"}:
            refused = _refusal(self.layout.root)  # SQLite does not tell what the operating system said
            if refused is not None:
                return state_error(refused, message)
            denied = os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK)
            return PermissionDenied(message) if denied else StateBusy(message, repair=_AGAIN)
        return SupervisorError(message, retryable=kind not in _DAMAGE)

    def _heal(self, error: Exception) -> None:
        """Set the damaged registry aside and rebuild it, unless another process has done so, or it is not damaged."""
        with self.layout.locked():
            self.close()
            path = self.layout.registry
            if self._is_damaged(path):
                self._set_aside(path)
                self._create(path)
                self._open(path)
                self._migrate()
                log.warning("registry_rebuilt", error=str(error), kept_as=self.set_aside, jobs=self.row_count())
            else:
                self._open(path)
                self._migrate()
            self._be_patient()

    def _set_aside(self, path: str) -> None:
        """Rename what there is of a registry. Whoever holds it open keeps it until the next write."""
        aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() % 10**6}"
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(path + suffix, aside + suffix)
                self.set_aside = aside

    def _is_damaged(self, path: str) -> bool:
        """Whether the registry was read, and makes no sense.

        Raises:
            sqlite3.Error, OSError: it cannot be read now.
            StateUnsafe: a newer version has written it, which this one cannot read.
        """
        if not os.path.lexists(path):
            return False
        if _content(path) is None or _has_strangers_beside(path):
            return True
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as probe:
                if probe.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    return True
                probe.execute("SELECT count(*) FROM sqlite_master").fetchone()
                version = probe.execute("PRAGMA user_version").fetchone()[0]
                self.is_newer = version > len(MIGRATIONS)
                self.check_rows(probe, version)
        except sqlite3.Error as error:
            if _kind_of(error) not in _DAMAGE:
                raise
            if not (self.is_newer and isinstance(error, Damaged)):
                return True
            message = f"the registry {path} was written by a newer version of this package: {error}"
            raise StateUnsafe(message, repair="Use the version that has written it, or a newer one.") from error
        return False

    # ------------------------------------------------------------ transactions

    def changed(self) -> bool:
        """Whether another process (or connection) has written since the last call."""
        return self.read(self._has_changed)

    def _has_changed(self) -> bool:
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._seen_version:
            return False
        self._seen_version = version
        self.invalidate()
        return True

    def _follow(self) -> None:
        """Open the registry anew if it was replaced: what is open here was set aside then, and nobody writes to it."""
        if self._connection is not None and self._connection.in_transaction:
            return
        try:
            moved = os.stat(self.layout.registry).st_ino != self._inode
        except FileNotFoundError:
            moved = self._inode != _NOWHERE
        if moved:
            self._connect()

    def read(self, action: Callable[[], _T]) -> _T:
        """Do ``action``, which only reads.

        Raises:
            SupervisorError: it cannot be read.
        """

        def reading() -> _T:
            self._follow()
            return action()

        return self._guarded(reading)

    def write(self, action: Callable[[], _T], *, single: bool = False) -> _T:
        """Do ``action`` in one transaction, which a ``single`` statement that depends on nothing is by itself.

        Raises:
            StateBusy: somebody else holds the lock for longer than ``wait_seconds``.
            StateFull, PermissionDenied: it cannot be written.
        """

        def transaction() -> _T:
            self._follow()
            self._tune()
            if single:
                return action()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._has_changed()  # what is remembered of the rows holds from here on: nobody else writes now
                result = action()
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self.invalidate()
                raise
            self._db.execute("COMMIT")
            return result

        return self._guarded(transaction)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the registry; waits for the disk, so not on an event loop."""

        def moved() -> None:
            self._tune()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

        self._guarded(moved)


class Damaged(sqlite3.DatabaseError):
    """Damage that SQLite does not find itself: a row that nobody can have written, a pipe where a file should be."""

    sqlite_errorname = "SQLITE_CORRUPT"


def _has_strangers_beside(path: str) -> bool:
    """Whether a file that SQLite keeps beside the registry is there as something that is no file."""
    for each in (f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        try:
            if not stat.S_ISREG(os.lstat(each).st_mode):
                return True
        except FileNotFoundError:
            continue
    return False


def _content(path: str) -> os.stat_result | None:
    """Return the registry's file if it is one and there is something in it."""
    try:
        found = os.lstat(path)  # a link is none of ours, wherever it leads
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) and found.st_size > 0 else None


def _has_log(path: str) -> bool:
    """Whether there is a write-ahead log with something in it."""
    try:
        return os.lstat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        return False


def _refusal(directory: str) -> OSError | None:
    """Return what the operating system says to a small new file in a directory, ``None`` if it makes it."""
    path = f"{directory}/.probe.{os.urandom(8).hex()}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return error
    try:
        os.unlink(path)
        if os.write(descriptor, bytes(_PROBE_BYTES)) < _PROBE_BYTES:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
    return None


def _takes_no_file(directory: str) -> bool:
    """Whether any process that wants to make a file in a directory is refused, and not just this one, just now."""
    refused = _refusal(directory)
    return refused is not None and isinstance(state_error(refused, ""), StateFull | PermissionDenied)


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
