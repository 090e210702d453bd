"""A request to run a command: the one definition of its options.

A new option is an attribute of ``JobSpec`` and a member of ``JobOptions``; ``supervisor.model`` has both names too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

import attrs

from supervisor.errors import InvalidArguments
from supervisor.model.limits import Limits
from supervisor.retry import Retry

__all__ = ["JobOptions", "JobSpec"]


def _argv(argv: Iterable[str]) -> tuple[str, ...]:
    if isinstance(argv, str | bytes):  # would fall apart into its characters
        message = f"argv is {argv!r}; it accepts a sequence: the command, then each of its arguments"
        raise InvalidArguments(message)
    return tuple(argv)


def _path(path: str | os.PathLike[str]) -> str:
    return os.fspath(path)


def _labels(labels: Mapping[str, str] | None) -> Mapping[str, str]:
    return dict(labels or {})


def _names(names: Iterable[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _after(after: Iterable[str | tuple[str, str]] | None) -> tuple[tuple[str, str], ...]:
    if not after:
        return ()
    given = (after,) if isinstance(after, str) else tuple(after)
    if any(not isinstance(each, str) and len(each) != 2 for each in given):
        message = f"after is {after!r:.200}; each of its members must be a job id, or a pair: when, job id"
        raise InvalidArguments(message)
    return tuple(("ok", each) if isinstance(each, str) else (each[0], each[1]) for each in given)


def command_words(words: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Return the words of a command that is given as words, or as one string, which is split as a shell does it.

    Raises:
        InvalidArguments: a quotation in it does not end.
    """
    if words is None:
        return None
    if not isinstance(words, str):
        return tuple(words)
    import shlex  # few requests need it

    try:
        return tuple(shlex.split(words))
    except ValueError as error:
        message = f"on_end cannot be split into words: {error}"
        raise InvalidArguments(message) from error


