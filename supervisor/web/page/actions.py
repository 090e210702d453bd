"""What the buttons of the page do. Each is a ``POST`` of a form, and answers with the way to a page."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import trio
from starlette.responses import RedirectResponse, Response

from supervisor.errors import InvalidArguments, JobRunning, PermissionDenied
from supervisor.model import Job
from supervisor.runtime.supervisor import Supervisor
from supervisor.text.durations import parse_seconds
from supervisor.web.page.visiting import HEADERS, Visit

__all__ = ["GROUP_ACTIONS", "JOB_ACTIONS", "SAID", "act_on_group", "act_on_job"]

_PATIENCE_SECONDS: Final = 1.0
"""A stop goes on when the browser does not wait for it any more: it takes as long as the grace of the job."""
_MAX_REASON: Final = 500

SAID: Final = {
    "cancel": "The job is being stopped.",
    "hold": "The job is held.",
    "release": "The job is released.",
    "pause": "The job is paused.",
    "resume": "The job goes on.",
    "rerun": "This is the new job.",
    "seen": "Dismissed.",
    "forget": "The job is forgotten.",
    "group-pause": "The group is paused: it admits no more jobs.",
    "group-resume": "The group is resumed.",
    "group-limit": "The limit is set.",
}
"""What a page says after an action: only these words, whatever the address has."""

JobAction = Callable[[Supervisor, Job], Awaitable[str]]


async def _cancel(supervisor: Supervisor, job: Job) -> str:
    with trio.move_on_after(_PATIENCE_SECONDS), contextlib.suppress(JobRunning):
        await supervisor.cancel(job.job_id)
    return f"/jobs/{job.job_id}"


def _simple(name: str) -> JobAction:
    async def act(supervisor: Supervisor, job: Job) -> str:
        await getattr(supervisor, name)(job.job_id)
        return f"/jobs/{job.job_id}"

    return act


async def _rerun(supervisor: Supervisor, job: Job) -> str:
    return f"/jobs/{(await supervisor.rerun(job.job_id)).job_id}"


async def _seen(supervisor: Supervisor, job: Job) -> str:
    # On record before the next page is made: `Supervisor.result` records it a little later.
    await supervisor.access.in_thread(lambda catalog: catalog.result(job.job_id, detail="summary"))
    return f"/jobs/{job.job_id}"


async def _forget(supervisor: Supervisor, job: Job) -> str:
    await supervisor.forget(job.job_id)
    return "/"


JOB_ACTIONS: Final[Mapping[str, JobAction]] = {
    "cancel": _cancel,
    "hold": _simple("hold"),
    "release": _simple("release"),
    "pause": _simple("pause"),
    "resume": _simple("resume"),
    "rerun": _rerun,
    "seen": _seen,
    "forget": _forget,
}
_FOR_THE_OWNER: Final = frozenset({"rerun"})
"""A new job has the environment of the server, which is the owner's."""


async def act_on_job(visit: Visit, supervisor: Supervisor, job: Job, name: str, form: Mapping[str, str]) -> Response:
    """Do something about a job.

    Raises:
        PermissionDenied: the person may not.
        SupervisorError: as the method of the supervisor raises it.
    """
    _check_may_change(visit, owner=name in _FOR_THE_OWNER)
    where = await JOB_ACTIONS[name](supervisor, job)
    return _back(where, name, form)


async def _pause_group(supervisor: Supervisor, name: str, form: Mapping[str, str]) -> None:
    until, given = None, form.get("for", "").strip()
    if given:
        try:
            until = datetime.now(UTC) + timedelta(seconds=parse_seconds(given))
        except (ValueError, OverflowError) as error:
            message = f"the duration is {given!r:.40}; it is seconds, or such as 90s, 5m, 1h30m, 2d"
            raise InvalidArguments(message) from error
    await supervisor.pause_group(name, until=until, reason=form.get("reason", "").strip()[:_MAX_REASON] or None)


async def _resume_group(supervisor: Supervisor, name: str, _: Mapping[str, str]) -> None:
    await supervisor.resume_group(name, every=True)


async def _limit_group(supervisor: Supervisor, name: str, form: Mapping[str, str]) -> None:
    given = form.get("limit", "").strip()
    if given and not (given.isascii() and given.isdecimal() and len(given) < 11):
        message = f"the limit is {given!r:.40}; it is a whole number from 0 (closed), or nothing for no limit"
        raise InvalidArguments(message)
    await supervisor.set_group(name, limit=int(given) if given else None)


GROUP_ACTIONS: Final = {"pause": _pause_group, "resume": _resume_group, "limit": _limit_group}


async def act_on_group(
    visit: Visit, supervisor: Supervisor, name: str, action: str, form: Mapping[str, str]
) -> Response:
    """Change a group.

    Raises:
        PermissionDenied: the person is not the owner.
        SupervisorError: as the method of the supervisor raises it.
    """
    _check_may_change(visit, owner=True)
    await GROUP_ACTIONS[action](supervisor, name, form)
    return _back(f"/groups/{name}", f"group-{action}", form)


def _check_may_change(visit: Visit, *, owner: bool) -> None:
    if not visit.visitor.caller.may_change:
        message = "this login may read, but not change anything"
        raise PermissionDenied(message, repair="Log in with the link or the token of the owner.")
    if owner and not visit.visitor.owns:
        message = "only the owner of the state root may do this"
        raise PermissionDenied(message, repair="Log in with the link or the token of the owner.")


def _back(where: str, said: str, form: Mapping[str, str]) -> Response:
    if form.get("back") == "/":  # a button of the overview
        where = "/"
    return RedirectResponse(f"{where}?said={said}", 303, HEADERS)
