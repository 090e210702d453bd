"""How many ``tasks/get`` a server answers, beside a bare tool of the SDK's and fastmcp-tasks in memory.

``python -m benchmarks.tasks [--fastmcp PYTHON]``, PYTHON being an interpreter that has fastmcp and fastmcp-tasks.
One client, one request after another, the servers in turn; over HTTP on one connection that is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.figures import Figure, table

_VERSION: Final = "2026-07-28"
_ROOT: Final = Path(__file__).parents[1]
_META: Final[Mapping[str, Any]] = {
    "io.modelcontextprotocol/protocolVersion": _VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}},
}


class Wire:
    """A client that does as little as can be done."""

    def __init__(self, server: subprocess.Popen[bytes], transport: str) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._connection: http.client.HTTPConnection | None = None
        if transport == "http":
            assert server.stdout is not None
            place = urlsplit(server.stdout.readline().decode().strip())
            assert place.hostname is not None
            self._connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
            self._path = place.path
            self._wait()

    def _wait(self) -> None:
        assert self._connection is not None
        give_up = time.monotonic() + 60
        while True:
            try:
                self._connection.connect()
            except ConnectionRefusedError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)
            else:
                return
            finally:
                self.hang_up()

    def hang_up(self) -> None:
        """Close the connection, which the next request opens again: servers drop those that are idle."""
        if self._connection is not None:
            self._connection.close()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": {**params, "_meta": _META}}
        data = json.dumps(body).encode()
        message = self._over_stdio(data) if self._connection is None else self._over_http(data, method, params)
        if "error" in message:
            raise RuntimeError(message["error"])
        result: dict[str, Any] = message["result"]
        return result

    def _over_stdio(self, data: bytes) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(data + b"\n")
        self._server.stdin.flush()
        while True:
            message: dict[str, Any] = json.loads(self._server.stdout.readline())
            if "id" in message:
                return message

    def _over_http(self, data: bytes, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        assert self._connection is not None
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": _VERSION,
            "mcp-method": method,
            "mcp-name": params.get("taskId") or params["name"],
        }
        self._connection.request("POST", self._path, data, headers)
        response = self._connection.getresponse()
        text = response.read().decode()
        if response.headers["content-type"].startswith("text/event-stream"):
            text = [line for line in text.splitlines() if line.startswith("data:")][-1].removeprefix("data:")
        message: dict[str, Any] = json.loads(text)
        return message


@contextlib.contextmanager
def server(whose: str, transport: str, python: str) -> Iterator[Wire]:
    """Run a server on a state root of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "SUPERVISOR_STATE_DIR": f"{folder}/state",
            "FASTMCP_DOCKET_URL": "memory://",
        }
        command = [python, "-m", "benchmarks.task_servers", whose, transport]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )  # fmt: skip
        try:
            yield Wire(process, transport)
        finally:
            process.kill()
            process.communicate()


def rate(wire: Wire, count: int, method: str, **params: Any) -> float:
    """Return how many requests were answered in a second."""
    wire.hang_up()
    begun = time.perf_counter()
    for _ in range(count):
        wire.ask(method, **params)
    return count / (time.perf_counter() - begun)


def measure(transport: str, rounds: int, count: int, fastmcp: str | None) -> list[Figure]:
    """Ask the servers in turn and return the figures."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(server("ours", transport, sys.executable))
        others = {"a bare tool": stack.enter_context(server("bare", transport, sys.executable))}
        if fastmcp is not None:
            others["fastmcp-tasks in memory"] = stack.enter_context(server("fastmcp", transport, fastmcp))
        asked: dict[str, tuple[Wire, str, dict[str, Any]]] = {
            "a bare tool": (others["a bare tool"], "tools/call", {"name": "work", "arguments": {}}),
        }
        for name, wire in [("ours", ours), *others.items()]:
            if name != "a bare tool":
                wire.hang_up()
                created = wire.ask("tools/call", name="work", arguments={})
                asked[name] = (wire, "tasks/get", {"taskId": created["taskId"]})
                assert wire.ask("tasks/get", taskId=created["taskId"])["status"] == "working"
        found: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(rounds + 1):
            for name, (wire, method, params) in asked.items():
                found[name].append(rate(wire, count, method, **params))
        ours.hang_up()
        ours.ask("tasks/cancel", taskId=asked["ours"][2]["taskId"])
    measured = {name: rates[1:] for name, rates in found.items()}  # the first round warms up
    return [Figure(f"tasks/get over {transport}", "1/s", measured["ours"], name, measured[name]) for name in others]


def main() -> None:
    """Measure both transports and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastmcp", metavar="PYTHON", help="an interpreter with fastmcp and fastmcp-tasks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=200, help="requests a round")
    given = parser.parse_args()
    figures: list[Figure] = []
    for transport in ("stdio", "http"):
        figures += measure(transport, given.rounds, given.count, given.fastmcp)
    print(table(figures))


if __name__ == "__main__":
    main()
