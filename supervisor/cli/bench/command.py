"""``bench``: put a load on a state root or an MCP endpoint, and see whether anything is lost of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from supervisor.cli import exits
from supervisor.cli.front import Invocation, command, report, write_document
from supervisor.errors import InternalError, InvalidArguments

if TYPE_CHECKING:
    from supervisor.load.mix import Mix

__all__ = ["bench"]

_F = TypeVar("_F", bound=Callable[..., Any])

_HELP = """Start jobs at a given rate, see each to its end, and check that nothing of it was lost.

The jobs sleep, write and exit as their description says, so that it is known beforehand how each has to
end: in which state, with which exit code, with which bytes of output, and that it ran once. They are due
by the clock, whether or not those before them have been answered, and are timed from when they were due.

\b
Examples:
  supervisor bench                                # 10 s on this state root, beside whatever else is there
  supervisor bench --rate 100 --for 30 --duration exp:0.1 --output lognormal:1k:1M
  supervisor bench --cancels 0.2 --timeouts 0.1 --seed 7
  supervisor bench --print-example > mix.toml; supervisor bench --mix mix.toml --json > report.json
  supervisor bench --stdio                        # through an MCP server that is started for it
  supervisor mcp --http 127.0.0.1:8000 --allow-command "$(supervisor bench --print-allow)"
  SUPERVISOR_MCP_TOKEN=... supervisor bench --url http://127.0.0.1:8000/mcp

SPREAD is how a quantity varies from job to job: a number, uniform:LOW:HIGH, exp:MEAN[:MOST] or
lognormal:MEDIAN:P99[:MOST], where MOST is ten times the mean or the 99th percentile if it is left out.

