"""The tools that start jobs: one for each kind, and ``job_start`` for commands that were allowed by pattern.

A job outlives the call, the connection and the server that started it. The caller gets a handle at
once, or the result if it is ready within ``wait_seconds``; a client that speaks Tasks gets a task.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mcp_types import CallToolRequestParams, CallToolResult, InputRequiredResult, ToolAnnotations

from supervisor.errors import InvalidArguments
from supervisor.interpret import BUILT_IN
from supervisor.mcp_server.access.principals import (
    PRINCIPAL_LABEL,
    RESERVED_PREFIX,
    TOOL_LABEL,
    principal_of,
    scoped_key,
)
from supervisor.mcp_server.backend import Backend
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.mcp_server.config.environment import environment_of
from supervisor.mcp_server.config.kinds import COMMON, Kind
from supervisor.mcp_server.config.patterns import allows
from supervisor.mcp_server.config.places import Places
from supervisor.mcp_server.tools.answers import job_answer, result_answer
from supervisor.mcp_server.tools.jobs import JOB_SHAPE, JobTools, Tool
from supervisor.model import JobSpec
from supervisor.settings import Settings
from supervisor.states import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp.server.context import ServerRequestContext

    from supervisor.model import Job

__all__ = ["Starter", "allows", "kind_tool", "start_tool"]

START: Final = "job_start"

_UNKNOWN_EFFECTS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
)
_NO_EFFECTS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=True)

_COMMAND: Final = (
    Parameter(name="command", type="words", required=True, description="The program, then each argument. No shell."),
    Parameter(name="stdin", max_length=1_000_000, description="What it reads."),
    Parameter(name="interpret", enum=tuple(BUILT_IN), default="raw", description="How its output is read."),
)


class Starter:
    """Starts jobs for callers of tools."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        places: Places,
        became: Callable[[Job], None] = lambda _: None,
    ) -> None:
        """``became`` is told of each job, and may answer the call by itself, by an exception."""
        self._backend = backend
        self._waiting = JobTools(backend, settings)
        self._places = places
        self._became = became

    async def start(
        self,
        ctx: ServerRequestContext[Any, Any],
        params: CallToolRequestParams,
        values: Mapping[str, Any],
        kind: Kind,
        argv: Sequence[str],
        stdin: bytes | None,
    ) -> CallToolResult | InputRequiredResult:
        """Start a job and answer with it, or with what it gave if that is wanted and there in time."""
        principal = principal_of(ctx)
        labels = _own_labels(values["labels"]) | {TOOL_LABEL: kind.name}
        if principal is not None:
            labels[PRINCIPAL_LABEL] = principal
        deadline = _deadline(values["deadline_seconds"], kind)
        place = await self._places.choose(ctx, params, values["workspace"], kind.workspaces)
        if isinstance(place, InputRequiredResult):
            return place
        supervisor = await self._backend.supervisor()
        spec = JobSpec(
            argv=tuple(argv),
            workspace=place.workspace,
            kind=kind.interpret,
            deadline_seconds=deadline,
            stdin=stdin,
            env=environment_of(os.environ, kind.env_pass, kind.env_set),
            labels=labels,
            idempotency_key=scoped_key(principal, values["idempotency_key"]),
            engine=kind.engine,
            engine_options=kind.engine_options,
        )
        job = await supervisor.start(spec)
        self._became(job)
        wait = values["wait_seconds"] or 0
        if wait and not job.status.terminal:
            job = await self._waiting.waited(supervisor, job.job_id, wait)
        never_ran = job.reason is Reason.LAUNCH_FAILED
        if never_ran or (wait and job.status.terminal):
            result = await supervisor.result(job.job_id)
            return result_answer(result, warnings=place.warnings)
        return job_answer(job, warnings=place.warnings)


def _own_labels(given: Mapping[str, str] | None) -> dict[str, str]:
    for name in given or {}:
        if name.startswith(RESERVED_PREFIX):
            message = f"labels has {name!r:.80}; names that begin with {RESERVED_PREFIX!r} are the server's own"
            raise InvalidArguments(message, details={"argument": "labels"})
    return dict(given or {})


def _deadline(given: float | None, kind: Kind) -> float | None:
    if given is None or kind.deadline_seconds is None:
        return kind.deadline_seconds if given is None else given
    if given > kind.deadline_seconds:
        message = f"deadline_seconds is {given:g}; {kind.name} may run for at most {kind.deadline_seconds:g}"
        raise InvalidArguments(message, details={"argument": "deadline_seconds"})
    return given


def kind_tool(kind: Kind, starter: Starter) -> Tool:
    """Return the tool that starts jobs of a kind."""

    async def call(
        ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult | InputRequiredResult:
        argv, stdin = kind.request(values, sys.executable)
        return await starter.start(ctx, params, values, kind, argv, stdin)

    return Tool(
        name=kind.name,
        description=f"{kind.description.rstrip()} Starts a background job; follow it with job_wait and job_result.",
        parameters=(*kind.parameters, *COMMON),
        output=JOB_SHAPE,
        annotations=_NO_EFFECTS if kind.read_only else _UNKNOWN_EFFECTS,
        call=call,
    )


def start_tool(patterns: Sequence[str], starter: Starter) -> Tool:
    """Return the tool that starts any command that one of the patterns allows."""
    shown = ", ".join(patterns)

    async def call(
        ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult | InputRequiredResult:
        command: list[str] = values["command"]
        if not any(allows(pattern, command) for pattern in patterns):
            message = f"the command {shlex.join(command)!r:.200} is not one of those allowed here: {shown}"
            repair = "Give one that is allowed; a * stands for operands, never for an option."
            raise InvalidArguments(message, repair=repair, details={"argument": "command", "allowed": list(patterns)})
        stdin = values["stdin"]
        kind = Kind(name=START, description="", command=(), interpret=values["interpret"])
        return await starter.start(ctx, params, values, kind, command, None if stdin is None else stdin.encode())

    return Tool(
        name=START,
        description="Start a command as a background job; follow it with job_wait and job_result. Allowed (where"
        f" * is no option): {shown}",
        parameters=(*_COMMAND, *COMMON),
        output=JOB_SHAPE,
        annotations=_UNKNOWN_EFFECTS,
        call=call,
    )