def _engine_options(options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return dict(options or {})


@attrs.frozen(slots=True, kw_only=True)
class JobSpec:
    """A request to run a command, as a value that can be passed around.

    Attributes:
        argv: the command and its arguments. No shell interprets them.
        workspace: the directory in which it runs; relative to the current directory.
        kind: how its output is read, see ``supervisor.interpret``.
        deadline_seconds: wall-clock seconds it may run; ``None`` takes the default of the
            settings, ``math.inf`` means no deadline.
        stdin: bytes it reads before end of file, at most 64 MiB; ``None`` is ``/dev/null``.
        env: its whole environment; ``None`` passes the caller's own. On disk only as SECURITY.md says.
            A PWD that the caller inherited is made to name the workspace.
        labels: names and values to find it by.
        idempotency_key: a second start under the same key, with the same request and workspace, starts nothing
            and returns the first job as it is now.
        engine: the engine that runs it: ``"slurm"``, or ``None`` for the one that the supervisor was opened with.
        engine_options: options of that engine: ``shared_dir``, ``partition``, ... (``docs/slurm.md``).
        groups: the groups whose limits count for it; it waits, queued, until each of them has room.
        priority: -1000 to 1000; a point is worth the aging time of its groups, 5 minutes of waiting by default.
        weight: how many slots of each group it takes, at least 1.
        hold: it waits until it is released.
        after: jobs of the same state root that it waits for, by their ids: until the job is ``done``, or of a pair
            ``(when, job_id)``, until it has ended (``"any"``), has ended otherwise than ``done`` (``"failed"``), or was
            launched (``"start"``). ``"ok"`` is the same as the id alone. A job whose dependency can no longer hold
            ends ``cancelled``, reason ``dependency_failed``.
        not_before: the time, with a time zone, before which it is not launched; at most 90 days from now.
        delay_seconds: how long after this call it is not launched, at most 90 days; a clock that is set does not count.
        start_within_seconds: how long after this call it may be launched; then it ends ``cancelled``, reason
            ``start_expired``.
        spool: where its environment and its input are while it waits: ``"disk"``, in files that only the user can
            read, or ``"memory"``, in the memory of its keeper: then it is not launched (``launch_failed``) if that is
            killed, or after a reboot.
        stdin_open: its stdin stays open, after ``stdin``, for messages that ``send`` delivers to it.
        pty: it has a terminal as its stdin, stdout and stderr; what it writes there is its stdout.
        window: the rows and columns that its terminal has at first; ``None`` is 24 and 80.
        retry: whether it is tried again after it has failed, see ``Retry``; each attempt is a job of its own.
        ttl_seconds: how long it is kept after its end, at most 100 years; ``None`` takes the default of the settings,
            here and in the next two.
        max_output_bytes: stdout or stderr past this stops it.
        grace_seconds: the time between SIGTERM and SIGKILL when it is stopped, at most 100 years.
        merge_stderr: its stderr goes where its stdout goes, in the order of the writes; then the result has both.
        no_new_privs: no program that it runs gains rights by its file (set-user-ID, capabilities), as ``sudo`` does.
            Only on Linux; elsewhere it ends ``launch_failed``.
        limits: what all of its processes may use together, see ``Limits``.
        worktree: ``"fresh"``, ``"head"`` or ``"dirty"``: it runs in a git worktree of its own, made at its launch: of
            the default branch of origin, of HEAD, or of HEAD with the tracked changes. The id of a job: in the worktree
            of that job.
        on_end: a command that gets the end of the job as JSON on stdin, as a job of its own: its words, or one string
            that is split as a shell does, and that no shell reads. An empty one is none, also for ``rerun``.
        webhook: a URL to which the end of the job is sent, signed, see ``docs/deliveries.md``; an empty one is none.
    """

    argv: tuple[str, ...] = attrs.field(converter=_argv)
    workspace: str = attrs.field(default=".", converter=_path)
    kind: str = "raw"
    deadline_seconds: float | None = None
    stdin: bytes | None = attrs.field(default=None, repr=False)
    env: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    labels: Mapping[str, str] = attrs.field(default=None, converter=_labels)
    idempotency_key: str | None = None
    engine: str | None = None
    engine_options: Mapping[str, Any] = attrs.field(default=None, converter=_engine_options)
    groups: tuple[str, ...] = attrs.field(default=None, converter=_names)
    priority: int = 0
    weight: int = 1
    hold: bool = False
    after: tuple[tuple[str, str], ...] = attrs.field(default=None, converter=_after)
    not_before: datetime | None = None
    delay_seconds: float | None = None
    start_within_seconds: float | None = None
    spool: str = "disk"
    retry: Retry | None = None
    ttl_seconds: float | None = None
    max_output_bytes: int | None = None
    grace_seconds: float | None = None
    merge_stderr: bool = False
    no_new_privs: bool = False
    stdin_open: bool = False
    pty: bool = False
    window: tuple[int, int] | None = None
    limits: Limits | None = None
    worktree: str | None = None
    on_end: tuple[str, ...] | None = attrs.field(default=None, converter=command_words)
    webhook: str | None = None

    @property
    def asks_for_admission(self) -> bool:
        """Whether it may have to wait for anything, or has settings for that."""
        times = (self.not_before, self.delay_seconds, self.start_within_seconds)
        others = (self.priority, self.weight, self.spool, self.retry)
        waits = bool(self.groups or self.after or self.hold)
        return waits or times != (None, None, None) or others != (0, 1, "disk", None)


class JobOptions(TypedDict, total=False):
    """The keyword arguments of ``start`` and ``run``: the attributes of ``JobSpec``, without ``argv``."""

    workspace: str | os.PathLike[str]
    kind: str
    deadline_seconds: float | None
    stdin: bytes | None
    env: Mapping[str, str] | None
    labels: Mapping[str, str] | None
    idempotency_key: str | None
    engine: str | None
    engine_options: Mapping[str, Any] | None
    groups: Iterable[str] | None
    priority: int
    weight: int
    hold: bool
    after: Iterable[str | tuple[str, str]] | None
    not_before: datetime | None
    delay_seconds: float | None
    start_within_seconds: float | None
    spool: str
    retry: Retry | None
    ttl_seconds: float | None
    max_output_bytes: int | None
    grace_seconds: float | None
    merge_stderr: bool
    no_new_privs: bool
    stdin_open: bool
    pty: bool
    window: tuple[int, int] | None
    limits: Limits | None
    worktree: str | None
    on_end: str | Iterable[str] | None
    webhook: str | None
