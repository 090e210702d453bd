"""Queries and changes of the jobs on a state root, without an event loop.

Every answer is current: before the catalog reports an unfinished job, it observes the evidence, and
records the end if the job has ended. The command line uses it directly; the
supervisor uses it for jobs that are not its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Final, Self

import attrs

from supervisor import log
from supervisor.engines import registry
from supervisor.engines.interface import Client, Observation
from supervisor.errors import (
    JobNotFound,
    PermissionDenied,
    StateBusy,
    StateFull,
    SupervisorError,
)
from supervisor.jobdir.durability import POWER
from supervisor.jobdir.facts import Launched
from supervisor.jobs import prefixes, refreshing, results, retention
from supervisor.jobs.interface import Look
from supervisor.jobs.listing import no_job, page_of, query_of
from supervisor.jobs.outcome import view_of
from supervisor.jobs.progress import is_silent, read_so_far
from supervisor.jobs.refreshing import DAMAGED
from supervisor.jobs.scope import real_workspace
from supervisor.model import Job, JobPage, Result
from supervisor.settings import Settings
from supervisor.store import Index, Layout, Row, is_job_id
from supervisor.store.jobs_of_rows import job_of
from supervisor.store.rows import JobOutcome
from supervisor.store.state_root import workspace_key
from supervisor.system.observing import NotKnown, is_there

__all__ = ["Catalog"]


_MAX_TO_READ: Final = 1 << 20
"""The part of a running job's output that is parsed for its progress. Parsing it takes some 30 ms."""


