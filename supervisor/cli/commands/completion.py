"""``completion``: the script with which a shell completes commands, options and job ids."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from supervisor.cli import exits, shells
from supervisor.cli.app import COMPLETE_VARIABLE, app
from supervisor.cli.files import replace_file
from supervisor.cli.front import Invocation, command
from supervisor.errors import InternalError, InvalidArguments

__all__ = ["completion"]


def _below(variable: str, default: str, *parts: str) -> Path:
    base = os.environ.get(variable, "")
    return Path(base if os.path.isabs(base) else os.path.expanduser(default), *parts)


_PATHS: Final[dict[str, Callable[[], Path]]] = {
    "bash": lambda: _below("XDG_DATA_HOME", "~/.local/share", "bash-completion", "completions", "supervisor"),
    "zsh": lambda: Path(os.path.expanduser("~/.zfunc/_supervisor")),
    "fish": lambda: _below("XDG_CONFIG_HOME", "~/.config", "fish", "completions", "supervisor.fish"),
}
"""Where each shell looks for the completions of a user; zsh has no such place, and a usual one."""

_ZSH_NOTE: Final = "zsh reads it if ~/.zshrc has `fpath+=~/.zfunc` before `compinit`."


@command("completion")
@click.argument("shell", type=click.Choice(list(_PATHS)), required=False)
@click.option("--install", is_flag=True, help="Write it where the shell looks for completions, and print nothing else.")
def completion(call: Invocation, shell: str | None, *, install: bool) -> int:
    """Print the script with which SHELL completes commands and job ids. The default is the shell in $SHELL.

    With --install the script is written to a file of yours: for bash and fish where they look for completions, for
    zsh to ~/.zfunc/_supervisor. New shells read it. No other file is changed.
    """
    if shell is None:
        shell = os.path.basename(os.environ.get("SHELL", ""))
        if shell not in _PATHS:
            message = f"Name the shell: {', '.join(_PATHS)}."
            raise click.UsageError(message)
    script = _script(shell)
    if not install:
        call.answer(lambda: {"ok": True, "shell": shell, "script": script}, script)
        return exits.OK
    path = _PATHS[shell]()
    try:
        present = path.read_bytes() if path.exists() else b""
        if present and COMPLETE_VARIABLE.encode() not in present:
            message = f"{path} is there, and it is not a completion script of this program"
            raise InvalidArguments(
                message, repair="Move it away, or write the script that is printed without --install."
            )
        replace_file(path, script + "\n", mode=0o644)
    except OSError as error:
        message = f"cannot write {path}: {error}"
        raise InvalidArguments(
            message, repair="Write the script that is printed without --install to a file."
        ) from error
    call.answer(lambda: {"ok": True, "shell": shell, "path": str(path)}, f"New shells complete with {path}.")
    if shell == "zsh":
        call.note(_ZSH_NOTE)
    return exits.OK


def _script(shell: str) -> str:
    shells.register()
    found = get_completion_class(shell)
    if found is None:  # pragma: no cover  # click has these three since 8.0
        message = f"this version of click cannot complete for {shell}"
        raise InternalError(message)
    script = found(app, {}, "supervisor", COMPLETE_VARIABLE).source().strip()
    first, newline, rest = script.partition("\n")
    note = f"# To install: supervisor completion {shell} --install"
    # zsh requires #compdef in the first line.
    return f"{first}\n{note}{newline}{rest}" if first.startswith("#compdef") else f"{note}\n{script}"
