"""The first answers from the record: byte for byte those of the SDK, whatever a host sends first."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

import pytest
import trio
from mcp.server.lowlevel import Server
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from trio.lowlevel import FdStream

from supervisor import open_supervisor
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.options import Options
from supervisor.mcp_server.serving import assemble
from supervisor.mcp_server.transports import stdio
from supervisor.mcp_server.transports.first_answers import FirstAnswers
from supervisor.mcp_server.transports.opening import NOT_OPENED, Opened, Opening, converse, open_while
from supervisor.mcp_server.transports.recording import record
from tests.mcp_server.conftest import KINDS, Servers

CLIENT = {"name": "host", "version": "1"}
META = "io.modelcontextprotocol/"


def line(method: str, request_id: object = None, params: object = None) -> bytes:
    shape: dict[str, object] = {"jsonrpc": "2.0"}
    if request_id is not None:
        shape["id"] = request_id
    shape["method"] = method
    if params is not None:
        shape["params"] = params
    return json.dumps(shape).encode()


def initialize(request_id: object = 0, version: str = "2025-06-18", **more: object) -> bytes:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}
    return line("initialize", request_id, {**params, **more})


def envelope(version: str = MODERN_PROTOCOL_VERSIONS[-1], **more: object) -> dict[str, object]:
    meta = {"protocolVersion": version, "clientInfo": CLIENT, "clientCapabilities": {}}
    return {"_meta": {**{f"{META}{name}": value for name, value in meta.items()}, **more}}


INITIALIZED = line("notifications/initialized")
LIST = line("tools/list", 1)
PING = line("ping", 2)
STATUS = line("tools/call", 9, {"name": "job_status", "arguments": {"job_id": "0" * 32}})

MODERN = MODERN_PROTOCOL_VERSIONS[-1]
MANY = {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {"form": {}, "url": {}}}
EXTENSIONS = {"extensions": {"io.modelcontextprotocol/tasks": {}}, "experimental": {"a": {"b": 1}}}
USUAL = json.loads(initialize())
OTHER_ORDER = b'{"params":%b,"method":"initialize","id":4,"jsonrpc":"2.0"}' % json.dumps(USUAL["params"]).encode()
ALL_MODERN = (*MODERN_PROTOCOL_VERSIONS, "2031-01-01")
FIRST = {
    **{f"version {each}": initialize(version=each) for each in (*HANDSHAKE_PROTOCOL_VERSIONS, "1999-01-01", "")},
    **{f"modern {each}": line("server/discover", 0, envelope(each)) for each in ALL_MODERN},
    "modern tools/list": line("tools/list", 0, envelope()),
    "modern ping": line("ping", 0, envelope()),
    "modern and handshake": initialize(**envelope()),
    "envelope with more": line("tools/list", 0, envelope(**{f"{META}logLevel": "info"})),
    "envelope without client": line("tools/list", 0, {"_meta": {f"{META}protocolVersion": MODERN}}),
    "envelope and cursor": line("tools/list", 0, {**envelope(), "cursor": "x"}),
    "roots": initialize(capabilities=MANY),
    "extensions": initialize(capabilities=EXTENSIONS),
    "tasks": initialize(version="2025-11-25", capabilities={"tasks": {"list": {}}}),
    "wrong capability": initialize(capabilities={"roots": 5}),
    "wrong flag": initialize(capabilities={"roots": {"listChanged": {}}}),
    "capabilities null": initialize(capabilities=None),
    "client without version": initialize(clientInfo={"name": "host"}),
    "client with more": initialize(clientInfo={**CLIENT, "title": "T", "websiteUrl": "https://example.org", "x": 1}),
    "client with title": initialize(clientInfo={**CLIENT, "title": "Tüll\N{GRINNING FACE}"}),
    "client of numbers": initialize(clientInfo={"name": 1, "version": 2}),
    "half a pair": initialize(clientInfo={"name": "\ud800", "version": "1"}),
    "version of a number": line("initialize", 0, {"protocolVersion": 1, "capabilities": {}, "clientInfo": CLIENT}),
    "no params": line("initialize", 0),
    "meta": initialize(_meta={"progressToken": 1}),
    "text id": initialize("an-id"),
    "odd id": initialize('"\\\n\u00e4'),
    "large id": initialize(1 << 60),
    "id of a fraction": initialize(1.5),
    "id of true": initialize(True),
    "id null": b'{"jsonrpc":"2.0","id":null,"method":"initialize"}',
    "spaces": b"  " + json.dumps(USUAL, indent=1).replace("\n", " ").encode() + b" \r",
    "order": OTHER_ORDER,
    "twice the same key": initialize()[:-1] + b',"id":7}',
    "another member": initialize()[:-1] + b',"more":1}',
    "byte order mark": b"\xef\xbb\xbf" + initialize(),
    "NaN": initialize(capabilities={"experimental": {"a": {"b": float("nan")}}}),
    "no JSON": b"{",
    "no object": b"5",
    "batch": b"[" + initialize() + b"]",
    "jsonrpc 1.0": initialize().replace(b"2.0", b"1.0"),
    "long": initialize(clientInfo={"name": "n" * 70_000, "version": "1"}),
    "deep": initialize(capabilities={"experimental": {"a": json.loads('{"a":' * 80 + "{}" + "}" * 80)}}),
    "list first": LIST,
    "ping first": PING,
    "notification first": INITIALIZED,
    "unknown method": line("nonsense", 3),
    "empty": b"",
}  # fmt: skip
LATER = {
    "list": LIST,
    "list {}": line("tools/list", 11, {}),
    "list cursor": line("tools/list", 12, {"cursor": "x"}),
    "list null": b'{"jsonrpc":"2.0","id":13,"method":"tools/list","params":null}',
    "modern list": line("tools/list", 14, envelope()),
    "modern discover": line("server/discover", 15, envelope()),
    "discover": line("server/discover", 16),
    "ping": PING,
    "initialized": INITIALIZED,
    "initialized {}": line("notifications/initialized", None, {}),
    "initialized meta": line("notifications/initialized", None, {"_meta": {"a": 1}}),
    "cancelled": line("notifications/cancelled", None, {"requestId": 77}),
    "again": initialize(17),
    "call": STATUS,
    "resources": line("resources/templates/list", 18),
    "response": b'{"jsonrpc":"2.0","id":5,"result":{}}',
    "garbage": b"garbage",
}


def make_server(servers: Servers) -> tuple[Server[Any], LazySupervisor]:
    options = Options(settings=servers.settings, kinds=kinds_file.parse(KINDS, "kinds.toml"), allow_commands=["cat"])
    lazy = LazySupervisor(lambda: open_supervisor(servers.settings, engine=servers.engine))
    return assemble(options, lazy, trust_roots=True), lazy


@contextlib.asynccontextmanager
async def pipes() -> AsyncIterator[tuple[tuple[int, int], FdStream, FdStream]]:
    """Yield the server's ends, and those of its host."""
    its_in, to_it = os.pipe()
    from_it, its_out = os.pipe()
    async with FdStream(to_it) as stdin, FdStream(from_it) as stdout:
        yield (its_in, its_out), stdin, stdout


