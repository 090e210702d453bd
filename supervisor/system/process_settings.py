"""The settings that a process passes on to its children: umask, niceness and resource limits."""

from __future__ import annotations

import os
import resource
import threading
from typing import Final

__all__ = ["process_settings"]

_LIMITS: Final = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
_setting: Final = threading.Lock()


def process_settings() -> tuple[int, int, dict[int, tuple[int, int]]]:
    """Return the umask, the niceness and the resource limits of this process, by their numbers."""
    limits: dict[int, tuple[int, int]] = {}
    for number in _LIMITS:
        try:
            limits[number] = resource.getrlimit(number)
        except (OSError, ValueError):  # a limit that this kernel does not have
            continue
    return _umask(), os.getpriority(os.PRIO_PROCESS, 0), limits


def _umask() -> int:
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:  # not Linux; or it cannot be read now
        pass
    with _setting:
        umask = os.umask(0o077)
        os.umask(umask)
        return umask
