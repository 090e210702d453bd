"""The evidence about a local job: its records, and the processes that they name."""

from __future__ import annotations

import os
from enum import Enum
from typing import Any

import attrs

from supervisor.jobdir import job_marks, records, stops, validation
from supervisor.jobdir.output import STREAMS, size_of
from supervisor.keeper import registration
from supervisor.system import processes
from supervisor.system.observing import find

__all__ = ["Evidence", "Leader", "Origin", "belongs_to", "examine", "origin_of", "recorded_keeper"]


class Origin(Enum):
    """Where the process was started, relative to this process.

    Two names of a boot that differ may belong to the same boot, read in two containers. Within one pid namespace the
    process table decides then: a process that provably lives there is ``HERE``; one that is not there has ended with an
    ``EARLIER_BOOT`` or during this one, which has the same consequences.
    """

    HERE = "here"
    EARLIER_BOOT = "earlier boot"
    ELSEWHERE = "elsewhere"


class Leader(Enum):
    """The state of the process itself."""

    NONE = "never recorded"
    ALIVE = "alive"
    ZOMBIE = "ended, not reaped"
    GONE = "gone"


def _has_orders(directory: str) -> bool:
    """Whether a job has orders: on disk, or in the memory of a keeper that lives."""
    return find(f"{directory}/{records.ORDERS}", follow=True) is not None


@attrs.frozen(slots=True, kw_only=True, eq=False)
class Evidence:
    """All evidence about a job, at one moment.

    Attributes:
        place: where it was started.
        owner_lives: whether the supervisor that created it lives.
        claim: the claim's holder, ``""`` for one that cannot be read, ``None`` without a claim.
        keeper_lives: whether the keeper that launched or claimed it lives.
        process: ``process.json``; ``None`` missing, ``{}`` damaged.
        stop: ``stop.json``; the same.
        pause: ``pause.json``; the same.
        exit: ``exit.json``; the same, and ``{}`` also when it names another process.
        leader: whether the process lives.
        zombie_status: its wait status if it is a zombie whose status can be read.
        now_boot_ns: the boot clock.
        over_limit: whether it has written more than it may, and has no keeper to notice that.
        has_orders: whether it was not launched, and has the orders by which any process can launch it.
        is_newer: whether it was not launched, and its ``job.json`` says something that only a newer version
            knows, such as that another process will launch it.
        newer_records: the records that a newer version has written in a shape that this version does not know.
        launched: whether the index says that it was launched. Then missing records were deleted.
    """

    place: Origin
    owner_lives: bool
    claim: str | None
    keeper_lives: bool
    process: dict[str, Any] | None
    stop: dict[str, Any] | None
    exit: dict[str, Any] | None
    leader: Leader
    pause: dict[str, Any] | None = None
    zombie_status: int | None = None
    now_boot_ns: int = 0
    over_limit: bool = False
    has_orders: bool = False
    is_newer: bool = False
    newer_records: tuple[str, ...] = ()
    launched: bool = False


def recorded_keeper(directory: str) -> tuple[int, int] | None:
    """Return (pid, start time) of the keeper that launched a job, or has claimed that it would."""
    process = validation.process(directory)
    if process:
        return process["keeper_pid"], process["keeper_start"]
    holder = validation.keeper_of_claim(records.read_claim(directory) or "")
    if holder is None:
        return None
    place = origin_of(holder[2], holder[3], None)
    if place is None:
        place = Origin.HERE if _is_proved_keeper(*holder) else Origin.EARLIER_BOOT
    return holder[:2] if place is Origin.HERE else None


class _Record:
    """``job.json``, read when it is needed, which for most jobs is never."""

    def __init__(self, directory: str, record: dict[str, Any] | None) -> None:
        self._directory = directory
        self._record = record

    @property
    def record(self) -> dict[str, Any]:
        if self._record is None:
            self._record = records.read(self._directory, records.JOB) or {}
        return self._record


def origin_of(boot: str, namespace: str, about: _Record | None) -> Origin | None:
    """Return where a process was started; ``None`` where the process table has to decide."""
    own = processes.boot_id()
    if boot and own.startswith(boot):
        return Origin.HERE if namespace == processes.pid_namespace() else Origin.ELSEWHERE
    host = None if about is None else about.record.get("host")
    if host is not None and processes.is_another_host(host):
        return Origin.ELSEWHERE
    if processes.is_another_boot(boot):
        return Origin.EARLIER_BOOT
    return None if namespace == processes.pid_namespace() else Origin.ELSEWHERE


