"""The real ``supervisor mcp`` over stdio, with hosts that behave as real hosts do."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings

PATIENCE = 60.0
KINDS = """
[kind.tell]
description = "Tells its environment."
command = ["env"]

[kind.hold]
description = "Runs until the file is there."
command = ["sh", "-c", "echo begun; cat \\"$1\\"; sleep \\"$2\\"", "hold", "{fifo}", "{seconds}"]
parameters.fifo = {}
parameters.seconds = { type = "number", default = 0 }

[kind.noisy]
description = "Writes to descriptors that it may have inherited."
command = ["sh", "-c", "for n in 3 4 5 6 7 8 9; do echo noise >&$n; done 2>/dev/null; cat; ls -l /proc/self/fd >&2"]
"""
CLIENT = {"name": "host", "version": "1"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {"roots": {}, "elicitation": {}},
}
TASKS = "io.modelcontextprotocol/tasks"


class Host:
    """One host and its server: lines out, lines in, and their end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._id = 0
        self._held: dict[object, Mapping[str, Any]] = {}
        self.told: list[Mapping[str, Any]] = []

    def send(self, *messages: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in messages))
        self.process.stdin.flush()

    def read(self) -> Mapping[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server has ended"
        message: Mapping[str, Any] = json.loads(line)  # nothing but the protocol
        assert message["jsonrpc"] == "2.0"
        return message

    def request(self, method: str, /, **params: Any) -> int:
        self._id += 1
        self.send({"id": self._id, "method": method, "params": params})
        return self._id

    def reply(self, request_id: int) -> Mapping[str, Any]:
        while request_id not in self._held:
            message = self.read()
            if "method" in message:
                self.told.append(message)
                if message["method"] == "roots/list":
                    self.send({"id": message["id"], "result": {"roots": []}})
            else:
                self._held[message["id"]] = message
        return self._held.pop(request_id)

    def ask(self, method: str, /, **params: Any) -> Mapping[str, Any]:
        reply = self.reply(self.request(method, **params))
        assert "result" in reply, reply
        result: Mapping[str, Any] = reply["result"]
        return result

    def initialize(
        self, version: str = "2025-11-25", capabilities: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        shape = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": CLIENT}
        result = self.ask("initialize", **shape)
        self.send({"method": "notifications/initialized"})
        return result

    def call(self, tool: str, /, **arguments: Any) -> Mapping[str, Any]:
        return self.called(self.ask("tools/call", name=tool, arguments=arguments))

    @staticmethod
    def called(result: Mapping[str, Any]) -> Mapping[str, Any]:
        content: Mapping[str, Any] = result["structuredContent"]
        assert json.loads(result["content"][0]["text"]) == content
        return content

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def ended(self, within: float = PATIENCE) -> int:
        return self.process.wait(within)


@pytest.fixture
def start(state_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    config = tmp_path / "kinds.toml"
    config.write_text(KINDS, encoding="utf-8")
    config.chmod(0o600)
    with contextlib.ExitStack() as stack:

        def start_one(*words: str, **options: Any) -> Host:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable, "-m", "supervisor", "mcp", "--config", str(config), *words]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": workspace, "env": environment}
            process = stack.enter_context(subprocess.Popen(command, **{**pipes, **options}))
            stack.callback(process.kill)
            return Host(process)

        yield start_one
    with Catalog(Settings(state_dir=state_dir, stop_grace_seconds=0.2)) as catalog:
        for job in catalog.list(limit=1000).jobs:
            catalog.cancel(job.job_id)


def release(fifo: Path) -> None:
    fifo.write_text("released\n", encoding="utf-8")  # waits for the job to read


# ---------------------------------------------------------------- hosts


def test_a_host_of_2026_probes_and_then_says_everything_with_each_request(start: Callable[..., Host]) -> None:
    """As Claude Code begins."""
    host = start()
    found = host.ask("server/discover", _meta=META)
    assert "2026-07-28" in found["supportedVersions"]
    tools = host.ask("tools/list", _meta=META)["tools"]
    assert {"tell", "job_wait"} <= {tool["name"] for tool in tools}
    asked = host.ask("tools/call", name="tell", arguments={"wait_seconds": 20}, _meta=META)
    assert asked["resultType"] == "input_required"  # it has roots: the call is made again, with them
    (key,) = asked["inputRequests"]
    again = {"inputResponses": {key: {"roots": []}}, "requestState": asked.get("requestState")}
    answered = host.ask("tools/call", name="tell", arguments={"wait_seconds": 20}, _meta=META, **again)
    assert "PATH=" in host.called(answered)["value"]


def test_a_host_of_2025_shakes_hands_and_has_empty_roots(start: Callable[..., Host]) -> None:
    """As Codex does: an older version, a process group of its own, and SIGTERM with the end of file."""
    host = start(process_group=0)
    assert host.initialize("2025-06-18", {"elicitation": {}})["protocolVersion"] == "2025-06-18"
    assert host.call("tell", wait_seconds=20)["ok"] is True
    os.killpg(host.process.pid, signal.SIGTERM)
    host.close()
    assert host.ended() == 0


def test_the_environment_of_a_server_is_not_that_of_its_jobs(start: Callable[..., Host], state_dir: Path) -> None:
    few = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TERM") if name in os.environ}
    for environment in (
        {**os.environ, "ANTHROPIC_API_KEY": "k-secret", "GITHUB_TOKEN": "t-secret"},  # all that there is
        {**few, "SUPERVISOR_STATE_DIR": str(state_dir)},  # a handful
    ):
        host = start(env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
        host.initialize()
        told = host.call("tell", wait_seconds=20)["value"]
        assert "secret" not in told
        names = {line.partition("=")[0] for line in told.splitlines()}
        assert {"PATH", "SUPERVISOR_JOB_ID"} <= names
        assert names <= {"HOME", "LANG", "PATH", "TERM", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANGUAGE"} | {
            "SUPERVISOR_JOB_ID", "PWD", "SHLVL", "_",
        } | {name for name in names if name.startswith("LC_")}  # fmt: skip


def test_a_call_that_took_too_long_is_cancelled_and_the_job_goes_on(start: Callable[..., Host], fifo: Path) -> None:
    host = start()
    host.initialize()
    job_id = host.call("hold", fifo=str(fifo))["job_id"]
    waiting = host.request("tools/call", name="job_wait", arguments={"job_id": job_id, "timeout_seconds": 3000})
    host.send({"method": "notifications/cancelled", "params": {"requestId": waiting, "reason": "time-out"}})
    assert host.call("job_status", job_id=job_id)["status"] == "running"
    release(fifo)
    assert host.call("job_wait", job_id=job_id)["status"] == "done"
    assert host.call("job_result", job_id=job_id)["value"] == "begun\nreleased\n"


def test_nothing_of_a_job_gets_into_the_protocol(start: Callable[..., Host]) -> None:
    host = start()
    host.initialize()
    result = host.call("noisy", wait_seconds=20)
    assert (result["ok"], result["value"]) == (True, "")  # and its stdin was empty
    assert host.call("job_list")["jobs"]


# ---------------------------------------------------------------- endings


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_and_no_job(start: Callable[..., Host], fifo: Path, number: int) -> None:
    """It waits neither for a call whose job runs on, nor for the job."""
    host = start()
    host.initialize()
    job_id = host.call("hold", fifo=str(fifo))["job_id"]
    host.request("tools/call", name="job_wait", arguments={"job_id": job_id})
    host.call("job_status", job_id=job_id)
    host.process.send_signal(number)
    assert host.ended() == 0
    host = start()
    host.initialize()
    assert host.call("job_status", job_id=job_id)["status"] == "running"


def test_a_signal_before_anything_was_said(start: Callable[..., Host]) -> None:
    host = start()
    host.process.send_signal(signal.SIGTERM)
    assert host.ended() in {0, -signal.SIGTERM}


def test_two_signals_as_claude_code_sends_them(start: Callable[..., Host]) -> None:
    host = start()
    host.initialize()
    host.process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        host.ended(0.1)
    host.process.send_signal(signal.SIGTERM)
    assert host.ended() in {0, -signal.SIGTERM}


def test_what_was_read_is_answered_before_the_end_of_file_ends_it(start: Callable[..., Host], fifo: Path) -> None:
    host = start()
    host.initialize()
    job_id = host.call("hold", fifo=str(fifo))["job_id"]
    waiting = host.request("tools/call", name="job_wait", arguments={"job_id": job_id, "timeout_seconds": 3000})
    starting = host.request("tools/call", name="tell", arguments={"wait_seconds": 3000})
    listing = host.request("tools/list")
    host.close()
    assert host.reply(listing)["result"]["tools"]
    assert host.called(host.reply(waiting)["result"])["status"] == "running"
    assert host.called(host.reply(starting)["result"])["ok"] is True
    assert host.ended() == 0


def test_the_first_request_may_be_followed_by_the_end_of_file(start: Callable[..., Host], tmp_path: Path) -> None:
    shape = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT}
    asked = [
        {"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": shape},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "job_list", "arguments": {}}},
    ]
    script = tmp_path / "script"  # a file, which no event loop can wait for
    script.write_text("\n\nnot json\n" + "\n".join(map(json.dumps, asked)), encoding="utf-8")  # and no last newline
    with script.open("rb") as stdin:
        host = start(stdin=stdin, stderr=subprocess.DEVNULL)
    assert host.process.stdout is not None
    replies = {reply["id"]: reply for reply in map(json.loads, host.process.stdout)}
    assert host.ended() == 0
    assert replies["a"]["result"]["serverInfo"]["name"] == "trio-supervisor"
    assert replies[2]["result"]["structuredContent"] == {"ok": True, "jobs": [], "next_cursor": None}


