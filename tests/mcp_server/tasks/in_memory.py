"""A server with tasks in memory, on a fake engine, and peers that talk to it in either generation.

``Peer`` sends what a test gives it and keeps what comes back, with nothing in between: neither the SDK's
client nor its types, which know only one of the generations each.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from pydantic import BaseModel

from supervisor import Job, Settings, Supervisor, open_supervisor
from supervisor.mcp_server.tasks import EXTENSION_ID, Tasks
from supervisor.testing import FakeEngine, Script

MODERN, LEGACY = "2026-07-28", "2025-11-25"
ALL: Mapping[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}, "extensions": {EXTENSION_ID: {}}}
ENDS = {"completed", "failed", "cancelled"}


class Refused(Exception):
    """The server answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any) -> None:
        super().__init__(code, message, data)
        self.code, self.message, self.data = code, message, data


class Peer:
    """One client: a name, which is its principal here, a protocol version, and its declared capabilities."""

    def __init__(self, send: Any, name: str, era: str, capabilities: Mapping[str, Any]) -> None:
        self._send = send
        self.name, self.era, self.capabilities = name, era, capabilities
        self.notifications_in, self.notifications = trio.open_memory_channel[dict[str, Any]](1000)
        self.asked_in, self.asked = trio.open_memory_channel[dict[str, Any]](1000)
        self.greeting: dict[str, Any] = {}
        self._replies: dict[int, tuple[trio.Event, list[Any]]] = {}
        self._numbers = itertools.count(1)

    def _whole(self, params: Mapping[str, Any]) -> dict[str, Any]:
        if self.era == LEGACY:
            return dict(params)
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": self.name, "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": dict(self.capabilities),
        }
        return {**params, "_meta": meta}

    async def __call__(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Send a request and return its result."""
        number = next(self._numbers)
        event, replies = self._replies[number] = trio.Event(), []
        message = JSONRPCRequest(jsonrpc="2.0", id=number, method=method, params=self._whole(params))
        await self._send.send(SessionMessage(message))
        try:
            await event.wait()
        except trio.Cancelled:
            note = JSONRPCNotification(
                jsonrpc="2.0", method="notifications/cancelled", params={"requestId": number}
            )  # fmt: skip
            with trio.move_on_after(1, shield=True):
                await self._send.send(SessionMessage(note))
            raise
        (reply,) = replies
        if isinstance(reply, JSONRPCError):
            raise Refused(reply.error.code, reply.error.message, reply.error.data)
        return dict(reply.result)

    async def notify(self, method: str, **params: Any) -> None:
        note = JSONRPCNotification(jsonrpc="2.0", method=method, params=params)
        await self._send.send(SessionMessage(note))

    async def reply(self, asked: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Answer a request of the server's."""
        message = JSONRPCResponse(jsonrpc="2.0", id=asked["id"], result=dict(result))
        await self._send.send(SessionMessage(message))

    async def receive(self, streams: Any) -> None:
        async for held in streams:
            message = held.message
            if isinstance(message, JSONRPCResponse | JSONRPCError):
                event, replies = self._replies.pop(message.id)
                replies.append(message)
                event.set()
            elif isinstance(message, JSONRPCNotification):
                self.notifications_in.send_nowait({"method": message.method, **(message.params or {})})
            else:
                self.asked_in.send_nowait({"id": message.id, "method": message.method, **(message.params or {})})

    # ------------------------------------------------------------ of tasks

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool, in 2025-11-25 as a task; return the task."""
        if self.era == LEGACY:
            made = await self("tools/call", name=tool, arguments=arguments, task={})
            return dict(made["task"])
        made = await self("tools/call", name=tool, arguments=arguments)
        assert made["resultType"] == "task", made
        return made

    async def get(self, task_id: str) -> dict[str, Any]:
        return await self("tasks/get", taskId=task_id)

    async def told(self, status: str | None = None) -> dict[str, Any]:
        """Return the next notification about a task, or the next with this status."""
        while True:
            note = await self.notifications.receive()
            if note["method"] == "notifications/tasks" and status in {None, note["status"]}:
                return note

    async def until(self, task_id: str, status: str | None = None) -> dict[str, Any]:
        """Listen to a task until it has a status (by default: any last one), and return it as it is then."""
        assert self.era == MODERN
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.listen, [task_id])
            while True:
                note = await self.told()
                if note["taskId"] == task_id and (note["status"] == status if status else note["status"] in ENDS):
                    nursery.cancel_scope.cancel()
                    break
        return await self.get(task_id)

    async def listen(self, task_ids: list[str]) -> None:
        await self("subscriptions/listen", notifications={"taskIds": task_ids})


class Yes(BaseModel):
    yes: bool


class World:
    """A server on a state root: opened, closed and opened again; its functions wait for the test."""

    def __init__(self, state_dir: Path, engine: FakeEngine) -> None:
        self.settings = Settings(state_dir=state_dir)
        self.engine = engine
        self.tasks = Tasks(principal=_principal)
        self.server = MCPServer[Any](
            "world",
            extensions=[self.tasks],
            middleware=[self.tasks.middleware],
            log_level="CRITICAL",
        )
        self.sup: Supervisor | None = None
        self.gate = trio.Event()
        self.begun = trio.Event()
        self.left = trio.Event()
        self.body: Callable[[Context], Awaitable[str]] | None = None
        self._add_tools()

    def _add_tools(self) -> None:
        @self.server.tool()
        @self.tasks.job
        async def build(target: str, key: str | None = None, bad: int = 0, group: str | None = None) -> Job:
            """Build."""
            del bad
            return await self.tasks.start(["make", target], idempotency_key=key, workspace="/", groups=group)

        @self.server.tool()
        @self.tasks.function
        async def think(about: int = 1) -> str:
            """Think until the test lets it end."""
            self.begun.set()
            try:
                await self.gate.wait()
            finally:
                self.left.set()
            return f"thought about {about}"

        @self.server.tool()
        @self.tasks.function
        async def act(ctx: Context) -> str:
            """Run the function of the test."""
            assert self.body is not None
            return await self.body(ctx)

        @self.server.tool()
        @self.tasks.function(required=True)
        async def only_as_a_task() -> str:
            """Be a task."""
            return "done"

        @self.server.tool()
        async def plain(number: int) -> str:
            """Be no task, ever."""
            return str(number)

        @self.server.tool()
        @self.tasks.function
        async def fail(how: str) -> str:
            """Fail."""
            if how == "tool":
                message = "as tools do"
                raise ToolError(message)
            if how == "protocol":
                raise MCPError(-32042, "as the protocol does", {"why": "asked to"})
            message = "secret of the server"
            raise ZeroDivisionError(message)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Supervisor]:
        async with open_supervisor(self.settings, engine=self.engine) as sup, self.tasks.serving(sup):
            self.sup = sup
            yield sup

    @contextlib.asynccontextmanager
    async def peer(
        self,
        name: str = "owner",
        era: str = MODERN,
        capabilities: Mapping[str, Any] = ALL,
    ) -> AsyncIterator[Peer]:
        async with create_client_server_memory_streams() as (near, far), trio.open_nursery() as nursery:
            below = self.server._lowlevel_server
            nursery.start_soon(below.run, *far, below.create_initialization_options())
            made = Peer(near[1], name, era, capabilities)
            nursery.start_soon(made.receive, near[0])
            if era == LEGACY:
                declared = {each: value for each, value in capabilities.items() if each != "extensions"}
                made.greeting = await made(
                    "initialize",
                    protocolVersion=LEGACY,
                    capabilities=declared,
                    clientInfo={"name": name, "version": "1"},
                )
                await made.notify("notifications/initialized")
            yield made
            nursery.cancel_scope.cancel()


def _principal(ctx: Any) -> str | None:
    params = ctx.session.client_params
    name = None if params is None else params.client_info.name
    return None if name == "owner" else name


def running() -> Script:
    """A command that runs until the test ends it."""
    return Script(seconds=None)


def kept(state_dir: Path) -> list[str]:
    """Return the ids of the function tasks on record."""
    return sorted(path.name for path in state_dir.glob(".tasks/*"))
