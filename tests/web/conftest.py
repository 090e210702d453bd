"""Fixtures of the tests of `supervisor serve`: as a process, and in this one on a fake machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
import trio

from supervisor import BlockingSupervisor, JobNotFound, open_supervisor
from supervisor.http.guard import OWNER_ROLE, VIEWER_ROLE, Callers
from supervisor.http.listening import Address
from supervisor.http.tokens import Tokens
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.options import Options
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings
from supervisor.testing import FakeEngine, Script
from supervisor.web import serving
from supervisor.web.feed import Feed

PATIENCE = 60.0
KINDS = """
[kind.hold]
description = "Runs until the file is there."
command = ["sh", "-c", "echo begun; cat \\"$1\\"", "hold", "{fifo}"]
parameters.fifo = {}

[kind.say]
description = "Says something."
command = ["echo", "{word}"]
parameters.word = {}
"""


@attrs.frozen
class Server:
    """A server as a process, and its address."""

    process: subprocess.Popen[bytes]
    url: str
    token_file: Path | None
    state_dir: Path
    login_url: str | None = None

    @property
    def token(self) -> str:
        assert self.token_file is not None
        return self.token_file.read_text(encoding="ascii").strip()

    @property
    def port(self) -> int:
        return int(self.url.removesuffix("/").rpartition(":")[2])

    def principal(self, name: str) -> str:
        """Add a principal, and return its token."""
        file = self.state_dir / "mcp-tokens" / name
        file.touch(mode=0o600)
        file.write_text(f"token-of-{name}-0123456789", encoding="ascii")
        return file.read_text(encoding="ascii")

    @property
    def viewer(self) -> str:
        """The token that may only read."""
        assert self.token_file is not None
        return self.token_file.with_name("viewer").read_text(encoding="ascii").strip()

    def client(self, token: str | None = "", **options: Any) -> httpx2.Client:
        """Return a client with a token: by default the owner's, with None without any."""
        headers = {} if token is None else {"Authorization": f"Bearer {token or self.token}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False, **options)


Start = Callable[..., Server]


@contextlib.contextmanager
def starting(state_dir: Path, directory: Path) -> Iterator[Start]:
    """Start servers on one state root, each with ``KINDS``; end them, and cancel what runs."""
    workspace = directory / "workspace"
    workspace.mkdir()
    config = directory / "kinds.toml"
    config.write_text(KINDS, encoding="utf-8")
    config.chmod(0o600)
    with contextlib.ExitStack() as stack:

        def start_one(*words: str, address: str = "127.0.0.1:0") -> Server:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [
                *(sys.executable, "-m", "supervisor", "serve", "--json"),
                *("--state-dir", str(state_dir), "--http", address, "--config", str(config)),
            ]
            process = stack.enter_context(
                subprocess.Popen([*command, *words], stdout=subprocess.PIPE, cwd=workspace, env=environment)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said["ok"] is True, said
            token_file = None if said["token_file"] is None else Path(said["token_file"])
            return Server(process, said["url"], token_file, state_dir, said.get("login_url"))

        yield start_one
    clear(state_dir)


def clear(state_dir: Path) -> None:
    """Cancel what runs, and forget all jobs and groups."""
    with BlockingSupervisor(Settings(state_dir=state_dir, stop_grace_seconds=0.2)) as sup:
        for job in sup.list(limit=1000).jobs:
            with contextlib.suppress(JobNotFound):
                sup.cancel(job.job_id)
                sup.forget(job.job_id)
        for group in sup.groups():
            sup.remove_group(group.name)


@pytest.fixture
def start(state_dir: Path, tmp_path: Path) -> Iterator[Start]:
    """Start servers for one test alone."""
    with starting(state_dir, tmp_path) as start_one:
        yield start_one


@pytest.fixture
def own_server(start: Start) -> Server:
    """A server for a test that ends or damages it."""
    return start()


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of a module: its start takes longer than most tests."""
    directory = tmp_path_factory.mktemp("server")
    with starting(directory / "state", directory) as start_one:
        started = start_one("--allow-host", "jobs.example")
        # Its keeper lives as long as the server: with a first job it is there before any test, which leaves nothing.
        with started.client() as client:
            first = client.post("/v1/jobs", json={"kind": "say", "parameters": {"word": "x"}}, params={"wait": 30})
        assert first.json()["status"] == "done"
        clear(started.state_dir)
        yield started


@pytest.fixture
def server(module_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server of the module, without jobs and groups, and with the tokens of its roles."""
    monkeypatch.setenv("SUPERVISOR_STATE_DIR", str(module_server.state_dir))
    assert module_server.token_file is not None
    roles = {file: file.read_bytes() for file in module_server.token_file.parent.iterdir()}
    yield module_server
    for file, token in roles.items():
        if not file.exists():
            file.touch(mode=0o600)
            file.write_bytes(token)
    clear(module_server.state_dir)


@attrs.define
class Here:
    """A server in this process, on a fake machine."""

    settings: Settings
    engine: FakeEngine
    url: str = ""
    script: Script = attrs.field(factory=Script)
    """What each command does that is launched from now on."""
    tokens: dict[str, str] = attrs.field(factory=dict[str, str])
    supervisors: list[Supervisor] = attrs.field(factory=list[Supervisor])
    """Those that the server has opened."""
    feeds: list[Feed] = attrs.field(factory=list[Feed])

    @property
    def feed(self) -> Feed:
        """The events for clients that listen."""
        return self.feeds[-1]

    def waiters(self, job_id: str) -> int:
        """Return how many calls wait for the end of a job."""
        return self.supervisors[-1]._registry.entries[job_id].waiters

    def client(self, caller: str | None = "owner") -> httpx2.AsyncClient:
        """Return a client: the owner, the viewer, or a principal."""
        headers = {} if caller is None else {"Authorization": f"Bearer {self.tokens[caller]}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False)


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Here]]


@pytest.fixture
def serve_here(state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Return what serves in this process, with the principals alice and bob."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    monkeypatch.chdir(workspace)

    @contextlib.asynccontextmanager
    async def served(kinds: str = KINDS, *, allow_commands: Sequence[str] = (), **given: Any) -> AsyncIterator[Here]:
        settings = Settings(state_dir=state_dir, stop_grace_seconds=1, **given)
        here = Here(settings, FakeEngine(lambda _: here.script))
        principals = Tokens(state_dir)
        roles = Tokens(state_dir, "serve-tokens", (OWNER_ROLE, VIEWER_ROLE))
        for name in ("alice", "bob"):
            (principals.directory / name).touch(mode=0o600)
            (principals.directory / name).write_text(f"token-of-{name}-0123456789")
        for directory in (principals.directory, roles.directory):
            here.tokens |= {file.name: file.read_text().strip() for file in directory.iterdir()}
        options = Options(settings=settings, kinds=kinds_file.parse(kinds, "kinds.toml"), allow_commands=allow_commands)
        listens, over = trio.Event(), trio.Event()

        def started(bound: Address) -> None:
            here.url = f"http://{bound}"
            listens.set()

        @contextlib.asynccontextmanager
        async def open_it() -> AsyncIterator[Supervisor]:
            async with open_supervisor(settings, engine=here.engine) as supervisor:
                here.supervisors.append(supervisor)
                yield supervisor

        async def serve() -> None:
            await serving.serve(
                options,
                Address("127.0.0.1"),
                callers=Callers(principals, roles),
                allowed_hosts=(),
                started=started,
                open_it=open_it,
                over=over,
            )

        def make_feed(*arguments: Any) -> Feed:
            here.feeds.append(Feed(*arguments))
            return here.feeds[-1]

        monkeypatch.setattr(serving, "Feed", make_feed)
        with trio.fail_after(2 * PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await listens.wait()
                yield here
                over.set()

    return served
