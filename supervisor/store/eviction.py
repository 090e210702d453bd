"""Which ended jobs of a workspace are forgotten, as more are kept than the user wants."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from supervisor.store.queries import UNAWAITED

__all__ = ["READING_NS", "victims_of"]

READING_NS: Final = 60_000_000_000
"""How long an expired job stays on disk for another process, which may be about to read how it has ended."""

_PRINCIPAL: Final = b"mcp.principal"  # the label that names the principal who has started a job over HTTP
_PRINCIPAL_OF_JOB: Final = "coalesce((SELECT value FROM labels WHERE labels.seq = jobs.seq AND name = ?), x'')"


def victims_of(
    db: sqlite3.Connection, workspace: str, kept: int, most: int, *, spared: Iterable[str], now_ns: int
) -> list[str]:
    """Return the jobs of a workspace beyond ``most``: expired, then fetched ones, then the oldest.

    Expired are those that no process may be about to read any more.

    A job that another one waits for is kept. The jobs of each principal of an MCP server are counted separately, so one
    does not evict another's jobs. ``kept`` is the number of all ended jobs of the workspace.
    """
    keep = set(spared)
    victims: list[str] = []
    for principal, held in _held_by(db, workspace, kept):
        victims += _victims(db, workspace, principal, held - most, keep, now_ns)
    return victims


def _held_by(db: sqlite3.Connection, workspace: str, kept: int) -> list[tuple[bytes | None, int]]:
    """Return how many finished jobs each principal has; ``None`` stands for all where there is no principal."""
    if db.execute("SELECT 1 FROM labels WHERE name = ? LIMIT 1", (_PRINCIPAL,)).fetchone() is None:
        return [(None, kept)]
    statement = f"""SELECT {_PRINCIPAL_OF_JOB}, count(*) FROM jobs
        WHERE workspace_key = ? AND completed_ns IS NOT NULL GROUP BY 1"""  # noqa: S608  # our own names
    return [(principal, held) for principal, held in db.execute(statement, (_PRINCIPAL, workspace))]


def _victims(
    db: sqlite3.Connection, workspace: str, principal: bytes | None, room: int, keep: set[str], now_ns: int
) -> list[str]:
    victims: list[str] = []
    of_principal = "" if principal is None else f"AND {_PRINCIPAL_OF_JOB} = ?"
    names = () if principal is None else (_PRINCIPAL, principal)
    # One query each, so that an index of SQLite returns the rows in order, however many jobs are kept. The plus
    # keeps SQLite from using the index on the workspace for the first: that reads every job to find none expired.
    for clause, order, value in (
        ("+workspace_key = ? AND expires_ns <= ?", "expires_ns", now_ns - READING_NS),
        ("workspace_key = ? AND fetched = ? AND +expires_ns IS NOT NULL", "seq", 1),  # its series has ended
        ("workspace_key = ? AND fetched = ? AND +expires_ns IS NOT NULL", "seq", 0),
    ):
        left = room - len(victims)
        if left > 0:
            found = db.execute(
                f"""SELECT job_id FROM jobs WHERE completed_ns IS NOT NULL AND {clause} {of_principal}
                    AND {UNAWAITED} ORDER BY {order} LIMIT ?""",  # noqa: S608  # our own names
                (workspace, value, *names, left + len(keep) + len(victims)),
            ).fetchall()
            passed = keep.union(victims)
            victims += [job_id for (job_id,) in found if job_id not in passed][:left]
    return victims
