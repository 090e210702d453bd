"""The operating system: processes, files, signals. Nothing in this package knows about jobs."""

import sys

if sys.platform == "win32":  # pragma: no cover
    _message = "supervisor runs commands on Linux and macOS only; on Windows use it inside WSL"
    raise ImportError(_message)
