"""The group of all commands. A command's module is imported when the command is called."""

from __future__ import annotations

import io
import os
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
    "status": ("commands.status", "status", "Show the state of a job."),
    "result": ("commands.result", "result", "Print the result of a finished job."),
    "list": ("commands.list", "list_jobs", "List jobs."),
    "wait": ("commands.wait", "wait", "Wait until jobs have ended."),
    "cancel": ("commands.cancel", "cancel", "Stop jobs and all their processes."),
    "rm": ("commands.rm", "rm", "Delete finished jobs now."),
    "logs": ("commands.logs", "logs", "Print the output of a job."),
    "attach": ("commands.attach", "attach", "Attach this terminal to that of a job."),
    "send": ("commands.send", "send", "Send a message to the stdin of a running job."),
    "prune": ("commands.prune", "prune", "Delete finished jobs that have expired or exceed the limit."),
    "hold": ("commands.places", "hold", "Keep waiting jobs from being launched."),
    "release": ("commands.places", "release", "End the hold of waiting jobs."),
    "move": ("commands.places", "move", "Change the order of a waiting job."),
    "pause": ("commands.pause", "pause", "Stop the processes of running jobs for a while."),
    "resume": ("commands.pause", "resume", "Continue paused jobs."),
    "rerun": ("commands.rerun", "rerun", "Start a job again, with changes."),
    "signal": ("commands.signal", "signal_job", "Send a signal to the process of a running job."),
    "explain": ("commands.explain", "explain", "Say why a job waits, or how it is known that it runs or has ended."),
    "group": ("commands.group", "group", "Limit how many jobs run at a time."),
    "worktree": ("commands.worktree", "worktree", "Show, compare and remove the git worktrees of jobs."),
    "schedule": ("commands.schedule", "schedule", "Start jobs at the instants of cron expressions."),
    "deliveries": ("commands.deliveries", "deliveries", "List what is not delivered yet, and what is dead."),
    "launch-waiting": ("commands.launch_waiting", "launch_waiting", "Launch waiting jobs until none can be launched."),
    "spend": ("commands.spend", "spend", "Show what jobs have spent: money, tokens, time."),
    "top": ("top.command", "top", "Show groups and jobs as they change."),
    "mcp": ("commands.mcp", "mcp", "Serve jobs to MCP hosts, over stdio or HTTP."),
    "service": ("commands.service", "service", "Run `supervisor serve` as a service of this user."),
    "serve": ("commands.serve", "serve", "Serve a page, REST, metrics and MCP on one port."),
    "login": ("commands.login", "login", "Print a link that logs a browser in to `serve`."),
    "doctor": ("doctor.command", "doctor", "Check the installation, the state root and this machine."),
    "bench": ("bench.command", "bench", "Measure the supervisor under load, and check every result."),
    "completion": ("commands.completion", "completion", "Print or install the completion script for your shell."),
    "man": ("commands.man", "man", "Print or install the manual pages."),
}
"""For each command its module, its function, and its line in ``supervisor --help``, which imports no command."""

_FAMILIAR: Final = {
    "ps": "list",
    "ls": "list",
    "jobs": "list",
    "kill": "cancel",
    "stop": "cancel",
    "tail": "logs --follow",
    "cat": "logs",
    "submit": "start",
    "delete": "rm",
    "remove": "rm",
}
"""What the commands of other programs are called here."""

_HELP: Final = """Run long commands as durable jobs, which outlive the process that started them.

A job is a command with an id. It runs on after the shell, the terminal or this program has ended.
Any process of the same user can ask for its status, output and exit code. To name a job, give its
id, or the first characters of it (at least four).

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
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, help_ = COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"supervisor.cli.{module}"), attribute)
        found.short_help = help_
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in COMMANDS or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        message = f"No such command {args[0]!r}."
        likely = _likely_commands(args[0])
        if likely:
            message += f" Did you mean {' or '.join(f'`supervisor {each}`' for each in likely)}?"
        raise click.UsageError(message, ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
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
        del prog_name, complete_var, standalone_mode
        words = list(sys.argv[1:] if args is None else args) or ["--help"]
        if COMPLETE_VARIABLE in os.environ:
            from supervisor.cli import shells

            shells.register()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # the locale may lack characters of the text
        try:
            # Outside standalone mode, click returns the status that a command passed to ``exit``.
            status = super().main(words, "supervisor", COMPLETE_VARIABLE, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            status = _report_usage(error, words)
        except (click.Abort, KeyboardInterrupt):
            status = exits.CANCELLED
        except SystemExit:  # outside standalone mode, click raises it for EPIPE, and after a completion
            status = exits.OK if COMPLETE_VARIABLE in os.environ else exits.PIPE
        except BrokenPipeError:  # the reader of stdout has closed it
            status = exits.PIPE
            streams.discard(sys.stdout)
        except OSError as error:  # from an import, or when click writes its help
            status = report_unexpected(error, as_json=False)
            streams.discard(sys.stdout)
        streams.finish()
        sys.exit(status if isinstance(status, int) else exits.OK)


def _likely_commands(word: str) -> list[str]:
    from difflib import get_close_matches  # for a word that is no command

    if word.lower() in _FAMILIAR:
        return [_FAMILIAR[word.lower()]]
    return get_close_matches(word.lower(), COMMANDS, n=2)


def _report_usage(error: click.ClickException, words: Sequence[str]) -> int:
    before_command = words[: words.index("--")] if "--" in words else words
    if "--json" in before_command:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "supervisor"
        return report(InvalidArguments(error.format_message(), repair=f"See `{where} --help`."), as_json=True)
    # The message may quote a word of the command line, which older releases of click write unescaped.
    shown = io.StringIO()
    click.UsageError(clean(error.format_message()), getattr(error, "ctx", None)).show(shown)
    streams.write_stderr(shown.getvalue().rstrip("\n"))
    return exits.USAGE


app = _App(
    "supervisor",
    help=_HELP,
    epilog=DEFAULTS,
    params=shared_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(context: click.Context, _: click.Parameter, given: bool) -> None:  # noqa: FBT001  # click's signature
    if not given or context.resilient_parsing:
        return
    from supervisor.cli.supervisord import ADVICE, supervisord_version

    click.echo(f"supervisor {__version__}")
    if (clash := supervisord_version()) is not None:
        streams.write_stderr(f"supervisord {clash} is installed here too. {ADVICE}")
    context.exit()


click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)(app)