The exit status is 0 when nothing was wrong, 1 when a job was lost or wrong or its start refused, 2 for
wrong usage, 125 when there is nothing to report. Ctrl-C starts no more jobs, cancels those that run (or
lets them end, with --let-end) and reports; a second one reports at once, and leaves the rest as it is.
On a state root the jobs have a workspace of their own; on an MCP endpoint they run where its server says.
They are forgotten afterwards unless --keep is given.
"""


def _spread(parse_name: str) -> Callable[[str], Any]:
    """Return a type for options, the modules of the load being imported when there is something to parse."""

    def parse(text: str) -> Any:
        from supervisor.load import spread

        try:
            return spread.parse_spread(text, getattr(spread, parse_name))
        except (ValueError, OverflowError):
            message = f"{text!r} is not {spread.ACCEPTS}."
            raise click.BadParameter(message) from None

    parse.__name__ = "spread"
    return parse


def _positive(text: str) -> float:
    from supervisor.load.spread import parse_number

    try:
        number = parse_number(text)
    except ValueError:
        number = 0
    if not number:
        message = f"{text!r} is not a number above 0."
        raise click.BadParameter(message)
    return number


_SHARE = click.FloatRange(0, 1)


def _mix_options(function: _F) -> _F:
    for add in reversed(
        (
            click.option("--rate", type=_positive, metavar="N", help="Jobs a second. Default: 20."),
            click.option("--for", "for_seconds", type=_positive, metavar="SECONDS", help="How long. Default: 10."),
            click.option("--jobs", type=click.IntRange(1), metavar="N", help="No more jobs than this."),
            click.option(
                "--arrivals",
                type=click.Choice(["poisson", "constant"]),
                help="At random, as from many callers (the default), or evenly spaced.",
            ),
            click.option(
                "--seed", type=click.IntRange(0), metavar="N", help="Of all chance; printed. Default: another."
            ),
            click.option(
                "--max-in-flight",
                type=click.IntRange(1),
                metavar="N",
                help="No more jobs at once; one that has to wait is timed from when it was due. Default: 1000.",
            ),
            click.option(
                "--duration",
                type=_spread("parse_number"),
                metavar="SPREAD",
                help="Seconds of sleep. Default: exp:0.2:2.",
            ),
            click.option(
                "--output", type=_spread("parse_bytes"), metavar="SPREAD", help="Bytes of stdout. Default: exp:4k:64k."
            ),
            click.option("--cancels", type=_SHARE, metavar="SHARE", help="So many of 1 are cancelled."),
            click.option("--timeouts", type=_SHARE, metavar="SHARE", help="So many of 1 run into their deadline."),
            click.option(
                "--failures",
                type=_SHARE,
                metavar="SHARE",
                help="So many of 1 exit with 3. Without any of the three: 0.05 each.",
            ),
            click.option(
                "--mix",
                "mix_file",
                metavar="FILE",
                type=click.Path(path_type=Path),
                help="Read the sorts of jobs, and the above, from a TOML file; options win.",
            ),
            click.option("--print-example", is_flag=True, help="Print such a file, and do nothing else."),
        ),
    ):
        function = add(function)
    return function


@command(
    "bench", short_help="Put a load on a state root or an MCP endpoint, and check that nothing is lost.", help=_HELP
)
@_mix_options
@click.option("--url", metavar="URL", help="An MCP endpoint over HTTP; its token is in SUPERVISOR_MCP_TOKEN.")
@click.option("--token-file", metavar="FILE", type=click.Path(path_type=Path), help="Or in this file.")
@click.option("--stdio", is_flag=True, help="An MCP server over stdio: COMMAND, or without one `supervisor mcp`.")
@click.option("--workspace", metavar="DIR", help="Where the jobs of an MCP endpoint run. Default: where it says.")
@click.option("--print-allow", is_flag=True, help="Print what a server of --url has to allow, and do nothing else.")
@click.argument("server", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--let-end", is_flag=True, help="On Ctrl-C let the jobs end by themselves, instead of cancelling them.")
@click.option("--keep", is_flag=True, help="Leave the jobs, to look at them; they expire as others do.")
@click.option(
    "--patience",
    type=_positive,
    default="60",
    show_default=True,
    metavar="SECONDS",
    help="How long after its time a job may end, and how long a call may take.",
)
@click.option("--quiet", is_flag=True, help="Say nothing on stderr while it goes on.")
def bench(
    call: Invocation,
    /,
    *,
    url: str | None,
    token_file: Path | None,
    stdio: bool,
    workspace: str | None,
    server: Sequence[str],
    print_example: bool,
    print_allow: bool,
    let_end: bool,
    keep: bool,
    patience: float,
    quiet: bool,
    **described: Any,
) -> int:
    """Run a load and report."""
    from supervisor.load.mix import EXAMPLE

    if print_example:
        call.answer(lambda: {"ok": True, "value": EXAMPLE}, EXAMPLE.rstrip("\n"))
        return exits.OK
    if print_allow:
        from supervisor.load.program import allow_pattern

        pattern = allow_pattern()
        call.answer(lambda: {"ok": True, "value": pattern}, pattern)
        return exits.OK
    if server and not stdio:
        message = f"Got unexpected extra argument ({server[0]}); a server's command has to follow --stdio."
        raise click.UsageError(message)
    if url is not None and stdio:
        message = "--url and --stdio are two endpoints; give one of them."
        raise click.UsageError(message)
    if workspace is not None and url is None and not stdio:
        message = "--workspace is for --url and --stdio; on this state root the jobs have one of their own."
        raise click.UsageError(message)
    mix = _mix(**described)
    from supervisor.cli.bench.running import Plan, run_bench

    plan = Plan(
        mix=mix,
        settings=call.settings,
        url=url,
        token=None if url is None else _token(token_file),
        server=server if stdio else None,
        workspace=workspace,
        keep=keep,
        let_end=let_end,
        patience_seconds=patience,
    )
    shape = run_bench(plan, quiet=quiet)
    if shape is None:
        report(InternalError("interrupted before the first job was due", repair="Run it again."), as_json=call.as_json)
        return exits.CANCELLED
    if call.as_json:
        write_document(shape)
    else:
        from supervisor.cli.bench.text import lines

        call.tell(*lines(shape))
    if shape["gave_up"]:
        return exits.CANCELLED
    return exits.OK if shape["ok"] else exits.BAD


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("SUPERVISOR_MCP_TOKEN") or None
    try:
        return file.expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"--token-file {str(file)!r} cannot be read: {error}"
        raise click.UsageError(message) from error


_SHAPES = ("duration", "output", "cancels", "timeouts", "failures")


def _mix(*, mix_file: Path | None, **given: Any) -> Mix:
    from supervisor.load import mix
    from supervisor.load.spread import parse_bytes, parse_spread

    shapes = {name: given.pop(name) for name in _SHAPES}
    given = {name: value for name, value in given.items() if value is not None}
    if mix_file is not None:
        beside = [name for name in _SHAPES if shapes[name] is not None]
        if beside:
            message = f"--{beside[0]} describes jobs, and so does --mix"
            raise InvalidArguments(message, repair=f"Leave one of them out, or write {beside[0]} into the file.")
        return mix.load(mix_file, **given)
    return mix.simple(
        seconds=shapes["duration"] or parse_spread("exp:0.2:2"),
        output_bytes=shapes["output"] or parse_spread("exp:4k:64k", parse_bytes),
        **_shares(shapes),
        **given,
    )


def _shares(given: Mapping[str, Any]) -> dict[str, float]:
    """Return the shares of jobs that do not just end: those that were given, or a few of each."""
    names = ("cancels", "timeouts", "failures")
    if all(given[name] is None for name in names):
        return dict.fromkeys(names, 0.05)
    return {name: given[name] or 0.0 for name in names}
