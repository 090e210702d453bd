"""The kinds file: each ``[kind.NAME]`` is a tool that starts one sort of job.

The file decides which commands other processes may run here. So it is read only from a path that the
operator gave (``--config``, ``SUPERVISOR_CONFIG``), and refused if another user could have written it.
"""

from __future__ import annotations

import math
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments, InvalidSettings
from supervisor.interpret import BUILT_IN, get_interpreter, kinds
from supervisor.jobs.error_codes import unknown_code
from supervisor.jobs.validation import MAX_DEADLINE_SECONDS, MAX_DELAY_SECONDS, MAX_GROUPS, MAX_PRIORITY
from supervisor.mcp_server.config import expressions, templates
from supervisor.mcp_server.config.arguments import DEFAULT_MAX_LENGTH, MAX_INTEGER, TYPES, Parameter
from supervisor.mcp_server.config.kinds import BUILT_IN_PLACEHOLDERS, CONTROLS, RESERVED, Kind
from supervisor.retry import Retry
from supervisor.store.groups import check_name
from supervisor.system.trust import exposure_of
from supervisor.text.toml_file import BOOLEAN, STRING, Parser, TomlFile, number, parser, real, shown, whole
from supervisor.text.webhook_urls import ANYWHERE, parse_url
from supervisor.worktrees.record import FROM

__all__ = ["load", "parse"]

