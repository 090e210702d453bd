"""What must not slow other clients down, or take what they need."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from typing import Any

import httpx2
import pytest
import trio

from supervisor.errors import StateBusy
from supervisor.jobdir import records
from supervisor.testing import Script
from tests.web.conftest import PATIENCE, Serve, Start
from tests.web.test_rest import refused, start


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_idle_connections_take_nothing_from_a_client(start: Start, count: int) -> None:
    server = start()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (128, 4096))
    # Between two requests a connection of the client is idle, too, and may be closed for the next one.
    new_ones = httpx2.Limits(max_keepalive_connections=0)
    with contextlib.ExitStack() as stack, server.client(limits=new_ones) as client:
        for _ in range(count):
            idle = stack.enter_context(socket.socket())
            idle.setblocking(False)
            idle.connect_ex(("127.0.0.1", server.port))
        said = client.post("/v1/jobs", json={"kind": "say", "parameters": {"word": "x"}}, params={"wait": 30})
        assert said.json()["status"] == "done"
        assert client.get(f"/v1/jobs/{said.json()['job_id']}/result").json()["value"] == "x\n"
        assert client.get("/readyz").status_code == 200
    assert server.process.poll() is None


async def test_a_log_of_200_mb_is_read_in_bounded_parts(serve_here: Serve) -> None:
    size = 200 << 20
    async with serve_here(job_max_output_bytes=1 << 30) as here, here.client() as client:
        here.script = Script(stdout="x", seconds=None)
        job_id = (await start(client))["job_id"]
        (file,) = here.settings.state_dir.rglob(f"{job_id}/{records.STDOUT}")
        os.truncate(file, size)
        path = f"/v1/jobs/{job_id}"
        for query in ({}, {"offset": 0}, {"offset": size // 2, "limit": 1 << 20}, {"offset": size - 10}):
            answer = await client.get(f"{path}/logs", params=query)
            assert len(answer.content) <= (6 << 20) + 4096  # a NUL takes six characters in JSON
            assert answer.json()["size"] == size
        here.engine.commands[0].finish()
        ended = (await client.get(path, params={"wait": 30})).json()
        assert ended["stdout_bytes"] == size
        error = await refused(await client.get(f"{path}/result"), 400)
        assert "logs" in error["repair"]


async def test_requests_of_one_caller_are_bounded_and_leave_room(
    serve_here: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.http.guard.max_connections", lambda: 4)
    async with serve_here() as here, here.client("alice") as alice, here.client("bob") as bob:
        here.script = Script(seconds=None)
        job_id = (await start(alice))["job_id"]

        async def wait() -> None:
            await alice.get(f"/v1/jobs/{job_id}", params={"wait": 300})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            while here.waiters(job_id) < 2:  # noqa: ASYNC110  # no event tells this test
                await trio.sleep(0.01)
            answer = await alice.get("/v1/jobs")
            await refused(answer, 429, "too_many_requests")
            assert answer.headers["retry-after"] == "1"
            assert (await bob.get("/v1/jobs")).status_code == 200
            nursery.cancel_scope.cancel()


async def test_readyz_says_what_is_not_ready(serve_here: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.web.health._SAME_SECONDS", 0.0)
    async with serve_here() as here, here.client(None) as client:
        monkeypatch.setattr("supervisor.web.health._LEAST_FREE_BYTES", 1 << 62)
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]) == (503, {"state_root": "ok", "disk": "state_full"})

        async def fail(*_: Any) -> None:
            message = f"{here.settings.state_dir} is locked"
            raise StateBusy(message)

        monkeypatch.setattr(here.supervisors[-1], "groups", fail)
        answer = await client.get("/readyz")
        assert answer.json()["checks"]["state_root"] == "state_busy"
        assert str(here.settings.state_dir) not in answer.text
        assert (await client.get("/livez")).status_code == 200


async def test_many_probes_look_once(serve_here: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def look(_: Any) -> dict[str, str]:
        nonlocal looks
        looks += 1
        await trio.lowlevel.checkpoint()
        return {"state_root": "ok"}

    monkeypatch.setattr("supervisor.web.health._SAME_SECONDS", 60.0)
    monkeypatch.setattr("supervisor.web.health._checks", look)
    async with serve_here() as here, here.client(None) as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            assert (await client.get("/readyz")).json() == {"ok": True, "checks": {"state_root": "ok"}}

        for _ in range(10):
            nursery.start_soon(ask)
    assert looks == 1


async def test_a_request_that_never_ends_is_ended(serve_here: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.http.accepting._REQUEST_SECONDS", 0.2)
    async with serve_here() as here:
        port, token = int(here.url.rpartition(":")[2]), here.tokens["owner"]
        async with await trio.open_tcp_stream("127.0.0.1", port) as slow:
            head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            await slow.send_all(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
            with trio.fail_after(PATIENCE):
                with contextlib.suppress(trio.BrokenResourceError):  # reset: it was closed before all was read
                    assert await slow.receive_some() == b""


async def test_html_in_labels_and_output_stays_data(serve_here: Serve) -> None:
    text = "<script>alert(1)</script>"
    async with serve_here() as here, here.client() as client:
        here.script = Script(stdout=text)
        body = {"kind": "say", "parameters": {"word": text}, "labels": {"x": text}}
        job = await start(client, body, wait=30)
        for tail in ("", "/result", "/logs"):
            answer = await client.get(f"/v1/jobs/{job['job_id']}{tail}")
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-content-type-options"] == "nosniff"
