"""The schedules of a state root: added, paused, resumed, removed and shown, without an event loop.

A change writes the file of the schedule, which is the truth, and its row in the index, in this order and under the lock
of the root. Supervisors that are open see the change of the index, and fire the schedule at its instants.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import attrs

from supervisor.admission.groups import check_ticket
from supervisor.admission.instants import CATCH_UP, OVERLAP, Instants
from supervisor.errors import InvalidArguments, JobNotFound, ScheduleNotFound, StateCorrupt, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.scheduled import check_repeatable, request_of
from supervisor.jobs.scope import real_workspace
from supervisor.jobs.validation import MAX_DELAY_SECONDS, checked_spec
from supervisor.model import JobSpec, from_ns
from supervisor.model.schedules import ScheduleInfo
from supervisor.store.schedule_files import Schedule, State, check_name, load, load_all, remove, save
from supervisor.store.tickets import Ticket
from supervisor.system.process_settings import process_settings

__all__ = [
    "DEFAULT_WINDOW_SECONDS",
    "add_schedule",
    "load_schedule",
    "note_run",
    "pause_schedule",
    "remove_schedule",
    "resume_schedule",
    "schedule_info",
    "schedule_infos",
]

DEFAULT_WINDOW_SECONDS: Final = 3600.0


def add_schedule(
    catalog: Catalog,
    name: str,
    spec: JobSpec,
    *,
    cron: str,
    zone: str,
    overlap: str = "skip",
    catch_up: str = "latest",
    window_seconds: float = DEFAULT_WINDOW_SECONDS,
    jitter_seconds: float = 0.0,
    replace: bool = False,
) -> ScheduleInfo:
    """Add a schedule: a start that is repeated at the instants of a cron expression.

    Args:
        catalog: of the state root.
        name: of the schedule.
        spec: what it starts. Its environment, by default that of this process, and its input are kept on disk.
        cron: five fields, or six with seconds first.
        zone: the name of the time zone of the expression.
        overlap: what an instant does while a job of the schedule has not ended: ``skip``, ``buffer_one``,
            ``cancel_other`` or ``allow_all``.
        catch_up: which missed instants are fired: ``latest``, ``none`` or ``all``.
        window_seconds: how old a missed instant may be that is fired.
        jitter_seconds: the longest delay after an instant.
        replace: change a schedule that exists; its running jobs go on.

    Raises:
        InvalidArguments: an argument is wrong, the expression never fires, or there is a schedule of this name.
        GroupNotFound, GroupClosed: its jobs could never run.
        StateFull, StateBusy, PermissionDenied: it cannot be recorded.
    """
    for argument, word, known in (("overlap", overlap, OVERLAP), ("catch_up", catch_up, CATCH_UP)):
        if word not in known:
            message = f"{argument} is {word!r:.80}; it must be one of {', '.join(known)}"
            raise InvalidArguments(message)
    for argument, seconds in (("catch_up_window", window_seconds), ("jitter", jitter_seconds)):
        if not 0 <= seconds <= MAX_DELAY_SECONDS:
            message = f"{argument} is {seconds!r:.80}; it must be from 0 to {MAX_DELAY_SECONDS} seconds (90 days)"
            raise InvalidArguments(message)
    index, workspace = catalog.index, real_workspace(spec.workspace)
    if not os.path.isdir(workspace):
        message = f"workspace {workspace} is no directory"
        raise InvalidArguments(message, repair="Make it, or give another one.", details={"argument": "workspace"})
    spec = checked_spec(spec)
    check_repeatable(spec)
    if spec.groups:
        check_ticket(index, Ticket(groups=spec.groups, weight=spec.weight))
    now_ns = index.layout.clock.wall_ns()
    schedule = Schedule(
        name=check_name(name),
        cron=cron,
        zone=zone,
        overlap=overlap,
        catch_up=catch_up,
        window_ns=int(window_seconds * 1e9),
        jitter_ns=int(jitter_seconds * 1e9),
        created_ns=now_ns,
        request=request_of(spec, workspace),
        settings=process_settings(),
    )
    state = State(since_ns=now_ns)
    Instants(schedule, state)  # raises for a wrong expression
    with index.layout.locked():
        if not replace and load(index.layout.root, name) is not None:
            message = f"there is a schedule {name} already"
            repair = f"Change it with --replace, or remove it: `supervisor schedule rm {name}`."
            raise InvalidArguments(message, repair=repair)
        schedule = save(index.layout.root, schedule, spec.stdin, durable=index.layout.durable)
        _enter(catalog, schedule, state)
    return _info(catalog, schedule)


def _enter(catalog: Catalog, schedule: Schedule, state: State | None = None) -> None:
    """Enter a schedule into the index; it is looked at soon, with this state if one is given."""
    rows = catalog.index.schedules

    def enter() -> None:
        rows.enter(schedule)
        if state is not None:
            rows.settle(schedule.name, None if schedule.paused else 0, state)

    catalog.index.write(enter)


def load_schedule(catalog: Catalog, name: str) -> Schedule:
    """Return a schedule.

    Raises:
        ScheduleNotFound: there is none of this name.
        StateCorrupt: its file is damaged or of a newer version.
    """
    found = load(catalog.layout.root, check_name(name))
    if found is None:
        raise _not_found(catalog, name)
    return found


def _not_found(catalog: Catalog, name: str) -> ScheduleNotFound:
    known = [name for name, _ in load_all(catalog.layout.root)]
    there = f"known schedules: {', '.join(known[:10])}" if known else "there are no schedules yet"
    message = f"there is no schedule {name!r}; {there}"
    return ScheduleNotFound(message, details={"schedule": name})


def _change(catalog: Catalog, name: str, change: Callable[[Schedule], Schedule]) -> ScheduleInfo:
    with catalog.layout.locked():
        before = load_schedule(catalog, name)
        after = change(before)
        if after != before:
            save(catalog.layout.root, after, durable=catalog.layout.durable)
            _enter(catalog, after, _resumed(catalog, after) if before.paused else None)
    return _info(catalog, after)


def _resumed(catalog: Catalog, schedule: Schedule) -> State:
    """Return the state of a schedule that is resumed: what it has missed while it was paused is not caught up."""
    found = catalog.index.read(lambda: catalog.index.schedules.state(schedule))
    now_ns = catalog.layout.clock.wall_ns()
    return State(since_ns=now_ns) if found is None else attrs.evolve(found, since_ns=now_ns)


def pause_schedule(catalog: Catalog, name: str) -> ScheduleInfo:
    """Have a schedule fire nothing until it is resumed; its running jobs go on.

    Raises:
        ScheduleNotFound: there is none of this name.
        StateCorrupt: its file is damaged or of a newer version.
    """
    return _change(catalog, name, lambda schedule: attrs.evolve(schedule, paused=True))


def resume_schedule(catalog: Catalog, name: str) -> ScheduleInfo:
    """Have a schedule fire again, from its next instant on.

    Raises:
        ScheduleNotFound: there is none of this name.
        StateCorrupt: its file is damaged or of a newer version.
    """
    return _change(catalog, name, lambda schedule: attrs.evolve(schedule, paused=False))


def remove_schedule(catalog: Catalog, name: str) -> None:
    """Remove a schedule, also one whose file cannot be understood; its jobs go on.

    Raises:
        ScheduleNotFound: there is none of this name.
    """
    with catalog.layout.locked():
        if not remove(catalog.layout.root, check_name(name), durable=catalog.layout.durable):
            raise _not_found(catalog, name)
        catalog.index.write(lambda: catalog.index.schedules.forget(name))


def note_run(catalog: Catalog, name: str, job_id: str) -> None:
    """Note a job of a schedule that was started out of turn."""
    catalog.index.write(lambda: catalog.index.schedules.note_run(name, job_id))


def schedule_info(catalog: Catalog, name: str) -> ScheduleInfo:
    """Return one schedule as it is now.

    Raises:
        ScheduleNotFound: there is none of this name.
        StateCorrupt: its file is damaged or of a newer version.
    """
    catalog.index.follow_files()
    return _info(catalog, load_schedule(catalog, name))


def schedule_infos(catalog: Catalog) -> list[ScheduleInfo]:
    """Return every schedule of the state root by its name; of one that is not understood, why."""
    catalog.index.follow_files()
    return [
        _info(catalog, schedule) if isinstance(schedule, Schedule) else ScheduleInfo(name=name, detail=schedule.message)
        for name, schedule in load_all(catalog.layout.root)
    ]


def _info(catalog: Catalog, schedule: Schedule) -> ScheduleInfo:
    index, request = catalog.index, schedule.request
    now_ns = index.layout.clock.wall_ns()
    state = index.read(lambda: index.schedules.state(schedule)) or State(since_ns=schedule.created_ns)
    next_ns, detail = None, state.note
    try:
        next_ns = None if schedule.paused else Instants(schedule, state).next_at(now_ns)
    except InvalidArguments as problem:  # a zone that this machine does not know
        detail = problem.message
    return ScheduleInfo(
        name=schedule.name,
        cron=schedule.cron,
        tz=schedule.zone,
        overlap=schedule.overlap,
        catch_up=schedule.catch_up,
        catch_up_window_seconds=schedule.window_ns / 1e9,
        jitter_seconds=schedule.jitter_ns / 1e9,
        paused=schedule.paused,
        next_at=None if next_ns is None else from_ns(next_ns),
        last_at=None if state.last_ns is None else from_ns(state.last_ns),
        last_job_id=state.last_job,
        last_status=_status(catalog, state.last_job),
        detail=detail,
        kind=request.get("kind", "raw"),
        argv=tuple(request.get("argv", ())),
        workspace=request.get("workspace"),
        groups=tuple(request.get("groups", ())),
    )


def _status(catalog: Catalog, job_id: str | None) -> str | None:
    if job_id is None:
        return None
    try:
        row = catalog.index.last_attempt(catalog.row(job_id))
        return None if row is None else catalog.status(row.job_id, progress=False).status.value
    except (JobNotFound, StateCorrupt):
        return None
    except SupervisorError:  # not known now
        return None
