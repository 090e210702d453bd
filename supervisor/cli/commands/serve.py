"""``serve``: the page, REST, metrics, health and MCP on one port. It needs the extra ``serve``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from supervisor.cli import exits
from supervisor.cli.front import Invocation, command
from supervisor.cli.servers import (
    address_of,
    allow_command_option,
    allow_host_option,
    announce,
    check_extra,
    config_option,
    events_option,
    no_token_option,
    run_server,
    server_options,
)

if TYPE_CHECKING:
    from supervisor.http.listening import Address

__all__ = ["serve"]

_ADDRESS: Final = "127.0.0.1:8765"

_HELP: Final = """Serve a page about the jobs, a REST interface, metrics, health checks and MCP on one port.

Jobs, queues and limits work without it. Several servers on one state root are fine.

A browser logs in with the link that is printed, which works once (`supervisor login` prints another). Each other
request needs a bearer token, except /livez and /readyz. The first start makes two tokens and prints the path of
the first: `owner` sees and changes all jobs; `viewer`, in the same directory, sees all and changes nothing. Each file
in the directory mcp-tokens of the state root is a principal, which sees only the jobs that it has started.

A caller can start only the kinds of the kinds file, and commands that --allow-command allows (see
`supervisor mcp --help`).
"""


@command("serve", help=_HELP)
@click.option(
    "--http",
    default=_ADDRESS,
    show_default=True,
    metavar="HOST:PORT",
    help="Serve on this address, or on the UNIX socket unix:PATH. Port 0 selects a free port.",
)
@config_option
@allow_command_option
@no_token_option
@allow_host_option
@events_option
def serve(
    call: Invocation,
    *,
    http: str,
    config: Path | None,
    allow_commands: Sequence[str],
    no_token: bool,
    allow_hosts: Sequence[str],
    events: bool,
) -> int:
    """Serve until a signal arrives."""
    check_extra("serve", "hypercorn", "jinja2", "mcp", "prometheus_client", "starlette")
    options = server_options(call, config, allow_commands, events=events)
    address = address_of(http, no_token=no_token)
    from supervisor.http.guard import OWNER_ROLE, VIEWER_ROLE, Callers
    from supervisor.http.tokens import Tokens
    from supervisor.web import serving
    from supervisor.web.page.sessions import Sessions, path_of

    callers, token_file, link = None, None, None
    if not no_token:
        roles = Tokens(options.settings.state_dir, "serve-tokens", (OWNER_ROLE, VIEWER_ROLE))
        callers = Callers(Tokens(options.settings.state_dir), roles)
        token_file = str(roles.default)
        owner = roles.token(OWNER_ROLE)  # its file may have been removed on purpose
        link = None if owner is None else path_of(Sessions(options.settings.state_dir, callers).link(owner))

    def started(bound: Address) -> None:
        announce(call, "jobs", bound, "/", token_file, link)

    run_server(partial(serving.serve, options, address, callers=callers, allowed_hosts=allow_hosts, started=started))
    return exits.OK
