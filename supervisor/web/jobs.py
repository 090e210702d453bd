"""The operations about jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio
from starlette.responses import Response

from supervisor.errors import InvalidArguments
from supervisor.jobdir.output import STREAMS
from supervisor.mcp_server.access.principals import own_labels
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.mcp_server.series import last_attempt
from supervisor.mcp_server.tools.answers import dump
from supervisor.mcp_server.tools.jobs import read_output
from supervisor.model import Job, to_json
from supervisor.runtime.supervisor import Supervisor
from supervisor.states import State
from supervisor.web.operations import Call, Operation, answer
from supervisor.web.waiting import job_after

__all__ = ["OPERATIONS", "new_job_answer"]

MAX_WAIT_SECONDS: Final = 300
_MAX_RESULT_BYTES: Final = 8 << 20
_MAX_LOG_BYTES: Final = 1 << 20
_MAX_ON_THE_LOOP: Final = 1 << 18
_PATH: Final = "/v1/jobs/{job_id}"


def tag_of(shape: Mapping[str, Any]) -> str:
    """Return the ETag of a job: another one after any change but the passing of time."""
    lasting = {name: value for name, value in shape.items() if name != "elapsed_ms"}
    digest = hashlib.sha256(dump(lasting).encode(errors="replace")).hexdigest()
    return f'W/"{digest[:32]}"'


def job_answer(call: Call, job: Job, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a job as a response, or 304 to a client that has it as it is."""
    shape = to_json(job)
    tag = tag_of(shape)
    if call.request.method == "GET":
        known = [each.strip() for each in call.request.headers.get("if-none-match", "").split(",")]
        if tag in known or tag.removeprefix("W/") in known or "*" in known:
            return Response(status_code=304, headers={"etag": tag})
    return answer(shape, status, {"etag": tag, **(headers or {})})


def new_job_answer(call: Call, job: Job) -> Response:
    """Return a job that the call has started as a response."""
    return job_answer(call, job, 201, {"location": f"/v1/jobs/{job.job_id}"})


async def _list(call: Call) -> Response:
    supervisor = await call.service.supervisor()
    page = await supervisor.list(
        state=call.query["state"],
        group=call.query["group"],
        labels={**(call.query["label"] or {}), **own_labels(call.caller.principal)},
        limit=call.query["limit"],
        cursor=call.query["cursor"],
    )
    return answer(to_json(page))


async def _status(call: Call) -> Response:
    _, job = await call.service.job(call.caller, call.name)
    return job_answer(call, await job_after(call, job))


async def _result(call: Call) -> Response:
    supervisor, job = await call.service.job(call.caller, call.name)
    job = await last_attempt(supervisor, job)
    if job.status.terminal and job.stdout_bytes > _MAX_RESULT_BYTES:
        message = f"job {job.job_id} has {job.stdout_bytes} bytes of output; a result has at most {_MAX_RESULT_BYTES}"
        repair = f"Read the output in parts: GET /v1/jobs/{job.job_id}/logs?offset=0"
        raise InvalidArguments(message, repair=repair, details={"job_id": job.job_id})
    result = await supervisor.result(job.job_id, detail=call.query["detail"])
    if job.stdout_bytes <= _MAX_ON_THE_LOOP:
        return answer(to_json(result))
    return await trio.to_thread.run_sync(lambda: answer(to_json(result)))


async def _logs(call: Call) -> Response:
    _, job = await call.service.job(call.caller, call.name)
    query = call.query
    piece = await read_output(call.service.settings, job, query["stream"], offset=query["offset"], limit=query["limit"])
    shape = {"ok": True, "job_id": job.job_id, "stream": query["stream"], **piece, "ended": job.status.terminal}
    return answer(shape)


async def _explain(call: Call) -> Response:
    supervisor, job = await call.service.job(call.caller, call.name)
    return answer(to_json(await supervisor.explain(job.job_id)))


async def _forget(call: Call) -> Response:
    supervisor, job = await call.service.job(call.caller, call.name)
    await supervisor.forget(job.job_id)
    return answer({"ok": True, "job_id": job.job_id})


def _action(
    name: str, summary: str, act: Callable[[Supervisor, str, Call], Awaitable[Job]], *body: Parameter
) -> Operation:
    async def run(call: Call) -> Response:
        supervisor, job = await call.service.job(call.caller, call.name)
        # It goes on when its client is gone, as the client of a DELETE or a POST cannot know how far it came.
        return job_answer(call, await act(supervisor, job.job_id, call))

    return Operation(
        method="POST", path=f"{_PATH}/{name}", summary=summary, run=run, answer="Job", body=body, changes=True
    )


_HOLD_DEADLINE: Final = Parameter(
    name="hold_deadline", type="boolean", default=False, description="The time until resume does not count."
)

OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/jobs",
        summary="List jobs, newest first.",
        query=(
            Parameter(name="state", enum=tuple(each.value for each in State)),
            Parameter(name="group", max_length=64),
            Parameter(name="label", type="labels", description="NAME=VALUE; may be repeated."),
            Parameter(name="cursor", max_length=32, description="next_cursor of the page before."),
            Parameter(name="limit", type="integer", default=50, minimum=1, maximum=1000),
        ),
        run=_list,
        answer="JobPage",
    ),
    Operation(
        method="GET",
        path=_PATH,
        summary="Show a job; with wait, once it has ended or the time has passed.",
        query=(Parameter(name="wait", type="number", minimum=0, maximum=MAX_WAIT_SECONDS, description="Seconds."),),
        headers=(Parameter(name="If-None-Match", description="An ETag: 304 if the job is unchanged."),),
        run=_status,
        answer="Job",
    ),
    Operation(
        method="GET",
        path=f"{_PATH}/result",
        summary="Get the result of a job that has ended; ok is false if it failed.",
        query=(Parameter(name="detail", enum=("summary", "full"), description="Of an agent's answer."),),
        run=_result,
        answer="Result",
    ),
    Operation(
        method="GET",
        path=f"{_PATH}/logs",
        summary="Read a part of the output of a job, or of its diff: from offset, or the last bytes.",
        query=(
            Parameter(name="stream", enum=(*STREAMS, "diff"), default="stdout"),
            Parameter(name="offset", type="integer", minimum=0, maximum=2**63 - 1, description="In bytes."),
            Parameter(name="limit", type="integer", default=65536, minimum=4, maximum=_MAX_LOG_BYTES),
        ),
        run=_logs,
        answer="Logs",
    ),
    Operation(
        method="GET",
        path=f"{_PATH}/explain",
        summary="Say why a job waits, or which evidence says that it runs or has ended.",
        run=_explain,
        answer="Explanation",
    ),
    _action(
        "cancel", "Stop a job; the answer comes when no process of it is left.", lambda sup, job, _: sup.cancel(job)
    ),
    _action("hold", "Keep a waiting job from being launched.", lambda sup, job, _: sup.hold(job)),
    _action("release", "End the hold of a waiting job.", lambda sup, job, _: sup.release(job)),
    _action(
        "pause",
        "Stop the processes of a running job until resume.",
        lambda sup, job, call: sup.pause(job, hold_deadline=call.body["hold_deadline"]),
        _HOLD_DEADLINE,
    ),
    _action("resume", "Continue a paused job.", lambda sup, job, _: sup.resume(job)),
    Operation(
        method="DELETE",
        path=_PATH,
        summary="Forget a job that has ended.",
        run=_forget,
        answer="Forgotten",
        changes=True,
    ),
)
