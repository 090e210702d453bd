"""The size of each tool's answer, of this checkout and of another: ``python -m benchmarks.answers [OTHER_CHECKOUT]``.

It prints a table for docs/mcp.md. It counts the text of an answer in bytes, which a model reads; the structured
content beside it is the same JSON. Both servers have the same kinds and get the same calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["main", "measure"]

_JOBS: Final = 20
_PROMPT: Final = "Say what you think of this. " * 110
"""3 KB."""
_AGENT: Final = json.dumps(
    {
        "type": "result", "subtype": "success", "is_error": False, "result": "An answer of an agent. " * 40,
        "session_id": "0b1c", "total_cost_usd": 0.0123, "num_turns": 3, "usage": {"input_tokens": 1200},
    }
)  # fmt: skip
_KIND: Final = """
[kind.{name}]
description = "Ask an agent for {name}: it reads the workspace, changes nothing, and answers in a few paragraphs."
command = ["cat"]
stdin = "{{answer}}"
interpret = "claude"
deadline_seconds = 600
read_only = true
parameters.answer = {{ type = "string", description = "What the agent is to say." }}
parameters.prompt = {{ type = "string", required = false, max_length = 100000, description = "The question." }}
"""
_LONG: Final = """
[kind.wait]
description = "Wait."
command = ["sh", "-c", "echo begun; exec sleep 600", "sh", "--prompt={prompt}"]
parameters.prompt = { type = "string", description = "What to wait for." }
"""


class _Server:
    """One ``supervisor mcp`` over stdio, of one checkout."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        kinds = folder / "kinds.toml"
        kinds.write_text("".join(_KIND.format(name=name) for name in ("review", "ask", "plan")) + _LONG)
        kinds.chmod(0o600)
        environment = {**os.environ, "PYTHONPATH": str(checkout), "SUPERVISOR_STATE_DIR": str(folder / "state")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", "mcp", "--config", str(kinds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=folder,
        )  # fmt: skip
        self._number = 0
        client = {"name": "benchmarks", "version": "1"}
        self.ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a request."""
        assert self._process.stdout is not None
        self._number += 1
        self._send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        while (told := json.loads(self._process.stdout.readline())).get("id") != self._number:
            pass
        result: dict[str, Any] = told["result"]
        return result

    def call(self, tool: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
        """Return the bytes of the text of a tool's answer, and its structured content."""
        result = self.ask("tools/call", name=tool, arguments=arguments)
        size = sum(len(each["text"].encode()) for each in result["content"] if each["type"] == "text")
        return size, result["structuredContent"]

    def end(self) -> None:
        """Close stdin, and wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(checkout: Path) -> dict[str, int]:
    """Return the bytes of the answer of each tool of a checkout."""
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        server = _Server(checkout, Path(name).resolve())
        try:
            found["`tools/list`, four kinds"] = len(json.dumps(server.ask("tools/list")["tools"]).encode())
            found["a kind's tool"], waiting = server.call("wait", prompt=_PROMPT)
            job = waiting["job_id"]
            found["`job_status`, running"], _ = server.call("job_status", job_id=job)
            found["`job_wait`, still running"], _ = server.call("job_wait", job_id=job, timeout_seconds=0)
            found["`job_logs`, one line"], _ = server.call("job_logs", job_id=job)
            found["`job_cancel`"], _ = server.call("job_cancel", job_id=job)
            for _ in range(_JOBS - 1):
                _, started = server.call("ask", answer=_AGENT, prompt=_PROMPT, wait_seconds=0)
                job = started["job_id"]
                found["`job_wait`, ended"], _ = server.call("job_wait", job_id=job)
            found["`job_status`, ended"], _ = server.call("job_status", job_id=job)
            found[f"`job_list`, {_JOBS} jobs"], _ = server.call("job_list", limit=_JOBS)
            found["`job_result` of an agent, 920 characters"], _ = server.call("job_result", job_id=job)
            found["`job_consume_result` of it"], _ = server.call("job_consume_result", job_id=job)
            found["an error"], _ = server.call("job_status", job_id="0" * 32)
        finally:
            server.end()
    return found


def main() -> int:
    """Print the table."""
    checkouts = [*map(Path, sys.argv[1:2]), Path(__file__).parents[1]]
    columns = [measure(each.resolve()) for each in checkouts]
    print("| answer | " + ("before | after |" if len(columns) > 1 else "bytes |"))
    print("|---" * (len(columns) + 1) + "|")
    for name in columns[-1]:
        print(f"| {name} | " + " | ".join(f"{column.get(name, 0):,}" for column in columns) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
