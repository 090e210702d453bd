"""Checks requests to run a command, and makes the digests that distinguish them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments
from supervisor.interpret import get_interpreter
from supervisor.model import MAX_LABELS, JobOptions, JobSpec, Limits
from supervisor.retry import Retry
from supervisor.store.groups import check_name
from supervisor.store.rows import dump
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import encodable, is_job_id
from supervisor.store.tickets import CONDITIONS
from supervisor.worktrees.record import FROM

__all__ = [
    "MAX_DEADLINE_SECONDS",
    "MAX_DELAY_SECONDS",
    "MAX_GROUPS",
    "MAX_INPUT_BYTES",
    "MAX_PRIORITY",
    "check_input",
    "check_priority",
    "checked_spec",
    "digest_of",
    "spec_of",
]

_MAX_LABEL_CHARACTERS: Final = 1024
_MAX_KEY_CHARACTERS: Final = 256

MAX_DEADLINE_SECONDS: Final = 100 * 365 * 86400
"""The longest deadline, time to live and grace; ``math.inf`` is no deadline at all."""

MAX_PRIORITY: Final = 1000
MAX_WEIGHT: Final = 10**6
MAX_GROUPS: Final = 8
_MAX_DEPENDENCIES: Final = 1000
MAX_DELAY_SECONDS: Final = 90 * 86400
"""The longest time that a job can be made to wait by a clock."""

_MAX_BYTES: Final = 2**63 - 1
MAX_INPUT_BYTES: Final = 64 << 20
"""Bytes of stdin: a local job's stay in memory until the job has read them."""


def check_input(name: str, content: bytes) -> bytes:
    """Return the input of a job; ``name`` is the argument that it comes from.

    Raises:
        InvalidArguments: it has more than ``MAX_INPUT_BYTES``.
    """
    if len(content) > MAX_INPUT_BYTES:
        message = f"{name} has more than {MAX_INPUT_BYTES} bytes, which is the limit"
        repair = "Have the command read a file by its name: sh -c 'exec COMMAND < FILE'."
        raise InvalidArguments(message, repair=repair, details={"argument": name, "limit_bytes": MAX_INPUT_BYTES})
    return content


def _check(condition: object, message: str) -> None:
    if not condition:
        raise InvalidArguments(message)


def _is(held: object, kind: type) -> bool:
    """Check a type at run time: the caller may use no type checker."""
    return isinstance(held, kind)


def _is_length(seconds: float) -> bool:
    number = (_is(seconds, int) or _is(seconds, float)) and not _is(seconds, bool)
    return number and 0 <= seconds <= MAX_DEADLINE_SECONDS


def _check_deadline(seconds: float) -> None:
    fits = seconds == math.inf or _is_length(seconds)
    _check(fits, f"deadline_seconds is {seconds!r:.80}; it must be a number from 0 to 100 years, or infinity")


def _check_own_settings(spec: JobSpec) -> None:
    """Check the settings of the supervisor that a job overrides."""
    for name in ("ttl_seconds", "grace_seconds"):
        seconds = getattr(spec, name)
        fits = seconds is None or _is_length(seconds)
        _check(fits, f"{name} is {seconds!r:.80}; it must be a number of seconds from 0 to 100 years")
    if spec.max_output_bytes is not None:
        _check_between("max_output_bytes", spec.max_output_bytes, 0, _MAX_BYTES)


def _all_strings(mapping: Mapping[Any, object]) -> bool:
    return all(isinstance(name, str) and isinstance(value, str) for name, value in mapping.items())


def _check_labels(labels: Mapping[str, str]) -> None:
    _check(_all_strings(labels), "labels must map strings to strings")
    for name, value in labels.items():
        _check(name and len(name) + len(value) <= _MAX_LABEL_CHARACTERS, f"label {name!r:.80} is empty or too long")
    _check(len(labels) <= MAX_LABELS, f"there are more than {MAX_LABELS} labels")


def _check_env(env: Mapping[str, str]) -> None:
    _check(_all_strings(env), "env must map strings to strings")
    nameless = "" in os.environ  # then a copy of it is no mistake; the entry without a name is left out
    for name, value in env.items():
        fits = (name or nameless) and "=" not in name and "\0" not in name + value and encodable(name + value)
        _check(fits, f"env holds {name!r:.80}, whose name or value no environment can hold")


