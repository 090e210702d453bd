"""One server, from its settings to its end."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import attrs
import trio
from mcp.server.lowlevel import Server

from supervisor.mcp_server import stdio
from supervisor.mcp_server.backend import Backend, opening
from supervisor.mcp_server.kinds import Kind
from supervisor.mcp_server.places import Places
from supervisor.mcp_server.server import make_server
from supervisor.mcp_server.starting import Starter, kind_tool, start_tool
from supervisor.mcp_server.tools import job_tools
from supervisor.settings import Settings

__all__ = ["Options", "assemble", "serve_stdio"]


@attrs.frozen(slots=True, kw_only=True)
class Options:
    """What a server offers.

    Attributes:
        settings: where the jobs are, and the defaults.
        kinds: what may be started.
        allow_commands: patterns of commands that ``job_start`` may start; none, no ``job_start``.
    """

    settings: Settings
    kinds: Sequence[Kind] = ()
    allow_commands: Sequence[str] = ()


def assemble(options: Options, backend: Backend, *, trust_roots: bool) -> Server[Any]:
    """Return the server; ``trust_roots``: whether the client's roots may widen where jobs may run."""
    starter = Starter(backend, options.settings, Places(trust_roots=trust_roots))
    tools = [kind_tool(kind, starter) for kind in options.kinds]
    if options.allow_commands:
        tools.append(start_tool(options.allow_commands, starter))
    return make_server([*tools, *job_tools(backend, options.settings)])


async def serve_stdio(options: Options) -> None:
    """Serve the host at the other end of stdin and stdout, until the end of file or a signal."""
    backend = Backend(opening(options.settings))
    server = assemble(options, backend, trust_roots=True)
    with stdio.diverted() as ends:
        async with trio.open_nursery() as nursery:
            await nursery.start(_until_signalled, nursery.cancel_scope)
            nursery.start_soon(backend.run)
            await stdio.serve(server, ends, answered=backend.begin, ending=backend.ending)
            nursery.cancel_scope.cancel()


async def _until_signalled(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
