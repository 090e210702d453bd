"""What became of a local job: the evidence on disk and in the process table, and what follows from it.

Anybody may ask at any time, from any process on the state root, and everybody comes to the
same answer. ``examine`` only reads, ``decide`` is pure, ``resolve`` acts on what was decided
(rules that a job was never launched, notes an exit that nobody else will note) until there is
nothing left to do. Nothing here signals a process or waits for one.

What cannot be seen just now is no evidence (see ``observing``): then ``NotKnown`` is raised, and nothing was written.

Strongest first: the exit record; a zombie's status; a pidfd that was opened while it lived;
the identity of the process. What none of them tells is unknown and stays so.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import attrs

from supervisor.engines.interface import JobPhase, Observation
from supervisor.jobdir import factories, job_marks, measures, records, validation
from supervisor.jobdir.facts import Ended
from supervisor.jobdir.output import STREAMS, size_of
from supervisor.keeper import registration
from supervisor.keeper.job_processes import JobProcesses
from supervisor.system import processes
from supervisor.system.observing import is_there

__all__ = [
    "NEVER_LAUNCHED",
    "Decision",
    "Evidence",
    "Leader",
    "Origin",
    "adopt_marked",
    "decide",
    "examine",
    "find_marked_leader",
    "note",
    "note_cancelled",
    "note_exit",
    "recorded_keeper",
    "resolve",
    "resolve_ended",
    "resolve_kept",
]


class Origin(Enum):
    """Where the process was started, seen from here.

    Two names of a boot that differ may still be of the same one, seen from two containers. Within one pid
    namespace the process table tells then: what is proved to live there is ``HERE``, what is not there has
    ended with an ``EARLIER_BOOT``, or on this one, which comes to the same.
    """

    HERE = "here"
    EARLIER_BOOT = "earlier boot"
    ELSEWHERE = "elsewhere"


class Leader(Enum):
    """What can be said about the process itself."""

    NONE = "never recorded"
    ALIVE = "alive"
    ZOMBIE = "ended, not reaped"
    GONE = "gone"


@attrs.frozen(slots=True, kw_only=True, eq=False)
class Evidence:
    """Everything that can be read about a job, at one moment.

    Attributes:
        place: where it was started.
        owner_lives: whether the supervisor that took it on is still there.
        claim: the claim's holder, ``""`` for one that cannot be read, ``None`` without a claim.
        keeper_lives: whether the keeper that launched (or claimed) it is still there.
        process: ``process.json``; ``None`` missing, ``{}`` damaged.
        stop: ``stop.json``; the same.
        exit: ``exit.json``; the same, and ``{}`` as well when it speaks of another process.
        leader: whether the process lives.
        zombie_status: its wait status if it is a zombie whose status can be seen.
        now_boot_ns: the boot clock.
        over_limit: whether it has written more than it may, and has no keeper to see that.
        is_newer: whether it was not launched, and its ``job.json`` says something that only a newer version
            knows, such as that another process will launch it.
        newer_records: the records that a newer version has written in a shape that this version does not know.
        launched: whether it is known from elsewhere that it was launched. Then records that are missing were deleted.
    """

    place: Origin
    owner_lives: bool
    claim: str | None
    keeper_lives: bool
    process: dict[str, Any] | None
    stop: dict[str, Any] | None
    exit: dict[str, Any] | None
    leader: Leader
    zombie_status: int | None = None
    now_boot_ns: int = 0
    over_limit: bool = False
    is_newer: bool = False
    newer_records: tuple[str, ...] = ()
    launched: bool = False


class Decision(Enum):
    """What follows from the evidence."""

    WAIT_QUEUED = "somebody is about to launch it"
    WAIT_RUNNING = "it runs, or somebody is about to note its end"
    STOP = "it runs, should not, and nobody else is there to stop it"
    RULE_NEVER_LAUNCHED = "nobody will launch it"
    NOTE_NEVER_LAUNCHED = "somebody ruled that nobody will, and did not note it"
    SEARCH_MARK = "it may have been spawned without a record"
    RESTORE = "it was spawned, and its record was damaged since"
    NOTE_ZOMBIE = "it has ended and its status can be seen"
    NOTE_UNKNOWN = "it has ended and nobody knows how"
    ENDED = "its end is on record"
    ELSEWHERE = "it can be judged only where it runs, or by the version that has made it"


def recorded_keeper(directory: str) -> tuple[int, int] | None:
    """Return (pid, start time) of the keeper that launched a job, or has claimed that it would."""
    process = validation.process(directory)
    if process:
        return process["keeper_pid"], process["keeper_start"]
    holder = validation.keeper_of_claim(records.read_claim(directory) or "")
    if holder is None:
        return None
    place = _origin(holder[2], holder[3], None)
    if place is None:
        place = Origin.HERE if _is_proved_keeper(*holder) else Origin.EARLIER_BOOT
    return holder[:2] if place is Origin.HERE else None


class _Born:
    """``job.json``, read when it is asked for: of most jobs nobody needs to know where they were taken on."""

    def __init__(self, directory: str, record: dict[str, Any] | None) -> None:
        self._directory = directory
        self._record = record

    @property
    def record(self) -> dict[str, Any]:
        if self._record is None:
            self._record = records.read(self._directory, records.JOB) or {}
        return self._record


def _origin(boot: str, namespace: str, born: _Born | None) -> Origin | None:
    """Return where something was started; ``None`` where the process table has to tell that."""
    own = processes.boot_id()
    if boot and own.startswith(boot):
        return Origin.HERE if namespace == processes.pid_namespace() else Origin.ELSEWHERE
    host = None if born is None else born.record.get("host")
    if host is not None and processes.is_another_host(host):
        return Origin.ELSEWHERE
    if processes.is_another_boot(boot):
        return Origin.EARLIER_BOOT
    return None if namespace == processes.pid_namespace() else Origin.ELSEWHERE


def _is_proved_keeper(pid: int, start: int, boot: str, namespace: str) -> bool:
    """Whether this process lives and is a keeper that claims jobs by that boot."""
    return processes.is_alive(pid, start) and registration.is_keeper(pid, start, boot, namespace)


def _is_proved_leader(directory: str, pid: int) -> bool:
    """Whether a process carries the mark or the tag of the job of ``directory``."""
    job_id = os.path.basename(directory)
    return job_marks.mark_of(pid) == job_id.encode() or job_marks.tag_of(pid) == job_marks.tag_of_job(job_id) != 0


def _look_at_leader(process: dict[str, Any]) -> tuple[Leader, int | None]:
    found = processes.read_process(process["pid"])
    if found is None or found.start != process["start"]:
        return Leader.GONE, None
    if found.dead:
        return Leader.ZOMBIE, processes.exit_status_of_zombie(process["pid"], process["start"])
    return Leader.ALIVE, None


def _origin_by_table(directory: str, process: dict[str, Any], leader: Leader) -> tuple[Origin, bool]:
    """Return where a process was started whose pid namespace is ours and whose boot has another name, and its keeper.

    One that has its pid and its start time may be a stranger, unless it carries the mark, or its keeper is there.
    """
    keeper = process["keeper_pid"], process["keeper_start"]
    if _is_proved_keeper(*keeper, process["boot"], process["ns"]):
        return Origin.HERE, True
    if leader is Leader.ALIVE and _is_proved_leader(directory, process["pid"]):
        return Origin.HERE, False
    ended = leader is Leader.GONE and not processes.is_alive(*keeper)
    return (Origin.EARLIER_BOOT if ended else Origin.ELSEWHERE), False


def examine(
    directory: str, *, owner_lives: bool, born: dict[str, Any] | None = None, launched: bool = False
) -> Evidence:
    """Read all there is. ``born`` is ``job.json``, which says where the job was taken on, if that was read already.

    ``launched``: whether the job is known to have been launched.

    Raises:
        NotKnown: some of it cannot be seen now.
    """
    about = _Born(directory, born)
    claim = records.read_claim(directory)
    process = validation.valid_process(records.read(directory, records.PROCESS), claim)
    leader, zombie_status = Leader.NONE, None
    place, keeper_lives = Origin.HERE, False
    if process:
        told = _origin(process["boot"], process["ns"], about)
        if told in {None, Origin.HERE}:
            # In this order: a keeper that was alive had not failed to see its child's end yet.
            keeper_lives = processes.is_alive(process["keeper_pid"], process["keeper_start"])
            leader, zombie_status = _look_at_leader(process)
        if told is None:
            told, keeper_lives = _origin_by_table(directory, process, leader)
        place = told
    else:
        holder = validation.keeper_of_claim(claim) if claim else None
        if holder is not None:
            told = _origin(holder[2], holder[3], about)
            keeper_lives = told is Origin.HERE and processes.is_alive(holder[0], holder[1])
            if told is None:
                keeper_lives = _is_proved_keeper(*holder)
            place = told or Origin.HERE  # where it is found by its mark
        elif record := about.record:
            place = _origin(str(record.get("boot", "")), str(record.get("ns", "")), about) or Origin.HERE
    # The exit record comes last: whoever was alive above had not failed to write it yet.
    exit_record = validation.valid_exit(records.read(directory, records.EXIT), process)
    stop = records.read_stop(directory)
    return Evidence(
        place=place,
        owner_lives=owner_lives,
        claim=claim,
        keeper_lives=keeper_lives,
        process=process,
        stop=stop,
        exit=exit_record,
        leader=leader,
        zombie_status=zombie_status,
        now_boot_ns=processes.boottime_ns(),
        over_limit=leader is Leader.ALIVE and not keeper_lives and _is_over_limit(directory, about.record),
        is_newer=claim is None and process is None and not owner_lives and validation.is_newer_request(directory),
        newer_records=validation.newer_records(directory, process, stop, exit_record),
        launched=launched,
    )


def _is_over_limit(directory: str, born: dict[str, Any]) -> bool:
    limit = validation.integer(born, "output_limit")
    return limit is not None and any(size_of(directory, stream) > limit for stream in STREAMS)


def decide(evidence: Evidence) -> Decision:  # a decision table, one return per row
    """Say what follows from the evidence, and from nothing else."""
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
        # It writes the end down once. If that was damaged since, nobody will write it again.
        written = evidence.exit is not None and evidence.leader is Leader.GONE and not unfinished_stop
        return Decision.NOTE_UNKNOWN if written else Decision.WAIT_RUNNING
    if evidence.leader is Leader.ALIVE:
        deadline = evidence.process.get("deadline_boot_ns")
        overdue = deadline is not None and deadline <= evidence.now_boot_ns
        if stop.get("refused"):  # until it is asked for anew
            return Decision.WAIT_RUNNING
        return Decision.STOP if overdue or evidence.over_limit or evidence.stop else Decision.WAIT_RUNNING
    if unfinished_stop:
        return Decision.STOP
    if evidence.zombie_status is not None:
        return Decision.NOTE_ZOMBIE
    return Decision.NOTE_UNKNOWN


def _decide_unlaunched(evidence: Evidence) -> Decision:
    if evidence.claim is None and evidence.process is None and not evidence.launched:
        if evidence.owner_lives:
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
    """Write down the end of a job that was cancelled, and that nobody has launched or will."""
    records.mark_stop(directory, signalled=processes.boottime_ns(), gone=True)
    note(directory, None, factories.launch_failure(CANCELLED_BEFORE))


CANCELLED_BEFORE: Final = "it was cancelled before it was launched"
NEVER_LAUNCHED: Final = "it was never launched: its supervisor ended before it could be"


def find_marked_leader(job_id: str) -> processes.Process | None:
    """Return the oldest process that carries the mark of ``job_id`` and leads a session.

    Raises:
        NotKnown: not all processes can be looked at now.
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
    """Write the process record that is missing or damaged, of a process found by its mark; ``False`` if there is none.

    ``patient``: its keeper may have died a moment ago, with a child that has not come to its exec yet.
    """
    job_id = directory.rpartition("/")[2]
    found = find_marked_leader(job_id)
    if found is None and not patient:
        return False
    if found is None:
        # A child that the keeper left between fork and exec does not carry its mark yet.
        time.sleep(_SEARCH_AGAIN_SECONDS)
        found = find_marked_leader(job_id)
        if found is None:
            return False
    started_boot = processes.ticks_to_ns(found.start)
    holder = validation.keeper_of_claim(records.read_claim(directory) or "") or (0, 0, "", "")
    job = records.read(directory, records.JOB) or {}
    deadline = validation.number(job.get("deadline_seconds"), validation.LONGEST_SECONDS)
    # A damaged record is replaced; of several who look at once everybody writes the same.
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
    """Write the exit record that nobody else will write; whoever is first wins.

    ``status`` is a wait status, or ``None`` where it is not known and never will be; ``remark`` is for people.
    """
    record = factories.process_end(process, *factories.exit_code_and_signal(status), by=by)
    record |= {**measures.sizes(directory), "may_grow": True}  # no keeper looks
    if remark is not None:
        record["remark"] = remark
    note(directory, process, record)


