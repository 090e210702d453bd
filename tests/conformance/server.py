"""The server that the conformance suite is run against: ``python -m tests.conformance.server --port N``.

An ``MCPServer`` of the SDK with the tools that the suite's scenarios call, on Hypercorn under Trio.
Its tasks come from ``supervisor.mcp_server.tasks``, their state from the usual settings. It prints
the address when it serves; port 0 takes any free one.
"""

from __future__ import annotations

import argparse
import functools
import logging
import signal
import sys
import warnings
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from mcp.server.caching import CacheHint
from mcp.server.mcpserver import MCPServer
from mcp_types import EmptyResult, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams

from supervisor import open_supervisor
from supervisor.mcp_server.tasks import Tasks
from tests.conformance.asking_tools import add_asking_tools
from tests.conformance.plain_tools import add_plain_tools
from tests.conformance.task_tools import add_task_tools

__all__ = ["main", "make_server"]


def make_server() -> tuple[MCPServer[Any], Tasks]:
    """Return the server and its tasks, which are yet to be served."""
    tasks = Tasks()
    hint = CacheHint(ttl_ms=1000, scope="public")
    server = MCPServer[Any](
        "trio-supervisor-conformance",
        version="1",
        extensions=[tasks],
        middleware=[tasks.middleware],
        log_level="WARNING",
        cache_hints={
            "tools/list": hint,
            "prompts/list": hint,
            "resources/list": hint,
            "resources/templates/list": hint,
            "resources/read": hint,
        },
    )
    add_plain_tools(server)
    add_asking_tools(server)
    add_task_tools(server, tasks)
    _add_what_2026_has_not(server)
    return server, tasks


def _add_what_2026_has_not(server: MCPServer[Any]) -> None:
    """Serve what the set of 2025-11-25 asks of a server, and MCPServer leaves to the lower level."""
    below = server._lowlevel_server

    async def accept(ctx: object, params: object) -> EmptyResult:
        del ctx, params
        return EmptyResult()

    below.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)
    below.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    below.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)


async def run(port: int) -> None:
    """Serve on loopback until SIGTERM or SIGINT."""
    server, tasks = make_server()
    app = server.streamable_http_app(host="127.0.0.1")
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 1
    config.errorlog = None
    stopping = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_supervisor() as sup, tasks.serving(sup), trio.open_nursery() as nursery:
            starting = functools.partial(serve, app, config, shutdown_trigger=stopping.wait)  # type: ignore[arg-type]
            (address,) = await nursery.start(starting)
            sys.stdout.write(f"{address}/mcp\n")
            sys.stdout.flush()
            async for _ in signals:
                break
            stopping.set()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="port on loopback (default: any free one)")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # the old generation's logging and sampling are deprecated, and asked for
    logging.getLogger("hypercorn").setLevel(logging.WARNING)
    trio.run(run, given.port)


if __name__ == "__main__":
    main()
