"""Fixtures of the tests of the MCP server: servers in memory and as processes, and the SDK's own client."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from mcp import Client

from supervisor import Settings, open_supervisor
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.options import Options
from supervisor.mcp_server.serving import assemble
from supervisor.testing import FakeEngine, Script

KINDS = """
[kind.count]
description = "Count to a number."
command = ["seq", "{upto}"]
parameters.upto = { type = "integer", minimum = 1, maximum = 100, description = "Where to end." }

[kind.ask]
description = "Ask an agent."
command = ["claude", "-p", "--model={model}"]
stdin = "Please: {prompt}"
interpret = "raw"
deadline_seconds = 600
env_pass = ["ANTHROPIC_*"]
env_set = { RETRIES = "3" }
read_only = true
parameters.prompt = { type = "string", max_length = 1000 }
parameters.model = { type = "string", required = false }
"""


@attrs.frozen
class Caller:
    """A client in memory, and the machine behind its server."""

    client: Client
    engine: FakeEngine

    async def __call__(self, tool: str, /, **arguments: Any) -> Mapping[str, Any]:
        """Call a tool that has to succeed, and return its structured content."""
        answer = await self.client.call_tool(tool, arguments)
        assert not answer.is_error, answer.structured_content
        content: Mapping[str, Any] = answer.structured_content
        return content

    async def refused(self, tool: str, /, **arguments: Any) -> Mapping[str, Any]:
        """Call a tool that has to fail, and return the error that it gives."""
        answer = await self.client.call_tool(tool, arguments)
        assert answer.is_error, answer.structured_content
        assert answer.structured_content["ok"] is False
        error: Mapping[str, Any] = answer.structured_content["error"]
        return error


class Servers:
    """Makes servers in memory on one state root and one fake machine."""

    def __init__(self, state_dir: Path) -> None:
        self.settings = Settings(state_dir=state_dir, stop_grace_seconds=1)
        self.script = Script()
        """What each command does that is launched from now on."""
        self.engine = FakeEngine(lambda _: self.script)

    @contextlib.asynccontextmanager
    async def __call__(
        self,
        text: str = KINDS,
        *,
        era: str = "legacy",
        allow_commands: Sequence[str] = (),
        trust_roots: bool = True,
        **client: Any,
    ) -> AsyncIterator[Caller]:
        options = Options(
            settings=self.settings, kinds=kinds_file.parse(text, "kinds.toml"), allow_commands=allow_commands
        )
        lazy = LazySupervisor(lambda: open_supervisor(self.settings, engine=self.engine))
        server = assemble(options, lazy, trust_roots=trust_roots)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lazy.run)
            async with Client(server, mode=era, **client) as connected:
                yield Caller(connected, self.engine)
            nursery.cancel_scope.cancel()


@pytest.fixture
def servers(state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Servers:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    monkeypatch.chdir(workspace)
    return Servers(state_dir)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path
