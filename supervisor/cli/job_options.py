"""The options of ``run``, ``start`` and ``rerun``: the arguments of ``job_request.make_spec``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from supervisor.cli import completing
from supervisor.cli.arguments import dependency, finite, label_option, moment, one_job, seconds, size, workspace_option
from supervisor.cli.front import DEFAULTS
from supervisor.cli.text import one_line
from supervisor.engines.cluster.slurm.options import OPTIONS as SLURM_OPTIONS
from supervisor.engines.registry import BUILT_IN, LOCAL, factory, names
from supervisor.errors import InvalidArguments
from supervisor.interpret import kinds
from supervisor.worktrees.record import FROM

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMMAND_LINE", "changing_options", "request_options"]

# Every word after the name of the command belongs to the command, options included.
COMMAND_LINE: Final[dict[str, Any]] = {"context_settings": {"allow_interspersed_args": False}, "epilog": DEFAULTS}


_F = TypeVar("_F", bound=Callable[..., Any])


def _complete_kind(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [kind for kind in kinds() if kind.startswith(incomplete)]


class _EngineName(click.Choice[str]):
    """The name of an engine: one that is built in, or one of another package, which is looked for only then."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or say which there are."""
        if value not in BUILT_IN:
            try:
                factory(str(value))
            except InvalidArguments as problem:
                self.fail(problem.message, param, ctx)
        return str(value)


class _KindOption(click.Option):
    """An option whose help lists the kinds that are installed; only the help searches for them, which takes a while."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its help."""
        self.help = f"How its output is read: {', '.join(map(one_line, kinds()))}."
        return super().get_help_record(ctx)


class _EngineHelp(click.Option):
    """An option whose help lists the engines that are installed; only the help searches for them."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its help."""
        others = names()[len(BUILT_IN) :]
        clusters = f", and {', '.join(map(one_line, others))} of other packages" if others else ""
        self.help = f"The engine: 'local' is this machine, 'slurm' a cluster, where the job may have to wait{clusters}."
        return super().get_help_record(ctx)


class _EngineOption(click.Option):
    """An option whose help lists the options of the engines that are installed; only the help imports them."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its help."""
        own = {param.name for param in ctx.command.params}
        lists = {name: [each for each in _options_of(name) if each not in own] for name in names()}
        has = [f"{name} has {', '.join(options)}" for name, options in lists.items() if options]
        self.help = f"Set an option of the engine. Repeat it for several: {'; '.join(has)}."
        return super().get_help_record(ctx)


def _options_of(engine: str) -> Iterable[str]:
    try:
        return factory(engine).accepted_options()
    except Exception:  # noqa: BLE001  # the module of an engine of another package may be broken; the help is not
        return ()


