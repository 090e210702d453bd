"""The first messages of a host over stdio, answered from a record while the SDK is imported in a thread.

Only messages whose answer is certain are answered here: ``initialize``, ``server/discover``, ``tools/list`` and
``ping`` of the exact form that hosts send. From the first other request on, and from a message in any unusual form on,
everything is left to the SDK. It also gets the request that has opened the connection, because that decides its
protocol; its own answer to it is compared and not sent. So the order and the bytes are those of the SDK alone.
"""

from __future__ import annotations

import json
import os
import re
import select
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import attrs

from supervisor.mcp_server.transports.first_answers import ANY_OTHER, FirstAnswers

__all__ = ["NOT_OPENED", "Opened", "Opening", "converse", "open_while"]

_CHUNK: Final = 1 << 16
_MAX_LINE: Final = 1 << 16
_MAX_INTEGER: Final = 1 << 53
_ID: Final = re.compile(r"[A-Za-z0-9 ._:/#@+-]{1,200}")
"""Strings that every JSON writer writes in the same way."""

_HALF_A_PAIR: Final = re.compile(rb"\\\\u[dD]")

_ENVELOPE: Final = "io.modelcontextprotocol/"


@attrs.frozen(slots=True, kw_only=True)
class Opened:
    """What was read and answered before the SDK was there.

    Attributes:
        replayed: the lines that the server needs for its state: the opening request, and notifications.
        answer: the line that has answered the opening request; empty for no answer.
        unread: what else was read and not served.
        ended: whether the host has closed stdin.
    """

    replayed: tuple[bytes, ...] = ()
    answer: bytes = b""
    unread: bytes = b""
    ended: bool = False


NOT_OPENED: Final = Opened()


class Opening:
    """Which messages are answered, and how. Pure."""

    def __init__(self, answers: FirstAnswers) -> None:
        self._all = answers
        self._texts: Mapping[str, str] | None = None
        self._is_modern = False
        self.replayed: list[bytes] = []
        self.answer = b""

    def reply(self, line: bytes) -> bytes | None:
        """Return the answer to a line, which is empty for a notification; ``None`` if the SDK must serve it."""
        message = _plain(line)
        if message is None:
            return None
        method, params = message["method"], message.get("params")
        if "id" not in message:
            if method != "notifications/initialized" or self._texts is None or self._is_modern or params:
                return None
            self.replayed.append(line)
            return b""
        opens = self._texts is None
        text = self._open(method, params) if opens else self._later(method, params)
        if text is None:
            return None
        answer = f'{{"jsonrpc":"2.0","id":{json.dumps(message["id"])},"result":{text}}}\n'.encode()
        if opens:
            self.replayed.append(line)
            self.answer = answer
        return answer

    def _open(self, method: str, params: Any) -> str | None:
        if method == "initialize":
            if not _is_handshake(params):
                return None
            version = params["protocolVersion"]
            self._texts = self._all.handshake.get(version) or self._all.handshake.get(ANY_OTHER)
        else:
            version = _version_of_envelope(params)
            self._texts = None if version is None else self._all.modern.get(version)
            self._is_modern = True
        text = None if self._texts is None else self._texts.get(method)
        if text is None:
            self._texts = None
        return text

    def _later(self, method: str, params: Any) -> str | None:
        if method == "initialize" or self._texts is None:
            return None
        if self._is_modern:
            version = _version_of_envelope(params)
            found = None if version is None else self._all.modern.get(version)
            return None if found is None else found.get(method)
        return self._texts.get(method) if params is None or params == {} else None


def open_while(opening: Opening, ends: tuple[int, int], work: Callable[[], object]) -> Opened:
    """Answer the host over these descriptors until ``work``, which runs in a thread, has returned or failed."""
    done, over = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()

    def run() -> None:
        try:
            work()
        except BaseException:  # noqa: BLE001, S110  # the caller does the same work once more, and gets the error
            pass
        finally:
            os.write(over, b".")

    thread = threading.Thread(target=run, name="import of the SDK", daemon=True)
    thread.start()
    try:
        unread, ended = converse(opening, ends, done)
        thread.join()
    finally:
        if not thread.is_alive():
            os.close(done)
            os.close(over)
    return Opened(replayed=tuple(opening.replayed), answer=opening.answer, unread=unread, ended=ended)


