"""``man``: the manual pages of the commands."""

from __future__ import annotations

from pathlib import Path

import click

from supervisor.cli import exits
from supervisor.cli.app import COMMANDS
from supervisor.cli.files import replace_file
from supervisor.cli.front import Invocation, command
from supervisor.errors import InvalidArguments

__all__ = ["man"]


@command("man")
@click.argument("name", metavar="[COMMAND]", type=click.Choice(list(COMMANDS)), required=False)
@click.option(
    "--install",
    is_flag=True,
    help="Write the pages of all commands to ~/.local/share/man/man1, where man looks for those of a user.",
)
@click.option("--directory", metavar="DIR", type=click.Path(file_okay=False), help="With --install: write them to DIR.")
def man(call: Invocation, name: str | None, *, install: bool, directory: str | None) -> int:
    """Print the manual page of COMMAND, or of the program.

    To read it: supervisor man run | man -l -. With --install the pages are files, for `man supervisor-run`.
    """
    from supervisor.cli import man_pages  # it loads every command

    if install and name:
        message = "--install writes the pages of all commands."
        raise click.UsageError(message)
    if directory is not None and not install:
        message = "--directory goes with --install."
        raise click.UsageError(message)
    if not install:
        page = man_pages.page_of(name or "")
        call.answer(lambda: {"ok": True, "page": page}, page.rstrip("\n"))
        return exits.OK
    target = Path(directory or "~/.local/share/man/man1").expanduser()
    try:
        made = {target / f"{title}.1": page for title, page in man_pages.pages()}
        for path, page in made.items():
            replace_file(path, page, mode=0o644)
    except OSError as error:
        message = f"cannot write the pages to {target}: {error}"
        raise InvalidArguments(message, repair="Name another directory: --directory DIR.") from error
    call.answer(lambda: {"ok": True, "paths": [str(path) for path in made]}, f"{len(made)} pages are in {target}.")
    return exits.OK