def _check_between(name: str, value: int, low: int, high: int) -> None:
    _check(type(value) is int and low <= value <= high, f"{name} is {value!r:.80}; it must be from {low} to {high}")


def check_priority(priority: int) -> None:
    """Raise ``InvalidArguments`` for a priority that no job can have."""
    _check_between("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)


def _check_admission(spec: JobSpec) -> None:
    for name in spec.groups:
        check_name(name)
    _check(len(spec.groups) <= MAX_GROUPS, f"a job is in at most {MAX_GROUPS} groups")
    _check(spec.groups or spec.weight == 1, "weight is given, and no group that counts it")
    check_priority(spec.priority)
    _check_between("weight", spec.weight, 1, MAX_WEIGHT)
    _check(type(spec.hold) is bool, f"hold is {spec.hold!r:.80}; it must be true or false")
    for when, job_id in spec.after:
        _check(when in CONDITIONS, f"after has {when!r:.80}; it must be one of {', '.join(CONDITIONS)}")
        _check(is_job_id(job_id), f"after names {job_id!r:.80}, which is no job id")
    _check(len(spec.after) <= _MAX_DEPENDENCIES, f"a job waits for at most {_MAX_DEPENDENCIES} jobs")
    _check(spec.spool in {"disk", "memory"}, f"spool is {spec.spool!r:.80}; it must be disk or memory")
    _check(spec.retry is None or _is(spec.retry, Retry), f"retry is {spec.retry!r:.80}; it must be a Retry")
    _check(
        spec.retry is None or spec.spool == "disk", "retry is given, and spool is memory: attempts need their orders"
    )
    if spec.retry is not None:
        _check_codes(spec.kind, spec.retry)
    _check_times(spec)


def _check_input_options(spec: JobSpec) -> None:
    _check(type(spec.stdin_open) is bool, f"stdin_open is {spec.stdin_open!r:.80}; it must be true or false")
    _check(type(spec.pty) is bool, f"pty is {spec.pty!r:.80}; it must be true or false")
    sizes: Any = spec.window or (1, 1)
    fits = _is(sizes, tuple) and len(sizes) == 2 and all(type(size) is int and 0 < size < 1 << 16 for size in sizes)
    _check(fits, f"window is {spec.window!r:.80}; it must be a pair: rows and columns")
    _check(not spec.pty or spec.stdin is None, "stdin is given, and pty: send the input once the job runs")


def _check_codes(kind: str, policy: Retry) -> None:
    from supervisor.jobs.error_codes import unknown_code  # most requests name none

    for name in ("retry_on", "never_retry_on"):
        found = unknown_code(kind, getattr(policy, name))
        if found is not None:
            message = f"{name} has {found[0]!r}, and no job of kind {kind} ends with that error code"
            raise InvalidArguments(message, repair=f"Name an exit code, or one of {found[1]}.")


def _check_times(spec: JobSpec) -> None:
    for name in ("delay_seconds", "start_within_seconds"):
        seconds = getattr(spec, name)
        fits = seconds is None or (type(seconds) in {int, float} and 0 <= seconds <= MAX_DELAY_SECONDS)
        _check(fits, f"{name} is {seconds!r:.80}; it must be a number from 0 to {MAX_DELAY_SECONDS} (90 days)")
    if spec.not_before is not None:
        fits = _is(spec.not_before, datetime) and spec.not_before.tzinfo is not None
        _check(fits, f"not_before is {spec.not_before!r:.80}; it must be a time with a time zone")
        left = spec.not_before.timestamp() - time.time()
        _check(left <= MAX_DELAY_SECONDS, f"not_before is {spec.not_before.isoformat()}, in more than 90 days")
        _check(spec.not_before.timestamp() >= 0, f"not_before is {spec.not_before.isoformat()}, before the year 1970")


def checked_spec(spec: JobSpec) -> JobSpec:
    """Return ``spec``, checked.

    Raises:
        InvalidArguments: it cannot be run, for the reason in the message.
    """
    _check(spec.argv, "argv is empty; it must hold at least the command")
    for word in spec.argv:
        if not (_is(word, str) and word.isascii() and word.isprintable()):  # only such a word may be a mistake
            _check(_is(word, str), "argv must hold strings")
            _check("\0" not in word, "argv holds a NUL character, which no command can be given")
            _check(encodable(word), "argv holds a character that no command can be given")
    _check(spec.argv[0], "the command is an empty string")
    if spec.labels:
        _check_labels(spec.labels)
    if spec.env:
        _check_env(spec.env)
    if spec.deadline_seconds is not None:
        _check_deadline(spec.deadline_seconds)
    key = spec.idempotency_key
    if key is not None:
        fits = _is(key, str) and 0 < len(key) <= _MAX_KEY_CHARACTERS and key.isprintable()
        _check(fits, f"idempotency_key must be 1 to {_MAX_KEY_CHARACTERS} printable characters")
    if spec.stdin is not None:
        _check(_is(spec.stdin, bytes), "stdin must be bytes, or None for /dev/null")
        check_input("stdin", spec.stdin)
    if (spec.ttl_seconds, spec.max_output_bytes, spec.grace_seconds) != (None, None, None):
        _check_own_settings(spec)
    _check(type(spec.merge_stderr) is bool, f"merge_stderr is {spec.merge_stderr!r:.80}; it must be true or false")
    _check(type(spec.no_new_privs) is bool, f"no_new_privs is {spec.no_new_privs!r:.80}; it must be true or false")
    if spec.stdin_open or spec.pty:
        _check_input_options(spec)
    if spec.asks_for_admission:
        _check_admission(spec)
    if spec.limits is not None:
        _check(_is(spec.limits, Limits), f"limits is {spec.limits!r:.80}; it must be a Limits")
    if spec.worktree is not None:
        fits = spec.worktree in FROM or (_is(spec.worktree, str) and is_job_id(spec.worktree))
        _check(fits, f"worktree is {spec.worktree!r:.80}; it must be {', '.join(FROM)} or the id of a job")
    if spec.on_end is not None or spec.webhook is not None:
        _check(spec.webhook is None or _is(spec.webhook, str), "webhook must be a URL, as a string")
        _check(not spec.on_end or all(_is(word, str) for word in spec.on_end), "on_end must hold strings")
    _check(spec.engine is not None or not spec.engine_options, "engine_options are given, and no engine that takes any")
    try:
        get_interpreter(spec.kind)
    except OSError as error:  # the first use of a kind imports its module, which needs a descriptor
        raise state_error(error, f"the kind {spec.kind!r} cannot be loaded now") from error
    return spec


_DEFAULTS: Final[Mapping[str, Any]] = {field.name: field.default for field in attrs.fields(JobSpec)}


def spec_of(argv: Sequence[str] | JobSpec, options: JobOptions) -> JobSpec:
    """Return the arguments of ``start`` as one value.

    Raises:
        InvalidArguments: ``argv`` is one string, an option is unknown, or one is given beside a ``JobSpec``.
    """
    if not options.keys() <= JobOptions.__annotations__.keys():
        unknown = options.keys() - JobOptions.__annotations__.keys()
        message = f"there is no option {min(unknown)!r:.80}; it must be one of {', '.join(JobOptions.__annotations__)}"
        raise InvalidArguments(message)
    if isinstance(argv, JobSpec):
        alone = all(value == _DEFAULTS[name] for name, value in options.items())
        _check(alone, "a JobSpec holds the whole request; change it with attrs.evolve, and give nothing beside it")
        return argv
    return JobSpec(argv=argv, **options)


def digest_of(spec: JobSpec, workspace: str) -> str:
    """Return the digest of a request, for its idempotency key; values of the environment are no part of it."""
    request: list[Any] = [
        spec.kind,
        list(spec.argv),
        workspace,
        None if spec.stdin is None else sha256(spec.stdin).hexdigest(),
        None if spec.env is None else sorted(spec.env),
    ]
    if spec.engine is not None:
        request.append(spec.engine)
    if spec.stdin_open or spec.pty:
        request.append({"stdin_open": spec.stdin_open, "pty": spec.pty})
    if spec.worktree is not None:
        request.append({"worktree": spec.worktree})
    return sha256(dump(request).encode("ascii")).hexdigest()
