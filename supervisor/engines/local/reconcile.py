"""The state of a local job: what its evidence proves, and the records that follow from it.

Any process on the state root may ask at any time, and all come to the same conclusion. ``examine`` only reads,
``decide`` is pure, ``resolve`` acts on decisions (rules that a job was never launched, records an end that no other
process records) until nothing is left to do. It signals no process and waits for none.

What cannot be read now is no evidence (see ``observing``): then ``NotKnown`` is raised, and nothing was written.

From the strongest: the exit record; the status of a zombie; a pidfd that was opened while the process lived; the
identity of the process. What none of them proves is unknown and stays so.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from supervisor.engines.interface import JobPhase, Observation
from supervisor.engines.local.evidence import Evidence, Leader, Origin, examine, origin_of
from supervisor.jobdir import durability, factories, measures, records, stops, validation
from supervisor.jobdir.facts import Ended
from supervisor.keeper import job_cgroups
from supervisor.keeper.job_processes import JobProcesses
from supervisor.system import processes
from supervisor.system.observing import is_there

__all__ = [
    "NEVER_LAUNCHED",
    "Decision",
    "adopt_marked",
    "decide",
    "find_marked_leader",
    "note",
    "note_cancelled",
    "note_exit",
    "resolve",
    "resolve_ended",
    "resolve_kept",
]


class Decision(Enum):
    """What follows from the evidence."""

    WAIT_QUEUED = "it is about to be launched"
    WAIT_RUNNING = "it runs, or its end is about to be recorded"
    STOP = "it runs, has to be stopped, and no other process stops it"
    RULE_NEVER_LAUNCHED = "no process will launch it"
    NOTE_NEVER_LAUNCHED = "it is ruled out, and its end is not recorded"
    SEARCH_MARK = "it may have been spawned without a record"
    RESTORE = "it was spawned, and its record was damaged since"
    NOTE_ZOMBIE = "it has ended and its status can be read"
    NOTE_UNKNOWN = "it has ended and its status is unknown"
    ENDED = "its end is on record"
    ELSEWHERE = "it can be judged only where it runs, or by the version that has made it"


def decide(evidence: Evidence) -> Decision:  # a decision table, one return per row
    """Return the decision that follows from the evidence alone."""
    if evidence.newer_records:
        return Decision.ELSEWHERE
    stop = evidence.stop or {}
    unfinished_stop = stop.get("signalled_boot_ns") is not None and not stop.get("gone")
    if evidence.exit:
        if unfinished_stop and evidence.place is Origin.HERE and evidence.process:
            return Decision.WAIT_RUNNING if evidence.keeper_lives else Decision.STOP
        return Decision.ENDED
    if evidence.place is Origin.ELSEWHERE:
        return Decision.ELSEWHERE
    if not evidence.process:
        return _decide_unlaunched(evidence)
    if evidence.place is Origin.EARLIER_BOOT:
        return Decision.NOTE_UNKNOWN
    if evidence.keeper_lives:
        # It records the end once. If that record was damaged since, no process writes it again.
        written = evidence.exit is not None and evidence.leader is Leader.GONE and not unfinished_stop
        return Decision.NOTE_UNKNOWN if written else Decision.WAIT_RUNNING
    if evidence.leader is Leader.ALIVE:
        overdue = _is_overdue(evidence)
        if stop.get("refused"):  # until it is requested again
            return Decision.WAIT_RUNNING
        return Decision.STOP if overdue or evidence.over_limit or evidence.stop else Decision.WAIT_RUNNING
    if unfinished_stop:
        return Decision.STOP
    if evidence.zombie_status is not None:
        return Decision.NOTE_ZOMBIE
    return Decision.NOTE_UNKNOWN


def _is_overdue(evidence: Evidence) -> bool:
    deadline = (evidence.process or {}).get("deadline_boot_ns")
    if deadline is None:
        return False
    if evidence.pause and evidence.pause["held_since_boot_ns"] is not None:
        return False
    return bool(deadline + (evidence.pause or {}).get("held_ns", 0) <= evidence.now_boot_ns)


def _decide_unlaunched(evidence: Evidence) -> Decision:
    if evidence.claim is None and evidence.process is None and not evidence.launched:
        if evidence.owner_lives or (evidence.has_orders and evidence.stop is None):
            return Decision.WAIT_QUEUED
        return Decision.ELSEWHERE if evidence.is_newer else Decision.RULE_NEVER_LAUNCHED
    if evidence.claim == records.NOBODY:
        return Decision.NOTE_NEVER_LAUNCHED
    if evidence.place is Origin.EARLIER_BOOT:
        return Decision.NOTE_UNKNOWN
    if evidence.keeper_lives and evidence.exit is None:  # a damaged one proves that there was an end
        return Decision.WAIT_QUEUED if evidence.process is None else Decision.RESTORE
    return Decision.SEARCH_MARK


def note_cancelled(directory: str) -> None:
    """Record the end of a job that was cancelled, and that no process has launched or will launch."""
    stops.mark_stop(directory, signalled=processes.boottime_ns(), gone=True)
    note(directory, None, factories.launch_failure(CANCELLED_BEFORE))


CANCELLED_BEFORE: Final = "it was cancelled before it was launched"
NEVER_LAUNCHED: Final = "it was never launched: its supervisor ended before it could be"


def find_marked_leader(job_id: str) -> processes.Process | None:
    """Return the oldest process that carries the mark of ``job_id`` and leads a session.

    Raises:
        NotKnown: not all processes can be read now.
    """
    held = JobProcesses()
    table = held.list()
    marks = held.marks(table)
    if held.incomplete is not None:
        raise held.incomplete
    marked = [table[pid] for pid, mark in marks.items() if mark == job_id.encode("ascii")]
    leaders = [process for process in marked if process.pid == process.session]
    return min(leaders, key=lambda process: process.start, default=None)


_SEARCH_AGAIN_SECONDS: Final = 0.1
_OWNER_KNOWS_SECONDS: Final = 1.0


def adopt_marked(directory: str, *, patient: bool = False) -> bool:
    """Write the missing or damaged record of a process that is found by its mark; return whether there is one.

    ``patient``: its keeper may have died a moment ago, between fork and exec of a child.
    """
    job_id = directory.rpartition("/")[2]
    found = find_marked_leader(job_id)
    if found is None and not patient:
        return False
    if found is None:
        # A child between fork and exec does not carry its mark yet.
        time.sleep(_SEARCH_AGAIN_SECONDS)
        found = find_marked_leader(job_id)
        if found is None:
            return False
    started_boot = processes.ticks_to_ns(found.start)
    holder = validation.keeper_of_claim(records.read_claim(directory) or "") or (0, 0, "", "")
    job = records.read(directory, records.JOB) or {}
    deadline = validation.number(job.get("deadline_seconds"), validation.LONGEST_SECONDS)
    # A damaged record is replaced; several processes that do this at once write the same.
    records.replace(
        directory,
        records.PROCESS,
        {
            "pid": found.pid,
            "start": found.start,
            "boot": processes.boot_id(),
            "ns": processes.pid_namespace(),
            "keeper_pid": holder[0],
            "keeper_start": holder[1],
            "started_ns": time.time_ns() - (processes.boottime_ns() - started_boot),
            "started_boot_ns": started_boot,
            "spawned_boot_ns": started_boot,
            "deadline_boot_ns": started_boot + int(deadline * 1e9) if deadline is not None else None,
        },
    )
    return True


def note_exit(
    directory: str,
    process: dict[str, Any] | None,
    status: int | None,
    *,
    by: str,
    remark: str | None = None,
) -> None:
    """Write the exit record that no other process will write; the first one wins.

    ``status`` is a wait status, or ``None`` where it will never be known; ``remark`` is for people.
    """
    record = factories.process_end(process, *factories.exit_code_and_signal(status), by=by)
    record |= {**measures.sizes(directory), "may_grow": True}  # no keeper watches it
    if status is not None and durability.is_durable(records.read(directory, records.JOB) or {}):
        try:
            durability.sync_output(directory)  # before the record, which is to have its output
        except OSError as error:
            record["unsynced"] = f"{error.filename}: {error.strerror}"
    peak, reached = job_cgroups.memory_of(process, directory.rpartition("/")[2])
    if peak is not None:
        record["memory_peak_bytes"] = peak
    if reached and status != 0:  # a command that has succeeded without the process is done
        now = processes.boottime_ns()
        stop = factories.stop_request("memory_limit", "the kernel", signalled_boot_ns=now, gone=True)
        records.create(directory, records.STOP, stop)
    if remark is not None:
        record["remark"] = remark
    note(directory, process, record)
    if process:
        job_cgroups.remove_of(process, directory.rpartition("/")[2])


def note(directory: str, process: dict[str, Any] | None, record: dict[str, object]) -> None:
    """Record an end unless there is one; a damaged record, or that of another process, is replaced."""
    if not records.create(directory, records.EXIT, record):
        there = validation.valid_exit(records.read(directory, records.EXIT), process)
        if not there:
            records.replace(directory, records.EXIT, record)


def _damage(evidence: Evidence) -> str | None:
    if evidence.newer_records:
        return f"{', '.join(evidence.newer_records)} cannot be read: a newer version of this package has written it"
    return validation.damage_of(evidence.process, evidence.stop, evidence.exit)


_MAX_ACTS: Final = 8
"""Usually one or two, and some more while other processes act on the same job."""


def resolve(
    directory: str,
    *,
    owner_lives: bool,
    born: dict[str, Any] | None = None,
    launched: bool = False,
    reaped_status: Callable[[], int | None] = lambda: None,
) -> Observation:
    """Act on the evidence until nothing is left to do here, and return what it proves.

    ``launched``: whether the job is known to have been launched, whatever is left in its directory.
    ``reaped_status`` may return the wait status of a process that is gone, from a pidfd that was opened before. The
    supervisor that launched the process holds such a pidfd: if it lives, it gets a moment to record the status.

    Raises:
        FileNotFoundError: the job directory is gone, so another process has forgotten the job.
        NotKnown: some of the evidence cannot be read now.
        OSError: a conclusion cannot be recorded.
    """
    if owner_lives and not launched and _is_untouched(directory):
        return Observation(phase=JobPhase.QUEUED)
    if (usual := resolve_ended(directory) or resolve_kept(directory)) is not None:
        return usual
    damage: str | None = None
    for _ in range(_MAX_ACTS):
        evidence = examine(directory, owner_lives=owner_lives, born=born, launched=launched)
        if evidence.claim is None and evidence.process is None and records.is_gone(directory):
            raise FileNotFoundError(errno.ENOENT, "the job has been forgotten", directory)
        damage = damage or _damage(evidence)
        decision = decide(evidence)
        if not _act(directory, decision, evidence, reaped_status):
            return _observation(decision, evidence, damage)
    # What was written cannot be read. Writing it again would not make it true.
    raise OSError(errno.EIO, "records that were written cannot be read", directory)


_TOUCHED: Final = frozenset({records.CLAIM, records.PROCESS, records.STOP, records.EXIT})


def _is_untouched(directory: str) -> bool:
    """Whether no process has begun to launch or to stop a job, the usual case of one that waits.

    One look at the names, where to find out that each record is missing takes ten times as long.
    """
    try:
        return _TOUCHED.isdisjoint(os.listdir(directory))
    except OSError:  # what that means is found out record by record
        return False


def _act(directory: str, decision: Decision, evidence: Evidence, reaped_status: Callable[[], int | None]) -> bool:
    """Do what a decision demands; return ``False`` if that is nothing, or changes nothing."""
    match decision:
        case Decision.RULE_NEVER_LAUNCHED:
            records.take_claim(directory, records.NOBODY)
        case Decision.NOTE_NEVER_LAUNCHED if evidence.stop is not None:  # damaged or not, a stop was requested
            note_cancelled(directory)
        case Decision.NOTE_NEVER_LAUNCHED:
            note(directory, None, factories.launch_failure(NEVER_LAUNCHED, never_launched=True))
        case Decision.SEARCH_MARK:
            if not adopt_marked(directory, patient=True):
                note_exit(directory, None, None, by="mark search")
        case Decision.RESTORE:
            # Its keeper goes on without a record; a process without the mark cannot be told from another one.
            return adopt_marked(directory)
        case Decision.NOTE_ZOMBIE:
            note_exit(directory, evidence.process, evidence.zombie_status, by="zombie")
        case Decision.NOTE_UNKNOWN:
            status = reaped_status()
            if status is None and _owner_records_end(directory, evidence):
                return True
            note_exit(directory, evidence.process, status, by="nobody" if status is None else "pidfd")
        case _:
            return False
    return True


def _owner_records_end(directory: str, evidence: Evidence) -> bool:
    """Wait a moment for the supervisor that holds a pidfd of the process to record its end; return whether it has."""
    if not (evidence.owner_lives and evidence.process and evidence.place is Origin.HERE and evidence.exit is None):
        return False
    give_up = time.monotonic() + _OWNER_KNOWS_SECONDS
    while not (there := is_there(f"{directory}/{records.EXIT}")) and time.monotonic() < give_up:
        time.sleep(0.01)
    return there


def resolve_ended(directory: str) -> Observation | None:
    """Return what ``resolve`` returns for a job whose end is recorded, and that of its stop; ``None`` for other jobs.

    Its processes make no difference then.
    """
    if not is_there(f"{directory}/{records.EXIT}"):
        return None
    process = validation.process(directory)
    end, stop = validation.valid_exit(records.read(directory, records.EXIT), process), stops.read_stop(directory)
    if not end or (stop and stop["signalled_boot_ns"] is not None and not stop["gone"]):
        return None
    if {} in (process, stop) and validation.newer_records(directory, process, stop):
        return None
    return _ended(process, stop, end, validation.damage_of(process, stop))


def resolve_kept(
    directory: str,
    lives: Callable[[int, int], bool] = processes.is_alive,
) -> Observation | None:
    """Return what ``resolve`` returns for a job that runs under its keeper, the usual case; ``None`` for other jobs.

    It reads no more than that takes and never waits, so that a thousand jobs are observed quickly. ``lives`` returns
    whether a keeper lives.
    """
    process = validation.process(directory)
    if not process or origin_of(process["boot"], process["ns"], None) is not Origin.HERE:
        return None
    # In this order: a keeper that was alive had not failed to record the end.
    if not lives(process["keeper_pid"], process["keeper_start"]):
        return None
    if is_there(f"{directory}/{records.EXIT}"):
        return None
    stop = stops.read_stop(directory)
    return Observation(
        phase=JobPhase.RUNNING,
        launched=validation.launched_of(process, records.read_pause(directory)),
        stop_requested=stop.get("why") if stop else None,
        damage=validation.damage_of(stop=stop),
    )


def _ended(
    process: dict[str, Any] | None,
    stop: dict[str, Any] | None,
    end: dict[str, Any],
    damage: str | None,
) -> Observation:
    stopped, survivors = validation.stop_facts(stop)
    return Observation(
        phase=JobPhase.ENDED,
        launched=validation.launched_of(process),
        ended=Ended(
            exit=validation.exit_of(end, stop),
            stopped=stopped,
            survivors=survivors,
            cause=validation.stop_cause(stop),
        ),
        stop_requested=stop.get("why") if stop else None,
        damage=damage,
    )


def _observation(decision: Decision, evidence: Evidence, damage: str | None) -> Observation:
    launched = validation.launched_of(evidence.process, evidence.pause)
    requested = evidence.stop.get("why") if evidence.stop else None
    if decision is Decision.ENDED:
        assert evidence.exit is not None  # noqa: S101  # by that decision
        return _ended(evidence.process, evidence.stop, evidence.exit, damage)
    phase = {
        Decision.WAIT_QUEUED: JobPhase.QUEUED,
        Decision.RESTORE: JobPhase.QUEUED,
        Decision.WAIT_RUNNING: JobPhase.RUNNING,
        Decision.STOP: JobPhase.RUNNING,
        Decision.ELSEWHERE: JobPhase.ELSEWHERE,
    }[decision]
    to_stop = None
    if decision is Decision.STOP:
        to_stop = requested or ("output_limit" if evidence.over_limit else "deadline")
    return Observation(
        phase=phase,
        launched=launched,
        stop_requested=requested,
        to_stop=to_stop,
        damage=damage,
        newer=evidence.is_newer or evidence.newer_records != (),
        unkept=evidence.leader is Leader.ALIVE and not evidence.keeper_lives,
    )
