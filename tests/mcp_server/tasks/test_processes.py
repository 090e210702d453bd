"""Beyond the conformance suite: a task outlives its server, and the keeper of its job."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from supervisor import Settings
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from tests.mcp_server.tasks.over_http import PATIENCE, Server

GATED = 'echo begun; read line < "$1"; echo "$line"; exit "$2"'


@attrs.frozen
class Killed:
    """A server that was killed with tasks under way, and the one that was started after it."""

    server: Server
    working: str
    gate: Path
    ended_meanwhile: str
    to_cancel: str
    function: dict[str, object]
    function_that_had_ended: dict[str, object]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    folder = tmp_path_factory.mktemp("gates")

    def make() -> Path:
        path = folder / str(len(list(folder.iterdir())))
        os.mkfifo(path, 0o600)
        return path

    return make


@pytest.fixture(scope="module")
def killed(root: Path, gates: Callable[[], Path]) -> Iterator[Killed]:
    server = Server(root)
    server.start()
    gate, meanwhile = gates(), gates()
    working, ended, to_cancel = begin(server, gate), begin(server, meanwhile, 3), begin(server, gates())
    function = compute(server, 3600)
    had_ended = server.ended(str(compute(server, 0)["taskId"]))
    server.stop(signal.SIGKILL)
    meanwhile.write_text("no\n")
    with Catalog(Settings(state_dir=root)) as catalog:
        (job,) = catalog.wait([ended], timeout=PATIENCE)
    assert job.exit_code == 3
    server.start()
    yield Killed(server, working, gate, ended, to_cancel, function, had_ended)
    server.stop()
    with Catalog(Settings(state_dir=root)) as catalog:  # the tests that end these jobs may run in another worker
        catalog.cancel_all([row.job_id for row in catalog.index.unfinished()])


@pytest.fixture
def gate(gates: Callable[[], Path]) -> Path:
    return gates()


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


def compute(server: Server, seconds: float) -> dict[str, object]:
    created = server.call("tools/call", name="slow_compute", arguments={"seconds": seconds, "label": "it"})
    assert created["resultType"] == "task"
    return created


# ------------------------------------------------------------ after kill -9 of the server, and its start


def test_a_job_task_outlives_its_server(killed: Killed) -> None:
    assert killed.server.call("tasks/get", taskId=killed.working)["status"] == "working"
    killed.gate.write_text("still here\n")
    task = killed.server.ended(killed.working)
    assert task["status"] == "completed"
    assert task["result"]["isError"] is False
    assert task["result"]["structuredContent"]["value"] == "begun\nstill here\n"
    assert task["result"]["structuredContent"]["job"]["exit_code"] == 0


def test_a_job_that_ended_badly_while_no_server_ran_is_a_completed_task(killed: Killed) -> None:
    task = killed.server.call("tasks/get", taskId=killed.ended_meanwhile)
    assert task["status"] == "completed"
    assert task["result"]["isError"] is True
    assert task["result"]["structuredContent"]["error"]["code"] == "job_failed"


def test_a_job_task_is_cancelled_by_another_server_than_it_was_started_by(killed: Killed) -> None:
    assert killed.server.call("tasks/cancel", taskId=killed.to_cancel)["resultType"] == "complete"
    assert killed.server.ended(killed.to_cancel)["status"] == "cancelled"


def test_a_function_task_has_honestly_failed(killed: Killed) -> None:
    task = killed.server.call("tasks/get", taskId=killed.function["taskId"])
    assert task["status"] == "failed"
    assert task["error"]["code"] == -32603
    assert "ended before the task did" in task["error"]["message"]
    assert task["createdAt"] == killed.function["createdAt"]
    assert killed.server.call("tasks/get", taskId=killed.function["taskId"]) == task


def test_a_function_task_that_had_ended_keeps_its_result(killed: Killed) -> None:
    before = killed.function_that_had_ended
    assert before["status"] == "completed"
    assert killed.server.call("tasks/get", taskId=before["taskId"]) == before


# ------------------------------------------------------------ other ends


@pytest.mark.parametrize("server_too", [False, True])
def test_a_job_task_outlives_the_keeper(killed: Killed, gate: Path, root: Path, *, server_too: bool) -> None:
    server = killed.server
    task_id = begin(server, gate)
    keeper = keeper_of(root, task_id)
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
    else:  # a kernel that hides the exit status of another process's child: the status is unknown, not guessed
        assert content["error"]["code"] == "job_lost"
        assert content["job"]["exit_code"] is None


def test_a_function_task_of_a_server_that_was_shut_down_says_so(killed: Killed) -> None:
    created = compute(killed.server, 3600)
    killed.server.stop()
    killed.server.start()
    task = killed.server.call("tasks/get", taskId=created["taskId"])
    assert task["status"] == "failed"
    assert "shut down" in task["error"]["message"]


# ------------------------------------------------------------ over HTTP


def test_the_routing_header_names_the_task_or_is_not_there(killed: Killed) -> None:
    server = killed.server
    created = compute(server, 3600)
    params = {"taskId": created["taskId"], "inputResponses": {}}
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        for header in ("another", "=?base64?not base64?="):
            status, message = server.post(method, params, {"mcp-name": header})
            assert (status, message["error"]["code"]) == (400, -32020), (method, header)
            assert created["taskId"] in message["error"]["message"]
    assert server.post("tasks/get", params, {"mcp-name": ""})[0] == 200  # left out, as FastMCP's client does
    assert server.call("tasks/get", taskId=created["taskId"])["status"] == "working"


def test_a_client_that_leaves_does_not_take_its_task_along(killed: Killed) -> None:
    server = killed.server
    with server.opened("tools/call", {"name": "slow_compute", "arguments": {"seconds": 0.3, "label": "x"}}) as response:
        task_id = json.loads(response.read())["result"]["taskId"]
    with server.opened("subscriptions/listen", {"notifications": {"taskIds": [task_id]}}):
        pass  # gone without having read a word
    assert server.ended(task_id)["status"] == "completed"
