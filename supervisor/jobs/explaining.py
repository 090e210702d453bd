"""Explains why a job waits, or which evidence says that it runs or has ended; without an event loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from supervisor.admission.groups import group_info
from supervisor.admission.launchers import late_launch
from supervisor.engines.interface import JobPhase, Observation
from supervisor.errors import GroupNotFound, StateCorrupt, SupervisorError
from supervisor.jobdir import records
from supervisor.jobs.interface import Jobs
from supervisor.jobs.proofs import evidence_of
from supervisor.jobs.queue_text import ahead, why_it_waits
from supervisor.model import EvidenceInfo, Explanation, GroupInfo, Job, WaitInfo, from_ns
from supervisor.states import Reason, State
from supervisor.store import Row
from supervisor.store.budgets import in_units, own_ask, shown_amount
from supervisor.store.grants import granted_ns
from supervisor.store.queue.later import Obstacle
from supervisor.store.state_errors import state_error
from supervisor.system.observing import NotKnown

__all__ = ["explain"]

_MAX_JOBS: Final = 10
_LAUNCHING: Final = frozenset({"launching", "no_launcher"})
_BY_ITSELF: Final = frozenset(
    {Reason.EXITED, Reason.NONZERO_EXIT, Reason.KILLED_BY_SIGNAL, Reason.INVALID_OUTPUT, Reason.REPORTED_ERROR}
)
_UNTIL: Final[Mapping[object, str]] = {
    "ok": "to be done",
    "any": "to end",
    "failed": "to end otherwise than done",
    "start": "to be launched",
}


def explain(jobs: Jobs, job_id: str) -> Explanation:
    """Return why a job waits, or which evidence says that it runs or has ended.

    Raises:
        JobNotFound: there is no job of this id.
        StateBusy: some of the evidence cannot be read now.
    """
    row, observation = jobs.refresh(jobs.row(job_id), drive=False)
    job = jobs.job(row, observation)
    waits = tuple(_waits(jobs, row, job)) if job.status is State.QUEUED else ()
    try:
        evidence = evidence_of(jobs, row, observation)
    except NotKnown as error:
        raise state_error(error, "cannot read the evidence about the job now") from error
    return Explanation(
        job_id=job.job_id,
        status=job.status,
        reason=job.reason,
        summary=_summary(job, waits, evidence, observation),
        queue_reason=waits[0].reason if waits else job.queue_reason,
        queue_position=job.queue_position,
        priority=job.priority,
        weight=job.weight,
        waits_for=waits,
        evidence=evidence,
    )


def _waits(jobs: Jobs, row: Row, job: Job) -> Iterator[WaitInfo]:
    """Yield all that a queued job waits for, in the order of ``queue_reason``."""
    now = jobs.layout.clock.moment()
    obstacles = jobs.index.read_queue(lambda queue: queue.obstacles(row.seq, now), snapshot=True)
    for obstacle in obstacles:
        if obstacle.reason != "launching" or job.queue_reason in _LAUNCHING:  # else its cluster has it
            yield _wait(jobs, row, job, obstacle)
    if job.queue_reason not in {None, *_LAUNCHING, *(each.reason for each in obstacles)}:
        yield WaitInfo(reason=job.queue_reason or "", text=why_it_waits(job) or "")


def _wait(jobs: Jobs, row: Row, job: Job, obstacle: Obstacle) -> WaitInfo:
    match obstacle.reason:
        case "held":
            return WaitInfo(reason="held", text=f"it is on hold: `supervisor release {row.job_id}` ends that")
        case "dependency":
            return _dependency(jobs, row, obstacle)
        case "not_before" | "retry":
            until = from_ns(obstacle.until_ns or 0)
            return WaitInfo(reason=obstacle.reason, text="its time has not come", until=until)
        case "launching":
            return _launching(jobs, row, job)
        case reason:
            return _by_groups(jobs, job, reason, obstacle)


def _dependency(jobs: Jobs, row: Row, obstacle: Obstacle) -> WaitInfo:
    whens = {each["job_id"]: each["when"] for each in row.request.get("after", ())}
    shown: list[dict[str, Any]] = []
    words: list[str] = []
    for named in obstacle.names[:_MAX_JOBS]:
        job_id, when = named, whens.get(named)
        status = reason = None
        state = "not known now"
        with contextlib.suppress(SupervisorError):
            found, observation = jobs.refresh(jobs.row(job_id), drive=False)
            while found.retried_by is not None:
                job_id = found.retried_by
                found, observation = jobs.refresh(jobs.row(job_id), drive=False)
            status, reason = found.state, None if found.ended is None else found.ended["reason"]
            away = observation is not None and observation.phase is JobPhase.ELSEWHERE
            state = f"{status}, on another host or in another container" if away else status
        shown.append({"job_id": job_id, "when": when, "status": status, "reason": reason})
        words.append(f"job {job_id} ({state}) {_UNTIL.get(when, 'to change')}")
    more = len(obstacle.names) - len(shown)
    text = f"it waits for {', for '.join(words)}{f', and for {more} more' if more > 0 else ''}"
    return WaitInfo(reason="dependency", text=text, jobs=tuple(shown))


def _launching(jobs: Jobs, row: Row, job: Job) -> WaitInfo:
    since_ns = granted_ns(jobs.layout.job(row.workspace_key, row.job_id))
    since = None if since_ns is None else from_ns(since_ns)
    if job.queue_reason == "no_launcher":
        text = "it has its slots, and no process is there to launch it: the next command starts one"
        return WaitInfo(reason="no_launcher", text=text, since=since)
    pid = row.owner.partition(".")[0]
    by = f"the supervisor with pid {pid:.20}" if jobs.layout.owners.is_alive(row.owner) else "another supervisor"
    late = late_launch(jobs.index, row) is not None
    text = f"it has its slots, and {by} is to launch it{'; that should not take so long' if late else ''}"
    return WaitInfo(reason="launching", text=text, since=since)


def _by_groups(jobs: Jobs, job: Job, reason: str, obstacle: Obstacle) -> WaitInfo:
    names, until_ns = obstacle.names, obstacle.until_ns
    infos: list[GroupInfo] = []
    words: list[str] = []
    for name in names:
        try:
            info = group_info(jobs.index, name)
        except (GroupNotFound, StateCorrupt) as problem:
            words.append(problem.message)
            continue
        infos.append(info)
        if reason == "budget":
            words.append(_spent(info, job))
        else:
            words.append(_paused(info) if info.paused and reason != "limit" else _full(info, job.weight, reason))
    if not names:
        words.append(f"its groups have room, but not for all before it ({ahead(job) or 'next in line'})")
    until = None if until_ns is None else from_ns(until_ns)
    return WaitInfo(reason=reason, text="; ".join(words), groups=tuple(infos), until=until)


def _paused(info: GroupInfo) -> str:
    pauses: list[str] = []
    for each in info.paused:
        why = f" ({each.detail})" if each.detail else ""
        until = "" if each.until is None else f" until {each.until:%Y-%m-%d %H:%M:%S} UTC"
        pauses.append(f"by {each.by}{why}{until}")
    return f"group {info.name} is paused {' and '.join(pauses)}"


def _spent(info: GroupInfo, job: Job) -> str:
    budgets: list[str] = []
    for each in info.budgets:
        amounts = f"{each['used']:g} used and {each['reserved']:g} reserved of {each['limit']:g}"
        resets = "" if each["resets_at"] is None else f" until {each['resets_at']:%Y-%m-%d %H:%M:%S} UTC"
        budgets.append(f"{each['metric']} by {each['window']}: {amounts}{resets}")
    own = own_ask(job.argv)
    asks = "" if own is None else f", and the job asks for {shown_amount('usd', own)} usd"
    limits = [each["limit"] for each in info.budgets if each["metric"] == "usd"]
    if own is not None and limits and in_units("usd", own) > min(limits):
        asks += ", which is more than the budget ever allows"
    return f"the budget of group {info.name} has no room for it: {', '.join(budgets)}{asks}"


def _full(info: GroupInfo, weight: int, reason: str) -> str:
    if reason == "rate_limited":
        return f"group {info.name} starts few jobs at a time, after or before a usage limit"
    if info.limit == 0:
        return f"group {info.name} is closed"
    if info.rate is not None and (info.limit is None or info.running + weight <= info.limit):
        return f"group {info.name} has started as many jobs as its rate of {info.rate} allows now"
    room = max(0, (info.limit or 0) - info.running)
    if info.rate is not None and (info.limit is None or weight <= room):
        return f"group {info.name} admits {info.rate}, and has done so"
    return f"group {info.name} has room for {room} of {info.limit}, and the job takes {weight}"


def _summary(
    job: Job, waits: tuple[WaitInfo, ...], evidence: tuple[EvidenceInfo, ...], observation: Observation | None
) -> str:
    if waits:
        return waits[0].text
    if job.status.terminal:
        proofs = {records.EXIT} if job.reason in _BY_ITSELF else {records.STOP, records.EXIT}
        by = [each.source for each in evidence if each.source in proofs] or [evidence[-1].source]
        why = "" if job.detail is None else f" ({job.detail})"
        return f"it ended {job.status}, reason {job.reason}{why}: {' and '.join(by)} say{'s' * (len(by) < 2)} so"
    if observation is not None and observation.phase is JobPhase.ELSEWHERE:
        return "it can be judged only where it was started, or by the version that has made it"
    said = next((each for each in reversed(evidence) if each.source in {"process", "process.json"}), evidence[-1])
    return f"it is {job.status}, as {said.source} says: {said.text}"
