"""The tools that a host can call about jobs: thin over the library, with no policy of their own."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
from mcp_types import CallToolRequestParams, CallToolResult, InputRequiredResult, ToolAnnotations
from mcp_types import Tool as ToolDescription

from supervisor.errors import JobNotFound, JobRunning, SupervisorError
from supervisor.jobdir.output import Output
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL, may_see, principal_of
from supervisor.mcp_server.backend import Backend
from supervisor.mcp_server.config.arguments import Parameter, schema_of
from supervisor.mcp_server.tools.answers import MOST_CHARACTERS, answer, job_answer, list_answer, result_answer
from supervisor.model import Job, Result
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store.state_errors import state_error
from supervisor.system.observing import NotKnown

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from supervisor.runtime.supervisor import Supervisor

__all__ = ["JOB_SHAPE", "JobTools", "Tool", "job_tools"]

Call = Callable[
    ["ServerRequestContext[Any, Any]", CallToolRequestParams, Mapping[str, Any]],
    Awaitable[CallToolResult | InputRequiredResult],
]

_WAIT_SECONDS: Final = 45
_MOST_CHARACTERS_AT_ALL: Final = 1 << 20
"""Of a value, whatever is asked for: an answer is made in a few times its length of memory."""
_MOST_ON_THE_LOOP: Final = 1 << 18


@attrs.frozen(slots=True, kw_only=True)
class Tool:
    """One tool: what a host is told about it, and what calling it does."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    output: Mapping[str, Any]
    annotations: ToolAnnotations
    call: Call

    def describe(self) -> ToolDescription:
        """Return what ``tools/list`` says."""
        return ToolDescription(
            name=self.name,
            description=self.description,
            input_schema=schema_of(self.parameters),
            output_schema=dict(self.output),
            annotations=self.annotations,
        )


def _shape(**properties: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "object", "properties": {"ok": {"type": "boolean"}, **properties}, "required": ["ok"]}


_TEXT: Final = {"type": "string"}
_OBJECT: Final = {"type": "object"}

# Every host pays for these in every session: the keys that a caller acts on, not all there are.
JOB_SHAPE: Final = _shape(job_id=_TEXT, status={"enum": [each.value for each in State]}, next=_TEXT, error=_OBJECT)
"""The schema of answers that are a job."""
_RESULT_SHAPE: Final = _shape(job_id=_TEXT, value={}, job=_OBJECT, error=_OBJECT)
_LIST_SHAPE: Final = _shape(jobs={"type": "array", "items": _OBJECT}, next_cursor={"type": ["string", "null"]})
_LOGS_SHAPE: Final = _shape(value=_TEXT, next_offset={"type": "integer"}, ended={"type": "boolean"}, error=_OBJECT)

_READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_CONSUMES: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
_STOPS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)

_JOB_ID: Final = Parameter(name="job_id", required=True, max_length=64)
_DETAIL: Final = Parameter(name="detail", enum=("summary", "full"), description="How much of an agent's answer.")


