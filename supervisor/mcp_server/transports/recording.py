"""Records the answers of a server to a host's first requests, for ``opening``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import trio
from mcp.server.lowlevel import Server
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCResponse
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from supervisor.mcp_server.transports import messages
from supervisor.mcp_server.transports.first_answers import ANY_OTHER, FirstAnswers

__all__ = ["record"]

_CLIENT: Final = {"name": "recorder", "version": "1"}
_NO_VERSION: Final = "0"
_SECONDS: Final = 60


async def record(server: Server[Any]) -> FirstAnswers:
    """Return the answers of ``server`` in all protocol versions; of a version that it refuses there are none.

    Raises:
        trio.TooSlowError: the server has not answered for a minute.
    """
    handshake = {
        ANY_OTHER if version == _NO_VERSION else version: await _texts(
            server,
            [
                ("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": _CLIENT}),
                ("tools/list", None),
                ("ping", None),
            ],
        )
        for version in (*HANDSHAKE_PROTOCOL_VERSIONS, _NO_VERSION)
    }
    modern = {
        version: await _texts(server, [(method, _envelope(version)) for method in ("server/discover", "tools/list")])
        for version in MODERN_PROTOCOL_VERSIONS
    }
    return FirstAnswers(handshake, modern)


def _envelope(version: str) -> Mapping[str, Any]:
    meta = {"protocolVersion": version, "clientInfo": _CLIENT, "clientCapabilities": {}}
    return {"_meta": {f"io.modelcontextprotocol/{name}": value for name, value in meta.items()}}


async def _texts(server: Server[Any], requests: Sequence[tuple[str, Mapping[str, Any] | None]]) -> dict[str, str]:
    """Return the results of requests on one connection as JSON texts, by method, of those that have a result."""
    to_server, from_host = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_host, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    found: dict[str, str] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, from_host, to_host, server.create_initialization_options())
        with trio.fail_after(_SECONDS):
            async with to_server, from_server:
                for number, (method, params) in enumerate(requests):
                    shape = {"jsonrpc": "2.0", "id": number, "method": method}
                    line = json.dumps(shape if params is None else {**shape, "params": params}).encode()
                    request = messages.parse(line)
                    assert not hasattr(request, "__next__")  # noqa: S101  # it was not refused
                    await to_server.send(SessionMessage(request))  # pyright: ignore[reportArgumentType]
                    answer = (await from_server.receive()).message
                    if isinstance(answer, JSONRPCResponse):
                        found[method] = _result_of(messages.dumped(answer), number)
    return found


def _result_of(line: bytes, number: int) -> str:
    """Return the JSON text of the result in a line; the front of the line is what ``opening`` writes."""
    text = line.decode()
    front = f'{{"jsonrpc":"2.0","id":{number},"result":'
    if not text.startswith(front) or not text.endswith("}\n"):
        message = f"an answer has another form: {text[:100]!r}"
        raise ValueError(message)
    return text[len(front) : -2]
