"""The evidence about a job, in words: its records, and what the kernel says about the processes that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from supervisor.engines.interface import Observation
from supervisor.engines.local.evidence import Evidence, Leader, Origin, examine
from supervisor.engines.local.reconcile import decide
from supervisor.jobdir import records, stops, validation
from supervisor.jobs.interface import Jobs
from supervisor.model import EvidenceInfo, from_ns
from supervisor.store import Row
from supervisor.store.grants import granted_ns
from supervisor.system.observing import is_there

__all__ = ["evidence_of"]

_BY: Final[Mapping[object, str]] = {
    "keeper": "its keeper, which has waited for the process, has recorded that",
    "zombie": "read from the process before it was reaped, as its keeper was gone",
    "pidfd": "read through a pidfd that was opened while the process was alive, as its keeper was gone",
    "nobody": "its keeper was gone, and no process could read the status",
    "mark search": "its keeper was gone, and no process carried the mark of the job",
}
_PLACES: Final[Mapping[Origin, str]] = {
    Origin.EARLIER_BOOT: "it was started before the last boot of this machine, which no process survives",
    Origin.ELSEWHERE: "it was started on another host or in another container, where alone it can be judged",
}


def evidence_of(jobs: Jobs, row: Row, observation: Observation | None) -> tuple[EvidenceInfo, ...]:
    """Return the evidence about a job, from the launch to the end.

    Raises:
        NotKnown: some of it cannot be read now.
    """
    directory = jobs.directory(row)
    found = [*_of_launch(jobs, row, directory)]
    if jobs.client(row).on_this_machine:
        owner_lives = jobs.layout.owners.is_alive(row.owner)
        evidence = examine(directory, owner_lives=owner_lives, launched=row.started_ns is not None)
        found += _of_kernel(evidence)
        if not row.finished:
            found.append(EvidenceInfo(source="owner", text=_owner(row.owner, lives=owner_lives)))
    elif observation is not None and observation.queue_reason is not None:
        found.append(EvidenceInfo(source=row.request["engine"], text=f"it has the job: {observation.queue_reason}"))
    found += _of_end(directory)
    if observation is not None and observation.damage is not None:
        found.append(EvidenceInfo(source="records", text=observation.damage))
    return (*found, _of_row(row))


def _of_launch(jobs: Jobs, row: Row, directory: str) -> Iterator[EvidenceInfo]:
    if is_there(f"{directory}/{records.ORDERS}"):
        yield EvidenceInfo(source=records.ORDERS, text="any process of this user can launch it from them")
    admitted_ns = granted_ns(jobs.layout.job(row.workspace_key, row.job_id))
    if admitted_ns is not None:
        yield EvidenceInfo(source=records.GRANTED, text="it has its slots", at=from_ns(admitted_ns))
    claim = records.read_claim(directory)
    holder = validation.keeper_of_claim(claim) if claim else None
    if claim == records.NOBODY:
        yield EvidenceInfo(source=records.CLAIM, text="taken for nobody: no process launches it any more")
    elif holder is not None:
        yield EvidenceInfo(source=records.CLAIM, text=f"held by the keeper with pid {holder[0]}: no other launches it")
    elif claim is not None:
        yield EvidenceInfo(source=records.CLAIM, text="damaged, or of another kind of holder")
    process = validation.process(directory)
    if process:
        text = f"pid {process['pid']}, started by the keeper with pid {process['keeper_pid']}"
        if isinstance(group := process.get(records.CGROUP), str):
            text += f", in the control group {group}"
        yield EvidenceInfo(source=records.PROCESS, text=text, at=from_ns(process["started_ns"]))
    elif process is not None:
        yield EvidenceInfo(source=records.PROCESS, text="damaged")


def _of_kernel(evidence: Evidence) -> Iterator[EvidenceInfo]:
    """Yield what the process table says about a job without a recorded end."""
    if evidence.exit or not (evidence.process or evidence.claim):
        return
    if evidence.place in _PLACES:
        yield EvidenceInfo(source="process", text=_PLACES[evidence.place])
        return
    leader = {
        Leader.ALIVE: "the process is alive, with the pid and the start time on record",
        Leader.ZOMBIE: "the process has ended and is not reaped yet",
        Leader.GONE: "the process is gone",
        Leader.NONE: "no process is on record",
    }[evidence.leader]
    keeper = "its keeper is alive" if evidence.keeper_lives else "its keeper is gone"
    so = "" if evidence.leader is Leader.ALIVE else f"; so {decide(evidence).value}"
    yield EvidenceInfo(source="process", text=f"{leader}; {keeper}{so}")


def _of_end(directory: str) -> Iterator[EvidenceInfo]:
    stop = stops.read_stop(directory)
    if stop:
        state = "no process of it is left" if stop["gone"] else "the first signal is out"
        if stop["signalled_boot_ns"] is None:
            state = "no signal is out"
        by = stop["by"] if isinstance(stop.get("by"), str) else "unknown"
        requested_ns = validation.integer(stop, "requested_ns")
        at = None if requested_ns is None or requested_ns < 0 else from_ns(requested_ns)
        yield EvidenceInfo(source=records.STOP, text=f"{stop['why']}, asked for by {by}; {state}", at=at)
    elif stop is not None:
        yield EvidenceInfo(source=records.STOP, text="damaged")
    end = validation.end(directory)
    if end:
        at = from_ns(max(0, validation.integer(end, "ended_ns") or 0))
        yield EvidenceInfo(source=records.EXIT, text=_end_text(end), at=at)
    elif end is not None:
        yield EvidenceInfo(source=records.EXIT, text="damaged, or of another process")


def _end_text(end: Mapping[str, Any]) -> str:
    if isinstance(end.get("launch_error"), str):
        from supervisor.text.redact import excerpt  # the message may hold the command, and that a secret

        return f"it was never launched: {excerpt(end['launch_error'])}"
    how = "its exit status is unknown"
    if end.get("signal") is not None:
        how = f"signal {end['signal']} has ended it"
    elif end.get("exit_code") is not None:
        how = f"it has ended with status {end['exit_code']}"
    by = end.get("by")
    remark = f"; {end['remark']}" if isinstance(end.get("remark"), str) else ""
    return f"{how}: {_BY.get(by, f'recorded by {by}')}{remark}"


def _of_row(row: Row) -> EvidenceInfo:
    if row.ended is None:
        at = None if row.started_ns is None else from_ns(row.started_ns)
        return EvidenceInfo(source="index", text=f"no end of it is recorded; its row says {row.state}", at=at)
    at = None if row.completed_ns is None else from_ns(row.completed_ns)
    return EvidenceInfo(source="index", text=f"its end is recorded: {row.state}, reason {row.ended['reason']}", at=at)


def _owner(owner: str, *, lives: bool) -> str:
    pid = owner.partition(".")[0]
    return f"its supervisor, pid {pid:.20}, {'is open' if lives else 'is gone'}"
