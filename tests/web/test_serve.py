"""The real ``supervisor serve``: who is let in, health, and its end."""

from __future__ import annotations

import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from supervisor import BlockingSupervisor, Settings
from tests.web.conftest import PATIENCE, Server, Start


def job_on(state_dir: Path, workspace: Path) -> str:
    """Return a job of the owner, which another process than the server has started."""
    with BlockingSupervisor(Settings(state_dir=state_dir)) as sup:
        return sup.start(["true"], workspace=workspace).job_id


def test_tokens_are_made_once_and_are_private(start: Start, state_dir: Path) -> None:
    server = start()
    assert server.token_file == state_dir / "serve-tokens" / "owner"
    for file in (server.token_file, server.token_file.with_name("viewer")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.token_file.parent.stat().st_mode) == 0o700
    assert start().token == server.token


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/x", "/mcp", "/metrics", "/nothing"])
def test_a_token_is_needed(server: Server, path: str) -> None:
    for token in (None, "wrong-wrong-wrong-wrong"):
        with server.client(token) as client:
            answer = client.get(path)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "permission_denied"
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_host_and_origin_are_checked_everywhere(server: Server) -> None:
    with server.client() as client:
        for path in ("/v1/jobs", "/mcp", "/", "/livez", "/readyz"):
            assert client.get(path, headers={"Host": "evil.example"}).status_code == 421
            assert client.get(path, headers={"Host": "127.0.0.1.evil.example"}).status_code == 421
            assert client.get(path, headers={"Origin": "http://evil.example"}).status_code == 403
            assert client.get(path, headers={"Origin": "null"}).status_code == 403
        assert (
            client.get("/v1/jobs", headers={"Host": "localhost:1", "Origin": "http://localhost:3"}).status_code == 200
        )


def test_the_owner_sees_every_job_and_a_principal_only_its_own(server: Server, tmp_path: Path) -> None:
    job_id = job_on(server.state_dir, tmp_path)
    with server.client() as owner, server.client(server.viewer) as viewer:
        for client in (owner, viewer):
            assert [job["job_id"] for job in client.get("/v1/jobs").json()["jobs"]] == [job_id]
            assert client.get(f"/v1/jobs/{job_id}").json()["job_id"] == job_id
    with server.client(server.principal("alice")) as alice:
        assert alice.get("/v1/jobs").json()["jobs"] == []
        answer = alice.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 404
        missing = alice.get(f"/v1/jobs/{'0' * 32}")
        hidden, absent = (each.json()["error"] for each in (answer, missing))
        assert [hidden[name] for name in ("code", "repair")] == [absent[name] for name in ("code", "repair")]


def test_without_a_token_every_request_is_the_owners(start: Start, state_dir: Path, tmp_path: Path) -> None:
    job_id = job_on(state_dir, tmp_path)
    server = start("--no-token")
    with server.client(None) as client:
        assert client.get(f"/v1/jobs/{job_id}").status_code == 200
        assert "true" in client.get("/").text


def test_probes_need_no_token(server: Server) -> None:
    with server.client(None) as client:
        assert client.get("/livez").json() == {"ok": True}
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ok": True, "checks": {"state_root": "ok", "disk": "ok"}})


def test_what_is_not_there_is_said_in_the_failure_shape(server: Server) -> None:
    with server.client() as client:
        for answer, status in ((client.get("/nothing"), 404), (client.delete("/v1/jobs"), 405)):
            shape: dict[str, Any] = answer.json()
            assert (answer.status_code, shape["status"], shape["ok"]) == (status, status, False)
            assert answer.headers["content-type"] == "application/problem+json"
        assert client.get("/v1/jobs?nothing=1").json()["error"]["details"] == {"argument": "nothing"}


def test_two_servers_on_one_state_root(start: Start, state_dir: Path, tmp_path: Path) -> None:
    job_id = job_on(state_dir, tmp_path)
    for server in (start(), start()):
        with server.client() as client:
            assert client.get(f"/v1/jobs/{job_id}").status_code == 200


def test_it_ends_in_order_with_clients_connected(own_server: Server) -> None:
    with socket.create_connection(("127.0.0.1", own_server.port)) as idle, own_server.client() as client:
        assert client.get("/v1/jobs").status_code == 200
        own_server.process.send_signal(signal.SIGTERM)
        assert own_server.process.wait(PATIENCE) == 0
        assert idle.recv(1) == b""
