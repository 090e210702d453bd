"""The options of ``run`` and ``start``, and the request that they make."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import click

from supervisor.cli import completing, inherited
from supervisor.cli.arguments import dependency, finite, label_option, moment, one_job, seconds, size, workspace_option
from supervisor.cli.front import DEFAULTS, Invocation
from supervisor.cli.text import one_line
from supervisor.engines.cluster.slurm.options import OPTIONS as SLURM_OPTIONS
from supervisor.engines.registry import BUILT_IN, LOCAL, factory
from supervisor.errors import InvalidArguments
from supervisor.interpret import kinds
from supervisor.jobs.validation import MAX_INPUT_BYTES, check_input
from supervisor.model import JobOptions, JobSpec, Limits
from supervisor.retry import Retry

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["ATTRIBUTES", "COMMAND_LINE", "changing_options", "make_spec", "prepare", "request_options"]

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


class _EngineOption(click.Option):
    """An option whose help lists the options of the built-in engines; only the help imports them."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its help."""
        own = {param.name for param in ctx.command.params}
        lists = {name: [each for each in factory(name).accepted_options() if each not in own] for name in BUILT_IN}
        has = [f"{name} has {', '.join(options)}" for name, options in lists.items() if options]
        self.help = f"Set an option of the engine. Repeat it for several: {'; '.join(has)}."
        return super().get_help_record(ctx)


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
                "--merge-stderr",
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
                "--stdin-open", is_flag=True, help="Keep its stdin open, after --stdin, for `supervisor send`."
            ),
            click.option(
                "--pty",
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
            click.option("--create-group", is_flag=True, help="Make the groups that do not exist, without a limit."),
            click.option("--hold", is_flag=True, help="Have it wait until `supervisor release`."),
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
                "--engine",
                metavar="ENGINE",
                type=_EngineName(BUILT_IN),
                help="The engine: 'local' is this machine, 'slurm' a cluster, where the job may have to wait.",
            ),
            click.option(
                "--shared-dir",
                metavar="DIR",
                type=click.Path(file_okay=False, readable=False),
                help="Make its directory in this one, which the cluster shares. Default: SUPERVISOR_SHARED_DIR.",
            ),
            click.option(
                "--no-new-privs",
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


def prepare(call: Invocation, spec: JobSpec, *, create_group: bool) -> JobSpec:
    """Make the groups of a job that do not exist, if ``create_group``; return the request with whole ids of jobs.

    Raises:
        JobNotFound, InvalidArguments: a job to wait for does not exist, or the beginning of its id is ambiguous.
    """
    if create_group and spec.groups:
        from supervisor.admission import groups

        with call.writing_catalog() as catalog:
            groups.create_groups(catalog.index, spec.groups)
    if spec.after:
        with call.catalog() as catalog:
            spec = attrs.evolve(spec, after=[(when, catalog.resolve_prefix(job)) for when, job in spec.after])
    return spec


_RETRY: Final = {
    "attempts": "maximum_attempts",
    "retry_on": "retry_on",
    "retry_never_on": "never_retry_on",
    "retry_delay": "initial_interval",
    "retry_factor": "backoff_coefficient",
    "retry_max_delay": "maximum_interval",
}
"""The options about retries, and the attributes of ``Retry`` that they set."""
_LOST: Final = "job_lost"

ATTRIBUTES: Final = {
    "env_file": "env",
    **dict.fromkeys(
        ("attempts", "retry_on", "retry_never_on", "retry_delay", "retry_factor", "retry_max_delay"), "retry"
    ),
    **dict.fromkeys(("memory", "cpus", "pids", "enforce"), "limits"),
    **dict.fromkeys(("shared_dir", "deadline_from", "admission"), "engine_options"),
    **dict.fromkeys((f"slurm_{name}" for name in SLURM_OPTIONS), "engine_options"),
}
"""For each option whose name is not that of an attribute of ``JobSpec``, the attribute that it sets."""


def _retry(options: dict[str, Any]) -> Retry | None:
    """Take the options about retries, and return the policy that they describe.

    Raises:
        click.UsageError: there is no --attempts for them.
        InvalidArguments: one is out of range.
    """
    taken = {option: options.pop(option) for option in _RETRY}
    given = {option: value for option, value in taken.items() if value not in {None, ()}}
    if "attempts" not in given:
        for option in given:
            message = f"--{option.replace('_', '-')} needs --attempts."
            raise click.UsageError(message)
        return None
    values: dict[str, Any] = {_RETRY[option]: value for option, value in given.items()}
    codes = values.get("retry_on", ())
    values |= {"retry_on": [code for code in codes if code != _LOST], "retry_lost": _LOST in codes}
    return Retry(**values)


def _limits(options: dict[str, Any]) -> Limits | None:
    """Take the options about limits, and return the limits that they describe.

    Raises:
        click.UsageError: there is no limit for --limits.
        InvalidArguments: one is out of range.
    """
    memory, cpus, pids, enforce = (options.pop(name) for name in ("memory", "cpus", "pids", "enforce"))
    if (memory, cpus, pids) == (None, None, None):
        if enforce is not None:
            message = "--limits needs --memory, --cpus or --pids."
            raise click.UsageError(message)
        return None
    return Limits(memory_bytes=memory, cpus=cpus, pids=pids, enforce=enforce or "require")


def make_spec(
    *,
    command: Sequence[str],
    workspace: str | None,
    stdin: str | None,
    env: Sequence[str],
    env_file: Sequence[str],
    engine: str | None,
    engine_options: dict[str, Any],
    **others: Any,
) -> JobSpec:
    """Return the request that the options describe. An option named like one of ``JobOptions`` is used as it is.

    Raises:
        click.UsageError: a file cannot be read, a variable is not set, or an option is of another engine.
        InvalidArguments: a file is too large.
    """
    if others["delay_seconds"] is not None and others["not_before"] is not None:
        message = "--delay and --not-before exclude each other."
        raise click.UsageError(message)
    retry, limits = _retry(others), _limits(others)
    options = {name: others.pop(name) for name in JobOptions.__annotations__ if name in others}
    for name, value in others.items():  # the options of engines that have a name on the command line
        if value is not None and engine_options.setdefault(name.removeprefix("slurm_"), value) != value:
            message = (
                f"--{name.replace('_', '-')} and --engine-option {name.removeprefix('slurm_')} exclude each other."
            )
            raise click.UsageError(message)
    accepted = factory(engine or LOCAL).accepted_options() if engine_options else {}
    for name in engine_options:
        if name not in accepted:
            having = [each for each in BUILT_IN if name in factory(each).accepted_options()]
            have = f"--engine {' or '.join(having)} has it" if having else f"it has {', '.join(accepted) or 'none'}"
            message = f"the {engine or LOCAL} engine has no option {name!r:.80}; {have}"
            raise click.UsageError(message)
    return JobSpec(
        argv=command,
        workspace=workspace or os.curdir,
        stdin=None if stdin is None else _read("--stdin", stdin),
        env=_environment(env, env_file),
        engine=None if engine == LOCAL else engine,
        engine_options=engine_options,
        retry=retry,
        limits=limits,
        **options,
    )


def _read(option: str, path: str) -> bytes:
    try:
        if path == "-":
            if inherited.is_closed(0):
                message = f"{option} -: stdin is closed"
                raise click.UsageError(message)
            return check_input(option, sys.stdin.buffer.read(MAX_INPUT_BYTES + 1))
        with open(os.path.expanduser(path), "rb") as file:
            return check_input(option, file.read(MAX_INPUT_BYTES + 1))
    except OSError as error:
        message = f"{option} {path!r} cannot be read: {error.strerror}"
        raise click.UsageError(message) from error


def _environment(variables: Iterable[str], files: Iterable[str]) -> dict[str, str] | None:
    """Return this environment with the given variables on top; ``None`` when none are given."""
    asked: list[tuple[str, str]] = []
    for path in files:
        for number, line in enumerate(os.fsdecode(_read("--env-file", path)).splitlines(), 1):
            entry = line.strip()
            if entry and not entry.startswith("#"):
                asked.append((f"--env-file {path}, line {number}", line.lstrip()))
    asked += [("--env", text) for text in variables]
    if not asked:
        return None
    environment = dict(os.environ)
    for where, text in asked:
        name, equals, value = text.partition("=")
        if not name or "\0" in text:
            message = f"{where}: it must be NAME=VALUE or NAME"
            raise click.UsageError(message)
        if not equals:
            if name.strip() not in os.environ:
                message = f"{where}: {name.strip()} is not set in this environment"
                raise click.UsageError(message)
            continue
        environment[name] = value
    return environment
