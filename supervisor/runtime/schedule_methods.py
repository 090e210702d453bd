"""What a caller can ask of schedules: a part of ``Supervisor``.

Few programs have a schedule, so these methods import what they use when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, Unpack

from supervisor.jobs.catalog import Catalog
from supervisor.jobs.validation import spec_of
from supervisor.model import Job, JobOptions, JobSpec
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.lookup import Lookup
from supervisor.store.state_root import new_job_id

if TYPE_CHECKING:
    from supervisor.model.schedules import ScheduleInfo

__all__ = ["ScheduleMethods"]

_T = TypeVar("_T")


class ScheduleMethods:
    """The methods about schedules; ``Supervisor`` has the attributes."""

    access: StoreAccess
    launcher: Launcher
    _lookup: Lookup

    async def add_schedule(
        self,
        name: str,
        argv: Sequence[str] | JobSpec,
        *,
        cron: str,
        tz: str | None = None,
        overlap: str = "skip",
        catch_up: str = "latest",
        catch_up_window_seconds: float = 3600,
        jitter_seconds: float = 0,
        replace: bool = False,
        **options: Unpack[JobOptions],
    ) -> ScheduleInfo:
        """Add a schedule: a start that is repeated at the instants of a cron expression.

        Each instant starts one job, whichever processes are there, and however many. The schedule stays when the
        program ends; any supervisor of the state root fires it. Its environment (by default that of this process) and
        its input are kept on disk, in files that only the user can read.

        Input
            name: 1 to 64 letters, digits, ``.``, ``_`` or ``-``.
            argv, options: what it starts, as for ``start``. No idempotency key, dependency, delay or hold.
            cron: five fields, six with seconds first, or ``@hourly`` and the like.
            tz: the time zone of ``cron``, such as ``Europe/Berlin``; by default that of this machine.
            overlap: what an instant does while a job of the schedule has not ended: ``skip``, ``buffer_one``,
                ``cancel_other`` or ``allow_all``.
            catch_up: which instants are made up for that were missed: ``latest``, ``none`` or ``all``.
            catch_up_window_seconds: how old a missed instant may be that is made up for.
            jitter_seconds: each instant is delayed by up to this time, by the same in each process.
            replace: change a schedule that exists; its running jobs go on.

        Raises:
            InvalidArguments: an argument is wrong, the expression never fires, or there is a schedule of this name.
            GroupNotFound, GroupClosed: its jobs could never run.
            StateFull, StateBusy, PermissionDenied: it cannot be recorded.
        """
        from supervisor.admission.cron import local_zone
        from supervisor.jobs.schedules import add_schedule

        spec = spec_of(argv, options)

        def add(catalog: Catalog) -> ScheduleInfo:
            return add_schedule(
                catalog,
                name,
                spec,
                cron=cron,
                zone=local_zone() if tz is None else tz,
                overlap=overlap,
                catch_up=catch_up,
                window_seconds=catch_up_window_seconds,
                jitter_seconds=jitter_seconds,
                replace=replace,
            )

        return await self._in_thread(add)

    async def schedules(self) -> tuple[ScheduleInfo, ...]:
        """Return the schedules of the state root, by their names; ``detail`` says of one why it is not understood."""
        from supervisor.jobs.schedules import schedule_infos

        return await self._in_thread(lambda catalog: tuple(schedule_infos(catalog)))

    async def pause_schedule(self, name: str) -> ScheduleInfo:
        """Have a schedule start no jobs until ``resume_schedule``; its running jobs go on.

        Raises:
            ScheduleNotFound: there is no such schedule.
            StateCorrupt: its file is damaged or of a newer version.
        """
        from supervisor.jobs.schedules import pause_schedule

        return await self._in_thread(lambda catalog: pause_schedule(catalog, name))

    async def resume_schedule(self, name: str) -> ScheduleInfo:
        """Have a schedule start jobs again, from its next instant on. What it has missed is not made up for.

        Raises:
            ScheduleNotFound, StateCorrupt: as for ``pause_schedule``.
        """
        from supervisor.jobs.schedules import resume_schedule

        return await self._in_thread(lambda catalog: resume_schedule(catalog, name))

    async def run_schedule(self, name: str) -> Job:
        """Start the job of a schedule now, also while the schedule is paused or another job of it runs.

        Raises:
            ScheduleNotFound, StateCorrupt: as for ``pause_schedule``.
            SupervisorError: the job cannot be started, see ``start``.

        Cancellation
            As for ``start``.
        """
        from supervisor.jobs.scheduled import spec_of_schedule
        from supervisor.jobs.schedules import load_schedule, note_run
        from supervisor.store.schedule_files import Schedule, read_stdin

        def load(catalog: Catalog) -> tuple[Schedule, bytes | None, int]:
            schedule = load_schedule(catalog, name)
            return schedule, read_stdin(catalog.layout.root, schedule), catalog.layout.clock.wall_ns()

        schedule, stdin, now_ns = await self._in_thread(load)
        spec = spec_of_schedule(schedule, stdin, f"schedule:{name}:run:{new_job_id()}", now_ns, instant_ns=None)
        made = await self.launcher.begun(await self.launcher.begin(spec), spec)
        await self._in_thread(lambda catalog: note_run(catalog, name, made.job_id))
        return await self._lookup.status(made.job_id)

    async def remove_schedule(self, name: str) -> None:
        """Remove a schedule, with the environment and the input that are on disk; its jobs go on.

        Raises:
            ScheduleNotFound: there is no such schedule.
        """
        from supervisor.jobs.schedules import remove_schedule

        await self._in_thread(lambda catalog: remove_schedule(catalog, name))

    async def _in_thread(self, act: Callable[[Catalog], _T]) -> _T:
        self.access.check_open()
        return await self.access.in_thread(act)
