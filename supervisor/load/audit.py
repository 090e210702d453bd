"""The final checks of a load: the list of jobs, the marks that the jobs left, and their processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
import trio

from supervisor.load.check import Fault, Tracked, faults_of_marks
from supervisor.load.driver import Driver, Refused
from supervisor.load.generator import Load
from supervisor.load.program import Marks, most_at_once, processes_of, read_marks, tag_of
from supervisor.model import Job

__all__ = ["Audit", "audit", "forget"]


@attrs.frozen(slots=True)
class Audit:
    """The result of an audit.

    Attributes:
        faults: the faults found.
        listed: the jobs of the run that still exist; ``None`` if they could not be listed.
        found_again: how many of the listed jobs have a start that had no answer.
        left_running: ids of the unfinished ones.
        most_at_once: the largest number of jobs that ran at once; ``None`` if that cannot be seen.
    """

    faults: tuple[Fault, ...]
    listed: tuple[Job, ...] | None
    found_again: int
    left_running: tuple[str, ...]
    most_at_once: int | None


async def audit(
    driver: Driver,
    load: Load,
    run: str,
    *,
    marks: str | None,
    processes: bool,
    patience_seconds: float,
    limit: int | None = None,
) -> Audit:
    """Check the jobs of a run after its end.

    Input
        marks: the file of the marks; ``None`` if this machine cannot read it.
        processes: whether the jobs ran on this machine.
        patience_seconds: how long the list may take.
        limit: how many jobs may run at once; ``None`` for any number.
    """
    faults: list[Fault] = []
    listed: dict[str, Job] | None = None
    try:
        with trio.fail_after(patience_seconds):
            listed = {job.job_id: job async for job in driver.listed(run)}
    except Refused as error:
        faults.append(Fault("call", f"the list of jobs failed with {error.code}: {error.message}"))
    except trio.TooSlowError:
        faults.append(Fault("call", f"the list of jobs was not answered within {patience_seconds:g} s"))
    known = {record.job.job_id: record for record in load.records.values() if record.job is not None}
    found_again = 0
    if listed is not None:
        if driver.keeps_jobs:
            faults += _compare_list(known, listed)
        unknown = list(_unknown(load, [job for job_id, job in listed.items() if job_id not in known]))
        found_again = unknown.count(None)
        faults += [fault for fault in unknown if fault is not None]
    most = None
    if marks is not None:
        found = await trio.to_thread.run_sync(read_marks, marks)
        faults += _compare_marks(load, found)
        most = await trio.to_thread.run_sync(most_at_once, marks, found)
        if limit is not None and most > limit:
            faults.append(Fault("over_limit", f"{most} jobs ran at once, and the limit is {limit}"))
    left = tuple(job.job_id for job in (listed or {}).values() if not job.status.terminal)
    if processes:
        abandoned = {job_id for job_id, record in known.items() if record.abandoned}
        ended = frozenset({*known, *(listed or ())} - {*left, *abandoned})
        alive = await trio.to_thread.run_sync(processes_of, ended)
        for pid, job_id in alive.items():
            tag = known[job_id].tag if job_id in known else None
            faults.append(Fault("alive", f"process {pid}", job_id, tag))
    return Audit(tuple(faults), None if listed is None else tuple(listed.values()), found_again, left, most)


def _unknown(load: Load, jobs: Iterable[Job]) -> Iterator[Fault | None]:
    """Yield a fault for each job whose id no start returned, or ``None`` for one whose start had no answer."""
    for job in jobs:
        tag = tag_of(job.argv)
        record = None if tag is None else load.records.get(tag)
        if record is not None and record.uncertain:
            yield None
            continue
        why = "its start was refused" if record is not None and record.refused else "no start returned its id"
        yield Fault("unknown", why, job.job_id, tag, None if record is None else record.order.sort.name)


def _compare_list(known: dict[str, Tracked], listed: dict[str, Job]) -> Iterator[Fault]:
    for job_id, record in known.items():
        last = record.job
        now = listed.get(job_id)
        if now is None:
            yield record.fault("lost", "it is not in the list of jobs")
        elif last is not None and last.status.terminal and (now.status, now.exit_code) != (last.status, last.exit_code):
            before = f"{last.status.value} with exit code {last.exit_code}"
            detail = f"its caller got {before}, but the list has {now.status.value} with {now.exit_code}"
            yield record.fault("changed", detail)


def _compare_marks(load: Load, marks: Marks) -> Iterator[Fault]:
    for record in load.records.values():
        yield from faults_of_marks(record, marks)
    for tag in marks.begun:
        if tag not in load.records:
            yield Fault("unknown", f"{tag!r:.60} left a mark, but no such job was requested", tag=tag)


async def forget(driver: Driver, found: Audit, patience_seconds: float) -> int:
    """Delete all jobs of a run, also unknown ones; return how many could not be deleted."""
    failed = 0
    for job in found.listed or ():
        try:
            with trio.fail_after(patience_seconds):
                if not job.status.terminal:
                    await driver.cancel(job.job_id)
                await driver.forget(job.job_id)
        except Refused as error:
            failed += error.code != "job_not_found"
        except trio.TooSlowError:
            failed += 1
    return failed
