"""The group of all commands. A command's module is imported when the command is asked for."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from supervisor._version import __version__
from supervisor.cli import exits, streams
from supervisor.cli.front import DEFAULTS, report, report_unexpected, shared_options
from supervisor.cli.text import clean
from supervisor.errors import InvalidArguments

__all__ = ["COMMANDS", "COMPLETE_VARIABLE", "app"]

COMPLETE_VARIABLE: Final = "_SUPERVISOR_COMPLETE"

COMMANDS: Final = {
    "run": ("commands.run", "run", "Start a command, stream its output, exit as it exits."),
    "start": ("commands.start", "start", "Start a command as a job, print the job's id, return at once."),
    "status": ("commands.status", "status", "Show what is known about a job."),
    "result": ("commands.result", "result", "Print what a finished job gave."),
    "list": ("commands.list", "list_jobs", "List jobs, newest first."),
    "wait": ("commands.wait", "wait", "Wait until jobs have ended."),
    "cancel": ("commands.cancel", "cancel", "Stop jobs, and everything that they started."),
    "rm": ("commands.rm", "rm", "Forget finished jobs now."),
    "logs": ("commands.logs", "logs", "Print what a job wrote, so far or as it writes it."),
    "prune": ("commands.prune", "prune", "Forget finished jobs that have expired or are too many."),
    "mcp": ("commands.mcp", "mcp", "Serve jobs to MCP hosts, over stdio or HTTP."),
    "doctor": ("doctor.command", "doctor", "Say what is installed, where jobs are kept, and what would fail."),
    "bench": (
        "bench.command",
        "bench",
        "Put a load on a state root or an MCP endpoint, and check that nothing is lost.",
    ),
    "completion": ("commands.completion", "completion", "Print the script that completes commands in your shell."),
}
"""Name: module, function in it, what ``supervisor --help`` says (without importing the module)."""

_HELP: Final = """Run long commands as durable jobs: they outlive whoever started them.

A job is a command with an id. It goes on when the shell, the terminal or this program is gone;
its status, output and exit code can be asked for from anywhere, by its id or the first four or
more characters of it.

\b
Examples:
  supervisor run --deadline 600 -- make test      # like `make test`, but Ctrl-C leaves no child behind
  id=$(supervisor start --stdin prompt.txt -- claude -p --output-format json)
  supervisor wait $id && supervisor result $id
  supervisor list --state running
  supervisor logs --follow $id
  supervisor cancel --label batch=42
"""


class _App(click.Group):
    """A group that knows its commands by name, and reports usage errors as everything else is reported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"supervisor.cli.{module}"), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002  # click's signature
        **extra: Any,
    ) -> NoReturn:
        """Run a command and exit with its status."""
        del prog_name, complete_var, standalone_mode
        words = list(sys.argv[1:] if args is None else args) or ["--help"]
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a locale that knows few letters is no reason to fail
        try:
            # Outside standalone mode click returns the status that a command has passed to ``exit``.
            status = super().main(words, "supervisor", COMPLETE_VARIABLE, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            status = _report_usage(error, words)
        except (click.Abort, KeyboardInterrupt):
            status = exits.CANCELLED
        except SystemExit:  # outside standalone mode click does that for one reason: EPIPE
            status = exits.PIPE
        except BrokenPipeError:  # the reader of our output has seen enough
            status = exits.PIPE
            streams.drop(sys.stdout)
        except OSError as error:  # in what click itself writes, as the help, or in an import
            status = report_unexpected(error, as_json=False)
            streams.drop(sys.stdout)
        streams.finish()
        sys.exit(status if isinstance(status, int) else exits.OK)


def _report_usage(error: click.ClickException, words: Sequence[str]) -> int:
    before_command = words[: words.index("--")] if "--" in words else words
    if "--json" in before_command:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "supervisor"
        return report(InvalidArguments(error.format_message(), repair=f"See `{where} --help`."), as_json=True)
    # It may name a word of the command line, and older releases of click pass that to a terminal as it is.
    shown = io.StringIO()
    click.UsageError(clean(error.format_message()), getattr(error, "ctx", None)).show(shown)
    streams.say(shown.getvalue().rstrip("\n"))
    return exits.USAGE


app = _App(
    "supervisor",
    help=_HELP,
    epilog=DEFAULTS,
    params=shared_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, prog_name="supervisor", message="%(prog)s %(version)s")(app)
