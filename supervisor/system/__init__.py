"""The operating system: processes, files, signals. No module of this package knows of jobs.

The modules that ``engines.staging.KEEPER_FILES`` lists run in the keeper: they import only the standard library.
"""

import sys

if sys.platform == "win32":  # pragma: no cover
    _message = "supervisor runs commands on Linux and macOS only; on Windows use it inside WSL"
    raise ImportError(_message)
