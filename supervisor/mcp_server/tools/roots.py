"""The roots of an MCP client: the directories that its user has opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import trio
from mcp import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import ClientCapabilities, InputRequiredResult, ListRootsRequest, ListRootsResult, RootsCapability
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from supervisor import log

if TYPE_CHECKING:
    from supervisor.mcp_server.tools.tool import Call

__all__ = ["RootsWanted", "roots_of"]

_ROOTS_SECONDS: Final = 5
_ROOTS: Final = "roots"


class RootsWanted(Exception):
    """The client must first answer a question, and repeat its call."""

    def __init__(self) -> None:
        super().__init__()
        self.question = InputRequiredResult(input_requests={_ROOTS: ListRootsRequest()})


async def roots_of(call: Call) -> list[str]:
    """Return the real paths of the client's roots. No answer counts as no roots.

    Raises:
        RootsWanted: the client must be asked, in a version of the protocol where it repeats the call with the answer.
    """
    ctx = call.context
    if not ctx.session.check_client_capability(ClientCapabilities(roots=RootsCapability())):
        return []
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        responses = call.params.input_responses or {}
        if _ROOTS not in responses:
            raise RootsWanted
        listed = responses[_ROOTS]
        return await _paths(listed) if isinstance(listed, ListRootsResult) else []
    try:
        with trio.fail_after(_ROOTS_SECONDS):
            related = ServerMessageMetadata(related_request_id=ctx.request_id)  # over HTTP: on this call's own stream
            return await _paths(await ctx.session.send_request(ListRootsRequest(), ListRootsResult, metadata=related))
    except (MCPError, trio.TooSlowError, ValueError) as error:
        log.info("mcp_no_roots", error=repr(error))
        return []


async def _paths(listed: ListRootsResult) -> list[str]:
    urls = [urlsplit(str(root.uri)) for root in listed.roots]
    paths = [unquote(url.path) for url in urls if url.scheme == "file" and url.netloc in {"", "localhost"}]

    def real() -> list[str]:
        return [os.path.realpath(path) for path in paths if os.path.isabs(path) and "\0" not in path]

    return await trio.to_thread.run_sync(real, abandon_on_cancel=True)
