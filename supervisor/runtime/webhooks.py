"""Sends one webhook: a POST over a connection of its own, to an address that was checked.

h11 writes the request and reads the answer, and Trio has the connection. A client library would bring a pool,
redirects, cookies and proxies, none of which may be used here, and connects to a name; this connects to the one address
that was resolved and checked, with the name in TLS and in ``Host``. Of the answer only the head is read, and as much of
the body as the caller asks for, up to a limit; the connection is closed then. A receiver that does not answer, or drips
bytes, costs one attempt its time limit.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import ssl
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final, Literal

import h11
import trio

from supervisor._version import __version__
from supervisor.text.webhook_signatures import sign
from supervisor.text.webhook_urls import Address, Network, Url, is_allowed, parse_public_url, parse_url

__all__ = ["Failed", "Reason", "post"]

_SECONDS: Final = 30.0
"""For the whole attempt, from the name server to the answer."""
_CONNECT_SECONDS: Final = 10.0
_MAX_HEAD: Final = 16 << 10
_PIECE: Final = 4096
_MAX_ADDRESSES: Final = 3
_MAX_INTERIM: Final = 10
_OK: Final = range(200, 300)
_REDIRECTS: Final = range(300, 400)
_SERVER_ERROR: Final = 500


Reason = Literal["connection_refused", "timeout", "tls_error", "http_4xx", "http_5xx"]


class Failed(Exception):
    """An attempt has failed; the message says why, and has no secret.

    Attributes:
        reason: the sort of the failure, for those who may not learn more: what is in an inner network, for instance.
        status: of the answer; ``None`` if there was none.
    """

    def __init__(self, message: str, reason: Reason = "connection_refused", status: int | None = None) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.status = status


async def post(
    url: str,
    event_id: str,
    body: bytes,
    *,
    keys: Sequence[bytes],
    now: int,
    allowed: Iterable[Network],
    headers: Sequence[tuple[str, str]] = (),
    from_network: bool = False,
    max_answer: int = 0,
) -> bytes:
    """Deliver a body; return the first bytes of the body of the answer.

    Args:
        url: of the receiver.
        event_id: the id of the message.
        body: what is sent.
        keys: sign the body.
        now: the time of the attempt, in seconds since 1970.
        allowed: networks that it may be sent to besides the public ones.
        headers: further headers.
        from_network: a client over the network has given the URL: this machine is no receiver then.
        max_answer: how much is read of the body of the answer.

    Raises:
        Failed: the receiver has not answered with 2xx.
    """
    allowed = tuple(allowed)
    try:
        parsed = parse_public_url(url, allowed) if from_network else parse_url(url, allowed)
    except ValueError as error:
        raise Failed(str(error)) from error
    with trio.move_on_after(_SECONDS):
        try:
            signed = [*sign(keys, event_id, now, body), *headers]
            status, answer = await _exchange(parsed, allowed, signed, body, max_answer)
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate of {parsed.host} is not valid: {error.verify_message}"
            raise Failed(message, "tls_error") from error
        except (OSError, ssl.SSLError, trio.BrokenResourceError, h11.ProtocolError) as error:
            cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                message = f"the certificate of {parsed.host} is not valid: {cause.verify_message}"
            else:
                message = f"{parsed}: {_words(cause)}"
            raise Failed(message, _reason(cause)) from error
        if status in _OK:
            return answer
        more = ", which is a redirect: none is followed" if status in _REDIRECTS else ""
        message = f"{parsed} answered with status {status}{more}"
        raise Failed(message, "http_5xx" if status >= _SERVER_ERROR else "http_4xx", status)
    message = f"{parsed} did not answer within {_SECONDS:.0f} seconds"
    raise Failed(message, "timeout")


def _reason(error: BaseException) -> Reason:
    if isinstance(error, ssl.SSLError):
        return "tls_error"
    return "timeout" if isinstance(error, TimeoutError) else "connection_refused"


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return " ".join(str(error).split())[:200] or type(error).__name__


async def _exchange(
    url: Url, allowed: Sequence[Network], headers: Iterable[tuple[str, str]], body: bytes, max_answer: int
) -> tuple[int, bytes]:
    stream: trio.abc.Stream = await _connected(await _resolved(url, allowed), url.port)
    try:
        if url.is_tls:
            context = await trio.to_thread.run_sync(_trust)
            stream = trio.SSLStream(stream, context, server_hostname=url.host, https_compatible=True)
            await stream.do_handshake()
        return await _ask(stream, url, headers, body, max_answer)
    finally:
        await trio.aclose_forcefully(stream)


@functools.cache
def _trust() -> ssl.SSLContext:
    """Return the authorities that this machine trusts; to read them takes some 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _resolved(url: Url, allowed: Sequence[Network]) -> Sequence[Address]:
    """Return the addresses of the host, if a webhook may be sent to all of them.

    A name that has both public and private addresses is refused: which of them is meant is not known.
    """
    try:
        found = await trio.socket.getaddrinfo(url.host, url.port, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"the host {url.host} is not found: {_words(error)}"
        raise Failed(message) from error
    addresses = list(dict.fromkeys(ip_address(str(each[4][0])) for each in found))
    refused = [each for each in addresses if not is_allowed(each, allowed, loopback=url.is_loopback)]
    if refused or not addresses:
        message = f"the host {url.host} has the address {', '.join(map(str, refused)) or 'none'}, which is not public"
        raise Failed(message)
    return addresses[:_MAX_ADDRESSES]


async def _connected(addresses: Sequence[Address], port: int) -> trio.SocketStream:
    """Connect to the first of these addresses that accepts the connection."""
    error: OSError | None = None
    for address in addresses:
        family = trio.socket.AF_INET if address.version == 4 else trio.socket.AF_INET6
        socket = trio.socket.socket(family, trio.socket.SOCK_STREAM)
        try:
            with trio.move_on_after(_CONNECT_SECONDS):
                await socket.connect((str(address), port))
                return trio.SocketStream(socket)
            error = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        except OSError as problem:
            error = problem
        except BaseException:
            socket.close()
            raise
        socket.close()
    raise error or OSError


async def _ask(
    stream: trio.abc.Stream, url: Url, headers: Iterable[tuple[str, str]], body: bytes, max_answer: int
) -> tuple[int, bytes]:
    """Send the request; return the status of the answer and the first bytes of its body."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    request = h11.Request(
        method="POST",
        target=url.target,
        headers=[
            ("Host", url.authority),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("User-Agent", f"trio-supervisor/{__version__}"),
            ("Connection", "close"),
            *headers,
        ],
    )
    sent = [connection.send(request), connection.send(h11.Data(data=body)), connection.send(h11.EndOfMessage())]
    found: tuple[int, bytes] | Exception = (0, b"")
    async with trio.open_nursery() as nursery:
        # At the same time: a receiver may refuse, and close, before it has read everything.
        nursery.start_soon(_send, stream, b"".join(filter(None, sent)))
        try:
            found = await _status(stream, connection), await _first(stream, connection, max_answer)
        except (OSError, trio.BrokenResourceError, h11.ProtocolError) as error:  # not in a group
            found = error
        nursery.cancel_scope.cancel()
    if isinstance(found, Exception):
        raise found
    return found


async def _send(stream: trio.abc.Stream, data: bytes) -> None:
    with contextlib.suppress(OSError, trio.BrokenResourceError):  # the answer, if there is one, says more
        await stream.send_all(data)


async def _status(stream: trio.abc.Stream, connection: h11.Connection) -> int:
    for _ in range(_MAX_INTERIM):
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_PIECE)))
        if isinstance(event, h11.Response):
            return event.status_code
        if not isinstance(event, h11.InformationalResponse):
            break
    message = "the connection was closed without an answer"
    raise h11.RemoteProtocolError(message)


async def _first(stream: trio.abc.Stream, connection: h11.Connection, most: int) -> bytes:
    """Return up to ``most`` bytes of the body of an answer whose head has been read."""
    body = bytearray()
    while len(body) < most:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_PIECE)))
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            break
    return bytes(body[:most])
