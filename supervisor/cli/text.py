"""Durations, sizes, command lines and outcomes as people read them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from supervisor.model import Job
from supervisor.states import Reason, State

__all__ = [
    "COLOURS",
    "ago",
    "clean",
    "clock",
    "columns",
    "command_line",
    "duration",
    "labels",
    "milliseconds",
    "one_line",
    "outcome",
    "pairs",
    "plural",
    "progress",
    "size",
]

COLOURS: Final = {
    State.QUEUED: "yellow",
    State.RUNNING: "cyan",
    State.DONE: "green",
    State.FAILED: "red",
    State.CANCELLED: "magenta",
    State.TIMEOUT: "red",
}
"""By names that both click and rich know."""

_GAP: Final = "  "


def one_line(text: str) -> str:
    """Return ``text`` on a single line, with nothing in it that a terminal would act upon."""
    return clean(text).replace("\n", "\\n").replace("\t", "\\t")


def clean(text: str) -> str:
    """Return ``text`` without anything that a terminal would act upon but tabs and newlines."""
    if text.isprintable():  # then there is nothing of the kind in it, and 20 ms of imports are saved
        return text
    from supervisor.text import redact

    return redact.clean(text)


def command_line(argv: Sequence[str]) -> str:
    """Return a command as one could type it into a shell."""
    return one_line(shlex.join(argv))


def duration(seconds: float) -> str:
    """Return a length of time in the two largest units that matter."""
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


def milliseconds(count: float | None) -> str:
    """Return a number of milliseconds in three digits that matter, without the unit; a dash for none."""
    if count is None:
        return "-"
    return f"{count:.2f}" if count < 10 else f"{count:.1f}" if count < 100 else f"{count:.0f}"


def ago(when: datetime, now: datetime | None = None) -> str:
    """Return how long ago something was, in its largest unit."""
    seconds = max(0, int(((now or datetime.now(UTC)) - when).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def clock(when: datetime) -> str:
    """Return a moment in the time zone of whoever reads it."""
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


def plural(count: int, noun: str) -> str:
    """Return ``1 job``, ``2 jobs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def labels(given: Iterable[tuple[str, str]]) -> str:
    """Return labels as they are given on the command line."""
    return one_line(" ".join(f"{name}={value}" for name, value in given))


def outcome(job: Job) -> str:
    """Return the state of a job and what is needed to make sense of it, in a few words."""
    if not job.status.terminal:
        return f"{job.status.value} (stopping: {job.stop_requested})" if job.stop_requested else job.status.value
    if job.status in {State.CANCELLED, State.TIMEOUT} or job.reason is None or job.reason is Reason.EXITED:
        return job.status.value
    if job.reason is Reason.NONZERO_EXIT and job.exit_code is not None:
        return f"{job.status.value} (exit status {job.exit_code})"
    if job.reason is Reason.KILLED_BY_SIGNAL and job.signal is not None:
        return f"{job.status.value} (signal {job.signal})"
    return f"{job.status.value} ({job.reason.value.replace('_', ' ')})"


def progress(said: Mapping[str, Any] | None) -> str | None:
    """Return how far a running job is in a few words; ``None`` when its output does not say.

    Of what a kind may report, the names that the agents have are known here. A ``+`` stands behind a
    number that is a lower bound.
    """
    if said is None:
        return None
    more = "+" if said.get("partial") else ""
    words: list[str] = []
    if turn := _number(said.get("turn")):
        words.append(f"turn {turn:.0f}{more}")
    words += [one_line(text) for name in ("tool", "note") if isinstance(text := said.get(name), str) and text]
    tokens = sum(_number(said.get(name)) for name in ("input_tokens", "output_tokens"))
    if tokens:
        words.append(f"{_thousands(tokens)}{more} tokens")
    if cost := _number(said.get("cost_usd")):
        words.append(f"{cost:.4f} USD")
    if said.get("finished") is True:
        words.append("answered")
    return ", ".join(words) or None


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and 0 <= value < 1e18 else 0


def _thousands(count: float) -> str:
    for unit in ("", "k", "M"):
        if count < 999.95:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}G"


def pairs(facts: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return names and values as lines, the values below each other; those without a value are left out."""
    held = [(name, value) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in held), default=0)
    return [f"{name:<{width}}{_GAP}{value}" for name, value in held]


def columns(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Return rows of cells as lines of aligned columns, without tabs and trailing blanks."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(_GAP.join(cells).rstrip())
    return lines
