"""What the output of a finished command means, per kind.

An interpreter is pure: its input is how a command ended and what it wrote, its output a
``Verdict``. It is called when a job ends (for the state) and again for each fetch of the
result (for the value), possibly in another process and another version, so it must not
depend on anything else.

To add a kind, write a class with a ``name``, ``verdict`` and ``value`` (see
``Interpreter``) and register an instance or a class without arguments under the entry
point group ``supervisor.kinds``. Three methods are optional: ``render`` (``Renders``: the
value at a chosen level of detail), ``progress`` (``Reports``: the progress, read from
stdout while the command runs), and ``in_session`` (``HasSessions``: a run that met a usage
limit is continued, not begun anew)::

    class Coverage:  # done when the report parses and the total reaches 80 per cent
        name = "coverage"

        def verdict(self, outcome: Outcome) -> Verdict:
            verdict = exit_verdict(outcome)
            if verdict.reason is not Reason.EXITED:
                return verdict
            try:
                total = float(json.loads(outcome.read_stdout())["total"])
            except (ValueError, LookupError, TypeError):
                return Verdict(reason=Reason.INVALID_OUTPUT, detail="no total in the report")
            if total < 80:
                return Verdict(reason=Reason.REPORTED_ERROR, detail=f"coverage is {total:.1f}%")
            return verdict

        def value(self, outcome: Outcome) -> Value:
            return Value(value=json.loads(outcome.read_stdout())["total"])

    # pyproject.toml of the distribution that has the class:
    # [project.entry-points."supervisor.kinds"]
    # coverage = "my_package:Coverage"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, NamedTuple, Protocol, runtime_checkable

import attrs

from supervisor.errors import InvalidArguments
from supervisor.states import Reason

__all__ = [
    "BUILT_IN",
    "Detail",
    "HasSessions",
    "Interpreter",
    "Outcome",
    "ProgressReader",
    "Renders",
    "Reports",
    "SessionCommand",
    "Value",
    "Verdict",
    "exit_verdict",
    "get_interpreter",
    "interrupted_reason",
    "kinds",
    "new_session_id",
    "read_progress",
    "render",
    "session_command",
]

Detail = Literal["summary", "full"]
"""How much of a value is returned: a compact form for a reader with little room, or all of it."""


def _nothing() -> bytes:
    return b""


def _unknown() -> int:
    return 0


@attrs.frozen(slots=True, kw_only=True)
class Outcome:
    """How a command ended and what it wrote.

    Attributes:
        exit_code: ``None`` when unknown or ended by a signal.
        signal: the number of the signal that ended it, or ``None``.
        read_stdout: returns all of stdout, as bytes, which may be large.
        read_stderr: returns the last 64 KiB of stderr, as bytes.
        read_stdout_tail: returns the last 64 KiB of stdout, as bytes.
        interrupted: why it was stopped (``cancelled``, ``deadline``, ``output_limit``) or
            ``None``. This decides the state already; the verdict adds cost and detail.
        ended_ns: wall-clock nanoseconds at which the end was observed, or 0 when that is not known. If all
            processes that watched were killed, that is long after the end.
        read_written_ns: returns the wall-clock nanoseconds at which its last output was written, or 0 when that is
            not known.
        launch_error: why the command was never started, or ``None`` when it was.
        launch_status: the exit status of a shell in this case: 127, 126 or 125.
        memo: a cache for an interpreter, so that ``verdict`` and ``value`` of the same
            outcome parse once.
    """

    exit_code: int | None = None
    signal: int | None = None
    read_stdout: Callable[[], bytes] = _nothing
    read_stderr: Callable[[], bytes] = _nothing
    read_stdout_tail: Callable[[], bytes] = _nothing
    interrupted: str | None = None
    ended_ns: int = 0
    read_written_ns: Callable[[], int] = _unknown
    launch_error: str | None = None
    launch_status: int | None = None
    memo: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False, eq=False, repr=False)

    @property
    def known(self) -> bool:
        """Whether the exit status is known at all."""
        return self.exit_code is not None or self.signal is not None

    @property
    def said_ns(self) -> int:
        """When its last words were written, in wall-clock nanoseconds, or 0 when that is not known.

        Times that they name ("resets 8pm", "in 20 minutes") are counted from there, and not from ``ended_ns``.
        """
        written_ns = self.read_written_ns() if self.ended_ns else 0
        return min(written_ns, self.ended_ns) if written_ns > 0 else self.ended_ns


@attrs.frozen(slots=True, kw_only=True)
class Verdict:
    """The meaning of the end of a command.

    Attributes:
        reason: ``exited`` (the job is done), ``nonzero_exit``, ``killed_by_signal``,
            ``invalid_output``, ``reported_error``, or ``lost`` when the exit status is unknown
            and the output does not replace it; ``launch_failed`` for an outcome with a
            ``launch_error``. It is ignored for an interrupted outcome.
        code: the error code of the contract; ``None`` takes the code of ``reason``.
        message: what went wrong, for people; ``None`` takes a standard message.
        repair: what to do; ``None`` takes a standard repair.
        retryable: whether the same request under a new key may succeed later.
        retry_after_ms: how long to wait before that, if the output has it.
        detail: one short line about the failure, redacted; for a job that is done, a remark.
        cost_usd: the cost, as the output states it.
        tokens: how many tokens its models have read and written, as the output states it.
        own_tokens: of those, the ones that are certainly of this run: an agent that resumes a session may go on
            with the sums of the session. ``None`` if it certainly does not.
        session_id: the session of an agent, which another run can continue.
        details: JSON-ready facts for the error.
    """

    reason: Reason
    code: str | None = None
    message: str | None = None
    repair: str | None = None
    retryable: bool = False
    retry_after_ms: int | None = None
    detail: str | None = None
    cost_usd: float | None = None
    tokens: int | None = None
    own_tokens: int | None = None
    session_id: str | None = None
    details: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen(slots=True, kw_only=True)
class Value:
    """The value of a job that is done: JSON-ready, and ``"base64"`` where it had to be encoded."""

    value: Any
    encoding: str | None = None


@runtime_checkable
class Interpreter(Protocol):
    """The interface of a kind. No method may raise, whatever the bytes are; all must be pure."""

    @property
    def name(self) -> str:
        """The kind's name, as given to ``start``."""
        ...

    def verdict(self, outcome: Outcome) -> Verdict:
        """Return the meaning of the end of the command."""
        ...

    def value(self, outcome: Outcome) -> Value:
        """Return the value of a job for which ``verdict`` said ``exited``."""
        ...


