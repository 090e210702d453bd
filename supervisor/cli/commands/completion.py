"""``completion``: the script that makes a shell complete commands, options and job ids."""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import get_completion_class

from supervisor.cli import exits
from supervisor.cli.app import COMPLETE_VARIABLE, app
from supervisor.cli.front import Invocation, command
from supervisor.errors import InternalError

__all__ = ["completion"]

_INSTALL: Final = {
    "bash": "supervisor completion bash > ~/.local/share/bash-completion/completions/supervisor",
    "zsh": "supervisor completion zsh > ~/.zfunc/_supervisor    (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)",
    "fish": "supervisor completion fish > ~/.config/fish/completions/supervisor.fish",
}


_HELP: Final = """Print the script that makes SHELL (by default the one of $SHELL) complete commands and job ids.

\b
To install it, once:
  bash  supervisor completion bash > ~/.local/share/bash-completion/completions/supervisor
  zsh   supervisor completion zsh > ~/.zfunc/_supervisor
        (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)
  fish  supervisor completion fish > ~/.config/fish/completions/supervisor.fish
"""


@command("completion", help=_HELP, short_help="Print the script that completes commands in your shell.")
@click.argument("shell", type=click.Choice(list(_INSTALL)), required=False)
def completion(call: Invocation, shell: str | None) -> int:
    """Print a completion script."""
    if shell is None:
        shell = os.path.basename(os.environ.get("SHELL", ""))
        if shell not in _INSTALL:
            message = f"Say for which shell: {', '.join(_INSTALL)}."
            raise click.UsageError(message)
    found = get_completion_class(shell)
    if found is None:  # pragma: no cover  # click has these three since 8.0
        message = f"this version of click cannot complete for {shell}"
        raise InternalError(message)
    script = found(app, {}, "supervisor", COMPLETE_VARIABLE).source().strip()
    if shell == "fish":  # what stands behind the first comma is the value and its description, commas included
        script = script.replace('string split "," ', 'string split --max 1 "," ')
    first, newline, rest = script.partition("\n")
    note = f"# To install: {_INSTALL[shell]}"
    # zsh insists on #compdef in the first line.
    script = f"{first}\n{note}{newline}{rest}" if first.startswith("#compdef") else f"{note}\n{script}"
    call.answer(lambda: {"ok": True, "shell": shell, "script": script}, script)
    return exits.OK
