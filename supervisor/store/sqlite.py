"""The connection to the index: opens, migrates and repairs it, and writes to it in transactions.

Only ``sqlite3`` opens the file, as closing any other descriptor of it would drop SQLite's locks. The root's lock is
held to create, migrate, set aside or rebuild it. ``synchronous`` is NORMAL and checkpoints are explicit, so a commit
neither syncs nor waits, and can be made on an event loop. Where the state root is durable it is FULL: each commit waits
for the disk. With ``wait_seconds=0`` a lock of another process raises
``StateBusy`` at once.

A damaged index is renamed, with "damaged" in its new name, and rebuilt. A process that has the old file open compares
inodes before each read or write, and opens the new one. Damage is content that was read whole and is invalid. An error
while reading (no free descriptor, a disk that does not answer) is evidence of nothing: nothing on disk changes, and the
caller may try again.

Where SQLite cannot make its files beside the index, as the disk is full or read-only, the index is read all the same:
see ``Way``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

from supervisor import log
from supervisor.errors import PermissionDenied, StateBusy, StateFull, StateUnsafe, SupervisorError
from supervisor.store.sqlite_files import (
    SUFFIXES,
    content_of,
    has_foreign_files,
    has_log,
    refusal_of,
    refuses_every_file,
    uri_of,
)
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import Layout
from supervisor.store.version import VERSION
from supervisor.system.fork_safety import forked_error, inherited, never_free, tell_in_child

__all__ = ["Connection", "Damaged"]

_T = TypeVar("_T")

_NOWHERE: Final = 0
_OPENING_SECONDS: Final = 5  # another process may be creating the index
_DAMAGE: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})
_WORTH_A_CHECK: Final = _DAMAGE | {"SQLITE_ERROR", "SQLITE_SCHEMA"}
"""Errors that damage may cause; a check of the whole index decides."""
_NO_FILES_BESIDE: Final = frozenset({"SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY"})
"""Errors that a log or its index that cannot be made causes, among other things."""
_MAX_ATTEMPTS: Final = 4
_AGAIN: Final = "Try again; if the error persists, run `supervisor doctor`."
_RESTART: Final = "Start this program again; if the error persists, install the package again."


class Way(Enum):
    """How the index is opened. The last two serve one action each: they lock out other processes, or miss their writes.

    ``SHARED`` is the usual way, with a log and an index of the log beside the file. ``ALONE`` holds the lock and has
    the index of the log in memory, which takes no room on the disk. ``AS_IT_IS`` reads only, without a log, where
    there is none and none can be made.
    """

    SHARED = 1
    ALONE = 2
    AS_IT_IS = 3


class Damaged(sqlite3.DatabaseError):
    """Damage that SQLite does not detect: a row that no version writes, a pipe in the place of a file."""

    sqlite_errorname = "SQLITE_CORRUPT"


def _kind_of(error: Exception) -> str:
    """Return the primary result code of an SQLite error by name."""
    if isinstance(error, MemoryError):
        return "SQLITE_NOMEM"
    name: str = getattr(error, "sqlite_errorname", "") or ""
    if not name and "decode to UTF-8" in str(error):  # from the sqlite3 module itself, which sets no code
        return "SQLITE_CORRUPT"
    return "_".join(name.split("_")[:2])


class Connection(ABC):
    """A connection to the index of one state root; subclasses know what the rows mean.

    Args:
        layout: the state root.
        wait_seconds: how long to wait for a lock of another process.
        any_thread: whether more than one thread uses it, one at a time.

    Attributes:
        is_newer: a newer version has written the index, so invalid content is not damage.
        set_aside: the new name of the damaged index, if this connection has renamed one.
    """

    def __init__(self, layout: Layout, *, wait_seconds: float = 5, any_thread: bool = False) -> None:
        """Open the index; first create, migrate or rebuild it if necessary."""
        self.layout = layout
        self._wait_seconds = wait_seconds
        self._any_thread = any_thread
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._seen_version = -1
        self._reported_version = -1
        self._is_tuned = False
        self._way = Way.SHARED
        self.is_newer = False
        self.set_aside: str | None = None
        tell_in_child(self)
        self._guarded(self._connect)

    @abstractmethod
    def import_all(self) -> None:
        """Fill a new index, within the transaction that makes it."""

    @abstractmethod
    def import_queue(self) -> None:
        """Enter the groups and the waiting jobs, which an index of an earlier version does not have."""

    @abstractmethod
    def import_spending(self) -> None:
        """Enter the budgets and what was spent, which an index of an earlier version does not have."""

    @staticmethod
    @abstractmethod
    def check_rows(connection: sqlite3.Connection, version: int) -> None:
        """Raise ``Damaged`` for a table or a row that no version writes."""

    @abstractmethod
    def invalidate(self) -> None:
        """Drop what is remembered of the rows: another process may have changed them."""

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
        """Leave the connection to the parent process: SQLite forbids a child to use it, and even to close it."""
        if self._connection is not None:
            never_free(self._connection)
            inherited.add(self.layout.index_path)
            self._connection = None

    # ------------------------------------------------------------ opening and repairing

    def _connect(self) -> None:
        self.close()
        self.layout.check_in_place()
        path = self.layout.index_path
        try:
            found = content_of(path)
            if found is None and not self.layout.create and not any(self.layout.jobs()):
                self._open_nothing()
            elif found is None:
                with self.layout.locked():
                    if content_of(path) is None:
                        self._set_aside(path)  # SQLite would apply a log that is left over to the new index
                    self._create(path)
                    self._open(path)
                    self._migrate()
            else:
                self._open(path, found)
                version = self._version()
                self.is_newer = version > VERSION
                if version < VERSION:
                    with self.layout.locked():
                        self._migrate()
            self._set_timeout()
        except BaseException:
            self.close()  # later calls would use a connection that is half open
            raise

    @staticmethod
    def _create(path: str) -> None:
        """Make the file with its mode, which SQLite copies to its files beside it."""
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)  # no connection to this file can be open yet, so no lock is dropped

    def _open(self, path: str, found: os.stat_result | None = None) -> None:
        """Open an index; ``found`` is the earlier status of its file, so that a replacement since then is noticed."""
        if path in inherited:
            raise forked_error()
        found = found or os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or has_foreign_files(path):
            message = f"{path}, or a file of SQLite beside it, is not a regular file"
            raise Damaged(message)  # before SQLite opens it and hangs on a pipe
        as_it_is = self._way is Way.AS_IT_IS
        self._inode = found.st_ino
        self._connection = sqlite3.connect(
            uri_of(path) if as_it_is else path,
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
        self._seen_version = self._reported_version = -1
        self._is_tuned = False
        self.invalidate()

    def _open_nothing(self) -> None:
        """Open an empty index in memory: a reader makes nothing on disk."""
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=not self._any_thread)
        self._inode = _NOWHERE
        self._migrate()
        self.invalidate()

    def _set_timeout(self) -> None:
        """Wait for locks as long as the caller asked; opening waits longer."""
        if self._wait_seconds < _OPENING_SECONDS:
            self._db.execute(f"PRAGMA busy_timeout = {int(self._wait_seconds * 1000)}")

    def _tune(self) -> None:
        """Set the options for writing; a process that only reads would spend a tenth of its time on them."""
        if not self._is_tuned:
            if self.layout.durable:
                self._db.execute("PRAGMA fullfsync = ON")  # of effect on macOS only
            self._db.execute(f"PRAGMA synchronous = {'FULL' if self.layout.durable else 'NORMAL'}")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")
            self._is_tuned = True

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        from supervisor.store import schema  # all tables of the queue; an index of this version needs none of it

        self._tune()
        if self._db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("BEGIN IMMEDIATE")
        before = self._version()
        try:
            for number, script in enumerate(schema.MIGRATIONS[self._version() :], self._version() + 1):
                for statement in schema.statements(script):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number}")
            if before == 0:  # in the same transaction: no process ever reads an empty index while there are jobs
                self.import_all()
            elif before < schema.QUEUE_VERSION:
                self.import_queue()
            elif before < schema.SPENDING_VERSION:
                self.import_spending()
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connect()
            assert self._connection is not None  # noqa: S101  # _connect opens it
        return self._connection

    def _guarded(self, action: Callable[[], _T]) -> _T:
        """Do ``action``; repair a damaged index, or open it in another way, and repeat the action."""
        attempt = 0
        try:
            while True:
                attempt += 1
                try:
                    return action()
                except (sqlite3.Error, MemoryError) as error:  # the latter where SQLite has no memory
                    if self._connection is not None and self._connection.in_transaction:
                        with contextlib.suppress(sqlite3.Error):
                            self._connection.execute("ROLLBACK")
                    if attempt == _MAX_ATTEMPTS or not self._recover(error):
                        raise self._translated(error) from error
                except OSError as error:
                    raise state_error(error, "cannot use the index") from error
                except ImportError as error:  # the package is being replaced, or was deleted
                    message = f"a part of this package cannot be loaded: {error}"
                    raise StateBusy(message, repair=_RESTART) from error
        finally:
            if self._way is not Way.SHARED:
                self.close()
                self._way = Way.SHARED

    def _recover(self, error: sqlite3.Error | MemoryError) -> bool:
        """Try to remove the cause of an error; return whether another attempt is worthwhile."""
        kind = _kind_of(error)
        if kind in _WORTH_A_CHECK and self._way is not Way.AS_IT_IS and not isinstance(error, sqlite3.ProgrammingError):
            try:
                self._heal(error)
            except (sqlite3.Error, MemoryError) as another:  # whether it is damaged is not known now
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
        if self._way is Way.ALONE and not has_log(self.layout.index_path) and refuses_every_file(self.layout.root):
            self._way = Way.AS_IT_IS
            return True
        return False

    def _is_replaced(self) -> bool:
        try:
            return os.lstat(self.layout.index_path).st_ino != self._inode
        except FileNotFoundError:
            return True

    def _translated(self, error: sqlite3.Error | MemoryError) -> SupervisorError:
        """Return the ``SupervisorError`` for an error of SQLite."""
        kind, path = _kind_of(error), self.layout.index_path
        message = f"the index {path}: {str(error) or 'out of memory'}"
        if kind in {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"}:
            return StateBusy(message)
        if kind == "SQLITE_FULL":
            return StateFull(message)
        if kind in {"SQLITE_NOMEM", "SQLITE_INTERRUPT"}:
            return StateBusy(message, repair=_AGAIN)
        if kind in _NO_FILES_BESIDE | {"SQLITE_PERM", "SQLITE_AUTH", "SQLITE_NOLFS"}:
            refused = refusal_of(self.layout.root)  # SQLite hides the error of the operating system
            if refused is not None:
                return state_error(refused, message)
            denied = os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK)
            return PermissionDenied(message) if denied else StateBusy(message, repair=_AGAIN)
        return SupervisorError(message, retryable=kind not in _DAMAGE)

    def _heal(self, error: Exception) -> None:
        """Rename and rebuild a damaged index, unless another process has done so, or it is not damaged."""
        with self.layout.locked():
            self.close()
            path = self.layout.index_path
            damaged = self._is_damaged(path)
            if damaged:
                self._set_aside(path)
                self._create(path)
            self._open(path)
            self._migrate()
            if damaged:
                log.warning("registry_rebuilt", error=str(error), kept_as=self.set_aside, jobs=self.row_count())
            self._set_timeout()

    def _set_aside(self, path: str) -> None:
        """Rename the files of an index. Processes that have it open use it until their next write."""
        aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() % 10**6}"
        for suffix in ("", *SUFFIXES):
            with contextlib.suppress(FileNotFoundError):
                os.rename(path + suffix, aside + suffix)
                self.set_aside = aside

    def _is_damaged(self, path: str) -> bool:
        """Whether the index was read whole, and is invalid.

        Raises:
            sqlite3.Error, OSError: it cannot be read now.
            StateUnsafe: a newer version has written it, and this version cannot read it.
        """
        if not os.path.lexists(path):
            return False
        if content_of(path) is None or has_foreign_files(path):
            return True
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as probe:
                if probe.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    return True
                probe.execute("SELECT count(*) FROM sqlite_master").fetchone()
                version = probe.execute("PRAGMA user_version").fetchone()[0]
                self.is_newer = version > VERSION
                self.check_rows(probe, version)
        except sqlite3.Error as error:
            if _kind_of(error) not in _DAMAGE:
                raise
            if not (self.is_newer and isinstance(error, Damaged)):
                return True
            message = f"the index {path} was written by a newer version of this package: {error}"
            raise StateUnsafe(message, repair="Use the version that has written it, or a newer one.") from error
        return False

    # ------------------------------------------------------------ transactions

    def changed(self) -> bool:
        """Whether another process (or connection) has written since the last call."""
        version = self.read(self._follow_version)
        changed = version != self._reported_version
        self._reported_version = version
        return changed

    def _follow_version(self) -> int:
        """Return the number that changes with every commit of another connection; drop what it makes invalid."""
        version = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        if version != self._seen_version:
            self._seen_version = version
            self.invalidate()
        return version

    def _follow(self) -> None:
        """Open the index again if another process has replaced it: no process writes to the old file any more."""
        if self._connection is not None and self._connection.in_transaction:
            return
        try:
            replaced = os.stat(self.layout.index_path).st_ino != self._inode
        except FileNotFoundError:
            replaced = self._inode != _NOWHERE
        if replaced:
            self._connect()

    def read(self, action: Callable[[], _T], *, snapshot: bool = False) -> _T:
        """Do ``action``, which only reads.

        ``snapshot``: all of its statements see the same state, and SQLite locks the index once. To lock it takes longer
        than most statements do.

        Raises:
            SupervisorError: the index cannot be read.
        """

        def reading() -> _T:
            self._follow()
            connection = self._db
            if not snapshot or connection.in_transaction:
                return action()
            connection.execute("BEGIN")
            try:
                return action()
            finally:
                with contextlib.suppress(sqlite3.Error):  # a repair may have closed it
                    connection.execute("ROLLBACK")  # nothing was written

        return self._guarded(reading)

    def write(self, action: Callable[[], _T], *, single: bool = False) -> _T:
        """Do ``action`` in one transaction; ``single``: it is one statement, which is a transaction by itself.

        Raises:
            StateBusy: another process holds the lock for longer than ``wait_seconds``.
            StateFull, PermissionDenied: the index cannot be written.
        """

        def transaction() -> _T:
            self._follow()
            self._tune()
            if single:
                return action()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._follow_version()  # remembered rows are valid from here on: this process has the lock
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
        """Move the write-ahead log into the index; waits for the disk, so not on an event loop."""

        def checkpointing() -> None:
            self._tune()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

        self._guarded(checkpointing)
