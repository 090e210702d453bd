"""Waiting for the sake of a client, while it is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from starlette.requests import Request

from supervisor.mcp_server.access.jobs import waited
from supervisor.mcp_server.series import may_go_on
from supervisor.model import Job
from supervisor.web.operations import Call

__all__ = ["job_after", "while_connected"]

_T = TypeVar("_T")


async def job_after(call: Call, job: Job) -> Job:
    """Return a job once it has ended, or the seconds have passed that the parameter ``wait`` of a call gives it."""
    seconds = call.query["wait"]
    if not seconds or not may_go_on(job):
        return job
    return await while_connected(call.request, lambda: waited(call.service.lazy, job.job_id, seconds)) or job


async def while_connected(request: Request, wait: Callable[[], Awaitable[_T]]) -> _T | None:
    """Return what ``wait`` returns; ``None`` as soon as the client of a request, whose body was read, is gone."""
    found: list[_T] = []
    raised: list[Exception] = []

    async def run() -> None:
        try:
            found.append(await wait())
        except Exception as error:  # noqa: BLE001  # raised below, outside of an exception group
            raised.append(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        while (await request.receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()
    if raised:
        raise raised[0]
    return found[0] if found else None
