"""The failures of an agent's run, with a message and a repair for each, and the verdicts about them.

The kinds that run an agent share this module: each kind recognises the failures by itself. The codes are part of the
public contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.interpret import Outcome, Verdict, exit_verdict
from supervisor.interpret.resets import find_reset, retry_after_ms
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
    "with_reset",
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


_LIMITS: Final = frozenset({"rate_limited", "billing_error"})
"""Failures that may pass by themselves at a moment that the output names."""


def at_rest(failure: Failure) -> Failure:
    """Return ``failure`` as one of the server or the connection, which may pass by itself."""
    return attrs.evolve(_AT_REST) if failure is FAILURES["api_error"] else attrs.evolve(failure, retryable=True)


def with_reset(
    failure: Failure, code: str, field: float | None, texts: tuple[str, ...], outcome: Outcome
) -> tuple[Failure, int | None, dict[str, Any]]:
    """Return a failure with the time to wait, in milliseconds, and with what its details say about a limit's end.

    Args:
        failure: to which the limit belongs, if it is one.
        code: its name.
        field: when the limit ends, in seconds since the epoch, by a field of the output.
        texts: messages of the run, which may name the time.
        outcome: of the run, which says when it wrote the messages, and when it ended.
    """
    wait = retry_after_ms(texts[-1]) if failure.retryable else None
    reset = find_reset(field, texts, outcome.said_ns) if code in _LIMITS else None
    if reset is None or (reset.source == "guess" and code != "rate_limited"):
        return failure, wait, {}
    if reset.source != "guess":
        wait = max(0, reset.at * 1000 - outcome.ended_ns // 1_000_000) if outcome.ended_ns else None
    return attrs.evolve(failure, retryable=True), wait, reset.details()


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
