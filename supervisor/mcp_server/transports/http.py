"""Streamable HTTP at ``/mcp``: the SDK's application, served by Hypercorn on Trio.

Other users of a machine reach its loopback, and so do web pages in a browser on it. So every request needs
a bearer token, unless ``--no-token`` was given for loopback, and Host and Origin are checked. A client that
disconnects cancels only its own requests: jobs are in processes of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio
from hypercorn.config import Config
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.mcp_server.access.tokens import Tokens
from supervisor.mcp_server.transports import accepting, listening
from supervisor.mcp_server.transports.limits import (
    SESSION_IDLE_SECONDS,
    App,
    Limited,
    Message,
    Receive,
    Send,
    Timely,
    refuse,
)
from supervisor.mcp_server.transports.listening import Address, parse_address

__all__ = ["Address", "parse_address", "serve"]

_MAX_BODY_BYTES: Final = 4 << 20
_LAST_ANSWERS_SECONDS: Final = 1.0


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

    ``tokens`` are the accepted tokens; with ``None`` every request is the owner's. ``allowed_hosts`` are
    names of this machine in the Host header, besides its address. ``started`` gets the bound address.

    Raises:
        PermissionDenied: the address cannot be bound.
    """
    application = server.streamable_http_app(
        max_request_body_size=_MAX_BODY_BYTES,
        session_idle_timeout=SESSION_IDLE_SECONDS,
        transport_security=_security(address, allowed_hosts),
    )
    limited = Limited(application)
    app = Timely(limited if tokens is None else _Guarded(limited, tokens))
    listener = listening.listen(address)
    config = Config()
    config.graceful_timeout = _LAST_ANSWERS_SECONDS
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("supervisor.mcp.http")
    bound = address if address.path else Address(address.host, listener.getsockname()[1])
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(accepting.serve, app, config, listener, shutdown=shutdown))
            started(bound)
    finally:
        listening.remove_socket(address)


def _security(address: Address, allowed_hosts: Sequence[str]) -> TransportSecuritySettings:
    names = list(allowed_hosts)
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.loopback:
        names += ["127.0.0.1", "localhost", "[::1]"]
    if host not in names and host not in {"0.0.0.0", "[::]"}:  # noqa: S104  # no client connects to these
        names.append(host)
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
        allowed_origins=[
            f"{scheme}://{name}{port}" for name in names for scheme in ("http", "https") for port in ("", ":*")
        ],
    )


class _Guarded:
    """Refuses requests without a known token, and adds the principal to the others."""

    def __init__(self, app: App, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = _bearer(scope)
            try:
                principal = None if given is None else self._tokens.principal(given)
            except SupervisorError as error:  # the tokens cannot be read now
                log.warning("mcp_tokens_unreadable", error=error.message)
                why = "the tokens cannot be read now; try again"
                await refuse(send, 503, "temporarily_unavailable", why, (b"retry-after", b"1"))
                return
            if given is None or principal is None:
                problem = "a bearer token is needed" if given is None else "this token is not known"
                why = f"{problem}; `supervisor mcp` prints where it is"
                await refuse(send, 401, "invalid_token", why, (b"www-authenticate", b'Bearer error="invalid_token"'))
                return
            # The SDK's own class: a session then accepts only requests of the principal that opened it.
            scope["user"] = AuthenticatedUser(AccessToken(token=given, client_id=principal, scopes=[]))
        await self._app(scope, receive, send)


def _bearer(scope: Message) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
