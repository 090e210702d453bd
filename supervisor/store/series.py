"""The next attempt of a job that has ended: whether there is one, and its directory.

The transaction that records the end inserts the attempt, so there is exactly one, whichever process records the end.
The directory is made before the commit, under an id that follows from the series and the number. After a kill in
between, the next process that records the end goes on with it:

1. the directory with its ``job.json``, which is written whole or not at all;
2. ``stdin`` and ``orders`` move there from the ended attempt, each by one rename;
3. the commit.

Without orders in either of the two directories there is no next attempt: it could not be launched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any, Final

from supervisor import log
from supervisor.jobdir import records, stops
from supervisor.jobdir.durability import sync_job
from supervisor.retry import Retry, attempt_id, counts_apart, delay_of, is_rate_limited, never_ran
from supervisor.store import groups
from supervisor.store.changes import MEMBER, read_changes
from supervisor.store.rows import Row, dump, row_of_record
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import Layout
from supervisor.store.tickets import groups_of
from supervisor.system import processes
from supervisor.system.observing import is_there
from supervisor.system.syncing import sync_directory

__all__ = ["CONTINUE", "earlier_ids", "following", "is_claimed", "next_id"]

_NOT_REPEATED: Final = (
    *("hold", "after", "not_before_ns", "start_within_ns", "delay_ns", "created_boot_ns", MEMBER),
    *("session_id", "resumed", "instant_ns"),
)
"""What the first attempt has waited for, and the session of the one before."""
CONTINUE: Final = "A usage limit ended this session. It is reset now: continue with the task where you stopped."
"""What the agent is told when its session is continued."""
_OF_THE_JOB: Final = frozenset({"deadline", "output_limit", "memory_limit"})
"""Stops that follow from what the job does; any other is the wish that it ends, and its series with it."""


def next_id(row: Row) -> str:
    """Return the id of the attempt after this one."""
    request = row.request
    return attempt_id(request["series_id"], request["attempt"] + 1)


def earlier_ids(row: Row) -> list[str]:
    """Return the ids of the attempts before this one."""
    request = row.request
    return [attempt_id(request["series_id"], attempt) for attempt in range(1, request["attempt"])]


def is_claimed(layout: Layout, row: Row) -> bool:
    """Whether a job has been launched, or is never to be launched.

    Raises:
        StateBusy: that is not known now.
    """
    try:
        return records.read_claim(layout.job(row.workspace_key, row.job_id)) is not None
    except OSError as error:
        raise state_error(error, "cannot read a claim") from error


def following(layout: Layout, row: Row, owner: str) -> Row | None:
    """Return the row of the attempt that follows an ended one, once its directory is there; ``None`` for none.

    It must be called in the transaction that records the end, before that writes. ``row`` is the finished row, and
    ``owner`` the supervisor that is to launch the attempt.

    Raises:
        SupervisorError: the directory cannot be made now; so the end must not be recorded either.
    """
    try:
        return _following(layout, row, owner)
    except OSError as error:
        raise state_error(error, f"cannot prepare the next attempt of job {row.job_id}") from error


def _following(layout: Layout, row: Row, owner: str) -> Row | None:
    source, job_id = layout.job(row.workspace_key, row.job_id), next_id(row)
    target = layout.job(row.workspace_key, job_id)
    made = _read(row.workspace_key, target)
    if made is not None and records.read_claim(target) is not None:
        return made  # the index is being rebuilt
    delay = _delay(layout, row, job_id) if made is None else 0.0  # else it was decided, by a process that was killed
    if delay is None or _is_stopped(source):
        layout.discard(row.workspace_key, job_id)
        return None
    if not (is_there(f"{source}/{records.ORDERS}") or is_there(f"{target}/{records.ORDERS}")):
        log.warning("retry_without_orders", job_id=row.job_id)
        return None
    if made is None:
        record = _record(layout, row, owner, delay)
        with contextlib.suppress(FileExistsError):
            os.mkdir(target, 0o700)
            os.chmod(target, 0o700)  # a umask may have removed the owner's own permissions
        records.replace(target, records.JOB, {name: record[name] for name in record if name != "v"})
        made = row_of_record(row.workspace_key, record, dump(record))
    for name in (records.STDIN, records.ORDERS):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{source}/{name}", f"{target}/{name}")
    if row.is_durable:
        sync_job(target)
        sync_directory(os.path.dirname(target))
        sync_directory(source)
    return made


def _delay(layout: Layout, row: Row, job_id: str) -> float | None:
    request = row.request
    waits_out = is_rate_limited(row.ended or {"error": None}) and groups.any_waits_out(
        layout.root, groups_of({**request, MEMBER: read_changes(layout.job(row.workspace_key, row.job_id))})
    )
    return delay_of(
        Retry.from_record(request["retry"]),
        row.state,
        row.ended or {"error": None},
        attempt=request["attempt"],
        limited=request.get("limited", 0),
        next_id=job_id,
        waits_out=waits_out,
    )


def _read(workspace: str, directory: str) -> Row | None:
    record = records.read(directory, records.JOB)
    if record and (changes := read_changes(directory)):
        record[MEMBER] = changes
    try:
        return row_of_record(workspace, record, dump(record)) if record else None
    except (KeyError, ValueError):
        return None


def _is_stopped(directory: str) -> bool:
    """Whether a stop was requested that ends the series."""
    stop = stops.read_stop(directory)
    return stop is not None and stop.get("why") not in _OF_THE_JOB


def _record(layout: Layout, row: Row, owner: str, delay: float) -> dict[str, Any]:
    """Return ``job.json`` of the attempt after an ended one; its delay counts from that end."""
    request, now, boot = row.request, layout.clock.moment(), processes.boot_id()
    apart, delay_ns = row.ended is not None and counts_apart(row.ended), int(delay * 1e9)
    since_ns = now.wall_ns - (row.completed_ns or now.wall_ns)
    changes = read_changes(layout.job(row.workspace_key, row.job_id))
    return {
        **{name: request[name] for name in request if name not in _NOT_REPEATED},
        "job_id": next_id(row),
        "priority": changes.get("priority", request["priority"]),
        **({"groups": list(groups_of({**request, MEMBER: changes}))} if "groups" in request else {}),
        "idempotency_key": None,  # the first attempt has it
        "attempt": request["attempt"] + 1,
        "retry_of": row.job_id,
        "limited": request.get("limited", 0) + apart,
        "created_ns": max(now.wall_ns, row.created_ns + 1),
        "created_boot_ns": now.boot_ns,
        # Without a delay, it is the pause of its group that has it wait.
        **({"delay_ns": delay_ns - min(max(since_ns, 0), delay_ns)} if delay or not apart else {}),
        "owner": owner,
        **_birthplace(request, boot),
        **_session(row, next_id(row)),
    }


def _session(row: Row, job_id: str) -> dict[str, Any]:
    """Return in which session an attempt works.

    That is the session of the one before, if a usage limit ended it after some turns, or if it was to continue one and
    was never launched.
    """
    from supervisor.interpret import new_session_id, session_command  # 3 ms with what it imports

    request, ended = row.request, row.ended or {"error": None}
    argv, kind = request["argv"], request["kind"]
    if row.ended is not None and never_ran(row.ended) and request.get("resumed") is True:
        return {"session_id": request["session_id"], "resumed": True}
    if is_rate_limited(ended):
        details: Mapping[str, Any] = ended["error"].get("details") or {}
        usage: Mapping[str, Any] | None = details.get("usage")
        session_id = details.get("session_id") or request.get("session_id")
        # A run that its model never answered has left no session, unless it continued one.
        answered = isinstance(usage, Mapping) and bool(usage.get("output_tokens"))
        answered = answered or bool(details.get("items")) or request.get("resumed") is True
        if answered and isinstance(session_id, str) and session_command(kind, argv, session_id, CONTINUE):
            return {"session_id": session_id, "resumed": True}
    begun = session_command(kind, argv, new_session_id(job_id), None)
    return {} if begun is None else {"session_id": begun.session_id}


def _birthplace(request: Mapping[str, Any], boot: str) -> dict[str, Any]:
    """Return where the attempt may be launched: as the one before, and after a reboot as what is started then."""
    return {} if request.get("boot") == boot else {"boot": boot, "ns": processes.pid_namespace()}
