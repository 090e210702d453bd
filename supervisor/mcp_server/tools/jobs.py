"""The tools about jobs, thin over the library."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
from mcp_types import CallToolResult, ToolAnnotations

from supervisor.jobdir.output import Output, read_piece
from supervisor.mcp_server.access.jobs import visible, waited
from supervisor.mcp_server.access.principals import own_labels
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.series import last_attempt, may_go_on
from supervisor.mcp_server.tools.answers import MAX_CHARACTERS, answer, is_cut, job_answer, list_answer, result_answer
from supervisor.mcp_server.tools.reporting import Reporter
from supervisor.mcp_server.tools.tool import Call, Tool
from supervisor.model import Job, Result
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store.state_errors import state_error
from supervisor.system.observing import NotKnown

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["JobTools", "job_tools", "read_output"]

_WAIT_SECONDS: Final = 45
_MAX_WAIT_SECONDS: Final = 3600
_MAX_ANSWER_CHARACTERS: Final = 1 << 20
"""The maximum length of a value in an answer: building an answer takes several times its length of memory."""
_MAX_ON_THE_LOOP: Final = 1 << 18
_SMALL: Final = 1000
"""Output of this many bytes is a value that fits into every answer."""


_READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_CONSUMES: Final = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
_STOPS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)

_JOB_ID: Final = Parameter(name="job_id", required=True, max_length=64, lists_bounds=False)
_WHOLE: Final = Parameter(name="detail", enum=("summary", "full"), default="summary")
_QUIETLY_WHOLE: Final = attrs.evolve(_WHOLE, listed=False)
_DETAIL: Final = Parameter(name="detail", enum=("summary", "full"))


class JobTools:
    """The functions of the job tools."""

    def __init__(self, lazy: LazySupervisor, settings: Settings, reporter: Reporter) -> None:
        self._lazy = lazy
        self._settings = settings
        self._reporter = reporter

    async def _named(self, call: Call) -> tuple[Supervisor, Job]:
        return await visible(self._lazy, call.principal, call.values["job_id"])

    async def status(self, call: Call) -> CallToolResult:
        """Answer with the current state of a job."""
        _, job = await self._named(call)
        return job_answer(job, whole=_is_whole(call))

    async def result(self, call: Call) -> CallToolResult:
        """Answer with the result of a finished job, cut if it is long."""
        supervisor, job = await self._named(call)
        values = call.values
        offset = None if values["offset"] is None else int(values["offset"])
        detail = values["detail"] or (None if offset is None else "full")  # an offset counts in the whole text
        result = await supervisor.result(job.job_id, detail=detail)
        return await _in_thread_if_large(result, _characters(call), offset=offset)

    async def consume_result(self, call: Call) -> CallToolResult:
        """Answer with the result of a finished job, and delete the job if the result fits into the answer."""
        supervisor, job = await self._named(call)
        job = await last_attempt(supervisor, job)
        detail = call.values["detail"]
        if job.stdout_bytes > _SMALL:
            result = await supervisor.result(job.job_id, detail=detail)
            kept = ("The job is kept, because its result does not fit into this answer.",)
            made = await _in_thread_if_large(result, _characters(call), warnings=kept)
            if is_cut(made):
                return made
        result = await supervisor.result(job.job_id, consume=True, detail=detail)
        return await _in_thread_if_large(result, None)

    async def cancel(self, call: Call) -> CallToolResult:
        """Stop a job and answer once none of its processes is left."""
        supervisor, job = await self._named(call)
        return job_answer(await supervisor.cancel(job.job_id), whole=_is_whole(call))

    async def wait(self, call: Call) -> CallToolResult:
        """Answer with a job once it has ended or the time has passed."""
        supervisor, job = await self._named(call)
        if may_go_on(job):
            report = partial(self._reporter.report, call, supervisor, job)
            job = await waited(self._lazy, job.job_id, call.values["timeout_seconds"], report)
        return job_answer(job, whole=_is_whole(call))

    async def list(self, call: Call) -> CallToolResult:
        """Answer with a page of the caller's jobs."""
        values = call.values
        supervisor = await self._lazy.supervisor()
        page = await supervisor.list(
            workspace=values["workspace"],
            state=values["state"],
            labels={**(values["labels"] or {}), **own_labels(call.principal)},
            limit=int(values["limit"]),
            cursor=values["cursor"],
        )
        return list_answer(page, whole=_is_whole(call))

    async def logs(self, call: Call) -> CallToolResult:
        """Answer with a part of a job's output: its end, or the bytes from an offset on."""
        values = call.values
        _, job = await self._named(call)
        offset = None if values["offset"] is None else int(values["offset"])
        piece = await read_output(self._settings, job, values["stream"], offset=offset, limit=int(values["max_bytes"]))
        shape: dict[str, Any] = {"ok": True, "job_id": job.job_id, "stream": values["stream"], **piece}
        shape["ended"] = job.status.terminal
        if shape["next_offset"] < shape["size"]:
            shape["next"] = f"There is more: call job_logs with offset {shape['next_offset']}."
        elif not shape["ended"]:
            shape["next"] = f"It may write more: call job_wait, or job_logs with offset {shape['next_offset']} later."
        return answer(shape)


