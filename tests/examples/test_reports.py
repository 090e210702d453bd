"""The web services of ``docs/examples`` under SIGKILL, as real processes, with a client that is no browser.

The listening socket is the test's, handed to each server in turn as systemd would: a client may
connect while no server is there, and is served by the next one.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import supervisor
from supervisor import Settings
from supervisor.jobs.catalog import Catalog

for needed in ("starlette", "uvicorn", "hypercorn", "fastapi"):
    pytest.importorskip(needed)

ROOT = Path(supervisor.__file__).parents[1]
EXAMPLES = Path(__file__).parents[2] / "docs/examples"
PATIENCE = 60.0
LINES = 12

UVICORN = ["uvicorn", "--fd", "{fd}", "--timeout-graceful-shutdown", "1", "--log-level", "warning"]
SERVERS = {
    "uvicorn": [*UVICORN, "--loop", "asyncio", "reports:app"],
    "uvloop": [*UVICORN, "--loop", "uvloop", "reports:app"],
    "fastapi": [*UVICORN, "reports_fastapi:app"],
    "trio": ["reports_trio", "fd://{fd}"],
}


class Reader:
    """Reads server-sent events, until the last or until the connection breaks, which may show as either."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[dict[str, str]]:
        event: dict[str, str] = {}
        with suppress(http.client.IncompleteRead, ConnectionError):
            for line in self._response:
                if line == b"\n":
                    yield event
                    event = {}
                else:
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    event[name] = value


class Client:
    """Asks whatever server has the socket."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[http.client.HTTPConnection] = []

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        self._open.append(connection)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent["content-type"] = "application/json"
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        return connection.getresponse()

    def json(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        response = self.request(method, path, body, **headers)
        return response.status, json.loads(response.read())

    def output(self, job_id: str, after: str = "0") -> Reader:
        response = self.request("GET", f"/reports/{job_id}/output", last_event_id=after)
        assert (response.status, response.getheader("content-type", "").partition(";")[0]) == (200, "text/event-stream")
        return Reader(response)

    def close(self) -> None:
        for connection in self._open:
            connection.close()


class Server:
    """One server process after another, on one socket."""

    def __init__(self, command: list[str], listening: socket.socket, log: Path) -> None:
        self._command = [sys.executable, "-m", *(word.format(fd=listening.fileno()) for word in command)]
        self._listening = listening
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=EXAMPLES,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(EXAMPLES)])},
                pass_fds=[self._listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return how the process ended."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # with what the server itself may have started
            self.process.wait()


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


Service = Callable[[str], tuple[Server, Client]]


@pytest.fixture
def service(settings: Settings, tmp_path: Path) -> Iterator[Service]:
    """Start a service by its name; whatever it leaves running is cancelled afterwards."""
    made: list[Any] = []

    def begin(name: str) -> tuple[Server, Client]:
        if "uvloop" in name:
            pytest.importorskip("uvloop")
        listening = socket.create_server(("127.0.0.1", 0))
        server, client = Server(SERVERS[name], listening, tmp_path / "log"), Client(listening.getsockname()[1])
        made.extend([client, server, listening])
        server.start()
        return server, client

    yield begin
    for each in made:
        each.close()
    with Catalog(settings) as catalog:
        for job in catalog.list(state="running").jobs:
            catalog.cancel(job.job_id)


@contextmanager
def until_gone(pid: int) -> Iterator[None]:
    """Wait, afterwards, for a process to end."""
    descriptor = os.pidfd_open(pid)
    yield
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = poll.poll(PATIENCE * 1000)
    os.close(descriptor)
    assert ended, f"{pid} is still there"


@pytest.mark.parametrize("name", SERVERS)
def test_reports_go_on_while_their_service_is_killed_and_started_again(service: Service, name: str) -> None:
    server, client = service(name)
    wanted = {"lines": LINES, "pause": 0.15}
    code, job = client.json("POST", "/reports", wanted, idempotency_key="monthly")
    assert (code, job["status"]) == (202, "running")
    code, endless = client.json("POST", "/reports", {"lines": 1000, "pause": 60})
    assert code == 202

    seen: list[dict[str, str]] = []
    for event in client.output(job["job_id"]):
        seen.append(event)
        if len(seen) == 2:
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert 2 <= len(seen) < LINES  # it broke in the middle
    assert all("event" not in event for event in seen)

    server.start()
    code, again = client.json("GET", f"/reports/{job['job_id']}")
    assert code == 200
    assert (again["pid"], again["started_at"]) == (job["pid"], job["started_at"])  # the very same process
    *lines, end = client.output(job["job_id"], after=seen[-1]["id"])
    assert [event["data"] for event in (*seen, *lines)] == [f"line {number}" for number in range(1, LINES + 1)]
    assert end["event"] == "end"
    assert (json.loads(end["data"])["status"], json.loads(end["data"])["exit_code"]) == ("done", 0)

    code, first = client.json("POST", "/reports", wanted, idempotency_key="monthly")
    assert (code, first["job_id"], first["status"]) == (202, job["job_id"], "done")
    _, page = client.json("GET", "/reports")
    assert [(each["job_id"], each["status"]) for each in page["jobs"]] == [
        (endless["job_id"], "running"),
        (job["job_id"], "done"),
    ]
    with until_gone(endless["pid"]):
        code, cancelled = client.json("DELETE", f"/reports/{endless['job_id']}")
    assert (code, cancelled["status"]) == (200, "cancelled")


@pytest.mark.parametrize("name", SERVERS)
def test_a_shutdown_waits_for_no_reader_and_leaves_the_reports(service: Service, settings: Settings, name: str) -> None:
    server, client = service(name)
    _, job = client.json("POST", "/reports", {"lines": 1000, "pause": 60})
    stream = iter(client.output(job["job_id"]))
    assert next(stream)["data"] == "line 1"
    assert server.end(signal.SIGTERM) in {0, -signal.SIGTERM}  # uvicorn raises the signal again when it is done
    assert list(stream) == []
    with Catalog(settings) as catalog:
        left = catalog.status(job["job_id"])
    assert (left.status, left.stop_requested, left.pid) == ("running", None, job["pid"])
    assert list(settings.state_dir.joinpath(".owners").iterdir()) == []  # the supervisor was closed, not dropped


@pytest.mark.parametrize("name", ["uvicorn", "fastapi", "trio"])
def test_errors_say_what_to_do(service: Service, name: str) -> None:
    _, client = service(name)
    code, told = client.json("GET", f"/reports/{'0' * 32}")
    assert (code, told["ok"], told["error"]["code"]) == (404, False, "job_not_found")
    assert told["error"]["repair"]
    code, told = client.json("GET", f"/reports/{'0' * 32}/output")
    assert (code, told["error"]["code"]) == (404, "job_not_found")
    assert client.json("POST", "/reports", {"lines": 1, "pause": 0}, idempotency_key="k")[0] == 202
    code, told = client.json("POST", "/reports", {"lines": 2, "pause": 0}, idempotency_key="k")
    assert (code, told["error"]["code"]) == (409, "idempotency_conflict")
