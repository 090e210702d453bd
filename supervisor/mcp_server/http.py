"""Streamable HTTP at ``/mcp``: Hypercorn on Trio in front of the SDK's application.

Other users of a machine reach its loopback too, and so do web pages that its browser shows. So
there is a bearer token always, unless that was declined for loopback, and Host and Origin are
checked. A client that goes away takes nothing with it but its own request: jobs live elsewhere.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import attrs
import trio
from hypercorn.config import Config
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings

from supervisor import log
from supervisor.errors import InvalidArguments, PermissionDenied, SupervisorError
from supervisor.mcp_server import accepting
from supervisor.mcp_server.tokens import Tokens

__all__ = ["Address", "parse_address", "serve"]

_Scope = dict[str, Any]
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]
_App = Callable[[Any, Any, Any], Awaitable[None]]

_MOST_BODY_BYTES: Final = 4 << 20
_LAST_ANSWERS_SECONDS: Final = 1.0


@attrs.frozen(slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """Return it as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that ``HOST:PORT`` names.

    Raises:
        InvalidArguments: it names none.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        message = f"--http is {text!r}; it accepts HOST:PORT, as in 127.0.0.1:8765 (port 0: any that is free)"
        raise InvalidArguments(message, repair="See `supervisor mcp --help`.")
    return Address(host, int(port))


async def serve(
    server: Server[Any],
    address: Address,
    *,
    tokens: Tokens | None,
    allowed_hosts: Sequence[str],
    shutdown: Callable[[], Awaitable[None]],
    started: Callable[[Address], None],
) -> None:
    """Serve until ``shutdown`` returns.

    ``tokens``: who may come in; ``None`` lets everybody in as the owner. ``allowed_hosts``: names by
    which clients may call this machine, besides its address. ``started`` is told where it listens.

    Raises:
        PermissionDenied: it cannot listen there.
    """
    application = server.streamable_http_app(
        max_request_body_size=_MOST_BODY_BYTES,
        transport_security=_security(address, allowed_hosts),
    )
    app: Any = application if tokens is None else _Guarded(application, tokens)
    listener = _listener(address)
    config = Config()
    config.graceful_timeout = _LAST_ANSWERS_SECONDS
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("supervisor.mcp.http")
    bound = Address(address.host, listener.getsockname()[1])
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(accepting.serve, app, config, listener, shutdown=shutdown))
        started(bound)


def _listener(address: Address) -> socket.socket:
    """Return a socket that listens, bound here so that what the system says to that is told as it is."""
    try:
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(where[:2], family=family)
    except OSError as error:
        message = f"cannot listen on {address}: {error.strerror or error}"
        raise PermissionDenied(message, repair="Choose another --http HOST:PORT.") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listener


def _security(address: Address, allowed_hosts: Sequence[str]) -> TransportSecuritySettings:
    """Return what Host and Origin may be: this machine by the names that it is known to have."""
    names = list(allowed_hosts)
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.loopback:
        names += ["127.0.0.1", "localhost", "[::1]"]
    if host not in names and host not in {"0.0.0.0", "[::]"}:  # noqa: S104  # never a name that a client calls
        names.append(host)
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
        allowed_origins=[
            f"{scheme}://{name}{port}" for name in names for scheme in ("http", "https") for port in ("", ":*")
        ],
    )


class _Guarded:
    """Lets only requests with a known token in, and tells the rest who makes them."""

    def __init__(self, app: _App, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "http":
            given = _bearer(scope)
            try:
                principal = None if given is None else self._tokens.principal(given)
            except SupervisorError as error:  # whether it is known cannot be told now
                await _refuse_for_now(send, error)
                return
            if given is None or principal is None:
                await _refuse(send, "a bearer token is needed" if given is None else "this token is not known")
                return
            # The SDK's own class: its sessions then answer only whoever has opened them.
            scope["user"] = AuthenticatedUser(AccessToken(token=given, client_id=principal, scopes=[]))
        await self._app(scope, receive, send)


def _bearer(scope: _Scope) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


async def _refuse(send: _Send, why: str) -> None:
    shape = {"error": "invalid_token", "error_description": f"{why}; `supervisor mcp` prints where it is"}
    await _say(send, 401, shape, (b"www-authenticate", b'Bearer error="invalid_token"'))


async def _refuse_for_now(send: _Send, error: SupervisorError) -> None:
    log.warning("mcp_tokens_unreadable", error=error.message)
    shape = {"error": "temporarily_unavailable", "error_description": "the tokens cannot be read now; try again"}
    await _say(send, 503, shape, (b"retry-after", b"1"))


async def _say(send: _Send, status: int, shape: dict[str, str], *more: tuple[bytes, bytes]) -> None:
    body = json.dumps(shape).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
