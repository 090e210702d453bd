"""The filters of the templates: a job, a group, a time or a text as it stands on a page. Pure.

Text of jobs loses its control characters, and is cut; what is left is escaped by the templates.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from supervisor.jobs import queue_text, words
from supervisor.model import GroupInfo, Job, to_ns
from supervisor.states import Reason, State

__all__ = ["FILTERS", "sentence"]

_MAX_COMMAND: Final = 240
_MAX_BUDGETS: Final = 4


def _cut(text: object, most: int) -> str:
    line = words.one_line(str(text)[: 4 * most])
    return line if len(line) <= most else line[: most - 1] + "…"


def _command(argv: tuple[str, ...]) -> str:
    shown: list[str] = []
    length = 0
    for word in argv:
        shown.append(word[:_MAX_COMMAND])
        length += len(word)
        if length > _MAX_COMMAND:
            break
    return _cut(words.command_line(shown), _MAX_COMMAND)


def _state_word(job: Job) -> str:
    """Return the state in one word, as a job that is paused or being stopped has one more."""
    if job.reason is Reason.LOST:
        return "lost"
    if job.paused:
        return "paused"
    return "stopping" if job.stop_requested and not job.status.terminal else str(job.status.value)


def _how(job: Job) -> str:
    """Return how a job ended, as far as its state does not say so."""
    if job.reason in {None, Reason.EXITED, Reason.CANCELLED, Reason.DEADLINE}:
        return ""
    if job.reason is Reason.NONZERO_EXIT and job.exit_code is not None:
        return f"exit status {job.exit_code}"
    if job.reason is Reason.KILLED_BY_SIGNAL and job.signal is not None:
        return _signal(job.signal)
    return str(job.reason.value if job.reason else "").replace("_", " ")


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _why(job: Job) -> str:
    """Return why a job needs attention: how it ended, and the last that it said."""
    how = _how(job) or ("its deadline has passed" if job.status is State.TIMEOUT else "")
    detail = "" if job.detail is None else job.detail.strip().splitlines()[-1] if job.detail.strip() else ""
    return ": ".join(filter(None, (how, detail)))


def _number(progress: Mapping[str, Any], *names: str) -> float:
    found = [progress.get(name) for name in names]
    return sum(each for each in found if isinstance(each, int | float) and 0 <= each < 1e18)


def _more(progress: Mapping[str, Any]) -> str:
    return "+" if progress.get("partial") else ""  # what was read so far, from the last part of the output


def _turn(progress: Mapping[str, Any]) -> str:
    turn = _number(progress, "turn")
    return f"{turn:.0f}{_more(progress)}" if turn else ""


def _tokens(progress: Mapping[str, Any]) -> str:
    count = _number(progress, "input_tokens", "output_tokens")
    return words.thousands(count) + _more(progress) if count else ""


def _tool(progress: Mapping[str, Any]) -> str:
    found = next(filter(None, (progress.get(name) for name in ("tool", "note"))), "")
    return _cut(found, 80)


def _cost(progress: Mapping[str, Any]) -> str:
    cost = _number(progress, "cost_usd")
    return _usd(cost) if cost else ""


def _usd(cost: float) -> str:
    return f"${cost:.4f}" if 0 < cost < 0.1 else f"${cost:,.2f}"


def _share(group: GroupInfo) -> int:
    return min(100, round(100 * group.running / group.limit)) if group.limit else 0


def _elapsed(seconds: float) -> str:
    """Return a time that goes on, in whole seconds: the script of the page counts on from it."""
    whole = max(0, math.floor(seconds))
    return f"{whole}s" if whole < 100 else words.brief(whole)


def _left(seconds: float) -> str:
    return f"{_elapsed(seconds)} left" if seconds >= 0 else f"over by {_elapsed(-seconds)}"


def sentence(text: str) -> str:
    """Return a text on one line, with a capital letter and a full stop."""
    line = words.one_line(text)
    return line[:1].upper() + line[1:] + "." * (bool(line) and line[-1] not in ".!?\u2026")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ms(moment: datetime) -> int:
    return to_ns(moment) // 1_000_000


def _short_clock(moment: datetime) -> str:
    local, today = moment.astimezone(), datetime.now(UTC).astimezone()
    return f"{local:%H:%M}" if local.date() == today.date() else f"{local:%Y-%m-%d %H:%M}"


def _precise(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]


_PLAIN: Final = {
    "user": "a user",
    "failures": "failures in a row",
    "reboot": "a reboot",
    "rate_limited": "a usage limit",
}


def _ago(moment: datetime) -> str:
    return f"{words.ago(moment)} ago"


def _plain(by: str) -> str:
    return _PLAIN.get(by, _cut(by, 40))


def _second_ms(moment: datetime) -> int:
    return _ms(moment) // 1000 * 1000


def _seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def _daily_budgets(groups: Sequence[GroupInfo]) -> list[tuple[GroupInfo, Mapping[str, Any]]]:
    """Return the first budgets in dollars for a day, each with its group."""
    found = [(group, each) for group in groups for each in group.budgets]
    return [pair for pair in found if (pair[1]["metric"], pair[1]["window"]) == ("usd", "day")][:_MAX_BUDGETS]


def _sorted_labels(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(labels.items())


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "ago": _ago,
    "brief": words.brief,
    "clock": words.clock,
    "command": _command,
    "cost": _cost,
    "cut": _cut,
    "daily_budgets": _daily_budgets,
    "duration": words.duration,
    "elapsed": _elapsed,
    "how": _how,
    "iso": _iso,
    "left": _left,
    "ms": _ms,
    "plain": _plain,
    "precise": _precise,
    "second_ms": _second_ms,
    "seconds": _seconds,
    "share": _share,
    "sentence": sentence,
    "short_clock": _short_clock,
    "size": words.size,
    "sorted_labels": _sorted_labels,
    "state_word": _state_word,
    "thousands": words.thousands,
    "tokens": _tokens,
    "tool": _tool,
    "turn": _turn,
    "unattended": queue_text.unattended,
    "usd": _usd,
    "waiting": words.waiting,
    "why": _why,
}
