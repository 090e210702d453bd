"""The request that the options of ``run``, ``start`` and ``rerun`` describe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from supervisor.cli import inherited
from supervisor.cli.arguments import exclude
from supervisor.engines.cluster.slurm.options import OPTIONS as SLURM_OPTIONS
from supervisor.engines.registry import BUILT_IN, LOCAL, factory
from supervisor.jobs.validation import MAX_INPUT_BYTES, check_input
from supervisor.model import JobOptions, JobSpec, Limits
from supervisor.retry import Retry

if TYPE_CHECKING:
    from supervisor.cli.front import Invocation

__all__ = ["ATTRIBUTES", "make_spec", "prepare"]


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
    exclude({"--delay": others["delay_seconds"] is not None, "--not-before": others["not_before"] is not None})
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
