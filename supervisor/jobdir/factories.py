"""Makes the records of a stop and of an end: one function for each shape, for every process that writes one."""

from __future__ import annotations

import os
import time

from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["exit_code_and_signal", "launch_failure", "process_end", "stop_request"]


def stop_request(
    why: str,
    by: str,
    *,
    requested_ns: int | None = None,
    signalled_boot_ns: int | None = None,
    gone: bool = False,
    cause: Mapping[str, Any] | None = None,
    first_signal: int | None = None,
) -> dict[str, Any]:
    """Return a new ``stop.json``: ``by`` asks for a stop, now unless ``requested_ns`` says another time.

    ``signalled_boot_ns``: when the first signal goes out; ``gone``: nothing is left to signal. ``cause``: facts about
    why a waiting job is not launched. ``first_signal``: the number of the signal that is sent instead of SIGTERM.
    """
    return {
        **({} if cause is None else {"cause": cause}),
        **({} if first_signal is None else {"signal": first_signal}),
        "why": why,
        "requested_ns": time.time_ns() if requested_ns is None else requested_ns,
        "by": by,
        "signalled_boot_ns": signalled_boot_ns,
        "gone": gone,
    }


def launch_failure(
    error: str,
    status: int = 125,
    *,
    repair: str | None = None,
    final: bool = False,
    never_launched: bool = False,
) -> dict[str, Any]:
    """Return the ``exit.json`` of a command that was not spawned and will not be.

    ``status`` is that of a shell. ``final``: another attempt would fail as well. ``never_launched``: no
    attempt was made, since the supervisor ended first.
    """
    record: dict[str, Any] = {"launch_error": error, "launch_status": status}
    if repair is not None:
        record["launch_repair"] = repair
    if final:
        record["launch_final"] = True
    if never_launched:
        record["never_launched"] = True
    return {**record, "ended_ns": time.time_ns()}


def process_end(
    process: Mapping[str, Any] | None,
    exit_code: int | None,
    signal: int | None,
    *,
    by: str,
    ended_ns: int | None = None,
    ended_boot_ns: int | None = None,
    cpu_seconds: float | None = None,
    max_rss_bytes: int | None = None,
) -> dict[str, Any]:
    """Return the ``exit.json`` of a process that has ended, now unless the times are given.

    ``process`` is its ``process.json``, if it has one. Neither code nor signal: its exit status is unknown.
    """
    held = process or {}
    return {
        "pid": held.get("pid"),
        "start": held.get("start"),
        "boot": held.get("boot"),
        "exit_code": exit_code,
        "signal": signal,
        "ended_ns": time.time_ns() if ended_ns is None else ended_ns,
        "ended_boot_ns": processes.boottime_ns() if ended_boot_ns is None else ended_boot_ns,
        "cpu_seconds": cpu_seconds,
        "max_rss_bytes": max_rss_bytes,
        "by": by,
    }


def exit_code_and_signal(status: int | None) -> tuple[int | None, int | None]:
    """Return the exit code or the signal in a wait status; neither for an unknown status."""
    if status is None:
        return None, None
    code = os.waitstatus_to_exitcode(status)
    return (code, None) if code >= 0 else (None, -code)
