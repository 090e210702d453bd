"""``completion``: the script with which a shell completes commands, options and job ids."""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import get_completion_class

from supervisor.cli import exits, shells
from supervisor.cli.app import COMPLETE_VARIABLE, app
from supervisor.cli.front import Invocation, command
from supervisor.errors import InternalError

__all__ = ["completion"]

_INSTALL: Final = {
    "bash": "supervisor completion bash > ~/.local/share/bash-completion/completions/supervisor",
    "zsh": "supervisor completion zsh > ~/.zfunc/_supervisor    (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)",
    "fish": "supervisor completion fish > ~/.config/fish/completions/supervisor.fish",
}

_HELP: Final = """Print the script with which SHELL completes commands and job ids. The default is the shell in $SHELL.

\b
To install it, once:
""" + "".join(f"  {line}\n" for line in _INSTALL.values())


@command("completion", help=_HELP)
@click.argument("shell", type=click.Choice(list(_INSTALL)), required=False)
def completion(call: Invocation, shell: str | None) -> int:
    """Print a completion script."""
    if shell is None:
        shell = os.path.basename(os.environ.get("SHELL", ""))
        if shell not in _INSTALL:
            message = f"Name the shell: {', '.join(_INSTALL)}."
            raise click.UsageError(message)
    shells.register()
    found = get_completion_class(shell)
    if found is None:  # pragma: no cover  # click has these three since 8.0
        message = f"this version of click cannot complete for {shell}"
        raise InternalError(message)
    script = found(app, {}, "supervisor", COMPLETE_VARIABLE).source().strip()
    first, newline, rest = script.partition("\n")
    note = f"# To install: {_INSTALL[shell]}"
    # zsh requires #compdef in the first line.
    script = f"{first}\n{note}{newline}{rest}" if first.startswith("#compdef") else f"{note}\n{script}"
    call.answer(lambda: {"ok": True, "shell": shell, "script": script}, script)
    return exits.OK
