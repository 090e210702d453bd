"""The jobs that callers may start, over MCP and over HTTP: those of a kind, and commands that a pattern allows."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from supervisor.errors import FeatureUnavailable, InvalidArguments
from supervisor.interpret import BUILT_IN
from supervisor.mcp_server.access.principals import (
    PRINCIPAL_GROUP,
    PRINCIPAL_LABEL,
    RESERVED_PREFIX,
    TOOL_LABEL,
    own_labels,
    scoped_key,
)
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.mcp_server.config.environment import environment_of
from supervisor.mcp_server.config.kinds import Kind
from supervisor.mcp_server.config.patterns import allows
from supervisor.model import Job, JobSpec
from supervisor.store import groups

__all__ = ["COMMAND", "START", "Wanted", "again", "check_command", "check_unasked", "job_spec", "of_command", "of_kind"]

START: Final = "job_start"
"""The name of the kind of the jobs whose command the caller gives."""

COMMAND: Final = (
    Parameter(name="command", type="words", required=True, description="The program, then each argument. No shell."),
    Parameter(name="stdin", max_length=1_000_000, lists_bounds=False),
    Parameter(name="interpret", enum=tuple(BUILT_IN), default="raw", description="How its output is interpreted."),
)
"""The parameters of a job whose command the caller gives."""


@attrs.frozen(slots=True)
class Wanted:
    """A job that a caller may start: its kind, its command and its input."""

    kind: Kind
    argv: Sequence[str]
    stdin: bytes | None


def of_kind(kind: Kind, values: Mapping[str, Any]) -> Wanted:
    """Return the job of a kind for these values of its parameters.

    Raises:
        InvalidArguments: a value does not fit its placeholder.
    """
    return Wanted(kind, *kind.request(values, sys.executable))


def check_command(patterns: Sequence[str], command: list[str]) -> None:
    """Raise ``InvalidArguments`` unless one of the patterns allows a command."""
    if not any(allows(pattern, command) for pattern in patterns):
        allowed = f"; allowed are: {', '.join(patterns)}" if patterns else ""
        message = f"the command {shlex.join(command)!r:.200} is not allowed here{allowed}"
        repair = "Give an allowed command; a * matches operands, never an option."
        raise InvalidArguments(message, repair=repair, details={"argument": "command", "allowed": list(patterns)})


def of_command(patterns: Sequence[str], values: Mapping[str, Any]) -> Wanted:
    """Return the job of a command, for these values of ``COMMAND``.

    Raises:
        InvalidArguments: no pattern allows the command.
    """
    check_command(patterns, values["command"])
    stdin = values["stdin"]
    kind = Kind(name=START, description="", command=(), interpret=values["interpret"])
    return Wanted(kind, values["command"], None if stdin is None else stdin.encode())


def job_spec(
    wanted: Wanted, values: Mapping[str, Any], *, principal: str | None, workspace: str, state_dir: Path
) -> JobSpec:
    """Return the request for a job; ``values`` are those of the parameters in ``COMMON``.

    Raises:
        InvalidArguments: a label is reserved, or the deadline exceeds that of the kind.
        StateCorrupt: the file of the group of the principal is damaged.
        StateBusy, PermissionDenied: it cannot be read now.
    """
    kind = wanted.kind
    labels = _callers_labels(values["labels"]) | {TOOL_LABEL: kind.name} | own_labels(principal)
    return JobSpec(
        argv=tuple(wanted.argv),
        workspace=workspace,
        kind=kind.interpret,
        deadline_seconds=_deadline(values["deadline_seconds"], kind),
        stdin=wanted.stdin,
        env=environment_of(os.environ, kind.env_pass, kind.env_set),
        labels=labels,
        idempotency_key=scoped_key(principal, values["idempotency_key"]),
        engine=kind.engine,
        engine_options=kind.engine_options,
        groups=_groups(kind, principal, state_dir),
        priority=kind.priority,
        start_within_seconds=kind.start_within_seconds,
        retry=kind.retry,
        stdin_open="send" in kind.control,
        worktree=kind.worktree,
        on_end=kind.on_end,
        webhook=kind.webhook,
    )


def again(kind: Kind, job: Job, *, state_dir: Path) -> dict[str, Any]:
    """Return the options of a job that is started again, in the place of those of its first start.

    The settings of its kind hold as they are now, so no caller keeps the limits of an earlier kinds file. ``kind`` may
    be one without settings: then only the group of the principal is added to those of the job.

    Raises:
        StateCorrupt: the file of the group of the principal is damaged.
        StateBusy, PermissionDenied: it cannot be read now.
    """
    groups = _groups(kind, job.labels.get(PRINCIPAL_LABEL), state_dir)
    options: dict[str, Any] = {"env": environment_of(os.environ, kind.env_pass, kind.env_set)}
    if kind.name == START:
        return options | {"groups": tuple(dict.fromkeys((*job.groups, *groups)))}
    before = math.inf if job.deadline_seconds is None else job.deadline_seconds
    if kind.deadline_seconds is not None:
        options["deadline_seconds"] = min(before, kind.deadline_seconds)
    return options | {
        "groups": groups,
        "priority": kind.priority,
        "start_within_seconds": kind.start_within_seconds,
        "retry": kind.retry,
        "stdin_open": "send" in kind.control,
        "worktree": kind.worktree,
        "on_end": kind.on_end or (),
        "webhook": kind.webhook or "",
    }


def check_unasked(kind: Kind, principal: str | None) -> None:
    """Raise ``FeatureUnavailable`` if a principal may start such a job only after the user was asked, as over MCP."""
    if kind.confirm and principal is not None:
        message = f"{kind.name} asks the user before it starts a job, which is possible over MCP only"
        raise FeatureUnavailable(message, repair="Start it over MCP, or ask the owner to start it.")


def _groups(kind: Kind, principal: str | None, state_dir: Path) -> tuple[str, ...]:
    """Return the groups of a kind, and the group of the principal if there is one: its limit and budgets hold."""
    if principal is None:
        return kind.groups
    name = f"{PRINCIPAL_GROUP}{principal}"
    try:
        groups.check_name(name)
    except InvalidArguments:  # there can be no such group
        return kind.groups
    is_there = groups.load(os.path.realpath(state_dir), name) is not None
    return tuple(dict.fromkeys((*kind.groups, name))) if is_there else kind.groups


def _callers_labels(given: Mapping[str, str] | None) -> dict[str, str]:
    for name in given or {}:
        if name.startswith(RESERVED_PREFIX):
            message = f"labels has {name!r:.80}; names that begin with {RESERVED_PREFIX!r} are reserved for the server"
            raise InvalidArguments(message, details={"argument": "labels"})
    return dict(given or {})


def _deadline(given: float | None, kind: Kind) -> float | None:
    if given is None or kind.deadline_seconds is None:
        return kind.deadline_seconds if given is None else given
    if given > kind.deadline_seconds:
        message = f"deadline_seconds is {given:g}; {kind.name} may run for at most {kind.deadline_seconds:g}"
        raise InvalidArguments(message, details={"argument": "deadline_seconds"})
    return given
