"""Answers about ended jobs, from their rows alone: most questions are about jobs that do not change any more.

``Reading`` opens the index to read and nothing else. It answers ``None`` where that is not enough: a job has not ended,
jobs wait, the index is damaged or of another version, a name is wrong. Then the catalog has the answer, or the error.
So ``Reading`` decides nothing, and each of its answers is the one that the catalog would give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from supervisor.errors import SupervisorError
from supervisor.jobs.scope import real_workspace
from supervisor.model.job import Job, JobPage
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store.jobs_of_rows import job_of
from supervisor.store.reader import Reader, Unreadable
from supervisor.store.rows import Row
from supervisor.store.state_root import Layout, workspace_key
from supervisor.system.observing import is_there

__all__ = ["Reading"]

_T = TypeVar("_T")

_HEX: Final = frozenset("0123456789abcdef")
_MIN_PREFIX: Final = 4
_MAX_CURSOR: Final = 18
_HAVE_MORE_TO_DO: Final = ("deliveries", "schedules")
"""What is in a state root where a command may have to start a process: the catalog looks whether it has to."""


class Reading:
    """The ended jobs of one state root, as their rows have them."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; each question opens the index."""
        self._settings = settings

    def status(self, job: str) -> Job | None:
        """Return an ended job, by its id or the beginning of its id."""
        if len(job) < _MIN_PREFIX or not _HEX.issuperset(job):
            return None

        def find(index: Reader, layout: Layout) -> Job | None:
            rows = index.with_prefix(job, 2)
            if len(rows) != 1:
                return None
            row = rows[0]
            if row.expires_ns is not None and row.expires_ns <= layout.clock.now_ns():
                return None
            return _shown(row, layout) if layout.is_sound(row.workspace_key, row.job_id) else None

        return self._read(find)

    def list(
        self,
        *,
        workspace: str | None,
        state: str | None,
        labels: Mapping[str, str],
        limit: int,
        cursor: str | None,
    ) -> tuple[JobPage, int] | None:
        """Return a page of ended jobs, newest first, and the number of jobs in all other workspaces."""
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _MAX_CURSOR):
            return None
        if state is not None and not State(state).terminal:
            return None

        def find(index: Reader, layout: Layout) -> tuple[JobPage, int] | None:
            key = None if workspace is None else workspace_key(real_workspace(workspace))
            if state is not None and index.owners():  # one of their jobs may have reached it
                return None
            now_ns = layout.clock.now_ns()
            rows = index.page(
                workspace=key,
                state=state,
                labels=labels.items(),
                before=None if cursor is None else int(cursor),
                limit=limit + 1,
                now_ns=now_ns,
            )
            is_sound = layout.soundness()
            jobs: list[Job] = []
            for row in rows:
                job = _shown(row, layout) if is_sound(row.workspace_key, row.job_id) else None
                if job is None:
                    return None
                jobs.append(job)
            more = str(rows[limit].seq + 1) if len(rows) > limit else None
            elsewhere = 0 if key is None else index.count_elsewhere(key, now_ns)
            return JobPage(jobs=tuple(jobs[:limit]), next_cursor=more), elsewhere

        return self._read(find)

    def _read(self, question: Callable[[Reader, Layout], _T | None]) -> _T | None:
        """Return the answer to a question if the rows have it, and no process has to be started for waiting jobs."""
        try:
            layout = Layout(self._settings.state_dir, create=False)
            if any(is_there(f"{layout.root}/{name}") for name in _HAVE_MORE_TO_DO):
                return None
            index = Reader(layout)
            try:
                return None if index.may_wait() else question(index, layout)
            finally:
                index.close()
        except (Unreadable, SupervisorError, OSError):
            return None


def _shown(row: Row, layout: Layout) -> Job | None:
    """Return the job of a row if it has ended; its directory, which may be a shared one, has more about some jobs."""
    if not row.finished:
        return None
    shared = row.request.get("directory")
    return job_of(row, shared if isinstance(shared, str) else layout.job(row.workspace_key, row.job_id))
