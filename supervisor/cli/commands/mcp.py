"""``mcp``: serve jobs to MCP hosts. It needs the extra ``mcp``."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import exits, inherited, streams
from supervisor.cli.front import Invocation, command, report
from supervisor.errors import InvalidArguments, InvalidSettings, SupervisorError
from supervisor.text.groups import leaves

if TYPE_CHECKING:
    from supervisor.mcp_server.serving import Options
    from supervisor.mcp_server.transports.http import Address

__all__ = ["check_installed", "mcp"]

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


@command("mcp", help=_HELP)
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="The kinds file. Default: SUPERVISOR_CONFIG."
)
@click.option(
    "--allow-command",
    "allow_commands",
    multiple=True,
    metavar="PATTERN",
    help="Allow job_start to start commands that match. May be repeated.",
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Serve Streamable HTTP at /mcp on this address, or on the UNIX socket unix:PATH. Port 0 selects a free port.",
)
@click.option(
    "--no-token",
    is_flag=True,
    help="Require no token: every local user may act as you. Only on loopback, or on a UNIX socket, "
    "which other users cannot reach.",
)
@click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="A name by which clients address this machine."
)
@click.option("--print-examples", is_flag=True, help="Print an example of a kinds file and exit.")
def mcp(
    call: Invocation,
    *,
    config: Path | None,
    allow_commands: Sequence[str],
    http: str | None,
    no_token: bool,
    allow_hosts: Sequence[str],
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
        options = _options(call, config, allow_commands)
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
    missing = [each for each in ("mcp", "hypercorn") if importlib.util.find_spec(each) is None]
    if missing:
        message = f"MCP needs {' and '.join(missing)}, which the extra `mcp` installs"
        raise InvalidSettings(message, repair='pip install "trio-supervisor[mcp]"')


def _options(call: Invocation, config: Path | None, allow_commands: Sequence[str]) -> Options:
    from supervisor.mcp_server.access.guarded import load_kinds
    from supervisor.mcp_server.config.patterns import check_pattern

    for pattern in allow_commands:
        check_pattern(pattern)
    found = load_kinds(call.settings, config)
    from supervisor.mcp_server.serving import Options

    return Options(settings=call.settings, kinds=found, allow_commands=allow_commands)


def _over_stdio(options: Options) -> int:
    for number, name in enumerate(("stdin", "stdout")):
        if inherited.is_closed(number):
            message = f"{name} is closed, but the host is served over stdin and stdout"
            raise InvalidArguments(message, repair="Make the host open both, or serve with --http.")
    from supervisor.mcp_server.serving import serve_stdio

    _run(partial(serve_stdio, options))
    streams.finish()
    os._exit(exits.OK)  # a host waits half a second; nothing is left to save, and a normal exit takes longer


def _over_http(call: Invocation, options: Options, http: str, *, no_token: bool, allow_hosts: Sequence[str]) -> int:
    from supervisor.mcp_server.access.tokens import Tokens
    from supervisor.mcp_server.serving import serve_http
    from supervisor.mcp_server.transports.http import parse_address

    address = parse_address(http)
    if no_token and not address.loopback:
        message = f"--no-token is for loopback, but other machines reach {address.host}"
        raise InvalidArguments(message, repair="Omit --no-token, or listen on 127.0.0.1.")
    tokens = None if no_token else Tokens(options.settings.state_dir)

    def started(bound: Address) -> None:
        url = f"http://{bound.host if bound.path else bound}/mcp"
        file = None if tokens is None else str(tokens.default)
        callers = "only you" if bound.path else "every user of this machine"
        access = f"Bearer token: in {file}" if file else f"No token: {callers} may start and read jobs."
        where = f" on the UNIX socket {bound.path}" if bound.path else ""
        shape = {"ok": True, "url": url, "socket": bound.path, "token_file": file}
        call.answer(lambda: shape, f"Serving MCP at {url}{where}", access)
        sys.stdout.flush()

    _run(partial(serve_http, options, address, tokens=tokens, allowed_hosts=allow_hosts, started=started))
    return exits.OK


def _run(serve: Callable[[], Awaitable[None]]) -> None:
    """Serve; unwrap an exception group whose only leaf is a ``SupervisorError`` or a closed stdout."""
    import trio

    try:
        trio.run(serve)
    except BaseExceptionGroup as group:
        match leaves(group):
            case [SupervisorError() | BrokenPipeError() as error]:
                raise error from error.__cause__
            case _:
                raise
