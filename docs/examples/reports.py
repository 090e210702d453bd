"""A web service whose reports outlive it: requests start them, and server-sent events stream their output.

The same handlers run under asyncio and under Trio::

    uvicorn reports:app --timeout-graceful-shutdown 1
    python reports_trio.py 127.0.0.1:8000

Kill the service, also with SIGKILL, and start it again: the reports go on meanwhile. A reader that reconnects
with ``Last-Event-ID``, as browsers do, gets every line exactly once.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import supervisor
from supervisor import to_json

# Both have the same methods, awaited in the same way.
AnySupervisor = supervisor.AsyncioSupervisor | supervisor.Supervisor
Opener = Callable[[], contextlib.AbstractAsyncContextManager[AnySupervisor]]

# The service defines the command. Never take a command from a request.
REPORT = """
import sys, time
for number in range(1, int(sys.argv[1]) + 1):
    print("line", number, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def report(lines: float, pause: float) -> list[str]:
    """Return the command of a report."""
    return [sys.executable, "-c", REPORT, str(int(lines)), str(float(pause))]


# ---------------------------------------------------------------- handlers


async def start(request: Request) -> Response:
    """POST /reports: start one. The same ``Idempotency-Key`` starts it once, however often a client retries."""
    wanted = await request.json()
    job = await request.state.sup.start(
        report(wanted["lines"], wanted["pause"]),
        labels={"service": "reports"},
        deadline_seconds=600,
        idempotency_key=request.headers.get("idempotency-key"),
    )
    return JSONResponse(to_json(job), 202, {"location": f"/reports/{job.job_id}"})


async def index(request: Request) -> Response:
    """GET /reports: all reports, newest first."""
    page = await request.state.sup.list(labels={"service": "reports"}, cursor=request.query_params.get("cursor"))
    return JSONResponse(to_json(page))


async def status(request: Request) -> Response:
    """GET /reports/ID: the state of a report."""
    return JSONResponse(to_json(await request.state.sup.status(request.path_params["job_id"])))


async def cancel(request: Request) -> Response:
    """DELETE /reports/ID: stop it, and answer when none of its processes is left."""
    return JSONResponse(to_json(await request.state.sup.cancel(request.path_params["job_id"])))


async def output(request: Request) -> Response:
    """GET /reports/ID/output: each line as it is written, and the job when it has ended."""
    sup, job_id = request.state.sup, request.path_params["job_id"]
    await sup.status(job_id)  # an unknown id is a 404, not the beginning of a stream
    return EventStream(events(sup, job_id, int(request.headers.get("last-event-id", 0))))


# ---------------------------------------------------------------- server-sent events


async def events(sup: AnySupervisor, job_id: str, seen: int = 0) -> AsyncGenerator[str]:
    """Yield the output of a job as server-sent events; the id of an event is the offset after its line."""
    offset, rest = 0, b""
    async with sup.follow(job_id) as chunks:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                offset += len(line) + 1
                if offset > seen:
                    yield f"id: {offset}\ndata: {line.decode(errors='replace')}\n\n"
    job = await sup.wait(job_id)
    yield f"event: end\ndata: {json.dumps(to_json(job))}\n\n"


class EventStream(StreamingResponse):
    """Streams events, and closes their generator as soon as the reader disconnects."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events of the generator."""
        body: Any = self.body_iterator
        async with contextlib.aclosing(body):
            await super().__call__(scope, receive, send)


# ---------------------------------------------------------------- the application

STATUS = {"job_not_found": 404, "job_running": 409, "idempotency_conflict": 409, "invalid_arguments": 400}


async def explain(_: Request, error: Exception) -> Response:
    """Answer with the error's code, message and repair."""
    if not isinstance(error, supervisor.SupervisorError):
        raise error
    return JSONResponse(to_json(error), STATUS.get(error.code, 503 if error.retryable else 500))


def application(open_it: Opener) -> Starlette:
    """Return the service, which holds a supervisor open from its start-up to its shutdown."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, AnySupervisor]]:
        async with open_it() as sup:
            yield {"sup": sup}  # request.state.sup

    routes = [
        Route("/reports", start, methods=["POST"]),
        Route("/reports", index),
        Route("/reports/{job_id}", status),
        Route("/reports/{job_id}", cancel, methods=["DELETE"]),
        Route("/reports/{job_id}/output", output),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={supervisor.SupervisorError: explain})


app = application(supervisor.open_supervisor_asyncio)
trio_app = application(supervisor.open_supervisor)
