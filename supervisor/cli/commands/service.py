"""``service``: a service of this user that runs ``supervisor serve`` from the start of the machine on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from supervisor.cli import exits, text
from supervisor.cli.front import Invocation, command, shared_options
from supervisor.cli.service_units import LABEL, UNIT, launch_agent, systemd_unit
from supervisor.errors import FeatureUnavailable, InvalidArguments, PermissionDenied
from supervisor.settings import config_file

__all__ = ["service"]

_HELP = """Run `supervisor serve` as a service of this user: it fires schedules and serves the page.

On Linux this is a unit of systemd's user manager, on macOS a LaunchAgent. A restart of the service ends no job.
"""

service = click.Group("service", help=_HELP, short_help="Run `supervisor serve` as a service.", params=shared_options())

_SECONDS: Final = 30
_PROPERTIES: Final = ("LoadState", "ActiveState", "SubState", "UnitFileState", "MainPID", "NRestarts", "Result")


def _is_mac() -> bool:
    return sys.platform == "darwin"


def _unit_path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(os.path.abspath(home)) / "systemd" / "user" / UNIT


def _agent_path() -> Path:
    return Path(os.path.expanduser("~/Library/LaunchAgents")) / f"{LABEL}.plist"


def _command(call: Invocation, http: str | None, config: str | None) -> list[str]:
    """Return the command line of the service, with absolute paths."""
    words = [os.path.abspath(sys.executable), "-P", "-m", "supervisor", "serve"]
    words += ["--state-dir", os.path.abspath(call.settings.state_dir)]
    words += [] if http is None else ["--http", http]
    return words if config is None else [*words, "--config", os.path.abspath(config)]


def _environment() -> dict[str, str]:
    """Return what the service needs to be told: the configuration file, and where it finds programs."""
    kept = {"PATH": os.environ.get("PATH", os.defpath)}
    given = os.environ.get(config_file.VARIABLE)
    return kept if not given or given == os.devnull else {**kept, config_file.VARIABLE: os.path.abspath(given)}


def _files(call: Invocation, http: str | None, config: str | None) -> tuple[Path, bytes]:
    """Return the file of the service, and its path."""
    words, environment = _command(call, http, config), _environment()
    if _is_mac():
        log = f"{os.path.abspath(call.settings.state_dir)}/serve.log"
        return _agent_path(), launch_agent(words, environment, log)
    try:
        return _unit_path(), systemd_unit(words, environment).encode()
    except ValueError as error:
        message = f"the service cannot be described: {error}"
        raise InvalidArguments(message, repair="Use paths of printable characters.") from error


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # systemctl and launchctl, with our own words
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        message = f"`{' '.join(words)}` has not answered in {_SECONDS} seconds"
        raise FeatureUnavailable(message, repair="Look at that manager, then try again.") from error
    except OSError as error:
        message = f"{words[0]} cannot be run: {error.strerror}"
        raise FeatureUnavailable(message, repair=_WITHOUT) from error


_WITHOUT: Final = (
    "Have another manager run `supervisor serve`; `supervisor service install --print` shows how systemd would."
)


def _manager(*words: str) -> str:
    """Run a command of systemctl or launchctl that must succeed, and return its output.

    Raises:
        FeatureUnavailable: there is no manager of this user, or it has refused.
    """
    done = _run(*words)
    if done.returncode == 0:
        return done.stdout
    said = text.one_line((done.stderr or done.stdout).strip())[:300]
    if "bus" in said or "XDG_RUNTIME_DIR" in said or "not been booted" in said:
        message = f"there is no systemd user manager here: {said}"
        repair = (
            "Log in as this user, not by su or sudo (or set XDG_RUNTIME_DIR=/run/user/$(id -u)); as root, "
            f"`loginctl enable-linger USER` starts its manager. {_WITHOUT}"
        )
        raise FeatureUnavailable(message, repair=repair)
    message = f"`{' '.join(words)}` failed: {said}"
    raise FeatureUnavailable(message, repair=_WITHOUT)


def _systemctl(*words: str) -> str:
    if shutil.which("systemctl") is None:
        message = "there is no systemctl here, so no systemd that could run a service"
        raise FeatureUnavailable(message, repair=_WITHOUT)
    return _manager("systemctl", "--user", *words)


def _lingers() -> bool:
    """Whether the manager of this user starts with the machine, and does not end with the last logout."""
    import pwd

    return os.path.exists(f"/var/lib/systemd/linger/{pwd.getpwuid(os.getuid()).pw_name}")


_LINGER: Final = (
    "This user does not linger: the service starts with the first login and ends with the last logout, and its jobs "
    "with it. `loginctl enable-linger` has it start with the machine."
)


@command("install", short_help="Install and start the service.")
@click.option("--http", metavar="HOST:PORT", help="The address, as of `supervisor serve`.")
@click.option("--config", metavar="FILE", help="The kinds file, as of `supervisor serve`.")
@click.option("--print", "only_print", is_flag=True, help="Print the file of the service, and change nothing.")
def install(call: Invocation, *, http: str | None, config: str | None, only_print: bool) -> int:
    """Install, enable and start the service; a second call changes it, and restarts the server only."""
    path, content = _files(call, http, config)
    if only_print:
        call.answer(lambda: {"ok": True, "path": str(path), "content": content.decode()}, content.decode().rstrip("\n"))
        return exits.OK
    if not _is_mac():
        _systemctl("show", "--property=Version")  # before anything is written
    _write(path, content)
    if _is_mac():
        _run("launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}")
        _manager("launchctl", "bootstrap", f"gui/{os.getuid()}", str(path))
    else:
        _systemctl("daemon-reload")
        _systemctl("enable", UNIT)
        _systemctl("restart", UNIT)
    call.answer(lambda: {"ok": True, "path": str(path)}, f"Installed and started {path}.")
    if not _is_mac() and not _lingers():
        call.note(_LINGER)
    return exits.OK


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.rename(path)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise PermissionDenied(message, repair="Make the directory writable for this user.") from error


@command("uninstall", short_help="Stop and remove the service.")
def uninstall(call: Invocation) -> int:
    """Stop the server and remove the service. Jobs go on."""
    path = _agent_path() if _is_mac() else _unit_path()
    was_there = path.exists()
    if _is_mac():
        _run("launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}")
    elif was_there:
        _systemctl("disable", "--now", UNIT)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    if not _is_mac() and was_there:
        _systemctl("daemon-reload")
    words = f"Removed {path}." if was_there else f"There is no service: {path} does not exist."
    call.answer(lambda: {"ok": True, "removed": was_there, "path": str(path)}, words)
    return exits.OK


@command("status", short_help="Show whether the service runs.")
def status(call: Invocation) -> int:
    """Show whether the service is installed, enabled and running. The exit status is 0 if it runs, else 1."""
    if _is_mac():
        done = _run("launchctl", "print", f"gui/{os.getuid()}/{LABEL}")
        runs = done.returncode == 0 and "state = running" in done.stdout
        shape = {"ok": True, "installed": _agent_path().exists(), "running": runs}
        call.answer(lambda: shape, f"Service  {LABEL}", f"Running  {'yes' if runs else 'no'}")
        return exits.OK if runs else exits.BAD
    lines = _systemctl("show", UNIT, f"--property={','.join(_PROPERTIES)}").splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    runs = found.get("ActiveState") == "active"
    facts = [
        ("Service", UNIT),
        ("Installed", str(_unit_path()) if found.get("LoadState") == "loaded" else "no"),
        ("Enabled", found.get("UnitFileState") or "no"),
        ("State", f"{found.get('ActiveState')} ({found.get('SubState')})"),
        ("Main process", pid if (pid := found.get("MainPID", "0")) != "0" else None),
        ("Restarts", found.get("NRestarts")),
        ("Lingers", "yes" if _lingers() else "no"),
    ]
    call.answer(lambda: {"ok": True, "running": runs, "lingers": _lingers(), "systemd": found}, *text.pairs(facts))
    if runs and not _lingers():
        call.note(_LINGER)
    return exits.OK if runs else exits.BAD


for _subcommand in (install, uninstall, status):
    service.add_command(_subcommand)
