"""A server without free descriptors: valid tokens stay valid, jobs run on, and the server survives."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor.errors import SupervisorError
from supervisor.http.guard import Callers, Guard
from supervisor.http.tokens import Tokens
from supervisor.mcp_server.lazy import LazySupervisor
from tests.mcp_server.transports.test_http import Server, call
from tests.mcp_server.transports.test_http import start as start  # noqa: PLC0414  # a fixture

INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
    b'"capabilities":{},"clientInfo":{"name":"t","version":"1"}}}'
)


def set_aside(root: Path) -> list[Path]:
    return list(root.glob("*damaged*"))


def connect(stack: contextlib.ExitStack, server: Server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition("/")[0].rpartition(":")
    made = stack.enter_context(socket.socket())
    made.setblocking(False)
    made.connect_ex((host, int(port)))
    return made


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
async def test_silent_connections_do_not_starve_other_clients(start: Callable[..., Server], state_dir: Path) -> None:
    server = start()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (128, 4096))
    with contextlib.ExitStack() as stack, trio.fail_after(60):
        for _ in range(1000):
            connect(stack, server)
        status, _ = await trio.to_thread.run_sync(
            lambda: server.post(INITIALIZE, Authorization=f"Bearer {server.token}")
        )
        assert status == 200
        status, _ = await trio.to_thread.run_sync(lambda: server.post(INITIALIZE, Authorization="Bearer wrong"))
        assert status == 401
        async with server.client() as client:
            for number in range(3):
                job_id = (await call(client, "say", word=str(number)))["job_id"]
                ended = await call(client, "job_wait", job_id=job_id)
                assert ended["status"] == "done"
                assert (await call(client, "job_result", job_id=job_id))["value"] == f"{number}\n"
    assert server.process.poll() is None
    assert not set_aside(state_dir)


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
async def test_descriptors_that_run_out_and_come_back(start: Callable[..., Server], state_dir: Path) -> None:
    """Without any descriptor it may refuse, but gives no wrong answer; once some are free it works again."""
    server = start()
    pid = server.process.pid

    def ask(token: str) -> int | None:
        try:
            return server.post(INITIALIZE, Authorization=f"Bearer {token}")[0]
        except OSError:  # the connection was closed without an answer
            return None

    assert await trio.to_thread.run_sync(ask, server.token) == 200
    async with server.client() as client:
        job_id = (await call(client, "say", word="x"))["job_id"]
        await call(client, "job_wait", job_id=job_id)
    with trio.fail_after(90):
        for spare in range(6):
            open_now = len(os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + spare, 4096))
            with contextlib.ExitStack() as stack, trio.move_on_after(1):
                for _ in range(8):
                    connect(stack, server)
                said = await trio.to_thread.run_sync(ask, server.token, abandon_on_cancel=True)
                assert said in {200, 503, None}
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, 4096))
        async with server.client() as client:
            assert (await call(client, "job_status", job_id=job_id))["status"] == "done"
            job_id = (await call(client, "say", word="again"))["job_id"]
            assert (await call(client, "job_wait", job_id=job_id))["status"] == "done"
        assert await trio.to_thread.run_sync(ask, "wrong") == 401
    assert server.process.poll() is None
    assert not set_aside(state_dir)


# ---------------------------------------------------------------- tokens


@pytest.fixture
def tokens(state_dir: Path) -> Tokens:
    made = Tokens(state_dir)
    time.sleep(0.15)  # a more recent change may have the same timestamp as the read file
    assert made.principal(made.default.read_text().strip()) == "default"
    return made


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, *calls: str) -> None:
    def refused(path: Any, *_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number), path)

    for name in calls:
        monkeypatch.setattr(os, name, refused)


NUMBERS = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_known_token_needs_no_descriptor(tokens: Tokens, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    token = tokens.default.read_text().strip()
    refuse(monkeypatch, number, "listdir", "open", "scandir")
    assert tokens.principal(token) == "default"
    assert tokens.principal("x" * 40) is None


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("call", ["listdir", "lstat", "read"])
def test_what_cannot_be_read_now_is_neither_known_nor_unknown(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    token = tokens.default.read_text().strip()
    other = tokens.default.with_name("other")
    other.touch(mode=0o600)
    other.write_text("y" * 40)
    with monkeypatch.context() as patch:
        if call == "read":
            patch.setattr(Path, "read_text", lambda *_, **__: _raise(number))
        else:
            refuse(patch, number, call)
        for given in (token, "y" * 40, "z" * 40):
            with pytest.raises(SupervisorError):
                tokens.principal(given)
    assert [tokens.principal(given) for given in (token, "y" * 40, "z" * 40)] == ["default", "other", None]


def _raise(number: int) -> str:
    raise OSError(number, os.strerror(number))


def test_a_token_that_is_replaced_in_place_with_its_time_kept_is_the_only_one(tokens: Tokens) -> None:
    path = tokens.default
    old, found = path.read_text().strip(), path.stat()
    path.write_text("n" * len(old) + "\n")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert tokens.principal(old) is None
    assert tokens.principal("n" * len(old)) == "default"


def test_a_token_of_two_principals_is_that_of_neither(tokens: Tokens) -> None:
    token = tokens.default.read_text().strip()
    other = tokens.default.with_name("other")
    other.touch(mode=0o600)
    other.write_text(token)
    assert tokens.principal(token) is None
    other.unlink()
    assert tokens.principal(token) == "default"


async def test_the_guard_says_503_when_it_cannot_tell(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError

    async def app(*_: Any) -> None:
        raise AssertionError

    refuse(monkeypatch, errno.EMFILE, "lstat")
    scope = {"type": "http", "headers": [(b"authorization", b"Bearer " + b"x" * 40)]}
    await Guard(app, Callers(tokens))(scope, receive, send)
    assert said[0]["status"] == 503
    assert (b"retry-after", b"1") in said[0]["headers"]


async def test_a_supervisor_that_breaks_down_behind_a_server_is_opened_again() -> None:
    opened: list[int] = []

    @contextlib.asynccontextmanager
    async def open_it() -> Any:
        opened.append(len(opened))
        async with trio.open_nursery() as nursery:
            if len(opened) == 1:
                nursery.start_soon(_break)
            yield opened[-1]
            nursery.cancel_scope.cancel()

    async def _break() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    lazy = LazySupervisor(open_it)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lazy.run)
            seen: set[object] = set()
            while 1 not in seen:
                with contextlib.suppress(SupervisorError):
                    seen.add(await lazy.supervisor())
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert opened == [0, 1]