class JobTools:
    """What the job tools do."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        """Keep what they work on."""
        self._backend = backend
        self._settings = settings

    async def seen(self, ctx: ServerRequestContext[Any, Any], job_id: str) -> tuple[Supervisor, Job]:
        """Return the supervisor and a job that the caller may see.

        Raises:
            JobNotFound: there is none of this id for this caller.
        """
        supervisor = await self._backend.supervisor()
        job = await supervisor.status(job_id)
        if not may_see(principal_of(ctx), job):
            message = f"there is no job {job_id!r:.80}"
            raise JobNotFound(message, details={"job_id": job_id[:80]})
        return supervisor, job

    async def status(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult:
        """Answer with a job as it is now."""
        del params
        _, job = await self.seen(ctx, values["job_id"])
        return job_answer(job, whole=True)

    async def result(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult:
        """Answer with what a finished job gave; a long text is cut, and says so."""
        del params
        supervisor, _ = await self.seen(ctx, values["job_id"])
        result = await supervisor.result(values["job_id"], detail=values["detail"])
        most = min(int(values["max_characters"]), _MOST_CHARACTERS_AT_ALL)
        return await _in_thread_if_large(result, most)

    async def consume_result(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult:
        """Answer with what a finished job gave, and forget the job unless that is too much for one answer."""
        del params
        supervisor, job = await self.seen(ctx, values["job_id"])
        fits = job.stdout_bytes <= _MOST_CHARACTERS_AT_ALL
        result = await supervisor.result(values["job_id"], consume=fits, detail=values["detail"])
        warnings = () if fits or not result.ok else ("The job is kept: its output is too long for one answer.",)
        return await _in_thread_if_large(result, None if fits else _MOST_CHARACTERS_AT_ALL, warnings)

    async def cancel(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult:
        """Stop a job and answer with it when nothing of it is left."""
        del params
        supervisor, _ = await self.seen(ctx, values["job_id"])
        return job_answer(await supervisor.cancel(values["job_id"]))

    async def wait(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult:
        """Answer with a job when it has ended, or when the time is up."""
        del params
        supervisor, job = await self.seen(ctx, values["job_id"])
        if not job.status.terminal:
            job = await self.waited(supervisor, values["job_id"], values["timeout_seconds"])
        return job_answer(job)

    async def waited(self, supervisor: Supervisor, job_id: str, seconds: float) -> Job:
        """Return a job when it has ended, ``seconds`` have passed, or the server is about to end."""
        outcome: list[Job | SupervisorError] = []

        async def wait() -> None:
            try:
                outcome.append(await supervisor.wait(job_id, timeout=seconds))
            except SupervisorError as error:  # out of a nursery it would come in a group
                outcome.append(error)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await self._backend.ending.wait()
            nursery.cancel_scope.cancel()
        match outcome:
            case [Job() as job]:
                return job
            case [SupervisorError() as error] if not isinstance(error, JobRunning):
                raise error
            case _:
                return await supervisor.status(job_id)

    async def list(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult:
        """Answer with a page of the caller's jobs."""
        del params
        supervisor = await self._backend.supervisor()
        principal = principal_of(ctx)
        own = {} if principal is None else {PRINCIPAL_LABEL: principal}
        page = await supervisor.list(
            workspace=values["workspace"],
            state=values["state"],
            labels={**(values["labels"] or {}), **own},
            limit=int(values["limit"]),
            cursor=values["cursor"],
        )
        return list_answer(page)

    async def logs(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams, values: Mapping[str, Any]
    ) -> CallToolResult:
        """Answer with a part of what a job wrote: its end, or from a given byte on."""
        del params
        _, job = await self.seen(ctx, values["job_id"])
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
    """Return a part of what a job wrote as ``value``, ``offset``, ``next_offset`` and ``size``, all in bytes.

    ``offset``: where it begins; ``None`` is where its last ``limit`` bytes do. Text is cut between
    characters; what is not UTF-8 comes as base64, and ``encoding`` says so. Where a running command has
    truncated its output, so that it is shorter than ``offset``, it begins at 0, and ``restarted`` says so.

    Raises:
        OutputLost: the job has ended, and there are fewer bytes of the stream than its record says.
        StateBusy: it cannot be read now.
    """
    try:
        return await trio.to_thread.run_sync(_read_output, settings, job, stream, offset, limit)
    except NotKnown as error:
        raise state_error(error, f"cannot read the output of job {job.job_id} now") from error


def _read_output(settings: Settings, job: Job, stream: str, offset: int | None, limit: int) -> dict[str, Any]:
    from supervisor.jobs.catalog import Catalog

    with Catalog(settings, create=False) as catalog:
        directory = catalog.directory(row := catalog.row(job.job_id))
    end = getattr(job, f"{stream}_bytes") if job.status.terminal else None
    with contextlib.closing(Output(directory, stream, end=end, limit=row.output_limit)) as output:
        output.made = row.has_files
        size = output.size()
        restarted = offset is not None and offset > size and end is None
        begin = max(0, size - limit) if offset is None else 0 if restarted else min(offset, size)
        output.seek(begin)
        data = output.read(limit)
    text, skipped, taken = _whole_characters(data, from_middle=offset is None and begin > 0)
    shape: dict[str, Any] = {"offset": begin + skipped, "next_offset": begin + taken, "size": size}
    if restarted:
        shape["restarted"] = True
    if output.is_cut:  # at the limit of the job, which is what ``size`` is then
        shape["truncated"] = True
    if text is None:
        return {"value": base64.b64encode(data).decode("ascii"), "encoding": "base64", **shape}
    return {"value": text, **shape}


