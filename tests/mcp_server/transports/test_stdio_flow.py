"""The stdio transport over pipes in this process: a host that does not read, disconnects, or sends broken lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import pytest
import trio
from mcp_types import INVALID_REQUEST, PARSE_ERROR
from trio.lowlevel import FdStream
from trio.testing import wait_all_tasks_blocked

from supervisor import open_supervisor
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.options import Options
from supervisor.mcp_server.serving import assemble
from supervisor.mcp_server.transports import stdio
from supervisor.testing import Script
from tests.mcp_server.conftest import KINDS, Servers

PATIENCE = 60.0
PING = b'{"jsonrpc":"2.0","id":"ping","method":"ping"}\n'


@attrs.define
class Host:
    """The other ends of a server's stdin and stdout."""

    stdin: FdStream
    stdout: FdStream
    ended: trio.Event = attrs.field(factory=trio.Event)
    held: bytearray = attrs.field(factory=bytearray)

    async def send(self, *lines: bytes | Mapping[str, Any]) -> None:
        for line in lines:
            await self.stdin.send_all(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")

    async def read(self) -> dict[str, Any]:
        while b"\n" not in self.held:
            chunk = await self.stdout.receive_some(1 << 16)
            assert chunk, "the server has ended"
            self.held += chunk
        line, _, rest = self.held.partition(b"\n")
        self.held[:] = rest
        message: dict[str, Any] = json.loads(line)
        return message

    async def ask(self, line: bytes | Mapping[str, Any]) -> dict[str, Any]:
        await self.send(line)
        return await self.read()

    async def initialize(self) -> None:
        client = {"name": "host", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
        assert (await self.ask(request("initialize", 0, **params)))["result"]
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})


def request(method: str, request_id: object, /, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def call(tool: str, request_id: object, /, **arguments: Any) -> dict[str, Any]:
    return request("tools/call", request_id, name=tool, arguments=arguments)


@contextlib.asynccontextmanager
async def connected(servers: Servers, *, events: bool = False) -> AsyncIterator[Host]:
    kinds = kinds_file.parse(KINDS, "kinds.toml")
    options = Options(settings=servers.settings, kinds=kinds, allow_commands=["cat"], events=events)
    lazy = LazySupervisor(lambda: open_supervisor(servers.settings, engine=servers.engine))
    server = assemble(options, lazy, trust_roots=True)
    its_in, to_it = os.pipe()
    from_it, its_out = os.pipe()
    with trio.fail_after(PATIENCE):
        async with FdStream(to_it) as stdin, FdStream(from_it) as stdout, trio.open_nursery() as nursery:
            host = Host(stdin, stdout)

            async def serve() -> None:
                try:
                    await stdio.serve(server, (its_in, its_out), answered=lazy.begin, ending=lazy.ending)
                finally:
                    os.close(its_in)
                    os.close(its_out)
                host.ended.set()

            nursery.start_soon(lazy.run)
            nursery.start_soon(serve)
            yield host
            await stdin.aclose()
            await stdout.aclose()
            await host.ended.wait()
            nursery.cancel_scope.cancel()


# ---------------------------------------------------------------- odd things


async def test_every_request_is_answered_and_the_session_goes_on(servers: Servers) -> None:
    async with connected(servers) as host:
        await host.initialize()
        for line, request_id, code in (
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}\n', 1, INVALID_REQUEST),
            (b'{"id":2,"method":"ping"}\n', 2, INVALID_REQUEST),
            (b'[{"jsonrpc":"2.0","id":3,"method":"ping"}]\n', 3, INVALID_REQUEST),
            (b"[]\n", None, INVALID_REQUEST),
            (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}\n', 1.5, INVALID_REQUEST),
            (b'{"jsonrpc":"2.0","id":4,"method":"p\xffng"}\n', 4, PARSE_ERROR),
            (b'{"jsonrpc":"2.0","id":5,"method":"p\0ng"}\n', 5, PARSE_ERROR),
            (b'{"jsonrpc":"2.0","id":6,"method":"ping","params":{"a":%b\n' % (b"[" * 100_000), 6, PARSE_ERROR),
            (b"not json\n", None, PARSE_ERROR),
        ):
            told = await host.ask(line)
            assert (told["id"], told["error"]["code"]) == (request_id, code), line
            assert (await host.ask(PING))["id"] == "ping"
        for line in (b"\n", b"  \r\n", b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"notifications/none"}\n'):
            await host.send(line)
            assert (await host.ask(PING))["result"] == {}


