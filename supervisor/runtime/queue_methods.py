"""What a caller can ask of groups, and of jobs that wait: a part of ``Supervisor``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Unpack

import attrs

from supervisor.admission.groups import change_group, group_infos, pause, remove_group, resume_group
from supervisor.jobs import places
from supervisor.jobs.catalog import Catalog
from supervisor.model import to_ns
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.lookup import Lookup
from supervisor.runtime.registry_actor import Registry

if TYPE_CHECKING:
    from supervisor.model import Explanation, GroupInfo, GroupOptions, Job, SpendReport
    from supervisor.store.groups import Group

__all__ = ["QueueMethods"]


class QueueMethods:
    """The methods about groups and waiting jobs; ``Supervisor`` has the attributes."""

    access: StoreAccess
    launcher: Launcher
    _lookup: Lookup
    _registry: Registry

    # ------------------------------------------------------------ groups

    async def set_group(self, name: str, **options: Unpack[GroupOptions]) -> GroupInfo:
        """Make a group, or change what ``options`` name and keep the rest. Lowering a limit stops no job.

        Input
            name: 1 to 64 letters, digits, ``.``, ``_`` or ``-``.
            options: the attributes of ``GroupOptions``, which explains them, by their names. ``limit`` is the weight
                that may run at a time (``None``: unlimited, 0: closed). A change of ``fair_by`` orders jobs that come
                later; those that wait keep their ranks.

        Raises:
            InvalidArguments: an option is out of range, or the limit is below the weight of a waiting job.
            StateCorrupt: the file of the group is damaged or of a newer version; it is left as it is.
        """
        return await self._change_group(name, lambda group: attrs.evolve(group, **options), create=True)

    async def pause_group(self, name: str, *, until: datetime | None = None, reason: str | None = None) -> GroupInfo:
        """Admit no more jobs to a group, until a time or until ``resume_group``; running jobs go on.

        Raises:
            GroupNotFound: there is no such group.
        """
        until_ns = None if until is None else to_ns(until.astimezone(UTC))
        return await self._change_group(name, pause(until_ns, reason))

    async def resume_group(self, name: str, *, every: bool = False) -> GroupInfo:
        """End the pause that a user has made; other pauses stay. Without such a pause, end the only one.

        ``every``: end all pauses.

        Raises:
            GroupNotFound: there is no such group.
            InvalidArguments: several causes pause it, and none of them is the user.
        """
        self.access.check_open()
        info = await self.access.in_thread(lambda catalog: resume_group(catalog.index, name, every=every))
        self.launcher.waiting.check(changed=True)
        return info

    async def remove_group(self, name: str, *, to: str | None = None) -> None:
        """Remove a group; its waiting jobs move to the group ``to``, if that is given.

        They keep their other groups and their priorities, and are ordered among the jobs of ``to`` by their starts.

        Raises:
            GroupNotFound: there is no such group, or no group ``to``.
            GroupClosed: the limit of ``to`` is 0.
            InvalidArguments: jobs of it run, or wait and there is no ``to``; or ``to`` is the same group, or has a
                limit below the weight of a waiting job. In these cases, nothing was changed. If a job is started in
                the group at the same moment, the others may have moved.
        """
        self.access.check_open()
        await self.access.in_thread(lambda catalog: remove_group(catalog.index, name, to=to))
        self.launcher.waiting.check(changed=True)

    async def groups(self) -> tuple[GroupInfo, ...]:
        """Return the groups of the state root, by their names."""
        self.access.check_open()
        return await self.access.in_thread(lambda catalog: tuple(group_infos(catalog.index)))

    async def spend(
        self, by: str = "group", *, since: datetime | None = None, label: tuple[str, str] | None = None
    ) -> SpendReport:
        """Return what jobs have spent, also those that are deleted.

        A job counts when it has ended, and if its output has said what it has spent, or one of its groups has a budget.

        Input
            by: sum by ``group``, ``day``, ``session``, or the values of a label (``label:NAME``).
            since: count only jobs that have ended since this time, which has a time zone.
            label: count only jobs with this label, a name and a value.

        Raises:
            InvalidArguments: ``by`` is none of these, or ``since`` has no time zone.
            StateBusy: the records cannot be read now.
        """
        from supervisor.jobs.spend import spend  # few programs ask

        self.access.check_open()
        return await self.access.in_thread(lambda catalog: spend(catalog, by, since, label))

    async def _change_group(self, name: str, change: Callable[[Group], Group], *, create: bool = False) -> GroupInfo:
        self.access.check_open()
        info = await self.access.in_thread(lambda catalog: change_group(catalog.index, name, change, create=create))
        self.launcher.waiting.check(changed=True)
        return info

    # ------------------------------------------------------------ waiting jobs

    async def hold(self, job_id: str) -> Job:
        """Keep a waiting job from being launched until ``release``; a held one stays held.

        Any process may hold, release and move any job of the state root that waits.

        Raises:
            JobNotFound: there is no job of this id.
            JobRunning: it runs, or is about to be launched.
            InvalidArguments: it has ended.
        """
        return await self._change_place(lambda catalog: places.hold(catalog, job_id))

    async def release(self, job_id: str) -> Job:
        """End the hold of a waiting job. It is launched once it has to wait for nothing else.

        Raises:
            JobNotFound, JobRunning, InvalidArguments: as for ``hold``.
        """
        return await self._change_place(lambda catalog: places.release(catalog, job_id))

    async def move(self, job_id: str, *, priority: int | None = None, first: bool = False) -> Job:
        """Change the order of a waiting job among those in the same groups.

        Input
            priority: order it as if it had been started with this priority.
            first: put it before all others instead.

        Raises:
            InvalidArguments: neither or both are given, the priority is out of range, or the job has ended.
            JobNotFound, JobRunning: as for ``hold``.
        """
        return await self._change_place(lambda catalog: places.move(catalog, job_id, priority=priority, first=first))

    async def explain(self, job_id: str) -> Explanation:
        """Return why a job waits, with all that it waits for, or which evidence says that it runs or has ended.

        Raises:
            JobNotFound: there is no job of this id.
            StateBusy: some of the evidence cannot be read now.
        """
        self.access.check_open()
        from supervisor.jobs.explaining import explain  # some ms of a `supervisor start`, which explains nothing

        return await self.access.in_thread(lambda catalog: explain(catalog, job_id))

    async def _change_place(self, change: Callable[[Catalog], Job]) -> Job:
        self.access.check_open()
        job = await self.access.in_thread(change)
        row = await self._lookup.row(job.job_id)
        entry = self._registry.entries.get(job.job_id)
        if entry is not None and entry.pending is not None and not row.finished:  # its actor sees the end
            entry.row = row
        self.launcher.waiting.check(changed=True)
        return job
