"""The driver of an MCP endpoint, with the official SDK's client. It needs ``trio-supervisor[mcp]``.

The server must allow the program of the jobs: ``supervisor bench --print-allow`` prints the pattern for
``supervisor mcp --allow-command``. A wait is a call of ``job_wait``, which the server answers when the job
ends, or after 45 s.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import httpx2
import trio
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from supervisor.errors import EndpointFailed, SupervisorError
from supervisor.load.driver import RUN_LABEL, Driver, Refused, Request
from supervisor.load.endpoint import Endpoint
from supervisor.load.program import allow_pattern
from supervisor.model import Job, converter
from supervisor.states import State
from supervisor.text.groups import leaves

__all__ = ["mcp_driver"]

_WAIT_SECONDS: Final = 45.0
_MARGIN_SECONDS: Final = 30.0
_PAGE: Final = 100
_PIECE: Final = 1 << 19
_MAX_CHARACTERS: Final = 1 << 26
_BROKEN: Final = (MCPError, httpx2.HTTPError, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError)


def _server_of(endpoint: Endpoint, directory: str) -> StdioServerParameters:
    """Return the command of a server over stdio; ``directory`` is for this package's own, and so for its jobs."""
    if endpoint.command:
        first, *rest = endpoint.command
        return StdioServerParameters(command=first, args=rest, env=dict(os.environ))
    words = ["-m", "supervisor", "mcp", "--allow-command", allow_pattern()]
    words += ["--state-dir", str(endpoint.settings.state_dir)]
    environment = {**os.environ, "SUPERVISOR_JOB_MAX_COUNT": str(1 << 31)}  # no job is evicted before the audit
    return StdioServerParameters(command=sys.executable, args=words, env=environment, cwd=directory)


class _McpDriver:
    def __init__(self, client: Client, endpoint: Endpoint) -> None:
        self._client = client
        self._endpoint = endpoint
        self.keeps_jobs = endpoint.keeps_jobs
        self.facts = endpoint.facts
        self.same_machine = endpoint.same_machine

    async def start(self, request: Request) -> Job:
        arguments: dict[str, Any] = {
            "command": list(request.argv),
            "deadline_seconds": request.deadline_seconds,
            "idempotency_key": request.key,
            "labels": {RUN_LABEL: request.run},
        }
        if self._endpoint.workspace is not None:
            arguments["workspace"] = self._endpoint.workspace
        shape = await self._call("job_start", arguments)
        if State(shape["status"]).terminal:
            return await self._whole("job_status", shape["job_id"])
        now = datetime.now(UTC).isoformat()  # the answer is short; the job is read whole at its end
        return _job({**shape, "argv": request.argv, "labels": {RUN_LABEL: request.run}, "created_at": now})

    async def _whole(self, tool: str, job_id: str, waits: float = 0, **more: Any) -> Job:
        return _job(await self._call(tool, {"job_id": job_id, "detail": "full", **more}, waits))

    async def wait(self, job_id: str, seconds: float) -> Job:
        until = trio.current_time() + seconds
        while True:
            patience = max(0.0, min(_WAIT_SECONDS, until - trio.current_time()))
            job = await self._whole("job_wait", job_id, patience, timeout_seconds=patience)
            if job.status.terminal or trio.current_time() >= until:
                return job

    async def cancel(self, job_id: str) -> Job:
        return await self._whole("job_cancel", job_id)

    async def fetch(self, job: Job) -> bytes:
        if job.status is State.DONE:
            tool = "job_result" if self.keeps_jobs else "job_consume_result"
            value = (await self._call(tool, {"job_id": job.job_id, "max_characters": _MAX_CHARACTERS}))["value"]
            return value.encode() if isinstance(value, str) else b""
        written = await self._log(job.job_id)
        if not self.keeps_jobs:
            await self.forget(job.job_id)
        return written

    async def _log(self, job_id: str) -> bytes:
        pieces: list[bytes] = []
        offset = 0
        while True:
            asked = {"job_id": job_id, "offset": offset, "max_bytes": _PIECE}
            piece = await self._call("job_logs", asked)
            pieces.append(piece["value"].encode())
            offset = piece["next_offset"]
            if offset >= piece["size"] or not piece["value"]:
                return b"".join(pieces)

    async def listed(self, run: str) -> AsyncIterator[Job]:
        cursor: str | None = None
        while True:
            asked = {"labels": {RUN_LABEL: run}, "limit": _PAGE, "cursor": cursor, "detail": "full"}
            page = await self._call("job_list", asked)
            for shape in page["jobs"]:
                yield _job(shape)
            if (cursor := page["next_cursor"]) is None:
                return

    async def forget(self, job_id: str) -> None:
        await self._call("job_consume_result", {"job_id": job_id}, even_failed=True)

    async def _call(
        self, tool: str, arguments: Mapping[str, Any], waits: float = 0, *, even_failed: bool = False
    ) -> Mapping[str, Any]:
        try:
            answer = await self._client.call_tool(
                tool, dict(arguments), read_timeout_seconds=waits + 10 * _MARGIN_SECONDS
            )
        except _BROKEN as error:
            message = f"{tool}: {_text_of(error)}"
            raise Refused(message, code="connection", certain=False) from error
        shape: Mapping[str, Any] = answer.structured_content or {}
        if not answer.is_error or (even_failed and "job" in shape):
            return shape
        problem: Mapping[str, Any] | None = shape.get("error")
        if problem is None:
            text = " ".join(str(getattr(each, "text", each)) for each in answer.content)
            problem = {"code": "tool_error", "message": text[:500]}
        message = f"{tool}: {problem['message']}"
        raise Refused(message, code=problem["code"])


