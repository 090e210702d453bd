"""Durations, sizes, command lines and outcomes as words for people, on a terminal and on a page. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from supervisor.jobs.queue_text import ahead, why_it_waits
from supervisor.states import Reason, State

if TYPE_CHECKING:
    from supervisor.model import Job, Result

__all__ = [
    "ago",
    "amount",
    "brief",
    "budget",
    "changed",
    "clean",
    "clock",
    "command_line",
    "dependencies",
    "duration",
    "labels",
    "milliseconds",
    "one_line",
    "outcome",
    "plural",
    "progress",
    "size",
    "thousands",
    "waiting",
]


def one_line(text: str) -> str:
    """Return ``text`` on a single line, without characters that control a terminal."""
    return clean(text).replace("\n", "\\n").replace("\t", "\\t")


def changed(result: Result) -> str | None:
    """Return a line about what a job has changed in its worktree; ``None`` if that is nothing, or not known."""
    changes, worktree = result.changes, result.job.worktree
    if changes is None or worktree is None or not (changes["files"] or changes["commits"]):
        return None
    commits = f", {plural(changes['commits'], 'commit')}" if changes["commits"] else ""
    size = f"{plural(changes['files'], 'file')} +{changes['insertions']} -{changes['deletions']}{commits}"
    where = f"in {one_line(worktree['path'])}, branch {worktree['branch']}"
    return f"job {result.job_id} has changed {size} {where}; see `supervisor worktree diff {result.job_id[:8]}`"


def clean(text: str) -> str:
    """Return ``text`` without characters that control a terminal, except tabs and newlines."""
    if text.isprintable():  # without control characters, the import, which takes 20 ms, is not needed
        return text
    from supervisor.text import redact

    return redact.clean(text)


def command_line(argv: Sequence[str]) -> str:
    """Return a command as a line for a shell."""
    return one_line(shlex.join(argv))


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def brief(seconds: float) -> str:
    """Return a duration in at most six characters, as long as it is below 100 days: ``12ms``, ``9.5s``, ``2m05s``."""
    if seconds < 0.9995:
        return f"{max(0, seconds) * 1000:.0f}ms"
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24}h"


def milliseconds(count: float | None) -> str:
    """Return milliseconds with three significant digits, without the unit; a dash for ``None``."""
    if count is None:
        return "-"
    return f"{count:.2f}" if count < 10 else f"{count:.1f}" if count < 100 else f"{count:.0f}"


def ago(when: datetime, now: datetime | None = None) -> str:
    """Return the time since ``when`` in its largest unit."""
    seconds = max(0, int(((now or datetime.now(UTC)) - when).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def clock(when: datetime) -> str:
    """Return a moment in the local time zone."""
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def size(count: float) -> str:
    """Return a number of bytes."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def amount(metric: str, count: float) -> str:
    """Return an amount of what a budget limits, with its unit."""
    match metric:
        case "usd":
            return f"${count:.2f}" if count >= 1 or not count else f"${count:.4f}"
        case "seconds":
            return duration(count)
        case _:
            return f"{count:,.0f} {metric}"


def budget(budget: Mapping[str, Any]) -> str:
    """Return a budget of a group in few words: ``$3.20 of $20.00/day``, with what is reserved for those that run."""
    metric = budget["metric"]
    used = amount(metric, budget["used"])
    reserved = f" + {amount(metric, budget['reserved'])}" if budget["reserved"] else ""
    window = " in total" if budget["window"] == "total" else f"/{budget['window']}"
    return f"{used}{reserved} of {amount(metric, budget['limit'])}{window}"


def plural(count: int, noun: str) -> str:
    """Return ``1 job``, ``2 jobs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def labels(given: Iterable[tuple[str, str]]) -> str:
    """Return labels as the command line takes them."""
    return one_line(" ".join(f"{name}={value}" for name, value in given))


def outcome(job: Job) -> str:
    """Return the state of a job, with its reason or exit status where the state alone is not clear."""
    if job.paused:
        return f"{job.status.value} (paused)"
    if not job.status.terminal:
        return f"{job.status.value} (stopping: {job.stop_requested})" if job.stop_requested else job.status.value
    if job.status in {State.CANCELLED, State.TIMEOUT} or job.reason is None or job.reason is Reason.EXITED:
        return job.status.value
    if job.reason is Reason.NONZERO_EXIT and job.exit_code is not None:
        return f"{job.status.value} (exit status {job.exit_code})"
    if job.reason is Reason.KILLED_BY_SIGNAL and job.signal is not None:
        return f"{job.status.value} (signal {job.signal})"
    return f"{job.status.value} ({job.reason.value.replace('_', ' ')})"


def waiting(job: Job) -> str | None:
    """Return why a job waits, and how many are before it; ``None`` for one that does not wait."""
    why = why_it_waits(job)
    return None if why is None else one_line("; ".join(filter(None, (why, ahead(job)))))


def dependencies(job: Job) -> str:
    """Return the jobs that a job waits for, as ``--after`` takes them."""
    return one_line(" ".join(f"{each['when']}:{each['job_id']}" for each in job.after))


def progress(reported: Mapping[str, Any] | None) -> str | None:
    """Return the progress of a running job in a few words; ``None`` if its output reports none.

    Shows the fields that the kinds of agents report. A ``+`` follows a number that is a lower bound.
    """
    if reported is None:
        return None
    more = "+" if reported.get("partial") else ""
    words: list[str] = []
    if turn := _number(reported.get("turn")):
        words.append(f"turn {turn:.0f}{more}")
    words += [one_line(text) for name in ("tool", "note") if isinstance(text := reported.get(name), str) and text]
    tokens = sum(_number(reported.get(name)) for name in ("input_tokens", "output_tokens"))
    if tokens:
        words.append(f"{thousands(tokens)}{more} tokens")
    if cost := _number(reported.get("cost_usd")):
        words.append(f"{cost:.4f} USD")
    if reported.get("finished") is True:
        words.append("answered")
    return ", ".join(words) or None


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and 0 <= value < 1e18 else 0


def thousands(count: float) -> str:
    """Return a count with at most four significant digits: ``950``, ``12.3k``, ``4.5M``."""
    for unit in ("", "k", "M"):
        if count < 999.95:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}G"