Exposes = Callable[[str], str | None]
"""Returns why a directory may not be one of a kind's workspaces; ``None`` if it may."""
GroupExists = Callable[[str], bool]
"""Returns whether there is a group of this name."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_PARAMETER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_VARIABLE: Final = re.compile(r"[A-Za-z_*?][A-Za-z0-9_*?]*")
_COMMAND: Final = 'a list of strings: the command, then each of its arguments, as in ["make", "test"]'
_WORKSPACES: Final = 'a list of absolute paths of directories, as in ["~/src"]'
_EXPRESSION: Final = "a regular expression that Python and ECMA-262 read alike, as hosts get it in a JSON schema"


def load(
    path: Path,
    *,
    shared_dir: Path | None = None,
    exposes: Exposes = lambda _: None,
    group_exists: GroupExists = lambda _: True,
) -> tuple[Kind, ...]:
    """Read a kinds file. ``shared_dir`` is the default of kinds that run on a cluster.

    Raises:
        InvalidSettings: the file cannot be read, is not to be trusted, or has a mistake, such as a group that does
            not exist.
    """
    real_path = os.path.realpath(path)
    try:
        # The opener and not a descriptor: without it a directory would stay open.
        with open(real_path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            _check_trust(real_path, os.fspath(path), os.fstat(file.fileno()))
            data = file.read()
    except OSError as error:
        message = f"the kinds file {path} cannot be read: {error.strerror or error}"
        raise InvalidSettings(message, repair="Correct --config or SUPERVISOR_CONFIG.") from error
    return parse(data, str(path), shared_dir=shared_dir, exposes=exposes, group_exists=group_exists)


def _check_trust(real_path: str, given: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        message = f"the kinds file {real_path} is not a regular file"
        raise InvalidSettings(message, repair="Correct --config or SUPERVISOR_CONFIG.")
    if found.st_uid not in {os.geteuid(), 0}:
        message = f"the kinds file {real_path} belongs to user {found.st_uid}, who could change its commands"
        raise InvalidSettings(message, repair="Make a copy of your own.")
    if found.st_mode & 0o022:
        message = f"others may write the kinds file {real_path} (mode {stat.S_IMODE(found.st_mode):04o})"
        raise InvalidSettings(message, repair=f"If its contents are intact: chmod go-w {real_path}")
    if (exposure := exposure_of(given)) is not None:
        message = f"others may replace the kinds file {real_path}: {exposure.place} {exposure.why}"
        raise InvalidSettings(message, repair=exposure.repair)


def parse(
    text: str | bytes,
    path: str,
    *,
    shared_dir: Path | None = None,
    exposes: Exposes = lambda _: None,
    group_exists: GroupExists = lambda _: True,
) -> tuple[Kind, ...]:
    """Parse a kinds file; ``path`` is its name in messages, the other arguments are those of ``load``.

    Raises:
        InvalidSettings: the file has a mistake.
    """
    file = TomlFile(text, path, InvalidSettings, "Correct the kinds file.")
    file.values((), file.document, {}, {"kind"})
    reader = _Reader(file, shared_dir, exposes, group_exists)
    return tuple(reader.kind(("kind", name), value) for name, value in _tables(file, (), file.document, "kind").items())


def _tables(file: TomlFile, where: tuple[str, ...], table: Mapping[str, Any], key: str) -> dict[str, Any]:
    here = (*where, key)
    return file.table(here, table.get(key, {}), f"tables: [{'.'.join((*here, 'NAME'))}]")


@attrs.frozen
class _Reader:
    _file: TomlFile
    _shared_dir: Path | None
    _exposes: Exposes
    _group_exists: GroupExists

    # ------------------------------------------------------------ a kind

    def kind(self, where: tuple[str, ...], value: Any) -> Kind:
        name = where[-1]
        if not _NAME.fullmatch(name) or name.startswith("job_"):
            allowed = "letters, digits, '-' and '_', a letter first, at most 64; names with the prefix job_ are taken"
            self._file.refuse(where, f"the name {name!r} cannot be that of a tool", allowed)
        table = self._file.table(where, value, f"a table: [kind.{name}]")
        values = self._file.values(where, table, _KIND_KEYS, {"engine", "engine_options", "parameters", "retry"})
        for key in ("description", "command"):
            if key not in values:
                self._file.refuse(where, f"the key {key!r} is missing", f"for it {_KIND_KEYS[key][1]}")
        parameters = {
            each: self._parameter((*where, "parameters", each), settings)
            for each, settings in _tables(self._file, where, table, "parameters").items()
        }
        self._check_command((*where, "command"), values["command"], parameters)
        if "stdin" in values:
            self._check_placeholders((*where, "stdin"), values["stdin"], parameters)
        self._check_interpreter((*where, "interpret"), values.get("interpret", "raw"))
        if "workspaces" in values:
            values["workspaces"] = self._workspaces((*where, "workspaces"), values["workspaces"])
        values["groups"] = self._groups((*where, "group"), values.pop("group", ()))
        if "retry" in table:
            values["retry"] = self._retry((*where, "retry"), table["retry"], values.get("interpret", "raw"))
        engine = self._engine((*where, "engine"), table.get("engine", "local"))
        options = self._engine_options(where, table, engine)
        if "send" in values.get("control", ()) and engine is not None:
            problem = f"engine {engine} keeps no stdin open for what callers send"
            self._file.refuse((*where, "control"), problem, "send only without an engine")
        return Kind(name=name, parameters=tuple(parameters.values()), engine=engine, engine_options=options, **values)

    def _check_command(
        self, where: tuple[str, ...], words: tuple[str, ...], parameters: Mapping[str, Parameter]
    ) -> None:
        for index, word in enumerate(words):
            try:
                templates.check_word(word, is_command=index == 0 and word != "{python}")
            except templates.TemplateError as error:
                self._file.refuse(where, f"the word {word!r} {error}", _COMMAND)
            self._check_placeholders(where, word, parameters)
            option = words[index - 1] if index and words[index - 1].startswith("-") else None
            parameter = parameters.get(word[1:-1])
            if option and parameter is not None and not parameter.required and parameter.default is None:
                message = f"without a value for {parameter.name!r} the option {option!r} would stand alone"
                self._file.refuse(where, message, f"{option}={word} as one word, or a parameter with a default")

    def _check_placeholders(self, where: tuple[str, ...], template: str, parameters: Mapping[str, Parameter]) -> None:
        try:
            names = templates.names_in(template)
        except templates.TemplateError as error:
            self._file.refuse(where, f"{template!r:.80} {error}", "text with {name} for a parameter")
        for name in names:
            if name not in parameters and name not in BUILT_IN_PLACEHOLDERS:
                allowed = ", ".join(f"{{{each}}}" for each in (*parameters, *BUILT_IN_PLACEHOLDERS))
                self._file.refuse(where, f"{template!r:.80} has {{{name}}}, but there is no such parameter", allowed)

    def _check_interpreter(self, where: tuple[str, ...], name: str) -> None:
        if name not in BUILT_IN:
            try:
                get_interpreter(name)
            except InvalidArguments as error:
                self._file.refuse(where, error.message, f"one of {', '.join(kinds())}")

    def _workspaces(self, where: tuple[str, ...], paths: tuple[str, ...]) -> tuple[str, ...]:
        expanded = [os.path.expanduser(path) for path in paths]
        if not all(map(os.path.isabs, expanded)):
            self._file.refuse(where, f"workspaces is {list(paths)!r}", _WORKSPACES)
        directories = tuple(map(os.path.realpath, expanded))
        for directory in directories:
            if (why := self._exposes(directory)) is not None:
                self._file.refuse(where, f"{why}, which its jobs could read or change", "other directories")
        return directories

    def _groups(self, where: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not self._group_exists(name):
                allowed = f"a group that exists; `supervisor group set {name} --limit N` makes this one"
                self._file.refuse(where, f"there is no group {name!r}", allowed)
        return names

    def _retry(self, where: tuple[str, ...], value: Any, kind: str) -> Retry:
        table = self._file.table(where, value, "a table, as in { maximum_attempts = 3 }")
        given = self._file.values(where, table, {each.name: (lambda held: held, "") for each in attrs.fields(Retry)})
        found = Retry()
        for name, held in given.items():
            try:  # one by one, so that the message names the one that does not fit
                found = attrs.evolve(found, **{name: held})
            except InvalidArguments as error:
                problem, _, allowed = error.message.partition("; it must be ")
                self._file.refuse((*where, name), problem, allowed or "other values")
            except TypeError:
                self._file.refuse((*where, name), f"{name} is {shown(held)}", "a list of codes")
        for name in ("retry_on", "never_retry_on"):
            if (unknown := unknown_code(kind, getattr(found, name))) is not None:
                problem = f"{name} has {unknown[0]!r}, with which no job of kind {kind} ends"
                self._file.refuse((*where, name), problem, f"exit codes and {unknown[1]}")
        return found

    # ------------------------------------------------------------ its engine

    def _engine(self, where: tuple[str, ...], name: Any) -> str | None:
        if name == "local":
            return None
        from supervisor.engines import registry  # most files do not need it, and it delays the start of a server

        if name not in registry.BUILT_IN and name not in registry.names():
            allowed = "one of " + ", ".join(registry.names())
            self._file.refuse(where, f"engine is {shown(name)}", allowed)
        return str(name)

    def _engine_options(self, where: tuple[str, ...], table: dict[str, Any], engine: str | None) -> dict[str, Any]:
        given = _tables(self._file, where, table, "engine_options")
        here = (*where, "engine_options")
        if engine is None:
            if given:
                self._file.refuse(here, "engine_options is not allowed here", 'it only with engine = "slurm"')
            return {}
        from supervisor.engines import registry

        factory = registry.factory(engine)

        def accepting(name: str) -> Callable[[Any], Any]:
            def parse(value: Any) -> Any:
                try:  # one by one, so that the message names the one that does not fit
                    factory.check_options({"shared_dir": os.sep, name: value})
                except InvalidArguments as error:
                    raise ValueError from error
                return value

            return parse

        accepted = factory.accepted_options()
        given = self._file.values(here, given, {name: (accepting(name), allowed) for name, allowed in accepted.items()})
        shared = given.get("shared_dir", self._shared_dir)
        if shared is None:
            problem = f"{engine} needs a directory for the files of its jobs"
            self._file.refuse((*where, "engine"), problem, "it with engine_options.shared_dir or SUPERVISOR_SHARED_DIR")
        if not os.path.isabs(os.path.expanduser(shared)):
            problem = f"shared_dir is {shown(shared)}"
            self._file.refuse((*here, "shared_dir"), problem, 'an absolute path, as in "~/jobs"')
        return given

    # ------------------------------------------------------------ a parameter

    def _parameter(self, where: tuple[str, ...], value: Any) -> Parameter:
        name = where[-1]
        if not _PARAMETER.fullmatch(name) or name in RESERVED:
            allowed = f"letters, digits and '_', at most 64; taken are {', '.join(sorted(RESERVED))}"
            self._file.refuse(where, f"the name {name!r} cannot be that of a parameter", allowed)
        table = self._file.table(where, value, f'a table, as in {name} = {{ type = "string" }}')
        values = self._file.values(where, table, _PARAMETER_KEYS, {"default"})
        type_ = values.get("type", "string")
        for key, types in _ONLY_FOR.items():
            if key in values and type_ not in types:
                allowed = f"it only for parameters of type {' or '.join(types)}, and this is a {type_}"
                self._file.refuse((*where, key), f"{key} is not allowed here", allowed)
        if "pattern" in values:
            self._check_expression((*where, "pattern"), values["pattern"])
        if type_ == "string":
            values.setdefault("max_length", DEFAULT_MAX_LENGTH)
        values.setdefault("required", "default" not in table)
        made = Parameter(name=name, **values)
        self._check_bounds(where, table, made)
        return self._with_values(where, table, made)

    def _check_bounds(self, where: tuple[str, ...], table: Mapping[str, Any], made: Parameter) -> None:
        for least, most in (("minimum", "maximum"), ("min_length", "max_length")):
            low, high = getattr(made, least), getattr(made, most)
            if low is not None and high is not None and low > high:
                key = least if least in table else most
                message = f"{least} is {low} and {most} is {high}"
                self._file.refuse((*where, key), message, f"a {least} of at most the {most}")
        if made.type == "integer":
            low = -MAX_INTEGER if made.minimum is None else max(-MAX_INTEGER, math.ceil(made.minimum))
            high = MAX_INTEGER - 1 if made.maximum is None else min(MAX_INTEGER - 1, math.floor(made.maximum))
            if low > high:
                key = "minimum" if "minimum" in table else "maximum"
                given = ("any" if each is None else each for each in (made.minimum, made.maximum))
                message = f"there is no whole number of 64 bits from {' to '.join(map(str, given))}"
                self._file.refuse((*where, key), message, "bounds with at least one between them")

    def _check_expression(self, where: tuple[str, ...], pattern: str) -> None:
        try:
            fault = expressions.fault(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            fault = str(error)
        if fault is not None:
            self._file.refuse(where, f"pattern is {shown(pattern)}: {fault}", _EXPRESSION)

    def _with_values(self, where: tuple[str, ...], table: Mapping[str, Any], made: Parameter) -> Parameter:
        """Check the enum and the default of the file as the values of callers are checked."""
        plain = attrs.evolve(made, enum=())
        if any(made.enum.index(each) != index for index, each in enumerate(made.enum)):
            self._file.refuse((*where, "enum"), "enum has a value twice", "each value once")
        for value in made.enum:
            self._fitting((*where, "enum"), plain, value)
        if "default" not in table:
            return made
        if made.required:
            self._file.refuse((*where, "default"), "a required parameter cannot have a default", "required = false")
        return attrs.evolve(made, default=self._fitting((*where, "default"), made, table["default"]))

    def _fitting(self, where: tuple[str, ...], parameter: Parameter, value: Any) -> Any:
        try:
            return parameter.check(value)
        except InvalidArguments as error:
            problem, _, accepts = error.message.partition("; it accepts ")
            self._file.refuse(where, f"{where[-1]} of {problem}", accepts)


# ------------------------------------------------------------ keys and values


def _tuple(parse: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda value: tuple(parse(value))


def _is_environment(values: Mapping[str, Any]) -> bool:
    return all(
        name and not {"=", "\0"} & set(name) and isinstance(text, str) and "\0" not in text
        for name, text in values.items()
    )


def _are_words(words: list[Any]) -> bool:
    return bool(words and words[0]) and all(isinstance(word, str) and "\0" not in word for word in words)


def _are_controls(names: list[Any]) -> bool:
    return all(name in CONTROLS and names.count(name) == 1 for name in names)


def _are_patterns(names: list[Any]) -> bool:
    return all(isinstance(name, str) and _VARIABLE.fullmatch(name) for name in names)


def _group_names(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else parser(list, lambda held: 0 < len(held) <= MAX_GROUPS)(value)
    try:
        return tuple(map(check_name, names))
    except InvalidArguments as error:
        raise ValueError(value) from error


def _webhook(value: Any) -> str:
    """Return a URL in which there is no mistake; the start of a job checks whether webhooks may go there."""
    text: str = parser(str, bool)(value)
    parse_url(text, ANYWHERE)
    return text


_WORDS: Final = _tuple(parser(list, _are_words))
_LENGTH: Final[Parser] = (whole(most=(1 << 53) - 1), "a whole number of at least 0")
_BOUND: Final[Parser] = (number(lambda value: abs(value) <= sys.float_info.max), "a number")

_KIND_KEYS: Final[Mapping[str, Parser]] = {
    "description": (parser(str, lambda text: bool(text.strip())), "text that tells a model what the tool does"),
    "command": (_WORDS, _COMMAND),
    "stdin": (STRING, "a string, with {name} for a parameter"),
    "interpret": (STRING, "the name of an interpreter"),
    "deadline_seconds": (
        real(lambda value: 0 < value <= MAX_DEADLINE_SECONDS),
        "a number of seconds of more than 0 and at most 100 years",
    ),
    "env_pass": (_tuple(parser(list, _are_patterns)), 'a list of names of variables, with * as in "ANTHROPIC_*"'),
    "env_set": (parser(dict, _is_environment), "a table of names and strings"),
    "workspaces": (_WORDS, _WORKSPACES),
    "read_only": BOOLEAN,
    "worktree": (parser(str, FROM.__contains__), f"one of {', '.join(FROM)}"),
    "on_end": (_WORDS, "a list of strings: the command that gets the end of each job, and its arguments"),
    "webhook": (_webhook, "an https URL, or one on this machine, to which the end of each job is sent"),
    "group": (_group_names, f"the name of a group, or a list of at most {MAX_GROUPS}"),
    "priority": (whole(-MAX_PRIORITY, MAX_PRIORITY), f"a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}"),
    "confirm": BOOLEAN,
    "control": (_tuple(parser(list, _are_controls)), f"a list of some of {', '.join(CONTROLS)}"),
    "start_within_seconds": (
        real(lambda value: 0 < value <= MAX_DELAY_SECONDS),
        "a number of seconds of more than 0 and at most 90 days",
    ),
}
_PARAMETER_KEYS: Final[Mapping[str, Parser]] = {
    "type": (parser(str, TYPES.__contains__), f"one of {', '.join(TYPES)}"),
    "description": (STRING, "a string"),
    "required": BOOLEAN,
    "enum": (_tuple(parser(list, bool)), "a list of at least one value"),
    "minimum": _BOUND,
    "maximum": _BOUND,
    "min_length": _LENGTH,
    "max_length": _LENGTH,
    "pattern": (STRING, _EXPRESSION),
}
_ONLY_FOR: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("minimum", "maximum"), ("integer", "number")),
    **dict.fromkeys(("min_length", "max_length", "pattern"), ("string",)),
    "enum": ("string", "integer", "number"),
}
