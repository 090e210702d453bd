"""One line of JSON-RPC over stdio: the message in it, or the refusal for its sender.

The SDK drops a line that it cannot parse, and a host that waits for the answer then hangs. So this module
refuses each request that cannot be parsed, with the request's id, which it finds even if the rest of the line
is no JSON. It accepts half a surrogate pair, which JSON allows and only the SDK's parser refuses.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import attrs
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)

__all__ = ["Refusal", "dumped", "parse", "too_long"]

_NO_ID: Final = b"null"
_ID: Final = rb'-?[0-9]{1,4300}(?:\.[0-9]{1,99})?(?:[eE][+-]?[0-9]{1,9})?|"(?:[^"\\\x00-\x1f]|\\.){0,4300}"'
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z)|[\[{]++|[\]}]++', re.DOTALL)
_KEY: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*(?:(" + _ID + rb")[ \t\r\n]*[,}])?")
# Finds the id in the end of a long line: it is the last member, or only ``jsonrpc`` and ``method`` follow it.
_LAST_ID: Final = re.compile(
    rb'(?<!\\)"id"[ \t]*:[ \t]*(' + _ID + rb')[ \t]*(?:,[ \t]*"(?:jsonrpc|method)"[ \t]*:[ \t]*"[^"\\]*"[ \t]*)*\}\s*\Z'
)


@attrs.frozen(slots=True)
class Refusal:
    """The error that answers a refused request.

    Attributes:
        id: the id of the request, as its JSON text; ``null`` if none was found.
        code: the JSON-RPC code.
        message: the reason.
    """

    id: bytes
    code: int
    message: str

    def line(self) -> bytes:
        """Return the error as a line."""
        error = json.dumps({"code": self.code, "message": self.message}, separators=(",", ":"))
        return b'{"jsonrpc":"2.0","id":%b,"error":%b}\n' % (self.id, error.encode())


def parse(line: bytes) -> JSONRPCMessage | Iterator[Refusal]:
    """Return the message in a line, or its refusals; a broken response is not refused."""
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        pass
    else:
        # The SDK treats a request with an invalid id (1.5, null) as a notification, and does not answer.
        if not isinstance(message, JSONRPCNotification) or b'"id"' not in line or "id" not in _outline(line):
            return message
    try:
        held: Any = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else f"{error}"[:200]
        why = f"This line is not JSON in UTF-8: {why}"
        return (each for outline in _outlines(line) for each in _refused(outline, PARSE_ERROR, why))
    if isinstance(held, list):
        return _refused_batch(held)  # pyright: ignore[reportUnknownArgumentType]
    outline = _outline(line)
    try:
        message = jsonrpc_message_adapter.validate_python(held, by_name=False)
    except ValueError:
        return _refused(outline, INVALID_REQUEST, f"Invalid request: {_fault(held)}")
    if isinstance(message, JSONRPCNotification) and "id" in outline:
        return _refused(outline, INVALID_REQUEST, f"Invalid request: {_fault(held)}")
    return message


def too_long(head: bytes, tail: bytes, most: int) -> Iterator[Refusal]:
    """Return the refusals for a line of more than ``most`` bytes; ``head`` and ``tail`` are its two ends."""
    outline = _outline(head.removeprefix(codecs.BOM_UTF8))
    if outline.get("id", _NO_ID) == _NO_ID and (last := _LAST_ID.search(tail)) is not None:
        outline["id"] = last[1]
    return _refused(outline, INVALID_REQUEST, f"Invalid request: this line is longer than {most} bytes")


def dumped(message: JSONRPCMessage) -> bytes:
    """Return a message as a line; an error if the message cannot be encoded as JSON."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except (ValueError, RecursionError):  # for instance half a surrogate pair
        pass
    try:
        return json.dumps(message.model_dump(by_alias=True, exclude_unset=True), separators=(",", ":")).encode() + b"\n"
    except (ValueError, TypeError, RecursionError):
        held = message.id if isinstance(message, JSONRPCResponse | JSONRPCError) else None
        return Refusal(json.dumps(held).encode(), INTERNAL_ERROR, "The answer cannot be written as JSON").line()


def _refused(outline: Mapping[str, bytes], code: int, message: str) -> Iterator[Refusal]:
    # A broken response is not refused: its id is of a request of this server, and may equal one of the host's.
    if "method" in outline or not outline.keys() & {"result", "error"}:
        yield Refusal(outline.get("id", _NO_ID), code, message)


def _refused_batch(messages: list[Any]) -> Iterator[Refusal]:
    why = "Invalid request: batches are not supported, send each message on a line of its own"
    any_id = False
    for each in messages:
        held = cast("dict[str, Any]", each if isinstance(each, dict) else {})
        request_id = held.get("id")
        if _is_id(request_id) and not held.keys() & {"result", "error"}:
            any_id = True
            yield Refusal(json.dumps(request_id).encode(), INVALID_REQUEST, why)
    if not any_id:
        yield Refusal(_NO_ID, INVALID_REQUEST, why)


def _is_id(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value not in {math.inf, -math.inf}


def _outline(data: bytes) -> dict[str, bytes]:
    """Return the members of a message by name: possible ids as their JSON text, other values as ``null``."""
    return next(_outlines(data))


def _outlines(data: bytes) -> Iterator[dict[str, bytes]]:
    """Yield the outline of each message in a line or in a batch, at least one.

    After the first, yield only messages with an id: a broken message must not be answered twice.
    """
    own = 1 + data.lstrip().startswith(b"[")
    depth = 0
    first = True
    found: dict[str, bytes] = {}
    for token in _TOKEN.finditer(data):
        text = token[0]
        if text[0] in b"[{":
            depth += len(text)
        elif text[0] in b"]}":
            depth -= len(text)
            if depth < own and found:
                if first or found.get("id", _NO_ID) != _NO_ID:
                    yield found
                    first = False
                found = {}
        elif depth == own and (key := _KEY.match(data, token.end())) is not None:
            name = text[1:-1].decode(errors="replace")
            found[name] = key[1] or _NO_ID
    if first or found.get("id", _NO_ID) != _NO_ID:
        yield found


def _fault(held: object) -> str:
    if not isinstance(held, dict):
        return "a message is an object"
    message = cast("dict[str, Any]", held)
    if message.get("jsonrpc") != "2.0":
        return 'jsonrpc must be "2.0"'
    if not isinstance(message.get("method"), str):
        return "method must be a string"
    if "id" in message and (not isinstance(message["id"], str | int) or isinstance(message["id"], bool)):
        return "id must be a string or a whole number"
    return "params must be an object"
