"""The failures of an agent's run, with a message and a repair for each, and the verdicts about them.

The kinds that run an agent share this module: each kind recognises the failures by itself. The codes are part of the
public contract.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import attrs

from supervisor.interpret import Outcome, Verdict, exit_verdict
from supervisor.states import Reason

__all__ = [
    "ANSWER_WRITTEN",
    "FAILED_LATER",
    "FAILURES",
    "UNKNOWN_STATUS",
    "Failure",
    "at_rest",
    "ended_by_signal",
    "failed",
    "known_details",
    "not_started",
    "resets_at",
    "retry_after_ms",
]

UNKNOWN_STATUS: Final = "The exit status is not known; the output is complete and says success."
ANSWER_WRITTEN: Final = "A complete answer had already been written; it is in the stdout of the job."
FAILED_LATER: Final = "The answer is in `supervisor logs JOB`; find out what made the command fail after it."
_SIGNALS: Final[Mapping[int, str]] = {129: "SIGHUP", 130: "SIGINT", 143: "SIGTERM"}
"""By the exit status that an agent chooses when this signal ends it."""


@attrs.frozen(slots=True, kw_only=True)
class Failure:
    """What a code means to a caller.

    Attributes:
        message: what happened; ``{cli}`` is replaced by the name of the program.
        repair: what to do.
        retryable: whether the same request under a new key may succeed later.
        code: the code of the contract, where it is not the name of the failure.
    """

    message: str
    repair: str
    retryable: bool = False
    code: str | None = None

    def for_cli(self, cli: str) -> Failure:
        """Return the failure with the program's name filled in."""
        return attrs.evolve(self, message=self.message.format(cli=cli), repair=self.repair.format(cli=cli))


FAILURES: Final[Mapping[str, Failure]] = {
    "claude_not_found": Failure(
        message="The `claude` program was not found.",
        repair="Install Claude Code where the job runs, or give its full path as the command.",
    ),
    "codex_not_found": Failure(
        message="The `codex` program was not found.",
        repair="Install Codex where the job runs, or give its full path as the command.",
    ),
    "claude_auth_required": Failure(
        message="Claude Code is not logged in where the job runs.",
        repair="Run `claude` there once and use /login, or pass ANTHROPIC_API_KEY to the job.",
    ),
    "codex_auth_required": Failure(
        message="Codex is not logged in where the job runs.",
        repair="Run `codex login` there once, or pass CODEX_API_KEY to the job.",
    ),
    "api_key_invalid": Failure(
        message="The API refused the key that {cli} used.",
        repair="Give the job a valid API key, or take the key out of its environment to use the login instead.",
    ),
    "claude_permission_error": Failure(
        message="{cli} was not permitted to do what was asked.",
        repair="Check what the account, the key and the permission mode of the command allow.",
    ),
    "api_overloaded": Failure(
        message="The API is overloaded.",
        repair="Start the same request again in a few minutes, under a new idempotency key.",
        retryable=True,
    ),
    "rate_limited": Failure(
        message="A rate or usage limit of the account was reached.",
        repair="Wait until the limit resets, then start the same request under a new idempotency key.",
        retryable=True,
    ),
    "billing_error": Failure(
        message="The account that {cli} used is out of credit, or of the extra usage that it allows itself.",
        repair=(
            "Add credit or raise the limit in the billing settings of the account, or use another account or key; "
            "then start the same request under a new idempotency key. The request itself is in order."
        ),
    ),
    "api_error": Failure(
        message="The API answered with an error.",
        repair="Read the detail: the request itself has to change before it can succeed.",
    ),
    "max_turns": Failure(
        message="{cli} used up its turns before it had an answer.",
        repair="Raise --max-turns, or ask for less; the session in the details can be resumed.",
    ),
    "budget_exceeded": Failure(
        message="{cli} used up its budget before it had an answer.",
        repair="Raise --max-budget-usd, or ask for less; the session in the details can be resumed.",
    ),
    "cli_contract_changed": Failure(
        message="The installed {cli} does not accept this command line, or answers in a way not known here.",
        repair="Compare the command with `{cli} --help`, and run `supervisor doctor` for the versions that are known.",
    ),
    "invalid_arguments": Failure(
        message="{cli} was started without something it needs.",
        repair="Read the detail, and complete the command.",
    ),
    "session_not_found": Failure(
        message="The session that {cli} was to go on with is not there.",
        repair=(
            "Resume in the directory and as the user that the session belongs to, or start a new session. "
            "A run that never reached its model leaves none."
        ),
        code="invalid_arguments",
    ),
    "job_failed": Failure(
        message="{cli} reported that it failed.",
        repair="Read the detail and the log (`supervisor logs JOB --stderr`).",
    ),
    "empty_answer": Failure(
        message="{cli} reports success, and its answer is empty.",
        repair="Resume the session in the details and ask for the answer.",
        code="invalid_output",
    ),
    "invalid_output": Failure(
        message="{cli} ended without an answer that can be read.",
        repair="Look at the output (`supervisor logs JOB`), and check the output options of the command.",
    ),
}

