"""One server, from its settings to its end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio
from mcp.server.lowlevel import Server

from supervisor.mcp_server.access.guarded import guarded
from supervisor.mcp_server.access.principals import principal_of
from supervisor.mcp_server.backend import Backend, opening
from supervisor.mcp_server.config.kinds import Kind
from supervisor.mcp_server.config.places import Places
from supervisor.mcp_server.server import extend, make_server
from supervisor.mcp_server.tasks import Tasks
from supervisor.mcp_server.tools.answers import result_answer
from supervisor.mcp_server.tools.jobs import job_tools
from supervisor.mcp_server.tools.resources import Resources
from supervisor.mcp_server.tools.starting import Starter, kind_tool, start_tool
from supervisor.mcp_server.transports import stdio
from supervisor.settings import Settings
from supervisor.system.signals import heard

if TYPE_CHECKING:
    from supervisor.mcp_server.access.tokens import Tokens
    from supervisor.mcp_server.transports.http import Address

__all__ = ["Options", "assemble", "serve_http", "serve_stdio"]


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
    tasks = Tasks(principal=principal_of, supervisor=backend.supervisor, render=result_answer)
    starter = Starter(
        backend, options.settings, Places(trust_roots=trust_roots, guarded=guarded(options.settings)), tasks.became
    )
    starting = [kind_tool(kind, starter) for kind in options.kinds]
    if options.allow_commands:
        starting.append(start_tool(options.allow_commands, starter))
    for tool in starting:
        tasks.add_job_tool(tool.name)
    server = make_server([*starting, *job_tools(backend, options.settings)])
    Resources(backend, options.settings).offer(server)
    if starting:  # else no call can become a task
        extend(server, tasks, tasks.middleware)
        backend.beside.append(tasks.serving)
    return server


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


async def serve_http(
    options: Options,
    address: Address,
    *,
    tokens: Tokens | None,
    allowed_hosts: Sequence[str],
    started: Callable[[Address], None],
) -> None:
    """Serve whoever comes to ``address``, until a signal; ``started`` is told the port that was taken."""
    from supervisor.mcp_server.transports import http  # Hypercorn, which stdio has no need of

    backend = Backend(opening(options.settings))
    # A client of another user could claim any root; without tokens everybody on this machine could.
    server = assemble(options, backend, trust_roots=False)
    signalled = trio.CancelScope()

    async def shutdown() -> None:
        with signalled:
            await trio.sleep_forever()
        backend.ending.set()

    def begin(bound: Address) -> None:
        started(bound)
        backend.begin()

    async with trio.open_nursery() as nursery:
        await nursery.start(_until_signalled, signalled)
        nursery.start_soon(backend.run)
        await http.serve(server, address, tokens=tokens, allowed_hosts=allowed_hosts, shutdown=shutdown, started=begin)
        nursery.cancel_scope.cancel()


async def _until_signalled(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with heard(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
