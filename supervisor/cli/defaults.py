"""Defaults for options of ``run`` and ``start``: the table ``[defaults]`` of the configuration file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import click

from supervisor.settings import config_file
from supervisor.text.toml_file import TomlFile, shown

__all__ = ["COMMANDS", "check", "configured"]

COMMANDS: Final = ("run", "start")

_NOT_ALLOWED: Final = frozenset({"help", "json", "state-dir", "key"})
"""A default would make every job the same one, or change what a program reads; the state root is a setting."""
_VARIABLES: Final = {
    "deadline": "SUPERVISOR_JOB_MAX_SECONDS",
    "ttl": "SUPERVISOR_JOB_TTL",
    "max-output": "SUPERVISOR_JOB_MAX_OUTPUT_BYTES",
    "grace": "SUPERVISOR_STOP_GRACE_SECONDS",
    "shared-dir": "SUPERVISOR_SHARED_DIR",
}
"""The options that override a setting: its variable comes before the file."""


def configured(ctx: click.Context) -> dict[str, Any]:
    """Return the parsed values in the file of the options that are not given, by their parameters.

    Raises:
        InvalidSettings: the file cannot be read, or an option in it is unknown or has an invalid value.
    """
    file = config_file.read()
    if file is None:
        return {}
    found: dict[str, Any] = {}
    options = _options(ctx.command)
    for name, (option, value) in _parsed(file, ctx, options).items():
        if ctx.get_parameter_source(option.name or "") is not click.core.ParameterSource.DEFAULT:
            continue
        if not os.environ.get(_VARIABLES.get(name, "")):
            found[option.name or ""] = value
    return found


def check(file: TomlFile, ctx: click.Context) -> list[str]:
    """Check the defaults for each command that takes some, and return the names of the options.

    Raises:
        InvalidSettings: an option is unknown or has an invalid value.
    """
    found: dict[str, object] = {}
    for command in _commands(ctx):
        found |= _parsed(file, click.Context(command, ctx), _options(command))
    return list(found)


def _commands(ctx: click.Context) -> list[click.Command]:
    """Return the commands that take defaults."""
    root = ctx.find_root()
    group = root.command
    assert isinstance(group, click.Group)  # noqa: S101  # `supervisor`
    return [command for name in COMMANDS if (command := group.get_command(root, name)) is not None]


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by their long names, without those that can have no default."""
    found: dict[str, click.Option] = {}
    for option in command.params:
        if isinstance(option, click.Option):
            found |= {name[2:]: option for name in option.opts if name.startswith("--")}
    return {name: option for name, option in found.items() if name not in _NOT_ALLOWED}


def _parsed(
    file: TomlFile, ctx: click.Context, options: Mapping[str, click.Option]
) -> dict[str, tuple[click.Option, Any]]:
    table = file.table((config_file.DEFAULTS,), file.document.get(config_file.DEFAULTS, {}), "a table of options")
    found: dict[str, tuple[click.Option, Any]] = {}
    for key, value in table.items():
        name, where = key.replace("_", "-"), (config_file.DEFAULTS, key)
        option = options.get(name)
        if option is not None:
            found[name] = option, _value(file, ctx, where, option, value)
            continue
        known = {name: option for command in _commands(ctx) for name, option in _options(command).items()}
        if name not in known:
            file.refuse_key(where, [name for name, option in known.items() if not option.hidden])
    return found


def _value(file: TomlFile, ctx: click.Context, where: tuple[str, str], option: click.Option, value: Any) -> Any:
    """Return a value of the file as the command line would parse it."""
    allowed = f"what --{where[1].replace('_', '-')} accepts"
    if option.is_flag:
        if not isinstance(value, bool):
            file.refuse(where, f"{where[1]} is {shown(value)}", "true or false")
        return value
    values = _listed(value)
    is_list = values is value
    scalars = all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values)
    if not scalars or (is_list and not option.multiple):
        file.refuse(
            where, f"{where[1]} is {shown(value)}", allowed + (", or a list of that" if option.multiple else "")
        )
    words = [str(each) for each in values]
    try:
        return option.process_value(ctx, words if option.multiple else words[0])
    except click.BadParameter as error:
        file.refuse(where, f"{where[1]} is {shown(value)}", f"{allowed} ({error.message.rstrip('.')})")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]  # TOML
