"""Watching one command whose keeper does not report its end to this process: by its records and its pidfds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import trio

from supervisor.engines.interface import Observation
from supervisor.engines.local import reconcile
from supervisor.engines.local.own_trees import Trees
from supervisor.engines.local.pidfds import Pidfds
from supervisor.jobdir import records, validation
from supervisor.jobdir.facts import Ended, Launched
from supervisor.model import Exit
from supervisor.system import pidfd, processes
from supervisor.system.backoff import Patience
from supervisor.system.inotify import CHANGED
from supervisor.system.notifier import Notifier
from supervisor.system.observing import NotKnown, identity_of

__all__ = ["Watched", "Watcher"]

_CHECK_SECONDS: Final = 30.0
_CHECK_OUTPUT_SECONDS: Final = 5.0
_CHECK_BLINDLY_SECONDS: Final = 0.2
_REAPED_SOON_SECONDS: Final = 0.05
_NOT_LAUNCHED: Final = Launched(pid=0, started_ns=0)


@attrs.define(eq=False, kw_only=True)
class Watched:
    """A command of this machine: what is known of it, and the events that report more."""

    directory: str
    pidfds: Pidfds
    owner_lives: Callable[[], bool] = lambda: False
    launched: Launched = _NOT_LAUNCHED
    changed: Callable[[], object] | None = attrs.field(default=None, init=False)
    begun: trio.Event = attrs.field(factory=trio.Event, init=False)
    ended: Ended | None = attrs.field(default=None, init=False)
    finished: trio.Event = attrs.field(factory=trio.Event, init=False)
    poked: trio.Event | None = attrs.field(default=None, init=False)
    pidfd: int | None = attrs.field(default=None, init=False)
    unwatch: Callable[[], None] | None = attrs.field(default=None, init=False)

    def set_launched(self, launched: Launched, *, hold: bool = False) -> None:
        """Record the launch; ``hold``: the process has not been reaped, so that a pidfd of it can be opened."""
        before, self.launched = self.launched, launched
        self.begun.set()
        if self.changed is not None and before.pid and before != launched:
            self.changed()
        if hold and self.pidfd is None:
            self.pidfd = self.pidfds.of_launched(launched.pid)

    def refresh(self) -> None:
        """Read again whether it is paused, and when its deadline falls."""
        with contextlib.suppress(NotKnown):  # its watcher finds it out later
            if (launched := validation.launch(self.directory)) is not None:
                self.set_launched(launched)

    def poke(self) -> None:
        """Have the evidence examined again."""
        if self.poked is not None:
            self.poked.set()

    def set_ended(self, ended: Ended) -> None:
        """Record the end and wake the tasks that wait for it."""
        if self.unwatch is not None:
            self.unwatch()
            self.unwatch = None
        self.ended = ended
        if self.pidfd is not None:
            self.pidfds.close(self.pidfd)
            self.pidfd = None
        self.begun.set()
        self.finished.set()


class Watcher:
    """Watches commands until their ends, each in a task of its own.

    Args:
        root: the state root, real path.
        notifier: reports changes in job directories.
        trees: ends the trees of jobs that have no keeper.
        pidfds: holds the leaders.
    """

    def __init__(self, root: str, notifier: Notifier, trees: Trees, pidfds: Pidfds) -> None:
        self._root = root
        self._root_identity = identity_of(root)
        self._notifier = notifier
        self._trees = trees
        self._pidfds = pidfds

    async def watch(self, job: Watched) -> None:
        """Wait for the end of a command, stop it if it has to be stopped and has no keeper, and record its end."""
        followed: set[tuple[int, int]] = set()
        ended: Ended | None = None
        not_known = Patience(job.directory)
        with self._notifier.watching(job.directory, CHANGED, job.poke) as notified:
            async with trio.open_nursery() as pokers:
                while ended is None:
                    poked = job.poked = trio.Event()
                    try:
                        observation = await trio.to_thread.run_sync(self._observe, job)
                    except OSError as error:  # a full disk, no descriptors left: it may pass, and other jobs go on
                        if self._is_forgotten(job.directory):
                            ended = Ended(exit=Exit(ended_ns=time.time_ns()))
                            break
                        await trio.sleep(not_known.seconds(error))
                        continue
                    not_known.over()
                    if observation.launched is not None:
                        job.set_launched(observation.launched)
                    ended = observation.ended
                    if ended is not None:
                        break
                    if observation.to_stop is not None:
                        await self._trees.stop(job.directory, observation.to_stop, "nobody else was there")
                        continue
                    patience = _CHECK_OUTPUT_SECONDS if observation.unkept else _CHECK_SECONDS
                    try:
                        blind = self._follow_processes(job, followed, pokers)
                    except NotKnown:
                        blind = True
                    if blind or not notified:
                        patience = _CHECK_BLINDLY_SECONDS
                    with trio.move_on_after(patience):
                        await poked.wait()
                pokers.cancel_scope.cancel()
        job.set_ended(ended)

    def _is_forgotten(self, directory: str) -> bool:
        """Whether another process has forgotten a job; a state root that was moved away has forgotten none."""
        try:
            return records.is_gone(directory) and identity_of(self._root) == self._root_identity
        except NotKnown:
            return False

    @staticmethod
    def _observe(job: Watched) -> Observation:
        def reaped_status() -> int | None:
            return None if job.pidfd is None else pidfd.exit_status_of(job.pidfd)

        return reconcile.resolve(
            job.directory,
            owner_lives=job.owner_lives(),
            launched=job.launched.pid != 0,
            reaped_status=reaped_status,
        )

    def _follow_processes(self, job: Watched, followed: set[tuple[int, int]], pokers: trio.Nursery) -> bool:
        """Have the ends of the leader and of its keeper poke; return ``True`` where that is not possible."""
        process = records.read(job.directory, records.PROCESS)
        if not process:
            return True
        blind = False
        if (leader := _identity(process, "pid", "start")) is not None and leader not in followed:
            if job.pidfd is None:
                job.pidfd = self._pidfds.of_process(*leader)
            if job.pidfd is None:
                blind |= processes.is_alive(*leader)
            else:
                followed.add(leader)
                pokers.start_soon(self._poke_at_leaders_end, job, job.pidfd)
        if (keeper := _identity(process, "keeper_pid", "keeper_start")) is not None and keeper not in followed:
            descriptor = self._pidfds.of_process(*keeper)
            if descriptor is None:
                blind |= processes.is_alive(*keeper)
            else:
                followed.add(keeper)
                pokers.start_soon(self._poke_at_keepers_end, job, descriptor)
        return blind

    @staticmethod
    async def _poke_at_leaders_end(job: Watched, descriptor: int) -> None:
        try:
            await trio.lowlevel.wait_readable(descriptor)
        except trio.ClosedResourceError:
            return
        if pidfd.exit_status_of(descriptor) is None:
            # A zombie: its status can be read as it is, or a moment later from the pidfd.
            await trio.sleep(_REAPED_SOON_SECONDS)
        job.poke()

    async def _poke_at_keepers_end(self, job: Watched, descriptor: int) -> None:
        try:
            await trio.lowlevel.wait_readable(descriptor)
            job.poke()
        finally:
            self._pidfds.close(descriptor)


def _identity(process: Mapping[str, Any], pid: str, start: str) -> tuple[int, int] | None:
    number, ticks = process.get(pid), process.get(start)
    return (number, ticks) if isinstance(number, int) and isinstance(ticks, int) else None
