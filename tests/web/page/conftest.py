"""A person at a browser without scripts: logs in, reads pages, and sends their forms."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import httpx2
import pytest

from supervisor import BlockingSupervisor, Settings
from tests.web.conftest import PATIENCE, Server


@attrs.frozen
class Browser:
    """Cookies, and what a browser says of its requests."""

    client: httpx2.Client
    url: str

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.client.get(path, **options)

    def csrf(self, path: str = "/jobs") -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get(path).text)
        assert found is not None
        return found[1]

    def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> httpx2.Response:
        ours = {"origin": self.url.rstrip("/"), "sec-fetch-site": "same-origin"}
        sent = {"csrf": self.csrf(), **(fields or {})}
        return self.client.post(path, data=sent, headers={**ours, **headers})

    def text(self, path: str) -> str:
        """Return the text of a page, as a person reads it."""
        body = self.get(path).text.partition("<main")[2]
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())

    def log_in(self, url: str) -> httpx2.Response:
        path = url.removeprefix(self.url.rstrip("/"))
        link = path.partition("link=")[2]
        assert link in self.get(path).text
        headers = {"origin": self.url.rstrip("/"), "sec-fetch-site": "same-origin"}
        return self.client.post("/login", data={"link": link}, headers=headers)


@pytest.fixture
def browsing() -> Iterator[Callable[[Server], Browser]]:
    """Return a browser that has not logged in."""
    opened: list[httpx2.Client] = []

    def browse(server: Server) -> Browser:
        opened.append(httpx2.Client(base_url=server.url, timeout=PATIENCE, trust_env=False))
        return Browser(opened[-1], server.url)

    yield browse
    for each in opened:
        each.close()


@pytest.fixture
def browser(server: Server, browsing: Callable[[Server], Browser]) -> Browser:
    """Return a browser that has logged in as the owner."""
    found = browsing(server)
    sent = found.client.post("/login", data={"token": server.token}, headers={"origin": server.url.rstrip("/")})
    assert sent.status_code == 303
    return found


@pytest.fixture
def sup(server: Server) -> Iterator[BlockingSupervisor]:
    """A supervisor in this process, on the state root of the server."""
    with BlockingSupervisor(Settings(state_dir=server.state_dir, stop_grace_seconds=0.2)) as opened:
        yield opened