async def served(servers: Servers, lines: Sequence[bytes], opened: Opened = NOT_OPENED, **more: Any) -> list[bytes]:
    """Return the lines that the server of the SDK writes to a host that sends these and closes stdin."""
    server, lazy = make_server(servers)
    written = bytearray()
    async with pipes() as (ends, stdin, stdout), trio.open_nursery() as nursery:

        async def serve() -> None:
            await stdio.serve(server, ends, answered=lazy.begin, ending=lazy.ending, opened=opened, **more)
            for each in ends:
                os.close(each)
            nursery.cancel_scope.cancel()

        async def send() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                for each in lines:
                    await stdin.send_all(each + b"\n")
            await stdin.aclose()

        nursery.start_soon(lazy.run)
        nursery.start_soon(send)
        with trio.CancelScope(shield=True), trio.fail_after(30):
            nursery.start_soon(serve)
            async for chunk in stdout:
                written += chunk
    return bytes(written).splitlines(keepends=True)


async def with_record(servers: Servers, answers: FirstAnswers, lines: Sequence[bytes]) -> tuple[list[bytes], int]:
    """Return the lines that the record and then the server write, and how many requests the record has answered."""
    opening = Opening(answers)
    written: list[bytes] = []
    taken = 0
    for each in lines:
        if each.strip():
            answer = opening.reply(each)
            if answer is None:
                break
            if answer:
                written.append(answer)
        taken += 1
    opened = Opened(replayed=tuple(opening.replayed), answer=opening.answer)
    wrong: list[str] = []
    rest = await served(servers, lines[taken:], opened, differs=lambda: wrong.append("differs"))
    assert not wrong
    return [*written, *rest], len(written)


