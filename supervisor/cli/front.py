"""What every command has: ``--json``, ``--state-dir``, one way to report errors, and its exit status.

A command is a function that takes an ``Invocation`` first and returns its exit status. Errors of
ours that it raises are reported here, in the shape that was asked for; usage errors of click are
reported by ``app``, because they may come before there is any command.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

import click

from supervisor import log
from supervisor.cli import exits, inherited, streams
from supervisor.cli.text import clean, one_line
from supervisor.errors import InternalError, InvalidSettings, SupervisorError
from supervisor.model import Job, error_to_json
from supervisor.settings import Settings
from supervisor.system.observing import NotKnown

if TYPE_CHECKING:
    from supervisor.jobs.catalog import Catalog

__all__ = [
    "DEFAULTS",
    "Invocation",
    "before_command",
    "command",
    "in_colour",
    "report",
    "report_unexpected",
    "shared_options",
    "write_document",
]

_P = ParamSpec("_P")

DEFAULTS: Final = (
    "Unless it is set otherwise, a job is stopped after 30 minutes (--deadline, SUPERVISOR_JOB_MAX_SECONDS) or 64 MiB "
    "of output (SUPERVISOR_JOB_MAX_OUTPUT_BYTES), with 5 seconds between SIGTERM and SIGKILL "
    "(SUPERVISOR_STOP_GRACE_SECONDS). A finished job is kept for 24 hours (SUPERVISOR_JOB_TTL), and of each directory "
    "the last 1,000 (SUPERVISOR_JOB_MAX_COUNT)."
)
"""The defaults of ``Settings``, for the help of the commands that they matter to."""


def in_colour(stream: IO[Any]) -> bool:
    """Whether colours are welcome on ``stream``: a terminal that can, and nobody has said no."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


_PIECE: Final = 1 << 20


def write_document(shape: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout: in ASCII, so that it says the same in every locale."""
    indent = 2 if sys.stdout.isatty() else None
    separators = None if indent else (",", ":")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10_000))  # the value of a job may nest as deeply as the parser allowed
    try:
        with streams.writing():
            value = shape.get("value")
            if indent is None and isinstance(value, str) and len(value) > _PIECE:
                # A character may take six, so that the whole document would be many times as large as the value.
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
    """Report an error where it was asked for, else on stderr, and return its exit status."""
    as_json = as_json and inherited.is_writable(1) and not isinstance(error, streams.StdoutFailed)
    if as_json:
        try:
            write_document(error_to_json(error, job))
        except (BrokenPipeError, streams.StdoutFailed):
            as_json = False
    if not as_json:
        streams.say(f"supervisor: {clean(error.message)}")
        if error.repair:
            streams.say(f"  {clean(error.repair)}")
    return exits.of_error(error)


class Invocation:
    """One call of one command: what it was told, and where its answers go.

    Attributes:
        as_json: whether stdout is for one JSON document and nothing else.
        settings: where the jobs are, and the defaults.
    """

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        """Keep what is given."""
        self.settings = settings
        self.as_json = as_json

    def catalog(self) -> Catalog:
        """Open the state root for asking; nothing is made where there is none."""
        from supervisor.jobs.catalog import Catalog

        return Catalog(self.settings, create=False)

    def answer(self, shape: Callable[[], Mapping[str, Any]], *lines: str) -> None:
        """Write the answer: what ``shape`` returns with ``--json``, else ``lines``, in colour where that is welcome."""
        if self.as_json:
            write_document(shape())
        else:
            self.tell(*lines)

    def tell(self, *lines: str) -> None:
        """Write lines to stdout, in colour where that is welcome."""
        for line in lines:
            with streams.writing():
                click.echo(line, color=in_colour(sys.stdout))

    def note(self, text: str) -> None:
        """Tell people something that is not the answer; with ``--json`` there is nobody to tell."""
        if not self.as_json:
            streams.say(one_line(text))

    def fail(self, error: SupervisorError, job: Job | None = None) -> int:
        """Report an error and return its exit status."""
        return report(error, as_json=self.as_json, job=job)


class _Line(logging.Formatter):
    """A log record on one line: readable on a terminal, JSON elsewhere."""

    _OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without secrets and control characters."""
        from supervisor.text.redact import redact, redact_value

        message = redact(clean(record.getMessage()))  # an escape would hide where a secret begins
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
    """Ours: there is one, however often a process calls a command."""


def _configure_logging(level: str) -> None:
    # The library logs through the standard logger and leaves the rest to its host: here, to us. What others say in
    # this process, such as the SDK about a header, and warnings, goes the same way, so that it is cleaned as well.
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Line(as_json=not sys.stderr.isatty()))
    ours, everybody = logging.getLogger("supervisor"), logging.getLogger()
    for former in [each for each in everybody.handlers if isinstance(each, _Handler)]:
        everybody.removeHandler(former)
    for old in list(ours.handlers):
        ours.removeHandler(old)
    ours.addHandler(handler)
    everybody.addHandler(handler)
    logging.captureWarnings(capture=True)
    ours.setLevel(level.upper())
    ours.propagate = False