async def read_output(settings: Settings, job: Job, stream: str, *, offset: int | None, limit: int) -> dict[str, Any]:
    """Return a part of a job's output: ``value``, and in bytes ``offset``, ``next_offset`` and ``size``.

    ``offset`` is the begin of the part; ``None`` reads the last ``limit`` bytes. Text is cut between characters.
    The stream ``diff`` is what the job has changed in its worktree, and begins at 0 without an ``offset``.
    Output that is not UTF-8 is base64, and ``encoding`` is then set. If a running command has truncated its output
    below ``offset``, the part begins at 0, and ``restarted`` is true.

    Raises:
        OutputLost: the job has ended, and its output has fewer bytes than its record says.
        StateBusy: the output cannot be read now.
    """
    try:
        return await trio.to_thread.run_sync(_read_output, settings, job, stream, offset, limit)
    except NotKnown as error:
        raise state_error(error, f"cannot read the output of job {job.job_id} now") from error


def _read_output(settings: Settings, job: Job, stream: str, offset: int | None, limit: int) -> dict[str, Any]:
    from supervisor.jobs.catalog import Catalog

    with Catalog(settings, create=False) as catalog:
        directory = catalog.directory(row := catalog.row(job.job_id))
        if stream == "diff":
            from supervisor.jobs.worktrees import diff_from  # few jobs have one

            begin = offset or 0
            data, size = diff_from(catalog, job.job_id, begin, limit)
            return {
                "value": data.decode(errors="replace"),
                "offset": begin,
                "next_offset": begin + len(data),
                "size": size,
            }
    end = getattr(job, f"{stream}_bytes") if job.status.terminal else None
    output = Output(directory, stream, end=end, limit=row.output_limit)
    output.made = row.has_files
    piece = read_piece(output, offset, limit)
    text, skipped, taken = _whole_characters(piece.data, from_middle=offset is None and piece.offset > 0)
    shape: dict[str, Any] = {
        "offset": piece.offset + skipped,
        "next_offset": piece.offset + taken,
        "size": piece.size,
    }
    if piece.restarted:
        shape["restarted"] = True
    if piece.is_cut:  # at the limit of the job, which is what ``size`` is then
        shape["truncated"] = True
    if text is None:
        return {"value": base64.b64encode(piece.data).decode("ascii"), "encoding": "base64", **shape}
    return {"value": text, **shape}


def _whole_characters(data: bytes, *, from_middle: bool) -> tuple[str | None, int, int]:
    """Return the text without the characters that are cut at its ends, and its begin and end in ``data``."""
    begin = 0
    if from_middle:
        while begin < min(3, len(data)) and data[begin] & 0xC0 == 0x80:
            begin += 1
    for missing in range(min(4, len(data) - begin + 1)):
        try:
            return data[begin : len(data) - missing].decode(), begin, len(data) - missing
        except UnicodeDecodeError as error:
            if error.end < len(data) - missing:  # invalid bytes, not a cut character
                break
    return None, 0, len(data)


