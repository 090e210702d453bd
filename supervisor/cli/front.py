"""What every command shares: ``--json``, ``--state-dir``, error reports, exit statuses, logging.

A command is a function that takes an ``Invocation`` first and returns its exit status. This module
reports the errors that it raises, as text or as JSON. ``app`` reports click's usage errors, which may
occur before a command is known.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import attrs
import click

from supervisor import log, model
from supervisor.cli import exits, inherited, streams, terminal
from supervisor.cli.text import clean, one_line
from supervisor.errors import InternalError, InvalidSettings, SupervisorError
from supervisor.settings import Settings, config_file
from supervisor.system.observing import NotKnown

if TYPE_CHECKING:
    from supervisor.jobs.catalog import Catalog
    from supervisor.model import Job
    from supervisor.runtime.supervisor import Supervisor

__all__ = [
    "DEFAULTS",
    "Invocation",
    "command",
    "group_option",
    "report",
    "report_unexpected",
    "shared_options",
    "silence",
    "write_document",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

DEFAULTS: Final = (
    "By default, a job is stopped after 30 minutes (--deadline, SUPERVISOR_JOB_MAX_SECONDS) or 64 MiB "
    "of output (SUPERVISOR_JOB_MAX_OUTPUT_BYTES), with 5 seconds between SIGTERM and SIGKILL "
    "(SUPERVISOR_STOP_GRACE_SECONDS). A finished job is kept for 24 hours (SUPERVISOR_JOB_TTL). Of each directory, "
    "the last 1,000 finished jobs are kept (SUPERVISOR_JOB_MAX_COUNT)."
)
"""The defaults of ``Settings``, for the help of the commands that use them."""

_PIECE: Final = 1 << 20


def write_document(shape: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout, in ASCII, which is the same in every locale."""
    indent = 2 if sys.stdout.isatty() else None
    separators = None if indent else (",", ":")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10_000))  # the value of a job may nest as deeply as the parser allows
    try:
        with streams.writing():
            value = shape.get("value")
            if indent is None and isinstance(value, str) and len(value) > _PIECE:
                # In pieces: JSON escapes a character with up to six, so a whole document could be six times the value.
                head, gap, tail = json.dumps({**shape, "value": ""}, separators=separators).partition('"value":"')
                click.echo(head + gap, nl=False)
                for begin in range(0, len(value), _PIECE):
                    click.echo(json.dumps(value[begin : begin + _PIECE])[1:-1], nl=False)
                click.echo(tail)
            else:
                click.echo(json.dumps(shape, indent=indent, separators=separators))
    finally:
        sys.setrecursionlimit(limit)


def report(error: SupervisorError, *, as_json: bool, job: Job | None = None) -> int:
    """Report an error as JSON on stdout or as text on stderr, and return its exit status."""
    as_json = as_json and inherited.is_writable(1) and not isinstance(error, streams.StdoutFailed)
    if as_json:
        try:
            write_document(model.error_to_json(error, job))
        except (BrokenPipeError, streams.StdoutFailed):
            as_json = False
    if not as_json:
        streams.write_stderr(f"supervisor: {clean(error.message)}")
        if error.repair:
            streams.write_stderr(f"  {clean(error.repair)}")
    return exits.of_error(error)


@attrs.frozen
class Invocation:
    """One call of a command: its settings, and the methods that write its answer.

    Attributes:
        settings: the state root, and the defaults.
        as_json: whether stdout is for one JSON document and nothing else.
    """

    settings: Settings
    as_json: bool = attrs.field(kw_only=True)

    def catalog(self) -> Catalog:
        """Open the catalog of the state root, which is not created if it does not exist."""
        from supervisor.jobs.catalog import Catalog

        return Catalog(self.settings, create=False, launches_waiting=True)

    def writing_catalog(self) -> Catalog:
        """Open the catalog of the state root, which is created if it does not exist."""
        from supervisor.jobs.catalog import Catalog

        return Catalog(self.settings, launches_waiting=True)

    def ask(self, ask: Callable[[Supervisor], Awaitable[_T]]) -> _T:
        """Open a supervisor for one call, and return what ``ask`` returns."""
        import trio

        from supervisor.runtime.opening import open_supervisor

        async def main() -> _T:
            async with open_supervisor(self.settings) as sup:
                return await ask(sup)

        return trio.run(main)

    def answer(self, shape: Callable[[], Mapping[str, Any]], *lines: str) -> None:
        """Write the answer to stdout: the value of ``shape()`` with ``--json``, otherwise ``lines``."""
        if self.as_json:
            write_document(shape())
        else:
            self.print(*lines)

    def print(self, *lines: str) -> None:
        """Write lines to stdout, in colour on a terminal."""
        for line in lines:
            with streams.writing():
                click.echo(line, color=terminal.in_colour(sys.stdout))

    def note(self, text: str) -> None:
        """Write a remark to stderr; with ``--json``, write nothing."""
        if not self.as_json:
            streams.write_stderr(one_line(text))

    def fail(self, error: SupervisorError, job: Job | None = None) -> int:
        """Report an error and return its exit status."""
        return report(error, as_json=self.as_json, job=job)