def _settings(state_dir: str | None) -> Settings:
    if state_dir is None:
        return Settings()
    if not state_dir or "\0" in state_dir:
        message = f"--state-dir is {state_dir!r}; it accepts the path of a directory"
        raise InvalidSettings(message, repair="Correct the option, or leave it out.")
    return Settings(state_dir=Path(state_dir))


def report_unexpected(error: Exception, *, as_json: bool) -> int:
    """Report an error that is not one of ours, and return its exit status."""
    if isinstance(error, NotKnown):
        from supervisor.store.state_errors import state_error

        return report(state_error(error, "cannot look at the job now"), as_json=as_json)
    log.debug("unexpected_error", exc_info=error)
    ours = InternalError(
        f"{type(error).__name__}: {error}",
        repair="Run `supervisor doctor`; SUPERVISOR_LOG=debug shows where it happened.",
    )
    return report(ours, as_json=as_json)


def shared_options() -> list[click.Parameter]:
    """Return the options that stand behind every command, and may stand before it."""
    return [
        click.Option(
            ["--state-dir", "state_dir"],
            metavar="DIR",
            help="Where the jobs are kept, instead of SUPERVISOR_STATE_DIR or ~/.local/state/trio-supervisor.",
        ),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            help="Print one JSON document on stdout and nothing else; errors have the same place and shape.",
        ),
    ]


def before_command(name: str, ctx: click.Context | None = None) -> Any:
    """Return what an option of ``shared_options`` was given before the command; ``None`` where there was nothing."""
    group = (ctx or click.get_current_context()).parent
    return None if group is None else group.params.get(name)


def command(
    name: str,
    **attributes: Any,
) -> Callable[[Callable[Concatenate[Invocation, _P], int]], click.Command]:
    """Make a command out of a function that takes an ``Invocation`` first and returns an exit status."""

    def decorate(function: Callable[Concatenate[Invocation, _P], int]) -> click.Command:
        @functools.wraps(function)
        def invoke(*args: Any, as_json: bool, state_dir: str | None, **options: Any) -> None:
            as_json = as_json or bool(before_command("as_json"))
            try:
                settings = _settings(before_command("state_dir") if state_dir is None else state_dir)
                _configure_logging(settings.log)
                status = function(Invocation(settings, as_json=as_json), *args, **options)
            except SupervisorError as error:
                status = report(error, as_json=as_json)
            except BrokenPipeError:  # the reader of our output has seen enough; click would call that a failure
                status = exits.PIPE
            except (click.ClickException, click.exceptions.Exit):
                raise
            except Exception as error:  # noqa: BLE001  # the last resort of a program
                status = report_unexpected(error, as_json=as_json)
            click.get_current_context().exit(status)

        made = click.command(name, cls=click.Command, **attributes)(invoke)
        made.params += shared_options()
        return made

    return decorate
