"""Brings the row of an unfinished job up to date with the evidence, and commits its end if it has ended."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from supervisor import log
from supervisor.engines.interface import JobPhase, Observation
from supervisor.errors import InvalidArguments, JobNotFound, PermissionDenied, StateBusy, StateFull
from supervisor.jobdir.facts import Ended, Launched
from supervisor.jobs.interface import Jobs, Look
from supervisor.jobs.outcome import outcome_of, view_of
from supervisor.jobs.unlaunched import rule_out_end
from supervisor.model import Exit
from supervisor.store import Row
from supervisor.store.rows import UNFINISHED, JobOutcome
from supervisor.store.tickets import has_ticket

__all__ = ["DAMAGED", "delete_row", "enter", "judge", "refresh"]

DAMAGED: Final = "its job directory is missing or damaged"


def judge(jobs: Jobs, row: Row) -> tuple[Launched | None, JobOutcome | None]:
    """Return the launch and the outcome of an unfinished job, each ``None`` as long as it is not known."""
    directory = jobs.directory(row)
    try:
        observation = _observe(jobs, row, directory)
        outcome = _outcome(row, directory, observation)
    except (OSError, StateBusy):  # not known now, or being forgotten: the next query decides
        return None, None
    return observation.launched, outcome


def refresh(jobs: Jobs, row: Row, *, drive: bool = True, look: Look = view_of) -> tuple[Row, Observation | None]:
    """Bring a row up to date, see ``Catalog.refresh``."""
    if row.finished or row.state not in UNFINISHED:  # a state of a newer version is left to that version
        return row, None
    if (ended := jobs.unwritten.get(row.job_id)) is not None:
        return ended, None
    try:
        return _observed(jobs, row, drive=drive, look=look)
    except (OSError, StateBusy) as error:
        log.warning("job_not_looked_at", job_id=row.job_id, error=str(error))
        observation = JobPhase.QUEUED if row.started_ns is None else JobPhase.RUNNING
        damage = f"it cannot be observed now: {getattr(error, 'strerror', None) or error}"
        return row, Observation(phase=observation, launched=row.launched(), damage=damage, problem=error)


def _observed(jobs: Jobs, row: Row, *, drive: bool, look: Look) -> tuple[Row, Observation | None]:
    directory = jobs.directory(row)
    found = jobs.layout.stat_job(row.workspace_key, row.job_id)
    if found is None:
        return _without_directory(jobs, row)
    may_wait = row.started_ns is None and has_ticket(row.request)
    if not may_wait and (kept := jobs.client(row).cached(directory, found)) is not None:
        return enter(jobs, row, directory, kept), kept
    if may_wait:
        end = jobs.index.read_queue(lambda queue: queue.end_of(row.job_id))
        if end is not None:
            rule_out_end(directory, end)
    try:
        observation = _observe(jobs, row, directory, drive=drive)
    except OSError:
        if jobs.layout.is_sound(row.workspace_key, row.job_id):
            raise
        return _without_directory(jobs, row)
    return enter(jobs, row, directory, observation, look), observation


def _observe(jobs: Jobs, row: Row, directory: str, *, drive: bool = False) -> Observation:
    return jobs.client(row).observe(
        directory,
        owner_lives=jobs.layout.owners.is_alive(row.owner),
        launched=row.started_ns is not None,
        drive=drive,
    )


def _outcome(row: Row, directory: str, observation: Observation, look: Look = view_of) -> JobOutcome | None:
    if observation.phase is JobPhase.ENDED and observation.ended is not None:
        with contextlib.suppress(InvalidArguments):  # a kind that is not installed here
            return outcome_of(row, directory, observation.ended, look)
    return None


def enter(jobs: Jobs, row: Row, directory: str, observation: Observation, look: Look = view_of) -> Row:
    """Commit an observation, and return the row as it is now."""
    outcome = _outcome(row, directory, observation, look)
    launched = observation.launched
    if outcome is None and (launched is None or row.started_ns is not None):
        return row

    now = row
    if launched is not None and row.started_ns is None:
        now = now.with_launch(launched)
    if outcome is not None:
        now = now.with_outcome(outcome)

    def write() -> bool:
        if outcome is not None:
            return jobs.index.finish(now)  # which records the launch as well
        if launched is not None:
            jobs.index.set_launched(row.job_id, launched)
        return False

    if outcome is not None and row.may_be_retried:
        return _attempt_ended(jobs, now)
    with contextlib.suppress(StateBusy, StateFull, PermissionDenied):
        first = jobs.index.write(write, single=outcome is None or now.ends_alone)
        if first:
            jobs.index.take_turns()
        return now if first else jobs.index.get(row.job_id) or now
    return now  # it cannot be recorded now; it is true all the same


def _attempt_ended(jobs: Jobs, row: Row) -> Row:
    """Commit the end of an attempt, and the next attempt with it, and return the row as it is then.

    Raises:
        StateBusy: it cannot be recorded now. Until it is, whether the series has ended is open.
    """
    try:
        jobs.index.write(lambda: jobs.index.finish(row))
        committed = jobs.index.get(row.job_id)
    except (StateFull, PermissionDenied) as error:
        raise StateBusy(error.message, repair=error.repair) from error
    with contextlib.suppress(StateBusy, StateFull, PermissionDenied):
        jobs.index.take_turns()
    return committed or row


def _without_directory(jobs: Jobs, row: Row) -> tuple[Row, Observation | None]:
    """Handle an unfinished job whose directory is missing or not to be trusted."""
    now = jobs.index.get(row.job_id)
    if now is not None and now.finished and not jobs.is_in_trash(row.job_id):
        return now, None
    if now is None or jobs.is_in_trash(row.job_id):
        delete_row(jobs, row)
        message = f"there is no job {row.job_id!r}"
        raise JobNotFound(message, details={"job_id": row.job_id})
    if jobs.client(row).has_processes(row.job_id):
        return row, Observation(phase=JobPhase.RUNNING, launched=row.launched(), damage=DAMAGED)
    ended = Ended(exit=Exit(ended_ns=time.time_ns()))
    observation = Observation(phase=JobPhase.ENDED, launched=row.launched(), ended=ended, damage=DAMAGED)
    return enter(jobs, row, jobs.directory(row), observation), observation


def delete_row(jobs: Jobs, row: Row) -> None:
    """Delete the row of a forgotten job, if that is possible now."""
    with contextlib.suppress(StateBusy, StateFull, PermissionDenied):
        jobs.index.write(lambda: jobs.index.delete(row.job_id))
