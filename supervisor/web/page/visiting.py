"""Who looks at a page: its session, and the checks that stand before each request of a browser."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import attrs
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import request_response

from supervisor import log
from supervisor.errors import InternalError, InvalidArguments, PermissionDenied, SupervisorError
from supervisor.http.asgi import App, Message, Receive, Send
from supervisor.http.guard import OWNER, Caller, Limited, Requests
from supervisor.http.problems import status_of
from supervisor.store.state_errors import state_error
from supervisor.system.observing import NotKnown
from supervisor.web.page.rendering import render
from supervisor.web.page.sessions import SESSION_SECONDS, Sessions

__all__ = ["HEADERS", "Page", "Visit", "Visitor", "failure", "form_of", "page", "with_session"]

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer of the page: no script and no style but our own files, no frames, and nothing is kept."""
_MAX_FORM_BYTES: Final = 1 << 16
_PROCESS_SECRET: Final = secrets.token_urlsafe(32)
"""In the place of the secret of a session, on a server that needs no login."""


@attrs.frozen(slots=True)
class Visitor:
    """A person at a browser.

    Attributes:
        caller: for whom the session acts.
        secret: of the session.
        signed_in: whether there is a session, which the person can end.
    """

    caller: Caller
    secret: str = attrs.field(repr=False)
    signed_in: bool = True

    @property
    def name(self) -> str:
        """What the page calls the person."""
        if self.caller.principal is not None:
            return self.caller.principal
        return "owner" if self.caller.may_change else "viewer"

    @property
    def owns(self) -> bool:
        """Whether the person may change groups, and start jobs again: the owner of the state root."""
        return self.caller.principal is None and self.caller.may_change

    @property
    def csrf(self) -> str:
        """What each form of the person holds, and no other site knows."""
        return hmac.new(self.secret.encode(), b"csrf", hashlib.sha256).hexdigest()


@attrs.frozen(slots=True)
class Visit:
    """One request of a person."""

    request: Request
    visitor: Visitor

    def answer(self, template: str, status: int = 200, **values: object) -> Response:
        """Return a page."""
        csrf = Markup('<input type="hidden" name="csrf" value="{}">').format(self.visitor.csrf)
        shown = {"stream": None, "said": None, **values, "viewer": self.visitor, "csrf_field": lambda: csrf}
        return HTMLResponse(render(template, **shown), status, HEADERS)


Page = Callable[[Visit], Awaitable[Response]]


class page:  # noqa: N801  # it is called like a function, and Starlette asks whether it is one
    """The application that serves one path of the page to those who have logged in.

    Without ``sessions``, every visitor is the owner.

    Args:
        serve: answers a visit.
        sessions: the sessions of the state root.
        cookie: the name of the cookie that holds the secret of a session.
        requests: limits the concurrent requests of each caller.
    """

    def __init__(self, serve: Page, sessions: Sessions | None, cookie: str, requests: Requests) -> None:
        self._serve = serve
        self._sessions = sessions
        self._cookie = cookie
        self._limited = Limited(request_response(self._answer), requests, _refused)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a visitor; lead others to the login."""
        request = Request(scope, receive)
        refusal: Response | None = None
        try:
            visitor = _visitor(request, self._sessions, self._cookie)
        except SupervisorError as error:
            refusal = PlainTextResponse(error.message, status_of(error), HEADERS)
        else:
            if visitor is None:
                # The browser does not connect again to a stream that answers so.
                is_stream = request.headers.get("accept") == "text/event-stream"
                refusal = Response(None, 204, HEADERS) if is_stream else RedirectResponse("/login", 303, HEADERS)
            else:
                scope["visitor"], scope["caller"] = visitor, visitor.caller
        await (refusal or self._limited)(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        visit = Visit(request, request.scope["visitor"])
        try:
            return await self._serve(visit)
        except SupervisorError as error:
            return failure(visit, error)
        except NotKnown as error:
            return failure(visit, state_error(error, "this cannot be read now"))
        except Exception as error:  # noqa: BLE001  # a defect in one page must not end the server
            log.warning("web_request_failed", path=request.url.path[:200], error=repr(error))
            return failure(visit, InternalError(f"the page failed: {error!r}", repair="Report this as a defect."))


def _visitor(request: Request, sessions: Sessions | None, cookie: str) -> Visitor | None:
    if sessions is None:
        return Visitor(OWNER, _PROCESS_SECRET, signed_in=False)
    secret = request.cookies.get(cookie)
    caller = None if secret is None else sessions.caller(secret)
    return None if caller is None or secret is None else Visitor(caller, secret)


def _refused(error: SupervisorError) -> App:
    async def answer(request: Request) -> Response:
        return failure(Visit(request, request.scope["visitor"]), error)

    return request_response(answer)


def failure(visit: Visit, error: SupervisorError) -> Response:
    """Return the page that tells of an error."""
    response = visit.answer("failure.html", status_of(error), error=error)
    if error.retryable:
        response.headers["retry-after"] = "1"
    return response


async def form_of(request: Request, csrf: str | None) -> Mapping[str, str]:
    """Return the fields of a form that was sent from a page of this server.

    Args:
        request: the request.
        csrf: the token that the form has to hold; ``None`` for a form without one.

    Raises:
        PermissionDenied: it comes from another place, or from a page of another session.
        InvalidArguments: it is too large, or no form.
    """
    _check_origin(request)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            message = "the form is too large"
            raise InvalidArguments(message)
    try:
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=50, errors="strict"))
    except ValueError as error:
        message = "the body is not a form"
        raise InvalidArguments(message) from error
    if csrf is not None and not hmac.compare_digest(fields.get("csrf", "").encode(), csrf.encode()):
        message = "the form is of another session, or of none"
        raise PermissionDenied(message, repair="Load the page again, and repeat what you did there.")
    return fields


def _check_origin(request: Request) -> None:
    """Check that a browser says that one of our own pages sent the request: all browsers say where it comes from."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    same = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if (site not in {None, "same-origin"}) or (origin is not None and not same) or (site is None and origin is None):
        message = "the request does not come from a page of this server"
        raise PermissionDenied(message, repair="Use the forms of the page, or the REST interface with a token.")


def with_session(response: Response, request: Request, cookie: str, secret: str | None) -> Response:
    """Set the cookie of a session, or delete it."""
    secure = (request.headers.get("origin") or "").startswith("https:")  # there is a proxy with TLS before this server
    if secret is None:
        response.delete_cookie(cookie, path="/", httponly=True, samesite="strict", secure=secure)
    else:
        response.set_cookie(
            cookie, secret, max_age=SESSION_SECONDS, path="/", httponly=True, samesite="strict", secure=secure
        )
    return response
