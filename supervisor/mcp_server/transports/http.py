"""Streamable HTTP at ``/mcp``: Hypercorn on Trio in front of the SDK's application.

Other users of a machine reach its loopback too, and so do web pages that its browser shows. So
there is a bearer token always, unless that was declined for loopback, and Host and Origin are
checked. A client that goes away takes nothing with it but its own request: jobs live elsewhere.
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
from supervisor.mcp_server.transports.limits import SESSION_IDLE_SECONDS, Limited, Timely, say
from supervisor.mcp_server.transports.listening import Address, parse_address

__all__ = ["Address", "parse_address", "serve"]

_Scope = dict[str, Any]
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]
_App = Callable[[Any, Any, Any], Awaitable[None]]

_MOST_BODY_BYTES: Final = 4 << 20
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

    ``tokens``: who may come in; ``None`` lets everybody in as the owner. ``allowed_hosts``: names by
    which clients may call this machine, besides its address. ``started`` is told where it listens.

    Raises:
        PermissionDenied: it cannot listen there.
    """
    application = server.streamable_http_app(
        max_request_body_size=_MOST_BODY_BYTES,
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
        listening.let_go(address)


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
    why = f"{why}; `supervisor mcp` prints where it is"
    await say(send, 401, "invalid_token", why, (b"www-authenticate", b'Bearer error="invalid_token"'))


async def _refuse_for_now(send: _Send, error: SupervisorError) -> None:
    log.warning("mcp_tokens_unreadable", error=error.message)
    why = "the tokens cannot be read now; try again"
    await say(send, 503, "temporarily_unavailable", why, (b"retry-after", b"1"))
