"""A headless Chromium with an empty profile for each test, and a server with real jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor import BlockingSupervisor, Settings
from supervisor.http.guard import Callers
from supervisor.http.tokens import Tokens
from supervisor.web.page.sessions import Sessions, path_of
from tests.browser import chromium
from tests.web.conftest import Server, module_server, server

__all__ = ["module_server", "server"]  # the fixtures of the server


@attrs.frozen
class Screen:
    """A page in the browser, and what its console has said."""

    page: Any
    console: list[str]
    server: Server

    def go(self, path: str) -> None:
        self.page.goto(self.server.url.rstrip("/") + path)

    def log_in(self) -> None:
        roles = Tokens(self.server.state_dir, "serve-tokens", ("owner", "viewer"))
        link = Sessions(self.server.state_dir, Callers(Tokens(self.server.state_dir), roles)).link(self.server.token)
        self.page.goto(self.server.url.rstrip("/") + path_of(link))
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(self.server.url)

    def until_live(self) -> None:
        self.page.wait_for_function("() => document.getElementById('link-word').textContent === 'live'")


@pytest.fixture
def screen_options() -> dict[str, Any]:
    """What a test changes about the browser."""
    return {}


@pytest.fixture
def screen(server: Server, tmp_path: Path, screen_options: dict[str, Any]) -> Iterator[Screen]:
    """Return a page that has said nothing on the console when the test is over."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = chromium.find()
    if program is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as engine:
        context = engine.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=program,
            args=list(chromium.ARGUMENTS),
            viewport={"width": 1280, "height": 900},
            **screen_options,
        )
        page, console = context.new_page(), []
        page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: console.append(f"error: {error}"))
        yield Screen(page, console, server)
        context.close()
    assert console == []


@pytest.fixture
def sup(server: Server) -> Iterator[BlockingSupervisor]:
    """A supervisor in this process, on the state root of the server."""
    with BlockingSupervisor(Settings(state_dir=server.state_dir, stop_grace_seconds=0.2)) as opened:
        yield opened