class _Line(logging.Formatter):
    """Formats a log record as one line, or as JSON; removes secrets and control characters."""

    _OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        from supervisor.text.redact import redact, redact_value

        message = redact(clean(record.getMessage()))  # an escape would hide the beginning of a secret
        given = {name: value for name, value in vars(record).items() if name not in self._OWN}
        plain = (int, float, dict, list, type(None))
        facts = redact_value(
            {
                name: value if isinstance(value, plain) else clean(value if isinstance(value, str) else repr(value))
                for name, value in given.items()
            }
        )
        trace = redact(clean(self.formatException(record.exc_info))) if record.exc_info else None
        if self._as_json:
            when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"
            shape = {"timestamp": when, "level": record.levelname.lower(), "logger": record.name, "event": message}
            return json.dumps({**shape, **facts, **({"exception": trace} if trace else {})}, default=repr)
        words = [f"supervisor: {record.levelname.lower()}: {message}", *(f"{k}={v}" for k, v in facts.items())]
        line = one_line(" ".join(words))
        return line if trace is None else f"{line}\n{trace}"


class _Handler(logging.StreamHandler[Any]):
    """The handler of this module, which replaces the one of an earlier command in the same process."""


def _configure_logging(level: str) -> None:
    # The records of other libraries, and warnings, pass the same handler, which removes secrets from them too.
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Line(as_json=not sys.stderr.isatty()))
    ours, root = logging.getLogger("supervisor"), logging.getLogger()
    for former in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(former)
    for old in list(ours.handlers):
        ours.removeHandler(old)
    ours.addHandler(handler)
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    ours.setLevel(level.upper())
    ours.propagate = False


def silence() -> None:
    """Log nothing from here on: a line would be drawn over a live view."""
    logging.disable(logging.CRITICAL)


def _settings(state_dir: str | None) -> Settings:
    if state_dir is None:
        return Settings()
    if not state_dir or "\0" in state_dir:
        message = f"--state-dir is {state_dir!r}; it accepts the path of a directory"
        raise InvalidSettings(message, repair="Correct the option, or omit it.")
    return Settings(state_dir=Path(state_dir))


def report_unexpected(error: Exception, *, as_json: bool) -> int:
    """Report an exception that is no ``SupervisorError``, and return its exit status."""
    if isinstance(error, NotKnown):
        from supervisor.store.state_errors import state_error

        return report(state_error(error, "cannot read the state of the job now"), as_json=as_json)
    log.debug("unexpected_error", exc_info=error)
    ours = InternalError(
        f"{type(error).__name__}: {error}",
        repair="Run `supervisor doctor`; SUPERVISOR_LOG=debug shows where it happened.",
    )
    return report(ours, as_json=as_json)


def shared_options() -> list[click.Parameter]:
    """Return the options that every command takes, also before its name."""
    return [
        click.Option(
            ["--state-dir", "state_dir"],
            metavar="DIR",
            help="The directory of the jobs. Default: SUPERVISOR_STATE_DIR, or ~/.local/state/trio-supervisor.",
        ),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            help="Print one JSON document to stdout and nothing else, for an error too.",
        ),
    ]


def group_option(name: str, ctx: click.Context | None = None) -> Any:
    """Return the value of a shared option that stands before the command's name; ``None`` without one."""
    group = (ctx or click.get_current_context()).parent
    while group is not None and group.params.get(name) in {None, False}:
        group = group.parent
    return None if group is None else group.params[name]


def command(
    name: str, *, has_defaults: bool = False, cls: type[click.Command] = click.Command, **attributes: Any
) -> Callable[[Callable[Concatenate[Invocation, _P], int]], click.Command]:
    """Return a decorator that turns a function into a command; see the module's docstring.

    ``has_defaults``: the configuration file may have defaults for its options. ``cls``: a group does nothing by itself
    where one of its commands is called.
    """

    def decorate(function: Callable[Concatenate[Invocation, _P], int]) -> click.Command:
        @functools.wraps(function)
        def invoke(*args: Any, as_json: bool, state_dir: str | None, **options: Any) -> None:
            if click.get_current_context().invoked_subcommand is not None:
                return
            as_json = as_json or bool(group_option("as_json"))
            try:
                settings = _settings(group_option("state_dir") if state_dir is None else state_dir)
                _configure_logging(settings.log)
                if has_defaults and config_file.is_there():
                    from supervisor.cli import defaults  # few users have a file

                    options |= defaults.configured(click.get_current_context())
                status = function(Invocation(settings, as_json=as_json), *args, **options)
            except SupervisorError as error:
                status = report(error, as_json=as_json)
            except BrokenPipeError:  # the reader of stdout has closed it, which click would report as a failure
                status = exits.PIPE
            except (click.ClickException, click.exceptions.Exit):
                raise
            except Exception as error:  # noqa: BLE001  # the last resort of a program
                status = report_unexpected(error, as_json=as_json)
            click.get_current_context().exit(status)

        made = click.command(name, cls=cls, **attributes)(invoke)
        made.params += shared_options()
        return made

    return decorate