def _whole_characters(data: bytes, *, from_middle: bool) -> tuple[str | None, int, int]:
    """Return the text without characters that were cut at its ends, and where in ``data`` it begins and ends."""
    begin = 0
    if from_middle:
        while begin < min(3, len(data)) and data[begin] & 0xC0 == 0x80:
            begin += 1
    for missing in range(min(4, len(data) - begin + 1)):
        try:
            return data[begin : len(data) - missing].decode(), begin, len(data) - missing
        except UnicodeDecodeError as error:
            if error.end < len(data) - missing:  # not a character that was cut, but none at all
                break
    return None, 0, len(data)


async def _in_thread_if_large(result: Result, most: int | None, warnings: Sequence[str] = ()) -> CallToolResult:
    """Return the answer that holds a result. Others are not to wait for that of a large one."""
    if result.job.stdout_bytes <= _MOST_ON_THE_LOOP:
        return result_answer(result, most_characters=most, warnings=warnings)
    return await trio.to_thread.run_sync(lambda: result_answer(result, most_characters=most, warnings=warnings))


def job_tools(backend: Backend, settings: Settings) -> tuple[Tool, ...]:
    """Return the tools that every server has."""
    does = JobTools(backend, settings)
    return (
        Tool(
            name="job_status",
            description="Show one job as it is now, without waiting. To wait for its end use job_wait.",
            parameters=(_JOB_ID,),
            output=JOB_SHAPE,
            annotations=_READS,
            call=does.status,
        ),
        Tool(
            name="job_wait",
            description="Wait until a job has ended, at most timeout_seconds; answers with the job. "
            "Still running: call it again. Ended: call job_result.",
            parameters=(
                _JOB_ID,
                Parameter(
                    name="timeout_seconds",
                    type="number",
                    default=_WAIT_SECONDS,
                    minimum=0,
                    maximum=3600,
                    description="Stay below your tool time-out.",
                ),
            ),
            output=JOB_SHAPE,
            annotations=_READS,
            call=does.wait,
        ),
        Tool(
            name="job_result",
            description="Get what a finished job gave, or why it failed. Can be called again until the job expires.",
            parameters=(
                _JOB_ID,
                _DETAIL,
                Parameter(
                    name="max_characters",
                    type="integer",
                    default=MOST_CHARACTERS,
                    minimum=1,
                    maximum=1 << 26,
                    description="A longer value is cut.",
                ),
            ),
            output=_RESULT_SHAPE,
            annotations=_READS,
            call=does.result,
        ),
        Tool(
            name="job_consume_result",
            description="Get what a finished job gave and forget the job: its result, logs and id are gone after that.",
            parameters=(_JOB_ID, _DETAIL),
            output=_RESULT_SHAPE,
            annotations=_CONSUMES,
            call=does.consume_result,
        ),
        Tool(
            name="job_cancel",
            description="Stop a job and everything it started; answers when nothing of it is left. "
            "A finished job is left as it is.",
            parameters=(_JOB_ID,),
            output=JOB_SHAPE,
            annotations=_STOPS,
            call=does.cancel,
        ),
        Tool(
            name="job_list",
            description="List jobs, newest first.",
            parameters=(
                Parameter(name="state", enum=tuple(each.value for each in State)),
                Parameter(name="workspace", max_length=4096, description="Absolute path; default: all."),
                Parameter(name="labels", type="labels"),
                Parameter(name="limit", type="integer", default=20, minimum=1, maximum=100),
                Parameter(name="cursor", max_length=32, description="next_cursor of the page before."),
            ),
            output=_LIST_SHAPE,
            annotations=_READS,
            call=does.list,
        ),
        Tool(
            name="job_logs",
            description="Read what a job has written so far, also while it runs: the end of it, or from offset on.",
            parameters=(
                _JOB_ID,
                Parameter(name="stream", enum=("stdout", "stderr"), default="stdout"),
                Parameter(name="offset", type="integer", minimum=0, description="In bytes; next_offset goes on."),
                Parameter(name="max_bytes", type="integer", default=16384, minimum=4, maximum=1 << 20),
            ),
            output=_LOGS_SHAPE,
            annotations=_READS,
            call=does.logs,
        ),
    )
