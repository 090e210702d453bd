"""Validates the records of a job, and gives the facts in valid ones.

A state root may hold records that a full disk has cut off, or that were edited or copied from another job.
A record that no keeper can have written is ``{}`` here, like one that makes no sense, and counts as damage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supervisor import model
from supervisor.jobdir import records
from supervisor.jobdir.facts import Launched
from supervisor.model.job import Exit
from supervisor.retry import Retry
from supervisor.system import processes

__all__ = [
    "LONGEST_SECONDS",
    "MEMBERS",
    "damage_of",
    "end",
    "exit_of",
    "input_of",
    "integer",
    "is_newer",
    "is_newer_request",
    "is_number",
    "keeper_of_claim",
    "launch",
    "launched_of",
    "newer_records",
    "number",
    "process",
    "stop_cause",
    "stop_facts",
    "valid_exit",
    "valid_process",
]

_PIDS: Final = 2**31
LONGEST_SECONDS: Final = 2**40
_WINDOW: Final = 24, 80


MEMBERS: Final = frozenset(
    {
        *(
            "v",
            "job_id",
            "kind",
            "argv",
            "workspace",
            "labels",
            "created_ns",
            "deadline_seconds",
            "ttl_seconds",
            "owner",
        ),
        *("grace_seconds", "output_limit", "idempotency_key", "digest", "engine", "host", "boot", "ns", "traceparent"),
        *("deadline_from", "engine_options", "directory", "groups", "priority", "weight"),
        *("hold", "after", "not_before_ns", "delay_ns", "start_within_ns", "created_boot_ns", "spool"),
        "queue",  # only in the row: the changes in ``queue.json``
        *("retry", "series_id", "attempt", "retry_of", "limited", "merge_stderr", "no_new_privs"),
        *("stdin_open", "pty"),
        *("limits", "ignored_limits"),
        *("session_id", "resumed"),
        "worktree",
        *("schedule", "instant_ns"),
        *("on_end", "webhook"),
        "durability",
    }
)
"""The members of ``job.json`` that this version knows: a job with another one counts as made by a newer version."""


def is_newer(request: Mapping[str, Any]) -> bool:
    """Whether a ``job.json`` has members, or a shape, that only a newer version knows."""
    if not request.keys() <= MEMBERS or _has_newer_shape(request):
        return True
    if "limits" in request and not model.Limits.is_known(request["limits"]):
        return True
    return "retry" in request and not Retry.is_known(request["retry"])


def is_newer_request(directory: str) -> bool:
    """Whether the ``job.json`` in a job directory has members, or a shape, that only a newer version knows."""
    return is_newer(records.read(directory, records.JOB, newer=True) or {})


def newer_records(
    directory: str,
    process: dict[str, Any] | None = None,
    stop: dict[str, Any] | None = None,
    end: dict[str, Any] | None = None,
) -> tuple[str, ...]:
    """Return the names of the records that are not readable here, as a newer version has written them."""
    held = ((records.PROCESS, process), (records.STOP, stop), (records.EXIT, end))
    unreadable = [name for name, record in held if record == {}]
    return tuple(name for name in unreadable if _has_newer_shape(records.read(directory, name, newer=True) or {}))


def _has_newer_shape(record: Mapping[str, Any]) -> bool:
    version = record.get("v")
    return type(version) is int and version > records.VERSION


def input_of(request: Mapping[str, Any]) -> tuple[bool, tuple[int, int] | None]:
    """Return whether the stdin of a job stays open, and the rows and columns of its terminal, if it has one."""
    stdin_open, pty = request.get("stdin_open") is True, request.get("pty")
    if pty is True:
        return stdin_open, _WINDOW
    if not isinstance(pty, list | tuple):
        return stdin_open, None
    sizes: list[Any] = [*pty]  # pyright: ignore[reportUnknownArgumentType]  # JSON
    fit = len(sizes) == 2 and all(type(size) is int and 0 < size < 1 << 16 for size in sizes)
    return stdin_open, (sizes[0], sizes[1]) if fit else None


def keeper_of_claim(claim: str) -> tuple[int, int, str, str] | None:
    """Return (pid, start time, boot id, pid namespace) of the keeper that holds a claim, if a keeper does."""
    words = claim.split(".")
    if len(words) != 5 or words[0] != "keeper" or not all(is_number(word) for word in words[1:3]):
        return None
    return int(words[1]), int(words[2]), words[3], words[4]


def is_number(word: str) -> bool:
    """Whether a word is a whole number of a sensible length."""
    return word.isascii() and word.isdigit() and len(word) < 20


def integer(record: dict[str, Any] | None, name: str) -> int | None:
    """Return a member of a record if it is a whole number of 64 bits."""
    value: Any = record.get(name) if record else None
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def number(held: Any, most: float) -> float | None:
    """Return a member of a record if it is a number from 0 to ``most``."""
    fits = isinstance(held, int | float) and not isinstance(held, bool) and 0 <= held <= most
    return float(held) if fits else None


def valid_process(record: dict[str, Any] | None, claim: str | None) -> dict[str, Any] | None:
    """Return a process record, ``{}`` for one that no keeper can have written.

    A record that disagrees with itself (the clock was read before and after the spawn) or with the claim may name
    another process.
    """
    if not record:
        return record
    numbers = ("pid", "start", "keeper_pid", "keeper_start", "started_ns", "started_boot_ns")
    if any(integer(record, name) is None for name in numbers):
        return {}
    if not (1 < record["pid"] < _PIDS and 0 <= record["keeper_pid"] < _PIDS):
        return {}
    if record.get("deadline_boot_ns") is not None and integer(record, "deadline_boot_ns") is None:
        return {}
    if not isinstance(record.get("boot"), str) or not isinstance(record.get("ns"), str):
        return {}
    if record.get("ticks") is not False:
        between = record["started_boot_ns"], integer(record, "spawned_boot_ns")
        if not processes.may_have_started(record["start"], *between):
            return {}
    holder = keeper_of_claim(claim) if claim else None
    if holder is not None and holder[:2] != (record["keeper_pid"], record["keeper_start"]):
        return {}
    return record


def process(directory: str) -> dict[str, Any] | None:
    """Return the process record if it is valid, ``{}`` if it is not, ``None`` if there is none."""
    return valid_process(records.read(directory, records.PROCESS), records.read_claim(directory))


def end(directory: str) -> dict[str, Any] | None:
    """Return the exit record if it is valid, ``{}`` if it is not, ``None`` if there is none."""
    return valid_exit(records.read(directory, records.EXIT), process(directory))


def valid_exit(record: dict[str, Any] | None, process: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an exit record if it is valid and about ``process``, if there is one; else ``{}``."""
    if not record:
        return record
    if isinstance(record.get("launch_error"), str):
        return {} if process else record
    if integer(record, "ended_ns") is None:
        return {}
    if process and any(record.get(name) != process[name] for name in ("pid", "start", "boot")):
        return {}  # of another process
    for name, most in (("exit_code", 255), ("signal", 128)):
        value = record.get(name)
        if value is not None and (type(value) is not int or not 0 <= value <= most):
            return {}
    return record if record.get("exit_code") is None or record.get("signal") is None else {}


