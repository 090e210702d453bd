"""A server with tasks, in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.testing import FakeEngine
from tests.mcp_server.tasks.in_memory import World, running


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(running())


@pytest.fixture
def world(state_dir: Path, engine: FakeEngine) -> World:
    return World(state_dir, engine)
