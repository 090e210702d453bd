"""One server, from its options to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from supervisor.http.guard import Callers
from supervisor.http.listening import Address
from supervisor.mcp_server.access.guarded import guarded
from supervisor.mcp_server.config.workspaces import WorkspacePolicy
from supervisor.mcp_server.lazy import LazySupervisor, Open, opener
from supervisor.mcp_server.options import Options
from supervisor.mcp_server.serving import assemble, serve_app
from supervisor.web.app import application
from supervisor.web.feed import Feed
from supervisor.web.service import Service

__all__ = ["serve"]


async def serve(
    options: Options,
    address: Address,
    *,
    callers: Callers | None,
    allowed_hosts: Sequence[str],
    started: Callable[[Address], None],
    open_it: Open | None = None,
    over: trio.Event | None = None,
) -> None:
    """Serve clients at ``address`` until SIGINT or SIGTERM; ``started`` is called with the bound address.

    It holds a supervisor open, which admits jobs as every other process on the state root does.

    ``open_it`` opens another supervisor than that of the settings; ``over`` ends it in the place of a signal.
    """
    lazy = LazySupervisor(opener(options.settings) if open_it is None else open_it)
    # Clients of other users could claim any root.
    workspaces = WorkspacePolicy(trust_roots=False, guarded=guarded(options.settings))
    tokens = None if callers is None else callers.principals
    mcp = assemble(options, lazy, trust_roots=False, workspaces=workspaces, tokens=tokens)
    feed = Feed(lazy, options.settings)
    service = Service(options=options, workspaces=workspaces, lazy=lazy, feed=feed, callers=callers)
    app = application(service, mcp, address, allowed_hosts)
    await serve_app(app, address, lazy, started=started, background=feed.run, over=over)
