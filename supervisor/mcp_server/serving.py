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
from supervisor.mcp_server.config.kinds import Kind
from supervisor.mcp_server.config.workspaces import WorkspacePolicy
from supervisor.mcp_server.lazy import LazySupervisor, opener
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
    """The options of a server.

    Attributes:
        settings: the state root and the defaults.
        kinds: the sorts of jobs that callers may start.
        allow_commands: patterns of commands that ``job_start`` may start; without one there is no ``job_start``.
    """

    settings: Settings
    kinds: Sequence[Kind] = ()
    allow_commands: Sequence[str] = ()


def assemble(options: Options, lazy: LazySupervisor, *, trust_roots: bool) -> Server[Any]:
    """Return the server; ``trust_roots``: whether the client's roots are allowed directories for jobs."""
    tasks = Tasks(principal=principal_of, supervisor=lazy.supervisor, render=result_answer)
    workspaces = WorkspacePolicy(trust_roots=trust_roots, guarded=guarded(options.settings))
    starter = Starter(lazy, options.settings, workspaces, tasks.became)
    starting = [kind_tool(kind, starter) for kind in options.kinds]
    if options.allow_commands:
        starting.append(start_tool(options.allow_commands, starter))
    for tool in starting:
        tasks.add_job_tool(tool.name)
    server = make_server([*starting, *job_tools(lazy, options.settings)])
    Resources(lazy, options.settings).offer(server)
    if starting:  # otherwise no call can become a task
        extend(server, tasks, tasks.middleware)
        lazy.attachments.append(tasks.serving)
    return server


async def serve_stdio(options: Options) -> None:
    """Serve the host over stdin and stdout, until the end of file or a signal."""
    lazy = LazySupervisor(opener(options.settings))
    server = assemble(options, lazy, trust_roots=True)
    with stdio.diverted() as ends:
        async with trio.open_nursery() as nursery:
            await nursery.start(_until_signalled, nursery.cancel_scope)
            nursery.start_soon(lazy.run)
            await stdio.serve(server, ends, answered=lazy.begin, ending=lazy.ending)
            nursery.cancel_scope.cancel()


async def serve_http(
    options: Options,
    address: Address,
    *,
    tokens: Tokens | None,
    allowed_hosts: Sequence[str],
    started: Callable[[Address], None],
) -> None:
    """Serve clients at ``address`` until a signal; ``started`` is called with the bound address."""
    from supervisor.mcp_server.transports import http  # it imports Hypercorn, which stdio does not need

    lazy = LazySupervisor(opener(options.settings))
    # Clients of other users could claim any root.
    server = assemble(options, lazy, trust_roots=False)
    signalled = trio.CancelScope()

    async def shutdown() -> None:
        with signalled:
            await trio.sleep_forever()
        lazy.ending.set()

    def begin(bound: Address) -> None:
        started(bound)
        lazy.begin()

    async with trio.open_nursery() as nursery:
        await nursery.start(_until_signalled, signalled)
        nursery.start_soon(lazy.run)
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
