"""The settings; each comes from its argument, else from its environment variable, else from its default."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments, InvalidSettings
from supervisor.system.paths import absolute, expanded
from supervisor.text import durations, sizes
from supervisor.text.durations import finite_seconds, parse_seconds
from supervisor.text.sizes import parse_size

__all__ = ["LOG_LEVELS", "Settings"]

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


def _count(held: object) -> int:
    if isinstance(held, bool) or not isinstance(held, str | int):
        raise ValueError
    count = int(held)
    if count < 0:
        raise ValueError
    return count


def _state_dir(held: object) -> Path:
    if not isinstance(held, str | Path) or not str(held) or "\0" in str(held):
        raise ValueError
    path = expanded(str(held))
    if path.startswith("~"):  # an unknown user's
        raise ValueError
    return Path(absolute(path, "the path"))


def _optional_path(held: object) -> Path | None:
    return None if held is None or held == "" else _state_dir(held)


def _leftovers(held: object) -> str:
    word = str(held).strip().lower()
    if word not in {"leave", "stop"}:
        raise ValueError
    return word


def _python(held: object) -> Path | None:
    if isinstance(held, str) and held and "/" not in held:
        import shutil

        held = shutil.which(held)
        if held is None:
            raise ValueError
    return _optional_path(held)


def _log_level(held: object) -> str:
    level = str(held).strip().lower()
    if level not in LOG_LEVELS:
        raise ValueError
    return level


def _setting(variable: str, default: object, parse: Callable[[Any], Any], accepts: str) -> Any:
    """Return a field: the argument, else ``variable``, else ``default``; ``parse`` converts all three."""
    name = os.fsencode(variable)

    def read() -> object:
        # `os.environ.get` raises and catches an error for a variable that is not set, which takes 2 us; what it wraps
        # is a dict. An empty variable counts as unset, as in `VAR= command`.
        if name not in getattr(os.environ, "_data", (name,)):
            return default
        return os.environ.get(variable) or default

    def convert(held: object) -> object:
        try:
            return parse(held)
        except InvalidArguments as error:  # a relative path without a current directory
            what = f"{variable} is not set, and its default" if held == default else f"the value for {variable}"
            message = f"{what} cannot be used: {error.message}"
            repair = f"Set {variable} to an absolute path."
            raise InvalidSettings(message, repair=repair, details={"variable": variable, "value": str(held)}) from error
        except (ValueError, OverflowError, RuntimeError):
            message = f"{variable} is {held!r}; it accepts {accepts}"
            raise InvalidSettings(message, details={"variable": variable, "value": str(held)}) from None

    return attrs.field(factory=read, converter=convert)


@attrs.frozen(slots=True, kw_only=True)
class Settings:
    """The settings of a supervisor. An argument that is left out comes from its variable.

    Attributes:
        state_dir: the state root (``SUPERVISOR_STATE_DIR``). ``XDG_*`` is not consulted on
            purpose: some MCP hosts drop it, and server and shell must find the same jobs.
        job_max_seconds: default deadline (``SUPERVISOR_JOB_MAX_SECONDS``, 1800; ``none``).
        job_ttl: seconds a finished job is kept (``SUPERVISOR_JOB_TTL``, 86400).
        job_max_count: finished jobs kept per workspace and MCP principal (``SUPERVISOR_JOB_MAX_COUNT``, 1000).
        job_max_output_bytes: stdout or stderr past this stops the job; looked at every 0.1 s
            (when it fills quickly) to 8 s (when it was quiet), so a job can write more meanwhile
            (``SUPERVISOR_JOB_MAX_OUTPUT_BYTES``, 67108864).
        job_leftovers: what happens to processes that a command leaves behind (``SUPERVISOR_JOB_LEFTOVERS``):
            ``leave`` lets them run, as long as the job's output stays below its limit; ``stop`` ends them as a
            cancel does. Default ``leave``.
        stop_grace_seconds: between SIGTERM and SIGKILL (``SUPERVISOR_STOP_GRACE_SECONDS``, 5).
        config: path of the kinds file (``SUPERVISOR_CONFIG``).
        shared_dir: a directory on a file system that this machine shares with those of a cluster; it has the
            directories of the jobs that run there (``SUPERVISOR_SHARED_DIR``).
        python: the Python that runs the keeper, for programs that no Python executable runs (uWSGI, frozen ones);
            the default is the Python of this process, or its base installation (``SUPERVISOR_PYTHON``).
        log: log level of the command line (``SUPERVISOR_LOG``, ``warning``).

    Raises:
        InvalidSettings: a value does not parse; the message names its variable.
    """

    state_dir: Path = _setting(
        "SUPERVISOR_STATE_DIR",
        "~/.local/state/trio-supervisor",
        _state_dir,
        "the path of a directory",
    )
    job_max_seconds: float = _setting(
        "SUPERVISOR_JOB_MAX_SECONDS",
        1800,
        parse_seconds,
        f"{durations.ACCEPTS}, or none",
    )
    job_ttl: float = _setting("SUPERVISOR_JOB_TTL", 86400, finite_seconds, durations.ACCEPTS)
    job_max_count: int = _setting("SUPERVISOR_JOB_MAX_COUNT", 1000, _count, "a whole number of at least 0")
    job_max_output_bytes: int = _setting(
        "SUPERVISOR_JOB_MAX_OUTPUT_BYTES",
        67108864,
        parse_size,
        sizes.ACCEPTS,
    )
    job_leftovers: str = _setting("SUPERVISOR_JOB_LEFTOVERS", "leave", _leftovers, "leave or stop")
    stop_grace_seconds: float = _setting(
        "SUPERVISOR_STOP_GRACE_SECONDS",
        5,
        finite_seconds,
        durations.ACCEPTS,
    )
    config: Path | None = _setting("SUPERVISOR_CONFIG", None, _optional_path, "the path of a TOML file")
    shared_dir: Path | None = _setting("SUPERVISOR_SHARED_DIR", None, _optional_path, "the path of a directory")
    python: Path | None = _setting(
        "SUPERVISOR_PYTHON", None, _python, "a Python interpreter: its path, or its name on PATH"
    )
    log: str = _setting("SUPERVISOR_LOG", "warning", _log_level, "one of " + ", ".join(LOG_LEVELS))
