"""The service that runs ``supervisor serve``: a unit of systemd's user manager, or a LaunchAgent of macOS. Pure."""

from __future__ import annotations

import plistlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["LABEL", "UNIT", "launch_agent", "systemd_unit"]

UNIT: Final = "trio-supervisor.service"
LABEL: Final = "org.trio-supervisor.serve"

_UNIT: Final = """\
[Unit]
Description=Durable background jobs: supervisor serve
Documentation=man:systemd.service(5)
After=network.target

[Service]
Type=exec
ExecStart={command}
{environment}Restart=always
RestartSec=2
# A stop or a restart of the unit ends the server only: jobs and their keepers go on.
KillMode=process
OOMPolicy=continue
# Each job gets a control group of its own, with its limits.
Delegate=yes
DelegateSubgroup=server
TimeoutStopSec=15
UMask=0077
{hardening}
[Install]
WantedBy=default.target
"""

_HARDENING: Final = (
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "SystemCallArchitectures=native",
)
"""What jobs do not miss. Sandboxes of systemd (ProtectSystem=, PrivateTmp=, ...) would hold for jobs, too."""


def _quoted(word: str) -> str:
    """Return a word for ``ExecStart=`` and ``Environment=``, whatever is in it.

    Raises:
        ValueError: no unit can hold it.
    """
    if not word.isprintable() or "\n" in word:
        message = f"{word!r:.80} has a character that no unit can hold"
        raise ValueError(message)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def systemd_unit(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the unit file; every path in ``command`` must be absolute.

    Raises:
        ValueError: a word or a value has a character that no unit can hold.
    """
    lines = [f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items()]
    return _UNIT.format(
        command=" ".join(_quoted(word).replace("$", "$$") for word in command),  # Environment= expands no variables
        environment="".join(lines),
        hardening="".join(f"{line}\n" for line in _HARDENING),
    )


def launch_agent(command: Sequence[str], environment: Mapping[str, str], log_path: str) -> bytes:
    """Return the property list of the LaunchAgent; its output goes to ``log_path``."""
    held: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": True,
        "AbandonProcessGroup": True,  # as KillMode=process
        "ProcessType": "Background",
        "Umask": 0o077,
        "StandardOutPath": log_path,
        "StandardErrorPath": log_path,
    }
    return plistlib.dumps(held)
