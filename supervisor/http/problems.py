"""Errors as answers: the failure JSON of every interface, which is a problem of RFC 9457 as well."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final

from supervisor.errors import SupervisorError
from supervisor.http.asgi import Send
from supervisor.model import Job, error_to_json

__all__ = ["MEDIA_TYPE", "STATUSES", "problem", "refuse", "status_of"]

MEDIA_TYPE: Final = "application/problem+json"

STATUSES: Final = {
    "invalid_arguments": HTTPStatus.BAD_REQUEST,
    "invalid_settings": HTTPStatus.BAD_REQUEST,
    "permission_denied": HTTPStatus.FORBIDDEN,
    "job_not_found": HTTPStatus.NOT_FOUND,
    "group_not_found": HTTPStatus.NOT_FOUND,
    "schedule_not_found": HTTPStatus.NOT_FOUND,
    "job_running": HTTPStatus.CONFLICT,
    "job_elsewhere": HTTPStatus.CONFLICT,
    "idempotency_conflict": HTTPStatus.CONFLICT,
    "input_refused": HTTPStatus.CONFLICT,
    "group_closed": HTTPStatus.CONFLICT,
    "feature_unavailable": HTTPStatus.CONFLICT,
    "too_many_requests": HTTPStatus.TOO_MANY_REQUESTS,
    "state_busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "state_full": HTTPStatus.INSUFFICIENT_STORAGE,
}
"""Other codes have 500."""


def status_of(error: SupervisorError) -> HTTPStatus:
    """Return the HTTP status of an error: 500 for one that no request can avoid."""
    return STATUSES.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(error: SupervisorError, job: Job | None = None, status: int | None = None) -> tuple[dict[str, Any], int]:
    """Return the body of an error, and its status; ``status`` replaces that of its code."""
    chosen = HTTPStatus(status_of(error) if status is None else status)
    about = {"type": "about:blank", "title": chosen.phrase, "status": chosen.value, "detail": error.message}
    return error_to_json(error, job) | about, chosen.value


async def refuse(send: Send, error: SupervisorError, *more: tuple[bytes, bytes], status: int | None = None) -> None:
    """Answer a request with an error."""
    shape, chosen = problem(error, status=status)
    body = json.dumps(shape).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), *more]
    if error.retryable:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": chosen, "headers": headers})
    await send({"type": "http.response.body", "body": body})
