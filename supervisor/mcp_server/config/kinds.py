"""The kinds file: each ``[kind.NAME]`` is a tool that starts one sort of job.

It decides which commands others may have run here, so it is read only from where it was said to
be (``--config``, ``SUPERVISOR_CONFIG``), never looked for, and refused when anybody else could
have written it. A mistake is reported with its line, its key and what is allowed there.
"""

from __future__ import annotations

import math
import os
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

import attrs

from supervisor.errors import InvalidArguments, InvalidSettings
from supervisor.interpret import BUILT_IN, get_interpreter, kinds
from supervisor.jobs.validation import MAX_DEADLINE_SECONDS
from supervisor.mcp_server.config import expressions, templates
from supervisor.mcp_server.config.arguments import MOST_WHOLE, TYPES, Parameter
from supervisor.system.trust import exposure_of
from supervisor.text.toml_lines import complaint

__all__ = ["COMMON", "RESERVED", "Kind", "load", "parse"]

_T = TypeVar("_T")

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_PARAMETER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_VARIABLE: Final = re.compile(r"[A-Za-z_*?][A-Za-z0-9_*?]*")
_DEFAULT_MAX_LENGTH: Final = 200_000
_BUILT_IN_PLACES: Final = ("python",)

COMMON: Final = (
    Parameter(name="workspace", min_length=1, max_length=4096, description="Directory it runs in."),
    Parameter(name="deadline_seconds", type="number", minimum=0, maximum=31_536_000, description="Stop it after this."),
    Parameter(
        name="idempotency_key",
        min_length=1,
        max_length=150,
        description="Same key, same request: the first job is returned, nothing starts twice.",
    ),
    Parameter(
        name="wait_seconds",
        type="number",
        minimum=0,
        maximum=3600,
        description="Wait this long for the result. Stay below your tool time-out.",
    ),
    Parameter(name="labels", type="labels", description="Names and values to find it by."),
)
"""What every tool that starts a job takes besides its own parameters."""

RESERVED: Final = frozenset(each.name for each in COMMON) | frozenset(_BUILT_IN_PLACES)


@attrs.frozen(slots=True, kw_only=True)
class Kind:
    """One sort of job that may be started.

    Attributes:
        name: the tool's.
        description: the tool's, for models.
        command: templates of its words.
        stdin: template of what it reads; ``None`` is nothing at all.
        interpret: how its output is read, see ``supervisor.interpret``.
        deadline_seconds: the default and the most; ``None`` takes the settings' default.
        env_pass: names, or patterns of names, of variables to pass from the server's environment.
        env_set: variables to set.
        workspaces: real paths of the directories in (or below) which it may run; ``None`` is
            the server's own directory and the host's roots.
        read_only: whether its author says that it changes nothing but its own output.
        engine: what runs it, ``"slurm"`` for instance; ``None`` is this machine.
        engine_options: what that engine is to know, see ``docs/slurm.md``.
        parameters: what a caller gives.
    """

    name: str
    description: str
    command: tuple[str, ...]
    stdin: str | None = None
    interpret: str = "raw"
    deadline_seconds: float | None = None
    env_pass: tuple[str, ...] = ()
    env_set: Mapping[str, str] = attrs.field(factory=dict[str, str])
    workspaces: tuple[str, ...] | None = None
    read_only: bool = False
    engine: str | None = None
    engine_options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    parameters: tuple[Parameter, ...] = ()

    def request(self, values: Mapping[str, Any], python: str) -> tuple[tuple[str, ...], bytes | None]:
        """Return the command and the stdin for these values of the parameters.

        Raises:
            InvalidArguments: a value does not fit where it is to stand.
        """
        places = {**values, "python": python}
        words = (templates.expand_word(word, places) for word in self.command)
        argv = tuple(word for word in words if word is not None)
        if self.stdin is None:
            return argv, None
        return argv, templates.expand_text(self.stdin, places).encode(errors="replace")


