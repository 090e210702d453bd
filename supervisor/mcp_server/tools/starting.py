"""The tools that start jobs: one for each kind, and ``job_start`` for commands that a pattern allows.

A job outlives the call, the connection and the server. The answer is the job, or its result if it ends
within ``wait_seconds``. A client that supports tasks gets a task.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations

from supervisor.errors import InvalidArguments
from supervisor.interpret import BUILT_IN
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL, RESERVED_PREFIX, TOOL_LABEL, scoped_key
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.mcp_server.config.environment import environment_of
from supervisor.mcp_server.config.kinds import COMMON, Kind
from supervisor.mcp_server.config.patterns import allows
from supervisor.mcp_server.config.workspaces import WorkspacePolicy
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.series import may_go_on
from supervisor.mcp_server.tools.answers import job_answer, result_answer
from supervisor.mcp_server.tools.jobs import JOB_SHAPE, JobTools
from supervisor.mcp_server.tools.tool import Call, Tool
from supervisor.model import JobSpec
from supervisor.settings import Settings
from supervisor.states import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.model import Job

__all__ = ["Starter", "kind_tool", "start_tool"]

START: Final = "job_start"

_UNKNOWN_EFFECTS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
)
_NO_EFFECTS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=True)

_COMMAND: Final = (
    Parameter(name="command", type="words", required=True, description="The program, then each argument. No shell."),
    Parameter(name="stdin", max_length=1_000_000, description="The input of the command."),
    Parameter(name="interpret", enum=tuple(BUILT_IN), default="raw", description="How its output is interpreted."),
)


class Starter:
    """Starts jobs for callers of tools.

    Args:
        became: called with each job; it may answer the call with a task, by raising an exception.
    """

    def __init__(
        self,
        lazy: LazySupervisor,
        settings: Settings,
        workspaces: WorkspacePolicy,
        became: Callable[[Job], None] = lambda _: None,
    ) -> None:
        self._lazy = lazy
        self._waiting = JobTools(lazy, settings)
        self._workspaces = workspaces
        self._became = became

    async def start(
        self, call: Call, kind: Kind, argv: Sequence[str], stdin: bytes | None
    ) -> CallToolResult | InputRequiredResult:
        """Start a job and answer with it, or with its result if the caller waits and it ends in time."""
        values, principal = call.values, call.principal
        labels = _own_labels(values["labels"]) | {TOOL_LABEL: kind.name}
        if principal is not None:
            labels[PRINCIPAL_LABEL] = principal
        deadline = _deadline(values["deadline_seconds"], kind)
        chosen = await self._workspaces.choose(call.context, call.params, values["workspace"], kind.workspaces)
        if isinstance(chosen, InputRequiredResult):
            return chosen
        supervisor = await self._lazy.supervisor()
        spec = JobSpec(
            argv=tuple(argv),
            workspace=chosen.workspace,
            kind=kind.interpret,
            deadline_seconds=deadline,
            stdin=stdin,
            env=environment_of(os.environ, kind.env_pass, kind.env_set),
            labels=labels,
            idempotency_key=scoped_key(principal, values["idempotency_key"]),
            engine=kind.engine,
            engine_options=kind.engine_options,
            groups=kind.groups,
            priority=kind.priority,
            start_within_seconds=kind.start_within_seconds,
            retry=kind.retry,
        )
        job = await supervisor.start(spec)
        self._became(job)
        wait = values["wait_seconds"] or 0
        if wait and may_go_on(job):
            job = await self._waiting.waited(supervisor, job.job_id, wait)
        if not may_go_on(job) and (wait or job.reason is Reason.LAUNCH_FAILED):
            return result_answer(await supervisor.result(job.job_id), warnings=chosen.warnings)
        return job_answer(job, warnings=chosen.warnings)


def _own_labels(given: Mapping[str, str] | None) -> dict[str, str]:
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


def kind_tool(kind: Kind, starter: Starter) -> Tool:
    """Return the tool that starts jobs of a kind."""

    async def run(call: Call) -> CallToolResult | InputRequiredResult:
        return await starter.start(call, kind, *kind.request(call.values, sys.executable))

    return Tool(
        name=kind.name,
        description=f"{kind.description.rstrip()} Starts a background job; call job_wait and job_result next.",
        parameters=(*kind.parameters, *COMMON),
        output=JOB_SHAPE,
        annotations=_NO_EFFECTS if kind.read_only else _UNKNOWN_EFFECTS,
        run=run,
    )


def start_tool(patterns: Sequence[str], starter: Starter) -> Tool:
    """Return the tool that starts any command that one of the patterns allows."""
    shown = ", ".join(patterns)

    async def run(call: Call) -> CallToolResult | InputRequiredResult:
        command: list[str] = call.values["command"]
        if not any(allows(pattern, command) for pattern in patterns):
            message = f"the command {shlex.join(command)!r:.200} is not allowed here; allowed are: {shown}"
            repair = "Give an allowed command; a * matches operands, never an option."
            raise InvalidArguments(message, repair=repair, details={"argument": "command", "allowed": list(patterns)})
        stdin = call.values["stdin"]
        kind = Kind(name=START, description="", command=(), interpret=call.values["interpret"])
        return await starter.start(call, kind, command, None if stdin is None else stdin.encode())

    return Tool(
        name=START,
        description="Start a command as a background job; call job_wait and job_result next. Allowed commands (a *"
        f" matches no option): {shown}",
        parameters=(*_COMMAND, *COMMON),
        output=JOB_SHAPE,
        annotations=_UNKNOWN_EFFECTS,
        run=run,
    )
