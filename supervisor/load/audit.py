"""When a load is over: what the list says, what the jobs have left behind, and what of them is still there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
import trio

from supervisor.load.check import Fault, Record, faults_of_marks
from supervisor.load.driver import Driver, Refused
from supervisor.load.generator import Load
from supervisor.load.program import Marks, processes_of, read_marks, tag_of
from supervisor.model import Job

__all__ = ["Audit", "audit", "forget"]


@attrs.frozen(slots=True)
class Audit:
    """What was found.

    Attributes:
        faults: what is wrong.
        listed: the jobs of the run that are kept; ``None`` when they could not be listed.
        found_again: how many of them are jobs whose start was answered by nothing.
        left_running: ids of those that have not ended.
    """

    faults: tuple[Fault, ...]
    listed: tuple[Job, ...] | None
    found_again: int
    left_running: tuple[str, ...]


async def audit(
    driver: Driver, load: Load, run: str, *, marks: str | None, processes: bool, patience_seconds: float
) -> Audit:
    """Look at everything once more, with fresh eyes.

    Input
        marks: the file for the marks; ``None`` where they cannot be seen from here.
        processes: whether the jobs ran on this machine.
        patience_seconds: how long the list may take.
    """
    faults: list[Fault] = []
    listed: dict[str, Job] | None = None
    try:
        with trio.fail_after(patience_seconds):
            listed = {job.job_id: job async for job in driver.listed(run)}
    except Refused as error:
        faults.append(Fault("call", f"the list of jobs was answered by {error.code}: {error.message}"))
    except trio.TooSlowError:
        faults.append(Fault("call", f"the list of jobs was not answered within {patience_seconds:g} s"))
    known = {record.job.job_id: record for record in load.records.values() if record.job is not None}
    found_again = 0
    if listed is not None:
        if driver.keeps:
            faults += _missing(known, listed)
        strangers = list(_strangers(load, [job for job_id, job in listed.items() if job_id not in known]))
        found_again = strangers.count(None)
        faults += [fault for fault in strangers if fault is not None]
    if marks is not None:
        faults += _marked(load, await trio.to_thread.run_sync(read_marks, marks))
    left = tuple(job.job_id for job in (listed or {}).values() if not job.status.terminal)
    if processes:
        unseen = {job_id for job_id, record in known.items() if record.abandoned}
        ended = frozenset({*known, *(listed or ())} - {*left, *unseen})
        alive = await trio.to_thread.run_sync(processes_of, ended)
        faults += [Fault("alive", f"process {pid}", job_id, _tag(known, job_id)) for pid, job_id in alive.items()]
    return Audit(tuple(faults), None if listed is None else tuple(listed.values()), found_again, left)


def _strangers(load: Load, jobs: Iterable[Job]) -> Iterator[Fault | None]:
    """Yield what is wrong with each job that nobody was told of; ``None`` where its start was answered by nothing."""
    for job in jobs:
        tag = tag_of(job.argv)
        record = None if tag is None else load.records.get(tag)
        if record is not None and record.uncertain:
            yield None
            continue
        why = "its start was refused" if record is not None and record.refused else "no start was answered by it"
        yield Fault("unknown", why, job.job_id, tag, None if record is None else record.order.sort.name)


def _tag(known: dict[str, Record], job_id: str) -> str | None:
    return known[job_id].tag if job_id in known else None


def _missing(known: dict[str, Record], listed: dict[str, Job]) -> Iterator[Fault]:
    for job_id, record in known.items():
        told = record.job
        now = listed.get(job_id)
        name = record.order.sort.name
        if now is None:
            yield Fault("lost", "it is not in the list of jobs", job_id, record.tag, name)
        elif told is not None and told.status.terminal and (now.status, now.exit_code) != (told.status, told.exit_code):
            said = f"{told.status.value} with exit code {told.exit_code}"
            detail = f"it was told to be {said}, and is listed as {now.status.value} with {now.exit_code}"
            yield Fault("changed", detail, job_id, record.tag, name)


def _marked(load: Load, marks: Marks) -> Iterator[Fault]:
    for record in load.records.values():
        yield from faults_of_marks(record, marks)
    for tag in marks.begun:
        if tag not in load.records:
            yield Fault("unknown", f"{tag!r:.60} has left a mark, and nobody has asked for it", tag=tag)


async def forget(driver: Driver, found: Audit, patience_seconds: float) -> int:
    """Forget the jobs of a run, those that nobody knew of included; return how many would not be forgotten."""
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
