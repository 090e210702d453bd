"""What the page of one job shows: its timeline, its attempts, its answer, and the evidence. Pure, but for ``look``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from supervisor.errors import JobNotFound, SupervisorError
from supervisor.jobdir import records
from supervisor.jobs import words
from supervisor.jobs.queue_text import why_it_waits
from supervisor.jobs.results import peek
from supervisor.model import ErrorInfo, EvidenceInfo, Explanation, Job, Result
from supervisor.runtime.supervisor import Supervisor
from supervisor.states import State
from supervisor.web.page.filters import sentence
from supervisor.web.page.rendering import Section, render
from supervisor.web.page.visiting import Visitor

__all__ = ["JOB_SECTIONS", "Moment", "Seen", "job_sections", "look", "timeline_of"]

_MAX_ATTEMPTS: Final = 20
_MAX_READ_BYTES: Final = 8 << 20
"""An answer in a longer stdout is not rendered, as that would take its whole length of memory."""
_MAX_VALUE_CHARACTERS: Final = 1 << 16
_MAX_FINDINGS: Final = 100

JOB_SECTIONS: Final = (
    "job-head",
    "job-answer",
    "job-waits",
    "job-timeline",
    "job-attempts",
    "job-evidence",
    "job-facts",
)
"""The parts of the page of a job that change, in their order."""


@attrs.frozen(slots=True)
class Moment:
    """A point of the timeline.

    Attributes:
        what: in a word or two.
        at: when; ``None`` for one whose time is not known, or that lasts.
        detail: in a sentence, or ``""``.
        kind: for the colour: ``past``, ``now``, ``well``, ``badly`` or ``next``.
    """

    what: str
    at: datetime | None
    detail: str = ""
    kind: str = "past"


@attrs.frozen(slots=True, kw_only=True)
class Seen:
    """A job as its page shows it.

    Attributes:
        job: the job.
        explanation: why it waits, or the evidence; ``None`` if that cannot be read now.
        attempts: all attempts of its series, the first one first, at least this one.
        result: of an ended job with an answer, or with an error; ``None`` while there is none.
        problem: why there is none although it has ended, or why there is no explanation.
    """

    job: Job
    explanation: Explanation | None = None
    attempts: tuple[Job, ...] = ()
    result: Result | None = None
    problem: str | None = None


async def look(supervisor: Supervisor, job: Job) -> Seen:
    """Return what the page of a job shows. The result does not count as fetched by that."""
    explanation = result = problem = None
    try:
        explanation = await supervisor.explain(job.job_id)
    except JobNotFound:
        raise
    except SupervisorError as error:
        problem = error.message
    if job.status.terminal and job.kind != "raw":
        if job.stdout_bytes > _MAX_READ_BYTES:
            problem = f"The output has {words.size(job.stdout_bytes)}: too much to read an answer from it here."
        else:
            try:
                result = await supervisor.access.in_thread(lambda catalog: peek(catalog, job.job_id))
            except JobNotFound:
                raise
            except SupervisorError as error:
                problem = error.message
    attempts = await _attempts(supervisor, job)
    return Seen(job=job, explanation=explanation, attempts=attempts, result=result, problem=problem)


async def _attempts(supervisor: Supervisor, job: Job) -> tuple[Job, ...]:
    found = [job]
    with contextlib.suppress(SupervisorError):  # an earlier one was forgotten
        while (before := found[0].retry_of) is not None and len(found) < _MAX_ATTEMPTS:
            found.insert(0, await supervisor.status(before))
    with contextlib.suppress(SupervisorError):
        while (after := found[-1].retried_by) is not None and len(found) < 2 * _MAX_ATTEMPTS:
            found.append(await supervisor.status(after))
    return tuple(found)


def job_sections(seen: Seen, visitor: Visitor, now: datetime) -> list[Section]:
    """Return the parts of the page of a job."""
    values = {
        "seen": seen,
        "job": seen.job,
        "now": now,
        "visitor": visitor,
        "timeline": timeline_of(seen),
        "answer": _answer_of(seen.result),
        "error": _error_of(seen.result),
        "max_findings": _MAX_FINDINGS,
        "facts": list(_facts_of(seen.job)),
    }
    return [Section.of(name, render(f"{name.replace('-', '_')}.html", **values)) for name in JOB_SECTIONS]


# ------------------------------------------------------------ the timeline


def timeline_of(seen: Seen) -> list[Moment]:
    """Return what has happened to a job, in order, and what is to come."""
    job = seen.job
    evidence = () if seen.explanation is None else seen.explanation.evidence
    moments = [Moment("Created", job.created_at, _created(job))]
    slots = _of(evidence, records.GRANTED)
    if slots is not None and slots.at is not None:
        moments.append(
            Moment("Admitted", slots.at, f"It has its slots in {' and '.join(job.groups)}." if job.groups else "")
        )
    if job.started_at is not None:
        pid = "" if job.pid is None else f"Process {job.pid}."
        moments.append(Moment("Launched", job.started_at, f"{pid} {_waited(job)}".strip()))
    stop = _of(evidence, records.STOP)
    if stop is not None:
        moments.append(Moment("Stop", stop.at, sentence(stop.text)))
    if job.status is State.QUEUED:
        moments.append(Moment("Waiting", None, sentence(why_it_waits(job) or "for its launch"), "now"))
    elif not job.status.terminal:
        what = "Paused" if job.paused else "Stopping" if job.stop_requested else "Running"
        moments.append(Moment(what, None, sentence(words.progress(job.progress) or ""), "now"))
    if job.status.terminal:
        kind = "well" if job.status is State.DONE else "badly"
        moments.append(Moment("Ended", job.completed_at, sentence(words.outcome(job)), kind))
    elif job.deadline_at is not None:
        moments.append(Moment("Deadline", job.deadline_at, "", "next"))
    if job.next_attempt_at is not None and job.retried_by is None and not job.status.terminal:
        moments.append(Moment("Next attempt", job.next_attempt_at, "", "next"))
    if job.expires_at is not None:
        moments.append(Moment("Forgotten", job.expires_at, "", "next"))
    return moments


def _of(evidence: tuple[EvidenceInfo, ...], source: str) -> EvidenceInfo | None:
    return next((each for each in evidence if each.source == source), None)


def _created(job: Job) -> str:
    after = words.plural(len(job.after), "other job") if job.after else ""
    return " ".join(
        filter(
            None,
            (
                f"In {' and '.join(job.groups)}." if job.groups else "",
                f"To run after {after}." if after else "",
                f"Not before {words.clock(job.not_before)}." if job.not_before else "",
                f"Attempt {job.attempt} of {job.maximum_attempts}." if job.maximum_attempts > 1 else "",
            ),
        )
    )


def _waited(job: Job) -> str:
    if job.started_at is None:
        return ""
    seconds = (job.started_at - job.created_at).total_seconds()
    return f"It waited {words.duration(seconds)}." if seconds >= 1 else ""


# ------------------------------------------------------------ the answer


_NO_FINDING: Final = dict.fromkeys(("title", "file", "line", "evidence", "risk", "recommendation"), "") | {
    "severity": "unknown"
}


@attrs.frozen(slots=True)
class _Answer:
    """A result: the members of a review or an answer that are shown, or a text."""

    summary: str = ""
    verdict: str | None = None
    confidence: object = None
    findings: tuple[Mapping[str, Any], ...] = ()
    lists: tuple[tuple[str, tuple[str, ...]], ...] = ()
    text: str = ""
    is_json: bool = False
    cut: bool = False


def _answer_of(result: Result | None) -> _Answer | None:
    if result is None or result.error is not None:
        return None
    value = result.value
    if not isinstance(value, dict) or "findings" not in value or "summary" not in value:
        is_json = not isinstance(value, str)
        text = json.dumps(value, ensure_ascii=False, indent=2) if is_json else str(value)
        return _Answer(
            text=words.clean(text[:_MAX_VALUE_CHARACTERS]), is_json=is_json, cut=len(text) > _MAX_VALUE_CHARACTERS
        )
    held: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    summary, text = str(held.get("summary") or ""), str(held.get("text") or "")
    names = (("questions", "Questions"), ("assumptions", "Assumptions"), ("next_steps", "Next steps"))
    return _Answer(
        summary=words.clean(summary),
        verdict=held.get("verdict"),
        confidence=held.get("confidence"),
        findings=tuple({**_NO_FINDING, **each} for each in held.get("findings") or ()),
        lists=tuple((head, tuple(map(str, held[name]))) for name, head in names if held.get(name)),
        text="" if text == summary else words.clean(text),
        cut=bool(held.get("truncated")),
    )


def _error_of(result: Result | None) -> ErrorInfo | None:
    return None if result is None else result.error


# ------------------------------------------------------------ facts


def _facts_of(job: Job) -> Iterator[tuple[str, str]]:
    yield "Id", job.job_id
    yield "Kind", job.kind
    yield "Workspace", words.one_line(job.workspace)
    if job.groups:
        yield "Groups", ", ".join(job.groups)
        yield "Priority", f"{job.priority}, weight {job.weight}"
    if job.labels:
        yield "Labels", words.labels(sorted(job.labels.items()))
    if job.after:
        yield "After", words.dependencies(job)
    if job.maximum_attempts > 1:
        yield "Attempt", f"{job.attempt} of at most {job.maximum_attempts}"
    yield "Deadline", "none" if job.deadline_seconds is None else words.duration(job.deadline_seconds)
    yield "Engine", job.engine
    if job.session_id:
        yield "Session", job.session_id
    if job.exit_code is not None:
        yield "Exit status", str(job.exit_code)
    if job.signal is not None:
        yield "Signal", str(job.signal)
    if job.cpu_seconds is not None:
        yield "CPU time", words.duration(job.cpu_seconds)
    if job.max_rss_bytes is not None:
        yield "Memory", f"{words.size(job.max_rss_bytes)} at most in one process"
    if job.memory_peak_bytes is not None:
        yield "Memory, together", f"{words.size(job.memory_peak_bytes)} at most"
    if job.limits:
        yield "Limits", ", ".join(_limits(job.limits)) or "none"
    yield "Output", f"{words.size(job.stdout_bytes)} stdout, {words.size(job.stderr_bytes)} stderr"
    if job.cost_usd is not None:
        yield "Cost", f"${job.cost_usd:.4f}"
    for warning in job.warnings:
        yield "Warning", words.one_line(warning)


def _limits(limits: Mapping[str, Any]) -> Iterator[str]:
    if limits.get("memory_bytes"):
        yield f"memory {words.size(limits['memory_bytes'])}"
    if limits.get("cpus"):
        yield f"{limits['cpus']:g} CPUs"
    if limits.get("pids"):
        yield f"{limits['pids']} processes"
