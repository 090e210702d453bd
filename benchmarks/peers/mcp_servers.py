"""``mcp-background-job``: jobs in the memory of an MCP server, over stdio."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Cannot
from benchmarks.peers import Session, own_environment
from benchmarks.wire import Wire

__all__ = ["McpBackgroundJob"]

_MOST_OUTPUT: Final = 100 << 20
"""The largest size that it can be configured to keep."""


def _program() -> str:
    beside = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    found = shutil.which("mcp-background-job", path=beside)
    if found is None:
        raise Cannot("not installed (PyPI's mcp-background-job, for Python 3.12 and later)")
    return found


class McpBackgroundJob:
    """A server with tools; an end is found by polling."""

    name = "mcp-background-job"
    about = "`execute_command` and `get_job_status` over stdio, as there is no wait; it keeps its jobs in memory"

    def version(self) -> str:
        interpreter = Path(_program()).with_name("python")
        argv = [str(interpreter), "-c", "import importlib.metadata as m; print(m.version('mcp-background-job'))"]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() or "unknown"

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        limits = {
            "MCP_BG_MAX_JOBS": "100",
            "MCP_BG_MAX_OUTPUT_SIZE": str(_MOST_OUTPUT),
            "MCP_BG_WORKING_DIR": str(folder),
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [_program()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=own_environment(folder, **limits),
            )
        try:
            session = _McpSession(Wire(process, "stdio"))
            session.list()  # its start takes seconds
            yield session
        finally:
            process.kill()
            process.communicate()


class _McpSession(Session):
    most_output = _MOST_OUTPUT

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def _call(self, tool: str, **arguments: object) -> dict[str, Any]:
        answer = self._wire.ask("tools/call", name=tool, arguments=arguments)
        if answer.get("isError"):
            said = str(answer["content"])
            raise Cannot("refuses the command as dangerous" if "dangerous" in said else said[:120])
        content: dict[str, Any] = answer["structuredContent"]
        return content

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        started = 0
        running: list[str] = []
        while started < jobs or running:
            while len(running) < flight and started < jobs:
                running.append(self.start(argv))
                started += 1
            self.wait(running.pop(0))

    def start(self, argv: Sequence[str]) -> str:
        job: str = self._call("execute_command", command=shlex.join(argv))["job_id"]
        return job

    def wait(self, job: str) -> None:
        while (status := self.status(job)) == "running":
            pass  # there is no other interface; each query is a request of its own
        if status != "completed":
            raise AssertionError(status)

    def status(self, job: str) -> object:
        return self._call("get_job_status", job_id=job)["status"]

    def output(self, job: str) -> bytes:
        return str(self._call("get_job_output", job_id=job)["stdout"]).encode()

    def list(self) -> int:
        return len(self._call("list_jobs")["jobs"])

    def stop(self, job: str) -> None:
        self._call("kill_job", job_id=job)
