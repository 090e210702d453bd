"""The same service with FastAPI, which parses requests in another way.

uvicorn reports_fastapi:app --timeout-graceful-shutdown 1
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel, Field
from reports import EventStream, events, explain, report

import supervisor
from supervisor import AsyncioSupervisor, to_json


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, AsyncioSupervisor]]:
    """Hold a supervisor open from start-up to shutdown."""
    async with supervisor.open_supervisor_asyncio() as sup:
        yield {"sup": sup}


def the_supervisor(request: Request) -> AsyncioSupervisor:
    """Return the supervisor that ``lifespan`` has opened."""
    sup: AsyncioSupervisor = request.state.sup
    return sup


Sup = Annotated[AsyncioSupervisor, Depends(the_supervisor)]
Key = Annotated[str | None, Header()]
app = FastAPI(lifespan=lifespan, exception_handlers={supervisor.SupervisorError: explain})


class Wanted(BaseModel):
    """The body of a request for a report."""

    lines: int = Field(ge=1, le=1000)
    pause: float = Field(ge=0, le=60)


@app.post("/reports", status_code=202)
async def start(wanted: Wanted, sup: Sup, idempotency_key: Key = None) -> dict[str, Any]:
    """Start a report."""
    labels = {"service": "reports"}
    command = report(wanted.lines, wanted.pause)
    return to_json(await sup.start(command, labels=labels, deadline_seconds=600, idempotency_key=idempotency_key))


@app.get("/reports")
async def index(sup: Sup, cursor: str | None = None) -> dict[str, Any]:
    """List reports, newest first."""
    return to_json(await sup.list(labels={"service": "reports"}, cursor=cursor))


@app.get("/reports/{job_id}")
async def status(job_id: str, sup: Sup) -> dict[str, Any]:
    """Return the state of a report."""
    return to_json(await sup.status(job_id))


@app.delete("/reports/{job_id}")
async def cancel(job_id: str, sup: Sup) -> dict[str, Any]:
    """Stop a report; return when none of its processes is left."""
    return to_json(await sup.cancel(job_id))


@app.get("/reports/{job_id}/output")
async def output(job_id: str, sup: Sup, last_event_id: Annotated[int, Header()] = 0) -> Response:
    """Stream the output of a report."""
    await sup.status(job_id)
    return EventStream(events(sup, job_id, last_event_id))
