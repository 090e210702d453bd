"""An MCP endpoint that runs the jobs of a load: its address, or how its server is started."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs

from supervisor.settings import Settings

__all__ = ["Endpoint"]


@attrs.frozen(slots=True, kw_only=True)
class Endpoint:
    """An MCP endpoint.

    Attributes:
        url: the URL of Streamable HTTP; ``None`` for stdio.
        token: the bearer token for the URL; ``None`` for none.
        command: the command of a server over stdio; empty for this package's own server.
        settings: the state root of this package's own server.
        workspace: the workspace of the jobs; ``None`` lets the server choose.
        keeps_jobs: whether the jobs stay after their output was fetched.
    """

    url: str | None
    token: str | None = attrs.field(default=None, repr=False)
    command: Sequence[str] = ()
    settings: Settings
    workspace: str | None = None
    keeps_jobs: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """The description of the endpoint for the report."""
        if self.url is not None:
            return {"kind": "mcp", "transport": "http", "url": self.url}
        return {"kind": "mcp", "transport": "stdio", "command": list(self.command) or "supervisor mcp"}

    @property
    def same_machine(self) -> bool:
        """Whether the jobs run on this machine, judging by the address."""
        if self.url is None:
            return True
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"
