"""A client of a D-Bus message bus, as much of one as the keeper needs, with the standard library alone.

Connections use the socket of a bus and the credentials of this process. Every wait is bounded.
"""

from __future__ import annotations

import _socket
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["BUS", "Body", "BusError", "Connection", "Message", "Values"]

BUS: Final = "org.freedesktop.DBus"
_MAX_MESSAGE: Final = 1 << 20
_CALL, _REPLY, _ERROR, _SIGNAL = 1, 2, 3, 4  # types of messages
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8  # header fields


class BusError(Exception):
    """A call was refused; the text is the name of the error."""


class Message:
    """A reply or a signal.

    Attributes:
        reply_to: the serial of the call that it answers; 0 of a signal.
        member: the name of a signal.
        body: its values.
    """

    def __init__(self, kind: int, fields: dict[int, str | int], body: bytes) -> None:
        self.reply_to = fields.get(_REPLY_SERIAL, 0) if kind == _REPLY else 0
        self.member = fields.get(_MEMBER, "") if kind == _SIGNAL else ""
        self.body = body


class Connection:
    """A connection to a message bus.

    Args:
        path: of its socket.
        seconds: how long all calls on this connection may take together.

    Raises:
        OSError: it does not answer in time, or not as a message bus does; every method raises it.
        BusError: it refuses this user.
    """

    def __init__(self, path: str, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._received = b""
        self.serial = 0
        try:
            self._wait()
            self._socket.connect(path)
            self.send(b"\0AUTH EXTERNAL %s\r\n" % str(os.geteuid()).encode().hex().encode())
            while b"\r\n" not in self._received:
                self._receive()
            line, _, self._received = self._received.partition(b"\r\n")
            if not line.startswith(b"OK "):
                raise BusError(line.decode("ascii", "replace"))
            self.send(b"BEGIN\r\n")
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _wait(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise self._too_late()
        self._socket.settimeout(left)

    def _too_late(self) -> TimeoutError:
        return TimeoutError(f"no answer within {self._seconds} s")

    def send(self, data: bytes) -> None:
        """Send calls."""
        while data:
            self._wait()
            data = data[self._socket.send(data) :]

    def _receive(self) -> None:
        self._wait()
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise self._too_late() from None
        if not data or len(self._received) > _MAX_MESSAGE:
            message = "the message bus closed the connection"
            raise OSError(message)
        self._received += data

    def call(
        self, path: str, destination: str, interface: str, member: str, signature: str = "", body: Body | None = None
    ) -> bytes:
        """Return a call, for ``send``; its serial is ``serial`` then."""
        self.serial += 1
        content = bytes(body.data) if body is not None else b""
        head = Body()
        head.data += b"l%c\0\1" % _CALL
        head.number(len(content)).number(self.serial).array(8)
        texts = ((_PATH, "o", path), (_INTERFACE, "s", interface), (_MEMBER, "s", member))
        for code, kind, text in (*texts, (_DESTINATION, "s", destination)):
            head.struct().byte(code).signature(kind).string(text)
        if signature:
            head.struct().byte(_SIGNATURE).signature("g").signature(signature)
        head.end().pad(8)
        return bytes(head.data) + content

    def receive(self) -> Message:
        """Return the next reply or signal.

        Raises:
            BusError: it is the refusal of a call.
        """
        while len(self._received) < 16:
            self._receive()
        head = Values(self._received, big=self._received[:1] == b"B")
        head.at = 4
        size = head.number()
        head.number()
        begin = 16 + head.number()
        begin += -begin % 8
        while len(self._received) < begin + size:
            self._receive()
        data, self._received = self._received[: begin + size], self._received[begin + size :]
        fields = Values(data, big=head.big).fields()
        if data[1] == _ERROR and _REPLY_SERIAL in fields:
            raise BusError(fields.get(_ERROR_NAME))
        return Message(data[1], fields, data[begin:])


class Body:
    """Values in the encoding of D-Bus, little-endian; each method returns this."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._arrays: list[tuple[int, int]] = []

    def pad(self, size: int) -> Body:
        """Align the next value."""
        self.data += bytes(-len(self.data) % size)
        return self

    def byte(self, value: int) -> Body:
        """Add a byte."""
        self.data.append(value)
        return self

    def number(self, value: int) -> Body:
        """Add a number of 32 bits without a sign, or a boolean."""
        self.pad(4).data += value.to_bytes(4, "little")
        return self

    def string(self, text: str) -> Body:
        """Add a string, or an object path."""
        encoded = text.encode()
        self.number(len(encoded)).data += encoded + b"\0"
        return self

    def signature(self, text: str) -> Body:
        """Add a signature: of a variant, before its value."""
        self.data += b"%c%s\0" % (len(text), text.encode())
        return self

    def struct(self) -> Body:
        """Begin a structure."""
        return self.pad(8)

    def array(self, alignment: int) -> Body:
        """Begin an array, up to ``end``."""
        at = len(self.number(0).data) - 4
        self._arrays.append((at, len(self.pad(alignment).data)))
        return self

    def end(self) -> Body:
        """End the array that was begun last."""
        at, begin = self._arrays.pop()
        self.data[at : at + 4] = (len(self.data) - begin).to_bytes(4, "little")
        return self


class Values:
    """Reads values in the encoding of D-Bus."""

    def __init__(self, data: bytes, *, big: bool = False) -> None:
        self.data = data
        self.big = big
        self.at = 0

    def number(self) -> int:
        """Return the next value, a number of 32 bits."""
        self.at += -self.at % 4
        self.at += 4
        return int.from_bytes(self.data[self.at - 4 : self.at], "big" if self.big else "little")

    def string(self) -> str:
        """Return the next value, a string or an object path."""
        return self._text(self.number())

    def _text(self, length: int) -> str:
        self.at += length + 1
        return self.data[self.at - length - 1 : self.at - 1].decode("utf-8", "replace")

    def fields(self) -> dict[int, str | int]:
        """Return the fields of a message's header."""
        found: dict[int, str | int] = {}
        self.at = 12
        end = 16 + self.number()
        while self.at < end:
            self.at += -self.at % 8
            code = self.data[self.at]
            self.at += 2
            kind = self._text(self.data[self.at - 1])
            if kind in {"s", "o"}:
                found[code] = self.string()
            elif kind == "g":
                self.at += 1
                found[code] = self._text(self.data[self.at - 1])
            elif kind in {"u", "h"}:
                found[code] = self.number()
            else:
                message = f"a message has a field of type {kind}"
                raise OSError(message)
        return found