@runtime_checkable
class Renders(Protocol):
    """The further method of an interpreter whose value can be large: a choice of detail.

    ``value`` stays the default rendering. ``render`` may be called for a stored run at any
    time, so a caller that got a cut value can fetch all of it later.
    """

    def render(self, outcome: Outcome, detail: Detail) -> Value:
        """Return the value at ``detail``; a cut value names what was cut."""
        ...


class ProgressReader(Protocol):
    """Reads the stdout of a command that still runs, chunk by chunk, in bounded memory."""

    def feed(self, chunk: bytes) -> bool:
        """Read the next bytes; return whether ``snapshot`` has changed."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return the progress so far, JSON-ready and small."""
        ...


@runtime_checkable
class Reports(Protocol):
    """The further method of an interpreter whose output has the progress of the command."""

    def progress(self) -> ProgressReader:
        """Return a reader for one run, which is fed from the beginning of its stdout."""
        ...


class SessionCommand(NamedTuple):
    """A command that works in a session of an agent.

    Attributes:
        argv: the command.
        session_id: the id of the session.
        stdin: its input, in place of the one that the job has; ``None`` for that one.
    """

    argv: tuple[str, ...]
    session_id: str
    stdin: bytes | None = None


@runtime_checkable
class HasSessions(Protocol):
    """The further method of an interpreter whose commands work in sessions that can be continued."""

    def in_session(self, argv: Sequence[str], session_id: str, prompt: str | None) -> SessionCommand | None:
        """Return the command that works in a session.

        Args:
            argv: the command of the job.
            session_id: the id to begin a session with, if the command names none; or the session to continue.
            prompt: what to continue with, in place of the prompt of the command; ``None`` to begin.

        Returns:
            ``None`` for a command whose session cannot be known before it runs, or cannot be continued.
        """
        ...


