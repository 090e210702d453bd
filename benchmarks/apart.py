"""Measures in a new process, whose memory holds nothing of earlier measurements.

``python -m benchmarks.apart MODULE FUNCTION`` calls it with the JSON array on stdin and prints its result.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["apart", "with_bytecode"]


def with_bytecode(folder: Path) -> dict[str, str]:
    """Return an environment in which all modules get bytecode, below ``folder``: pip leaves installed ones so."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PYTHONPYCACHEPREFIX": str(folder)}


def apart(
    function: Callable[..., Any],
    *arguments: object,
    installation: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Any:
    """Call a function of a module in a new process and return its result; both directions are JSON.

    ``installation``: a directory with another copy of the package, for that process.
    """
    argv = [sys.executable, "-m", "benchmarks.apart", function.__module__, function.__name__]
    root = str(Path(__file__).parents[1])
    places = [str(installation or ""), root, environment.get("PYTHONPATH")]
    variables = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    given = json.dumps(arguments)
    done = subprocess.run(
        argv, input=given, env=variables, stdout=subprocess.PIPE, text=True, check=True,
        cwd=installation,  # Python looks there first
    )  # fmt: skip
    return json.loads(done.stdout)


if __name__ == "__main__":
    called = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    print(json.dumps(called(*json.load(sys.stdin))))
