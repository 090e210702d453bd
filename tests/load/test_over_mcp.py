"""A load through real MCP servers: one over stdio that it starts, and one over HTTP with a token."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

pytest.importorskip("mcp")

from supervisor.cli.app import app
from supervisor.load.program import allow_pattern

MIX = """
rate = 20
for_seconds = 1
arrivals = "constant"
seed = 5

[job.plain]
share = 4
seconds = "uniform:0:0.2"
output_bytes = 150000          # more than a tool answers with unless it is asked for more

[job.fails]
exit_code = 3
output_bytes = 1000
stderr_bytes = 20

[job.cancelled]
cancel_after_seconds = 0.2
output_bytes = 1000

[job.late]
deadline_seconds = 0.3
output_bytes = 1000
"""


@attrs.frozen
class Bench:
    """The command, with a mix and directories of its own; in this process, since another would load the SDK anew."""

    workspace: Path
    mix: Path

    def __call__(self, *words: str, status: int = 0, token: str | None = None) -> Any:
        command = ["bench", "--json", "--mix", str(self.mix), *words]
        done = CliRunner().invoke(app, command, env={"SUPERVISOR_MCP_TOKEN": token})
        assert done.exit_code == status, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def jobs(self) -> list[Any]:
        done = CliRunner().invoke(app, ["list", "--all", "--limit", "1000", "--json"])
        found: list[Any] = json.loads(done.stdout)["jobs"]
        return found


@pytest.fixture
def bench(state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    del state_dir
    (tmp_path / "mix.toml").write_text(MIX, encoding="utf-8")
    for name in ("scratch", "workspace"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it remembers what TMPDIR was
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.2")
    monkeypatch.chdir(tmp_path / "workspace")
    return Bench(tmp_path / "workspace", tmp_path / "mix.toml")


@attrs.frozen
class Server:
    """A server over HTTP."""

    process: subprocess.Popen[bytes]
    url: str
    token_file: str


@pytest.fixture
def server(bench: Bench) -> Iterator[Server]:
    del bench  # it has set up what the server is to find
    command = [sys.executable, "-m", "supervisor", "mcp", "--json", "--http", "127.0.0.1:0"]
    command += ["--allow-command", allow_pattern()]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(process.kill)
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield Server(process, said["url"], said["token_file"])


def check(shape: Any) -> None:
    assert shape["ok"] is True, shape
    jobs = shape["jobs"]
    assert jobs["due"] == jobs["acknowledged"] == 20
    assert {state: jobs[state] for state in ("done", "failed", "cancelled", "timeout")} == {
        state: jobs["by_sort"][sort]
        for sort, state in {"plain": "done", "fails": "failed", "cancelled": "cancelled", "late": "timeout"}.items()
    }
    assert shape["latency_ms"]["exit_known"]["count"] == jobs["done"] + jobs["failed"]
    assert shape["generator"]["with_supervisor"] is False


def test_a_server_that_is_started_for_it(bench: Bench, tmp_path: Path) -> None:
    shape = bench("--stdio")
    check(shape)
    assert shape["target"] == {"kind": "mcp", "transport": "stdio", "command": "supervisor mcp"}
    assert bench.jobs() == []
    assert list((tmp_path / "scratch").iterdir()) == []
    kept = bench("--stdio", "--keep", "--jobs", "5")
    assert kept["not_checked"] == []
    assert [job["labels"]["bench"] for job in bench.jobs()] == [kept["run"]] * 5


def test_a_server_of_ones_own_over_stdio(bench: Bench) -> None:
    serve = ("--", sys.executable, "-m", "supervisor", "mcp")
    error = bench("--stdio", *serve, status=125)["error"]
    assert error["code"] == "endpoint_failed"
    assert "no tool 'job_start'" in error["message"]
    assert "--print-allow" in error["repair"]
    error = bench("--stdio", *serve, "--allow-command", "true", status=125)["error"]
    assert error["details"]["code"] == "invalid_arguments"
    shape = bench("--jobs", "3", "--stdio", *serve, "--allow-command", allow_pattern())
    assert shape["jobs"]["acknowledged"] == 3
    assert shape["target"]["command"][1:] == [*serve[2:], "--allow-command", allow_pattern()]
    for dead in ("false", "surely-no-such-command"):
        assert bench("--stdio", "--", dead, status=125)["error"]["code"] == "endpoint_failed"


def test_a_server_over_http(bench: Bench, server: Server) -> None:
    check(bench("--url", server.url, "--token-file", server.token_file))
    token = Path(server.token_file).read_text(encoding="ascii").strip()
    elsewhere = bench.workspace / "below"
    elsewhere.mkdir()
    shape = bench("--url", server.url, "--jobs", "3", "--keep", "--workspace", str(elsewhere), token=token)
    assert shape["jobs"]["acknowledged"] == 3
    assert {job["workspace"] for job in bench.jobs()} == {str(elsewhere)}
    for wrong in (None, "x" * 40):
        error = bench("--url", server.url, status=125, token=wrong)["error"]
        assert error["code"] == "endpoint_failed"
        assert "SUPERVISOR_MCP_TOKEN" in error["repair"]
        assert token not in json.dumps(error)


def test_a_server_that_dies_costs_calls_and_not_the_report(bench: Bench, server: Server) -> None:
    command = [sys.executable, "-m", "supervisor", "bench", "--json", "--rate", "10", "--for", "6", "--url", server.url]
    command += ["--token-file", server.token_file, "--duration", "60"]  # none of which ends before the server does
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"started (" not in (line := process.stderr.readline()):
            assert line
        server.process.kill()
        out, _ = process.communicate(timeout=60)
    shape = json.loads(out)
    assert process.returncode == 1, out
    assert shape["error"]["code"] == "load_failed"
    assert shape["errors"]["start: connection"] == shape["jobs"]["refused"] > 0
    assert set(shape["wrong"]) == {"call"}
    assert shape["not_forgotten"] > 0
    # The jobs run on, and every client finds them.
    unfinished = {job["job_id"] for job in bench.jobs()}
    assert {example["job_id"] for example in shape["examples"]} - {None} <= unfinished
    wait = [sys.executable, "-m", "supervisor", "cancel", "--label", f"bench={shape['run']}"]
    subprocess.run(wait, check=True, capture_output=True, timeout=60)
