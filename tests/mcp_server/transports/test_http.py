"""The real ``supervisor mcp --http``: access, principals, and restarts."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
import trio
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult

from supervisor.http.listening import Address, parse_address
from supervisor.http.tokens import Tokens
from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings

# The SDK's client leaves the generators of streams that break to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PATIENCE = 60.0
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])
KINDS = """
[kind.hold]
description = "Runs until the file is there."
command = ["sh", "-c", "echo begun; cat \\"$1\\"", "hold", "{fifo}"]
parameters.fifo = {}

[kind.say]
description = "Says something."
command = ["echo", "{word}"]
parameters.word = {}

[kind.spend]
description = "Says something, if the user agrees."
command = ["echo", "{word}"]
confirm = true
parameters.word = {}
"""


@attrs.define
class Server:
    """A server as a process, and its address."""

    process: subprocess.Popen[bytes]
    url: str
    token_file: Path | None

    @property
    def token(self) -> str:
        assert self.token_file is not None
        return self.token_file.read_text(encoding="ascii").strip()

    def principal(self, name: str, token: str) -> str:
        """Add a principal, and return its token."""
        assert self.token_file is not None
        file = self.token_file.with_name(name)
        file.touch(mode=0o600)
        file.write_text(token, encoding="ascii")
        return token

    @contextlib.asynccontextmanager
    async def client(self, token: str | None = "", era: str = "auto", **more: Any) -> AsyncIterator[Client]:
        headers = {} if token is None else {"Authorization": f"Bearer {token or self.token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as requests,
            Client(streamable_http_client(self.url, http_client=requests), mode=era, **more) as client,
        ):
            yield client

    def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Send a request unchanged, and return the status and the body."""
        names = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        names |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, body, names), timeout=PATIENCE) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


async def call(client: Client, tool: str, /, **arguments: Any) -> Mapping[str, Any]:
    content: Mapping[str, Any] = (await client.call_tool(tool, arguments)).structured_content
    return content


@pytest.fixture
def start(state_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    config = tmp_path / "kinds.toml"
    config.write_text(KINDS, encoding="utf-8")
    config.chmod(0o600)
    with contextlib.ExitStack() as stack:

        def start_one(*words: str, address: str = "127.0.0.1:0") -> Server:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable, "-m", "supervisor", "mcp", "--json", "--http", address, "--config", str(config)]
            process = stack.enter_context(
                subprocess.Popen([*command, *words], stdout=subprocess.PIPE, cwd=workspace, env=environment)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said["ok"] is True
            return Server(process, said["url"], None if said["token_file"] is None else Path(said["token_file"]))

        yield start_one
    with Catalog(Settings(state_dir=state_dir, stop_grace_seconds=0.2)) as catalog:
        for job in catalog.list(limit=1000).jobs:
            catalog.cancel(job.job_id)


async def release(fifo: Path) -> None:
    await trio.to_thread.run_sync(fifo.write_bytes, b"released\n")


@ERAS
async def test_progress_is_sent_on_the_stream_of_its_call_and_ends_with_the_answer(
    start: Callable[..., Server], fifo: Path, era: str
) -> None:
    server = start()
    values: list[float] = []
    more = trio.Event()

    async def hear(value: float, _: float | None, __: str | None) -> None:
        values.append(value)
        more.set()

    async with server.client(era=era) as client:
        job = await call(client, "hold", fifo=str(fifo))
        async with trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def wait() -> None:
                answers.append(await client.call_tool("job_wait", {"job_id": job["job_id"]}, progress_callback=hear))

            nursery.start_soon(wait)
            with trio.fail_after(PATIENCE):
                await more.wait()
            await release(fifo)
    assert answers[0].structured_content["status"] == "done"
    assert values == sorted(set(values))


@ERAS
async def test_the_user_of_the_caller_is_asked(start: Callable[..., Server], era: str) -> None:
    server = start()
    answers = iter(["decline", "accept"])

    async def answer(_: Any, params: Any) -> ElicitResult:
        assert 'word: "hello"' in params.message
        return ElicitResult.model_validate({"action": next(answers)})

    async with server.client(era=era, elicitation_callback=answer) as client:
        refused = await call(client, "spend", word="hello", wait_seconds=30)
        assert (refused["error"]["code"], refused["error"]["details"]) == ("not_confirmed", {"answer": "decline"})
        assert (await call(client, "spend", word="hello", wait_seconds=30))["value"] == "hello\n"
        assert len((await call(client, "job_list"))["jobs"]) == 1


# ---------------------------------------------------------------- access


def test_the_token_is_made_once_and_no_other_user_reads_it(start: Callable[..., Server], state_dir: Path) -> None:
    server = start()
    assert server.token_file == state_dir / "mcp-tokens" / "default"
    assert stat.S_IMODE(server.token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.token_file.parent.stat().st_mode) == 0o700
    assert len(server.token) >= 40
    assert start().token == server.token


PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def test_who_is_let_in(start: Callable[..., Server]) -> None:
    server = start()
    bearer = f"Bearer {server.token}"
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer wrong-wrong-wrong-wrong"}, 401),
        ({"Authorization": f"Basic {server.token}"}, 401),
        ({"Authorization": f"{bearer}x"}, 401),
        ({"Authorization": "Bearer \u00e9"}, 401),
        ({"Authorization": bearer, "Host": "evil.example"}, 421),
        ({"Authorization": bearer, "Host": "127.0.0.1.evil.example"}, 421),
        ({"Authorization": bearer, "Origin": "http://evil.example"}, 403),
        ({"Authorization": bearer, "Origin": "null"}, 403),
        ({"Authorization": bearer}, 400),  # accepted, but it has no session
        (
            {"Authorization": f"bearer {server.token}", "Host": "localhost", "Origin": "http://localhost:3000"},
            400,
        ),
    ):
        found, said = server.post(PING, **headers)
        assert found == status, (headers, said)


