"""A connection that reads an index which is in order, and that never writes, makes or repairs one.

``Index`` is the connection for everything else. It brings the whole queue, which takes a third of the time of a command
that shows an ended job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import NoReturn, TypeVar

from supervisor.store.queries import Queries
from supervisor.store.sqlite_files import content_of
from supervisor.store.state_root import Layout
from supervisor.store.version import VERSION

__all__ = ["Reader", "Unreadable"]

_T = TypeVar("_T")


class Unreadable(Exception):
    """The index is missing, damaged, of another version, or cannot be read in the usual way: ``Index`` finds out."""


class Reader(Queries):
    """A connection to the index of one state root that reads the rows of jobs.

    Each method raises ``Unreadable`` where the index, or a row, is not as this version writes it.
    """

    def __init__(self, layout: Layout) -> None:
        """Open the index."""
        super().__init__(layout, wait_seconds=0, any_thread=False)

    def _connect(self) -> None:
        self.close()
        path = self.layout.index_path
        found = content_of(path)
        if found is None:
            raise Unreadable
        self._open(path, found)
        if self._version() != VERSION:
            raise Unreadable

    def _guarded(self, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except Unreadable:
            self.close()
            raise
        except (sqlite3.Error, MemoryError, OSError) as error:
            self.close()
            raise Unreadable from error

    def import_all(self) -> NoReturn:
        """Refuse: this connection makes no index."""
        raise Unreadable

    import_queue = import_spending = import_all

    @staticmethod
    def check_rows(connection: sqlite3.Connection, version: int) -> NoReturn:
        """Refuse: this connection repairs no index."""
        del connection, version
        raise Unreadable

    def invalidate(self) -> None:
        """Remember no more than the rows, which are compared with their columns at each read."""