@pytest.mark.parametrize(
    ("head", "tail", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"', b'"}}', 7),
        (b'{"method":"m","params":{"id":9,"a":"', b'"},"jsonrpc":"2.0","id":7}', 7),
        (b"", b"", None),
    ],
)
async def test_a_line_longer_than_any_message(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, head: bytes, tail: bytes, request_id: object
) -> None:
    monkeypatch.setattr(stdio, "_MAX_LINE_BYTES", 200_000)
    async with connected(servers) as host:
        await host.initialize()
        for size in (200_001, 300_000, 1_000_000):
            told = await host.ask(head + b"x" * size + tail + b"\n")
            assert (told["id"], told["error"]["code"]) == (request_id, INVALID_REQUEST)
            assert "longer than 200000 bytes" in told["error"]["message"]
        assert (await host.ask(PING))["result"] == {}
        await host.send(head + b"x" * 300_000 + tail)  # and the end of file in the middle
        await host.stdin.aclose()
        assert (await host.read())["id"] == request_id


async def test_half_a_surrogate_pair(servers: Servers) -> None:
    """As JavaScript writes a text that was cut in the middle of an emoji."""
    servers.script = Script(seconds=0)
    async with connected(servers) as host:
        await host.initialize()
        for tool, arguments in (
            ("ask", {"prompt": "cut \ud83d"}),
            ("ask", {"prompt": "x", "model": "\ud83d"}),
            ("count", {"upto": "\udc00"}),
            ("count", {"upto": 1, "labels": {"a\ud83d": "b\ud83d"}}),
            ("count", {"upto": 1, "workspace": "/\ud83d"}),
            ("count", {"upto": 1, "idempotency_key": "\ud83d"}),
            ("count", {"upto": 1, "\ud83d": 1}),
            ("job_start", {"command": ["cat", "\ud83d"]}),
            ("job_start", {"command": ["cat"], "stdin": "\ud83d"}),
            ("job_status", {"job_id": "\ud83d"}),
            ("job_list", {"workspace": "\ud83d", "labels": {"\ud83d": "\ud83d"}}),
        ):
            told = (await host.ask(call(tool, "s", **arguments)))["result"]["structuredContent"]
            code = None if told["ok"] else told["error"]["code"]
            assert code in {None, "invalid_arguments", "job_not_found"}, (tool, arguments, told)
        for method, params in (
            ("tools/call", {"name": "\ud83d"}),
            ("resources/read", {"uri": "job://\ud83d"}),
            ("\ud83d", {}),
            ("tasks/get", {"taskId": "\ud83d"}),
        ):
            assert "error" in await host.ask(request(method, "\ud83d", **params))
        assert (await host.ask(PING))["result"] == {}


@pytest.mark.parametrize("depth", [100, 190, 250, 500, 900, 980, 1000, 20_000])
async def test_what_nests_deeply(servers: Servers, depth: int) -> None:
    async with connected(servers) as host:
        await host.initialize()
        deep = b"[" * depth + b"]" * depth
        for name in (b"upto", b"labels", b"workspace", b"more"):
            call_it = (
                b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"count","arguments":{"%b":%b}}}\n'
            )
            told = await host.ask(call_it % (name, deep))
            assert told["id"] == 7
            if "result" in told:
                assert told["result"]["structuredContent"]["error"]["code"] == "invalid_arguments"
            assert (await host.ask(PING))["result"] == {}


# ---------------------------------------------------------------- a host that goes, or does not read


async def test_stdout_closed_ends_it(servers: Servers) -> None:
    async with connected(servers) as host:
        await host.initialize()
        await host.stdout.aclose()
        await host.ended.wait()


async def test_stdout_closed_starts_nothing(servers: Servers) -> None:
    async with connected(servers) as host:
        await host.initialize()
        assert (await host.ask(call("job_list", 1)))["result"]
        await wait_all_tasks_blocked()
        await host.stdout.aclose()
        with contextlib.suppress(trio.BrokenResourceError):
            for each in range(9):
                await host.send(call("count", each, upto=1))
        await host.ended.wait()
    assert not servers.engine.commands


