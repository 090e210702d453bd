"""The operations that start a job: of a kind, with a command that a pattern allows, or again."""

from __future__ import annotations

from typing import Any, Final

import attrs
from starlette.responses import Response

from supervisor.errors import InvalidArguments
from supervisor.http.guard import Caller
from supervisor.mcp_server.access.principals import TOOL_LABEL, scoped_key
from supervisor.mcp_server.config.arguments import Parameter, checked
from supervisor.mcp_server.config.kinds import COMMON, Kind
from supervisor.mcp_server.config.requests import (
    COMMAND,
    START,
    Wanted,
    again,
    check_command,
    check_unasked,
    job_spec,
    of_command,
    of_kind,
)
from supervisor.model import Job, JobSpec
from supervisor.web.jobs import MAX_WAIT_SECONDS, new_job_answer
from supervisor.web.operations import Call, Operation
from supervisor.web.service import Service
from supervisor.web.waiting import job_after

__all__ = ["JOB", "OPERATIONS", "wanted_spec"]

_WHEN: Final = ("ok", "any", "failed", "start")
_COMMON: Final = tuple(each for each in COMMON if each.name not in {"idempotency_key", "wait_seconds"})
_NOT_NOW: Final = (
    Parameter(name="hold", type="boolean", default=False, description="It waits until it is released."),
    Parameter(name="delay_seconds", type="number", minimum=0, description="How long it is not launched."),
    Parameter(name="start_within_seconds", type="number", minimum=0, description="How long it may be launched."),
    Parameter(name="after", type="objects", description='Jobs that it waits for: [{"job_id": ..., "when": "ok"}].'),
)
JOB: Final = (
    Parameter(name="kind", max_length=64, description="A kind of the kinds file; or give a command."),
    Parameter(name="parameters", type="object", description="The parameters of the kind."),
    *(attrs.evolve(each, required=False) for each in COMMAND),
    *_COMMON,
)
"""The members of a body that say what is started."""
_WAIT: Final = Parameter(
    name="wait",
    type="number",
    minimum=0,
    maximum=MAX_WAIT_SECONDS,
    description="Seconds to wait for its end before the answer.",
)
_KEY: Final = Parameter(
    name="Idempotency-Key",
    min_length=1,
    max_length=150,
    description="A repeated request with the same key returns the first job and starts nothing.",
)


async def _start(call: Call) -> Response:
    spec = await wanted_spec(call)
    spec = attrs.evolve(spec, **await _not_now(call, spec))
    supervisor = await call.service.supervisor()
    return new_job_answer(call, await job_after(call, await supervisor.start(spec)))


async def wanted_spec(call: Call) -> JobSpec:
    """Return the request for the job that the body asks for, with the key in the header.

    Raises:
        InvalidArguments: there is no such kind, or the command or the workspace is not allowed.
    """
    wanted = _wanted(call)
    check_unasked(wanted.kind, call.caller.principal)
    chosen = await call.service.workspaces.choose(call.body["workspace"], wanted.kind.workspaces)
    values = {**call.body, "idempotency_key": _key(call)}
    principal, state_dir = call.caller.principal, call.service.settings.state_dir
    return job_spec(wanted, values, principal=principal, workspace=chosen.workspace, state_dir=state_dir)


def _wanted(call: Call) -> Wanted:
    """Return the job that the body asks for.

    Raises:
        InvalidArguments: there is no such kind, or the command is not allowed.
    """
    body, options = call.body, call.service.options
    if (body["kind"] is None) == (body["command"] is None):
        message = "the body needs a kind of the kinds file or a command, and not both"
        raise InvalidArguments(message, repair=_repair(call.service), details={"argument": "kind"})
    if body["kind"] is None:
        if body["parameters"] is not None:
            message = "a command has no parameters; they belong to a kind"
            raise InvalidArguments(message, details={"argument": "parameters"})
        return of_command(options.allow_commands, body)
    for name in ("stdin", "interpret"):
        if name in call.given:
            message = f"the kind decides about {name}"
            raise InvalidArguments(message, repair="Leave it out.", details={"argument": name})
    kind = _kind(call.service, body["kind"])
    if kind is None:
        message = f"there is no kind {body['kind']!r:.80}"
        raise InvalidArguments(message, repair=_repair(call.service), details={"argument": "kind"})
    return of_kind(kind, checked(kind.parameters, body["parameters"] or {}))


def _kind(service: Service, name: str | None) -> Kind | None:
    return next((each for each in service.options.kinds if each.name == name), None)


def _repair(service: Service) -> str:
    kinds = ", ".join(each.name for each in service.options.kinds)
    return f"The kinds here are: {kinds}." if kinds else "Start the server with a kinds file (--config)."


def _key(call: Call) -> str | None:
    given = call.request.headers.get(_KEY.name)
    return None if given is None else str(_KEY.check(given))


async def _not_now(call: Call, spec: JobSpec) -> dict[str, Any]:
    """Return the options about when it is launched, after a check that the caller may see what it waits for."""
    body = call.body
    after: list[tuple[str, str]] = []
    for each in body["after"] or ():
        job_id, when = each.get("job_id"), each.get("when", "ok")
        if not isinstance(job_id, str) or when not in _WHEN or not each.keys() <= {"job_id", "when"}:
            message = f'after is {each!r:.80}; it accepts {{"job_id": ID, "when": one of {", ".join(_WHEN)}}}'
            raise InvalidArguments(message, details={"argument": "after"})
        await call.service.job(call.caller, job_id)
        after.append((when, job_id))
    within = [each for each in (body["start_within_seconds"], spec.start_within_seconds) if each is not None]
    return {
        "hold": body["hold"],
        "delay_seconds": body["delay_seconds"],
        "after": after,
        "start_within_seconds": min(within, default=None),  # the kind sets the longest
    }


async def _rerun(call: Call) -> Response:
    supervisor, job = await call.service.job(call.caller, call.name)
    kind = _kind_again(call.service, call.caller, job)
    check_unasked(kind, call.caller.principal)
    options = again(kind, job, state_dir=call.service.settings.state_dir)
    if "stdin" in call.given:
        stdin: str | None = call.body["stdin"]
        options["stdin"] = None if stdin is None else stdin.encode()
    key = scoped_key(call.caller.principal, _key(call))
    job = await supervisor.rerun(job.job_id, idempotency_key=key, **options)
    return new_job_answer(call, await job_after(call, job))


def _kind_again(service: Service, caller: Caller, job: Job) -> Kind:
    """Return the kind of a job that is started again.

    Raises:
        InvalidArguments: a principal may not start such a job any more.
    """
    name = job.labels.get(TOOL_LABEL)
    kind = _kind(service, name)
    if kind is not None:
        return kind
    if name == START:
        check_command(service.options.allow_commands, list(job.argv))
    elif caller.principal is not None:
        message = f"there is no kind {name!r:.80} any more"
        raise InvalidArguments(message, repair=_repair(service))
    return Kind(name=START, description="", command=())


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/jobs",
        summary="Start a job: of a kind, or with a command that the server allows.",
        query=(_WAIT,),
        headers=(_KEY,),
        body=(*JOB, *_NOT_NOW),
        run=_start,
        answer="Job",
        status=201,
        changes=True,
    ),
    Operation(
        method="POST",
        path="/v1/jobs/{job_id}/rerun",
        summary="Start a job again, as a new one with the same command.",
        query=(_WAIT,),
        headers=(_KEY,),
        body=(Parameter(name="stdin", max_length=1_000_000, description="Its input, which is not on record."),),
        run=_rerun,
        answer="Job",
        status=201,
        changes=True,
    ),
)
