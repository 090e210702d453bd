"""The tools that act on a job of a kind with ``control``: pause, resume, send, rerun, continue.

A kind names what callers may do with its jobs; what no kind names has no tool. Each call checks the kind of its job by
the label that the server has set, after the check that the caller may see the job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations

from supervisor.errors import InvalidArguments, PermissionDenied
from supervisor.mcp_server.access.jobs import visible
from supervisor.mcp_server.access.principals import TOOL_LABEL, scoped_key
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.mcp_server.config.kinds import COMMON, Kind
from supervisor.mcp_server.config.requests import again
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.series import last_attempt
from supervisor.mcp_server.tools.answers import answer, job_answer
from supervisor.mcp_server.tools.starting import Starter
from supervisor.mcp_server.tools.tool import Call, Tool

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.model import Job, JobSpec
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["STARTS_AGAIN", "control_tools"]

STARTS_AGAIN: Final = frozenset({"job_rerun", "job_continue"})
"""The names of the tools that start a job."""

_PAUSES: Final = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True)
_ACTS: Final = ToolAnnotations(read_only_hint=False, destructive_hint=True)

_JOB_ID: Final = Parameter(name="job_id", required=True, max_length=64, lists_bounds=False)
_TEXT: Final = Parameter(name="text", default="", max_length=1 << 16, lists_bounds=False)
_EOF: Final = Parameter(name="eof", type="boolean", default=False, description="Close its stdin after that.")
_PROMPT: Final = Parameter(
    name="prompt", required=True, min_length=1, max_length=100_000, lists_bounds=False, description="What to do next."
)
_AGAIN: Final = tuple(each for each in COMMON if each.name in {"idempotency_key", "wait_seconds"})


class _ControlTools:
    """The functions of the tools, each named as its tool."""

    def __init__(self, lazy: LazySupervisor, kinds: Sequence[Kind], starter: Starter) -> None:
        self._lazy = lazy
        self._kinds: Mapping[str, Kind] = {kind.name: kind for kind in kinds}
        self._starter = starter

    async def _allowed(self, call: Call, control: str) -> tuple[Supervisor, Job, Kind]:
        """Return the supervisor, the job of a call, and its kind, which must allow ``control``.

        Raises:
            JobNotFound: there is no such job for the caller.
            PermissionDenied: its kind does not allow it.
        """
        supervisor, job = await visible(self._lazy, call.principal, call.values["job_id"])
        job = await last_attempt(supervisor, job)
        name = job.labels.get(TOOL_LABEL)
        kind = self._kinds.get(name or "")
        if kind is None or control not in kind.control:
            of_kind = "which no kind of this server has started" if name is None else f"a job of {name!r:.80}"
            message = f"job {job.job_id} is {of_kind}: the kinds file allows no {control} for it"
            repair = f"Ask the user to do it in a shell, or to add {control!r} to `control` of the kind."
            raise PermissionDenied(message, repair=repair, details={"job_id": job.job_id})
        return supervisor, job, kind

    async def pause(self, call: Call) -> CallToolResult:
        """Pause a job; its deadline runs on, so that a pause prolongs nothing."""
        supervisor, job, _ = await self._allowed(call, "pause")
        return job_answer(await supervisor.pause(job.job_id))

    async def resume(self, call: Call) -> CallToolResult:
        """Continue a paused job."""
        supervisor, job, _ = await self._allowed(call, "pause")
        return job_answer(await supervisor.resume(job.job_id))

    async def send(self, call: Call) -> CallToolResult:
        """Deliver a text to the stdin of a job."""
        supervisor, job, _ = await self._allowed(call, "send")
        data = call.values["text"].encode()
        await supervisor.send(job.job_id, data, eof=call.values["eof"])
        following = "Call job_logs to see what it writes."
        return answer({"ok": True, "job_id": job.job_id, "sent_bytes": len(data), "next": following})

    async def rerun(self, call: Call) -> CallToolResult | InputRequiredResult:
        """Start a new job with the command of another one."""
        supervisor, job, kind = await self._allowed(call, "rerun")
        if kind.stdin is not None:
            message = f"jobs of {kind.name} get input, which is not kept"
            raise InvalidArguments(message, repair=f"Call {kind.name} with the same arguments.")
        return await self._again(call, supervisor, job, kind, {"stdin": None})

    async def continue_(self, call: Call) -> CallToolResult | InputRequiredResult:
        """Start a new job that continues the session of the agent of another one."""
        supervisor, job, kind = await self._allowed(call, "continue")
        return await self._again(call, supervisor, job, kind, {}, call.values["prompt"])

    async def _again(
        self,
        call: Call,
        supervisor: Supervisor,
        job: Job,
        kind: Kind,
        options: Mapping[str, Any],
        prompt: str | None = None,
    ) -> CallToolResult | InputRequiredResult:
        from supervisor.jobs.rerunning import request_again  # it delays the first answer

        settings = again(kind, job, state_dir=supervisor.settings.state_dir)
        if prompt is not None:  # the session is in the worktree of the job
            del settings["worktree"]
        settings |= options
        spec = await supervisor.access.in_thread(
            lambda catalog: request_again(catalog, job.job_id, None, settings, prompt)
        )
        key = scoped_key(call.principal, call.values["idempotency_key"])

        def make(workspace: str, _: Path) -> JobSpec:
            return attrs.evolve(spec, workspace=workspace, idempotency_key=key)

        return await self._starter.begin(call, kind, job.workspace, make)


def control_tools(lazy: LazySupervisor, kinds: Sequence[Kind], starter: Starter) -> Sequence[Tool]:
    """Return a tool for each thing that a kind allows; without such a kind there are none."""
    does = _ControlTools(lazy, kinds, starter)
    allowed = {control for kind in kinds for control in kind.control}

    def tool(
        control: str,
        run: Callable[[Call], Awaitable[CallToolResult | InputRequiredResult]],
        description: str,
        *parameters: Parameter,
        annotations: ToolAnnotations = _ACTS,
    ) -> tuple[Tool, ...]:
        if control not in allowed:
            return ()
        name = f"job_{run.__name__.rstrip('_')}"
        parameters = (_JOB_ID, *parameters)
        return (Tool(name=name, description=description, parameters=parameters, annotations=annotations, run=run),)

    return (
        *tool("pause", does.pause, "Pause a job. Its deadline runs on.", annotations=_PAUSES),
        *tool("pause", does.resume, "Continue a paused job.", annotations=_PAUSES),
        *tool("send", does.send, "Write text to the stdin of a running job, at most once.", _TEXT, _EOF),
        *tool("rerun", does.rerun, "Start a new job with the command of an earlier one.", *_AGAIN),
        *tool(
            "continue",
            does.continue_,
            "Start a new job that continues the session of the agent of an ended one.",
            _PROMPT,
            *_AGAIN,
        ),
    )
