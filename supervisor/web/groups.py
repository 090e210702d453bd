"""The operations about groups."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from supervisor.errors import InvalidArguments
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.model import GroupInfo, to_json
from supervisor.runtime.supervisor import Supervisor
from supervisor.web.operations import Call, Operation, answer, change, time_of

__all__ = ["OPERATIONS"]

_OPTIONS: Final = (
    Parameter(name="limit", type="integer", minimum=0, description="The weight that may run; null is unlimited."),
    Parameter(name="aging_seconds", type="number", minimum=0, description="null is strict priority."),
    Parameter(name="rate", max_length=40, description="Such as 10/min; null for any."),
    Parameter(name="fair_by", max_length=200, description="workspace, principal or label:NAME; null for none."),
    Parameter(name="pause_on_failure", type="integer", minimum=1, description="null for none."),
    Parameter(name="on_rate_limit", enum=("wait", "ignore")),
    Parameter(name="on_reboot", enum=("keep", "pause", "fail")),
    Parameter(name="budgets", type="words", description="Such as usd=20/day, in place of all earlier; null for none."),
    Parameter(name="on_exceed", enum=("hold", "stop")),
    Parameter(name="tz", max_length=64, description="The time zone of the budgets; null for UTC."),
)
_NEVER_NULL: Final = ("on_rate_limit", "on_reboot", "on_exceed")


async def _list(call: Call) -> Response:
    supervisor = await call.service.supervisor()
    return answer({"ok": True, "groups": [to_json(each) for each in await supervisor.groups()]})


async def _set(supervisor: Supervisor, call: Call) -> GroupInfo:
    for name in _NEVER_NULL:
        if name in call.given and call.given[name] is None:
            message = f"{name} is null; leave it out to keep it as it is"
            raise InvalidArguments(message, details={"argument": name})
    options: Any = {name: call.body[name] for name in call.given}
    if "budgets" in options:
        options["budgets"] = options["budgets"] or ()
    return await supervisor.set_group(call.name, **options)


async def _pause(supervisor: Supervisor, call: Call) -> GroupInfo:
    until = time_of("until", call.body["until"])
    return await supervisor.pause_group(call.name, until=until, reason=call.body["reason"])


OPERATIONS: Final = (
    Operation(method="GET", path="/v1/groups", summary="List the groups.", run=_list, answer="Groups"),
    change(
        "/v1/groups/{name}",
        "Make a group, or change what the body names and keep the rest.",
        _set,
        *_OPTIONS,
        method="PUT",
    ),
    change(
        "/v1/groups/{name}/pause",
        "Admit no more jobs to a group; running jobs go on.",
        _pause,
        Parameter(name="until", max_length=40, description="A time with a time zone; null until resume."),
        Parameter(name="reason", max_length=500),
    ),
    change(
        "/v1/groups/{name}/resume",
        "End the pause that a user has made; with every, all pauses.",
        lambda supervisor, call: supervisor.resume_group(call.name, every=call.body["every"]),
        Parameter(name="every", type="boolean", default=False),
    ),
)
