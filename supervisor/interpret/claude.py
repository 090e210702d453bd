"""The ``claude`` kind: what a run of ``claude -p --output-format json`` (or ``stream-json``) means.

Done only when all four hold: exit status 0, an envelope that parses, ``subtype`` success and
``is_error`` false. None of them is enough alone. Where the exit status is honestly unknown
because everything of ours was killed, a complete success envelope still is the answer that
somebody paid for. What the program is assumed to do stands in ``claude_cli``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import attrs

from supervisor.interpret import Detail, Outcome, Value, Verdict, exit_verdict, interrupted_reason
from supervisor.interpret.claude_cli import (
    EXIT_CODES_OF_SIGNALS,
    NAME,
    Envelope,
    Hints,
    code_of_stderr,
    names_no_session,
    read_envelope,
    read_hints,
)
from supervisor.interpret.failures import FAILURES, Failure, at_rest, resets_at, retry_after_ms
from supervisor.states import Reason
from supervisor.text.json_lines import Reading

if TYPE_CHECKING:
    from supervisor.interpret.progress import ClaudeProgress

__all__ = ["Claude"]

_UNKNOWN_STATUS: Final = "The exit status is not known; the output is complete and says success."
_LAST_WORDS: Final = "The result message is empty; the answer is the last message of the agent."
_NO_WORDS: Final = "the result message says success and holds no answer, and no other message does"
_KEEP_MESSAGES: Final = "`--output-format stream-json --verbose` keeps what was said before the last tool call."
_MORE_TO_COME: Final = "more was to come after the last result message"
_NEEDS_JSON: Final = (
    "Start the command with `--output-format json` (or `stream-json --verbose`), and look at the output."
)


class Claude:
    """Judges a run of Claude Code by its envelope and its exit status together."""

    name = NAME

    def verdict(self, outcome: Outcome) -> Verdict:
        """Say whether there is an answer, what it cost, and what to do when there is none."""
        if outcome.launch_error is not None:
            return _not_started(outcome)
        envelope, reading = _read(outcome)
        stopped = interrupted_reason(outcome)
        if stopped is not None:
            return _interrupted(outcome, envelope, stopped)
        if envelope is None:
            return _without_envelope(outcome, reading)
        if envelope.success and (outcome.exit_code == 0 or not outcome.known):
            return _well(outcome, envelope)
        if not envelope.understood:
            return _not_understood(outcome, envelope)
        if envelope.success:
            return _success_but_bad_exit(outcome, envelope)
        return _reported(outcome, envelope)

    def value(self, outcome: Outcome) -> Value:
        """Return the normalised answer, uncut unless it is larger than anybody would read."""
        return _answer(outcome, None)

    def render(self, outcome: Outcome, detail: Detail) -> Value:
        """Return the normalised answer at ``detail``."""
        return _answer(outcome, detail)

    def progress(self) -> ClaudeProgress:
        """Return a reader for the lines of ``stream-json``."""
        from supervisor.interpret.progress import ClaudeProgress

        return ClaudeProgress()


def _read(outcome: Outcome) -> tuple[Envelope | None, Reading]:
    """Read the envelope once per outcome."""
    found: tuple[Envelope | None, Reading] | None = outcome.memo.get(NAME)
    if found is None:
        found = read_envelope(outcome.read_stdout())
        outcome.memo[NAME] = found
    return found


def _answer(outcome: Outcome, detail: Detail | None) -> Value:
    from supervisor.interpret.answer import bounds_for, build_answer

    envelope, _ = _read(outcome)
    if envelope is None:
        envelope = Envelope({})
    facts = {
        "session_id": envelope.session_id,
        "model": envelope.model,
        "usage": envelope.usage,
        "model_usage": envelope.model_usage,
        "cost_usd": envelope.cost_usd,
        "num_turns": envelope.num_turns,
        "duration_ms": envelope.duration_ms,
        "permission_denials": envelope.permission_denials,
    }
    structured = envelope.structured_output
    return Value(value=build_answer(envelope.text, structured=structured, facts=facts, bounds=bounds_for(detail)))


def _well(outcome: Outcome, envelope: Envelope) -> Verdict:
    """Nothing speaks against the run; there is an answer, or it is said that there is none."""
    if envelope.answered and (outcome.known or not envelope.followed):
        return Verdict(reason=Reason.EXITED, detail=_remark(outcome, envelope), cost_usd=envelope.cost_usd)
    if outcome.known:
        failure = FAILURES["empty_answer"]
        failure = attrs.evolve(failure, repair=f"{failure.repair} {_KEEP_MESSAGES}")
        return _failed(
            outcome, Reason.INVALID_OUTPUT, "empty_answer", detail=_NO_WORDS, envelope=envelope, failure=failure
        )
    verdict = _by_exit(outcome)
    detail = verdict.detail or (_MORE_TO_COME if envelope.followed else _NO_WORDS)
    return attrs.evolve(verdict, detail=detail, cost_usd=envelope.cost_usd, details=_details(envelope, Hints()))


def _remark(outcome: Outcome, envelope: Envelope) -> str | None:
    """Say what the caller of a job that is done should know all the same."""
    from supervisor.text.redact import excerpt

    remarks: list[str] = []
    if not outcome.known:
        remarks.append(_UNKNOWN_STATUS)
    if envelope.last_words is not None:
        remarks.append(_LAST_WORDS)
    if envelope.permission_denials:
        tools = excerpt(", ".join(envelope.denied_tools), 100)
        remarks.append(f"{len(envelope.permission_denials)} tool call(s) were not permitted: {tools}.")
    return " ".join(remarks) or None


def _details(envelope: Envelope | None, hints: Hints) -> dict[str, Any]:
    """Carry over what the envelope of a failed run knows: money and sessions are not lost with the answer."""
    from supervisor.interpret.answer import bounded
    from supervisor.text.redact import excerpt

    if envelope is None:
        return {} if hints.session_id is None else {"session_id": excerpt(hints.session_id, 100)}
    found: dict[str, Any] = {
        **envelope.facts,
        "session_id": envelope.session_id or hints.session_id,
        "num_turns": envelope.num_turns,
        "cost_usd": envelope.cost_usd,
        "model": envelope.model,
        "usage": envelope.usage,
        "model_usage": envelope.model_usage,
        "permission_denials": envelope.permission_denials,
        "structured_output": envelope.structured_output,
    }
    return {name: bounded(value, 4000, 20) for name, value in found.items() if value not in (None, [], {})}


def _failed(
    outcome: Outcome,
    reason: Reason,
    code: str,
    *,
    detail: str | None,
    envelope: Envelope | None = None,
    hints: Hints | None = None,
    failure: Failure | None = None,
) -> Verdict:
    hints = Hints() if hints is None else hints
    failure = (FAILURES[code] if failure is None else failure).for_cli(NAME)
    wait, moment = None, None
    if failure.retryable or code == "billing_error":
        wait, moment = _when(outcome, envelope, hints, detail)
    details = _details(envelope, hints)
    if moment is not None:
        details["resets_at"] = moment
        failure = attrs.evolve(failure, retryable=True)
    return Verdict(
        reason=reason,
        code=None if code == "job_failed" else failure.code or code,
        message=failure.message,
        repair=failure.repair,
        retryable=failure.retryable,
        retry_after_ms=wait,
        detail=detail,
        cost_usd=None if envelope is None else envelope.cost_usd,
        details=details,
    )


def _when(
    outcome: Outcome,
    envelope: Envelope | None,
    hints: Hints,
    detail: str | None,
) -> tuple[int | None, str | None]:
    """Return the time to wait and the moment that ends it, as far as the output tells."""
    resets = hints.resets_at if hints.resets_at is not None else envelope.resets_at if envelope else None
    if resets is None and envelope is not None:
        resets = resets_at(envelope.message or "", outcome.ended_ns)
    if resets is None:
        return retry_after_ms(detail or ""), None
    try:
        moment = datetime.fromtimestamp(resets, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None, None
    wait = max(0, resets * 1000 - outcome.ended_ns // 1_000_000) if outcome.ended_ns else None
    return wait, moment


def _not_started(outcome: Outcome) -> Verdict:
    verdict = exit_verdict(outcome)
    if outcome.launch_status != 127:
        return verdict
    failure = FAILURES["claude_not_found"]
    return attrs.evolve(verdict, code="claude_not_found", message=failure.message, repair=failure.repair)


def _interrupted(outcome: Outcome, envelope: Envelope | None, stopped: Reason) -> Verdict:
    """The state is settled; what was spent and how to go on is still worth telling."""
    hints = read_hints(outcome.read_stdout()) if envelope is None else Hints()
    detail: str | None = None
    if envelope is not None and envelope.success and envelope.answered and not envelope.followed:
        detail = "A complete answer had already been written; it is in the stdout of the job."
    cost = None if envelope is None else envelope.cost_usd
    return Verdict(reason=stopped, detail=detail, cost_usd=cost, details=_details(envelope, hints))


def _without_envelope(outcome: Outcome, reading: Reading) -> Verdict:
    from supervisor.text.redact import clean, excerpt

    hints = read_hints(outcome.read_stdout())
    if outcome.exit_code == 0:
        # An interrupt ends the program with status 0 and often without a word.
        verdict = _failed(outcome, Reason.INVALID_OUTPUT, "invalid_output", detail=reading.problem, hints=hints)
        if reading.empty:
            message = "claude exited with status 0 but wrote nothing, as it does when it is interrupted."
            return attrs.evolve(verdict, message=message, retryable=True)
        said = excerpt(outcome.read_stdout()[:4096].decode(errors="replace"), 200)
        detail = f"{reading.problem}; it begins: {said}"
        return attrs.evolve(verdict, repair=_NEEDS_JSON, detail=detail)
    verdict = exit_verdict(outcome)
    if verdict.reason is not Reason.NONZERO_EXIT:
        return attrs.evolve(verdict, details=_details(None, hints))
    stderr = clean(outcome.read_stderr()[-16384:].decode(errors="replace"))
    code = code_of_stderr(stderr, outcome.exit_code)
    if code is None and names_no_session(outcome.read_stdout()[:4096].decode(errors="replace")):
        code = "session_not_found"
    if code is not None:
        return _failed(outcome, Reason.NONZERO_EXIT, code, detail=verdict.detail, hints=hints)
    signal = EXIT_CODES_OF_SIGNALS.get(outcome.exit_code or 0)
    if signal is not None:
        message = f"claude was ended by {signal} from outside (it exits with status {outcome.exit_code} then)."
        detail = verdict.detail or f"ended by {signal} from outside"
        return attrs.evolve(verdict, message=message, retryable=True, detail=detail, details=_details(None, hints))
    if verdict.detail is None and not reading.empty:
        said = excerpt(outcome.read_stdout()[:4096].decode(errors="replace"), 200)
        verdict = attrs.evolve(verdict, detail=f"stdout begins: {said}")
    return attrs.evolve(verdict, details=_details(None, hints))


def _not_understood(outcome: Outcome, envelope: Envelope) -> Verdict:
    """There is a result message, but the fields that decide are not what they were."""
    detail = "the result message has no usable `subtype` and `is_error`"
    reason = _bad_exit(outcome) or Reason.INVALID_OUTPUT
    return _failed(outcome, reason, "cli_contract_changed", detail=detail, envelope=envelope)


def _success_but_bad_exit(outcome: Outcome, envelope: Envelope) -> Verdict:
    verdict = _by_exit(outcome)
    if not envelope.answered:
        return attrs.evolve(verdict, cost_usd=envelope.cost_usd, details=_details(envelope, Hints()))
    said = f"The output says success, but {(verdict.message or '').removeprefix('The command ') or 'the exit is bad'}"
    return attrs.evolve(
        verdict,
        message=said,
        repair="The answer is in `supervisor logs JOB`; find out what made the command fail after it.",
        detail=verdict.detail or said,
        cost_usd=envelope.cost_usd,
        details=_details(envelope, Hints()),
    )


def _reported(outcome: Outcome, envelope: Envelope) -> Verdict:
    """The envelope itself says that the run failed, whatever the exit status is."""
    from supervisor.text.redact import excerpt

    hints = read_hints(outcome.read_stdout())
    code, passing = envelope.failure(hints)
    failure = at_rest(FAILURES[code]) if passing else FAILURES[code]
    detail = excerpt(envelope.message or str(envelope.data.get("subtype")))
    reason = Reason.KILLED_BY_SIGNAL if outcome.signal is not None else Reason.REPORTED_ERROR
    return _failed(outcome, reason, code, detail=detail, envelope=envelope, hints=hints, failure=failure)


def _by_exit(outcome: Outcome) -> Verdict:
    """Judge by the exit status; the messages on stdout are no detail that tells a person more."""
    return exit_verdict(attrs.evolve(outcome, read_stdout_tail=lambda: b""))


def _bad_exit(outcome: Outcome) -> Reason | None:
    if outcome.signal is not None:
        return Reason.KILLED_BY_SIGNAL
    return Reason.NONZERO_EXIT if outcome.exit_code not in (0, None) else None