@pytest.fixture
async def answers(servers: Servers) -> FirstAnswers:
    server, _ = make_server(servers)
    return await record(server)


async def compare(servers: Servers, answers: FirstAnswers, lines: Sequence[bytes]) -> int:
    expected = await served(servers, lines)
    written, early = await with_record(servers, answers, lines)
    assert sorted(written) == sorted(expected)
    return early


@pytest.mark.parametrize("name", FIRST)
async def test_every_answer_is_that_of_the_sdk(servers: Servers, answers: FirstAnswers, name: str) -> None:
    modern = name.startswith("modern")
    following = [line("tools/list", 1, envelope()), STATUS] if modern else [INITIALIZED, LIST, PING, STATUS]
    await compare(servers, answers, [FIRST[name], *(each for each in following if each != FIRST[name])])  # no id twice


@pytest.mark.parametrize("seed", range(40))
async def test_every_conversation_is_that_with_the_sdk(servers: Servers, answers: FirstAnswers, seed: int) -> None:
    dice = random.Random(seed)
    usual = [initialize(version="2025-11-25"), line("server/discover", 0, envelope())]
    first = dice.choice(usual) if dice.random() < 0.7 else dice.choice(list(FIRST.values()))
    lines = [first, *(dice.choice(list(LATER.values())) for _ in range(dice.randrange(8)))]
    by_id = {_id_of(each) or index: each for index, each in enumerate(lines, start=1000)}  # no id twice
    await compare(servers, answers, list(by_id.values()))


def _id_of(data: bytes) -> object:
    try:
        found: object = json.loads(data)
    except ValueError:
        return None
    return found.get("id") if isinstance(found, Mapping) else None


@pytest.mark.parametrize("version", [*HANDSHAKE_PROTOCOL_VERSIONS, "1999-01-01"])
async def test_what_hosts_send_is_answered_early(servers: Servers, answers: FirstAnswers, version: str) -> None:
    assert await compare(servers, answers, [initialize(version=version), INITIALIZED, LIST, PING, STATUS]) == 3


async def test_what_modern_hosts_send_is_answered_early(servers: Servers, answers: FirstAnswers) -> None:
    lines = [line("server/discover", 0, envelope()), line("tools/list", 1, envelope()), STATUS]
    assert await compare(servers, answers, lines) == 2


async def test_a_record_that_turns_out_to_be_wrong_is_reported(servers: Servers) -> None:
    opening = Opening(FirstAnswers({"2025-06-18": {"initialize": '{"other":1}'}}, {}))
    assert opening.reply(initialize()) is not None
    wrong: list[str] = []
    opened = Opened(replayed=tuple(opening.replayed), answer=opening.answer)
    lines = [INITIALIZED, LIST]
    written = await served(servers, lines, opened, differs=lambda: wrong.append("differs"))
    assert wrong == ["differs"]
    assert written == (await served(servers, [initialize(), *lines]))[1:]


