"""The operations about schedules. They concern the owner alone: the jobs of a schedule belong to no principal."""

from __future__ import annotations

from typing import Final

import attrs
from starlette.responses import Response

from supervisor.admission.instants import CATCH_UP, OVERLAP
from supervisor.jobs.validation import MAX_DELAY_SECONDS
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.model import to_json
from supervisor.model.schedules import ScheduleInfo
from supervisor.runtime.supervisor import Supervisor
from supervisor.web.jobs import new_job_answer
from supervisor.web.operations import Call, Operation, answer, change
from supervisor.web.starting import JOB, wanted_spec

__all__ = ["OPERATIONS"]

_WINDOW: Final = Parameter(
    name="catch_up_window_seconds",
    type="number",
    minimum=0,
    maximum=MAX_DELAY_SECONDS,
    default=3600,
    description="No older instant is made up for.",
)
_WHEN: Final = (
    Parameter(
        name="cron",
        required=True,
        min_length=1,
        max_length=200,
        description="Minute, hour, day of month, month, day of week; or six fields with seconds first; or @daily.",
    ),
    Parameter(name="tz", max_length=64, description="The time zone of cron; null for that of the machine."),
    Parameter(name="overlap", enum=OVERLAP, default=OVERLAP[0], description="If a job of it has not ended."),
    Parameter(name="catch_up", enum=CATCH_UP, default=CATCH_UP[0], description="Which missed instants are fired."),
    _WINDOW,
    attrs.evolve(_WINDOW, name="jitter_seconds", default=0, description="The longest delay after an instant."),
)


async def _list(call: Call) -> Response:
    supervisor = await call.service.supervisor()
    return answer({"ok": True, "schedules": [to_json(each) for each in await supervisor.schedules()]})


async def _add(supervisor: Supervisor, call: Call) -> ScheduleInfo:
    options = {each.name: call.body[each.name] for each in _WHEN}
    return await supervisor.add_schedule(call.name, await wanted_spec(call), replace=True, **options)


async def _run(call: Call) -> Response:
    supervisor = await call.service.supervisor()
    return new_job_answer(call, await supervisor.run_schedule(call.name))


async def _remove(call: Call) -> Response:
    supervisor = await call.service.supervisor()
    await supervisor.remove_schedule(call.name)
    return answer({"ok": True, "removed": call.name})


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/schedules",
        summary="List the schedules.",
        run=_list,
        answer="Schedules",
        sees_all=True,
    ),
    change(
        "/v1/schedules/{name}",
        "Add a schedule, or replace it: a kind, or an allowed command, at the instants of a cron expression.",
        _add,
        *_WHEN,
        *JOB,
        method="PUT",
    ),
    change(
        "/v1/schedules/{name}/pause",
        "Start no jobs of a schedule; its running jobs go on.",
        lambda supervisor, call: supervisor.pause_schedule(call.name),
    ),
    change(
        "/v1/schedules/{name}/resume",
        "Start jobs of a schedule again, from its next instant on.",
        lambda supervisor, call: supervisor.resume_schedule(call.name),
    ),
    Operation(
        method="POST",
        path="/v1/schedules/{name}/run",
        summary="Start the job of a schedule now.",
        run=_run,
        answer="Job",
        status=201,
        changes=True,
        sees_all=True,
    ),
    Operation(
        method="DELETE",
        path="/v1/schedules/{name}",
        summary="Remove a schedule; its jobs go on.",
        run=_remove,
        answer="Removed",
        changes=True,
        sees_all=True,
    ),
)