def load(
    path: Path, *, shared_dir: Path | None = None, exposed: Callable[[str], str | None] | None = None
) -> tuple[Kind, ...]:
    """Read a kinds file.

    ``shared_dir`` is that of kinds that run on a cluster and name none of their own. ``exposed`` tells why a
    directory may not be one of a kind's workspaces.

    Raises:
        InvalidSettings: it is not there, not to be trusted, or has a mistake.
    """
    real = os.path.realpath(path)
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            _check_trust(real, os.fspath(path), os.fstat(descriptor))
            data = file.read()
    except OSError as error:
        message = f"the kinds file {path} cannot be read: {error.strerror or error}"
        raise InvalidSettings(message, repair="Correct --config or SUPERVISOR_CONFIG.") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{path}, line {line}: this is not UTF-8"
        raise InvalidSettings(message, repair="Save the file as UTF-8.") from error
    return parse(text, str(path), shared_dir=shared_dir, exposed=exposed)


def _check_trust(real: str, given: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        message = f"the kinds file {real} is not a regular file"
        raise InvalidSettings(message, repair="Correct --config or SUPERVISOR_CONFIG.")
    owners = {os.geteuid(), 0}
    if found.st_uid not in owners:
        message = f"the kinds file {real} belongs to user {found.st_uid}, who could change what runs here"
        raise InvalidSettings(message, repair="Make a copy of your own.")
    if found.st_mode & 0o022:
        message = f"others may write the kinds file {real} (mode {stat.S_IMODE(found.st_mode):04o})"
        raise InvalidSettings(message, repair=f"If nobody tampered with it: chmod go-w {real}")
    if (exposure := exposure_of(given)) is not None:
        message = f"others may replace the kinds file {real}: {exposure.place} {exposure.why}"
        raise InvalidSettings(message, repair=exposure.repair)


def parse(
    text: str, path: str, *, shared_dir: Path | None = None, exposed: Callable[[str], str | None] | None = None
) -> tuple[Kind, ...]:
    """Read the text of a kinds file; ``path`` is its name in messages, the others are as ``load`` has them.

    Raises:
        InvalidSettings: it has a mistake.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = f"{path}: this is not TOML: {error}"
        raise InvalidSettings(message, repair="Correct the file.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; what nests too deeply
        message = f"{path}: this file cannot be read: {error}"
        raise InvalidSettings(message, repair="Correct the file.") from error
    return tuple(_Reader(text, path, shared_dir, exposed or (lambda _: None)).read(document))


class _Reader:
    """Reads a parsed document, and knows where everything stands."""

    def __init__(self, text: str, path: str, shared_dir: Path | None, exposed: Callable[[str], str | None]) -> None:
        self._text = text
        self._exposed = exposed
        self._path = path
        self._shared_dir = shared_dir

    def read(self, document: Mapping[str, Any]) -> Iterator[Kind]:
        self._keys((), document, {"kind"})
        for name, table in self._table((), document, "kind").items():
            where = ("kind", name)
            if not _NAME.fullmatch(name) or name.startswith("job_"):
                accepts = (
                    "letters, digits, '-' and '_', a letter first, at most 64; names that begin with job_ are taken"
                )
                self._refuse(where, f"the name {name!r} cannot be that of a tool", accepts)
            if not isinstance(table, dict):
                self._refuse(where, f"{name} is {_shown(table)}", f"a table: [kind.{name}]")
            yield self._kind(where, cast("dict[str, Any]", table))

    # ------------------------------------------------------------ a kind

    def _kind(self, where: tuple[str, ...], table: dict[str, Any]) -> Kind:
        self._keys(where, table, {each.name for each in attrs.fields(Kind)} - {"name"})
        parameters = tuple(
            self._parameter((*where, "parameters", name), name, settings)
            for name, settings in self._table(where, table, "parameters").items()
        )
        known = {each.name: each for each in parameters}
        description = self._required(where, table, "description", _text, "text that tells a model what the tool does")
        stdin = self._optional(where, table, "stdin", str, "a string, with {name} for a parameter", None)
        if stdin is not None:
            self._places((*where, "stdin"), stdin, known)
        engine = self._engine(where, table)
        return Kind(
            name=where[-1],
            description=description,
            command=self._command(where, table, known),
            stdin=stdin,
            interpret=self._interpreter(where, table),
            deadline_seconds=self._optional(
                where,
                table,
                "deadline_seconds",
                _seconds,
                "a number of seconds of more than 0 and at most 100 years",
                None,
            ),
            env_pass=tuple(
                self._optional(
                    where, table, "env_pass", _patterns, 'a list of names of variables, with * as in "ANTHROPIC_*"', []
                )
            ),
            env_set=self._optional(where, table, "env_set", _variables, "a table of names and strings", {}),
            workspaces=self._workspaces(where, table),
            read_only=self._optional(where, table, "read_only", _boolean, "true or false", False),
            engine=engine,
            engine_options=self._engine_options(where, table, engine),
            parameters=parameters,
        )

    def _command(
        self, where: tuple[str, ...], table: dict[str, Any], known: Mapping[str, Parameter]
    ) -> tuple[str, ...]:
        accepts = 'a list of strings: the command, then each of its arguments, as in ["make", "test"]'
        words = self._required(where, table, "command", _words, accepts)
        here = (*where, "command")
        for number, word in enumerate(words):
            try:
                templates.check_word(word, is_command=number == 0 and word != "{python}")
            except templates.TemplateError as error:
                self._refuse(here, f"the word {word!r} {error}", accepts)
            self._places(here, word, known)
            each = known.get(word[1:-1]) if number and words[number - 1].startswith("-") else None
            if each is not None and not each.required and each.default is None:
                option = words[number - 1]
                message = f"without a value for {each.name!r} the option {option!r} would stand alone"
                self._refuse(here, message, f"{option}={word} as one word, or a parameter with a default")
        return tuple(words)

    def _places(self, where: tuple[str, ...], template: str, known: Mapping[str, Parameter]) -> None:
        try:
            names = templates.names_in(template)
        except templates.TemplateError as error:
            self._refuse(where, f"{template!r:.80} {error}", "text with {name} for a parameter")
        for name in names:
            if name not in known and name not in _BUILT_IN_PLACES:
                there_are = ", ".join(f"{{{each}}}" for each in (*known, *_BUILT_IN_PLACES))
                self._refuse(
                    where, f"{template!r:.80} has a place for {name!r}, and no parameter is called so", there_are
                )

    def _interpreter(self, where: tuple[str, ...], table: dict[str, Any]) -> str:
        name: str = self._optional(where, table, "interpret", str, "the name of an interpreter", "raw")
        if name not in BUILT_IN:
            try:
                get_interpreter(name)
            except InvalidArguments as error:
                self._refuse((*where, "interpret"), error.message, f"one of {', '.join(kinds())}")
        return name

    def _workspaces(self, where: tuple[str, ...], table: dict[str, Any]) -> tuple[str, ...] | None:
        accepts = 'a list of absolute paths of directories, as in ["~/src"]'
        paths = self._optional(where, table, "workspaces", _words, accepts, None)
        if paths is None:
            return None
        expanded = [os.path.expanduser(path) for path in paths]
        if not all(map(os.path.isabs, expanded)):
            self._refuse((*where, "workspaces"), f"workspaces is {paths!r}", accepts)
        real = tuple(map(os.path.realpath, expanded))
        for directory in real:
            if (why := self._exposed(directory)) is not None:
                self._refuse(
                    (*where, "workspaces"), f"{why}, which its jobs could read or change", "directories beside it"
                )
        return real

    # ------------------------------------------------------------ where it runs

    def _engine(self, where: tuple[str, ...], table: dict[str, Any]) -> str | None:
        if "engine" not in table:
            return None
        from supervisor.engines import registry  # what most files have no use for must not delay a server

        accepts = "one of " + ", ".join(("local", *registry.NAMES))
        name = self._required(where, table, "engine", str, accepts)
        if name not in {"local", *registry.NAMES}:
            self._refuse((*where, "engine"), f"engine is {_shown(name)}", accepts)
        return None if name == "local" else name

    def _engine_options(self, where: tuple[str, ...], table: dict[str, Any], engine: str | None) -> dict[str, Any]:
        given = self._table(where, table, "engine_options")
        here = (*where, "engine_options")
        if engine is None:
            if given:
                self._refuse(here, "engine_options has no meaning here", 'it only beside engine = "slurm"')
            return {}
        from supervisor.engines import registry

        accepted = registry.accepted_options(engine)
        self._keys(here, given, set(accepted))
        for name, value in given.items():
            try:  # one by one, so that it is known which of them does not fit
                registry.check_options(engine, {"shared_dir": os.sep, name: value})
            except InvalidArguments:
                self._refuse((*here, name), f"{name} is {_shown(value)}", accepted[name])
        shared = given.get("shared_dir", self._shared_dir)
        if shared is None:
            what = f"{engine} has to be told where the directories of its jobs are to stand"
            self._refuse((*where, "engine"), what, "it beside engine_options.shared_dir, or with SUPERVISOR_SHARED_DIR")
        if not os.path.isabs(os.path.expanduser(shared)):
            self._refuse((*here, "shared_dir"), f"shared_dir is {_shown(shared)}", 'an absolute path, as in "~/jobs"')
        return given

    # ------------------------------------------------------------ a parameter

    def _parameter(self, where: tuple[str, ...], name: str, table: Any) -> Parameter:
        if not _PARAMETER.fullmatch(name) or name in RESERVED:
            accepts = f"letters, digits and '_', at most 64; taken are {', '.join(sorted(RESERVED))}"
            self._refuse(where, f"the name {name!r} cannot be that of a parameter", accepts)
        if not isinstance(table, dict):
            self._refuse(where, f"{name} is {_shown(table)}", f'a table, as in {name} = {{ type = "string" }}')
        given = cast("dict[str, Any]", table)
        self._keys(where, given, {each.name for each in attrs.fields(Parameter)} - {"name"})
        type_ = self._optional(where, given, "type", _type, f"one of {', '.join(TYPES)}", "string")
        numeric, textual = type_ in {"integer", "number"}, type_ == "string"
        for key in ("minimum", "maximum"):
            self._only(where, given, key, numeric, f"parameters of type integer or number, and this is a {type_}")
        for key in ("min_length", "max_length", "pattern"):
            self._only(where, given, key, textual, f"parameters of type string, and this is a {type_}")
        self._only(where, given, "enum", numeric or textual, "parameters that are no booleans")
        made = Parameter(
            name=name,
            type=type_,
            description=self._optional(where, given, "description", str, "a string", ""),
            required=self._optional(where, given, "required", _boolean, "true or false", "default" not in given),
            enum=tuple(self._optional(where, given, "enum", _values, "a list of at least one value", [])),
            minimum=self._optional(where, given, "minimum", _number, "a number", None),
            maximum=self._optional(where, given, "maximum", _number, "a number", None),
            min_length=self._optional(where, given, "min_length", _count, "a whole number of at least 0", None),
            max_length=self._optional(
                where,
                given,
                "max_length",
                _count,
                "a whole number of at least 0",
                _DEFAULT_MAX_LENGTH if textual else None,
            ),
            pattern=self._expression(where, given),
        )
        for least, most in (("minimum", "maximum"), ("min_length", "max_length")):
            low, high = getattr(made, least), getattr(made, most)
            if low is not None and high is not None and low > high:
                key = least if least in given else most
                self._refuse(
                    (*where, key), f"{least} is {low} and {most} is {high}", f"a {least} of at most the {most}"
                )
        if type_ == "integer":
            self._holds_whole(where, given, made)
        return self._with_values(where, given, made)

    def _holds_whole(self, where: tuple[str, ...], given: dict[str, Any], made: Parameter) -> None:
        low = -MOST_WHOLE if made.minimum is None else max(-MOST_WHOLE, math.ceil(made.minimum))
        high = MOST_WHOLE - 1 if made.maximum is None else min(MOST_WHOLE - 1, math.floor(made.maximum))
        if low > high:
            key = "minimum" if "minimum" in given else "maximum"
            given_low, given_high = ("any" if each is None else each for each in (made.minimum, made.maximum))
            what = f"no whole number of 64 bits lies from {given_low} to {given_high}"
            self._refuse((*where, key), what, "bounds with at least one between them")

    def _expression(self, where: tuple[str, ...], given: dict[str, Any]) -> str | None:
        accepts = "a regular expression that Python and ECMA-262 read alike, as hosts are given it in a JSON schema"
        pattern: str | None = self._optional(where, given, "pattern", str, accepts, None)
        if pattern is None:
            return None
        try:
            fault = expressions.fault(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            fault = str(error)
        if fault is not None:
            self._refuse((*where, "pattern"), f"pattern is {_shown(pattern)}: {fault}", accepts)
        return pattern

    def _with_values(self, where: tuple[str, ...], given: dict[str, Any], made: Parameter) -> Parameter:
        """Check the values that stand in the file as those of a caller will be."""
        plain = attrs.evolve(made, enum=())
        if any(made.enum.index(each) != number for number, each in enumerate(made.enum)):
            self._refuse((*where, "enum"), "enum has a value twice", "each value once")
        for value in made.enum:
            self._fits((*where, "enum"), plain, value)
        if "default" not in given:
            return made
        if made.required:
            self._refuse((*where, "default"), "a required parameter has no use for a default", "required = false")
        return attrs.evolve(made, default=self._fits((*where, "default"), made, given["default"]))

    def _fits(self, where: tuple[str, ...], parameter: Parameter, value: Any) -> Any:
        try:
            return parameter.check(value)
        except InvalidArguments as error:
            shown, _, accepts = error.message.partition("; it accepts ")
            self._refuse(where, f"{where[-1]} of {shown}", accepts)

    # ------------------------------------------------------------ keys and values

    def _keys(self, where: tuple[str, ...], table: Mapping[str, Any], allowed: set[str]) -> None:
        for key in table:
            if key not in allowed:
                self._refuse((*where, key), f"there is no key {key!r} here", f"one of {', '.join(sorted(allowed))}")

    def _table(self, where: tuple[str, ...], table: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            self._refuse((*where, key), f"{key} is {_shown(value)}", f"tables: [{'.'.join((*where, key, 'NAME'))}]")
        return cast("dict[str, Any]", value)

    def _only(self, where: tuple[str, ...], table: Mapping[str, Any], key: str, fits: bool, accepts: str) -> None:  # noqa: FBT001
        if key in table and not fits:
            self._refuse((*where, key), f"{key} has no meaning here", f"it only for {accepts}")

    def _required(
        self, where: tuple[str, ...], table: Mapping[str, Any], key: str, parse: Callable[[Any], _T], accepts: str
    ) -> _T:
        if key not in table:
            self._refuse(where, f"the key {key!r} is missing", f"for it {accepts}")
        return self._value(where, key, table[key], parse, accepts)

    def _optional(
        self,
        where: tuple[str, ...],
        table: Mapping[str, Any],
        key: str,
        parse: Callable[[Any], Any],
        accepts: str,
        default: Any,
    ) -> Any:
        return self._value(where, key, table[key], parse, accepts) if key in table else default

    def _value(self, where: tuple[str, ...], key: str, value: Any, parse: Callable[[Any], _T], accepts: str) -> _T:
        try:
            if parse is str and not isinstance(value, str):
                raise ValueError
            return parse(value)
        except ValueError:
            self._refuse((*where, key), f"{key} is {_shown(value)}", accepts)

    def _refuse(self, where: Sequence[str], what: str, accepts: str) -> NoReturn:
        message, details = complaint(self._path, self._text, where, what, accepts)
        raise InvalidSettings(message, repair="Correct the kinds file.", details=details)


def _shown(value: object) -> str:
    return f"{value!r:.80}"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if not 0 < _number(value) <= MAX_DEADLINE_SECONDS:
        raise ValueError
    return float(value)


def _type(value: Any) -> str:
    if value not in TYPES:
        raise ValueError
    return cast("str", value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError
    return value


def _values(value: Any) -> list[Any]:
    values: list[Any] = value
    if not isinstance(value, list) or not value:
        raise ValueError
    return values


def _words(value: Any) -> list[str]:
    words = _values(value)
    if not all(isinstance(word, str) and "\0" not in word for word in words) or not words[0]:
        raise ValueError
    return cast("list[str]", words)


def _patterns(value: Any) -> list[str]:
    names: list[Any] = value
    if not isinstance(value, list):
        raise ValueError
    if not all(isinstance(name, str) and _VARIABLE.fullmatch(name) for name in names):
        raise ValueError
    return cast("list[str]", names)


def _variables(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError
    held = cast("dict[str, Any]", value)
    for name, text in held.items():
        if not name or "=" in name or "\0" in name or not isinstance(text, str) or "\0" in text:
            raise ValueError
    return cast("dict[str, str]", held)