def note(directory: str, process: dict[str, Any] | None, record: dict[str, object]) -> None:
    """Put an end on record unless there is one; one that is torn or lying would be found again and again."""
    if not records.create(directory, records.EXIT, record):
        there = validation.valid_exit(records.read(directory, records.EXIT), process)
        if not there:
            records.replace(directory, records.EXIT, record)


def _damage(evidence: Evidence) -> str | None:
    if evidence.newer_records:
        return f"{', '.join(evidence.newer_records)} cannot be read: a newer version of this package has written it"
    return validation.damage_of(evidence.process, evidence.stop, evidence.exit)


_MAX_ACTS: Final = 8
"""Of looks that each find something to be noted: one or two, and some more where others do the same meanwhile."""
_NOTHING_TO_DO: Final = frozenset(
    {Decision.WAIT_QUEUED, Decision.WAIT_RUNNING, Decision.STOP, Decision.ENDED, Decision.ELSEWHERE}
)


def resolve(
    directory: str,
    *,
    owner_lives: bool,
    born: dict[str, Any] | None = None,
    launched: bool = False,
    reaped_status: Callable[[], int | None] = lambda: None,
) -> Observation:
    """Come to a decision that needs nothing more to be done here, and return it.

    ``launched``: whether the job is known to have been launched, whatever is left in its directory.
    ``reaped_status`` may know the wait status of a process that is gone (from a pidfd that the
    caller opened while it lived). The supervisor that launched it holds such a pidfd: while that
    one lives it is left a moment to say how the process ended, before nobody knows.

    Raises:
        FileNotFoundError: the job directory is gone, so somebody has settled the job and forgotten it.
        NotKnown: some of the evidence cannot be seen now.
        OSError: what was found out cannot be written down.
    """
    if (usual := resolve_ended(directory) or resolve_kept(directory)) is not None:
        return usual
    damage: str | None = None
    owner_until: float | None = None
    acted = 0
    while True:
        evidence = examine(directory, owner_lives=owner_lives, born=born, launched=launched)
        if evidence.claim is None and evidence.process is None and records.is_gone(directory):
            raise FileNotFoundError(errno.ENOENT, "the job has been forgotten", directory)
        damage = damage or _damage(evidence)
        decision = decide(evidence)
        acted += 1
        if acted > _MAX_ACTS and decision not in _NOTHING_TO_DO:
            # What was written does not show. Writing it again and again would not make it true.
            raise OSError(errno.EIO, f"it stays so that {decision.value}, whatever is noted", directory)
        if decision is Decision.RULE_NEVER_LAUNCHED:
            records.take_claim(directory, records.NOBODY)
        elif decision is Decision.NOTE_NEVER_LAUNCHED:
            if evidence.stop is not None:  # damaged or not, it was asked for
                note_cancelled(directory)
                continue
            note(directory, None, factories.launch_failure(NEVER_LAUNCHED, never_launched=True))
        elif decision is Decision.SEARCH_MARK:
            if not adopt_marked(directory, patient=True):
                note_exit(directory, None, None, by="mark search")
        elif decision is Decision.RESTORE:
            # Its keeper needs no record of ours to go on; one without its mark cannot be told from a stranger.
            if not adopt_marked(directory):
                return _observation(Decision.WAIT_QUEUED, evidence, damage)
        elif decision is Decision.NOTE_ZOMBIE:
            note_exit(directory, evidence.process, evidence.zombie_status, by="zombie")
        elif decision is Decision.NOTE_UNKNOWN:
            status = reaped_status()
            if status is None and evidence.owner_lives and evidence.process and evidence.place is Origin.HERE:
                now = time.monotonic()
                owner_until = owner_until or now + _OWNER_KNOWS_SECONDS
                if now < owner_until:
                    acted -= 1
                    time.sleep(0.01)
                    continue
            note_exit(directory, evidence.process, status, by="nobody" if status is None else "pidfd")
        else:
            return _observation(decision, evidence, damage)


