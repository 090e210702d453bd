"""The operation about what jobs have spent."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.model import to_json
from supervisor.web.operations import Call, Operation, answer, time_of

__all__ = ["OPERATIONS"]


async def _spend(call: Call) -> Response:
    supervisor = await call.service.supervisor()
    principal = call.caller.principal
    report = await supervisor.spend(
        call.query["by"],
        since=time_of("since", call.query["since"]),
        label=None if principal is None else (PRINCIPAL_LABEL, principal),
    )
    return answer(to_json(report))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/spend",
        summary="Sum what jobs have spent, also those that are deleted.",
        query=(
            Parameter(name="by", default="group", max_length=200, description="group, day, session or label:NAME."),
            Parameter(name="since", max_length=40, description="A time with a time zone: only jobs that ended later."),
        ),
        run=_spend,
        answer="SpendReport",
    ),
)
