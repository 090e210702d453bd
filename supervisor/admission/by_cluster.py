"""Jobs that a cluster admits: submitted at once, with their dependencies and times in the words of the cluster.

A job started with ``admission="engine"`` has no ticket, unless what it waits for can no longer come: then the queue of
the state root ends it, as it ends any other job.
"""

from __future__ import annotations

from typing import Any, Final

from supervisor.engines.cluster.client import read_submission
from supervisor.engines.cluster.interface import ADMISSION
from supervisor.engines.registry import engine_of
from supervisor.errors import InvalidArguments, JobNotFound
from supervisor.store import Index, Row
from supervisor.store.state_errors import state_error
from supervisor.store.tickets import holds
from supervisor.system.observing import NotKnown

__all__ = ["leave_to_cluster"]

_OURS: Final = {
    "groups": "a group",
    "hold": "hold",
    "start_within_ns": "start_within",
    "priority": "a priority",
    "retry": "a retry",
}
"""Members of ``job.json`` that only the queue of the state root understands."""


def leave_to_cluster(index: Index, record: dict[str, Any]) -> None:
    """Have the cluster of a new job decide when it runs: enter its dependencies and its time into its engine options.

    ``record`` is its ``job.json``, which is changed. A dependency that holds already is left out. If one can no longer
    hold, nothing is left to the cluster.

    Raises:
        InvalidArguments: the cluster cannot take a part of the request, which the message names.
        JobNotFound: a job that it is to wait for does not exist.
        StateBusy: it cannot be found out now how the cluster knows such a job.
    """
    engine = engine_of(record)
    for member, words in _OURS.items():
        if record.get(member):
            message = f"{words} is given, and admission by {engine}, which knows nothing of that"
            raise InvalidArguments(message, repair='Leave it out, or admission="engine".')
    after: list[tuple[str, str]] = []
    for each in record.get("after", ()):
        row = index.get(each["job_id"])
        if row is None:
            message = f"there is no job {each['job_id']} to wait for"
            raise JobNotFound(message, details={"job_id": each["job_id"]})
        held = holds(each["when"], row.state, started=row.started_ns is not None, ended=row.finished)
        if held is False:
            del record["engine_options"][ADMISSION]
            return
        if held is None:
            after.append((each["when"], _handle(row, engine)))
    begin_ns = record.get("not_before_ns")
    if "delay_ns" in record:
        begin_ns = max(begin_ns or 0, record["created_ns"] + record["delay_ns"])
    record["engine_options"][ADMISSION] = {"after": after, "begin_ns": begin_ns}


def _handle(row: Row, engine: str) -> str:
    """Return the name by which a cluster knows a job."""
    if engine_of(row.request) != engine:
        message = f"job {row.job_id} is of engine {engine_of(row.request)}, so {engine} cannot make another wait for it"
        raise InvalidArguments(
            message, repair='Leave out admission="engine": jobs of all engines can be waited for then.'
        )
    try:
        handle = read_submission(str(row.request["directory"])).get("handle")
    except NotKnown as error:
        raise state_error(error, f"cannot find out how {engine} knows job {row.job_id}") from error
    if not isinstance(handle, str):
        message = f"job {row.job_id} has not been submitted to {engine}, which cannot make another wait for it"
        raise InvalidArguments(
            message, repair='Leave out admission="engine", or start the job when that one is submitted.'
        )
    return handle
