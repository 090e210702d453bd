"""Why a job waits, as text. Pure."""

from __future__ import annotations

from typing import Final

from supervisor.model import Job

__all__ = ["ahead", "late", "unattended", "unfired", "why_it_waits"]

_REASONS: Final = {
    "held": "on hold, until it is released",
    "dependency": "for other jobs",
    "not_before": "for its time",
    "retry": "for the time of its next attempt",
    "paused": "its group is paused",
    "rate_limited": "for a usage limit",
    "budget": "for the budget of its group",
    "launching": "it is about to be launched",
    "no_launcher": "it may run, and no process is there to launch it",
}


def why_it_waits(job: Job) -> str | None:
    """Return why a job waits, in a few words; ``None`` for one that does not wait.

    A reason that this version does not know, such as the word of a cluster, is returned as it is.
    """
    if job.queue_reason is None or job.status.terminal:
        return None
    if job.queue_reason == "rate_limited" and job.next_attempt_at is not None:
        return f"for a usage limit, until {job.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC"
    if job.queue_reason == "limit":
        return f"for room in {' and '.join(job.groups) or 'its groups'}"
    return _REASONS.get(job.queue_reason, job.queue_reason)


def unattended(count: int) -> str:
    """Return the sentence, without its full stop, that jobs wait and no process is there to launch them."""
    jobs, them = ("1 job waits", "it") if count == 1 else (f"{count} jobs wait", "them")
    return f"{jobs}, and no process is there to launch {them}"


def unfired(count: int) -> str:
    """Return the sentence, without its full stop, that there are schedules and no process is there to fire them."""
    schedules, them = ("1 schedule", "it") if count == 1 else (f"{count} schedules", "them")
    return f"{schedules}, and no process is there to fire {them}"


def late(job: Job, since: str) -> str:
    """Return why a job is not launched yet whose supervisor lives; ``since`` is how long it has its slots."""
    return f"{why_it_waits(job)}; it has had its slots for {since}, and its supervisor has not launched it"


def ahead(job: Job) -> str | None:
    """Return how many jobs of the same groups are before a waiting one; ``None`` where it has no position."""
    match job.queue_position:
        case None:
            return None
        case 1:
            return "next in line"
        case 2:
            return "1 job ahead"
        case position:
            return f"{position - 1} jobs ahead"
