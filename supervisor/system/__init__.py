"""The operating system: processes, files, signals. No module of this package knows of jobs.

The keeper runs some of these modules, which ``KEEPER_FILES`` names: they import the standard library only.
"""

import sys

if sys.platform == "win32":  # pragma: no cover
    _message = "supervisor runs commands on Linux and macOS only; on Windows use it inside WSL"
    raise ImportError(_message)
