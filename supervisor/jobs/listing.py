"""Lists of jobs, a page at a time: the checks of a query, and the assembly of a page.

The rows of ended jobs are used as they are. An unfinished job must be observed first, which may block.
``page_at_a_glance`` returns ``None`` instead of blocking, so that an event loop can try it before ``page_of``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from supervisor import log
from supervisor.errors import InvalidArguments, JobNotFound, StateBusy, SupervisorError
from supervisor.jobs.interface import Jobs
from supervisor.model import MAX_LABELS, Job, JobPage
from supervisor.states import State
from supervisor.store import Row
from supervisor.store.groups import check_name
from supervisor.store.jobs_of_rows import job_of
from supervisor.store.tickets import groups_of

__all__ = ["Query", "check_limit", "no_job", "page_at_a_glance", "page_of", "query_of"]

_MAX_PER_PAGE: Final = 1000
_MAX_TO_READ: Final = 1 << 16
"""Bytes of the output of each running job that are read for its progress."""


@attrs.frozen(slots=True, kw_only=True, eq=False)
class Query:
    """A valid query for jobs.

    Attributes:
        workspace: the key of a workspace, ``None`` for all.
        state: one of the states, or ``None``.
        labels: names and values that the jobs have.
        group: a group that the jobs are in, or ``None``.
        before: the ``seq`` of the last job on the page before.
        limit: the size of a page.
    """

    workspace: str | None = None
    state: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    group: str | None = None
    before: int | None = None
    limit: int = 50


def check_limit(limit: int) -> int:
    """Return ``limit`` if a page may be that long."""
    # Callers without a type checker may pass anything.
    if type(limit) is not int or not 1 <= limit <= _MAX_PER_PAGE:
        message = f"limit is {limit!r}; it must be a whole number from 1 to {_MAX_PER_PAGE}"
        raise InvalidArguments(message)
    return limit


def query_of(
    workspace: str | None,
    state: str | None,
    labels: Mapping[str, str] | None,
    limit: int,
    cursor: str | None,
    group: str | None = None,
) -> Query:
    """Return the query of a caller; ``workspace`` is a key.

    Raises:
        InvalidArguments: an argument is invalid.
    """
    check_limit(limit)
    if state is not None and state not in set(State):
        message = f"state is {state!r}; it must be one of {', '.join(State)}"
        raise InvalidArguments(message)
    named: Mapping[str, object] = labels or {}
    if not all(isinstance(text, str) for pair in named.items() for text in pair):
        message = f"labels is {labels!r:.80}; it must map strings to strings"
        raise InvalidArguments(message)
    if len(named) > MAX_LABELS:
        message = f"there are more than {MAX_LABELS} labels, and no job has so many"
        raise InvalidArguments(message)
    if group is not None:
        check_name(group)
    return Query(
        workspace=workspace,
        group=group,
        state=state,
        labels=tuple((labels or {}).items()),
        before=_parse_cursor(cursor),
        limit=limit,
    )


def _parse_cursor(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        message = f"cursor is {cursor!r:.80}; it must be the next_cursor of an earlier page"
        raise InvalidArguments(message)
    return int(cursor)


def no_job(_: str) -> Job | None:
    """Know no job in memory."""
    return None


def page_of(jobs: Jobs, query: Query, own: Callable[[str], Job | None] = no_job) -> JobPage:
    """Return a page, newest first; ``own`` may return an unfinished job from memory, by its id."""
    if query.state is not None and State(query.state).terminal:
        with contextlib.suppress(StateBusy):  # a job that cannot be observed now is listed by its row
            for row in _orphans(jobs, query.workspace):  # jobs that have ended since the last observation belong here
                with contextlib.suppress(JobNotFound):
                    jobs.refresh(row, drive=False)

    is_sound = jobs.layout.soundness()

    def shown(row: Row) -> Job | None:
        try:
            if row.finished:
                return _finished(jobs, row, is_sound)
            return jobs.job(*jobs.refresh(row, drive=False), read=_MAX_TO_READ)
        except JobNotFound:
            return None
        except SupervisorError as problem:  # a job that cannot be observed must not hide all others
            log.warning("job_not_looked_at", job_id=row.job_id, error=problem.message)
            return job_of(row, jobs.directory(row), damage=problem.message)

    return _page(jobs, query, own, shown)


def page_at_a_glance(jobs: Jobs, query: Query, own: Callable[[str], Job | None]) -> JobPage | None:
    """Return a page as ``page_of`` does, or ``None`` where observing a job may block."""
    if query.group is not None:  # may look at many rows
        return None
    if query.state is not None and State(query.state).terminal and any(_orphans(jobs, query.workspace)):
        return None

    is_sound = jobs.layout.soundness()

    def shown(row: Row) -> Job | None:
        if not row.finished:
            job = jobs.at_a_glance(row)
            if job is None:
                raise _NotAtAGlance
            return job
        return _finished(jobs, row, is_sound)

    try:
        return _page(jobs, query, own, shown)
    except _NotAtAGlance:
        return None


def _finished(jobs: Jobs, row: Row, is_sound: Callable[[str, str], bool]) -> Job | None:
    """Return an ended job; ``None`` for a forgotten one whose row could not be deleted, on a full disk."""
    if is_sound(row.workspace_key, row.job_id):
        return job_of(row, jobs.directory(row))
    return None if jobs.is_in_trash(row.job_id) else jobs.job(row)


class _NotAtAGlance(Exception):
    """Observing a job may block."""


def _page(
    jobs: Jobs,
    query: Query,
    own: Callable[[str], Job | None],
    shown: Callable[[Row], Job | None],
) -> JobPage:
    before, limit, state = query.before, query.limit, query.state
    found: list[Job] = []
    while True:
        rows = jobs.index.page(
            workspace=query.workspace,
            state=state,
            labels=query.labels,
            group=query.group,
            before=before,
            limit=limit + 1 - len(found),
        )
        with jobs.index.standings_of(rows):
            for row in rows:
                before = row.seq
                if query.labels and not dict(query.labels).items() <= row.request["labels"].items():
                    continue  # SQLite compares labels up to their first NUL
                if query.group is not None and query.group not in groups_of(row.request):
                    continue
                job = (None if row.finished else own(row.job_id)) or shown(row)
                if job is not None and (state is None or job.status == state):
                    if len(found) == limit:
                        return JobPage(jobs=tuple(found), next_cursor=str(before + 1))
                    found.append(job)
        if not rows or len(rows) + len(found) <= limit:
            return JobPage(jobs=tuple(found))


def _orphans(jobs: Jobs, workspace: str | None) -> Iterable[Row]:
    """Yield the unfinished jobs whose supervisors are not alive."""
    for owner in jobs.index.owners():
        if not jobs.layout.owners.is_alive(owner):
            for row in jobs.index.unfinished(owner=owner):
                if workspace in {None, row.workspace_key}:
                    yield row
