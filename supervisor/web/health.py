"""Whether the server lives, and whether it can serve: for probes, which have no token."""

from __future__ import annotations

import math
import os
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from supervisor.errors import StateFull, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.web.operations import answer
from supervisor.web.service import Service

__all__ = ["routes"]

_READY_SECONDS: Final = 5.0
_SAME_SECONDS: Final = 1.0
"""For so long, the answer is the same."""
_LEAST_FREE_BYTES: Final = 16 << 20


def routes(service: Service) -> list[Route]:
    """Return the routes of the probes. Their answers name no path and no job, as anyone may ask."""
    checks: dict[str, str] = {}
    checked_at = -math.inf
    checking = trio.Lock()

    async def livez(_: Request) -> Response:
        return answer({"ok": True})

    async def readyz(_: Request) -> Response:
        nonlocal checks, checked_at
        async with checking:  # anyone may ask often; the one thread that reads the disk is for other clients as well
            if trio.current_time() >= checked_at + _SAME_SECONDS:
                checks = await _checks(service)
                checked_at = trio.current_time()
        ready = set(checks.values()) == {"ok"}
        return answer({"ok": ready, "checks": checks}, 200 if ready else 503)

    return [Route("/livez", livez), Route("/readyz", readyz)]


async def _checks(service: Service) -> dict[str, str]:
    """Return for each check ``ok``, or the code of the error that it meets."""
    checks = {"state_root": "state_busy", "disk": "state_busy"}
    with trio.move_on_after(_READY_SECONDS):
        try:
            supervisor = await service.supervisor()
            await supervisor.groups()
        except SupervisorError as error:
            checks["state_root"] = checks["disk"] = error.code
            return checks
        checks["state_root"] = "ok"
        checks["disk"] = "ok" if await supervisor.access.in_thread(_has_space) else StateFull.code
    return checks


def _has_space(catalog: Catalog) -> bool:
    disk = os.statvfs(catalog.layout.root)
    return disk.f_bavail * disk.f_frsize >= _LEAST_FREE_BYTES