def launched_of(process: dict[str, Any] | None, pause: Mapping[str, Any] | None = None) -> Launched | None:
    """Return the launch in a valid process record, with the last pause of the job, if that is known."""
    if not process:
        return None
    pid, started_ns, deadline = process["pid"], process["started_ns"], process.get("deadline_boot_ns")
    if not pause:
        return Launched(pid=pid, started_ns=started_ns, deadline_boot_ns=deadline)
    return Launched(
        pid=pid,
        started_ns=started_ns,
        deadline_boot_ns=None if deadline is None else deadline + pause["held_ns"],
        paused=pause["state"] == records.PAUSED,
        held_since_boot_ns=pause["held_since_boot_ns"],
        moved_ns=pause["held_ns"],
    )


def launch(directory: str) -> Launched | None:
    """Return the launch that the keeper has recorded, whether or not the command still runs."""
    return launched_of(process(directory), records.read_pause(directory))


def exit_of(record: dict[str, Any], stop: dict[str, Any] | None = None) -> Exit:
    """Return the exit in a valid exit record. Of a stopped command, the output of all of its processes counts."""
    if isinstance(record.get("launch_error"), str):
        status = integer(record, "launch_status")
        return Exit(
            ended_ns=integer(record, "ended_ns") or 0,
            launch_error=record["launch_error"],
            launch_status=125 if status is None else status,
            launch_repair=repair if isinstance(repair := record.get("launch_repair"), str) else None,
            launch_final=record.get("launch_final") is True,
            never_launched=record.get("never_launched") is True,
        )
    return Exit(
        exit_code=record.get("exit_code"),
        signal=record.get("signal"),
        ended_ns=record["ended_ns"],
        cpu_seconds=number(record.get("cpu_seconds"), LONGEST_SECONDS),
        max_rss_bytes=integer(record, "max_rss_bytes"),
        stdout_bytes=_size(record, stop, "stdout_bytes"),
        stderr_bytes=_size(record, stop, "stderr_bytes"),
        may_grow=record.get("may_grow") is True,
        truncated=record.get("truncated") is True,
        memory_peak_bytes=integer(record, "memory_peak_bytes"),
        unsynced=why if isinstance(why := record.get("unsynced"), str) else None,
    )


def _size(record: dict[str, Any], stop: dict[str, Any] | None, name: str) -> int | None:
    stopped = stop is not None and stop.get("signalled_boot_ns") is not None and stop.get("gone")
    size = integer(stop, name) if stopped else None
    size = integer(record, name) if size is None else size
    return None if size is None or size < 0 else size


def stop_facts(stop: dict[str, Any] | None) -> tuple[str | None, tuple[int, ...]]:
    """Return why a command was stopped, if it was, and the processes that live on."""
    if not stop or stop.get("signalled_boot_ns") is None:
        return None, ()
    return stop["why"], tuple(int(word) for word in stop["survivors"].split() if is_number(word))


def stop_cause(stop: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the facts about why a waiting job was not launched, if its stop has any."""
    cause: Any = stop.get("cause") if stop else None
    return cause if isinstance(cause, dict) else None  # pyright: ignore[reportUnknownVariableType]  # JSON


def damage_of(
    process: dict[str, Any] | None = None,
    stop: dict[str, Any] | None = None,
    end: dict[str, Any] | None = None,
) -> str | None:
    """Return a sentence about the records that are damaged, ``None`` when none is."""
    held = ((records.PROCESS, process), (records.STOP, stop), (records.EXIT, end))
    names = [name for name, record in held if record == {}]
    return f"{', '.join(names)} cannot be read" if names else None
