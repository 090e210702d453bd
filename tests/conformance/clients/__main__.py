"""Drive one job with everybody's clients: ``python -m tests.conformance.clients MODULES``.

MODULES is where npm has put the Inspector and ext-tasks. ``nox -s clients`` installs them all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.conformance.__main__ import fixture_server

_HERE: Final = Path(__file__).parent
_SECONDS: Final = 60


def _clients(url: str, node: str, modules: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield the name of each client, what its job writes, and its command."""
    for era in ("modern", "legacy"):
        yield f"Python SDK, {era}", f"from the SDK, {era}\n", [sys.executable, str(_HERE / "sdk.py"), url, era]
    yield "FastMCP", "from FastMCP\n", [sys.executable, str(_HERE / "with_fastmcp.py"), url]
    argv = json.dumps(["sh", "-c", "sleep 0.2; echo from the Inspector"])
    inspector = [node, str(modules / ".bin/mcp-inspector"), "--cli", "--transport", "http", "--server-url", url]
    call = ["--protocol-era", "modern", "--method", "tools/call", "--tool-name", "run_command"]
    yield "MCP Inspector, modern", "from the Inspector\n", [*inspector, *call, "--tool-arg", f"argv={argv}"]
    program = modules.parent / "ext_tasks.mjs"  # beside the modules that it imports
    shutil.copyfile(_HERE / "ext_tasks.mjs", program)
    for era in ("modern", "legacy"):
        yield f"ext-tasks, {era}", f"from ext-tasks, {era}\n", [node, str(program), url, era]


def _value(printed: str) -> object:
    """Return the value of the job in what a client printed: a tool's result, or its structured content."""
    shape: dict[str, Any] = json.loads(printed[printed.index("{") :])
    return shape.get("structuredContent", shape).get("value")


def main() -> int:
    """Try each client and say which of them saw the job through; 1 when one did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", type=Path, help="a node_modules folder")
    parser.add_argument("--node", default=shutil.which("node"), help="Node 22 or later (default: the one on the path)")
    given = parser.parse_args()
    if given.node is None:
        parser.error("there is no node on the path; `nox -s clients` installs one")
    good = bad = 0
    with tempfile.TemporaryDirectory() as home, fixture_server() as url:
        for name, wanted, command in _clients(url, given.node, given.modules.resolve()):
            environment = {**os.environ, "HOME": home}  # the Inspector keeps a catalogue there
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment
            )  # fmt: skip
            try:
                ok = done.returncode == 0 and _value(done.stdout) == wanted
            except (ValueError, AttributeError):
                ok = False
            print(f"{name}: {'the job was seen through' if ok else 'FAILED'}")
            if not ok:
                print(done.stdout, done.stderr, sep="\n")
            good, bad = good + ok, bad + (not ok)
    print(f"{good} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
