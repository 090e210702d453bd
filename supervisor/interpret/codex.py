"""The ``codex`` kind: what a run of ``codex exec --json`` means.

Done when the exit status is 0 (or unknown) and the last turn completed. The value has the
shape of the ``claude`` kind; Codex reports no cost, so ``cost_usd`` is never set. ``codex_cli``
has the assumptions about the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from supervisor.interpret import Detail, Outcome, SessionCommand, Value, Verdict, exit_verdict, interrupted_reason
from supervisor.interpret.codex_cli import NAME, ApiError, Run, code_of_stderr, read_run, without_noise
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

if TYPE_CHECKING:
    from supervisor.interpret.progress import CodexProgress

__all__ = ["Codex"]

_NO_WORDS: Final = "the last turn completed without a message of the agent"
_MORE_TO_COME: Final = "more output was to follow the last completed turn"
_NEEDS_JSON: Final = "Start the command as `codex exec --json ...`, and look at the output (`supervisor logs JOB`)."


class Codex:
    """Judges a run of Codex by its events and its exit status together."""

    name = NAME

    def verdict(self, outcome: Outcome) -> Verdict:
        """Return whether there is an answer, and what to do when there is none."""
        if outcome.launch_error is not None:
            return not_started(outcome, NAME)
        run = _read(outcome)
        verdict = self._verdict(outcome, run)
        tokens = run.tokens
        # It goes on with the sums of the session, and does not say what a run has added to them.
        return verdict if tokens is None else attrs.evolve(verdict, tokens=tokens, own_tokens=0)

    @staticmethod
    def _verdict(outcome: Outcome, run: Run) -> Verdict:
        stopped = interrupted_reason(outcome)
        if stopped is not None:
            complete = run.answered and not run.followed
            return Verdict(reason=stopped, detail=ANSWER_WRITTEN if complete else None, details=_details(run))
        if run.success and (outcome.exit_code == 0 or not outcome.known):
            return _well(outcome, run)
        if run.error is not None:
            return _reported(outcome, run, run.error)
        if outcome.exit_code == 0:
            return _without_answer(outcome, run)
        return _bad_exit(outcome, run)

    def value(self, outcome: Outcome) -> Value:
        """Return the normalised answer, uncut unless it is larger than a person would read."""
        return self.render(outcome, None)

    def render(self, outcome: Outcome, detail: Detail | None) -> Value:
        """Return the normalised answer at ``detail``."""
        from supervisor.interpret.answer import bounds_for, build_answer

        run = _read(outcome)
        facts = {
            "session_id": run.thread_id,
            "model": None,
            "usage": run.usage,
            "model_usage": None,
            "cost_usd": None,
            "num_turns": run.turns,
            "duration_ms": None,
            "permission_denials": run.declined,
            "remarks": run.remarks,
        }
        return Value(value=build_answer(run.text, facts=facts, bounds=bounds_for(detail)))

    def in_session(self, argv: Sequence[str], session_id: str, prompt: str | None) -> SessionCommand | None:
        """Return the command ``codex exec`` in a session."""
        from supervisor.interpret.sessions import codex_in_session

        return codex_in_session(argv, session_id, prompt)

    def progress(self) -> CodexProgress:
        """Return a reader for the events."""
        from supervisor.interpret.progress import CodexProgress

        return CodexProgress()


def _read(outcome: Outcome) -> Run:
    """Read the events once per outcome."""
    run: Run | None = outcome.memo.get(NAME)
    if run is None:
        run = read_run(outcome.read_stdout())
        outcome.memo[NAME] = run
    return run


def _well(outcome: Outcome, run: Run) -> Verdict:
    """Return the verdict for a run that reports success; it may have no answer."""
    if run.answered and (outcome.known or not run.followed):
        return Verdict(reason=Reason.EXITED, detail=_remark(outcome, run), session_id=run.thread_id)
    if outcome.known:
        return _failed(outcome, Reason.INVALID_OUTPUT, "empty_answer", run, detail=_NO_WORDS)
    verdict = _by_exit(outcome, run)
    detail = verdict.detail or (_MORE_TO_COME if run.followed else _NO_WORDS)
    return attrs.evolve(verdict, detail=detail, details=_details(run))


def _remark(outcome: Outcome, run: Run) -> str | None:
    remarks: list[str] = []
    if not outcome.known:
        remarks.append(UNKNOWN_STATUS)
    if run.declined:
        remarks.append(f"{len(run.declined)} tool call(s) were not permitted.")
    return " ".join(remarks) or None


def _details(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {
        "session_id": run.thread_id,
        "num_turns": run.turns or None,
        "usage": run.usage,
        "items": run.items or None,
        "permission_denials": run.declined,
    }
    if run.error is not None:
        found.update(api_error_type=run.error.type, api_error_status=run.error.status)
    return known_details(found)


def _failed(
    outcome: Outcome, reason: Reason, code: str, run: Run, *, detail: str | None, failure: Failure | None = None
) -> Verdict:
    failure = (FAILURES[code] if failure is None else failure).for_cli(NAME)
    texts = (run.error.text if run.error else "", detail or "")
    failure, wait, limit = with_reset(failure, code, None, texts, outcome)
    return failed(failure, code, reason, retry_after_ms=wait, detail=detail, details={**_details(run), **limit})


def _reported(outcome: Outcome, run: Run, error: ApiError) -> Verdict:
    from supervisor.text.redact import excerpt

    code, passing = error.failure()
    failure = at_rest(FAILURES[code]) if passing else FAILURES[code]
    reason = Reason.KILLED_BY_SIGNAL if outcome.signal is not None else Reason.REPORTED_ERROR
    return _failed(outcome, reason, code, run, detail=excerpt(error.text), failure=failure)


def _without_answer(outcome: Outcome, run: Run) -> Verdict:
    from supervisor.text.redact import excerpt

    begin = outcome.read_stdout()[:4096].decode(errors="replace")
    if run.too_large:
        detail = "there is more output than is read"
    elif run.lines:
        detail = "the events end before a turn was completed"
    elif begin.strip():
        detail = f"stdout has no events; it begins: {excerpt(begin, 200)}"
    else:
        detail = "stdout is empty"
    verdict = _failed(outcome, Reason.INVALID_OUTPUT, "invalid_output", run, detail=detail)
    return verdict if run.lines else attrs.evolve(verdict, repair=_NEEDS_JSON)


def _bad_exit(outcome: Outcome, run: Run) -> Verdict:
    from supervisor.text.redact import clean

    stderr = without_noise(outcome.read_stderr())
    verdict = _by_exit(outcome, run)
    if run.answered:
        said = f"The output has a complete answer, but t{(verdict.message or 'The exit is bad.')[1:]}"
        detail = verdict.detail or said
        return attrs.evolve(verdict, message=said, repair=FAILED_LATER, detail=detail, details=_details(run))
    if verdict.reason is not Reason.NONZERO_EXIT:
        return attrs.evolve(verdict, details=_details(run))
    code = code_of_stderr(clean(stderr[-16384:].decode(errors="replace")), outcome.exit_code)
    if code is not None:
        return _failed(outcome, Reason.NONZERO_EXIT, code, run, detail=verdict.detail)
    return attrs.evolve(ended_by_signal(verdict, NAME, outcome.exit_code) or verdict, details=_details(run))


def _by_exit(outcome: Outcome, run: Run) -> Verdict:
    """Judge by the exit status; a complete turn and the usual remarks on stderr say nothing about a failure."""
    tail = b"" if run.success else outcome.read_stdout_tail()
    stderr = without_noise(outcome.read_stderr())
    return exit_verdict(attrs.evolve(outcome, read_stderr=lambda: stderr, read_stdout_tail=lambda: tail))