def test_a_host_that_was_killed_leaves_nothing_but_the_jobs(start: Callable[..., Host], fifo: Path) -> None:
    host = start()
    host.initialize()
    job_id = host.call("hold", fifo=str(fifo))["job_id"]
    host.request("tools/call", name="job_wait", arguments={"job_id": job_id})
    assert host.process.stdout is not None
    host.process.stdout.close()  # the answer has no reader
    host.close()
    assert host.ended() == 0
    another = start()
    another.initialize()
    release(fifo)
    assert another.call("job_wait", job_id=job_id)["status"] == "done"


def test_kill_9_and_another_server_goes_on(start: Callable[..., Host], fifo: Path) -> None:
    host = start()
    host.initialize()
    job_id = host.call("hold", fifo=str(fifo), idempotency_key="once")["job_id"]
    host.process.kill()
    host.ended()
    another = start()
    another.initialize()
    assert another.call("hold", fifo=str(fifo), idempotency_key="once")["job_id"] == job_id
    threading.Thread(target=release, args=(fifo,)).start()
    assert another.call("job_wait", job_id=job_id)["status"] == "done"
    assert another.call("job_result", job_id=job_id)["value"] == "begun\nreleased\n"


def test_a_task_survives_kill_9(start: Callable[..., Host], fifo: Path) -> None:
    capabilities = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}}}
    meta = {**META, **capabilities}
    host = start()
    made = host.ask("tools/call", name="hold", arguments={"fifo": str(fifo)}, _meta=meta)
    assert (made["resultType"], made["status"]) == ("task", "working")
    host.process.kill()
    host.ended()
    another = start()
    task = another.ask("tasks/get", taskId=made["taskId"], _meta=meta)
    assert task["status"] == "working"
    assert host.called(another.ask("tools/call", name="job_status", arguments={"job_id": made["taskId"]}, _meta=meta))
    release(fifo)
    another.ask("tools/call", name="job_wait", arguments={"job_id": made["taskId"]}, _meta=meta)
    ended = another.ask("tasks/get", taskId=made["taskId"], _meta=meta)
    assert ended["status"] == "completed"
    assert host.called(ended["result"])["value"] == "begun\nreleased\n"