def session_command(kind: str, argv: Sequence[str], session_id: str, prompt: str | None) -> SessionCommand | None:
    """Return the command of a job in a session; ``None`` for a kind without sessions, and see ``HasSessions``."""
    if kind in {"raw", "json"}:
        return None
    try:
        interpreter = get_interpreter(kind)
        return interpreter.in_session(argv, session_id, prompt) if isinstance(interpreter, HasSessions) else None
    except Exception:  # noqa: BLE001  # a kind of another package, or one that is not installed here
        return None


def new_session_id(job_id: str) -> str:
    """Return the id of the session that a job begins: a UUID that follows from the job id."""
    variant = "89ab"[int(job_id[16], 16) & 3]
    return f"{job_id[:8]}-{job_id[8:12]}-4{job_id[13:16]}-{variant}{job_id[17:20]}-{job_id[20:]}"


def render(interpreter: Interpreter, outcome: Outcome, detail: Detail | None = None) -> Value:
    """Return the value at ``detail``; of a kind without levels, its only value."""
    if detail is not None and isinstance(interpreter, Renders):
        return interpreter.render(outcome, detail)
    return interpreter.value(outcome)


def read_progress(interpreter: Interpreter) -> ProgressReader | None:
    """Return a fresh reader of the progress of one run, or ``None`` where the kind has none."""
    return interpreter.progress() if isinstance(interpreter, Reports) else None


def interrupted_reason(outcome: Outcome) -> Reason | None:
    """Return the reason that a requested stop gives the job, or ``None`` without a stop."""
    if outcome.interrupted is None:
        return None
    try:
        return Reason(outcome.interrupted)
    except ValueError:  # a newer version stopped it for a reason that this one does not know
        return Reason.CANCELLED


def exit_verdict(outcome: Outcome) -> Verdict:
    """Judge by the exit status alone; the detail of a failure is a redacted tail of stderr, or else of stdout."""
    if outcome.exit_code == 0 and outcome.launch_error is None:
        return Verdict(reason=Reason.EXITED)
    from supervisor.text.redact import excerpt, tail  # imported for failures only

    if outcome.launch_error is not None:
        error = excerpt(outcome.launch_error)
        return Verdict(reason=Reason.LAUNCH_FAILED, message=f"The command could not be started: {error}", detail=error)
    if outcome.signal is not None:
        reason, message = Reason.KILLED_BY_SIGNAL, f"The command was ended by signal {outcome.signal}."
    elif outcome.exit_code is not None:
        reason, message = Reason.NONZERO_EXIT, f"The command exited with status {outcome.exit_code}."
    else:
        reason, message = Reason.LOST, "The command has ended, and its exit status is lost."
    return Verdict(
        reason=reason, message=message, detail=tail(outcome.read_stderr()) or tail(outcome.read_stdout_tail())
    )


BUILT_IN: Final[Mapping[str, str]] = {
    "raw": "supervisor.interpret.raw:Raw",
    "json": "supervisor.interpret.json_value:JsonValue",
    "claude": "supervisor.interpret.claude:Claude",
    "codex": "supervisor.interpret.codex:Codex",
}
"""The kinds of this package: the name, and the path of the class."""


@cache
def get_interpreter(kind: str) -> Interpreter:
    """Return the interpreter of ``kind``, built in or registered by an entry point.

    Raises:
        InvalidArguments: no such kind is registered, or the registered object cannot be used.
    """
    from importlib import import_module

    target = BUILT_IN.get(kind)
    if target is not None:
        module, _, name = target.partition(":")
        built_in: Interpreter = getattr(import_module(module), name)()
        return built_in
    from importlib.metadata import entry_points  # 43 ms: only for kinds that are not built in

    message = ""
    for point in entry_points(group="supervisor.kinds", name=kind):
        try:
            loaded = point.load()
            made = loaded() if isinstance(loaded, type) else loaded
        except Exception as error:  # noqa: BLE001  # code of another package may raise anything
            message = f"the kind {kind!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
            break
        if isinstance(made, Interpreter):
            return made
        message = f"{point.value}, registered as the kind {kind!r}, is not an interpreter"
    else:
        message = message or f"there is no kind {kind!r}"
    raise InvalidArguments(message, repair=f"Use one of: {', '.join(kinds())}.", details={"kind": kind})


def kinds() -> tuple[str, ...]:
    """Return the names of all kinds that can be used here, sorted."""
    from importlib.metadata import entry_points

    return tuple(sorted({*BUILT_IN, *(point.name for point in entry_points(group="supervisor.kinds"))}))
