"""The limits of one peer or principal over HTTP, which leave room for the others."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
import trio

from supervisor import open_supervisor
from supervisor.errors import InvalidArguments, PermissionDenied, StateUnsafe
from supervisor.http import accepting, guard, listening, serving
from supervisor.http.guard import Callers, Guard, Limited
from supervisor.http.hosts import KnownHosts
from supervisor.http.listening import Address, parse_address
from supervisor.http.tokens import Tokens
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.options import Options
from supervisor.mcp_server.serving import assemble
from supervisor.mcp_server.tools import resources
from supervisor.mcp_server.transports import http, sessions
from supervisor.mcp_server.transports.http import Endpoint
from supervisor.testing import Script
from tests.mcp_server.conftest import KINDS, Servers

PATIENCE = 60.0
TOKENS = {"alice": "alices-token-0123456789", "bob": "bobs-token-0123456789"}
NAMES = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


@attrs.frozen
class Server:
    address: Address

    def requests(self, name: str = "alice") -> httpx2.AsyncClient:
        headers = {**NAMES, "Authorization": f"Bearer {TOKENS[name]}"}
        transport = None if self.address.path is None else httpx2.AsyncHTTPTransport(uds=self.address.path)
        at = "localhost" if self.address.path else str(self.address)
        return httpx2.AsyncClient(
            base_url=f"http://{at}", headers=headers, timeout=PATIENCE, transport=transport, trust_env=False
        )

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(self.address.host, self.address.port)


@contextlib.asynccontextmanager
async def served(servers: Servers, address: str = "127.0.0.1:0", *, events: bool = False) -> AsyncIterator[Server]:
    tokens = Tokens(servers.settings.state_dir)
    for name, token in TOKENS.items():
        (tokens.directory / name).touch(mode=0o600)
        (tokens.directory / name).write_text(token)
    options = Options(settings=servers.settings, kinds=kinds_file.parse(KINDS, "kinds.toml"), events=events)
    lazy = LazySupervisor(lambda: open_supervisor(servers.settings, engine=servers.engine))
    server = assemble(options, lazy, trust_roots=False, tokens=tokens)
    found: list[Address] = []
    listens, over, ended = trio.Event(), trio.Event(), trio.Event()

    def started(bound: Address) -> None:
        found.append(bound)
        lazy.begin()
        listens.set()

    async def serve() -> None:
        at = parse_address(address)
        app = KnownHosts(Guard(Limited(Endpoint(server)), Callers(tokens)), at, ())
        await serving.serve(app, at, shutdown=over.wait, started=started)
        ended.set()

    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lazy.run)
            nursery.start_soon(serve)
            await listens.wait()
            yield Server(found[0])
            lazy.ending.set()
            over.set()
            await ended.wait()
            nursery.cancel_scope.cancel()


def message(method: str, request_id: int = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


async def initialize(requests: httpx2.AsyncClient) -> httpx2.Response:
    client = {"name": "c", "version": "1"}
    shape = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    return await requests.post("/mcp", content=message("initialize", **shape))


async def ping(requests: httpx2.AsyncClient, session: str) -> int:
    reply = await requests.post("/mcp", content=message("ping"), headers={"Mcp-Session-Id": session})
    return reply.status_code


# ---------------------------------------------------------------- connections


OPENED = (
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alices-token-0123456789\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
)
UPGRADED = (
    b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"P",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        OPENED,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        UPGRADED,
    ],
)
async def test_a_connection_without_a_whole_request_ends(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(accepting, "_REQUEST_SECONDS", 0.2)
    async with served(servers) as server, await server.connect() as stream:
        await stream.send_all(said)
        with contextlib.suppress(trio.BrokenResourceError):  # reset, as something was left unread
            while await stream.receive_some():
                pass


async def test_one_that_says_a_little_all_the_time_ends_too(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_REQUEST_SECONDS", 0.2)
    async with served(servers) as server, await server.connect() as stream:
        await stream.send_all(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(trio.BrokenResourceError):
            while True:  # until it is taken no more
                await stream.send_all(b"X: y\r\n")
                await trio.sleep(0.02)


async def test_a_request_that_is_served_has_all_the_time_it_needs(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "_REQUEST_SECONDS", 1)  # also on a busy machine, a request arrives by then
    servers.script = Script(seconds=3000)
    async with served(servers) as server, server.requests() as requests:
        session = {"Mcp-Session-Id": (await initialize(requests)).headers["mcp-session-id"]}
        call = message("tools/call", name="count", arguments={"upto": 3, "wait_seconds": 1.2})
        reply = await requests.post("/mcp", content=call, headers=session)
        assert '"status":"running"' in reply.text.replace("\\", "").replace(": ", ":")


async def test_who_is_let_in_finds_room(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of clients may connect and send bytes that are no request."""
    monkeypatch.setattr(accepting, "max_connections", lambda: 8)
    async with served(servers) as server, contextlib.AsyncExitStack() as stack:
        for number in range(40):
            stream = await stack.enter_async_context(await server.connect())
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"POST /mcp HTTP/1.1\r\n" if number % 2 else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            if number % 10 == 9:
                async with server.requests() as requests:
                    assert (await initialize(requests)).status_code == 200


