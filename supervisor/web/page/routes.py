"""The paths of the page, and who may see them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from supervisor.errors import GroupNotFound, InvalidArguments, JobElsewhere, SupervisorError
from supervisor.http.guard import Requests
from supervisor.http.problems import status_of
from supervisor.jobdir.output import STREAMS
from supervisor.mcp_server.access.principals import own_labels
from supervisor.model import Job
from supervisor.runtime.supervisor import Supervisor
from supervisor.states import State
from supervisor.web.page import actions, output
from supervisor.web.page.job_view import job_sections, look
from supervisor.web.page.live import Live, Picture, View, picture_of
from supervisor.web.page.rendering import Section, render, static_files, warm_up
from supervisor.web.page.sessions import Sessions
from supervisor.web.page.streaming import Emit, EventStream
from supervisor.web.page.visiting import HEADERS, Page, Visit, form_of, page, with_session
from supervisor.web.service import Service

__all__ = ["routes"]

_PAGE_JOBS: Final = 100
_MAX_OFFSET: Final = 2**53
_YEAR: Final = "public, max-age=31536000, immutable"
_CHANGES_SECONDS: Final = 0.1
"""The least time between two pictures of one job."""


def routes(service: Service, requests: Requests) -> list[BaseRoute]:
    """Return the routes of the page, which check their callers themselves; ``requests`` limits each of them."""
    sessions = None if service.callers is None else Sessions(service.settings.state_dir, service.callers)
    pages = _Pages(service, sessions)
    warm_up()

    def get(path: str, serve: Page) -> Route:
        return Route(path, page(serve, sessions, pages.cookie, requests), methods=["GET"])

    def post(path: str, serve: Page) -> Route:
        return Route(path, page(serve, sessions, pages.cookie, requests), methods=["POST"])

    return [
        get("/", pages.overview),
        get("/page/events", pages.overview_events),
        get("/jobs", pages.jobs),
        get("/jobs/{job}", pages.job),
        get("/jobs/{job}/events", pages.job_events),
        get("/jobs/{job}/output/{stream}", pages.output),
        get("/jobs/{job}/output/{stream}/file", pages.output_file),
        post("/jobs/{job}/{action}", pages.act_on_job),
        get("/groups/{group}", pages.group),
        post("/groups/{group}/{action}", pages.act_on_group),
        post("/logout", pages.logout),
        Route("/login", pages.login_form, methods=["GET"]),
        Route("/login", pages.login, methods=["POST"]),
        Route("/page/{name}", _static, methods=["GET"]),
    ]


async def _static(request: Request) -> Response:
    found = static_files().get(request.path_params["name"])
    if found is None:
        return Response(status_code=404, headers=HEADERS)
    return Response(found[0], 200, {**HEADERS, "cache-control": _YEAR}, found[1])


class _Pages:
    def __init__(self, service: Service, sessions: Sessions | None) -> None:
        self._service = service
        self._sessions = sessions
        self._live = Live(service.settings)
        # Cookies do not know ports: servers on two state roots must not end each other's sessions.
        root = str(service.settings.state_dir.absolute()).encode(errors="surrogateescape")
        self.cookie = f"supervisor_{hashlib.sha256(root).hexdigest()[:8]}"

    # ------------------------------------------------------------ login

    async def login_form(self, request: Request) -> Response:
        if self._sessions is None:
            return RedirectResponse("/", 303, HEADERS)
        return self._login_page(link=request.query_params.get("link"))

    def _login_page(self, status: int = 200, *, link: str | None = None, problem: str | None = None) -> Response:
        html = render("login.html", link=link, problem=problem, viewer=None, stream=None)
        return HTMLResponse(html, status, HEADERS)

    async def login(self, request: Request) -> Response:
        if self._sessions is None:
            return RedirectResponse("/", 303, HEADERS)
        try:
            form = await form_of(request, None)
            if "link" in form:
                secret = self._sessions.begin_by_link(form["link"])
                problem = "This link has been used, or is too old. `supervisor login` prints another one."
            else:
                secret = self._sessions.begin(form.get("token", "").strip())
                problem = "This token is not known."
        except SupervisorError as error:
            return self._login_page(status_of(error), problem=f"{error.message}. {error.repair}")
        if secret is None:
            return self._login_page(403, problem=problem)
        return with_session(RedirectResponse("/", 303, HEADERS), request, self.cookie, secret)

    async def logout(self, visit: Visit) -> Response:
        await form_of(visit.request, visit.visitor.csrf)
        if self._sessions is not None and visit.visitor.signed_in:
            self._sessions.end(visit.visitor.secret)
        return with_session(RedirectResponse("/login", 303, HEADERS), visit.request, self.cookie, None)

    # ------------------------------------------------------------ the overview

    async def overview(self, visit: Visit) -> Response:
        supervisor = await self._service.supervisor()
        view = _view(visit)
        picture = await supervisor.access.in_thread(lambda catalog: picture_of(catalog, view, self._live.spending))
        return visit.answer(
            "overview.html",
            sections=picture.sections,
            now=picture.overview.at,
            stream="/page/events",
            said=_said(visit),
        )

    async def overview_events(self, visit: Visit) -> Response:
        await self._service.supervisor()

        async def produce(emit: Emit) -> None:
            shown: dict[str, str] = {}
            problem: str | None = None
            async with self._live.feed(_view(visit)) as feed:
                while True:
                    found = await feed.next()
                    if isinstance(found, Picture):
                        # After a problem, also one without a change: it says that the page is up to date again.
                        if (changed := _changed(found.sections, shown)) or problem is not None:
                            await emit("sections", found.event(changed))
                        problem = None
                    elif problem != found.message:
                        problem = found.message
                        await emit("problem", problem)

        return self._stream(visit, produce)

    def _stream(self, visit: Visit, produce: object) -> Response:
        def allowed() -> bool:
            if self._sessions is None:
                return True
            try:
                return self._sessions.caller(visit.visitor.secret) == visit.visitor.caller
            except SupervisorError:  # not known now
                return True

        return EventStream(produce, ending=self._service.lazy.ending, allowed=allowed, headers=HEADERS)  # type: ignore[arg-type]

    # ------------------------------------------------------------ jobs

    async def jobs(self, visit: Visit) -> Response:
        query = visit.request.query_params
        supervisor = await self._service.supervisor()
        label, state = query.get("label", "").strip(), query.get("state", "")
        name, equals, value = label.partition("=")
        if label and not equals:
            message = f"the label is {label!r:.80}; it is NAME=VALUE"
            raise InvalidArguments(message)
        labels = {**({name: value} if label else {}), **own_labels(visit.visitor.caller.principal)}
        found = await supervisor.list(
            state=state or None, labels=labels, limit=_PAGE_JOBS, cursor=query.get("cursor") or None
        )
        return visit.answer(
            "jobs.html",
            jobs=found.jobs,
            cursor=found.next_cursor,
            state=state,
            states=[each.value for each in State],
            label=label,
            now=datetime.now(UTC),
        )

    async def _job(self, visit: Visit) -> tuple[Supervisor, Job]:
        return await self._service.job(visit.visitor.caller, visit.request.path_params["job"])

    async def job(self, visit: Visit) -> Response:
        supervisor, job = await self._job(visit)
        now = datetime.now(UTC)
        seen = await look(supervisor, job)
        pieces = [await output.tail_of(supervisor, job, stream) for stream in STREAMS]
        return visit.answer(
            "job.html",
            job=job,
            sections=job_sections(seen, visit.visitor, now),
            pieces=pieces,
            now=now,
            stream=None if job.status.terminal else f"/jobs/{job.job_id}/events",
            said=_said(visit),
        )

    async def job_events(self, visit: Visit) -> Response:
        supervisor, job = await self._job(visit)
        offsets = self._offsets(visit.request)

        async def produce(emit: Emit) -> None:
            async with trio.open_nursery() as nursery:
                for stream in STREAMS:
                    nursery.start_soon(output.follow, supervisor, job.job_id, stream, offsets[stream], emit, offsets)
                nursery.start_soon(_watch, supervisor, job, visit, emit)
            await emit("over", None)

        return self._stream(visit, produce)

    @staticmethod
    def _offsets(request: Request) -> dict[str, int]:
        """Return where a browser goes on: where its last event was, or where its page ended."""
        given = request.headers.get("last-event-id", "").split(".")
        if len(given) != len(STREAMS):
            given = [request.query_params.get(stream, "0") for stream in STREAMS]
        return {stream: _offset(text) for stream, text in zip(STREAMS, given, strict=True)}

    async def output(self, visit: Visit) -> Response:
        supervisor, job = await self._job(visit)
        stream = output.check_stream(visit.request.path_params["stream"])
        at = visit.request.query_params.get("at")
        piece = await (
            output.tail_of(supervisor, job, stream)
            if at is None
            else output.piece_at(supervisor, job, stream, _offset(at))
        )
        return visit.answer("output.html", job=job, piece=piece, now=datetime.now(UTC))

    async def output_file(self, visit: Visit) -> Response:
        supervisor, job = await self._job(visit)
        return output.download(supervisor, job, output.check_stream(visit.request.path_params["stream"]))

    async def act_on_job(self, visit: Visit) -> Response:
        form = await form_of(visit.request, visit.visitor.csrf)
        name = visit.request.path_params["action"]
        if name not in actions.JOB_ACTIONS:
            message = f"there is no action {name!r:.40}"
            raise InvalidArguments(message)
        supervisor, job = await self._job(visit)
        return await actions.act_on_job(visit, supervisor, job, name, form)

    # ------------------------------------------------------------ groups

    async def group(self, visit: Visit) -> Response:
        supervisor = await self._service.supervisor()
        name = visit.request.path_params["group"]
        for group in await supervisor.groups():
            if group.name == name:
                return visit.answer("group.html", group=group, now=datetime.now(UTC), said=_said(visit))
        message = f"there is no group {name!r:.80}"
        raise GroupNotFound(message)

    async def act_on_group(self, visit: Visit) -> Response:
        form = await form_of(visit.request, visit.visitor.csrf)
        name, action = visit.request.path_params["group"], visit.request.path_params["action"]
        if action not in actions.GROUP_ACTIONS:
            message = f"there is no action {action!r:.40}"
            raise InvalidArguments(message)
        supervisor = await self._service.supervisor()
        if action == "limit" and all(each.name != name for each in await supervisor.groups()):
            message = f"there is no group {name!r:.80}"
            raise GroupNotFound(message)
        return await actions.act_on_group(visit, supervisor, name, action, form)


def _view(visit: Visit) -> View:
    return View(visit.visitor.caller.principal, visit.visitor.caller.may_change)


def _said(visit: Visit) -> str | None:
    return actions.SAID.get(visit.request.query_params.get("said", ""))


def _offset(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and int(text) <= _MAX_OFFSET):
        message = f"the offset is {text!r:.40}; it is a whole number of bytes"
        raise InvalidArguments(message)
    return int(text)


def _changed(sections: list[Section], shown: dict[str, str]) -> set[str]:
    """Return the names of the sections that a page lacks; it is about to be sent them."""
    changed = {each.name for each in sections if shown.get(each.name) != each.key}
    shown |= {each.name: each.key for each in sections}
    return changed


async def _watch(supervisor: Supervisor, job: Job, visit: Visit, emit: Emit) -> None:
    """Emit the changed parts of the page of a job, until it has ended."""
    shown: dict[str, str] = {}

    async def show(now: Job) -> None:
        seen = await look(supervisor, now)
        sections = job_sections(seen, visit.visitor, datetime.now(UTC))
        if changed := _changed(sections, shown):
            await emit(
                "sections", {"sections": {each.name: str(each.html) for each in sections if each.name in changed}}
            )

    try:
        async with supervisor.events(job.job_id) as events:
            job = await supervisor.status(job.job_id)
            await show(job)
            while not job.status.terminal:
                job = (await anext(events)).job
                await show(job)
                await trio.sleep(_CHANGES_SECONDS)
    except JobElsewhere:
        await show(job)
    except StopAsyncIteration:
        return
