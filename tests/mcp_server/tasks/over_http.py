"""The fixture server as a process, and a client of 2026-07-28 over HTTP that can send any request."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PACKAGE = Path(__file__).parents[3]
TASKS = "io.modelcontextprotocol/tasks"
VERSION = "2026-07-28"
PATIENCE = 60.0

_numbers = itertools.count(1)


def envelope(*, declare: bool = True) -> dict[str, Any]:
    """Return the ``_meta`` of a request."""
    capabilities = {"elicitation": {}, "extensions": {TASKS: {}}} if declare else {}
    return {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    }


class Server:
    """A server process on a state root; started, killed and started again."""

    def __init__(self, state_dir: Path) -> None:
        self.environment = {**os.environ, "SUPERVISOR_STATE_DIR": str(state_dir), "PYTHONPATH": str(PACKAGE)}
        self.process: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.conformance.server", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment, cwd=PACKAGE)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the server did not start"

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    # ------------------------------------------------------------ talking

    def post(
        self,
        method: str,
        params: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        *,
        declare: bool = True,
    ) -> tuple[int, dict[str, Any]]:
        """Send a request; return the HTTP status and the JSON-RPC response."""
        with self.opened(method, params, headers, declare=declare) as response:
            body = response.read().decode()
            if response.headers["content-type"].startswith("text/event-stream"):
                body = [line for line in body.splitlines() if line.startswith("data:")][-1].removeprefix("data:")
            return response.status, json.loads(body)

    @contextlib.contextmanager
    def opened(
        self,
        method: str,
        params: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        *,
        declare: bool = True,
    ) -> Iterator[http.client.HTTPResponse]:
        place = urlsplit(self.address)
        body = {
            "jsonrpc": "2.0",
            "id": next(_numbers),
            "method": method,
            "params": {**params, "_meta": envelope(declare=declare)},
        }
        name = params.get("taskId") or params.get("name")
        sent = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": VERSION,
            "mcp-method": method,
            **({} if name is None else {"mcp-name": name}),
            **(headers or {}),
        }
        assert place.hostname is not None
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=PATIENCE)
        try:
            connection.request("POST", place.path, json.dumps(body), {k: v for k, v in sent.items() if v})
            yield connection.getresponse()
        finally:
            connection.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request that has to succeed, and return its result."""
        status, message = self.post(method, params)
        assert status == 200, message
        result: dict[str, Any] = message["result"]
        return result

    def follow(self, task_id: str) -> Iterator[dict[str, Any]]:
        """Listen to a task; yields the acknowledged filter, then its states until it has ended."""
        with self.opened("subscriptions/listen", {"notifications": {"taskIds": [task_id]}}) as response:
            for line in response:
                if line.startswith(b"data:"):
                    message = json.loads(line.removeprefix(b"data:"))
                    if message.get("method") == "notifications/subscriptions/acknowledged":
                        yield message["params"]["notifications"]
                    else:
                        assert message["method"] == "notifications/tasks"
                        yield message["params"]
                        if message["params"]["status"] in {"completed", "failed", "cancelled"}:
                            return

    def ended(self, task_id: str) -> dict[str, Any]:
        """Wait until a task has ended, woken by its notifications, and return the answer of ``tasks/get``."""
        for _ in self.follow(task_id):
            pass
        return self.call("tasks/get", taskId=task_id)