def resolve_ended(directory: str) -> Observation | None:
    """Return what ``resolve`` would of a job whose end is on record, and of any stop; ``None`` for any other.

    Whether anybody of it lives makes no difference then.
    """
    if not is_there(f"{directory}/{records.EXIT}"):
        return None
    process = validation.process(directory)
    end, stop = validation.valid_exit(records.read(directory, records.EXIT), process), records.read_stop(directory)
    if not end or (stop and stop["signalled_boot_ns"] is not None and not stop["gone"]):
        return None
    if {} in (process, stop) and validation.newer_records(directory, process, stop):
        return None
    return _ended(process, stop, end, validation.damage_of(process, stop))


def resolve_kept(
    directory: str,
    lives: Callable[[int, int], bool] = processes.is_alive,
) -> Observation | None:
    """Return what ``resolve`` would of a job that runs in the care of its keeper, which most do that are asked about.

    ``None`` for any other. No more is read for it than that takes, and nothing is waited for, so that a look at
    a thousand of them does not take long. ``lives`` says whether a keeper is there.
    """
    process = validation.process(directory)
    if not process or _origin(process["boot"], process["ns"], None) is not Origin.HERE:
        return None
    # In this order: a keeper that was alive had not failed to write the end down yet.
    if not lives(process["keeper_pid"], process["keeper_start"]):
        return None
    if is_there(f"{directory}/{records.EXIT}"):
        return None
    stop = records.read_stop(directory)
    return Observation(
        phase=JobPhase.RUNNING,
        launched=validation.launched_of(process),
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
        ended=Ended(exit=validation.exit_of(end, stop), stopped=stopped, survivors=survivors),
        stop_requested=stop.get("why") if stop else None,
        damage=damage,
    )


def _observation(decision: Decision, evidence: Evidence, damage: str | None) -> Observation:
    launched = validation.launched_of(evidence.process)
    requested = evidence.stop.get("why") if evidence.stop else None
    if decision is Decision.ENDED:
        assert evidence.exit is not None  # noqa: S101  # that is what the decision means
        return _ended(evidence.process, evidence.stop, evidence.exit, damage)
    state = {
        Decision.WAIT_QUEUED: JobPhase.QUEUED,
        Decision.WAIT_RUNNING: JobPhase.RUNNING,
        Decision.STOP: JobPhase.RUNNING,
        Decision.ELSEWHERE: JobPhase.ELSEWHERE,
    }[decision]
    to_stop = None
    if decision is Decision.STOP:
        to_stop = requested or ("output_limit" if evidence.over_limit else "deadline")
    return Observation(
        phase=state,
        launched=launched,
        stop_requested=requested,
        to_stop=to_stop,
        damage=damage,
        newer=evidence.is_newer or evidence.newer_records != (),
        unkept=evidence.leader is Leader.ALIVE and not evidence.keeper_lives,
    )
