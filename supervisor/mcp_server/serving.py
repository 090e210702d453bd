"""One server, from its settings to its end."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from mcp.server.lowlevel import Server

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.mcp_server.access.guarded import guarded
from supervisor.mcp_server.access.principals import principal_of
from supervisor.mcp_server.changes import Changes
from supervisor.mcp_server.config.workspaces import WorkspacePolicy
from supervisor.mcp_server.events.extension import Events
from supervisor.mcp_server.lazy import LazySupervisor, opener
from supervisor.mcp_server.options import Options
from supervisor.mcp_server.server import extend, make_server
from supervisor.mcp_server.tasks import Tasks
from supervisor.mcp_server.tools.answers import result_answer
from supervisor.mcp_server.tools.control import STARTS_AGAIN, control_tools
from supervisor.mcp_server.tools.groups import Groups, group_tools
from supervisor.mcp_server.tools.jobs import job_tools
from supervisor.mcp_server.tools.reporting import Reporter
from supervisor.mcp_server.tools.resources import Resources
from supervisor.mcp_server.tools.starting import Starter, kind_tool, start_tool
from supervisor.mcp_server.transports import first_answers, recording, stdio
from supervisor.mcp_server.transports.opening import NOT_OPENED, Opened
from supervisor.system.signals import heard

if TYPE_CHECKING:
    from supervisor.http.asgi import App
    from supervisor.http.listening import Address
    from supervisor.http.tokens import Tokens

__all__ = ["assemble", "serve_app", "serve_http", "serve_stdio"]


def assemble(
    options: Options,
    lazy: LazySupervisor,
    *,
    trust_roots: bool,
    workspaces: WorkspacePolicy | None = None,
    tokens: Tokens | None = None,
) -> Server[Any]:
    """Return the server.

    Args:
        options: what it offers.
        lazy: opens the supervisor.
        trust_roots: whether the client's roots are allowed directories for jobs.
        workspaces: chooses the workspaces of jobs.
        tokens: of the principals, who may subscribe to events; ``None`` where callers have no tokens.
    """
    changes = Changes(options.settings)
    events = _events(options, lazy, changes, tokens) if options.events else None
    tasks = Tasks(principal=principal_of, supervisor=lazy.supervisor, render=result_answer, events=events)
    if workspaces is None:
        workspaces = WorkspacePolicy(trust_roots=trust_roots, guarded=guarded(options.settings))
    lazy.attachments.append(changes.attached)
    reporter = Reporter(changes)
    groups = Groups(lazy, changes, options.kinds)
    starter = Starter(lazy, workspaces, reporter, tasks.became)
    starting = [kind_tool(kind, starter) for kind in options.kinds]
    if options.allow_commands:
        starting.append(start_tool(options.allow_commands, starter))
    controls = control_tools(lazy, options.kinds, starter)
    for name in (*(tool.name for tool in starting), *(tool.name for tool in controls if tool.name in STARTS_AGAIN)):
        tasks.add_job_tool(name)
    about_jobs = job_tools(lazy, options.settings, reporter)
    server = make_server([*starting, *about_jobs, *controls, *group_tools(lazy, groups)])
    Resources(lazy, options.settings, groups).offer(server)
    if starting:  # otherwise no call can become a task
        extend(server, tasks, tasks.middleware)
        lazy.attachments.append(tasks.serving)
    if events is not None:
        extend(server, events)
    return server


def _events(options: Options, lazy: LazySupervisor, changes: Changes, tokens: Tokens | None) -> Events:
    if tokens is None:
        return Events(lazy, changes)
    from supervisor.mcp_server.events.sending import Sender  # stdio does not need them, and they delay its first answer
    from supervisor.mcp_server.events.subscribing import Webhooks

    sender = Sender(lazy, changes, options.settings, tokens)
    lazy.attachments.append(sender.serving)
    return Events(lazy, changes, Webhooks(lazy, options.settings, sender))


async def serve_stdio(options: Options, opened: Opened = NOT_OPENED, key: str | None = None) -> None:
    """Serve the host over stdin and stdout, until the end of file or a signal.

    ``opened`` is what the host and its record have exchanged. ``key`` names that record; a server without one writes it
    for the next server. ``None`` for no record.
    """
    lazy = LazySupervisor(opener(options.settings))
    server = assemble(options, lazy, trust_roots=True)
    with stdio.diverted() as ends:
        async with trio.open_nursery() as nursery:
            await nursery.start(_until_signalled, nursery.cancel_scope)
            nursery.start_soon(lazy.run)
            differs = partial(first_answers.forget, options.settings.state_dir, key or "")
            if key is not None and not opened.answer:
                nursery.start_soon(_record, server, lazy, options.settings.state_dir, key)
            await stdio.serve(server, ends, answered=lazy.begin, ending=lazy.ending, opened=opened, differs=differs)
            nursery.cancel_scope.cancel()


async def _record(server: Server[Any], lazy: LazySupervisor, state_dir: Path, key: str) -> None:
    """Write the record of the first answers, once the state root is there and the host has its first answer."""
    await lazy.begun()
    try:
        await lazy.supervisor()
    except SupervisorError:  # the requests get this error
        return
    if first_answers.load(state_dir, key) is None:
        try:
            first_answers.save(state_dir, key, await recording.record(server))
            log.debug("mcp_recorded")
        except (OSError, ValueError, trio.TooSlowError) as error:  # the next server starts as slowly as this one
            log.info("mcp_not_recorded", error=repr(error))


async def serve_http(
    options: Options,
    address: Address,
    *,
    tokens: Tokens | None,
    allowed_hosts: Sequence[str],
    started: Callable[[Address], None],
) -> None:
    """Serve clients at ``address`` until a signal; ``started`` is called with the bound address."""
    # These import Hypercorn, which stdio does not need.
    from supervisor.http.guard import Callers, Guard, Limited
    from supervisor.http.hosts import KnownHosts
    from supervisor.mcp_server.transports.http import Endpoint

    lazy = LazySupervisor(opener(options.settings))
    # Clients of other users could claim any root.
    server = assemble(options, lazy, trust_roots=False, tokens=tokens)
    callers = None if tokens is None else Callers(tokens)
    app = KnownHosts(Guard(Limited(Endpoint(server)), callers), address, allowed_hosts)
    await serve_app(app, address, lazy, started=started)


async def serve_app(
    app: App,
    address: Address,
    lazy: LazySupervisor,
    *,
    started: Callable[[Address], None],
    background: Callable[[], Awaitable[None]] = trio.sleep_forever,
    over: trio.Event | None = None,
) -> None:
    """Serve an application and run ``background``, until SIGINT or SIGTERM, or until ``over`` is set in their place.

    The supervisor of ``lazy`` is open meanwhile. ``started`` is called with the bound address.
    """
    from supervisor.http import serving

    signalled = trio.CancelScope()

    async def shutdown() -> None:
        with signalled:
            await (trio.Event() if over is None else over).wait()
        lazy.ending.set()

    def begin(bound: Address) -> None:
        started(bound)
        lazy.begin()

    async with trio.open_nursery() as nursery:
        if over is None:
            await nursery.start(_until_signalled, signalled)
        nursery.start_soon(lazy.run)
        nursery.start_soon(background)
        await serving.serve(app, address, shutdown=shutdown, started=begin)
        nursery.cancel_scope.cancel()


async def _until_signalled(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Cancel ``scope`` at the first SIGINT or SIGTERM."""
    with heard(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
