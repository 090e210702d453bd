"""The settings: each comes from its argument, else from its environment variable, else from the configuration file.

Without any of these it has its default. A mistake in the file is an error for every program: one that went on without
the file might look for a job in another state root, and answer that there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs

from supervisor.errors import InvalidArguments, InvalidSettings
from supervisor.settings import config_file
from supervisor.system.paths import absolute, expanded
from supervisor.text import durations, sizes
from supervisor.text.durations import finite_seconds, parse_seconds
from supervisor.text.sizes import parse_size

__all__ = ["LOG_LEVELS", "Settings", "origins"]

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


def _one_of(*words: str) -> Callable[[object], str]:
    """Return the parser of a setting that is one of these words, in any case."""

    def parse(held: object) -> str:
        word = str(held).strip().lower()
        if word not in words:
            raise ValueError
        return word

    return parse


def _python(held: object) -> Path | None:
    if isinstance(held, str) and held and "/" not in held:
        import shutil

        held = shutil.which(held)
        if held is None:
            raise ValueError
    return _optional_path(held)


def _networks(held: object) -> str:
    if not isinstance(held, str):
        raise ValueError
    if held:
        from supervisor.text.webhook_urls import parse_networks  # few processes need it

        parse_networks(held)
    return held


def _secrets(held: object) -> str | None:
    """Return the text as it is: an error here would show it; ``webhook_secrets`` checks it."""
    return None if held is None else str(held)


class _Source(NamedTuple):
    """Where the value of a setting comes from if no argument gives it."""

    variable: str
    name: bytes
    default: object
    parse: Callable[[Any], Any]
    accepts: str

    def environment(self) -> str | None:
        # `os.environ.get` raises and catches an error for a variable that is not set, which takes 2 us; what it wraps
        # is a dict. An empty variable counts as unset, as in `VAR= command`.
        if self.name not in getattr(os.environ, "_data", (self.name,)):
            return None
        return os.environ.get(self.variable) or None

    def converted(self, held: object) -> Any:
        """Return an argument, the variable, or the default, parsed."""
        try:
            return self.parse(held)
        except InvalidArguments as error:  # a relative path without a current directory
            what = f"{self.variable} is not set, and its default"
            if held != self.default:
                what = f"the value for {self.variable}"
            message = f"{what} cannot be used: {error.message}"
            repair = f"Set {self.variable} to an absolute path."
            details = {"variable": self.variable, "value": str(held)}
            raise InvalidSettings(message, repair=repair, details=details) from error
        except (ValueError, OverflowError, RuntimeError):
            message = f"{self.variable} is {held!r}; it accepts {self.accepts}"
            raise InvalidSettings(message, details={"variable": self.variable, "value": str(held)}) from None

    def in_file(self, directory: str) -> Callable[[object], Any]:
        """Return the parser of a value in a file; a relative path is relative to the directory of that."""

        def parse(held: object) -> Any:
            is_path = self.parse in {_state_dir, _optional_path} or (self.parse is _python and "/" in str(held))
            if is_path and isinstance(held, str) and held and not held.startswith(("~", "/")):
                held = os.path.join(directory, held)
            try:
                return self.parse(held)
            except (InvalidArguments, RuntimeError) as error:  # the home directory of a user without one
                raise ValueError from error

        return parse


_SOURCE: Final = "source"


def _setting(variable: str, default: object, parse: Callable[[Any], Any], accepts: str, *, secret: bool = False) -> Any:
    """Return a field: the argument, else ``variable``, else the file, else ``default``; ``parse`` converts all four."""
    source = _Source(variable, os.fsencode(variable), default, parse, accepts)

    def convert(held: object) -> object:
        return held if held is _UNSET else source.converted(held)

    return attrs.field(default=_UNSET, converter=convert, repr=not secret, metadata={_SOURCE: source})


_UNSET: Final = object()
"""Stands for an argument that was left out."""


@attrs.frozen(slots=True, kw_only=True)
class Settings:
    """The settings of a supervisor. An argument that is left out comes from its variable, else from the file.

    The configuration file is ``SUPERVISOR_CONFIG_FILE``, or ``~/.config/trio-supervisor/config.toml``. It has the
    settings by the names of the attributes.

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
        durability: what jobs survive (``SUPERVISOR_DURABILITY``): ``process``, the loss of all processes; or ``power``,
            that of power as well, for which each start and each end waits for the disk. Default ``process``.
        config: path of the kinds file (``SUPERVISOR_CONFIG``).
        shared_dir: a directory on a file system that this machine shares with those of a cluster; it has the
            directories of the jobs that run there (``SUPERVISOR_SHARED_DIR``).
        python: the Python that runs the keeper, for programs that no Python executable runs (uWSGI, frozen ones);
            the default is the Python of this process, or its base installation (``SUPERVISOR_PYTHON``).
        webhook_secret: signs webhooks: ``whsec_`` and base64, two with a space between them during a rotation
            (``SUPERVISOR_WEBHOOK_SECRET``); by default the one in the file ``webhook-secret`` of the state root.
        webhook_allow: the networks besides the public ones that webhooks may be sent to, such as ``10.1.0.0/16``,
            separated by spaces (``SUPERVISOR_WEBHOOK_ALLOW``).
        log: log level of the command line (``SUPERVISOR_LOG``, ``warning``).

    Raises:
        InvalidSettings: a value does not parse; the message names its variable, or the line of the file.
    """

    state_dir: Path = _setting(
        "SUPERVISOR_STATE_DIR", "~/.local/state/trio-supervisor", _state_dir, "the path of a directory"
    )
    job_max_seconds: float = _setting(
        "SUPERVISOR_JOB_MAX_SECONDS", 1800, parse_seconds, f"{durations.ACCEPTS}, or none"
    )
    job_ttl: float = _setting("SUPERVISOR_JOB_TTL", 86400, finite_seconds, durations.ACCEPTS)
    job_max_count: int = _setting("SUPERVISOR_JOB_MAX_COUNT", 1000, _count, "a whole number of at least 0")
    job_max_output_bytes: int = _setting("SUPERVISOR_JOB_MAX_OUTPUT_BYTES", 67108864, parse_size, sizes.ACCEPTS)
    job_leftovers: str = _setting("SUPERVISOR_JOB_LEFTOVERS", "leave", _one_of("leave", "stop"), "leave or stop")
    stop_grace_seconds: float = _setting("SUPERVISOR_STOP_GRACE_SECONDS", 5, finite_seconds, durations.ACCEPTS)
    durability: str = _setting("SUPERVISOR_DURABILITY", "process", _one_of("process", "power"), "process or power")
    config: Path | None = _setting("SUPERVISOR_CONFIG", None, _optional_path, "the path of a TOML file")
    shared_dir: Path | None = _setting("SUPERVISOR_SHARED_DIR", None, _optional_path, "the path of a directory")
    python: Path | None = _setting(
        "SUPERVISOR_PYTHON", None, _python, "a Python interpreter: its path, or its name on PATH"
    )
    webhook_secret: str | None = _setting(
        "SUPERVISOR_WEBHOOK_SECRET", None, _secrets, "one or two secrets: whsec_ and base64", secret=True
    )
    webhook_allow: str = _setting(
        "SUPERVISOR_WEBHOOK_ALLOW", "", _networks, "networks such as 10.1.0.0/16, separated by spaces"
    )
    log: str = _setting("SUPERVISOR_LOG", "warning", _one_of(*LOG_LEVELS), "one of " + ", ".join(LOG_LEVELS))

    def __attrs_post_init__(self) -> None:
        """Read what no argument gives."""
        file: Mapping[str, Any] | None = None
        for name, source in _SOURCES:
            if getattr(self, name) is not _UNSET:
                continue
            held = source.environment()
            if held is None:
                if file is None:
                    file = _configured()
                value = file[name] if name in file else source.converted(source.default)
            else:
                value = source.converted(held)
            object.__setattr__(self, name, value)


_SOURCES: Final[tuple[tuple[str, _Source], ...]] = tuple(
    (field.name, field.metadata[_SOURCE]) for field in attrs.fields(Settings)
)


def _configured() -> Mapping[str, Any]:
    """Return the settings in the configuration file.

    Raises:
        InvalidSettings: a value does not parse, or there is no such setting.
    """
    file = config_file.read()
    if file is None:
        return {}
    directory = os.path.dirname(file.path)
    parsers = {name: (source.in_file(directory), source.accepts) for name, source in _SOURCES}
    return file.values((), file.document, parsers, {config_file.DEFAULTS})


def origins() -> dict[str, str]:
    """Return what gives each setting its value where no argument does: a variable, a line of the file, or ``default``.

    Raises:
        InvalidSettings: the file cannot be read.
    """
    file = config_file.read()
    found: dict[str, str] = {}
    for name, source in _SOURCES:
        if source.environment() is not None:
            found[name] = source.variable
        elif file is not None and name in file.document:
            found[name] = file.place_of((name,))
        else:
            found[name] = "default"
    return found
