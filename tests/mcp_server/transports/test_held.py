"""What requests and answers of one caller over HTTP hold in memory, and the answers of requests that are refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervisor.http import accepting, guard, serving
from supervisor.http.guard import Caller, Limited
from supervisor.http.hosts import KnownHosts
from supervisor.http.listening import Address
from supervisor.http.shares import Room
from supervisor.mcp_server.transports import http
from supervisor.testing import Script
from tests.mcp_server.conftest import Servers
from tests.mcp_server.transports.test_limits import TOKENS, initialize, message, served

MODERN = "2026-07-28"


def modern(method: str, called: str, /, **params: Any) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request without a session."""
    meta = {"protocolVersion": MODERN, "clientCapabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    held = {**params, "_meta": {f"io.modelcontextprotocol/{each}": value for each, value in meta.items()}}
    return message(method, **held), {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, "Mcp-Name": called}


async def test_bodies_are_bounded_for_each_principal(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BODIES_BYTES", 2000)  # one of these, and what else a client has just sent
    monkeypatch.setattr(accepting, "_HALF_CLOSED_SECONDS", 0)  # the client that goes holds nothing longer
    servers.script = Script(seconds=3000)
    async with served(servers) as server, server.requests() as hers, server.requests("bob") as his:
        session = {"Mcp-Session-Id": (await initialize(hers)).headers["mcp-session-id"]}
        call = message(
            "tools/call", name="count", arguments={"upto": 3, "wait_seconds": 40, "labels": {"a": "x" * 900}}
        )
        async with hers.stream("POST", "/mcp", content=call, headers=session) as first:
            assert first.status_code == 200  # it waits, and holds its body
            refused = await hers.post("/mcp", content=call, headers=session)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert (await initialize(his)).status_code == 200
        again = message("ping", x="y" * 900)
        statuses = [0]
        while statuses[-1] in {0, 429}:  # until the server has seen that the client of the first one has gone
            statuses.append((await hers.post("/mcp", content=again, headers=session)).status_code)
        assert statuses[-1] == 200


@pytest.mark.parametrize(
    ("head", "size"),
    [
        ([(b"content-length", b"17")], 17),
        ([(b"content-length", b"99999999999999999999999")], 4 << 20),
        ([(b"content-length", b"no")], 4 << 20),
        ([(b"transfer-encoding", b"chunked")], 4 << 20),
        ([], 0),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_body_of_unknown_length_counts_as_the_largest(
    head: list[tuple[bytes, bytes]], size: int, version: str
) -> None:
    caller = Caller(principal="alice")
    held: list[bool] = []

    async def app(scope: Any, *_: Any) -> None:
        scope["room"].close()
        held.append(
            limited._requests._by_caller["alice", True].bodies.has_room(guard._BODIES_BYTES - (size or unknown))
        )
        held.append(
            limited._requests._by_caller["alice", True].bodies.has_room(guard._BODIES_BYTES - (size or unknown) + 1)
        )

    unknown = 4 << 20 if version == "2" else 0
    limited = Limited(app)
    scope = {"type": "http", "caller": caller, "headers": head, "http_version": version, "method": "POST"}
    await limited(scope, None, None)  # type: ignore[arg-type]
    assert held == [True, not (size or unknown)]
    assert not limited._requests._by_caller


async def test_a_large_answer_waits_until_the_one_before_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_ANSWERS_BYTES", 10)
    read = trio.Event()
    made: list[str] = []

    async def app(scope: Any, _: Any, send: Any) -> None:
        await scope["room"].reserve(8)
        made.append(scope["path"])
        await send(scope["path"])

    async def send(path: str) -> None:
        if path == "first":
            await read.wait()

    async def ask(principal: str, path: str) -> None:
        caller = Caller(principal=principal)
        scope = {"type": "http", "caller": caller, "path": path, "headers": [], "http_version": "1.1", "method": "POST"}
        await limited(scope, None, send)  # type: ignore[arg-type]

    limited = Limited(app)
    async with trio.open_nursery() as nursery:
        for principal, path in (("alice", "first"), ("alice", "second"), ("bob", "his")):
            nursery.start_soon(ask, principal, path)
            await wait_all_tasks_blocked()
        with trio.move_on_after(0):  # a client that goes leaves nothing behind
            await ask("alice", "gone")
        assert made == ["first", "his"]
        read.set()
    assert made == ["first", "his", "second"]
    assert not limited._requests._by_caller


async def test_large_answers_are_made_one_after_the_other(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_ANSWERS_BYTES", 4)
    monkeypatch.setattr(http, "_RESOURCE_BYTES", 4)
    open_rooms: set[Room] = set()
    most = 0
    reserve, close = Room.reserve, Room.close

    async def counted(room: Room, size: int) -> None:
        nonlocal most
        await reserve(room, size)
        open_rooms.add(room)
        most = max(most, len(open_rooms))

    def closed(room: Room) -> None:
        open_rooms.discard(room)
        close(room)

    monkeypatch.setattr(Room, "reserve", counted)
    monkeypatch.setattr(Room, "close", closed)
    servers.script = Script(stdout=b"x" * (1 << 18))
    async with served(servers) as server, server.requests() as hers:
        body, headers = modern("tools/call", "count", name="count", arguments={"upto": 3, "wait_seconds": 30})
        found = re.search(r"[0-9a-f]{32}", (await hers.post("/mcp", content=body, headers=headers)).text)
        assert found is not None
        uri = f"job://{found[0]}/stdout"
        body, headers = modern("resources/read", uri, uri=uri)
        names = {"Host": "localhost", "Authorization": f"Bearer {TOKENS['alice']}", "Content-Type": "application/json"}
        names |= {"Accept": "application/json, text/event-stream", "Content-Length": str(len(body)), **headers}
        head = "POST /mcp HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in names.items()) + "\r\n"
        told: list[bytes] = []

        async def ask() -> None:
            stream = await server.connect()
            await stream.send_all(head.encode() + body)
            end = b""
            while not end.endswith((b"}", b"0\r\n\r\n")):
                chunk = bytes(await stream.receive_some(1 << 20))
                assert chunk
                end = end[-10:] + chunk
            told.append(end)
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
        assert len(told) == 6
        assert most == 1  # one at a time


@pytest.mark.parametrize(
    ("method", "params", "size"),
    [
        ("ping", {}, 0),
        ("resources/read", {}, 4 << 20),
        ("tools/call", {"name": "job_logs"}, 0),
        ("tools/call", {"arguments": {"max_characters": 40_000}}, 0),
        ("tools/call", {"arguments": {"max_characters": 100_000}}, 400_000),
        ("tools/call", {"arguments": {"max_characters": 10**30}}, 4 << 20),
        ("tools/call", {"arguments": {"max_characters": "many"}}, 0),
        ("tools/call", {"arguments": []}, 0),
    ],
)
def test_which_answers_may_be_large(method: str, params: Any, size: int) -> None:
    assert http._answer_bytes(method, params) == size


async def test_a_refusal_is_read_also_by_one_who_sends_a_large_body(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_UNREAD_SECONDS", 60)
    body = json.dumps({"x": "y" * (3 << 20)}).encode()
    async with served(servers) as server, server.requests() as hers:
        for headers, status in (({"Authorization": "Bearer no"}, 401), ({"Host": "evil.example"}, 421)):
            assert (await hers.post("/mcp", content=body, headers=headers)).status_code == status


async def test_a_body_that_is_too_large_is_read_before_the_answer(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_UNREAD_SECONDS", 60)
    async with served(servers) as server, server.requests() as hers:
        assert (await hers.post("/mcp", content=b"x" * (6 << 20))).status_code == 413


async def test_a_client_that_ends_its_side_gets_its_answer(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_HALF_CLOSED_SECONDS", 60)
    body = message(
        "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "c", "version": "1"}
    )
    names = {"Host": "localhost", "Authorization": f"Bearer {TOKENS['alice']}", "Content-Type": "application/json"}
    names |= {"Accept": "application/json, text/event-stream", "Content-Length": str(len(body))}
    head = "POST /mcp HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in names.items()) + "\r\n"
    async with served(servers) as server, await server.connect() as stream:
        await stream.send_all(head.encode() + body)
        await stream.send_eof()
        told = b"".join([bytes(chunk) async for chunk in stream])
        assert b"protocolVersion" in told


async def test_a_web_socket_is_refused_by_the_checks() -> None:
    reached: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        reached.append(scope["type"])

    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    await KnownHosts(app, Address("127.0.0.1", 1), ())({"type": "websocket", "headers": []}, None, send)  # type: ignore[arg-type]
    assert (reached, told) == ([], [{"type": "websocket.close"}])
