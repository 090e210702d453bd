"""``mcp``: serve jobs to MCP hosts. It needs the extra ``mcp``."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import exits, inherited, streams
from supervisor.cli.front import Invocation, command, report
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
from supervisor.errors import InvalidArguments, SupervisorError

if TYPE_CHECKING:
    from supervisor.http.listening import Address
    from supervisor.mcp_server.options import Options

__all__ = ["check_installed", "mcp"]


class _Mcp(click.Group):
    """The command with its further command, which is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's
        return ["install"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's
        if cmd_name != "install":
            return None
        from supervisor.cli.commands.mcp_install import install

        return install


_HELP = """Serve jobs to an MCP host over stdin and stdout, or to HTTP clients with --http.

Without a kinds file, the server has only the tools that manage jobs. Each [kind.NAME] in the file adds a
tool that starts one sort of job; --print-examples prints a file with examples.

A caller may choose a command only if --allow-command allows it. A pattern is matched word by word: 'make
test', 'pytest *', 'git log --oneline *'. A * at the end matches all further words. A * never matches an
option: write out each option that a caller may give, with a * only after its '=', as in
'git log --max-count=* *'.

With --http, each request needs a bearer token. The first start makes a token and prints the path of its
file. Each further file in that directory is another principal; principals do not see each other's jobs.
The process that binds a port first receives the tokens that clients send to it. A UNIX socket has no such
risk if only you may write to its directory.
"""


@command("mcp", help=_HELP, cls=_Mcp, invoke_without_command=True, subcommand_metavar="[install HOST]")
@config_option
@allow_command_option
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Serve Streamable HTTP at /mcp on this address, or on the UNIX socket unix:PATH. Port 0 selects a free port.",
)
@no_token_option
@allow_host_option
@events_option
@click.option("--print-examples", is_flag=True, help="Print an example of a kinds file and exit.")
def mcp(
    call: Invocation,
    *,
    config: Path | None,
    allow_commands: Sequence[str],
    http: str | None,
    no_token: bool,
    allow_hosts: Sequence[str],
    events: bool,
    print_examples: bool,
) -> int:
    """Serve until the host closes stdin or a signal arrives."""
    if print_examples:
        examples = Path(__file__).parents[2] / "mcp_server" / "config" / "examples.toml"
        _make_private(sys.stdout.fileno())
        call.answer(lambda: {"ok": True, "value": examples.read_text()}, examples.read_text().rstrip("\n"))
        return exits.OK
    try:
        check_installed()
        if http is None and (no_token or allow_hosts):
            message = f"{'--no-token' if no_token else '--allow-host'} needs --http"
            raise InvalidArguments(message, repair="See `supervisor mcp --help`.")
        options = server_options(call, config, allow_commands, events=events)
        if http is None:
            return _over_stdio(options)
    except SupervisorError as error:
        if http is not None:
            raise
        return report(error, as_json=False)  # stdout is for the protocol only, also with --json
    return _over_http(call, options, http, no_token=no_token, allow_hosts=allow_hosts)


def _make_private(descriptor: int) -> None:
    """Remove other users' write permission from our own file: a kinds file with that permission is refused."""
    with contextlib.suppress(OSError):
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~0o022)


def check_installed() -> None:
    """Raise ``InvalidSettings`` unless the extra is installed."""
    check_extra("mcp", "mcp", "hypercorn")


def _over_stdio(options: Options) -> int:
    for number, name in enumerate(("stdin", "stdout")):
        if inherited.is_closed(number):
            message = f"{name} is closed, but the host is served over stdin and stdout"
            raise InvalidArguments(message, repair="Make the host open both, or serve with --http.")
    from supervisor.mcp_server.transports import first_answers
    from supervisor.mcp_server.transports.opening import NOT_OPENED, Opening, open_while

    opened, state_dir = NOT_OPENED, options.settings.state_dir
    try:
        key = first_answers.key_of(options)
    except OSError:
        key = None  # without a record, the host waits for the import
    if key is not None and (answers := first_answers.load(state_dir, key)) is not None:
        opened = open_while(Opening(answers), (0, 1), partial(import_module, "supervisor.mcp_server.serving"))
    from supervisor.mcp_server.serving import serve_stdio

    run_server(partial(serve_stdio, options, opened, key))
    streams.finish()
    os._exit(exits.OK)  # a host waits half a second; nothing is left to save, and a normal exit takes longer


def _over_http(call: Invocation, options: Options, http: str, *, no_token: bool, allow_hosts: Sequence[str]) -> int:
    from supervisor.http.tokens import Tokens
    from supervisor.mcp_server.serving import serve_http

    address = address_of(http, no_token=no_token)
    tokens = None if no_token else Tokens(options.settings.state_dir)

    def started(bound: Address) -> None:
        token_file = None if tokens is None else str(tokens.default)
        announce(call, "MCP", bound, "/mcp", token_file)

    run_server(partial(serve_http, options, address, tokens=tokens, allowed_hosts=allow_hosts, started=started))
    return exits.OK
