"""One operation of the REST interface: its route, its parameters, and the function that serves it.

The table of operations is the only source of the routes, of the checks of parameters, and of the OpenAPI document.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final

import attrs
import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from supervisor import log
from supervisor.errors import InternalError, InvalidArguments, PermissionDenied, SupervisorError
from supervisor.http.guard import Caller
from supervisor.http.problems import MEDIA_TYPE, problem
from supervisor.mcp_server.config.arguments import Parameter, checked
from supervisor.mcp_server.tools.answers import dump
from supervisor.model import GroupInfo, to_json
from supervisor.model.schedules import ScheduleInfo
from supervisor.runtime.supervisor import Supervisor
from supervisor.store.state_errors import state_error
from supervisor.system.observing import NotKnown
from supervisor.web.service import Service

__all__ = ["JSON", "Call", "Operation", "answer", "change", "failure", "read_only", "route", "time_of"]

JSON: Final = "application/json"
_NOSNIFF: Final = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
"""A browser must not take the output of a job for a page, nor keep it."""
_MAX_READ_BYTES: Final = 64 << 20
"""A larger body than is allowed is read to its end up to here: a client that is still sending may lose the answer."""
_MAX_BODY_BYTES: Final = 4 << 20
_MAX_ON_THE_LOOP: Final = 1 << 16


@attrs.frozen(slots=True, kw_only=True)
class Call:
    """One request for an operation.

    Attributes:
        service: the server.
        request: the request.
        caller: who sent it.
        query: the checked parameters of the query, with defaults.
        body: the checked members of the body, with defaults.
        given: the body as it was sent, where ``null`` differs from a member that is not there.
    """

    service: Service
    request: Request
    caller: Caller
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    given: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The id or the name in the path."""
        (name,) = self.request.path_params.values()
        return str(name)