def test_names_that_were_allowed(start: Callable[..., Server]) -> None:
    server = start("--allow-host", "builds.example", "--no-token")
    assert server.post(PING, Host="builds.example")[0] == 400
    assert server.post(PING, Host="other.example")[0] == 421


def test_without_a_token_it_is_said_who_is_let_in(tmp_path: Path, state_dir: Path) -> None:
    for address, who in (("127.0.0.1:0", "every user of this machine"), (f"unix:{tmp_path}/socket", "only you")):
        words = ["mcp", "--http", address, "--no-token", "--state-dir", os.fspath(state_dir)]
        argv = [sys.executable, "-m", "supervisor", *words]
        with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            told = [process.stdout.readline(), process.stdout.readline()]
            process.terminate()
        assert told[1] == f"No token: {who} may start and read jobs.\n".encode()


def test_a_body_that_is_too_large(start: Callable[..., Server]) -> None:
    server = start("--no-token")
    host = server.url.removeprefix("http://").removesuffix("/mcp")
    connection = http.client.HTTPConnection(host, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/mcp")
        for name, value in {"Content-Type": "application/json", "Content-Length": str(5 << 20)}.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == 413  # before any of it was sent


def test_everything_but_the_endpoint_is_closed_too(start: Callable[..., Server]) -> None:
    server = start()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.url.replace("/mcp", "/other"), timeout=PATIENCE)
    with caught.value as refused:
        assert refused.code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80") == Address("127.0.0.1", 80)
    assert str(parse_address("[::1]:0")) == "[::1]:0"
    loopback = {
        text: parse_address(f"{text}:1").loopback for text in ("127.9.9.9", "::1", "localhost", "0.0.0.0", "::")
    }
    assert [text for text, is_it in loopback.items() if is_it] == ["127.9.9.9", "::1", "localhost"]
    assert not parse_address("127.0.0.1.evil.example:1").loopback