def _job(shape: Mapping[str, Any]) -> Job:
    job: Job = converter.structure(shape, Job)
    return job


@contextlib.asynccontextmanager
async def mcp_driver(endpoint: Endpoint, directory: str) -> AsyncGenerator[Driver]:
    """Connect to an endpoint; this package's own server starts in ``directory``.

    A broken connection does not end the block: calls over it are refused, and the report has them.

    Raises:
        EndpointFailed: the endpoint cannot be reached.
    """
    raised: BaseException | None = None
    closing = trio.Event()
    async with trio.open_nursery() as nursery:
        try:
            client: Client = await nursery.start(_hold, endpoint, directory, closing)
            yield _McpDriver(client, endpoint)
        except BaseException as error:  # noqa: BLE001  # raised below, outside of an exception group
            raised = error
        closing.set()
    if raised is not None:
        raise raised


async def _hold(
    endpoint: Endpoint, directory: str, closing: trio.Event, *, task_status: trio.TaskStatus[Client]
) -> None:
    """Hold the connection open in a task of its own: when it fails, only this task is cancelled."""
    held = False
    try:
        async with contextlib.AsyncExitStack() as stack:
            client = await _connect(stack, endpoint, directory)
            held = True
            task_status.started(client)
            await closing.wait()
    except Exception as error:
        if not held:
            raise _failed(endpoint, error) from error


async def _connect(stack: contextlib.AsyncExitStack, endpoint: Endpoint, directory: str) -> Client:
    if endpoint.url is None:
        return await stack.enter_async_context(Client(_server_of(endpoint, directory)))
    headers = {} if endpoint.token is None else {"Authorization": f"Bearer {endpoint.token}"}
    # Each job in flight has a request that is answered late.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    patience = httpx2.Timeout(_MARGIN_SECONDS, read=None, pool=None)
    requests = httpx2.AsyncClient(headers=headers, timeout=patience, limits=limits)
    await stack.enter_async_context(requests)
    transport = streamable_http_client(endpoint.url, http_client=requests, max_sse_event_size=None)
    return await stack.enter_async_context(Client(transport))


def _failed(endpoint: Endpoint, error: Exception) -> SupervisorError:
    problem, repair = "the MCP server cannot be started", None
    if endpoint.url is not None:
        problem = f"{endpoint.url} cannot be reached"
        repair = "Check the URL, which ends in /mcp, and the token: SUPERVISOR_MCP_TOKEN, or --token-file."
    return EndpointFailed(f"{problem}: {_text_of(leaves(error)[0])}", repair=repair, details=endpoint.facts)


def _text_of(error: BaseException) -> str:
    return str(error) or type(error).__name__
