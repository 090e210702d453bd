"""Self-clocked fair queueing: the jobs of a group that is shared fairly among flows, such as workspaces.

A job gets a tag when it is ready: the later of the last tag of its flow and of the virtual time of the group, and a
second for each unit of its weight. Its rank is the tag less the worth of its priority. So the jobs of a flow come one
after the other in virtual time, beside those of the other flows, however many of them there are.

The **virtual time** of a group is the highest rank that was admitted. A rank, not a tag: a job of high priority from
the end of a long flow has a late tag and an early rank, and does not put new flows behind that flow.

A stream of new flows with high priority would overtake all others for ever, as the virtual time does not advance with
such jobs. So their weight is the **advance** of the group, and the priority of a new job is worth less by that. The
weight of the other admitted jobs pays it off.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from supervisor.store.pacing import Pace
from supervisor.store.tickets import Ticket

__all__ = ["SCHEMA", "Flows", "check_fair_by"]

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS flows (
        name TEXT NOT NULL,
        flow BLOB NOT NULL,
        tag INTEGER NOT NULL,
        PRIMARY KEY (name, flow)
    ) WITHOUT ROWID;
"""

_UNIT_NS: Final = 10**9
"""The virtual time of a unit of weight. A point of priority with an aging of 300 seconds is worth 300 units."""
_LAST_TAG_NS: Final = 8 * 10**18
_SWEEP: Final = 256
_PRINCIPAL: Final = "mcp.principal"
_LABEL: Final = "label:"


def check_fair_by(fair_by: str) -> bool:
    """Whether it names flows: ``workspace``, ``principal``, or ``label:`` and the name of a label."""
    return fair_by in {"workspace", "principal"} or (fair_by.startswith(_LABEL) and fair_by != _LABEL)


def _flow_of(fair_by: str, ticket: Ticket) -> str:
    if fair_by == "workspace":
        return ticket.workspace
    return ticket.labels.get(_PRINCIPAL if fair_by == "principal" else fair_by.removeprefix(_LABEL), "")


class Flows:
    """The tags of the flows. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection

    def begin_anew(self, name: str) -> None:
        """Forget the flows of a group without waiting jobs."""
        self._db.execute("DELETE FROM flows WHERE name = ?", (name,))

    def rank(self, seq: int, ticket: Ticket, pace: Pace, aging_ns: int) -> int:
        """Return the rank of a job, and charge its weight to its flow."""
        flow = _flow_of(pace.settings.fair_by or "", ticket).encode("utf-8", "surrogatepass")
        if seq % _SWEEP == 0:
            self._db.execute("DELETE FROM flows WHERE name = ? AND tag <= ?", (pace.name, pace.virtual_ns))
        found = self._db.execute("SELECT tag FROM flows WHERE name = ? AND flow = ?", (pace.name, flow)).fetchone()
        last = pace.virtual_ns if found is None else max(pace.virtual_ns, found[0])
        tag = min(last + ticket.weight * _UNIT_NS, _LAST_TAG_NS)
        self._db.execute("INSERT OR REPLACE INTO flows VALUES (?, ?, ?)", (pace.name, flow, tag))
        worth = ticket.priority * aging_ns
        if worth > 0:
            worth = max(-1, worth - pace.advance_ns) + 1  # not the virtual time itself, which others have reached
        return tag - worth

    @staticmethod
    def note_admission(pace: Pace, rank: int, weight: int) -> None:
        """Advance the virtual time of a group, or the advance of those that overtake."""
        if rank < pace.virtual_ns:
            pace.advance_ns = min(pace.advance_ns + weight * _UNIT_NS, _LAST_TAG_NS)
        else:
            pace.virtual_ns = min(rank, _LAST_TAG_NS)
            pace.advance_ns = max(0, pace.advance_ns - weight * _UNIT_NS)