async def test_a_host_that_never_reads_is_not_read_from(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "_PATIENCE_SECONDS", 0.01)
    asked = 3_000
    sent = trio.Event()
    async with connected(servers) as host, trio.open_nursery() as nursery:
        await host.initialize()

        async def ask() -> None:
            await host.send(*(request("tools/list", each) for each in range(asked)))
            sent.set()

        nursery.start_soon(ask)
        with trio.move_on_after(2):
            await sent.wait()
        assert not sent.is_set()  # its requests stay in its pipe
        assert sorted([(await host.read())["id"] for _ in range(asked)]) == list(range(asked))  # and none is lost


async def test_a_host_that_never_reads_and_goes(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(stdio, "_LAST_ANSWERS_SECONDS", 0.01)
    async with connected(servers) as host:
        await host.initialize()
        with trio.move_on_after(1):
            await host.send(*(request("tools/list", each) for each in range(3_000)))
        await host.stdin.aclose()
        await host.ended.wait()


async def test_more_requests_at_once_than_can_be_kept(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "_MAX_OPEN", 3)
    monkeypatch.setattr(stdio, "_PATIENCE_SECONDS", 0.01)
    servers.script = Script(seconds=3000)
    async with connected(servers) as host:
        await host.initialize()
        job_id = (await host.ask(call("count", 1, upto=1)))["result"]["structuredContent"]["job_id"]
        for each in (10, 11, 12):
            await host.send(call("job_wait", each, job_id=job_id, timeout_seconds=3000))
        told = await host.ask(call("job_wait", 13, job_id=job_id))
        assert (told["id"], told["error"]["code"]) == (13, -32000)
        await host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 11}})
        assert (await host.ask(PING))["result"] == {}


async def test_larger_requests_at_once_than_can_be_kept(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "_MAX_OPEN_BYTES", 1000)
    monkeypatch.setattr(stdio, "_PATIENCE_SECONDS", 0.01)
    servers.script = Script(seconds=3000)
    async with connected(servers) as host:
        await host.initialize()
        job_id = (await host.ask(call("count", 1, upto=1)))["result"]["structuredContent"]["job_id"]
        large = request("tools/call", 2, name="job_wait", arguments={"job_id": job_id}, _meta={"x": "y" * 2000})
        await host.send(large)  # alone, it may be of any size
        told = await host.ask({**large, "id": 3})
        assert (told["id"], told["error"]["code"]) == (3, -32000)
        await host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}})
        assert (await host.ask(PING))["result"] == {}


async def test_requests_with_one_id_are_bounded_and_answered(servers: Servers) -> None:
    """The server of the SDK forgets the first of two requests with one id, and does not answer a cancelled one."""
    servers.script = Script(seconds=3000)
    async with connected(servers) as host:
        await host.initialize()
        job_id = (await host.ask(call("count", 1, upto=1)))["result"]["structuredContent"]["job_id"]
        wait = call("job_wait", "same", job_id=job_id, timeout_seconds=3000)
        await host.send(wait)
        for _ in range(3):
            told = await host.ask(wait)
            assert (told["id"], told["error"]["code"]) == ("same", INVALID_REQUEST)
        await host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "same"}})
        for _ in range(20):  # of an answered request, the id may be used again
            assert (await host.ask(request("ping", "same")))["result"] == {}


@pytest.mark.parametrize(("asked", "cancelled"), [(7, "7"), ("7", 7), (7, 7), ("seven", "seven")])
async def test_a_cancel_names_a_request_by_a_number_or_by_a_text(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, asked: object, cancelled: object
) -> None:
    monkeypatch.setattr(stdio, "_LAST_ANSWERS_SECONDS", 1000)  # as long as one that is taken for open is waited for
    servers.script = Script(seconds=3000)
    async with connected(servers) as host:
        await host.initialize()
        job_id = (await host.ask(call("count", 1, upto=1)))["result"]["structuredContent"]["job_id"]
        await host.send(call("job_wait", asked, job_id=job_id, timeout_seconds=3000))
        await host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": cancelled}})
        for odd in (None, True, 1.5, [], {}, "x" * 5000):
            await host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": odd}})
        assert (await host.ask(PING))["id"] == "ping"
        await host.stdin.aclose()
        await host.ended.wait()
