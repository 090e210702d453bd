"""The caller of a request: which token it brings, whose jobs it may see, and how many requests it may have at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Final

import attrs

from supervisor import log
from supervisor.errors import PermissionDenied, StateBusy, SupervisorError, TooManyRequests
from supervisor.http.accepting import max_connections
from supervisor.http.asgi import App, Message, Receive, Send
from supervisor.http.problems import refuse
from supervisor.http.shares import Room, Share
from supervisor.http.tokens import Tokens

__all__ = ["OWNER", "OWNER_ROLE", "VIEWER_ROLE", "Caller", "Callers", "Guard", "Limited", "Requests"]

OWNER_ROLE: Final = "owner"
VIEWER_ROLE: Final = "viewer"


_CHALLENGE: Final = (b"www-authenticate", b'Bearer error="invalid_token"')
_REPAIR: Final = "Send `Authorization: Bearer TOKEN`; the server has printed which file has the token."


@attrs.frozen(slots=True, kw_only=True)
class Caller:
    """The caller of a request.

    Attributes:
        principal: whose jobs it may see; ``None`` is the owner of the state root, who may see all.
        may_change: whether it may start and change jobs, and not only read.
        token: the token that it brought, if any.
    """

    principal: str | None = None
    may_change: bool = True
    token: str = attrs.field(default="", repr=False)


OWNER: Final = Caller()


class Callers:
    """Finds the caller by its token.

    Args:
        principals: the tokens of principals, each of which may see only its own jobs.
        roles: the tokens ``owner`` and ``viewer``, who see all jobs; ``viewer`` may change nothing.
    """

    def __init__(self, principals: Tokens, roles: Tokens | None = None) -> None:
        self.principals = principals
        self._roles = roles

    def find(self, token: str) -> Caller | None:
        """Return the caller with this token; ``None`` if there is none.

        Raises:
            SupervisorError: the tokens cannot be read now.
        """
        role = None if self._roles is None else self._roles.principal(token)
        if role in {OWNER_ROLE, VIEWER_ROLE}:
            return Caller(may_change=role == OWNER_ROLE, token=token)
        principal = self.principals.principal(token)
        return None if principal is None else Caller(principal=principal, token=token)


class Guard:
    """Refuses requests without a known token, and adds ``caller`` to the scope of the others.

    Without ``callers``, every request is the owner's.
    """

    def __init__(self, app: App, callers: Callers | None) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request of a known caller."""
        if scope["type"] == "http":
            if self._callers is None:
                scope["caller"] = OWNER
            else:
                given = _bearer(scope)
                try:
                    caller = None if given is None else self._callers.find(given)
                except SupervisorError as error:  # the tokens cannot be read now
                    log.warning("mcp_tokens_unreadable", error=error.message)
                    await refuse(send, StateBusy("the tokens cannot be read now", repair="Try again."))
                    return
                if caller is None:
                    problem = "a bearer token is needed" if given is None else "this token is not known"
                    await refuse(send, PermissionDenied(problem, repair=_REPAIR), _CHALLENGE, status=401)
                    return
                scope["caller"] = caller
        await self._app(scope, receive, send)


def _bearer(scope: Message) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


_MAX_BODY_BYTES: Final = 4 << 20
"""No application here accepts a larger body; one of a length that is not known counts as one of this."""
_BODIES_BYTES: Final = 32 << 20
_ANSWERS_BYTES: Final = 32 << 20


class _Held:
    """What the requests of one caller hold that are served now."""

    def __init__(self) -> None:
        self.requests = 0
        self.bodies = Share(_BODIES_BYTES)
        self.answers = Share(_ANSWERS_BYTES)


class Requests:
    """Counts the concurrent requests of each caller: one may have half of the connections that the others leave.

    So there is always room for one more caller, however many of them take all that they may have. It also counts what
    the bodies of a caller's requests hold, and its large answers.
    """

    def __init__(self) -> None:
        self._by_caller: dict[tuple[str | None, bool], _Held] = {}

    @contextlib.contextmanager
    def counted(self, scope: Message) -> Generator[None]:
        """Enclose a request, whose scope has its caller; it gets ``room``, in which large answers reserve memory.

        Raises:
            TooManyRequests: the caller has too many already.
        """
        caller: Caller = scope["caller"]
        key = caller.principal, caller.may_change
        own = self._by_caller.get(key) or _Held()
        others = sum(held.requests for held in self._by_caller.values()) - own.requests
        if own.requests >= max(1, (max_connections() - others) // 2):
            message = "there are too many concurrent requests with this token"
            raise TooManyRequests(message)
        size = _body_bytes(scope)
        if not own.bodies.has_room(size):
            message = "the concurrent requests with this token are too large together"
            raise TooManyRequests(message)
        self._by_caller[key] = own
        own.requests += 1
        own.bodies.take(size)
        room = scope["room"] = Room(own.answers)
        try:
            yield
        finally:
            room.close()
            own.bodies.give_back(size)
            own.requests -= 1
            if not own.requests:
                del self._by_caller[key]


class Limited:
    """Limits the number and the bytes of the concurrent requests of each caller.

    Args:
        app: serves requests whose caller is known.
        requests: counts its requests and those of other applications of the server; by default its own alone.
        refused: returns the application that answers a request that is refused; by default the answer is JSON.
    """

    def __init__(
        self,
        app: App,
        requests: Requests | None = None,
        refused: Callable[[TooManyRequests], App] | None = None,
    ) -> None:
        self._app = app
        self._requests = Requests() if requests is None else requests
        self._refused = refused

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request whose caller is known."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._requests.counted(scope))
            except TooManyRequests as error:
                if self._refused is None:
                    await refuse(send, error)
                else:
                    await self._refused(error)(scope, receive, send)
                return
            await self._app(scope, receive, send)


def _body_bytes(scope: Message) -> int:
    """Return how many bytes the body of a request may hold."""
    names = {name: value for name, value in scope["headers"] if name in {b"content-length", b"transfer-encoding"}}
    length = names.get(b"content-length")
    if length is not None and length.isdigit():
        return min(int(length[:20]), _MAX_BODY_BYTES)
    # Over HTTP/2, the headers do not tell a request without a body.
    is_unknown = bool(names) or (scope["http_version"] == "2" and scope["method"] in {"POST", "PUT", "PATCH"})
    return _MAX_BODY_BYTES if is_unknown else 0
