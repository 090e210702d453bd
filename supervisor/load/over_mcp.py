"""Jobs of an MCP endpoint, with the official SDK's client. What is in here needs ``trio-supervisor[mcp]``.

The server has to allow the program of a load, and nothing else of it: ``supervisor bench --print-allow``
prints the pattern for ``supervisor mcp --allow-command``. A long wait is one call of ``job_wait`` that the
server answers when the job ends, or after 45 s.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import attrs
import httpx2
import trio
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from supervisor.errors import EndpointFailed, SupervisorError
from supervisor.load.driver import RUN_LABEL, Refused, Request
from supervisor.load.program import allow_pattern
from supervisor.model import Job, converter
from supervisor.settings import Settings
from supervisor.states import State

__all__ = ["Endpoint", "McpDriver", "mcp_driver"]

_WAIT_SECONDS: Final = 45.0
_MARGIN_SECONDS: Final = 30.0
_PAGE: Final = 100
_PIECE: Final = 1 << 19
_MOST_CHARACTERS: Final = 1 << 26
_BROKEN: Final = (MCPError, httpx2.HTTPError, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError)


@attrs.frozen(slots=True, kw_only=True)
class Endpoint:
    """Where the server is, or how it is started.

    Attributes:
        url: of Streamable HTTP; ``None`` for stdio.
        token: the bearer token for it; ``None`` for none.
        command: what is started to speak over stdin and stdout; empty for our own server.
        settings: where our own server keeps its jobs.
        workspace: where the jobs are to run; ``None`` leaves it to the server.
        keep: whether the jobs stay when their output was fetched.
    """

    url: str | None
    token: str | None = attrs.field(default=None, repr=False)
    command: Sequence[str] = ()
    settings: Settings
    workspace: str | None = None
    keep: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, for the report."""
        if self.url is not None:
            return {"kind": "mcp", "transport": "http", "url": self.url}
        return {"kind": "mcp", "transport": "stdio", "command": list(self.command) or "supervisor mcp"}

    @property
    def same_machine(self) -> bool:
        """Whether what it runs is on this machine, as far as its address tells."""
        if self.url is None:
            return True
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def server(self, directory: str) -> StdioServerParameters:
        """Return how the server is started; ``directory`` is that of our own, and so where its jobs run."""
        if self.command:
            first, *rest = self.command
            return StdioServerParameters(command=first, args=rest, env=dict(os.environ))
        words = ["-m", "supervisor", "mcp", "--allow-command", allow_pattern()]
        words += ["--state-dir", str(self.settings.state_dir)]
        # Nothing of a load may make room before it was looked at.
        environment = {**os.environ, "SUPERVISOR_JOB_MAX_COUNT": str(1 << 31)}
        return StdioServerParameters(command=sys.executable, args=words, env=environment, cwd=directory)


