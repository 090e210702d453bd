"""What the commands that serve share: options, the address, and the report of where they serve."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from supervisor.cli.front import Invocation
from supervisor.errors import InvalidArguments, InvalidSettings, SupervisorError
from supervisor.text.groups import leaves

if TYPE_CHECKING:
    from supervisor.http.listening import Address
    from supervisor.mcp_server.options import Options

__all__ = [
    "address_of",
    "allow_command_option",
    "allow_host_option",
    "announce",
    "check_extra",
    "config_option",
    "events_option",
    "no_token_option",
    "run_server",
    "server_options",
]

config_option: Final = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="The kinds file. Default: SUPERVISOR_CONFIG."
)
allow_command_option: Final = click.option(
    "--allow-command",
    "allow_commands",
    multiple=True,
    metavar="PATTERN",
    help="Allow callers to start commands that match. May be repeated.",
)
events_option: Final = click.option(
    "--events",
    is_flag=True,
    help="Offer the starts and ends of jobs to clients of the protocol's events extension, which is a draft.",
)
no_token_option: Final = click.option(
    "--no-token",
    is_flag=True,
    help="Require no token: every local user may act as you. Only on loopback, or on a UNIX socket, "
    "which other users cannot reach.",
)
allow_host_option: Final = click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="A name by which clients address this machine."
)


def check_extra(extra: str, *modules: str) -> None:
    """Raise ``InvalidSettings`` unless the modules of an extra are installed."""
    missing = [each for each in modules if importlib.util.find_spec(each) is None]
    if missing:
        message = f"this command needs {' and '.join(missing)}, which the extra `{extra}` installs"
        raise InvalidSettings(message, repair=f'pip install "trio-supervisor[{extra}]"')


def server_options(
    call: Invocation, config: Path | None, allow_commands: Sequence[str], *, events: bool = False
) -> Options:
    """Return the options of a server.

    Raises:
        InvalidArguments, InvalidSettings: a pattern or the kinds file has a mistake.
    """
    from supervisor.mcp_server.access.guarded import load_kinds
    from supervisor.mcp_server.config.patterns import check_pattern

    for pattern in allow_commands:
        check_pattern(pattern)
    found = load_kinds(call.settings, config)
    from supervisor.mcp_server.options import Options

    return Options(settings=call.settings, kinds=found, allow_commands=allow_commands, events=events)


def address_of(http: str, *, no_token: bool) -> Address:
    """Return the address that ``--http`` names.

    Raises:
        InvalidArguments: it names none, or one that is not for a server without a token.
    """
    from supervisor.http.listening import parse_address

    address = parse_address(http)
    if no_token and not address.loopback:
        message = f"--no-token is for loopback, but other machines reach {address.host}"
        raise InvalidArguments(message, repair="Omit --no-token, or listen on 127.0.0.1.")
    return address


def announce(
    call: Invocation, what: str, bound: Address, path: str, token_file: str | None, link: str | None = None
) -> None:
    """Print where a server serves, which file has the token, and the ``link`` that begins a session in a browser."""
    url = f"http://{bound.host if bound.path else bound}{path}"
    callers = "only you" if bound.path else "every user of this machine"
    access = f"Bearer token: in {token_file}" if token_file else f"No token: {callers} may start and read jobs."
    where = f" on the UNIX socket {bound.path}" if bound.path else ""
    shape = {"ok": True, "url": url, "socket": bound.path, "token_file": token_file}
    login = []
    if link is not None:
        shape["login_url"] = f"{url.removesuffix(path)}{link}"
        login = [f"Open in a browser, once: {shape['login_url']}"]
    call.answer(lambda: shape, f"Serving {what} at {url}{where}", access, *login)
    sys.stdout.flush()


def run_server(serve: Callable[[], Awaitable[None]]) -> None:
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
