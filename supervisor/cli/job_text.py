"""What there is to say about one job, as lines for people. Pure, and without click, for ``plain``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from supervisor.cli import text
from supervisor.jobs import queue_text
from supervisor.model.job import Job
from supervisor.states import Reason, State

__all__ = ["Style", "describe"]

Style: TypeAlias = Callable[[str, str], str]
"""Returns a text in a colour, by its name."""


def _unstyled(text: str, colour: str) -> str:
    del colour
    return text


def describe(job: Job, late: float | None = None, style: Style = _unstyled) -> list[str]:
    """Return the facts about a job, a line each.

    ``late``: for how many seconds it has its slots and is not launched. ``style`` colours a text, given the colour.
    """
    finished = job.status.terminal
    now = datetime.now(UTC)
    took = text.duration(job.elapsed_ms / 1000)
    head = style(text.outcome(job), text.colour(job))
    since = {State.QUEUED: "since", State.RUNNING: "for"}.get(job.status, "after")
    command_known = job.started_at is not None or not finished
    usage = [
        None if job.cpu_seconds is None else f"{text.duration(job.cpu_seconds)} of CPU time",
        None if job.max_rss_bytes is None else f"{text.size(job.max_rss_bytes)} of memory in one process at most",
        None if job.memory_peak_bytes is None else f"{text.size(job.memory_peak_bytes)} in all at most",
        None if job.cost_usd is None else f"{job.cost_usd:.4f} USD",
    ]
    facts = [
        ("Job", job.job_id),
        ("Status", f"{head}, {since} {took}" if command_known else head),
        ("Waiting", text.waiting(job) if late is None else queue_text.late(job, text.duration(late))),
        ("After", None if finished or job.started_at else text.dependencies(job) or None),
        ("Not before", None if finished or job.started_at else _not_before(job, now)),
        ("Attempt", _attempt(job, now)),
        ("Progress", text.progress(job.progress)),
        ("Detail", None if job.detail is None else text.one_line(job.detail)),
        ("Command", text.command_line(job.argv)),
        ("Workspace", text.one_line(job.workspace)),
        ("Kind", text.one_line(job.kind)),
        ("Groups", text.one_line(" ".join(job.groups)) or None),
        ("Labels", text.labels(job.labels.items()) or None),
        ("Limits", _limits(job)),
        ("Process", None if finished or job.pid is None else str(job.pid)),
        ("Input", None if finished else _input(job)),
        ("Exit", _exit(job)),
        ("Output", f"{text.size(job.stdout_bytes)} on stdout, {text.size(job.stderr_bytes)} on stderr"),
        ("Usage", ", ".join(filter(None, usage)) or None),
        ("Created", f"{text.clock(job.created_at)}, {text.ago(job.created_at, now)} ago"),
        ("Ended", None if job.completed_at is None else f"{text.clock(job.completed_at)}, {_ended(job, now)}"),
        ("Deadline", _deadline(job, now)),
    ]
    return text.pairs(facts)


def _limits(job: Job) -> str | None:
    held = job.limits or {}
    memory, cpus, pids = (held.get(name) for name in ("memory_bytes", "cpus", "pids"))
    words = [
        None if memory is None else f"{text.size(memory)} of memory",
        None if cpus is None else f"{cpus:g} processors",
        None if pids is None else f"{pids} processes",
    ]
    return ", ".join(filter(None, words)) or None


def _attempt(job: Job, now: datetime) -> str | None:
    if job.series_id is None:
        return None
    facts = [f"{job.attempt} of {job.maximum_attempts}"]
    if job.retry_of is not None:
        facts.append(f"after {job.retry_of}")
    if job.retried_by is not None:
        facts.append(f"followed by {job.retried_by}")
    elif job.next_attempt_at is not None and job.next_attempt_at > now:
        facts.append(f"in {text.duration((job.next_attempt_at - now).total_seconds())}")
    return ", ".join(facts)


def _not_before(job: Job, now: datetime) -> str | None:
    if job.not_before is None:
        return None
    left = (job.not_before - now).total_seconds()
    return f"{text.clock(job.not_before)}, {f'in {text.duration(left)}' if left > 0 else 'which has passed'}"


def _exit(job: Job) -> str | None:
    if not job.status.terminal or job.reason is Reason.LAUNCH_FAILED:
        return None
    if job.signal is not None:
        return f"ended by signal {job.signal}"
    return "unknown" if job.exit_code is None else f"status {job.exit_code}"


def _ended(job: Job, now: datetime) -> str:
    ended = f"{text.ago(job.completed_at or now, now)} ago"
    if job.expires_at is None:
        return ended
    left = (job.expires_at - now).total_seconds()
    return f"{ended}; forgotten in {text.duration(max(0, left))}"


def _input(job: Job) -> str | None:
    """Return where a message to the job goes, if it takes any."""
    if job.pty:
        return "a terminal"
    return "stdin stays open" if job.stdin_open else None


def _deadline(job: Job, now: datetime) -> str:
    if job.deadline_seconds is None:
        return "none"
    whole = text.duration(job.deadline_seconds)
    if job.status.terminal:
        return f"{whole} from its start{', which has passed' if job.status is State.TIMEOUT else ''}"
    if job.deadline_at is None:
        return f"{whole} from its start"
    left = (job.deadline_at - now).total_seconds()
    return f"in {text.duration(left)} ({whole} from its start)" if left > 0 else f"passed ({whole} from its start)"
