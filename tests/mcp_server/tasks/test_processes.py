"""What the conformance suite does not test: a task outlives its server, and the keeper of its job."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import Settings
from supervisor.catalog import Catalog
from supervisor.engines import records
from tests.mcp_server.tasks.over_http import PATIENCE, Server

GATED = 'echo begun; read line < "$1"; echo "$line"; exit "$2"'


@pytest.fixture
def server(state_dir: Path) -> Iterator[Server]:
    made = Server(state_dir)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    os.mkfifo(path, 0o600)
    return path


def begin(server: Server, gate: Path, status: int = 0) -> str:
    created = server.call("tools/call", name="run_command", arguments={"argv": gated(gate, status)})
    assert created["resultType"] == "task"
    assert created["status"] == "working"
    task_id: str = created["taskId"]
    return task_id


def gated(gate: Path, status: int = 0) -> list[str]:
    return ["sh", "-c", GATED, "sh", str(gate), str(status)]


def keeper_of(state_dir: Path, job_id: str) -> int:
    (directory,) = state_dir.glob(f"*/{job_id}")
    record = records.read(str(directory), records.PROCESS)
    assert record
    return int(record["keeper_pid"])


def kill(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


def test_a_job_task_outlives_its_server(server: Server, gate: Path) -> None:
    task_id = begin(server, gate)
    server.stop(signal.SIGKILL)
    server.start()
    assert server.call("tasks/get", taskId=task_id)["status"] == "working"
    gate.write_text("still here\n")
    task = server.ended(task_id)
    assert task["status"] == "completed"
    assert task["result"]["isError"] is False
    assert task["result"]["structuredContent"]["value"] == "begun\nstill here\n"
    assert task["result"]["structuredContent"]["job"]["exit_code"] == 0


def test_a_job_that_ended_badly_while_no_server_ran_is_a_completed_task(
    server: Server,
    gate: Path,
    state_dir: Path,
) -> None:
    task_id = begin(server, gate, 3)
    server.stop(signal.SIGKILL)
    gate.write_text("no\n")
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        (job,) = catalog.wait([task_id], timeout=PATIENCE)
    assert job.exit_code == 3
    server.start()
    task = server.call("tasks/get", taskId=task_id)
    assert task["status"] == "completed"
    assert task["result"]["isError"] is True
    assert task["result"]["structuredContent"]["error"]["code"] == "job_failed"


@pytest.mark.parametrize("server_too", [False, True])
def test_a_job_task_outlives_the_keeper(server: Server, gate: Path, state_dir: Path, *, server_too: bool) -> None:
    task_id = begin(server, gate)
    keeper = keeper_of(state_dir, task_id)
    if server_too:
        server.stop(signal.SIGKILL)
    kill(keeper)
    if server_too:
        server.start()
    assert server.call("tasks/get", taskId=task_id)["status"] == "working"
    gate.write_text("still here\n")
    task = server.ended(task_id)
    assert task["status"] == "completed"
    content = task["result"]["structuredContent"]
    if content["ok"]:
        assert content["value"] == "begun\nstill here\n"
        assert content["job"]["exit_code"] == 0
    else:  # a kernel that does not tell how somebody else's child has ended: said, and not guessed
        assert content["error"]["code"] == "job_lost"
        assert content["job"]["exit_code"] is None


def test_a_job_task_is_cancelled_by_another_server_than_it_was_started_by(server: Server, gate: Path) -> None:
    task_id = begin(server, gate)
    server.stop(signal.SIGKILL)
    server.start()
    assert server.call("tasks/cancel", taskId=task_id)["resultType"] == "complete"
    assert server.ended(task_id)["status"] == "cancelled"


def test_a_function_task_whose_server_was_killed_has_honestly_failed(server: Server) -> None:
    created = server.call("tools/call", name="slow_compute", arguments={"seconds": 3600, "label": "long"})
    server.stop(signal.SIGKILL)
    server.start()
    task = server.call("tasks/get", taskId=created["taskId"])
    assert task["status"] == "failed"
    assert task["error"]["code"] == -32603
    assert "ended before the task did" in task["error"]["message"]
    assert task["createdAt"] == created["createdAt"]
    assert server.call("tasks/get", taskId=created["taskId"]) == task


def test_a_function_task_that_had_ended_keeps_its_result(server: Server) -> None:
    created = server.call("tools/call", name="slow_compute", arguments={"seconds": 0, "label": "short"})
    before = server.ended(created["taskId"])
    assert before["result"]["content"][0]["text"] == "Computed short for 0 s"
    server.stop(signal.SIGKILL)
    server.start()
    assert server.call("tasks/get", taskId=created["taskId"]) == before


def test_a_function_task_of_a_server_that_was_shut_down_says_so(server: Server) -> None:
    created = server.call("tools/call", name="slow_compute", arguments={"seconds": 3600, "label": "long"})
    server.stop()
    server.start()
    task = server.call("tasks/get", taskId=created["taskId"])
    assert task["status"] == "failed"
    assert "shut down" in task["error"]["message"]


def test_the_routing_header_names_the_task_or_is_not_there(server: Server) -> None:
    created = server.call("tools/call", name="slow_compute", arguments={"seconds": 3600, "label": "long"})
    params = {"taskId": created["taskId"], "inputResponses": {}}
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        for header in ("another", "=?base64?not base64?="):
            status, message = server.post(method, params, {"mcp-name": header})
            assert (status, message["error"]["code"]) == (400, -32020), (method, header)
            assert created["taskId"] in message["error"]["message"]
    assert server.post("tasks/get", params, {"mcp-name": ""})[0] == 200  # left out, as FastMCP's client does
    assert server.call("tasks/get", taskId=created["taskId"])["status"] == "working"


def test_a_client_that_leaves_does_not_take_its_task_along(server: Server) -> None:
    with server.opened("tools/call", {"name": "slow_compute", "arguments": {"seconds": 0.3, "label": "x"}}) as response:
        task_id = json.loads(response.read())["result"]["taskId"]
    with server.opened("subscriptions/listen", {"notifications": {"taskIds": [task_id]}}):
        pass  # gone without having read a word
    assert server.ended(task_id)["status"] == "completed"