def _is_proved_keeper(pid: int, start: int, boot: str, namespace: str) -> bool:
    """Return whether this process lives and is a keeper that claims jobs under this name of the boot."""
    return processes.is_alive(pid, start) and registration.is_keeper(pid, start, boot, namespace)


def belongs_to(directory: str, pid: int) -> bool:
    """Return whether a process carries the mark or the tag of the job of ``directory``."""
    job_id = os.path.basename(directory)
    return job_marks.mark_of(pid) == job_id.encode() or job_marks.tag_of(pid) == job_marks.tag_of_job(job_id) != 0


def _leader(process: dict[str, Any]) -> tuple[Leader, int | None]:
    found = processes.read_process(process["pid"])
    if found is None or found.start != process["start"]:
        return Leader.GONE, None
    if found.dead:
        return Leader.ZOMBIE, processes.exit_status_of_zombie(process["pid"], process["start"])
    return Leader.ALIVE, None


def _origin_by_table(directory: str, process: dict[str, Any], leader: Leader) -> tuple[Origin, bool]:
    """Return where a process of this pid namespace was started whose boot has another name, and if its keeper lives.

    A process with its pid and start time may be another one, unless it carries the mark, or its keeper lives.
    """
    keeper = process["keeper_pid"], process["keeper_start"]
    if _is_proved_keeper(*keeper, process["boot"], process["ns"]):
        return Origin.HERE, True
    if leader is Leader.ALIVE and belongs_to(directory, process["pid"]):
        return Origin.HERE, False
    ended = leader is Leader.GONE and not processes.is_alive(*keeper)
    return (Origin.EARLIER_BOOT if ended else Origin.ELSEWHERE), False


def examine(
    directory: str, *, owner_lives: bool, born: dict[str, Any] | None = None, launched: bool = False
) -> Evidence:
    """Read all evidence. ``born`` is ``job.json``, if the caller has read it.

    ``launched``: whether the job is known to have been launched.

    Raises:
        NotKnown: some of it cannot be read now.
    """
    about = _Record(directory, born)
    claim = records.read_claim(directory)
    process = validation.valid_process(records.read(directory, records.PROCESS), claim)
    leader, zombie_status = Leader.NONE, None
    place, keeper_lives = Origin.HERE, False
    if process:
        origin = origin_of(process["boot"], process["ns"], about)
        if origin in {None, Origin.HERE}:
            # In this order: a keeper that was alive had not missed the end of its child.
            keeper_lives = processes.is_alive(process["keeper_pid"], process["keeper_start"])
            leader, zombie_status = _leader(process)
        if origin is None:
            origin, keeper_lives = _origin_by_table(directory, process, leader)
        place = origin
    else:
        holder = validation.keeper_of_claim(claim) if claim else None
        if holder is not None:
            origin = origin_of(holder[2], holder[3], about)
            keeper_lives = origin is Origin.HERE and processes.is_alive(holder[0], holder[1])
            if origin is None:
                keeper_lives = _is_proved_keeper(*holder)
            place = origin or Origin.HERE  # where its mark is searched for
        elif record := about.record:
            place = origin_of(str(record.get("boot", "")), str(record.get("ns", "")), about) or Origin.HERE
    # The exit record comes last: a process that was alive above had not failed to write it.
    exit_record = validation.valid_exit(records.read(directory, records.EXIT), process)
    stop = stops.read_stop(directory)
    return Evidence(
        place=place,
        owner_lives=owner_lives,
        claim=claim,
        keeper_lives=keeper_lives,
        process=process,
        stop=stop,
        pause=records.read_pause(directory) if process else None,
        exit=exit_record,
        leader=leader,
        zombie_status=zombie_status,
        now_boot_ns=processes.boottime_ns(),
        over_limit=leader is Leader.ALIVE and not keeper_lives and _is_over_limit(directory, about.record),
        has_orders=claim is None and process is None and not owner_lives and _has_orders(directory),
        is_newer=claim is None and process is None and not owner_lives and validation.is_newer_request(directory),
        newer_records=validation.newer_records(directory, process, stop, exit_record),
        launched=launched,
    )


def _is_over_limit(directory: str, born: dict[str, Any]) -> bool:
    limit = validation.integer(born, "output_limit")
    return limit is not None and any(size_of(directory, stream) > limit for stream in STREAMS)
