"""What jobs have spent today, by the clock of this machine: kept up to date by reading what the ledger has grown by.

It is asked for each picture of a page, and a month of the ledger may have a million lines.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from supervisor.jobs.spend import sum_of
from supervisor.model import Spend
from supervisor.store.ledger import Tail
from supervisor.store.windows import local_zone, span_of

__all__ = ["SpendingToday"]

Label = tuple[str, str] | None


class SpendingToday:
    """The spending of the day. Any thread may ask.

    Args:
        root: the state root.
    """

    def __init__(self, root: str) -> None:
        self._tail = Tail(root)
        self._lock = threading.Lock()
        self._begin_ns = 0
        self._records: dict[str, Mapping[str, Any]] = {}
        self._sums: dict[Label, Spend] = {}

    def total(self, now_ns: int, label: Label = None) -> Spend:
        """Return what jobs have spent together that have ended today; with ``label``, those that have it.

        Raises:
            StateBusy, PermissionDenied: the ledger cannot be read now.
        """
        with self._lock:
            self._read(now_ns)
            if label not in self._sums:
                of_label = (
                    each for each in self._records.values() if label is None or each["labels"].get(label[0]) == label[1]
                )
                self._sums[label] = sum_of(of_label)
            return self._sums[label]

    def _read(self, now_ns: int) -> None:
        begin_ns, _ = span_of("day", local_zone(), now_ns)
        if begin_ns != self._begin_ns:  # another day, or the clock was set
            self._begin_ns = begin_ns
            self._tail.rewind()
        begins_anew, records = self._tail.read(begin_ns)
        if begins_anew:
            self._records.clear()
        if begins_anew or records:
            self._sums.clear()
        for record in records:
            self._records[record["job_id"]] = record  # the last line of a job counts
