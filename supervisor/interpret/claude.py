"""The ``claude`` kind: what a run of ``claude -p --output-format json`` (or ``stream-json``) means.

Done only when all four hold: exit status 0, an envelope that parses, ``subtype`` success and
``is_error`` false. None of them is enough alone. Where the exit status is unknown, as supervisor
and keeper were killed, a complete success envelope still is the answer that was paid for.
``claude_cli`` has the assumptions about the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from supervisor.interpret import Detail, Outcome, SessionCommand, Value, Verdict, exit_verdict, interrupted_reason
from supervisor.interpret.claude_cli import (
    NAME,
    Envelope,
    Hints,
    code_of_stderr,
    names_no_session,
    read_envelope,
    read_hints,
)
from supervisor.interpret.failures import (
    ANSWER_WRITTEN,
    FAILED_LATER,
    FAILURES,
    UNKNOWN_STATUS,
    Failure,
    at_rest,
    ended_by_signal,
    failed,
    known_details,
    not_started,
    with_reset,
)
from supervisor.states import Reason
from supervisor.text.json_lines import Reading

if TYPE_CHECKING:
    from supervisor.interpret.progress import ClaudeProgress

__all__ = ["Claude"]

_LAST_WORDS: Final = "The result message is empty; the answer is the last message of the agent."
_NO_WORDS: Final = "the result message says success and holds no answer, and no other message does"
_KEEP_MESSAGES: Final = "`--output-format stream-json --verbose` keeps the messages before the last tool call."
_MORE_TO_COME: Final = "more output was to follow the last result message"
_NEEDS_JSON: Final = (
    "Start the command with `--output-format json` (or `stream-json --verbose`), and look at the output."
)


class Claude:
    """Judges a run of Claude Code by its envelope and its exit status together."""

    name = NAME

    def verdict(self, outcome: Outcome) -> Verdict:
        """Return whether there is an answer, what it cost, and what to do when there is none."""
        if outcome.launch_error is not None:
            return not_started(outcome, NAME)
        envelope, reading = _read(outcome)
        verdict = self._verdict(outcome, envelope, reading)
        if envelope is None or envelope.tokens is None:
            return verdict
        return attrs.evolve(verdict, tokens=envelope.tokens, own_tokens=envelope.own_tokens)

    @staticmethod
    def _verdict(outcome: Outcome, envelope: Envelope | None, reading: Reading) -> Verdict:
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
        """Return the normalised answer, uncut unless it is larger than a person would read."""
        return self.render(outcome, None)

    def render(self, outcome: Outcome, detail: Detail | None) -> Value:
        """Return the normalised answer at ``detail``."""
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

    def in_session(self, argv: Sequence[str], session_id: str, prompt: str | None) -> SessionCommand | None:
        """Return the command ``claude -p`` in a session."""
        from supervisor.interpret.sessions import claude_in_session

        return claude_in_session(argv, session_id, prompt)

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


def _well(outcome: Outcome, envelope: Envelope) -> Verdict:
    """Return the verdict for a run that reports success; it may have no answer."""
    if envelope.answered and (outcome.known or not envelope.followed):
        return Verdict(
            reason=Reason.EXITED,
            detail=_remark(outcome, envelope),
            cost_usd=envelope.cost_usd,
            session_id=envelope.session_id,
        )
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
    """Return what the caller of a job that is done should know."""
    from supervisor.text.redact import excerpt

    remarks: list[str] = []
    if not outcome.known:
        remarks.append(UNKNOWN_STATUS)
    if envelope.last_words is not None:
        remarks.append(_LAST_WORDS)
    if envelope.permission_denials:
        tools = excerpt(", ".join(envelope.denied_tools), 100)
        remarks.append(f"{len(envelope.permission_denials)} tool call(s) were not permitted: {tools}.")
    return " ".join(remarks) or None


def _details(envelope: Envelope | None, hints: Hints) -> dict[str, Any]:
    """Return the facts of a failed run: its cost and its session matter without an answer too."""
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
    return known_details(found)


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
    texts = ((envelope.message if envelope else None) or "", detail or "")
    failure, wait, limit = with_reset(failure, code, hints.resets_at, texts, outcome)
    details = {**_details(envelope, hints), **limit, **known_details({"limit": hints.limit})}
    cost = None if envelope is None else envelope.cost_usd
    return failed(failure, code, reason, retry_after_ms=wait, detail=detail, cost_usd=cost, details=details)


def _interrupted(outcome: Outcome, envelope: Envelope | None, stopped: Reason) -> Verdict:
    """Return the verdict for a stopped run, with its cost and its session."""
    hints = read_hints(outcome.read_stdout()) if envelope is None else Hints()
    detail: str | None = None
    if envelope is not None and envelope.success and envelope.answered and not envelope.followed:
        detail = ANSWER_WRITTEN
    cost = None if envelope is None else envelope.cost_usd
    return Verdict(reason=stopped, detail=detail, cost_usd=cost, details=_details(envelope, hints))


def _without_envelope(outcome: Outcome, reading: Reading) -> Verdict:
    from supervisor.text.redact import clean, excerpt

    hints = read_hints(outcome.read_stdout())
    begin = outcome.read_stdout()[:4096].decode(errors="replace")
    if outcome.exit_code == 0:
        # An interrupt ends the program with status 0, and often without output.
        verdict = _failed(outcome, Reason.INVALID_OUTPUT, "invalid_output", detail=reading.problem, hints=hints)
        if reading.empty:
            message = "claude exited with status 0 but wrote nothing, as it does when it is interrupted."
            return attrs.evolve(verdict, message=message, retryable=True)
        detail = f"{reading.problem}; it begins: {excerpt(begin, 200)}"
        return attrs.evolve(verdict, repair=_NEEDS_JSON, detail=detail)
    verdict = exit_verdict(outcome)
    if verdict.reason is not Reason.NONZERO_EXIT:
        return attrs.evolve(verdict, details=_details(None, hints))
    stderr = clean(outcome.read_stderr()[-16384:].decode(errors="replace"))
    code = code_of_stderr(stderr, outcome.exit_code)
    if code is None and names_no_session(begin):
        code = "session_not_found"
    if code is not None:
        return _failed(outcome, Reason.NONZERO_EXIT, code, detail=verdict.detail, hints=hints)
    signalled = ended_by_signal(verdict, NAME, outcome.exit_code)
    if signalled is None and verdict.detail is None and not reading.empty:
        verdict = attrs.evolve(verdict, detail=f"stdout begins: {excerpt(begin, 200)}")
    return attrs.evolve(signalled or verdict, details=_details(None, hints))


def _not_understood(outcome: Outcome, envelope: Envelope) -> Verdict:
    """Return the verdict for a result message whose deciding fields are missing or changed."""
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
        repair=FAILED_LATER,
        detail=verdict.detail or said,
        cost_usd=envelope.cost_usd,
        details=_details(envelope, Hints()),
    )


def _reported(outcome: Outcome, envelope: Envelope) -> Verdict:
    """Return the verdict for an envelope that reports a failure, with any exit status."""
    from supervisor.text.redact import excerpt

    hints = read_hints(outcome.read_stdout())
    code, passing = envelope.failure(hints)
    failure = at_rest(FAILURES[code]) if passing else FAILURES[code]
    reason = Reason.KILLED_BY_SIGNAL if outcome.signal is not None else Reason.REPORTED_ERROR
    detail = excerpt(envelope.message or str(envelope.data.get("subtype")))
    return _failed(outcome, reason, code, detail=detail, envelope=envelope, hints=hints, failure=failure)


def _by_exit(outcome: Outcome) -> Verdict:
    """Judge by the exit status; the messages on stdout are not a useful detail."""
    return exit_verdict(attrs.evolve(outcome, read_stdout_tail=lambda: b""))


def _bad_exit(outcome: Outcome) -> Reason | None:
    if outcome.signal is not None:
        return Reason.KILLED_BY_SIGNAL
    return Reason.NONZERO_EXIT if outcome.exit_code not in (0, None) else None
