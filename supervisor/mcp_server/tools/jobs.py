"""The tools about jobs, thin over the library."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio
from mcp_types import CallToolResult, ToolAnnotations

from supervisor.errors import JobNotFound, JobRunning, SupervisorError
from supervisor.jobdir.output import Output, read_piece
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL, may_see
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.series import last_attempt, may_go_on
from supervisor.mcp_server.tools.answers import MAX_CHARACTERS, answer, job_answer, list_answer, result_answer
from supervisor.mcp_server.tools.tool import Call, Tool
from supervisor.model import Job, Result
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store.state_errors import state_error
from supervisor.system.observing import NotKnown

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["JOB_SHAPE", "JobTools", "job_tools", "read_output"]

_WAIT_SECONDS: Final = 45
_MAX_ANSWER_CHARACTERS: Final = 1 << 20
"""The maximum length of a value in an answer: building an answer takes several times its length of memory."""
_MAX_ON_THE_LOOP: Final = 1 << 18


def _shape(**properties: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "object", "properties": {"ok": {"type": "boolean"}, **properties}, "required": ["ok"]}


_TEXT: Final = {"type": "string"}
_OBJECT: Final = {"type": "object"}

# Hosts send these to the model in every session, so they have only the keys that a caller acts on.
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
_DETAIL: Final = Parameter(name="detail", enum=("summary", "full"), description="How much of an agent's answer to get.")


class JobTools:
    """The functions of the job tools."""

    def __init__(self, lazy: LazySupervisor, settings: Settings) -> None:
        self._lazy = lazy
        self._settings = settings

    async def visible(self, principal: str | None, job_id: str) -> tuple[Supervisor, Job]:
        """Return the supervisor and a job that ``principal`` may access.

        Raises:
            JobNotFound: there is no such job for this principal.
        """
        supervisor = await self._lazy.supervisor()
        job = await supervisor.status(job_id)
        if not may_see(principal, job):
            message = f"there is no job {job_id!r:.80}"
            raise JobNotFound(message, details={"job_id": job_id[:80]})
        return supervisor, job

    async def _named(self, call: Call) -> tuple[Supervisor, Job]:
        return await self.visible(call.principal, call.values["job_id"])

    async def status(self, call: Call) -> CallToolResult:
        """Answer with the current state of a job."""
        _, job = await self._named(call)
        return job_answer(job, whole=True)

    async def result(self, call: Call) -> CallToolResult:
        """Answer with the result of a finished job, cut if it is long."""
        supervisor, job = await self._named(call)
        result = await supervisor.result(job.job_id, detail=call.values["detail"])
        return await _in_thread_if_large(result, min(int(call.values["max_characters"]), _MAX_ANSWER_CHARACTERS))

    async def consume_result(self, call: Call) -> CallToolResult:
        """Answer with the result of a finished job, and delete the job if the result fits into one answer."""
        supervisor, job = await self._named(call)
        job = await last_attempt(supervisor, job)
        fits = job.stdout_bytes <= _MAX_ANSWER_CHARACTERS
        result = await supervisor.result(job.job_id, consume=fits, detail=call.values["detail"])
        warnings = () if fits or not result.ok else ("The job is kept: its output is too long for one answer.",)
        return await _in_thread_if_large(result, None if fits else _MAX_ANSWER_CHARACTERS, warnings)

    async def cancel(self, call: Call) -> CallToolResult:
        """Stop a job and answer once none of its processes is left."""
        supervisor, job = await self._named(call)
        return job_answer(await supervisor.cancel(job.job_id))

    async def wait(self, call: Call) -> CallToolResult:
        """Answer with a job once it has ended or the time has passed."""
        supervisor, job = await self._named(call)
        if may_go_on(job):
            job = await self.waited(supervisor, job.job_id, call.values["timeout_seconds"])
        return job_answer(job)

    async def waited(self, supervisor: Supervisor, job_id: str, seconds: float) -> Job:
        """Return a job once it has ended, ``seconds`` have passed, or the server is about to end."""
        outcome: list[Job | SupervisorError] = []

        async def wait() -> None:
            try:
                outcome.append(await supervisor.wait(job_id, timeout=seconds))
            except SupervisorError as error:  # raised below, outside of an exception group
                outcome.append(error)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await self._lazy.ending.wait()
            nursery.cancel_scope.cancel()
        match outcome:
            case [Job() as job]:
                return job
            case [SupervisorError() as error] if not isinstance(error, JobRunning):
                raise error
            case _:
                return await last_attempt(supervisor, await supervisor.status(job_id))

    async def list(self, call: Call) -> CallToolResult:
        """Answer with a page of the caller's jobs."""
        values = call.values
        supervisor = await self._lazy.supervisor()
        own = {} if call.principal is None else {PRINCIPAL_LABEL: call.principal}
        page = await supervisor.list(
            workspace=values["workspace"],
            state=values["state"],
            labels={**(values["labels"] or {}), **own},
            limit=int(values["limit"]),
            cursor=values["cursor"],
        )
        return list_answer(page)

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


