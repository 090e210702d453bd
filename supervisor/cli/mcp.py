"""``mcp``: serve jobs to MCP hosts. What it needs beyond the package comes with the extra ``mcp``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import attrs
import click

from supervisor.cli import exits
from supervisor.cli.front import Invocation, command
from supervisor.errors import InvalidSettings

__all__ = ["mcp"]


@command("mcp", short_help="Serve jobs to MCP hosts, over stdio or HTTP.")
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="The kinds file: which jobs can be started."
)
@click.option("--allow-command", "allow_commands", multiple=True, metavar="PATTERN", help="Let job_start start these.")
def mcp(call: Invocation, *, config: Path | None, allow_commands: Sequence[str]) -> int:
    """Serve jobs to an MCP host over stdin and stdout."""
    _check_installed()
    from supervisor.mcp_server import kinds

    if config is not None:
        call.settings = attrs.evolve(call.settings, config=config)
    found = () if call.settings.config is None else kinds.load(call.settings.config)
    import trio

    from supervisor.mcp_server.serving import Options, serve_stdio

    trio.run(serve_stdio, Options(settings=call.settings, kinds=found, allow_commands=allow_commands))
    return exits.OK


def _check_installed() -> None:
    if importlib.util.find_spec("mcp") is None:
        message = "the MCP server needs the extra `mcp`, which is not installed"
        raise InvalidSettings(message, repair='pip install "trio-supervisor[mcp]"')