# ---------------------------------------------------------------- the thread and the descriptors


class _Talk:
    """A conversation over pipes whose import ends on request."""

    def __init__(self, answers: FirstAnswers) -> None:
        self.release = threading.Event()
        self.opened: list[Opened] = []
        its_in, self.stdin = os.pipe()
        self.stdout, its_out = os.pipe()
        self._ends = (its_in, its_out)
        self._opening = Opening(answers)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.opened.append(open_while(self._opening, self._ends, self._work))

    def _work(self) -> None:
        assert self.release.wait(30)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def read_line(self) -> bytes:
        with os.fdopen(os.dup(self.stdout), "rb", buffering=0) as file:
            return file.readline()

    def end(self) -> Opened:
        self.release.set()
        self._thread.join(30)
        (found,) = self.opened
        return found

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._thread.join(30)
        for each in (*self._ends, self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                os.close(each)


RECORD = FirstAnswers({"2025-06-18": {"initialize": '{"a":1}', "tools/list": '{"tools":[]}'}}, {})
ANSWER = b'{"jsonrpc":"2.0","id":0,"result":{"a":1}}\n'


def test_a_host_is_answered_while_the_import_goes_on() -> None:
    with _Talk(RECORD) as talk:
        for piece in (initialize()[:10], initialize()[10:] + b"\n\n", INITIALIZED + b"\n"):
            os.write(talk.stdin, piece)
        assert talk.read_line() == ANSWER
        os.write(talk.stdin, LIST + b"\n")
        assert talk.read_line() == b'{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}\n'
        opened = talk.end()
    assert opened == Opened(replayed=(initialize(), INITIALIZED), answer=ANSWER)


class _Endless:
    """A conversation over pipes whose import does not end, so it ends by itself."""

    def __init__(self) -> None:
        self.its_in, self.stdin = os.pipe()
        self.stdout, self.its_out = os.pipe()
        self._pipes = [self.its_in, self.stdin, self.stdout, self.its_out, *os.pipe()]

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self._pipes.remove(descriptor)

    def left(self) -> tuple[bytes, bool]:
        """Return what it leaves unread, and whether the host has closed stdin."""
        return converse(Opening(RECORD), (self.its_in, self.its_out), self._pipes[-2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._pipes:
            os.close(each)


def test_what_the_record_cannot_answer_is_left_unread_and_whole() -> None:
    rest = STATUS + b"\n" + LIST + b"\n" + b'{"half'
    with _Endless() as talk:
        os.write(talk.stdin, initialize() + b"\n" + rest)
        assert talk.left() == (rest, False)
        assert os.read(talk.stdout, 1 << 16) == ANSWER


def test_the_end_of_file_is_passed_on() -> None:
    with _Endless() as talk:
        os.write(talk.stdin, initialize() + b"\n" + b'{"half')
        talk.close(talk.stdin)
        assert talk.left() == (b'{"half', True)


def test_a_host_that_has_gone_ends_the_conversation() -> None:
    with _Endless() as talk:
        talk.close(talk.stdout)
        os.write(talk.stdin, initialize() + b"\n")
        assert talk.left() == (initialize() + b"\n", False)


def test_a_long_line_is_left_to_the_server() -> None:
    with _Endless() as talk, contextlib.ExitStack() as stack:
        sending = threading.Thread(target=lambda: [os.write(talk.stdin, b"x" * 60_000) for _ in range(2)])
        sending.start()
        stack.callback(sending.join, 30)
        unread, ended = talk.left()
        assert (len(unread) > 1 << 16, ended) == (True, False)
        os.set_blocking(talk.its_in, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(talk.its_in, 1 << 16):
                pass


def test_an_import_that_fails_is_not_hidden() -> None:
    def fail() -> None:
        raise ImportError

    read, write = os.pipe()
    try:
        assert open_while(Opening(RECORD), (read, write), fail) == NOT_OPENED
    finally:
        os.close(read)
        os.close(write)
