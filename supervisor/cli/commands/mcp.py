"""``mcp``: serve jobs to MCP hosts. What it needs beyond the package comes with the extra ``mcp``."""

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

if TYPE_CHECKING:
    from supervisor.mcp_server.serving import Options
    from supervisor.mcp_server.transports.http import Address

__all__ = ["check_installed", "mcp"]

_HELP = """Serve jobs to an MCP host over stdin and stdout, or with --http to whoever comes.

Without a kinds file there are only tools that look after jobs. Each [kind.NAME] in it adds a tool that
starts one; --print-examples shows some. Commands of the caller's own choice are started only where
--allow-command allows them, word by word: 'make test', 'pytest *', 'git log --oneline *'. A last word *
stands for all that follow. A * never stands for an option: write out those that a caller may give, with
a * only after '=', as in 'git log --max-count=* *'.

With --http each request needs a bearer token. The first process that binds a port is given the tokens of
its clients; a UNIX socket, in a directory that only you may write to, is yours alone.
The first start makes a token and prints the path of its file;
other files beside it are other principals, who see each other's jobs as little as strangers'.
"""


_HTTP_HELP = "Serve Streamable HTTP at /mcp there, or on a UNIX socket, unix:PATH. Port 0 takes a free one."


@command("mcp", short_help="Serve jobs to MCP hosts, over stdio or HTTP.", help=_HELP)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The kinds file; or SUPERVISOR_CONFIG.")
@click.option("--allow-command", "allow_commands", multiple=True, metavar="PATTERN", help="Let job_start start these.")
@click.option("--http", metavar="HOST:PORT", help=_HTTP_HELP)
@click.option(
    "--no-token",
    is_flag=True,
    help="Let every user of this machine in, as you. On loopback only, or on a UNIX socket, which is yours alone.",
)
@click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="A name clients use for this machine.")
@click.option("--print-examples", is_flag=True, help="Print a kinds file to begin with, and do nothing else.")
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
    """Serve until the host has gone or a signal comes."""
    if print_examples:
        examples = Path(__file__).parents[2] / "mcp_server" / "config" / "examples.toml"
        _keep_others_out(sys.stdout.fileno())
        call.answer(lambda: {"ok": True, "value": examples.read_text()}, examples.read_text().rstrip("\n"))
        return exits.OK
    try:
        check_installed()
        if http is None and (no_token or allow_hosts):
            message = f"{'--no-token' if no_token else '--allow-host'} has a meaning only with --http"
            raise InvalidArguments(message, repair="See `supervisor mcp --help`.")
        options = _options(call, config, allow_commands)
        if http is None:
            _check_streams()
            return _over_stdio(options)
    except SupervisorError as error:
        if http is not None:
            raise
        return report(error, as_json=False)  # nothing but the protocol is written to stdout, not even with --json
    return _over_http(call, options, http, no_token=no_token, allow_hosts=allow_hosts)


def _keep_others_out(descriptor: int) -> None:
    """Take the right to write a file of ours from others: a kinds file that they may write is refused."""
    with contextlib.suppress(OSError):
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~0o022)


def check_installed() -> None:
    """Raise ``InvalidSettings`` unless the extra is installed."""
    missing = [each for each in ("mcp", "hypercorn") if importlib.util.find_spec(each) is None]
    if missing:
        message = f"MCP needs {' and '.join(missing)}, which the extra `mcp` brings"
        raise InvalidSettings(message, repair='pip install "trio-supervisor[mcp]"')


def _options(call: Invocation, config: Path | None, allow_commands: Sequence[str]) -> Options:
    from supervisor.mcp_server.access.guarded import load_kinds
    from supervisor.mcp_server.config.patterns import check_pattern

    for pattern in allow_commands:
        check_pattern(pattern)
    found = load_kinds(call.settings, config)
    from supervisor.mcp_server.serving import Options

    return Options(settings=call.settings, kinds=found, allow_commands=allow_commands)


def _check_streams() -> None:
    for number, name in enumerate(("stdin", "stdout")):
        if inherited.is_closed(number):
            message = f"{name} is closed, and the host is served over stdin and stdout"
            raise InvalidArguments(message, repair="Have the host open both, or serve with --http.")


def _over_stdio(options: Options) -> int:
    from supervisor.mcp_server.serving import serve_stdio

    _run(partial(serve_stdio, options))
    streams.finish()
    os._exit(exits.OK)  # a host gives half a second: there is nothing left that taking a process apart could save


def _over_http(call: Invocation, options: Options, http: str, *, no_token: bool, allow_hosts: Sequence[str]) -> int:
    from supervisor.mcp_server.access.tokens import Tokens
    from supervisor.mcp_server.serving import serve_http
    from supervisor.mcp_server.transports.http import parse_address

    address = parse_address(http)
    if no_token and not address.loopback:
        message = f"--no-token is for loopback, and {address.host} is reached from elsewhere"
        raise InvalidArguments(message, repair="Leave --no-token out, or listen on 127.0.0.1.")
    tokens = None if no_token else Tokens(options.settings.state_dir)

    def started(bound: Address) -> None:
        url = f"http://{bound.host if bound.path else bound}/mcp"
        file = None if tokens is None else str(tokens.default)
        who = "only you" if bound.path else "every user of this machine"
        told = f"Bearer token: in {file}" if file else f"No token: {who} may start and read jobs."
        where = f" on the UNIX socket {bound.path}" if bound.path else ""
        shape = {"ok": True, "url": url, "socket": bound.path, "token_file": file}
        call.answer(lambda: shape, f"Serving MCP at {url}{where}", told)
        sys.stdout.flush()

    _run(partial(serve_http, options, address, tokens=tokens, allowed_hosts=allow_hosts, started=started))
    return exits.OK


def _run(serve: Callable[[], Awaitable[None]]) -> None:
    """Serve; an error of ours, or of stdout, that comes out alone in its groups is raised as itself."""
    import trio

    try:
        trio.run(serve)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            held: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if len(held) != 1:
                break
            error = held[0]
        if isinstance(error, SupervisorError | BrokenPipeError):
            raise error from error.__cause__
        raise