class Catalog:
    """The jobs of one state root.

    Args:
        settings: of the state root.
        clients: of the engines; by default of the installed ones.
        wait_seconds: how long to wait for a lock on the index.
        any_thread: whether more than one thread uses it, one at a time.
        create: whether to create a missing state root; otherwise a missing one has no jobs.
        launches_waiting: whether it starts the process that launches waiting jobs, if they need one: when it is closed,
            before it waits for jobs, and whenever it has recorded the end of one while it waits.

    ``unwritten`` are ended jobs whose rows could not be written on a full disk. ``spared`` are jobs whose results are
    about to be fetched: they do not expire before that.

    Raises:
        StateUnsafe, PermissionDenied, StateFull: the state root cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clients: registry.Clients | None = None,
        wait_seconds: float = 5,
        any_thread: bool = False,
        create: bool = True,
        launches_waiting: bool = False,
    ) -> None:
        self._launches_waiting = launches_waiting
        self.settings = settings
        self.layout = Layout(settings.state_dir, create=create, durable=settings.durability == POWER)
        self.clients = clients or registry.Clients()
        self.unwritten: Mapping[str, Row] = {}
        self.spared: Container[str] = ()
        self.index = Index(self.layout, self.judge, wait_seconds=wait_seconds, any_thread=any_thread)

    def close(self) -> None:
        """Close the index."""
        self.ensure_launcher()
        self.clients.close()
        self.index.close()

    def ensure_launcher(self) -> None:
        """Start the helper that launches waiting jobs, if this catalog is to do that and no process is there for it."""
        if self._launches_waiting and (self.index.may_wait() or self._has_outbox()):
            from supervisor.admission import launch_helper  # needed only where jobs wait

            launch_helper.ensure(self.index)

    def _has_outbox(self) -> bool:
        try:
            return is_there(f"{self.layout.root}/deliveries")
        except NotKnown:
            return True

    def _may_be_launched(self, row: Row) -> bool:
        from supervisor.admission.launchers import may_launch  # as above

        return may_launch(self.index, row)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the index."""
        self.close()

    # ------------------------------------------------------------ finding out

    def client(self, row: Row) -> Client:
        """Return the client of the engine that runs a job."""
        return self.clients.of(row.request)

    def directory(self, row: Row) -> str:
        """Return the job directory of a row, in the state root or in its shared directory."""
        shared = row.request.get("directory")
        return shared if isinstance(shared, str) else self.layout.job(row.workspace_key, row.job_id)

    def judge(self, row: Row) -> tuple[Launched | None, JobOutcome | None]:
        """Return the launch and the outcome of an unfinished job, each ``None`` as long as it is not known."""
        return refreshing.judge(self, row)

    def row(self, job_id: str) -> Row:
        """Return the row of a job that is kept.

        Raises:
            JobNotFound: there is none, or it has expired.
        """
        row = self.index.get(job_id) if is_job_id(job_id) else None
        if row is None and is_job_id(job_id):
            row = self.recover(job_id)
        if row is None or self._is_expired(row):
            message = f"there is no job {job_id!r:.80}"
            raise JobNotFound(message, details={"job_id": job_id[:80]})
        return row

    def _is_expired(self, row: Row) -> bool:
        if row.expires_ns is None or row.job_id in self.spared or row.expires_ns > self.layout.clock.now_ns():
            return False
        return not self.index.read_queue(lambda queue: queue.is_awaited(row.seq))

    def recover(self, job_id: str) -> Row | None:
        """Insert the row of a job that has only a directory: the directory is the truth."""
        workspace = self.layout.find(job_id)
        row = None if workspace is None else self.index.read_job(workspace, job_id)
        if row is None or self.index.is_unconfirmed(row):
            return None
        found = row

        def enter() -> None:
            if not self.index.insert(found):  # another job holds its key by now
                found.idempotency_key = None
                self.index.insert(found)

        with contextlib.suppress(StateBusy, StateFull, PermissionDenied):
            self.index.write(enter)
            log.warning("job_recovered", job_id=job_id)
        return self.index.get(job_id) or row

    def refresh(
        self,
        row: Row,
        *,
        drive: bool = True,
        look: Look = view_of,
    ) -> tuple[Row, Observation | None]:
        """Bring a row up to date with the evidence, and return it with the observation.

        An error while observing is not raised: the answer is the last known row, and an observation
        with the ``problem``. No end is recorded then, and the next query observes the job again.

        ``drive``: carry out a due stop that no other process carries out, which can take
        as long as its grace. ``look``: the view for the interpreter, see ``outcome_of``.
        """
        return refreshing.refresh(self, row, drive=drive, look=look)

    def is_in_trash(self, job_id: str) -> bool:
        """Whether a job was forgotten, and is not deleted yet."""
        return any(name.startswith(job_id) for name in self.layout.discarded())

    def check_kept(self, row: Row) -> None:
        """Raise ``JobNotFound`` if a job was consumed or forgotten while it was observed."""
        if self.is_in_trash(row.job_id) or self.index.get(row.job_id) is None:
            refreshing.delete_row(self, row)
            message = f"job {row.job_id} has just been consumed or forgotten by another process"
            raise JobNotFound(message, details={"job_id": row.job_id})

    def job(self, row: Row, observation: Observation | None = None, *, read: int = 0) -> Job:
        """Return the job that a row and its latest observation describe.

        ``read``: how much of its output so far may be read for its progress.
        """
        directory = self.directory(row)
        damage = None if observation is None else observation.damage
        if observation is None and not self.layout.is_sound(row.workspace_key, row.job_id):
            damage = DAMAGED
        requested = None if observation is None or row.finished else observation.stop_requested
        queue_reason = None if observation is None or row.finished else observation.queue_reason
        reason, position = self.index.standing(row)
        if reason == "launching" and queue_reason is not None:  # its cluster has it
            reason = None
        elif reason == "launching" and not self._may_be_launched(row):
            reason = "no_launcher"
        progress = None
        if read and not row.finished and damage is None:
            progress = read_so_far(directory, row.kind, read)
        return job_of(
            row,
            directory,
            stop_requested=requested,
            damage=damage,
            progress=progress,
            queue_reason=reason or queue_reason,
            queue_position=position,
            launched=None if observation is None else observation.launched,
            limit_end=self.index.limit_end_ns,
        )

    # ------------------------------------------------------------ asking

    def status(self, job_id: str, *, progress: bool = True) -> Job:
        """Return a job as it is now; ``progress``: with its progress, if its kind reports it.

        Raises:
            JobNotFound: there is none of this id.
        """
        row = self.row(job_id)
        if row.finished:
            if self.layout.is_sound(row.workspace_key, job_id):
                return job_of(row, self.directory(row))
            if self.is_in_trash(job_id):
                refreshing.delete_row(self, row)  # the process that was forgetting it was interrupted
                return self.job(self.row(job_id))
        return self.job(*self.refresh(row), read=_MAX_TO_READ if progress else 0)

    def now(self, row: Row, *, progress: Mapping[str, Any] | None = None) -> Job:
        """Return the job of an unfinished row as it is now; ``progress`` is its known progress."""
        row, observation = self.refresh(row, drive=False)
        job = self.job(row, observation, read=_MAX_TO_READ if progress is None else 0)
        return job if progress is None or row.finished else attrs.evolve(job, progress=progress)

    def at_a_glance(self, row: Row, *, progress: Mapping[str, Any] | None = None) -> Job | None:
        """Return the job of an unfinished row as ``now`` does, in microseconds, for use on an event loop.

        ``None`` if a cached observation is not enough.
        """
        if row.job_id in self.unwritten or (progress is None and not is_silent(row.kind)):
            return None
        directory = self.directory(row)
        try:
            found = self.layout.stat_job(row.workspace_key, row.job_id)
            observation = None if found is None else self.client(row).cached(directory, found)
            if observation is None:
                return None
            row = refreshing.enter(self, row, directory, observation)
        except (NotKnown, StateBusy):
            return None
        if row.finished:
            return None
        return job_of(
            row,
            directory,
            stop_requested=observation.stop_requested,
            damage=observation.damage,
            progress=progress,
            launched=observation.launched,
        )

    def resolve_prefix(self, prefix: str) -> str:
        """Return the only job id that begins with ``prefix``, see ``prefixes.resolve``."""
        return prefixes.resolve(self, prefix)

    def list(
        self,
        *,
        workspace: str | os.PathLike[str] | None = None,
        state: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
        own: Callable[[str], Job | None] = no_job,
    ) -> JobPage:
        """Return a page of jobs, newest first; ``own`` may return an unfinished job by its id.

        Raises:
            InvalidArguments: a filter, the limit or the cursor does not fit.
        """
        key = None if workspace is None else workspace_key(real_workspace(workspace))
        return page_of(self, query_of(key, state, labels, limit, cursor), own)

    def result(self, job_id: str, *, consume: bool = False, detail: str | None = None) -> Result:
        """Return the result of a finished job; ``consume`` forgets the job at the same time.

        Of a job that was tried again, that is the result of the last attempt.

        ``detail`` is ``"summary"`` or ``"full"``, for kinds that can be rendered in both ways.

        Raises:
            InvalidArguments: ``detail`` is something else.
            JobNotFound: there is no such job, or another process has just consumed it.
            JobRunning: it has not ended.
            OutputLost: it is done, and its output has fewer bytes than its record says.
            StateCorrupt: it is done, and its output cannot be read.
        """
        return results.result(self, job_id, consume=consume, detail=detail)

    def result_at_a_glance(self, job_id: str, detail: str | None = None) -> tuple[Result, bool] | None:
        """Return the result of an ended job with little output, and whether it was fetched before.

        ``None`` in all other cases: then ``result`` has the answer, or the error.

        Raises:
            JobNotFound: there is no such job.
        """
        return results.result_at_a_glance(self, job_id, detail)

    # ------------------------------------------------------------ doing

    def forget(self, job_id: str) -> None:
        """Forget a finished job now.

        Raises:
            JobNotFound: there is none of this id.
            JobRunning: it, or the series that it is an attempt of, has not ended; cancel it first.
            InvalidArguments: a waiting job depends on it.
        """
        row, observation = self.refresh(self.row(job_id))
        last = self.index.last_attempt(row)
        if last is not None and not last.finished:
            raise results.running_error(self.job(last, observation if last is row else None))
        retention.check_unawaited(self, row)
        retention.settle_worktrees(self, [row])
        retention.remove(self, [row])

    def count_elsewhere(self, workspace: str | os.PathLike[str]) -> int:
        """Return the number of jobs kept in all other workspaces."""
        return self.index.count_elsewhere(workspace_key(real_workspace(workspace)), self.layout.clock.now_ns())

    def prune(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        spared: Iterable[str] = (),
    ) -> Sequence[str]:
        """Forget jobs that have expired or exceed the cap, in one workspace or in all, and empty the trash.

        Returns the ids. An unfinished job stays, and so do those in ``spared``.
        """
        key = None if workspace is None else workspace_key(real_workspace(workspace))
        return retention.prune(self, key, spared=spared)

    def empty_trash(self, most: int) -> bool:
        """Delete up to ``most`` discarded jobs, and their rows; ``True`` when more are there."""
        return retention.empty_trash(self, most)

    def remove(self, rows: Iterable[Row]) -> None:
        """Forget these finished jobs."""
        retention.remove(self, rows)

    def cancel(self, job_id: str, *, by: str = "command line", signal: int | str | None = None) -> Job:
        """Stop a job and return it when all of its processes have ended; a finished one is unchanged.

        ``signal``: what its processes get first, instead of SIGTERM.

        Raises:
            JobNotFound: there is none of this id.
            JobElsewhere: it runs on another host or in another pid namespace.
            StateFull, PermissionDenied: the request cannot be recorded; no process was signalled.
        """
        (end,) = self.cancel_all([job_id], by=by, signal=signal)
        if isinstance(end, SupervisorError):
            raise end
        return end

    def cancel_all(
        self, job_ids: Iterable[str], *, by: str = "command line", signal: int | str | None = None
    ) -> Sequence[Job | SupervisorError]:
        """Stop jobs concurrently: request every stop before waiting for any.

        Returns for each, in their order, what ``cancel`` would return or raise for it.
        """
        from supervisor.jobs import bulk, signalling  # a supervisor has them, and most commands need neither

        first_signal = None if signal is None else signalling.check_first(signal)
        return bulk.cancel_all(self, job_ids, by=by, first_signal=first_signal)

    def wait(self, job_ids: Iterable[str], *, any_one: bool = False, timeout: float | None = None) -> Sequence[Job]:
        """Wait until all jobs (or any) have ended, or ``timeout`` seconds have passed; return them all.

        A job that is tried again has not ended: the last attempt is waited for, and returned in its place.

        Raises:
            JobNotFound: there is none of one of these ids.
        """
        from supervisor.jobs import bulk

        return bulk.wait_for(self, job_ids, any_one=any_one, timeout=timeout)
