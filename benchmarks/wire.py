"""A minimal MCP client, over stdio or HTTP, and the servers that it calls."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["Wire", "first_answer", "opening", "recorded", "served"]

_VERSION: Final = "2026-07-28"
_ROOT: Final = Path(__file__).parents[1]
_META: Final[Mapping[str, Any]] = {
    "io.modelcontextprotocol/protocolVersion": _VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}},
}


class Wire:
    """A minimal MCP client."""

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
        """Close the connection; the next request opens a new one, since servers drop idle ones."""
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
            line = self._server.stdout.readline()
            if not line:
                raise EOFError("the server has ended")
            message: dict[str, Any] = json.loads(line)
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
def served(whose: str, transport: str, folder: Path, variables: Mapping[str, str] = os.environ) -> Iterator[Wire]:
    """Run a server with its state in ``folder``, and kill it at the end.

    ``supervisor`` is the command ``supervisor mcp``; the other servers are those of ``benchmarks.task_servers``.
    """
    environment = {
        **variables,
        "PYTHONPATH": str(_ROOT),
        "SUPERVISOR_STATE_DIR": str(folder / "state"),
        "FASTMCP_DOCKET_URL": "memory://",
    }
    command = [sys.executable, "-m", "benchmarks.task_servers", whose, transport]
    if whose == "supervisor":
        command = [sys.executable, "-m", "supervisor", "mcp"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=folder
        )  # fmt: skip
    try:
        yield Wire(process, transport)
    finally:
        process.kill()
        process.communicate()


def first_answer(whose: str, folder: Path, times: int, variables: Mapping[str, str]) -> float:
    """Return the milliseconds from the start of a server to the answer of a tool, over stdio."""
    taken: list[float] = []
    for number in range(times):
        place = folder / str(number)
        place.mkdir()
        begun = time.perf_counter()
        with served(whose, "stdio", place, variables) as wire:
            wire.ask("tools/call", name="job_list" if whose == "supervisor" else "work", arguments={})
            taken.append(time.perf_counter() - begun)
    return median(taken) * 1e3


_BARE_SERVER: Final = """
import trio
from mcp.server import MCPServer
server = MCPServer("bare")
@server.tool()
def work() -> str:
    "Work."
    return "done"
trio.run(server.run_stdio_async)
"""
_CLIENT: Final = {"name": "benchmark", "version": "1"}
_OPENING: Final = (
    {
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": _CLIENT},
    },
    {"method": "notifications/initialized"},
    {"id": 2, "method": "tools/list"},
)
_RECORD_SECONDS: Final = 60.0


def recorded(folder: Path, variables: Mapping[str, str]) -> None:
    """Have ``supervisor mcp`` record its first answers in a state root.

    Raises:
        TimeoutError: it has recorded none within a minute.
    """
    place = folder / "state" / "first-answers"
    with served("supervisor", "stdio", folder, variables) as wire:
        wire.ask("tools/call", name="job_list", arguments={})
        until = time.monotonic() + _RECORD_SECONDS
        while not place.is_dir() or not any(place.glob("*.json")):
            if time.monotonic() > until:
                message = "there is no record of the first answers"
                raise TimeoutError(message)
            time.sleep(0.05)


def opening(whose: str, folder: Path, variables: Mapping[str, str]) -> tuple[float, float]:
    """Return the milliseconds from exec to the first answer of a server, and from there to the list of its tools.

    ``whose``: ``supervisor``, or ``bare`` for one tool on the SDK alone.
    """
    environment = {**variables, "PYTHONPATH": str(_ROOT), "SUPERVISOR_STATE_DIR": str(folder / "state")}
    words = ["-m", "supervisor", "mcp"] if whose == "supervisor" else ["-c", _BARE_SERVER]
    lines = [json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in _OPENING]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment, cwd=folder,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        moments = [begun]
        for said in (lines[:1], lines[1:]):
            process.stdin.write(b"".join(said))
            process.stdin.flush()
            line = process.stdout.readline()
            moments.append(time.perf_counter())
            if "result" not in json.loads(line):
                raise AssertionError(line)
    finally:
        process.kill()
        process.communicate()
    first, listed = (1e3 * (after - before) for before, after in itertools.pairwise(moments))
    return first, listed