# The same code, but it may pass by itself: a failing server or connection.
_AT_REST: Final = Failure(
    message="The API could not be reached, or failed by itself.",
    repair="Start the same request again later, under a new idempotency key.",
    retryable=True,
)

_UNITS_MS: Final[Mapping[str, int]] = {"ms": 1, "mi": 60_000, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART: Final = r"\d{1,9}(?:\.\d{1,3})?\s?(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)\b"
_WAIT: Final = re.compile(
    rf"\b(?:(?:again|retry|retrying|wait|retry-after:?)\s(?:in\s|after\s)?|resets?\sin\s)((?:{_PART}[\s,]{{0,2}}){{1,4}})",
    re.IGNORECASE,
)
_CLOCK: Final = re.compile(
    r"\bresets?\s(?:at\s|on\s)?(?:(?P<month>[a-z]{3})[a-z]{0,6}\s(?P<day>\d{1,2}),?\s(?:at\s)?)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?\s?(?P<half>[ap]m)?\s?\((?P<zone>[a-z0-9_+-]{1,30}(?:/[a-z0-9_+-]{1,30}){0,2})\)",
    re.IGNORECASE,
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ONE_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s?(ms|mi|[smhd])", re.IGNORECASE)
_READ_CHARACTERS: Final = 4096


def at_rest(failure: Failure) -> Failure:
    """Return ``failure`` as one of the server or the connection, which may pass by itself."""
    return attrs.evolve(_AT_REST) if failure is FAILURES["api_error"] else attrs.evolve(failure, retryable=True)


def retry_after_ms(text: str) -> int | None:
    """Return the time to wait that ``text`` names ("try again in 1 minute 20 seconds"), or ``None``."""
    match = _WAIT.search(text[:_READ_CHARACTERS])
    if match is None:
        return None
    total = 0.0
    for number, unit in _ONE_PART.findall(match[1]):
        name = unit.lower()
        # "mi" is the beginning of both "minutes" and "milliseconds".
        total += float(number) * (1 if name == "mi" and "milli" in match[1].lower() else _UNITS_MS[name])
    return round(total)


def resets_at(text: str, after_ns: int) -> int | None:
    """Return the moment that ``text`` names by a clock ("resets 8pm (Europe/Berlin)"), in seconds since the epoch.

    It is the first one after ``after_ns``, in nanoseconds since the epoch. ``None`` if the text has no time, or no
    known time zone: the time zone is not guessed.
    """
    match = _CLOCK.search(text[:_READ_CHARACTERS])
    if match is None or not after_ns:
        return None
    from zoneinfo import ZoneInfo

    try:
        now = datetime.fromtimestamp(after_ns // 1_000_000_000, ZoneInfo(match["zone"]))
        hour = int(match["hour"])
        if match["half"]:
            hour = hour % 12 + 12 * (match["half"].lower() == "pm")
        moment = now.replace(hour=hour, minute=int(match["minute"] or 0), second=0)
        if match["month"]:
            moment = moment.replace(month=_MONTHS.index(match["month"].lower()) + 1, day=int(match["day"]))
            if moment < now - timedelta(days=1):
                moment = moment.replace(year=moment.year + 1)
        elif moment <= now:
            moment += timedelta(days=1)  # of the calendar: the same clock time in the same zone
    except (LookupError, ValueError, OverflowError, OSError):  # no such zone, no such day
        return None
    return int(moment.timestamp())


def not_started(outcome: Outcome, cli: str) -> Verdict:
    """Return the verdict for a program that could not be started."""
    verdict = exit_verdict(outcome)
    if outcome.launch_status != 127:
        return verdict
    code = f"{cli}_not_found"
    return attrs.evolve(verdict, code=code, message=FAILURES[code].message, repair=FAILURES[code].repair)


def ended_by_signal(verdict: Verdict, cli: str, exit_code: int | None) -> Verdict | None:
    """Return the verdict for an exit status that stands for a signal, ``None`` for any other."""
    signal = _SIGNALS.get(exit_code or 0)
    if signal is None:
        return None
    message = f"{cli} was ended by {signal} from outside (it exits with status {exit_code} then)."
    detail = verdict.detail or f"ended by {signal} from outside"
    return attrs.evolve(verdict, message=message, retryable=True, detail=detail)


def failed(failure: Failure, code: str, reason: Reason, **rest: Any) -> Verdict:
    """Return the verdict for a failure, which is named ``code``; ``rest`` are the other fields of the verdict."""
    return Verdict(
        reason=reason,
        code=None if code == "job_failed" else failure.code or code,
        message=failure.message,
        repair=failure.repair,
        retryable=failure.retryable,
        **rest,
    )


def known_details(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that hold something, redacted and bounded, for the details of an error."""
    from supervisor.interpret.answer import bounded

    return {name: bounded(value, 4000, 20) for name, value in found.items() if value not in (None, [], {})}