@attrs.frozen(slots=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        method: the HTTP method.
        path: the path, with the id of a job (``{job_id}``) or the name of a group (``{name}``).
        summary: what it does, in one line.
        run: serves a call.
        answer: the name of the schema of its answer, see ``openapi.py``.
        media: the media type of its answer.
        status: the status of a success.
        query: the parameters in the query.
        headers: the parameters in headers that it reads.
        body: the members of the JSON object in the body; ``None`` for an operation without a body.
        changes: whether it needs a caller who may change jobs.
        sees_all: whether it needs a caller who may see the jobs of every principal, as it concerns them all.
    """

    method: str
    path: str
    summary: str
    run: Callable[[Call], Awaitable[Response]]
    answer: str
    media: str = JSON
    status: int = 200
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: tuple[Parameter, ...] | None = None
    changes: bool = False
    sees_all: bool = False


def answer(shape: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON document as a response."""
    body = dump(shape).encode(errors="replace")  # half a surrogate pair, from bytes in argv
    return Response(body, status, {**_NOSNIFF, **(headers or {})}, media_type=JSON)


def change(
    path: str,
    summary: str,
    act: Callable[[Supervisor, Call], Awaitable[GroupInfo | ScheduleInfo]],
    *body: Parameter,
    method: str = "POST",
) -> Operation:
    """Return an operation that changes a group or a schedule, and answers with it."""

    async def run(call: Call) -> Response:
        return answer(to_json(await act(await call.service.supervisor(), call)))

    schema = "Group" if path.startswith("/v1/groups/") else "Schedule"
    return Operation(
        method=method,
        path=path,
        summary=summary,
        body=body or None,
        run=run,
        answer=schema,
        changes=True,
        sees_all=True,
    )


def failure(error: SupervisorError, *, status: int | None = None) -> Response:
    """Return an error as a response."""
    shape, chosen = problem(error, status=status)
    headers = {**_NOSNIFF, **({"retry-after": "1"} if error.retryable else {})}
    return Response(json.dumps(shape).encode(), chosen, headers, media_type=MEDIA_TYPE)


def time_of(name: str, text: str | None) -> datetime | None:
    """Return the time that an argument names, ``None`` for none.

    Raises:
        InvalidArguments: it is no time, or has no time zone.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        message = f"{name} is {text!r:.80}; it accepts a time with a time zone, as in 2026-01-31T12:00:00Z"
        raise InvalidArguments(message, details={"argument": name})
    return found


def read_only() -> PermissionDenied:
    """Return the error for a caller who may change nothing."""
    message = "this token may read, but not change anything"
    return PermissionDenied(message, repair="Send the token of the owner, or of a principal.")


class _Refused(Exception):
    """A request with an error that has a status of its own."""

    def __init__(self, error: SupervisorError, status: int) -> None:
        super().__init__(error.message)
        self.error = error
        self.status = status


def route(service: Service, operation: Operation) -> Route:
    """Return the route of an operation."""

    async def serve(request: Request) -> Response:
        try:
            return await operation.run(await _call(service, operation, request))
        except _Refused as refused:
            return failure(refused.error, status=refused.status)
        except SupervisorError as error:
            return failure(error)
        except NotKnown as error:
            return failure(state_error(error, f"{operation.path} cannot read the state now"))
        except ClientDisconnect:
            return Response(status_code=400)  # nothing reads it
        except Exception as error:  # noqa: BLE001  # a defect in one operation must not end the server
            log.warning("web_request_failed", path=operation.path, error=repr(error))
            return failure(InternalError(f"{operation.path} failed: {error!r}", repair="Report this as a defect."))

    return Route(operation.path, serve, methods=[operation.method])


async def _call(service: Service, operation: Operation, request: Request) -> Call:
    caller: Caller = request.scope["caller"]
    if operation.changes and not caller.may_change:
        raise read_only()
    if operation.sees_all and caller.principal is not None:
        message = "this concerns the jobs of all principals"
        raise PermissionDenied(message, repair="Send the token of the owner, or to read that of the viewer.")
    # The body is read in any case: a client that is still sending would not read the answer.
    given = await _json(request)
    if operation.body is None and given:
        message = f"{operation.method} {operation.path} takes no body"
        raise InvalidArguments(message)
    return Call(
        service=service,
        request=request,
        caller=caller,
        query=_query(operation.query, request),
        body=checked(operation.body or (), given),
        given=given,
    )


async def _json(request: Request) -> dict[str, Any]:
    """Return the JSON object of the body; an empty one for no body."""
    body = bytearray()
    size = 0
    async with contextlib.aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            size += len(chunk)
            if size <= _MAX_BODY_BYTES:
                body += chunk
            elif size > _MAX_READ_BYTES:
                break
    if size > _MAX_BODY_BYTES:
        message = f"the body has more than {_MAX_BODY_BYTES} bytes"
        raise _Refused(InvalidArguments(message, repair="Send less; a job can read large input from a file."), 413)
    if not body:
        return {}
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != JSON:
        message = f"Content-Type is {content_type!r:.80}; it accepts {JSON}"
        raise _Refused(InvalidArguments(message, repair=f"Send `Content-Type: {JSON}`."), 415)
    if len(body) > _MAX_ON_THE_LOOP:
        return await trio.to_thread.run_sync(_parsed_body, bytes(body))
    return _parsed_body(bytes(body))


def _parsed_body(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8, and numbers with too many digits
        message = f"the body is not JSON: {str(error) or 'it is nested too deeply'}"
        raise InvalidArguments(message, repair="Send one JSON object.") from error
    if not isinstance(found, dict):
        message = "the body is JSON, but no object"
        raise InvalidArguments(message, repair="Send one JSON object.")
    return found  # pyright: ignore[reportUnknownVariableType]


def _no_constant(name: str) -> None:
    message = f"{name} is no JSON value"
    raise ValueError(message)


def _query(parameters: tuple[Parameter, ...], request: Request) -> dict[str, Any]:
    """Return the parameters of the query with defaults; one without a value is ``None``.

    Raises:
        InvalidArguments: one is unknown, is given twice, or has a value that is not allowed.
    """
    known = {each.name: each for each in parameters}
    given: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        parameter = known.get(name)
        if parameter is None:
            message = f"there is no parameter {name!r:.80}; there are {', '.join(known) or 'none'}"
            raise InvalidArguments(message, details={"argument": name[:80]})
        if parameter.type == "labels":
            label, separator, value = text.partition("=")
            if not separator:
                message = f"{name} is {text!r:.80}; it accepts NAME=VALUE"
                raise InvalidArguments(message, details={"argument": name})
            given.setdefault(name, {})[label] = value
        elif name in given:
            message = f"{name} is given twice"
            raise InvalidArguments(message, details={"argument": name})
        else:
            given[name] = _parsed(parameter, text)
    return {name: each.check(given[name]) if name in given else each.default for name, each in known.items()}


def _parsed(parameter: Parameter, text: str) -> Any:
    if parameter.type in {"integer", "number"}:
        try:
            return int(text) if parameter.type == "integer" else float(text)
        except ValueError:
            return text  # refused by the check, which says what it accepts
    if parameter.type == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return text