class TestTokens:
    def test_files_come_and_go(self, state_dir: Path) -> None:
        tokens = Tokens(state_dir)
        alice = tokens.directory / "alice"
        assert tokens.principal("alice's token") is None
        alice.touch(mode=0o600)
        alice.write_text("alices-token-0123456789\n")
        assert tokens.principal("alices-token-0123456789") == "alice"
        assert tokens.principal(tokens.default.read_text().strip()) == "default"
        alice.unlink()
        assert tokens.principal("alices-token-0123456789") is None

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
    def test_a_file_that_others_may_read_gives_no_access(self, state_dir: Path, mode: int) -> None:
        tokens = Tokens(state_dir)
        tokens.default.chmod(mode)
        assert tokens.principal(tokens.default.read_text().strip()) is None

    @pytest.mark.parametrize("text", ["", "short", "with a space in it 0123", "\n"])
    def test_what_is_no_token(self, state_dir: Path, text: str) -> None:
        tokens = Tokens(state_dir)
        tokens.default.write_text(text)
        assert tokens.principal(text.strip()) is None

    def test_links_and_odd_names(self, state_dir: Path, tmp_path: Path) -> None:
        tokens = Tokens(state_dir)
        secret = tokens.default.read_text().strip()
        tokens.default.rename(tmp_path / "moved")
        (tokens.directory / "link").symlink_to(tmp_path / "moved")
        (tokens.directory / "..odd name").write_text(secret)
        (tokens.directory / "directory").mkdir()
        assert tokens.principal(secret) is None


# ---------------------------------------------------------------- principals


@ERAS
async def test_a_principal_sees_its_own_jobs_and_no_others(start: Callable[..., Server], fifo: Path, era: str) -> None:
    server = start()
    alice, bob = server.principal("alice", "alices-token-0123456789"), server.principal("bob", "bobs-token-0123456789")
    async with server.client(alice, era) as hers, server.client(bob, era) as his, server.client(era=era) as default:
        job = await call(hers, "hold", fifo=str(fifo), idempotency_key="same", labels={"x": "y"})
        job_id = job["job_id"]
        assert job["labels"]["mcp.principal"] == "alice"
        for tool in ("status", "wait", "result", "consume_result", "cancel", "logs"):
            for other in (his, default):
                assert (await call(other, f"job_{tool}", job_id=job_id))["error"]["code"] == "job_not_found"
        for uri in (f"job://{job_id}", f"job://{job_id}/stdout"):
            with pytest.raises(MCPError, match="there is no job"):
                await his.read_resource(uri)
        assert (await hers.read_resource(f"job://{job_id}")).contents
        for labels in ({}, {"x": "y"}, {"mcp.principal": "alice"}):
            assert (await call(his, "job_list", labels=labels))["jobs"] == []
        assert (await his.list_resources()).resources == []
        assert [each["job_id"] for each in (await call(hers, "job_list"))["jobs"]] == [job_id]
        # Two principals use the same key: neither gets the job of the other.
        assert (await call(his, "say", word="hi", idempotency_key="same"))["ok"] is True
        assert (await call(hers, "job_status", job_id=job_id))["status"] == "running"
        await release(fifo)
        assert (await call(hers, "job_wait", job_id=job_id))["status"] == "done"
        assert (await call(his, "job_result", job_id=job_id))["error"]["code"] == "job_not_found"
    with Catalog(Settings()) as catalog:  # the owner of the machine sees all
        assert catalog.status(job_id).labels["mcp.principal"] == "alice"


async def test_no_client_listens_to_the_job_of_another(start: Callable[..., Server], fifo: Path) -> None:
    server = start()
    bob = server.principal("bob", "bobs-token-0123456789")
    async with server.client() as mine, server.client(bob) as his:
        job_id = (await call(mine, "hold", fifo=str(fifo)))["job_id"]
        with pytest.raises(MCPError, match="there is no job"):
            async with his.listen(resource_subscriptions=[f"job://{job_id}"]):
                raise AssertionError
        async with mine.listen(resource_subscriptions=[f"job://{job_id}"]) as events:
            await release(fifo)
            with trio.fail_after(PATIENCE):
                assert (await anext(events)).uri == f"job://{job_id}"