def converse(opening: Opening, ends: tuple[int, int], done: int) -> tuple[bytes, bool]:
    """Answer until ``done`` is readable, a message must be left to the SDK, or the host has closed stdin."""
    poll = select.poll()
    poll.register(ends[0], select.POLLIN)
    poll.register(done, select.POLLIN)
    held = b""
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if done in ready:
            return held, False
        chunk = os.read(ends[0], _CHUNK)
        if not chunk:
            return held, True
        held += chunk
        while b"\n" in held:
            line, _, rest = held.partition(b"\n")
            if line.strip():
                answer = opening.reply(line)
                if answer is None or not _write(ends[1], answer):
                    return held, False
            held = rest
        if len(held) > _MAX_LINE:
            return held, False


def _write(descriptor: int, data: bytes) -> bool:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # a pipe that a host has made non-blocking, and does not read
            select.select([], [descriptor], [])
        except OSError:  # the host has gone, which the server finds, too
            return False
    return True


# ---------------------------------------------------------------- forms that hosts send


def _plain(line: bytes) -> dict[str, Any] | None:
    """Return the message in a line of the usual form."""
    if len(line) > _MAX_LINE or _HALF_A_PAIR.search(line) is not None:
        return None
    try:
        message: Any = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    found = cast("dict[str, Any]", message)
    if not found.keys() <= {"jsonrpc", "id", "method", "params"} or found.get("jsonrpc") != "2.0":
        return None
    if not isinstance(found.get("method"), str) or not isinstance(found.get("params", {}), dict):
        return None
    if "id" in found and not _is_id(found["id"]):
        return None
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _refuse(_: str) -> None:
    raise ValueError


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return _ID.fullmatch(value) is not None
    return type(value) is int and -_MAX_INTEGER < value < _MAX_INTEGER


def _is_handshake(params: Any) -> bool:
    return (
        isinstance(params, dict)
        and params.keys() == {"protocolVersion", "capabilities", "clientInfo"}  # pyright: ignore[reportUnknownMemberType]
        and isinstance(params["protocolVersion"], str)
        and _are_capabilities(params["capabilities"])
        and _is_client(params["clientInfo"])
    )


def _version_of_envelope(params: Any) -> str | None:
    """Return the protocol version of parameters that are a plain envelope."""
    if not isinstance(params, dict) or params.keys() != {"_meta"}:  # pyright: ignore[reportUnknownMemberType]
        return None
    meta = cast("dict[str, Any] | None", params["_meta"])
    names = {f"{_ENVELOPE}{each}" for each in ("protocolVersion", "clientInfo", "clientCapabilities")}
    if not isinstance(meta, dict) or meta.keys() != names:
        return None
    version = meta[f"{_ENVELOPE}protocolVersion"]
    if not isinstance(version, str) or not _are_capabilities(meta[f"{_ENVELOPE}clientCapabilities"]):
        return None
    return version if _is_client(meta[f"{_ENVELOPE}clientInfo"]) else None


def _is_client(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"name", "version"} <= value.keys() <= {"name", "version", "title", "description", "websiteUrl"}  # pyright: ignore[reportUnknownMemberType]
        and all(isinstance(each, str) for each in cast("dict[str, Any]", value).values())
    )


_NONE: Final[Mapping[str, Any]] = {}
_CAPABILITIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "roots": {"listChanged": bool},
    "sampling": {"context": _NONE, "tools": _NONE},
    "elicitation": {"form": _NONE, "url": _NONE},
}


def _are_capabilities(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for name, held in cast("dict[str, Any]", value).items():
        if not isinstance(held, dict):
            return False
        if name in {"experimental", "extensions"}:
            if not all(isinstance(each, dict) for each in cast("dict[str, Any]", held).values()):
                return False
        elif name not in _CAPABILITIES or not _fits(cast("dict[str, Any]", held), _CAPABILITIES[name]):
            return False
    return True


def _fits(value: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    for name, held in value.items():
        if name not in known or not (isinstance(held, bool) if known[name] is bool else held == {}):
            return False
    return True
