"""The hosts that can start this server, and how each is configured. Imports nothing of the SDK."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import attrs

from supervisor.errors import InvalidArguments

__all__ = ["HOSTS", "ByCommand", "ByFile", "Host"]


@attrs.frozen(slots=True, kw_only=True)
class ByCommand:
    """A host whose own command adds a server: it alone may write its file while it runs.

    Attributes:
        title: the name of the host.
        words: the command, before the name of the server.
    """

    title: str
    words: tuple[str, ...]

    def argv(self, name: str, server: Sequence[str]) -> list[str]:
        """Return the command that adds the server ``name``, which is started by ``server``."""
        return [*self.words, name, "--", *server]


@attrs.frozen(slots=True, kw_only=True)
class ByFile:
    """A host that reads a JSON file.

    Attributes:
        title: the name of the host.
        linux: the path of the file on Linux, below the home directory.
        macos: the same on macOS.
        table: the member of the file that has the servers.
        more: further members of a server's entry.
    """

    title: str
    linux: str
    macos: str
    table: str
    more: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    def path(self) -> Path:
        """Return the real path of the file."""
        return Path(os.path.realpath(Path.home() / (self.macos if sys.platform == "darwin" else self.linux)))

    def entry(self, server: Sequence[str]) -> dict[str, Any]:
        """Return the entry of a server."""
        return {**self.more, "command": server[0], "args": list(server[1:])}

    def changed(self, text: str, name: str, server: Sequence[str], *, replace: bool) -> str | None:
        """Return the text of the file with the server; ``None`` if the file has it already.

        Raises:
            InvalidArguments: the text is no JSON object, or has another server of this name and ``replace`` is false.
        """
        entry = self.entry(server)
        try:
            whole: Any = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            message = f"{self.path()} is not plain JSON ({error}), so it is not changed here"
            raise InvalidArguments(message, repair="Add what --print shows by hand.") from error
        if not isinstance(whole, dict) or not isinstance(cast("dict[str, Any]", whole).get(self.table, {}), dict):
            message = f"{self.path()} does not have the form that {self.title} reads"
            raise InvalidArguments(message, repair=f"It has an object, with an object {self.table!r} in it.")
        shape = cast("dict[str, Any]", whole)
        servers: dict[str, Any] = shape.setdefault(self.table, {})
        if servers.get(name) == entry:
            return None
        if name in servers and not replace:
            message = f"{self.path()} has another server {name!r} already"
            raise InvalidArguments(message, repair="Give --replace, or another --name.")
        servers[name] = entry
        return json.dumps(shape, indent=2, ensure_ascii=False) + "\n"


Host = ByCommand | ByFile

HOSTS: Final[Mapping[str, Host]] = {
    "claude": ByCommand(title="Claude Code", words=("claude", "mcp", "add", "--scope", "user")),
    "codex": ByCommand(title="Codex", words=("codex", "mcp", "add")),
    "vscode": ByFile(
        title="VS Code",
        linux=".config/Code/User/mcp.json",
        macos="Library/Application Support/Code/User/mcp.json",
        table="servers",
        more={"type": "stdio"},
    ),
    "cursor": ByFile(title="Cursor", linux=".cursor/mcp.json", macos=".cursor/mcp.json", table="mcpServers"),
    "gemini": ByFile(
        title="Gemini CLI", linux=".gemini/settings.json", macos=".gemini/settings.json", table="mcpServers"
    ),
    "zed": ByFile(
        title="Zed",
        linux=".config/zed/settings.json",
        macos=".config/zed/settings.json",
        table="context_servers",
        more={"source": "custom"},
    ),
}
"""The hosts by the names that ``supervisor mcp install`` takes."""