async def _in_thread_if_large(result: Result, most: int | None, warnings: Sequence[str] = ()) -> CallToolResult:
    """Return the answer with a result; build a large one in a thread, so that other requests are served."""
    if result.job.stdout_bytes <= _MAX_ON_THE_LOOP:
        return result_answer(result, max_characters=most, warnings=warnings)
    return await trio.to_thread.run_sync(lambda: result_answer(result, max_characters=most, warnings=warnings))


def job_tools(lazy: LazySupervisor, settings: Settings) -> tuple[Tool, ...]:
    """Return the job tools, which every server has."""
    does = JobTools(lazy, settings)

    def tool(
        run: Callable[[Call], Awaitable[CallToolResult]],
        description: str,
        *parameters: Parameter,
        output: Mapping[str, Any] = JOB_SHAPE,
        annotations: ToolAnnotations = _READS,
    ) -> Tool:
        name = f"job_{run.__name__}"
        return Tool(
            name=name, description=description, parameters=parameters, output=output, annotations=annotations, run=run
        )

    seconds = Parameter(
        name="timeout_seconds",
        type="number",
        default=_WAIT_SECONDS,
        minimum=0,
        maximum=3600,
        description="Stay below your tool time-out.",
    )
    characters = Parameter(
        name="max_characters",
        type="integer",
        default=MAX_CHARACTERS,
        minimum=1,
        maximum=1 << 26,
        description="A longer value is cut.",
    )
    return (
        tool(
            does.status,
            "Show the current state of one job, without waiting. To wait for its end, use job_wait.",
            _JOB_ID,
        ),
        tool(
            does.wait,
            "Wait until a job has ended, at most timeout_seconds, and show it. "
            "If it still runs, call job_wait again. If it has ended, call job_result.",
            _JOB_ID,
            seconds,
        ),
        tool(
            does.result,
            "Get the result of a finished job, or the reason of its failure. Repeatable until it expires.",
            _JOB_ID,
            _DETAIL,
            characters,
            output=_RESULT_SHAPE,
        ),
        tool(
            does.consume_result,
            "Get the result of a finished job and delete the job, with its result, logs and id.",
            _JOB_ID,
            _DETAIL,
            output=_RESULT_SHAPE,
            annotations=_CONSUMES,
        ),
        tool(
            does.cancel,
            "Stop a job and wait until none of its processes is left. A finished job stays unchanged.",
            _JOB_ID,
            annotations=_STOPS,
        ),
        tool(
            does.list,
            "List jobs, newest first.",
            Parameter(name="state", enum=tuple(each.value for each in State)),
            Parameter(name="workspace", max_length=4096, description="Absolute path; default: all."),
            Parameter(name="labels", type="labels"),
            Parameter(name="limit", type="integer", default=20, minimum=1, maximum=100),
            Parameter(name="cursor", max_length=32, description="next_cursor of the page before."),
            output=_LIST_SHAPE,
        ),
        tool(
            does.logs,
            "Read the output of a job, also while it runs: its last max_bytes, or from offset on.",
            _JOB_ID,
            Parameter(name="stream", enum=("stdout", "stderr"), default="stdout"),
            Parameter(name="offset", type="integer", minimum=0, description="In bytes; 0, or a next_offset."),
            Parameter(name="max_bytes", type="integer", default=16384, minimum=4, maximum=1 << 20),
            output=_LOGS_SHAPE,
        ),
    )