def _is_whole(call: Call) -> bool:
    return bool(call.values["detail"] == "full")


def _characters(call: Call) -> int:
    return min(int(call.values["max_characters"]), _MAX_ANSWER_CHARACTERS)


async def _in_thread_if_large(
    result: Result, most: int | None, *, offset: int | None = None, warnings: Sequence[str] = ()
) -> CallToolResult:
    """Return the answer with a result; build a large one in a thread, so that other requests are served."""
    make = partial(result_answer, result, max_characters=most, offset=offset, warnings=warnings)
    return make() if result.job.stdout_bytes <= _MAX_ON_THE_LOOP else await trio.to_thread.run_sync(make)


def job_tools(lazy: LazySupervisor, settings: Settings, reporter: Reporter) -> tuple[Tool, ...]:
    """Return the job tools, which every server has."""
    does = JobTools(lazy, settings, reporter)

    def tool(
        run: Callable[[Call], Awaitable[CallToolResult]],
        description: str,
        *parameters: Parameter,
        annotations: ToolAnnotations = _READS,
        is_long: bool = False,
    ) -> Tool:
        name = f"job_{run.__name__}"
        return Tool(
            name=name,
            description=description,
            parameters=parameters,
            annotations=annotations,
            run=run,
            is_long=is_long,
        )

    seconds = Parameter(
        name="timeout_seconds",
        type="number",
        default=_WAIT_SECONDS,
        minimum=0,
        maximum=_MAX_WAIT_SECONDS,
        description="Stay below your tool time-out.",
        lists_bounds=False,
    )
    characters = Parameter(
        name="max_characters",
        type="integer",
        default=MAX_CHARACTERS,
        minimum=1,
        maximum=1 << 26,
        lists_bounds=False,
    )
    return (
        tool(does.status, "Show one job, without waiting. To wait for its end, use job_wait.", _JOB_ID, _WHOLE),
        tool(
            does.wait,
            "Wait for the end of a job. If it still runs after timeout_seconds, call job_wait again; else job_result.",
            _JOB_ID,
            seconds,
            _QUIETLY_WHOLE,
        ),
        tool(
            does.result,
            "Get the result of an ended job, or why it failed. Repeatable until it expires.",
            _JOB_ID,
            _DETAIL,
            characters,
            Parameter(name="offset", type="integer", minimum=0, description="A next_offset.", lists_bounds=False),
            is_long=True,
        ),
        tool(
            does.consume_result,
            "Get the result of an ended job and delete the job, with its logs.",
            _JOB_ID,
            _DETAIL,
            characters,
            annotations=_CONSUMES,
            is_long=True,
        ),
        tool(
            does.cancel,
            "Stop a job and wait until none of its processes is left.",
            _JOB_ID,
            _QUIETLY_WHOLE,
            annotations=_STOPS,
        ),
        tool(
            does.list,
            "List jobs, newest first.",
            Parameter(name="state", enum=tuple(each.value for each in State)),
            Parameter(name="workspace", max_length=4096, lists_bounds=False),
            Parameter(name="labels", type="labels"),
            Parameter(name="limit", type="integer", default=20, minimum=1, maximum=100, lists_bounds=False),
            Parameter(name="cursor", max_length=32, description="A next_cursor.", lists_bounds=False),
            _QUIETLY_WHOLE,
        ),
        tool(
            does.logs,
            "Read the output of a job, also while it runs: its last max_bytes, or from offset on; or its diff.",
            _JOB_ID,
            Parameter(name="stream", enum=("stdout", "stderr", "diff"), default="stdout"),
            Parameter(name="offset", type="integer", minimum=0, description="In bytes.", lists_bounds=False),
            Parameter(name="max_bytes", type="integer", default=16384, minimum=4, maximum=1 << 20, lists_bounds=False),
            is_long=True,
        ),
    )
