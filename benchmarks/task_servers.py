"""A server for ``benchmarks.wire``: ``python -m benchmarks.task_servers ours|bare|fastmcp stdio|http``.

Each has one tool, ``work``. This package's and FastMCP's make a task of a call; the bare one answers at once. Over
HTTP the address is printed. Those of the SDK run on Hypercorn under Trio, FastMCP as FastMCP runs by default.
"""

from __future__ import annotations

import functools
import socket
import sys
from typing import Any

import trio
from mcp.server.mcpserver import MCPServer

from supervisor import Job, open_supervisor
from supervisor.mcp_server.tasks import Tasks


async def _serve(server: MCPServer[Any], transport: str) -> None:
    if transport == "stdio":
        await server.run_stdio_async()
        return
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    config.bind = ["127.0.0.1:0"]
    async with trio.open_nursery() as nursery:
        app = server.streamable_http_app(host="127.0.0.1")
        (address,) = await nursery.start(functools.partial(serve, app, config))  # type: ignore[arg-type]
        print(f"{address}/mcp", flush=True)


async def ours(transport: str) -> None:
    tasks = Tasks()
    server = MCPServer[Any]("ours", extensions=[tasks], middleware=[tasks.middleware], log_level="ERROR")

    @server.tool()
    @tasks.job
    async def work() -> Job:
        """Work for an hour."""
        return await tasks.start(["sleep", "3600"])

    async with open_supervisor() as sup, tasks.serving(sup):
        await _serve(server, transport)


async def bare(transport: str) -> None:
    server = MCPServer[Any]("bare", log_level="ERROR")

    @server.tool()
    async def work() -> str:
        """Return at once."""
        return "done"

    await _serve(server, transport)


def fastmcp(transport: str) -> None:
    import asyncio

    from fastmcp import FastMCP
    from fastmcp_tasks import TasksExtension

    server = FastMCP("fastmcp")
    server.add_extension(TasksExtension())

    @server.tool(task=True)  # type: ignore[untyped-decorator, unused-ignore]
    async def work() -> str:
        """Work for an hour."""
        await asyncio.sleep(3600)
        return "done"

    if transport == "stdio":
        server.run("stdio", show_banner=False)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    print(f"http://127.0.0.1:{port}/mcp", flush=True)
    server.run("http", port=port, show_banner=False, log_level="ERROR")


if __name__ == "__main__":
    whose, way = sys.argv[1:]
    if whose == "fastmcp":
        fastmcp(way)
    else:
        trio.run({"ours": ours, "bare": bare}[whose], way)
