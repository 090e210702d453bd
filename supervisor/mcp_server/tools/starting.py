"""The tools that start jobs: one for each kind, and ``job_start`` for commands that a pattern allows.

A job outlives the call, the connection and the server. The answer is the job, or its result if it ends
within ``wait_seconds``. A client that supports tasks gets a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations

from supervisor.mcp_server.access.jobs import waited
from supervisor.mcp_server.config.kinds import COMMON, Kind
from supervisor.mcp_server.config.requests import COMMAND, START, Wanted, job_spec, of_command, of_kind
from supervisor.mcp_server.config.workspaces import WorkspacePolicy
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.series import may_go_on
from supervisor.mcp_server.tools.answers import result_answer, started_answer
from supervisor.mcp_server.tools.confirming import Confirming
from supervisor.mcp_server.tools.reporting import Reporter
from supervisor.mcp_server.tools.roots import RootsWanted, roots_of
from supervisor.mcp_server.tools.tool import Call, Tool
from supervisor.model import JobSpec
from supervisor.states import Reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.model import Job

__all__ = ["Starter", "kind_tool", "start_tool"]

_UNKNOWN_EFFECTS: Final = ToolAnnotations(read_only_hint=False, destructive_hint=True)
_NO_EFFECTS: Final = ToolAnnotations(read_only_hint=True)


class Starter:
    """Starts jobs for callers of tools.

    Args:
        became: called with each job; it may answer the call with a task, by raising an exception.
    """

    def __init__(
        self,
        lazy: LazySupervisor,
        workspaces: WorkspacePolicy,
        reporter: Reporter,
        became: Callable[[Job], None] = lambda _: None,
    ) -> None:
        self._lazy = lazy
        self._workspaces = workspaces
        self._reporter = reporter
        self._became = became
        self._confirming = Confirming()

    async def start(self, call: Call, wanted: Wanted) -> CallToolResult | InputRequiredResult:
        """Start a job and answer with it, or with its result if the caller waits and it ends in time."""
        values, principal = call.values, call.principal

        def make(workspace: str, state_dir: Path) -> JobSpec:
            return job_spec(wanted, values, principal=principal, workspace=workspace, state_dir=state_dir)

        return await self.begin(call, wanted.kind, values["workspace"], make)

    async def begin(
        self, call: Call, kind: Kind, workspace: str | None, make: Callable[[str, Path], JobSpec]
    ) -> CallToolResult | InputRequiredResult:
        """Do as ``start`` with the request that ``make`` returns for the chosen workspace and the state root."""
        chosen = self._confirming.place(call) if kind.confirm else None
        try:
            if chosen is None:
                chosen = await self._workspaces.choose(workspace, kind.workspaces, partial(roots_of, call))
        except RootsWanted as wanting:
            return wanting.question
        supervisor = await self._lazy.supervisor()
        spec = make(chosen.workspace, supervisor.settings.state_dir)
        if kind.confirm:
            job = await self._confirming.start(call, supervisor, kind, spec, chosen.warnings)
            if isinstance(job, InputRequiredResult):
                return job
        else:
            job = await supervisor.start(spec)
        self._became(job)
        wait = call.values["wait_seconds"] or 0
        if wait and may_go_on(job):
            job = await waited(self._lazy, job.job_id, wait, partial(self._reporter.report, call, supervisor, job))
        if not may_go_on(job) and (wait or job.reason is Reason.LAUNCH_FAILED):
            return result_answer(await supervisor.result(job.job_id), warnings=chosen.warnings)
        return started_answer(job, warnings=chosen.warnings)


def kind_tool(kind: Kind, starter: Starter) -> Tool:
    """Return the tool that starts jobs of a kind."""

    async def run(call: Call) -> CallToolResult | InputRequiredResult:
        return await starter.start(call, of_kind(kind, call.values))

    return Tool(
        name=kind.name,
        description=f"{kind.description.rstrip()} Starts a job: call job_wait, then job_result.",
        parameters=(*kind.parameters, *COMMON),
        annotations=_NO_EFFECTS if kind.read_only else _UNKNOWN_EFFECTS,
        run=run,
    )


def start_tool(patterns: Sequence[str], starter: Starter) -> Tool:
    """Return the tool that starts any command that one of the patterns allows."""
    shown = ", ".join(patterns)

    async def run(call: Call) -> CallToolResult | InputRequiredResult:
        return await starter.start(call, of_command(patterns, call.values))

    return Tool(
        name=START,
        description="Start a command as a job: call job_wait, then job_result. "
        f"Allowed commands (a * matches no option): {shown}",
        parameters=(*COMMAND, *COMMON),
        annotations=_UNKNOWN_EFFECTS,
        run=run,
    )
