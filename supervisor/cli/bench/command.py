"""``bench``: run jobs at a given rate on a state root or an MCP endpoint, and check every result."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from supervisor.cli import exits
from supervisor.cli.arguments import exclude, seconds
from supervisor.cli.front import Invocation, command, report, write_document
from supervisor.errors import InternalError, InvalidArguments

if TYPE_CHECKING:
    from supervisor.load.mix import Mix

__all__ = ["bench"]

_HELP = """Start jobs at a given rate, wait for the end of each, and check that none is lost or wrong.

Each job sleeps, writes and exits as its description says. So the load generator knows beforehand in which
state, with which exit code and with which output it must end, and that it must run once. A job is due at a
time on the clock, whether or not earlier starts have been answered, and latencies count from that time.

\b
Examples:
  supervisor bench                                # 10 s on this state root, next to its other jobs
  supervisor bench --rate 100 --for 30 --duration exp:0.1 --output lognormal:1k:1M
  supervisor bench --cancels 0.2 --timeouts 0.1 --seed 7
  supervisor bench --print-example > mix.toml; supervisor bench --mix mix.toml --json > report.json
  supervisor bench --group load --limit 4         # at most 4 at once, which is checked
  supervisor bench --stdio                        # through an MCP server that it starts
  supervisor mcp --http 127.0.0.1:8000 --allow-command "$(supervisor bench --print-allow)"
  SUPERVISOR_MCP_TOKEN=... supervisor bench --url http://127.0.0.1:8000/mcp

SPREAD says how a quantity varies from job to job: a number, uniform:LOW:HIGH, exp:MEAN[:MAX] or
lognormal:MEDIAN:P99[:MAX]. MAX defaults to ten times the mean or the 99th percentile.

