"""The state of a cluster job: what its records and the cluster's report prove, and the records that follow.

As in ``local.reconcile``: ``examine`` only reads, ``decide`` is pure, ``resolve`` acts until nothing is left to do, and
all processes come to the same conclusion. The process table is not read: pids in these records are another machine's.

The records of the keeper on the node are the truth. The cluster's report counts where they are missing, and then

* a report that a job runs or waits counts at once; that the cluster cannot be reached means nothing at all;
* a report that a *claimed* job has ended, or is not known, counts only when the heartbeat of its keeper has stopped:
  a node that the cluster has lost contact with may go on, and its records may not be visible yet;
* of an *unclaimed* job the same report means that it never ran, which the claim makes final.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from supervisor.engines.cluster.interface import JobReport, QueueState
from supervisor.engines.interface import JobPhase, Observation
from supervisor.engines.local.reconcile import NEVER_LAUNCHED, note, note_exit
from supervisor.jobdir import factories, records, stops
from supervisor.jobdir.facts import Ended, Launched
from supervisor.jobdir.validation import exit_of, stop_cause, stop_facts, valid_exit, valid_process
from supervisor.keeper.single_job import BEAT_NS, HEARTBEAT, ORDERS, STDIN, UNKNOWN_STATUS
from supervisor.store.tickets import has_ticket
from supervisor.system.observing import is_there

__all__ = [
    "REPEAT_WITHIN_SECONDS",
    "ClusterEvidence",
    "Step",
    "decide",
    "drop_secrets",
    "examine",
    "is_unclaimed",
    "is_young",
    "resolve",
]

_Collect = Callable[[str], JobReport | None]

REPEAT_WITHIN_SECONDS: Final = 240.0
"""How long after a submission a cluster that does not know of it is taken to have lost it, not to have ended it."""
SILENT_SECONDS: Final = 4 * BEAT_NS / 1e9
_OWN_PULSE: Final = ".now"


@attrs.frozen(slots=True, kw_only=True)
class ClusterEvidence:
    """All evidence about a job, at one moment.

    Attributes:
        claim: the claim's holder, ``""`` for one that cannot be read, ``None`` without a claim.
        process: ``process.json``; ``None`` missing, ``{}`` damaged. So are the next three.
        stop: ``stop.json``.
        exit: ``exit.json``.
        submission: what was noted when it was handed to the engine.
        word: what the engine says.
        silent: whether the keeper that has claimed it has given no sign of life for too long.
        owner_lives: whether a supervisor may be about to submit it.
        overdue: whether its time, which ran from its submission, is over.
        waits: whether no process has submitted it, and any process can, from its orders, once it is admitted.
        young: whether it was submitted so recently that a cluster that does not know it may have lost it, or may not
            know it yet.
    """

    claim: str | None
    process: dict[str, Any] | None
    stop: dict[str, Any] | None
    exit: dict[str, Any] | None
    submission: dict[str, Any] | None
    report: JobReport
    silent: bool
    owner_lives: bool
    overdue: bool = False
    waits: bool = False
    young: bool = False


class Step(Enum):
    """The step that follows from the evidence."""

    QUEUED = "it waits for its turn, or for its submission"
    RUNNING = "it runs, or its keeper is about to note its end"
    ENDED = "its end is on record"
    RULE_NEVER_LAUNCHED = "it has not run and will not"
    NOTE_ENGINES_WORD = "its keeper is gone without a record: the engine's word is all there is"


def _age_of_pulse(directory: str) -> float:
    """Return the age of the keeper's last heartbeat in seconds, by the clock of the file system alone."""
    path = f"{directory}/{_OWN_PULSE}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    os.utime(path)
    now = os.stat(path).st_mtime_ns
    try:
        # Opened, not only stat'ed: that makes a network file system fetch new attributes.
        descriptor = os.open(f"{directory}/{HEARTBEAT}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        then = os.lstat(f"{directory}/{records.CLAIM}").st_mtime_ns
    else:
        then = os.fstat(descriptor).st_mtime_ns
        os.close(descriptor)
    return (now - then) / 1e9


def examine(directory: str, report: JobReport, *, owner_lives: bool) -> ClusterEvidence:
    """Read all evidence."""
    process = valid_process(records.read(directory, records.PROCESS), records.read_claim(directory))
    claim = records.read_claim(directory)
    exit_record = valid_exit(records.read(directory, records.EXIT), process)
    kept = process is not None or claim not in {None, records.NOBODY}
    gone = report.queue_state in {QueueState.ENDED, QueueState.ABSENT}
    born = records.read(directory, records.JOB) or {}
    submission = records.read(directory, records.SUBMISSION)
    unsubmitted = claim is None and process is None and submission is None
    return ClusterEvidence(
        claim=claim,
        process=process,
        stop=_stop_told_by_the_end(exit_record, stops.read_stop(directory)),
        exit=exit_record,
        submission=submission,
        report=report,
        silent=kept and gone and _age_of_pulse(directory) > SILENT_SECONDS,
        owner_lives=owner_lives,
        overdue=_is_overdue(born),
        waits=unsubmitted and has_ticket(born) and is_there(f"{directory}/{ORDERS}"),
        young=is_young(submission or {}),
    )


def is_young(submission: Mapping[str, Any]) -> bool:
    """Whether a cluster that does not know a job may have lost its submission, or may not know it yet."""
    submitted_ns = submission.get("submitted_ns")
    if submission.get("confirmed") is True or not isinstance(submitted_ns, int):
        return False
    return time.time_ns() - submitted_ns < REPEAT_WITHIN_SECONDS * 1e9


def _stop_told_by_the_end(end: dict[str, Any] | None, stop: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return ``stop.json``, or what the newer ``exit.json`` says of it.

    Where attributes of files are cached for seconds, the new file may be seen before the new line in the old one.
    That nothing is left of the tree only the line says, which is waited for.
    """
    why = (end or {}).get("stopped")
    if not isinstance(why, str) or why not in stops.REASONS or (stop or {}).get("signalled_boot_ns") is not None:
        return stop
    return {"why": why, "signalled_boot_ns": 0, "gone": False, "survivors": ""}


def _is_overdue(born: dict[str, Any]) -> bool:
    seconds, created_ns = born.get("deadline_seconds"), born.get("created_ns")
    if born.get("deadline_from") != "submission" or not isinstance(created_ns, int):
        return False
    return isinstance(seconds, int | float) and created_ns + int(seconds * 1e9) <= time.time_ns()


def decide(evidence: ClusterEvidence) -> Step:  # a decision table, one return per row
    """Return the step that follows from the evidence alone."""
    gone = evidence.report.queue_state in {QueueState.ENDED, QueueState.ABSENT}
    if evidence.exit:
        stop = evidence.stop or {}
        unfinished = stop.get("signalled_boot_ns") is not None and not stop.get("gone")
        return Step.RUNNING if unfinished and evidence.process and not (gone and evidence.silent) else Step.ENDED
    if evidence.claim == records.NOBODY:
        return Step.RULE_NEVER_LAUNCHED
    if evidence.process is not None or evidence.claim is not None:
        if gone and evidence.silent:
            return Step.NOTE_ENGINES_WORD
        return Step.RUNNING if evidence.process else Step.QUEUED
    if not gone and not evidence.overdue:
        return Step.QUEUED
    unsubmitted = evidence.submission is None and (evidence.owner_lives or evidence.waits)
    unknown_yet = evidence.young and evidence.report.queue_state is QueueState.ABSENT
    if (unsubmitted or unknown_yet) and not evidence.overdue:
        return Step.QUEUED
    return Step.RULE_NEVER_LAUNCHED


def is_unclaimed(directory: str) -> bool:
    """Return whether a job has provably not begun to run."""
    return records.read_claim(directory) is None


def drop_secrets(directory: str) -> None:
    """Delete the files that only a keeper reads, when none will."""
    for name in (ORDERS, STDIN):
        with contextlib.suppress(OSError):
            os.unlink(f"{directory}/{name}")


def resolve(
    directory: str,
    report: JobReport,
    *,
    owner_lives: bool,
    engine: str,
    collect: _Collect = lambda _: None,
) -> Observation:
    """Come to a step that needs nothing more to be done here, and return it.

    ``collect`` is the engine's word about an end; it is asked only where there is no record.

    Raises:
        FileNotFoundError: the job directory cannot be seen from here (any more).
        OSError: what was found out cannot be written down.
    """
    while True:
        if records.is_gone(directory):
            raise FileNotFoundError(errno.ENOENT, "the job directory cannot be seen", directory)
        evidence = examine(directory, report, owner_lives=owner_lives)
        step = decide(evidence)
        if step is Step.RULE_NEVER_LAUNCHED:
            if records.take_claim(directory, records.NOBODY) or evidence.claim == records.NOBODY:
                drop_secrets(directory)
                _note_never_launched(directory, evidence, engine)
        elif step is Step.NOTE_ENGINES_WORD:
            _note_engines_word(directory, evidence, engine, collect)
        else:
            return _observation(step, evidence)


def _note_never_launched(directory: str, evidence: ClusterEvidence, engine: str) -> None:
    report = evidence.report
    stop = stops.read_stop(directory)  # read after the ruling: a request came before, or never
    if stop:
        stops.mark_stop(directory, signalled=0, gone=True)
    elif report.cancelled or report.overdue or evidence.overdue:
        _note_stop(directory, _why_stopped(report), engine)
    never_launched = False
    if stop:
        error = f"it was to be stopped ({stop.get('why')}) before it was launched"
    elif evidence.overdue:
        error = "its deadline passed before it was launched"
    elif evidence.submission is None:
        error, never_launched = NEVER_LAUNCHED, True
    elif report.queue_state is QueueState.ENDED:
        log = "see engine.log"
        if not os.path.exists(f"{directory}/engine.log"):  # a node creates it before it runs anything
            log = f"it made no engine.log: does the node see {os.path.dirname(directory)}?"
        error = f"{engine} did not get it to run on a node: {report.state} ({log})"
    else:
        error, never_launched = f"{engine} does not know it any more, and it never ran", True
    note(directory, None, factories.launch_failure(error, never_launched=never_launched))


def _note_engines_word(
    directory: str, evidence: ClusterEvidence, engine: str, collect: Callable[[str], JobReport | None]
) -> None:
    report = evidence.report
    drop_secrets(directory)  # its keeper may have died before it read them
    if report.queue_state is QueueState.ENDED and report.handle is not None and evidence.process:
        report = collect(report.handle) or report
    if report.cancelled or report.overdue:
        _note_stop(directory, _why_stopped(report), engine)
    known = report.exit_code is not None and report.exit_code < UNKNOWN_STATUS
    remark = f"{engine}: {report.state or 'it is not known there any more'}; its keeper left no record"
    if evidence.process:
        status = (report.exit_code or 0) << 8 if known else None
        note_exit(directory, evidence.process, status, by=engine, remark=remark)
    else:
        note_exit(directory, None, None, by=engine, remark=remark)


def _why_stopped(report: JobReport) -> str:
    if report.unsatisfied:
        return "dependency_failed"
    return "cancelled" if report.cancelled else "deadline"


def _note_stop(directory: str, why: str, by: str) -> None:
    """Record a stop that the cluster has carried out; the first request keeps its reason."""
    if not records.create(directory, records.STOP, factories.stop_request(why, by, signalled_boot_ns=0, gone=True)):
        stops.mark_stop(directory, signalled=0, gone=True)


def _observation(step: Step, evidence: ClusterEvidence) -> Observation:
    launched = None
    if evidence.process:  # its boot clock is another machine's, and not comparable
        launched = Launched(pid=evidence.process["pid"], started_ns=evidence.process["started_ns"])
    requested = evidence.stop.get("why") if evidence.stop else None
    if step is Step.ENDED:
        assert evidence.exit is not None  # noqa: S101  # by that step
        stopped, survivors = stop_facts(evidence.stop)
        remark = evidence.exit.get("remark")
        ended = Ended(
            exit=exit_of(evidence.exit, evidence.stop),
            stopped=stopped,
            survivors=survivors,
            remark=remark if isinstance(remark, str) else None,
            cause=stop_cause(evidence.stop),
        )
        return Observation(phase=JobPhase.ENDED, launched=launched, ended=ended, stop_requested=requested)
    if step is Step.RUNNING:
        return Observation(phase=JobPhase.RUNNING, launched=launched, stop_requested=requested)
    return Observation(phase=JobPhase.QUEUED, stop_requested=requested, queue_reason=_why_queued(evidence))


def _why_queued(evidence: ClusterEvidence) -> str | None:
    if evidence.waits:  # the queue of the state root knows why
        return None
    match evidence.report.queue_state:
        case QueueState.QUEUED:
            return evidence.report.reason or "queued"
        case QueueState.UNREACHABLE:
            return evidence.report.reason or "unreachable"
        case QueueState.RUNNING:
            return "starting"
        case _:
            return "unknown" if evidence.submission else "not submitted yet"
