"""Manual pages, made from the commands as they are: their help, arguments and options, in the language of man(7)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import attrs
import click

from supervisor._version import __version__
from supervisor.cli.app import COMMANDS, app
from supervisor.settings import Settings

__all__ = ["page_of", "pages"]

_UNFILLED = "\b"
"""The line before a paragraph that click prints as it is."""


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name of each page, ``supervisor`` and ``supervisor-COMMAND``, and its text."""
    for name in ("", *COMMANDS):
        yield f"supervisor-{name}".rstrip("-"), page_of(name)


def page_of(name: str) -> str:
    """Return the page of a command; of the program for an empty name."""
    top = click.Context(app, info_name="supervisor")
    command = app.get_command(top, name) if name else app
    if command is None:
        message = f"there is no command {name!r}"
        raise ValueError(message)
    context = click.Context(command, info_name=name, parent=top) if name else top
    title = f"supervisor-{name}".rstrip("-")
    short = COMMANDS[name][2].rstrip(".") if name else "run long commands as durable jobs"
    lines = [
        f'.TH "{_escaped(title.upper())}" 1 "" "trio-supervisor {__version__}" "User commands"',
        ".SH NAME",
        f"{_escaped(title)} \\- {_escaped(short[0].lower() + short[1:])}",
        ".SH SYNOPSIS",
        f".B {_escaped(context.command_path)}",
        _escaped(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_prose(command.help or ""),
        *_options(command, context, ".SH OPTIONS"),
    ]
    if not name:
        lines += [".SH COMMANDS", *_terms((f"supervisor-{each}(1)", line) for each, (_, _, line) in COMMANDS.items())]
        lines += [".SH ENVIRONMENT", *_terms(_variables())]
    elif isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            if below is not None:
                inner = click.Context(below, info_name=each, parent=context)
                usage = " ".join([inner.command_path, *below.collect_usage_pieces(inner)])
                lines += [f".SS {_escaped(usage)}", *_prose(below.help or ""), *_options(below, inner, None)]
    lines += [
        ".SH SEE ALSO",
        "supervisor(1)" if name else "supervisor-run(1), supervisor-start(1), supervisor-doctor(1)",
    ]
    return "\n".join(lines) + "\n"


def _options(command: click.Command, context: click.Context, heading: str | None) -> Iterator[str]:
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [found for each in options if (found := each.get_help_record(context))]
    if records:
        yield from [] if heading is None else [heading]
        yield from _terms(records)


def _variables() -> Iterator[tuple[str, str]]:
    """Yield the variable of each setting with its text in the docstring of ``Settings``."""
    items = (inspect.getdoc(Settings) or "").partition("Attributes:")[2].partition("Raises:")[0]
    for field in attrs.fields(Settings):
        variable = field.metadata["source"].variable
        found = re.search(rf"^    {field.name}: (.+(?:\n {{5,}}.+)*)", items, re.MULTILINE)
        text = " ".join(found[1].replace("``", "").split()) if found else ""  # python -OO drops docstrings
        text = re.sub(
            rf" \({variable}(?:, (.+?))?\)", lambda default: f" (default: {default[1]})" if default[1] else "", text
        )
        yield variable, text[:1].upper() + text[1:]


def _terms(records: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> Iterator[str]:
    for term, text in records:
        yield from (".TP", f".B {_escaped(term)}", _escaped(" ".join(text.split())) or "\\&")


def _prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        yield ".PP"
        if lines[0].strip() == _UNFILLED:
            yield from (".nf", *map(_escaped, lines[1:]), ".fi")
        else:
            yield _escaped(" ".join(line.strip() for line in lines))


def _escaped(text: str) -> str:
    """Return one line of text that man(7) shows as it is."""
    escaped = (
        text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    escaped = escaped.replace("`", "\\(ga").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
