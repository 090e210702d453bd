"""The application of one server: which paths it has, and which checks stand before each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from supervisor.errors import InvalidArguments
from supervisor.http.asgi import App, Message, Receive, Send
from supervisor.http.guard import Caller, Guard, Limited, Requests
from supervisor.http.hosts import KnownHosts
from supervisor.http.listening import Address
from supervisor.http.problems import refuse
from supervisor.mcp_server.transports.http import Endpoint
from supervisor.web import events, groups, health, jobs, metrics, page, schedules, spending, starting
from supervisor.web.openapi import document
from supervisor.web.operations import Call, Operation, answer, failure, read_only, route
from supervisor.web.service import Service

__all__ = ["OPERATIONS", "application"]


async def _openapi(_: Call) -> Response:
    return answer(document(OPERATIONS))


OPERATIONS: Final = (
    *jobs.OPERATIONS,
    *starting.OPERATIONS,
    *groups.OPERATIONS,
    *schedules.OPERATIONS,
    *spending.OPERATIONS,
    *events.OPERATIONS,
    *metrics.OPERATIONS,
    Operation(
        method="GET", path="/v1/openapi.json", summary="Describe this interface.", run=_openapi, answer="Document"
    ),
)
"""All operations of the REST interface."""


def application(service: Service, mcp: Server[Any], address: Address, allowed_hosts: Sequence[str]) -> App:
    """Return the application of a server at an address.

    Probes need no token, as they say only whether the server works. The page has a login, and checks its callers
    itself. All else needs a token.
    """
    endpoint, requests = Endpoint(mcp), Requests()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with endpoint.running():
            yield

    handlers: dict[Any, Any] = {HTTPException: _refused}
    behind_tokens = Starlette(
        routes=[Route("/mcp", _ForChanges(endpoint)), *(route(service, operation) for operation in OPERATIONS)],
        exception_handlers=handlers,
    )
    everything = Starlette(
        routes=[
            *health.routes(service),
            *page.routes(service, requests),
            Mount("/", Guard(Limited(behind_tokens, requests), service.callers)),
        ],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    return KnownHosts(everything, address, allowed_hosts)


class _ForChanges:
    """Refuses callers who may not change jobs."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        caller: Caller = scope["caller"]
        if caller.may_change:
            await self._app(scope, receive, send)
        else:
            await refuse(send, read_only())


async def _refused(request: Request, error: HTTPException) -> Response:
    """Answer a request that no route takes."""
    message = f"{request.method} {request.url.path:.200} is not here: {error.detail}"
    response = failure(
        InvalidArguments(message, repair="GET /v1/openapi.json lists what is here."), status=error.status_code
    )
    response.headers.update(error.headers or {})
    return response