async def test_a_session_answers_only_whoever_has_opened_it(start: Callable[..., Server]) -> None:
    server = start()
    bob = server.principal("bob", "bobs-token-0123456789")
    shape = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": shape}).encode()
    names = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(timeout=PATIENCE, headers=names) as requests:
        opened = await requests.post(server.url, content=body, headers={"Authorization": f"Bearer {server.token}"})
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        for token, status in ((server.token, 200), (bob, 404)):
            reply = await requests.post(
                server.url, content=PING, headers={"Authorization": f"Bearer {token}", **session}
            )
            assert reply.status_code == status


async def test_without_tokens_everybody_is_the_owner(start: Callable[..., Server]) -> None:
    server = start("--no-token")
    assert server.token_file is None
    command = [sys.executable, "-m", "supervisor", "run", "--", "true"]
    await trio.run_process(command, cwd="/")
    async with server.client(None) as client:
        (job,) = (await call(client, "job_list"))["jobs"]
        assert job["argv"] == ["true"]


# ---------------------------------------------------------------- what survives


async def test_a_client_that_goes_away_takes_nothing_with_it(start: Callable[..., Server], fifo: Path) -> None:
    server = start()
    async with server.client() as client:
        job_id = (await call(client, "hold", fifo=str(fifo)))["job_id"]
        with trio.move_on_after(0.3):
            await call(client, "job_wait", job_id=job_id)
    async with server.client() as another:
        assert (await call(another, "job_status", job_id=job_id))["status"] == "running"
        await release(fifo)
        assert (await call(another, "job_wait", job_id=job_id))["status"] == "done"


@ERAS
async def test_kill_9_and_the_next_server_on_the_same_port_goes_on(
    start: Callable[..., Server], fifo: Path, era: str
) -> None:
    server = start()
    async with server.client(era=era) as client:
        job_id = (await call(client, "hold", fifo=str(fifo), idempotency_key="k"))["job_id"]
        server.process.kill()
        server.process.wait()
        with contextlib.suppress(Exception):  # the errors of this client do not matter here
            await client.send_ping()
    address = server.url.removeprefix("http://").removesuffix("/mcp")
    again = start(address=address)
    async with again.client(era=era) as client:
        assert (await call(client, "hold", fifo=str(fifo), idempotency_key="k"))["job_id"] == job_id
        await release(fifo)
        assert (await call(client, "job_wait", job_id=job_id))["status"] == "done"
        assert (await call(client, "job_result", job_id=job_id))["value"] == "begun\nreleased\n"


@ERAS
async def test_sigterm_ends_it_soon_with_clients_connected(start: Callable[..., Server], fifo: Path, era: str) -> None:
    server = start()
    answers = []
    async with server.client(era=era) as client:

        async def wait() -> None:
            answers.append(await call(client, "hold", fifo=str(fifo), wait_seconds=3000))

        await client.list_tools()  # which the client does otherwise when it has the answer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            # That the job reads shows that the call is being served.
            descriptor = await trio.to_thread.run_sync(os.open, fifo, os.O_WRONLY)
            begun = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(server.process.wait, PATIENCE) == 0
            assert time.monotonic() - begun < 5
    assert [each["status"] for each in answers] == ["running"]  # it got the current state, and was not cut off
    with Catalog(Settings()) as catalog:
        assert catalog.status(answers[0]["job_id"]).status == "running"
    os.close(descriptor)


async def test_listeners_are_told_that_the_stream_has_ended(start: Callable[..., Server], fifo: Path) -> None:
    server = start()
    async with server.client() as client:
        job_id = (await call(client, "hold", fifo=str(fifo)))["job_id"]
        async with client.listen(resource_subscriptions=[f"job://{job_id}"]) as events:
            server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                assert [event async for event in events] == []  # an end, and no error
    assert await trio.to_thread.run_sync(server.process.wait, PATIENCE) == 0


def test_a_port_that_is_taken(start: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "supervisor", "mcp", "--json", "--http", address]
        done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "permission_denied"
    assert f"cannot listen on {address}: Address already in use" in error["message"]
    assert start  # it used the state root of this fixture
