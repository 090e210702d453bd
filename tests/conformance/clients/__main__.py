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
_KINDS: Final = """
[kind.say]
description = "Says something."
command = ["echo", "{word}"]
control = ["rerun"]
parameters.word = { description = "What to say." }

[kind.fail]
description = "Fails."
command = ["sh", "-c", "echo no >&2; exit 3"]

[kind.hold]
description = "Runs until it is stopped."
command = ["sleep", "600"]
group = "agents"
control = ["pause", "send"]
"""


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


def _strict(folder: Path, node: str, modules: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield a client that checks each sort of answer of a real server: with the TypeScript SDK, and with ajv."""
    program, kinds, state = modules.parent / "strict.mjs", folder / "kinds.toml", folder / "state"
    shutil.copyfile(_HERE / "strict.mjs", program)
    kinds.write_text(_KINDS, encoding="utf-8")
    kinds.chmod(0o600)
    state.mkdir(mode=0o700)
    supervisor = [sys.executable, "-m", "supervisor", f"--state-dir={state}"]
    subprocess.run([*supervisor, "group", "set", "agents", "--limit=4"], check=True, stdout=subprocess.DEVNULL)
    for era in ("modern", "legacy"):
        yield f"strict, {era}", "15 tools\n", [node, str(program), era, *supervisor, "mcp", "--config", str(kinds)]


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
        modules = given.modules.resolve()
        tried = (*_clients(url, given.node, modules), *_strict(Path(home), given.node, modules))
        for name, wanted, command in tried:
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