class McpDriver:
    """Asks an MCP server. Made by ``mcp_driver``."""

    def __init__(self, client: Client, endpoint: Endpoint) -> None:
        """Keep the connection."""
        self._client = client
        self._endpoint = endpoint
        self.keeps = endpoint.keep
        self.facts = endpoint.facts
        self.same_machine = endpoint.same_machine

    async def start(self, request: Request) -> Job:
        """Return a job that runs, or has ended already."""
        arguments: dict[str, Any] = {
            "command": list(request.argv),
            "deadline_seconds": request.deadline_seconds,
            "idempotency_key": request.key,
            "labels": {RUN_LABEL: request.run},
        }
        if self._endpoint.workspace is not None:
            arguments["workspace"] = self._endpoint.workspace
        return _job(await self._call("job_start", arguments))

    async def wait(self, job_id: str, seconds: float) -> Job:
        """Return a job when it has ended, or as it is after ``seconds``."""
        until = trio.current_time() + seconds
        while True:
            patience = max(0.0, min(_WAIT_SECONDS, until - trio.current_time()))
            arguments = {"job_id": job_id, "timeout_seconds": patience}
            job = _job(await self._call("job_wait", arguments, patience))
            if job.status.terminal or trio.current_time() >= until:
                return job

    async def cancel(self, job_id: str) -> Job:
        """Stop a job, and return it when nothing of it is left."""
        return _job(await self._call("job_cancel", {"job_id": job_id}))

    async def fetch(self, job: Job) -> bytes:
        """Return the stdout of an ended job, and have the server forget the job unless it is to be kept."""
        if job.status is State.DONE:
            asked: dict[str, Any] = {"job_id": job.job_id}
            if self.keeps:
                value = (await self._call("job_result", {**asked, "max_characters": _MOST_CHARACTERS}))["value"]
            else:
                value = (await self._call("job_consume_result", asked))["value"]
            return value.encode() if isinstance(value, str) else b""
        written = await self._log(job.job_id)
        if not self.keeps:
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
        """Yield the jobs of a run that are kept."""
        cursor: str | None = None
        while True:
            asked = {"labels": {RUN_LABEL: run}, "limit": _PAGE, "cursor": cursor}
            page = await self._call("job_list", asked)
            for shape in page["jobs"]:
                yield _job(shape)
            if (cursor := page["next_cursor"]) is None:
                return

    async def forget(self, job_id: str) -> None:
        """Forget an ended job; that it went badly is no news."""
        await self._call("job_consume_result", {"job_id": job_id}, even_failed=True)

    async def _call(
        self, tool: str, arguments: Mapping[str, Any], waits: float = 0, *, even_failed: bool = False
    ) -> Mapping[str, Any]:
        """Call a tool and return its structured content."""
        try:
            answer = await self._client.call_tool(
                tool, dict(arguments), read_timeout_seconds=waits + 10 * _MARGIN_SECONDS
            )
        except _BROKEN as error:
            message = f"{tool}: {_said(error)}"
            raise Refused(message, code="connection", certain=False) from error
        shape: Mapping[str, Any] = answer.structured_content or {}
        if not answer.is_error or (even_failed and "job" in shape):
            return shape
        told: Mapping[str, Any] = shape.get("error") or {"code": "tool_error", "message": _text(answer.content)}
        message = f"{tool}: {told['message']}"
        raise Refused(message, code=told["code"])


def _text(content: Sequence[Any]) -> str:
    return " ".join(str(getattr(each, "text", each)) for each in content)[:500]


def _job(shape: Mapping[str, Any]) -> Job:
    job: Job = converter.structure(shape, Job)
    return job


@contextlib.asynccontextmanager
async def mcp_driver(endpoint: Endpoint, directory: str) -> AsyncGenerator[McpDriver]:
    """Connect to an endpoint; ``directory`` is where our own server is started.

    A connection that breaks does not end the block: the calls over it are refused, and that is reported.

    Raises:
        EndpointFailed: it cannot be reached.
    """
    raised: BaseException | None = None
    closing = trio.Event()
    async with trio.open_nursery() as nursery:
        try:
            client: Client = await nursery.start(_hold, endpoint, directory, closing)
            yield McpDriver(client, endpoint)
        except BaseException as error:  # noqa: BLE001  # it comes out below, as itself and not in a group
            raised = error
        closing.set()
    if raised is not None:
        raise raised


async def _hold(
    endpoint: Endpoint, directory: str, closing: trio.Event, *, task_status: trio.TaskStatus[Client]
) -> None:
    """Keep the connection in a task of its own, where nobody is cancelled together with it."""
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
        # After that whoever calls is refused, with what the SDK has to say about it.


async def _connect(stack: contextlib.AsyncExitStack, endpoint: Endpoint, directory: str) -> Client:
    if endpoint.url is None:
        return await stack.enter_async_context(Client(endpoint.server(directory)))
    headers = {} if endpoint.token is None else {"Authorization": f"Bearer {endpoint.token}"}
    # A long wait is a request that is answered late, and there are as many of them as jobs in flight.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    patience = httpx2.Timeout(_MARGIN_SECONDS, read=None, pool=None)
    requests = httpx2.AsyncClient(headers=headers, timeout=patience, limits=limits)
    await stack.enter_async_context(requests)
    transport = streamable_http_client(endpoint.url, http_client=requests, max_sse_event_size=None)
    return await stack.enter_async_context(Client(transport))


def _failed(endpoint: Endpoint, error: Exception) -> SupervisorError:
    found: BaseException = error
    while isinstance(found, BaseExceptionGroup):
        held: tuple[BaseException, ...] = found.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        found = held[0]
    where, repair = "the MCP server cannot be started", None
    if endpoint.url is not None:
        where = f"{endpoint.url} cannot be reached"
        repair = "Check the URL, which ends in /mcp, and the token: SUPERVISOR_MCP_TOKEN, or --token-file."
    return EndpointFailed(f"{where}: {_said(found)}", repair=repair, details=endpoint.facts)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