# ---------------------------------------------------------------- before the SDK is imported

HELD = """
import sys

class Hold:
    def find_spec(self, name, path=None, target=None):
        if name == "mcp.server":
            open({fifo!r}).close()  # until the test opens it
        return None

sys.meta_path.insert(0, Hold())
"""


@pytest.fixture
def recorded(start: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_LOG", "debug")
    host = start(stderr=subprocess.PIPE)
    host.initialize()
    assert host.process.stderr is not None
    assert any(b"mcp_recorded" in each for each in host.process.stderr)
    host.process.stderr.close()
    host.process.kill()
    monkeypatch.setenv("SUPERVISOR_LOG", "warning")


@pytest.fixture
def held(fifo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs import the SDK once this FIFO was opened and closed."""
    folder = tmp_path / "held"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HELD.format(fifo=str(fifo)), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    return fifo


@pytest.mark.usefixtures("recorded")
def test_the_first_answers_come_before_the_sdk_is_imported(start: Callable[..., Host], held: Path) -> None:
    host = start(stderr=subprocess.PIPE)
    assert host.initialize()["serverInfo"]["name"] == "trio-supervisor"
    tools = host.ask("tools/list")["tools"]
    assert "job_wait" in {each["name"] for each in tools}
    asked = host.request("tools/call", name="job_list", arguments={})
    held.open("wb").close()  # nothing is written: its reader closes it at once
    assert host.called(host.reply(asked)["result"])["ok"] is True
    assert host.ask("tools/list")["tools"] == tools
    host.close()
    assert host.ended() == 0
    assert host.process.stderr is not None
    assert b"differs" not in host.process.stderr.read()


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_before_the_sdk_is_imported(start: Callable[..., Host], held: Path, number: int) -> None:
    host = start(stderr=subprocess.DEVNULL)
    host.initialize()
    host.process.send_signal(number)
    assert host.ended() in {130, -number}
    assert held.exists()


# ---------------------------------------------------------------- trouble


def test_a_state_root_that_is_unusable_is_told_in_every_answer(start: Callable[..., Host], state_dir: Path) -> None:
    state_dir.chmod(0o755)
    host = start(stderr=subprocess.DEVNULL)
    host.initialize()
    for _ in range(2):
        refused = host.call("job_list")
        assert refused["error"]["code"] == "state_unsafe"
        assert "chmod 700" in refused["error"]["repair"]
    state_dir.chmod(0o700)
    assert host.call("job_list")["ok"] is True  # once repaired, without a restart


def test_a_line_that_is_longer_than_any_message(start: Callable[..., Host]) -> None:
    host = start(stderr=subprocess.DEVNULL)
    host.initialize()
    assert host.process.stdin is not None
    host.process.stdin.write(b'{"jsonrpc":"2.0","id":9,"method":"' + b"x" * (17 << 20) + b'"}\n')
    assert host.call("job_list")["ok"] is True


def test_a_kinds_file_with_a_mistake(start: Callable[..., Host], tmp_path: Path) -> None:
    (tmp_path / "kinds.toml").write_text("[kind.k]\ncomand = 1\n", encoding="utf-8")
    host = start("--json", stderr=subprocess.PIPE)
    out, err = host.process.communicate(timeout=PATIENCE)
    assert host.process.returncode == 2
    assert out == b""  # stdout, which a host reads as the protocol
    assert b"kinds.toml, line 2, in [kind.k]: there is no key 'comand' here" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--no-token",), b"--no-token needs --http"),
        (("--allow-host", "x"), b"--allow-host needs --http"),
        (("--allow-command", "a 'b"), b"No closing quotation"),
        (("--allow-command", ""), b"--allow-command is empty"),
        (("--http", "8000"), b"it accepts HOST:PORT"),
        (("--http", "127.0.0.1:99999"), b"it accepts HOST:PORT"),
        (("--http", "0.0.0.0:0", "--no-token"), b"--no-token is for loopback"),
        (("--http", "203.0.113.7:0"), b"cannot listen on 203.0.113.7:0"),
    ],
)
def test_options_that_do_not_fit(start: Callable[..., Host], words: tuple[str, ...], says: bytes) -> None:
    host = start(*words, stderr=subprocess.PIPE)
    out, err = host.process.communicate(timeout=PATIENCE)
    assert host.process.returncode != 0
    assert (out, says in err) == (b"", True), err


@pytest.mark.usefixtures("state_dir")
def test_a_relative_path_in_the_environment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kinds.toml").write_text("[kind.k]\n", encoding="utf-8")
    environment = {
        **os.environ,
        "SUPERVISOR_CONFIG": "kinds.toml",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "mcp"],
        cwd=tmp_path,
        env=environment,
        input=b"",
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert b"it accepts an absolute path" in done.stderr


def test_without_the_extra_it_says_what_to_install(state_dir: Path) -> None:
    program = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {"mcp", "hypercorn"} else find(name, package)
from supervisor.cli.app import app
app.main(["mcp"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert 'pip install "trio-supervisor[mcp]"' in done.stderr
    assert state_dir.exists()


def test_the_examples_are_printed_and_can_be_served(start: Callable[..., Host], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "mcp", "--print-examples"],
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    (tmp_path / "kinds.toml").write_bytes(done.stdout)
    agent = tmp_path / "bin" / "claude"
    agent.parent.mkdir()
    envelope = {"type": "result", "subtype": "success", "is_error": False, "result": json.dumps({"verdict": "pass"})}
    agent.write_text(f"#!/bin/sh\ngrep -q new_line || exit 9\nprintf '%s' '{json.dumps(envelope)}'\n", encoding="utf-8")
    agent.chmod(0o755)
    workspace = tmp_path / "workspace"
    subprocess.run(["git", "init", "-q"], cwd=workspace, check=True)
    (workspace / "a.py").write_text("new_line = 1\n", encoding="utf-8")
    path = f"{agent.parent}{os.pathsep}{os.environ['PATH']}"
    host = start(env={**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    host.initialize()
    result = host.call("review", scope="working", wait_seconds=60)
    assert result["ok"] is True, result
    assert result["value"]["verdict"] == "pass"


def test_examples_in_a_file_are_not_writable_by_others(start: Callable[..., Host], tmp_path: Path) -> None:
    """With the umask that many systems give their users."""
    file = tmp_path / "kinds.toml"
    file.unlink()
    command = f"umask 002; exec {sys.executable} -m supervisor mcp --print-examples > {file}"
    subprocess.run(["sh", "-c", command], check=True, timeout=PATIENCE)
    assert file.stat().st_mode & 0o777 == 0o644
    host = start()
    host.initialize()
    assert "review" in {tool["name"] for tool in host.ask("tools/list")["tools"]}


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (KINDS, 0o600, None),
        (KINDS, 0o664, "others may write the kinds file"),
        ("[kind.k]\ncomand = 1\n", 0o600, "there is no key 'comand' here"),
        ('[kind.k]\ndescription = "d"\ncommand = ["x"]\nworkspaces = ["/"]\n', 0o600, "contains the state root"),
    ],
)
def test_doctor_and_the_server_accept_the_same(
    start: Callable[..., Host], tmp_path: Path, text: str, mode: int, says: str | None
) -> None:
    file = tmp_path / "kinds.toml"
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    host = start(stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, err = host.process.communicate(timeout=PATIENCE)
    assert (host.process.returncode, (says or "").encode() in err) == (2 if says else 0, True)
    command = [sys.executable, "-m", "supervisor", "doctor", "--json"]
    done = subprocess.run(
        command, env=os.environ | {"SUPERVISOR_CONFIG": str(file)}, capture_output=True, check=False, timeout=60
    )
    (check,) = (each for each in json.loads(done.stdout)["checks"] if each["name"] == "kinds file")
    assert check["verdict"] == ("problem" if says else "fine")
    assert (says or "tell, hold, noisy") in check["message"]


def test_nothing_is_polled_while_nothing_happens(start: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits for its host uses no processor time to speak of, once it has loaded what it may need."""
    monkeypatch.setenv("SUPERVISOR_LOG", "debug")
    host = start(stderr=subprocess.PIPE)
    host.initialize()
    host.call("job_list")
    assert host.process.stderr is not None
    logged = b""
    while b"installation_loaded" not in logged:
        assert select.select([host.process.stderr], [], [], PATIENCE)[0], logged
        piece = os.read(host.process.stderr.fileno(), 65536)
        assert piece, logged
        logged += piece

    def used() -> float:
        fields = Path(f"/proc/{host.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    assert host.process.stdout is not None
    readable, _, _ = select.select([host.process.stdout], [], [], 2)
    assert not readable
    assert used() - before < 0.1
