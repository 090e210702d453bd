"""The groups of a state root: set, paused, resumed, removed and shown, without an event loop.

A change writes the file of the group, which is the truth, and its copy in the index, in this order and under the lock
of the root. The transaction that changes the index also admits the jobs for which there is room then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from typing import Any

import attrs

from supervisor.errors import GroupClosed, GroupNotFound, InvalidArguments, JobElsewhere, JobNotFound, StateCorrupt
from supervisor.model import GroupInfo, PauseInfo, from_ns
from supervisor.store import Index, pauses
from supervisor.store.budgets import Budget, in_units
from supervisor.store.groups import Group, Pause, check_name, load, load_all, remove, save
from supervisor.store.tickets import Ticket, groups_of

__all__ = ["change_group", "check_ticket", "create_groups", "group_info", "group_infos", "remove_group"]

_USER = "user"


def change_group(index: Index, name: str, change: Callable[[Group], Group], *, create: bool = False) -> GroupInfo:
    """Change the settings of a group, and admit the waiting jobs for which there is room then.

    Args:
        index: of the state root.
        name: of the group.
        change: returns the changed group; it may raise.
        create: whether a group that does not exist is made.

    Raises:
        GroupNotFound: it does not exist.
        InvalidArguments: the limit is below the weight of a waiting job, which could never run.
        StateCorrupt: its file is damaged or of a newer version; nothing was changed.
    """
    layout = index.layout
    with layout.locked():
        before = load(layout.root, check_name(name))
        if before is None and not create:
            raise _not_found(index, name)
        group = _with_program(change(before or Group(name=name)), before)
        heaviest = index.read_queue(lambda queue: queue.heaviest(name))
        if group.limit and group.limit < heaviest:
            message = (
                f"a job of weight {heaviest} waits in group {name}: it could never run with a limit of {group.limit}"
            )
            raise InvalidArguments(message, repair="Set a higher limit, or cancel that job.")
        if group != before:
            save(layout.root, group, durable=layout.durable)

        def enter() -> None:
            index.group_files.enter(group)
            index.take_turn()

        index.write(enter)
    return _info(index, group)


def _with_program(group: Group, before: Group | None) -> Group:
    """Return a group with the path of the program of ``on_end``: its jobs are started elsewhere, by others."""
    if group.on_end is None or (before is not None and group.on_end == before.on_end):
        return group
    from supervisor.store.receivers import command_of  # few groups need it

    return attrs.evolve(group, on_end=command_of(group.on_end, os.getcwd()))


def create_groups(index: Index, names: tuple[str, ...]) -> None:
    """Make the groups that do not exist, without a limit."""
    for name in names:
        change_group(index, name, lambda group: group, create=True)


def remove_group(index: Index, name: str, *, to: str | None = None) -> None:
    """Remove a group; with ``to``, put its waiting jobs into that group instead, and admit those with room there.

    One transaction moves all jobs: it holds the index for about 300 us a job. A process that is killed meanwhile has
    moved no job in the index, and some on disk, which a new index follows; the next call completes that.

    Raises:
        GroupNotFound: it does not exist, or ``to`` does not.
        GroupClosed: the limit of ``to`` is 0.
        InvalidArguments: jobs of it run, or wait and there is no ``to``; ``to`` is the group itself, or has a limit
            below the weight of a waiting job. In these cases, nothing was changed. If a job is started in the group
            at the same moment, the others may have moved.
        JobElsewhere: a newer version has made one of the jobs; nothing was changed.
    """
    if to == name:
        message = f"the jobs of group {name} cannot move to the group itself, which is to be removed"
        raise InvalidArguments(message, repair="Name another group.")
    with index.layout.locked():
        if load(index.layout.root, check_name(name)) is None:
            raise _not_found(index, name)
        if to is not None:
            index.write(lambda: _move_jobs(index, name, check_name(to)))
        index.write(lambda: _remove_unused(index, name))


def _move_jobs(index: Index, name: str, to: str) -> None:
    running, heaviest = index.queue.counts(name).running, index.queue.heaviest(name)
    if running:
        message = f"group {name} has {running} slots in use; only waiting jobs can move to group {to}"
        raise InvalidArguments(message, repair="Wait for its running jobs, or cancel them, then remove it.")
    check_ticket(index, Ticket((to,), weight=max(1, heaviest)))
    rows = index.waiting_in(name)
    for row in rows:
        if row.is_newer:
            message = f"job {row.job_id} in group {name} was made by a newer version of this package"
            raise JobElsewhere(message, repair="Repeat the call with that version.", details={"job_id": row.job_id})
    for row in rows:
        names = sorted({to, *groups_of(row.request)} - {name})
        index.change_waiting(row, {**index.changes(row.workspace_key, row.job_id), "groups": names})
    index.take_turn()


def _remove_unused(index: Index, name: str) -> None:
    """Remove a group without jobs: no job is started in it between the look and the commit."""
    counts = index.queue.counts(name)
    if counts.running or counts.waiting:
        message = f"group {name} has {counts.running} slots in use and {counts.waiting} jobs waiting"
        repair = "Wait for its jobs, or cancel them, then remove it. `--to OTHER` moves those that wait."
        raise InvalidArguments(message, repair=repair)
    layout = index.layout
    for each in pauses.load(layout.root, name):  # a new group with this name is not paused
        pauses.remove(layout.root, name, each.by, durable=layout.durable)
    remove(layout.root, name, durable=layout.durable)
    index.queue.remove_group(name)


def pause(until_ns: int | None, reason: str | None) -> Callable[[Group], Group]:
    """Return the change that pauses a group until a time of the wall clock, or until it is resumed."""

    def change(group: Group) -> Group:
        others = tuple(each for each in group.pauses if each.by != _USER)
        return attrs.evolve(group, pauses=(*others, Pause(_USER, until_ns, reason)))

    return change


def resume(group: Group) -> Group:
    """End the pause of a user; other pauses stay."""
    return attrs.evolve(group, pauses=tuple(each for each in group.pauses if each.by != _USER))


def resume_group(index: Index, name: str, *, every: bool = False) -> GroupInfo:
    """End the pause of a user, or the only pause of a group; ``every``: all pauses.

    Raises:
        GroupNotFound: it does not exist.
        InvalidArguments: several causes pause it, and none of them is the user.
        StateCorrupt: its file is damaged or of a newer version; nothing was changed.
    """
    root = index.layout.root
    with index.layout.locked():
        group = load(root, check_name(name))
        causes = [each.by for each in pauses.load(root, name)]
        if group is not None and not every and all(each.by != _USER for each in group.pauses):
            if len(causes) > 1:
                message = f"group {name} is paused by {' and by '.join(causes)}"
                raise InvalidArguments(message, repair=f"End all pauses: `supervisor group resume {name} --all`.")
            every = True
        for by in causes if every else ():
            pauses.remove(root, name, by, durable=index.layout.durable)

        if every:
            index.write(lambda: index.queue.pacing.forget_failures(name))
        return change_group(index, name, resume)


def check_ticket(index: Index, ticket: Ticket) -> list[Group]:
    """Check a request against its groups, before its job is created, and return them.

    Raises:
        GroupNotFound: a group does not exist.
        GroupClosed: the limit of a group is 0.
        InvalidArguments: the weight is above a limit.
        StateCorrupt: the file of a group is damaged or of a newer version.
        JobNotFound: a job that it is to wait for does not exist.
    """
    for job_id, _ in ticket.after:
        if index.get(job_id) is None:
            message = f"there is no job {job_id} to wait for"
            raise JobNotFound(message, details={"job_id": job_id})
    found: list[Group] = []
    for name in ticket.groups:
        group = load(index.layout.root, name)
        if group is None:
            raise _not_found(index, name)
        if group.limit == 0:
            message = f"group {name} is closed: its limit is 0"
            raise GroupClosed(message, details={"group": name})
        if group.limit is not None and ticket.weight > group.limit:
            message = f"weight {ticket.weight} is above the limit {group.limit} of group {name}: it could never run"
            raise InvalidArguments(message, repair="Give the job a lower weight, or the group a higher limit.")
        found.append(group)
    return found


def group_info(index: Index, name: str) -> GroupInfo:
    """Return one group as it is now.

    Raises:
        GroupNotFound: it does not exist.
        StateCorrupt: its file is damaged or of a newer version.
    """
    group = load(index.layout.root, check_name(name))
    if group is None:
        raise _not_found(index, name)
    return _info(index, group)


def group_infos(index: Index, *, most: int | None = None) -> list[GroupInfo]:
    """Return every group of the state root by its name, or the first of them; a damaged one is shown as paused."""
    found: list[GroupInfo] = []
    for name, group in islice(load_all(index.layout.root), most):
        if isinstance(group, StateCorrupt):
            group = Group(name=name, pauses=(Pause("damage", None, group.message),))  # noqa: PLW2901  # shown instead
        found.append(_info(index, group))
    return found


def _info(index: Index, group: Group) -> GroupInfo:
    now = index.layout.clock.moment()
    counts, budgets = index.read_queue(
        lambda queue: (queue.counts(group.name), queue.budgets(group.name, now)), snapshot=True
    )
    now_ns = now.wall_ns
    return GroupInfo(
        name=group.name,
        limit=group.limit,
        running=counts.running,
        waiting=counts.waiting,
        oldest_wait_seconds=None if counts.oldest_ns is None else max(0, now_ns - counts.oldest_ns) / 1e9,
        paused=tuple(
            PauseInfo(by=each.by, until=None if each.until_ns is None else from_ns(each.until_ns), detail=each.detail)
            for each in (*group.pauses, *pauses.load(index.layout.root, group.name))
            if each.until_ns is None or each.until_ns > now_ns
        ),
        aging_seconds=group.aging_seconds,
        fair_by=group.fair_by,
        rate=group.rate,
        pause_on_failure=group.pause_on_failure,
        on_rate_limit=group.on_rate_limit,
        on_reboot=group.on_reboot,
        budgets=tuple(map(_budget, budgets)),
        tz=group.tz or "UTC",
        on_end=group.on_end,
        webhook=_shown(group.webhook),
    )


def _shown(url: str | None) -> str | None:
    if url is None:
        return None
    from supervisor.text.webhook_urls import shown  # few groups need it

    return shown(url)


def _budget(budget: Budget) -> dict[str, Any]:
    metric, limit, window = budget.setting
    return {
        "metric": metric,
        "limit": in_units(metric, limit),
        "window": window,
        "used": in_units(metric, budget.used),
        "reserved": in_units(metric, budget.reserved),
        "resets_at": None if budget.end_ns is None else from_ns(budget.end_ns),
        "on_exceed": budget.on_exceed,
    }


def _not_found(index: Index, name: str) -> GroupNotFound:
    known = sorted(name for name, _ in load_all(index.layout.root))
    there = f"known groups: {', '.join(known[:10])}" if known else "there are no groups yet"
    message = f"there is no group {name!r}; {there}"
    repair = f"Correct the name, make it with `supervisor group set {name}`, or start with --create-group."
    return GroupNotFound(message, repair=repair, details={"group": name})
