"""The machine, and its other load: figures depend on both."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import supervisor
from supervisor.load.report import usable_cpus
from supervisor.system.file_systems import file_system_of

__all__ = ["facts", "load"]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model", "Hardware"}:
            return value.strip()
    return platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30), 1)


def _commit() -> str:
    argv = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def facts(root: Path) -> dict[str, Any]:
    """Return the description of the machine for figures taken on the file system of ``root``."""
    return {
        "processor": _processor(),
        "cores": usable_cpus(),
        "memory_gib": _memory_gib(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file_system": file_system_of(str(root)),
        "supervisor": supervisor.__version__,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