The exit status is 0 if no job was lost, wrong or refused, 1 if one was, 2 for wrong usage, and 125 if there
is nothing to report. Ctrl-C starts no more jobs, cancels the running ones (with --let-end it waits for
their end) and reports. A second Ctrl-C reports at once and leaves the jobs as they are. On a state root the
jobs run in a workspace of their own; on an MCP endpoint they run in the server's default workspace. The
jobs are deleted afterwards unless --keep is given.
"""


def _spread(parse_name: str) -> Callable[[str], Any]:
    """Return a parser for an option; it imports the load modules when it is called."""

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


def _positive_seconds(text: str) -> float:
    found = seconds(text)
    if not 0 < found < math.inf:
        message = f"{text!r} is not a duration above 0."
        raise click.BadParameter(message)
    return found


_COUNT: Final = click.IntRange(1)
_SHARE: Final = click.FloatRange(0, 1)
_FILE: Final = click.Path(path_type=Path)


@command("bench", help=_HELP)
@click.option("--rate", type=_positive, metavar="N", help="Start N jobs per second. Default: 20.")
@click.option(
    "--for", "for_seconds", type=_positive_seconds, metavar="DURATION", help="Start jobs for this long. Default: 10."
)
@click.option("--jobs", type=_COUNT, metavar="N", help="Start at most N jobs.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    help="When jobs are due: at random, as from many callers (poisson, the default), or evenly spaced.",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", help="The seed of all random values. Default: a new one, printed."
)
@click.option(
    "--max-in-flight",
    type=_COUNT,
    metavar="N",
    help="Run at most N jobs at once. The latency of a job that waits counts from when it was due. Default: 1000.",
)
@click.option(
    "--duration", type=_spread("finite_seconds"), metavar="SPREAD", help="How long each job sleeps. Default: exp:0.2:2."
)
@click.option(
    "--output", type=_spread("parse_bytes"), metavar="SPREAD", help="Bytes of stdout per job. Default: exp:4k:64k."
)
@click.option("--cancels", type=_SHARE, metavar="SHARE", help="The share of jobs that are cancelled, from 0 to 1.")
@click.option("--timeouts", type=_SHARE, metavar="SHARE", help="The share of jobs that run into their deadline.")
@click.option(
    "--failures",
    type=_SHARE,
    metavar="SHARE",
    help="The share of jobs that exit with 3. Default, if none of the three shares is given: 0.05 each.",
)
@click.option(
    "--mix", "mix_file", metavar="FILE", type=_FILE, help="Read the jobs from a TOML file, which options override."
)
@click.option("--print-example", is_flag=True, help="Print an example of such a file and exit.")
@click.option("--url", metavar="URL", help="Use the MCP endpoint at this URL, with the token in SUPERVISOR_MCP_TOKEN.")
@click.option("--token-file", metavar="FILE", type=_FILE, help="Read the token of --url from this file.")
@click.option("--stdio", is_flag=True, help="Use an MCP server over stdio: COMMAND, by default `supervisor mcp`.")
@click.option(
    "--workspace", metavar="DIR", help="The workspace of the jobs on an MCP endpoint. Default: the server's own."
)
@click.option("--print-allow", is_flag=True, help="Print the --allow-command pattern for the server of --url and exit.")
@click.argument("server", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--group",
    metavar="NAME",
    help="Start the jobs in this group of the state root, and check from outside that its limit holds.",
)
@click.option("--limit", type=_COUNT, metavar="N", help="Make the group of --group for this load, with this limit.")
@click.option("--let-end", is_flag=True, help="On Ctrl-C, wait for running jobs to end instead of cancelling them.")
@click.option("--keep", is_flag=True, help="Do not delete the jobs afterwards. They expire like other jobs.")
@click.option(
    "--patience",
    type=_positive_seconds,
    default="60",
    show_default=True,
    metavar="DURATION",
    help="How late a job may end, and how long a call may take.",
)
@click.option("--quiet", is_flag=True, help="Print no progress to stderr.")
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
    group: str | None,
    limit: int | None,
    let_end: bool,
    keep: bool,
    patience: float,
    quiet: bool,
    **described: Any,
) -> int:
    """Run a load and report."""
    if print_example or print_allow:
        from supervisor.load.mix import EXAMPLE
        from supervisor.load.program import allow_pattern

        value = EXAMPLE if print_example else allow_pattern()
        call.answer(lambda: {"ok": True, "value": value}, value.rstrip("\n"))
        return exits.OK
    if server and not stdio:
        message = f"Got unexpected extra argument ({server[0]}); the command of a server must follow --stdio."
        raise click.UsageError(message)
    exclude({"--url": url is not None, "--stdio": stdio})
    if workspace is not None and url is None and not stdio:
        message = "--workspace needs --url or --stdio; on this state root the jobs have a workspace of their own."
        raise click.UsageError(message)
    if group is not None and (url is not None or stdio):
        message = "--group needs this state root: a caller of an MCP endpoint chooses no group."
        raise click.UsageError(message)
    if limit is not None and group is None:
        message = "--limit needs --group."
        raise click.UsageError(message)
    mix = _mix(**described)
    from supervisor.cli.bench.running import run_bench
    from supervisor.load.driver import Through
    from supervisor.load.endpoint import Endpoint

    token = None if url is None else _token(token_file)
    endpoint = Endpoint(
        url=url, token=token, command=server, settings=call.settings, workspace=workspace, keeps_jobs=keep
    )
    shape = run_bench(
        mix,
        call.settings,
        endpoint if url is not None or stdio else None,
        through=None if group is None else Through(group, limit),
        keep=keep,
        let_end=let_end,
        patience_seconds=patience,
        quiet=quiet,
    )
    if shape is None:
        report(InternalError("interrupted before the first job was due", repair="Run it again."), as_json=call.as_json)
        return exits.CANCELLED
    if call.as_json:
        write_document(shape)
    else:
        from supervisor.cli.bench.text import lines

        call.print(*lines(shape))
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


_SHARES: Final = ("cancels", "timeouts", "failures")
_JOB_OPTIONS: Final = ("duration", "output", *_SHARES)


def _mix(*, mix_file: Path | None, **given: Any) -> Mix:
    from supervisor.load import mix
    from supervisor.load.spread import parse_bytes, parse_spread

    of_jobs = {name: given.pop(name) for name in _JOB_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    if mix_file is not None:
        for name, value in of_jobs.items():
            if value is not None:
                message = f"--{name} and --mix both describe the jobs"
                raise InvalidArguments(message, repair=f"Omit one of them, or write {name} into the file.")
        return mix.load(mix_file, **given)
    return mix.simple(
        seconds=of_jobs["duration"] or parse_spread("exp:0.2:2"),
        output_bytes=of_jobs["output"] or parse_spread("exp:4k:64k", parse_bytes),
        **_shares(of_jobs),
        **given,
    )


def _shares(given: Mapping[str, Any]) -> dict[str, float]:
    if all(given[name] is None for name in _SHARES):
        return dict.fromkeys(_SHARES, 0.05)
    return {name: given[name] or 0.0 for name in _SHARES}
