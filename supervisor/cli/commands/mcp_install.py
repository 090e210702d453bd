"""``mcp install``: let an MCP host start this server."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click

from supervisor.cli import exits
from supervisor.cli.files import replace_file
from supervisor.cli.front import Invocation, command
from supervisor.cli.servers import check_extra, config_option
from supervisor.errors import InvalidArguments
from supervisor.mcp_server.hosts import HOSTS, ByCommand, ByFile

__all__ = ["install"]

_HELP = f"""Configure an MCP host, so that it starts this server: {", ".join(HOSTS)}.

All paths in the configuration are absolute, because a host starts its servers in another directory and often with
another PATH. --print shows the change and makes none. `claude` and `codex` are configured by their own commands, the
other hosts by their JSON files in your home directory.
"""
_NAME = "jobs"
_SECONDS = 120


@command("install", help=_HELP, short_help="Let an MCP host start this server.")
@click.argument("host", type=click.Choice(list(HOSTS)), metavar="HOST")
@config_option
@click.option("--name", default=_NAME, show_default=True, metavar="NAME", help="The name of the server in the host.")
@click.option("--replace", is_flag=True, help="Replace another server of this name.")
@click.option("--print", "only_print", is_flag=True, help="Print the change, and change nothing.")
def install(call: Invocation, *, host: str, config: Path | None, name: str, replace: bool, only_print: bool) -> int:
    """Change the configuration of a host, or print the change."""
    chosen = HOSTS[host]
    if not name or name.startswith("-") or not name.replace("-", "").replace("_", "").isalnum():
        message = f"--name is {name!r}; it accepts letters, digits, '-' and '_'"
        raise InvalidArguments(message, repair="Give another name, such as jobs.")
    check_extra("mcp", "mcp", "hypercorn")
    from supervisor.mcp_server.access.guarded import load_kinds

    load_kinds(call.settings, config)  # a mistake in it is found now, and not by the host, which hides it
    server = _server(call, config or call.settings.config)
    if isinstance(chosen, ByCommand):
        return _by_command(call, chosen, chosen.argv(name, server), only_print=only_print)
    return _by_file(call, chosen, name, server, replace=replace, only_print=only_print)


def _server(call: Invocation, config: Path | None) -> list[str]:
    """Return the command of the server, with absolute paths."""
    program = shutil.which(sys.argv[0]) if os.path.basename(sys.argv[0]) == "supervisor" else None
    words = [os.path.abspath(program)] if program else [sys.executable, "-m", "supervisor"]
    words += ["mcp", "--state-dir", os.path.abspath(call.settings.state_dir)]
    if config is not None:
        words += ["--config", os.path.abspath(config)]
    return words


def _by_command(call: Invocation, host: ByCommand, argv: list[str], *, only_print: bool) -> int:
    line = shlex.join(argv)
    if only_print:
        call.answer(lambda: {"ok": True, "command": argv, "changed": False}, line)
        return exits.OK
    program = shutil.which(argv[0])
    if program is None:
        message = f"{argv[0]} is not installed, or not in PATH; it alone changes the configuration of {host.title}"
        raise InvalidArguments(message, repair=f"Install it, then run this again, or run: {line}")
    try:
        done = subprocess.run(
            [program, *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{argv[0]} did not add the server: {error}"
        raise InvalidArguments(message, repair=f"Run it yourself: {line}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
        message = f"{argv[0]} did not add the server: {said or f'it exited with {done.returncode}'}"
        raise InvalidArguments(message, repair=f"Run it yourself: {line}")
    call.answer(lambda: {"ok": True, "command": argv, "changed": True}, f"{host.title} starts the server now: {line}")
    return exits.OK


def _by_file(call: Invocation, host: ByFile, name: str, server: list[str], *, replace: bool, only_print: bool) -> int:
    path = host.path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, ValueError) as error:
        message = f"cannot read {path}: {error}"
        raise InvalidArguments(message, repair="Add what --print shows by hand.") from error
    entry = host.entry(server)
    shape = {"ok": True, "path": str(path), "table": host.table, "name": name, "entry": entry}
    if only_print:
        addition = host.changed("", name, server, replace=False) or ""
        call.answer(lambda: {**shape, "changed": False}, f"In {path}:", addition.rstrip("\n"))
        return exits.OK
    changed = host.changed(text, name, server, replace=replace)
    if changed is None:
        call.answer(lambda: {**shape, "changed": False}, f"{path} has the server {name} already.")
        return exits.OK
    try:
        replace_file(path, changed)
    except OSError as error:
        message = f"cannot write {path}: {error}"
        raise InvalidArguments(message, repair="Add what --print shows by hand.") from error
    call.answer(lambda: {**shape, "changed": True}, f"{host.title} starts the server {name} now: {path}")
    return exits.OK