def _engine_options(_: click.Context, __: click.Parameter, given: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not name or not equals:
            message = f"{text!r:.80} is not NAME=VALUE."
            raise click.BadParameter(message)
        if name in found:
            message = f"{name!r:.80} is given twice."
            raise click.BadParameter(message)
        found[name] = value
    return found


def _complete_engine_option(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    accepted = factory(ctx.params.get("engine") or LOCAL).accepted_options()
    named = [(f"{name}=", accepts) for name, accepts in accepted.items()]
    return [CompletionItem(name, help=accepts) for name, accepts in named if name.startswith(incomplete)]


def _slurm_options(function: _F) -> _F:
    """Add the older names of the options of the Slurm engine."""
    for name in reversed(SLURM_OPTIONS):
        help_ = f"The same as --engine-option {name}=VALUE."
        function = click.option(f"--slurm-{name}", metavar="VALUE", hidden=True, help=help_)(function)
    return function


def request_options(function: _F) -> _F:
    """Add the options that describe a job, and its command: the arguments of ``make_spec``."""
    return _add_options(function, required=True)


def changing_options(function: _F) -> _F:
    """Add the argument ``JOB``, and the same options, and maybe another command, to change its request."""
    return one_job(completing.any_job)(_add_options(function, required=False))


def _add_options(function: _F, *, required: bool) -> _F:
    for add in reversed(
        (
            workspace_option("Run it in this directory, instead of the current one."),
            click.option(
                "--worktree",
                type=click.Choice(FROM),
                help="Run it in a git worktree of its own: of the default branch of origin ('fresh'), of HEAD ('head')"
                ", or of HEAD with the tracked changes ('dirty'). See `supervisor worktree`.",
            ),
            click.option(
                "--kind",
                cls=_KindOption,
                help="How its output is read.",
                default="raw",
                show_default=True,
                metavar="KIND",
                shell_complete=_complete_kind,
            ),
            click.option(
                "--deadline",
                "deadline_seconds",
                type=seconds,
                metavar="DURATION",
                help="Stop it after this time: seconds, or as 90s, 5m, 1h30m, 2d; or never: 'none'. Default: "
                "SUPERVISOR_JOB_MAX_SECONDS, or 30 minutes.",
            ),
            click.option(
                "--ttl",
                "ttl_seconds",
                type=finite,
                metavar="DURATION",
                help="Keep it for this long after its end. Default: SUPERVISOR_JOB_TTL, or 24 hours.",
            ),
            click.option(
                "--max-output",
                "max_output_bytes",
                type=size,
                metavar="SIZE",
                help="Stop it when its stdout or stderr is larger: bytes, or as 64k, 200M, 1GiB. Default: "
                "SUPERVISOR_JOB_MAX_OUTPUT_BYTES, or 64 MiB.",
            ),
            click.option(
                "--grace",
                "grace_seconds",
                type=finite,
                metavar="DURATION",
                help="Give it this long between SIGTERM and SIGKILL. Default: SUPERVISOR_STOP_GRACE_SECONDS, or 5 "
                "seconds.",
            ),
            click.option(
                "--merge-stderr/--no-merge-stderr",
                is_flag=True,
                help="Write its stderr where its stdout goes, in order: the result has both.",
            ),
            click.option(
                "--stdin",
                metavar="FILE",
                shell_complete=completing.files,
                help="Have it read this file as stdin, at most 64 MiB; '-' is this command's own stdin. Default: none.",
            ),
            click.option(
                "--stdin-open/--no-stdin-open",
                is_flag=True,
                help="Keep its stdin open, after --stdin, for `supervisor send`.",
            ),
            click.option(
                "--pty/--no-pty",
                is_flag=True,
                help="Give it a terminal, for `supervisor attach` and `supervisor send`. TERM is that of this command.",
            ),
            click.option(
                "--env",
                "env",
                metavar="NAME[=VALUE]",
                shell_complete=completing.variables,
                multiple=True,
                help="Set a variable, in addition to this environment, which it inherits. A bare name requires that "
                "the variable is set, and keeps its value out of `ps`.",
            ),
            click.option(
                "--env-file",
                metavar="FILE",
                shell_complete=completing.files,
                multiple=True,
                help="Set the variables in this file: lines NAME=VALUE, without quoting; blank lines and those with # "
                "in front are ignored. --env wins.",
            ),
            label_option("Give it a label to find it by."),
            click.option(
                "--key",
                "idempotency_key",
                metavar="KEY",
                help="Start it once: the same key with the same request in the same directory returns the first job.",
            ),
            click.option(
                "--group",
                "groups",
                metavar="NAME",
                shell_complete=completing.groups,
                multiple=True,
                help="Have it wait until this group has room; repeat it for several. See `supervisor group`.",
            ),
            click.option(
                "--priority",
                type=int,
                default=0,
                metavar="N",
                help="Go before others of its groups: a point is worth 5 minutes of waiting, or --aging of the group.",
            ),
            click.option("--weight", type=int, default=1, metavar="N", help="Take N slots of each group. Default: 1."),
            click.option(
                "--spool",
                type=click.Choice(["disk", "memory"]),
                default="disk",
                help="Where its environment and input are while it waits. Orders in memory end with their keeper or a "
                "reboot: the job never runs then.",
            ),
            click.option(
                "--create-group/--no-create-group",
                is_flag=True,
                help="Make the groups that do not exist, without a limit.",
            ),
            click.option("--hold/--no-hold", is_flag=True, help="Have it wait until `supervisor release`."),
            click.option(
                "--delay",
                "delay_seconds",
                type=seconds,
                metavar="DURATION",
                help="Have it wait for this long: seconds, or as 90s, 5m, 1h30m, 2d.",
            ),
            click.option(
                "--not-before",
                type=moment,
                metavar="TIME",
                help="Have it wait until this time: ISO 8601, local if it has no zone.",
            ),
            click.option(
                "--start-within",
                "start_within_seconds",
                type=seconds,
                metavar="DURATION",
                help="Cancel it if it cannot be launched in this time.",
            ),
            click.option(
                "--after",
                type=dependency,
                shell_complete=completing.dependencies,
                metavar="[WHEN:]JOB",
                multiple=True,
                help="Have it wait until JOB is done ('ok', the default), has ended ('any'), has ended otherwise than "
                "done ('failed'), or was launched ('start'). Repeat it for several. It is cancelled when that cannot "
                "be any more.",
            ),
            click.option(
                "--attempts",
                type=int,
                metavar="N",
                help="Try it up to N times. It is tried again if its error is retryable, as some errors of agents are, "
                "or as --retry-on says. Default: 1.",
            ),
            click.option(
                "--retry-on",
                metavar="CODE|EXIT",
                multiple=True,
                help="Try it again after this error code (job_failed is any exit status but 0, job_timeout its "
                "deadline), or this exit status. Repeat it for several.",
            ),
            click.option(
                "--retry-never-on",
                metavar="CODE|EXIT",
                multiple=True,
                help="Do not try it again after this error code or exit status, whatever else is said.",
            ),
            click.option(
                "--retry-delay",
                type=seconds,
                metavar="DURATION",
                help="Wait for this long before the second attempt. Default: 1 second.",
            ),
            click.option(
                "--retry-factor",
                type=float,
                metavar="F",
                help="Wait F times as long before each further attempt. Default: 2.",
            ),
            click.option(
                "--retry-max-delay",
                type=seconds,
                metavar="DURATION",
                help="Wait at most this long. Default: 100 times --retry-delay.",
            ),
            click.option(
                "--memory",
                type=size,
                metavar="SIZE",
                help="End it when all of its processes together use more memory than this, as 200M, 1.5G.",
            ),
            click.option("--cpus", type=float, metavar="F", help="Give it the time of F processors at most, as 0.5."),
            click.option("--pids", type=int, metavar="N", help="Let it have N processes and threads at a time."),
            click.option(
                "--limits",
                "enforce",
                type=click.Choice(["require", "best-effort"]),
                help="Whether it is not started where it cannot be limited, or runs without ('best-effort'). Default: "
                "require.",
            ),
            click.option(
                "--on-end",
                metavar="COMMAND",
                help="Run this command when it has ended, as a job of its own, with the end as JSON on stdin. No shell "
                "reads it.",
            ),
            click.option(
                "--webhook",
                metavar="URL",
                help="Send its end to this URL, signed, until that is answered with 2xx. See `supervisor deliveries`.",
            ),
            click.option(
                "--engine",
                cls=_EngineHelp,
                metavar="ENGINE",
                type=_EngineName(BUILT_IN),
                help="The engine.",
            ),
            click.option(
                "--shared-dir",
                metavar="DIR",
                type=click.Path(file_okay=False, readable=False),
                help="Make its directory in this one, which the cluster shares. Default: SUPERVISOR_SHARED_DIR.",
            ),
            click.option(
                "--no-new-privs/--new-privs",
                is_flag=True,
                help="Let no program that it runs gain rights by its file, as sudo and other set-user-ID programs do.",
            ),
            click.option(
                "--deadline-from",
                type=click.Choice(["start", "submission"]),
                help="Whether time in a queue counts towards the deadline. Default: it does not, 'start'.",
            ),
            click.option(
                "--admission",
                type=click.Choice(["supervisor", "engine"]),
                help="With --engine slurm, what makes it wait for its time and for other jobs: the supervisor, before "
                "its submission, or the engine, to which it is submitted at once. Default: the supervisor.",
            ),
            click.option(
                "--engine-option",
                "engine_options",
                cls=_EngineOption,
                metavar="NAME=VALUE",
                multiple=True,
                callback=_engine_options,
                shell_complete=_complete_engine_option,
                help="Set an option of the engine.",
            ),
            _slurm_options,
            click.argument(
                "command",
                metavar="COMMAND..." if required else "[-- COMMAND...]",
                nargs=-1,
                required=required,
                type=click.UNPROCESSED,
                shell_complete=completing.command_words,
            ),
        ),
    ):
        function = add(function)
    return function