async def test_requests_under_way_are_bounded_for_each_principal(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "max_connections", lambda: 4)
    async with served(servers) as server, server.requests() as hers, server.requests("bob") as his:
        one = (await initialize(hers)).headers["mcp-session-id"]
        two = (await initialize(hers)).headers["mcp-session-id"]
        three = (await initialize(hers)).headers["mcp-session-id"]
        async with (
            hers.stream("GET", "/mcp", headers={"Mcp-Session-Id": one}) as first,
            hers.stream("GET", "/mcp", headers={"Mcp-Session-Id": two}) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            refused = await hers.post("/mcp", content=message("ping"), headers={"Mcp-Session-Id": three})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert (await initialize(his)).status_code == 200


# ---------------------------------------------------------------- sessions


async def test_sessions_are_bounded_for_each_principal(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_MAX_SESSIONS", 3)
    async with served(servers) as server, server.requests() as hers, server.requests("bob") as his:
        bobs = (await initialize(his)).headers["mcp-session-id"]
        first = (await initialize(hers)).headers["mcp-session-id"]
        second = (await initialize(hers)).headers["mcp-session-id"]
        for _ in range(10):
            assert await ping(hers, first) == 200  # that it is used keeps it
            assert (await initialize(hers)).status_code == 200
        assert [await ping(hers, each) for each in (first, second)] == [200, 404]
        assert await ping(his, bobs) == 200
        assert (await hers.delete("/mcp", headers={"Mcp-Session-Id": first})).status_code == 200
        assert await ping(hers, first) == 404


async def test_a_session_that_is_not_used_ends(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SESSION_IDLE_SECONDS", 0.2)
    async with served(servers) as server, server.requests() as requests:
        session = (await initialize(requests)).headers["mcp-session-id"]
        await trio.sleep(1)  # it is the clock that ends it, and asking would keep it
        assert await ping(requests, session) == 404


async def test_subscriptions_are_bounded_for_each_principal(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_MAX_OF_A_PRINCIPAL", 2)
    servers.script = Script(seconds=3000)
    async with served(servers) as server, server.requests() as hers, server.requests("bob") as his:
        for requests in (hers, his):
            session = {"Mcp-Session-Id": (await initialize(requests)).headers["mcp-session-id"]}
            noted = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
            await requests.post("/mcp", content=noted, headers=session)
            call = message("tools/call", name="count", arguments={"upto": 3})
            job_id = (await requests.post("/mcp", content=call, headers=session)).text.partition('"job_id":"')[2][:32]
            uris = [f"job://{job_id}{each}" for each in ("", "/stdout", "/stderr")]
            told = []
            for method, uri in [
                *(("subscribe", uri) for uri in uris),
                ("subscribe", uris[0]),  # as it is already
                ("unsubscribe", uris[0]),
                ("subscribe", uris[2]),
            ]:
                asked = message(f"resources/{method}", uri=uri)
                told.append(
                    "too many subscriptions" in (await requests.post("/mcp", content=asked, headers=session)).text
                )
            assert told == [False, False, True, False, False, False]


async def test_a_stream_that_is_to_be_resumed_begins_anew(servers: Servers) -> None:
    async with served(servers) as server, server.requests() as requests:
        session = (await initialize(requests)).headers["mcp-session-id"]
        headers = {"Mcp-Session-Id": session, "Last-Event-ID": "7"}
        async with requests.stream("GET", "/mcp", headers=headers) as stream:
            assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
        reply = await requests.post("/mcp", content=message("ping"), headers=headers)
        assert reply.status_code == 200


# ---------------------------------------------------------------- a UNIX socket


async def test_a_unix_socket_is_its_owners(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "run" / "mcp.sock"
    path.parent.mkdir(mode=0o755)
    umask = os.umask(0)
    try:
        async with served(servers, f"unix:{path}") as server, server.requests() as requests:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert (await initialize(requests)).status_code == 200
            for headers, status in (({"Host": "evil.example"}, 421), ({"Authorization": "Bearer no"}, 401)):
                assert (await requests.post("/mcp", content=message("ping"), headers=headers)).status_code == status
            with pytest.raises(PermissionDenied, match="a server listens on it"):
                listening.listen(server.address)
        assert not path.exists()
    finally:
        os.umask(umask)


def test_the_socket_of_a_server_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    address = parse_address(f"unix:{tmp_path}/mcp.sock")
    listening.listen(address).close()
    assert Path(f"{tmp_path}/mcp.sock").exists()
    listening.listen(address).close()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_socket_where_others_could_be_first_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(StateUnsafe):
        listening.listen(Address("localhost", path=f"{directory}/mcp.sock"))
    assert not list(directory.iterdir())


def test_a_socket_below_a_directory_that_others_may_write(tmp_path: Path) -> None:
    below = tmp_path / "open" / "mine"
    below.mkdir(parents=True, mode=0o700)
    below.parent.chmod(0o777)
    with pytest.raises(StateUnsafe, match="can be written by other users"):
        listening.listen(Address("localhost", path=f"{below}/mcp.sock"))


def test_what_is_no_place_for_a_socket(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for path in (file, tmp_path / "none" / "mcp.sock"):
        with pytest.raises(PermissionDenied, match="cannot listen on unix:"):
            listening.listen(Address("localhost", path=str(path)))
    assert file.read_text() == "kept"
    for text in ("unix:", "unix:relative", "unix:/a/", "unix:/" + "x" * 200):
        with pytest.raises(InvalidArguments, match="absolute path"):
            parse_address(text)
    assert (str(parse_address("unix:/a/b")), parse_address("unix:/a/b").loopback) == ("unix:/a/b", True)


def test_only_our_user_is_at_the_other_end() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert listening.peer_is_allowed(one)


# ---------------------------------------------------------------- tokens


def test_two_principals_with_one_token_are_refused_at_the_start(state_dir: Path) -> None:
    tokens = Tokens(state_dir)
    for name in ("alice", "bob"):
        (tokens.directory / name).touch(mode=0o600)
        (tokens.directory / name).write_text("the-same-token-0123456789\n")
    with pytest.raises(StateUnsafe, match="these principals have the same token: alice, bob"):
        Tokens(state_dir)
    assert tokens.principal("the-same-token-0123456789") is None  # of a server that runs


def test_a_token_replaced_in_place_is_noticed_though_its_time_is_kept(state_dir: Path) -> None:
    tokens = Tokens(state_dir)
    file = tokens.directory / "alice"
    file.touch(mode=0o600)
    file.write_text("a" * 20)
    held = file.stat()
    assert tokens.principal("a" * 20) == "alice"
    for letter in "bcdef":
        file.write_text(letter * 20)
        os.utime(file, ns=(held.st_atime_ns, held.st_mtime_ns))
        assert tokens.principal("a" * 20) is None
        assert tokens.principal(letter * 20) == "alice"
