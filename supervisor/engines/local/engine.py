"""The local engine: commands on this machine, run by a keeper.

The keeper launches commands, records and reaps them, and normally stops them. This side sends requests, receives
reports, and takes over when the keeper dies: then it watches jobs by the identity of their processes, reads exit
statuses from the kernel where it can, and ends their trees itself. An adopted job is watched in the same way.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any, Final

import attrs
import trio

from supervisor import log
from supervisor.engines.failed_launch import check_launch, recorded_end
from supervisor.engines.interface import LaunchRequest
from supervisor.engines.limits import Granted
from supervisor.engines.local import reconcile, stopping
from supervisor.engines.local.adopted import AdoptedJobs
from supervisor.engines.local.client import LocalClient
from supervisor.engines.local.keeper_client import KeeperClient
from supervisor.engines.local.keeper_connection import NO_ENVIRONMENT, KeeperConnection
from supervisor.engines.local.launching import LaunchDescriptors, close_all, launch_message
from supervisor.engines.local.limiting import KeeperLimits
from supervisor.engines.local.orders_in_memory import OrdersInMemory
from supervisor.engines.local.own_trees import Trees
from supervisor.engines.local.pidfds import Pidfds
from supervisor.engines.local.watching import Watched, Watcher
from supervisor.errors import LaunchFailed
from supervisor.jobdir import factories, records, validation
from supervisor.jobdir.facts import Ended, Launched
from supervisor.keeper import protocol, spawn
from supervisor.model import Exit, Limits
from supervisor.store.tickets import has_ticket
from supervisor.system import processes
from supervisor.system.backoff import Patience, until_known
from supervisor.system.notifier import Notifier
from supervisor.system.observing import NotKnown
from supervisor.worktrees.record import MEMBER as WORKTREE

__all__ = ["LocalEngine", "LocalRunning", "seconds_left"]

_LAUNCH_ATTEMPTS: Final = 3
_REPORTS: Final = (protocol.Launched, protocol.Exited, protocol.Failed)


def seconds_left(launched: Launched, deadline_seconds: float | None) -> float:
    """Return the time until the deadline of a job of this machine, by the boot clock if its deadline is known by that.

    The deadline runs from the launch.
    """
    if launched.held_since_boot_ns is not None:
        return math.inf
    if launched.deadline_boot_ns is not None:
        return (launched.deadline_boot_ns - processes.boottime_ns()) / 1e9
    if deadline_seconds is None or not launched.pid:
        return math.inf
    return deadline_seconds + (launched.moved_ns - time.time_ns() + launched.started_ns) / 1e9


@attrs.define(eq=False, kw_only=True)
class LocalRunning(Watched):
    """A command on this machine. Made by ``LocalEngine``."""

    queue_reason = None
    """Nothing waits here."""
    stop_seen = None
    """The job directory is on a local disk, so that each reader of the job reads the request itself."""

    engine: LocalEngine
    deadline_seconds: float | None
    request: LaunchRequest | None = None
    token: int = attrs.field(default=0, init=False)
    answered: trio.Event = attrs.field(init=False)
    failure: LaunchFailed | None = attrs.field(default=None, init=False)
    keeper_died: bool = attrs.field(default=False, init=False)
    stop_asked: str | None = attrs.field(default=None, init=False)
    watched: bool = attrs.field(default=False, init=False)

    async def started(self) -> None:
        """Launch it, unless that was begun before, and wait for the answer of its keeper.

        A keeper that stands still (stopped by SIGSTOP, hanging on a disk) is waited for, as it alone knows
        whether it has begun. Until it goes on the job is queued, and can be cancelled.
        """
        if self.request is not None:
            request, self.request = self.request, None
            try:
                await self.engine.launch(self, request)
            except LaunchFailed as failure:
                self.failure = failure
                self.begun.set()
            except trio.Cancelled:
                self.engine.leave_launch_open(self)
                raise
        if not self.begun.is_set():
            await self.begun.wait()
        if self.failure is not None:
            raise self.failure
        check_launch(self.ended)

    def seconds_left(self) -> float:
        """Return the time until its deadline."""
        return seconds_left(self.launched, self.deadline_seconds)

    async def wait(self) -> Ended:
        """Wait until the command and every process that a stop has to reach have ended."""
        if self.failure is not None and self.ended is None:
            self.set_ended(await recorded_end(self.directory, self.failure, reconcile.resolve))
        await self.finished.wait()
        assert self.ended is not None  # noqa: S101  # set right before the event
        return self.ended

    async def stop(self, why: str, by: str) -> None:
        """Have its tree ended."""
        await trio.lowlevel.checkpoint()
        self.engine.stop(self, why, by)


class LocalEngine:
    """Runs commands on this machine.

    Args:
        root: the state root, real path.
        python: the interpreter that runs the keeper; found by itself without.
        at_once: whether the keeper is started with the engine, and not with the first launch.
    """

    name = "local"
    on_this_machine = True
    opens_input = True

    def __init__(self, root: str, python: str | os.PathLike[str] | None = None, *, at_once: bool = False) -> None:
        """Prepare."""
        self._root = root
        self._at_once = at_once
        self._tokens = count(1)
        self._keeper = KeeperConnection(root, python, self._tokens, self._receive, self._keeper_died)
        self._nursery: trio.Nursery | None = None
        self._handles: dict[int, LocalRunning] = {}
        self._pidfds = Pidfds()
        self._notifier = Notifier()
        self._adopted = AdoptedJobs(self._notifier, self._watch_adopted)
        self._trees = Trees()
        self._watcher = Watcher(root, self._notifier, self._trees, self._pidfds)
        self._descriptors = LaunchDescriptors(root)
        self._orders = OrdersInMemory(self._keeper.connect)
        self._limits = KeeperLimits(self._keeper.connect)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the background work until cancelled; every command goes on then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._keeper.nursery = nursery
                nursery.start_soon(self._trees.serve)
                nursery.start_soon(self._notifier.serve)
                nursery.start_soon(self._adopted.serve)
                if self._at_once:
                    nursery.start_soon(self._prepare)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._keeper.close()
            self._pidfds.close_all()

    # ------------------------------------------------------------ launching

    def submit(self, request: LaunchRequest, accepted: Callable[[], None] = lambda: None) -> LocalRunning:
        """Return the command of a new job, which its ``started`` launches."""
        del accepted  # nothing is queued here
        return LocalRunning(
            engine=self,
            pidfds=self._pidfds,
            directory=request.directory,
            deadline_seconds=request.deadline_seconds,
            request=request,
        )

    async def hold(self, directory: str, orders: bytes) -> None:
        """Hold the orders of a waiting job in the memory of the keeper, see ``HoldsOrders``."""
        await self._orders.hold(next(self._tokens), self._name_of(directory), orders)

    async def check_limits(self, limits: Limits) -> Granted:
        """Return what the keeper does with the limits of a job, see ``LimitsJobs``."""
        return await self._limits.check(next(self._tokens), limits)

    async def make_worktree(self, request: LaunchRequest) -> None:
        """Make the worktree of a job, see ``MakesWorktrees``."""
        from supervisor.engines.local.worktree_launch import make_worktree  # few jobs need it

        await make_worktree(self._root, request)

    async def launch(self, handle: LocalRunning, request: LaunchRequest) -> None:
        """Have a keeper launch a command, or find out from the evidence whether one has.

        Raises:
            LaunchFailed: it was not launched and never will be.
        """
        if WORKTREE in request.record:
            try:
                await self.make_worktree(request)
            except (LaunchFailed, ImportError) as error:
                raise self._never(request.directory, error) from error
        for attempt in range(1, _LAUNCH_ATTEMPTS + 1):
            if await self._ask_for_launch(handle, request, final=attempt == _LAUNCH_ATTEMPTS):
                return

    def leave_launch_open(self, handle: LocalRunning) -> None:
        """Have the evidence decide whether a command was launched whose keeper is no longer asked."""
        self._handles.pop(handle.token, None)
        handle.owner_lives = lambda: True  # a stop rules that it never runs, and an observation must not rule before
        if self._nursery is not None:
            self._adopted.add(handle)

    def _name_of(self, directory: str) -> str:
        """Return the name of a job directory for a keeper, whose working directory is the state root."""
        below = directory.removeprefix(f"{self._root}/")
        return directory if below == directory else f"./{below}"

    async def _ask_for_launch(self, handle: LocalRunning, request: LaunchRequest, *, final: bool) -> bool:
        """Send one request to a keeper; return ``False`` when it provably has launched nothing."""
        try:
            if has_ticket(request.record):
                link = await self._keeper.connect_for_waiting(request.directory)
            else:
                link = await self._keeper.connect()
            descriptors = await self._descriptors.open(request)
        except (LaunchFailed, OSError, ImportError) as error:
            raise self._never(request.directory, error) from error
        if not link.alive:  # killed while it came up or while the workspace was opened: it was asked for nothing
            close_all(descriptors)
            if not final:
                return False
            message = "the keeper did not come up, or was killed again and again"
            repair = f"Try again, and see what kills it; {self._root}/keeper.log tells if it has noted that."
            raise self._never(request.directory, LaunchFailed(message, retryable=True, repair=repair))
        handle.token = next(self._tokens)
        handle.answered = trio.Event()
        handle.keeper_died = False
        self._handles[handle.token] = handle
        launch = launch_message(
            request,
            token=handle.token,
            directory=self._name_of(request.directory),
            environment=self._keeper.environment_for(link) if request.env is None else NO_ENVIRONMENT,
            descriptors=len(descriptors),
        )
        link.send(launch, tuple(descriptors))
        await handle.answered.wait()
        if handle.failure is not None:
            raise handle.failure
        return not handle.keeper_died or await self._after_keeper_died(handle, request, final=final)

    def _never(self, directory: str, error: Exception) -> LaunchFailed:
        """Rule that a job is never launched, as its launch has failed; return the error."""
        if isinstance(error, LaunchFailed):
            failure, repair, final = error, error.repair, not error.retryable
        else:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            filename = getattr(error, "filename", None)
            message = f"{filename}: {reason}" if filename else f"{reason}"
            failure, repair = LaunchFailed(message), None
            final = isinstance(error, OSError) and error.errno in spawn.NO_WORKSPACE
        with contextlib.suppress(OSError):
            if records.take_claim(directory, records.NOBODY):
                record = factories.launch_failure(failure.message, failure.exit_status, repair=repair, final=final)
                records.create(directory, records.EXIT, record)
        return failure

    async def _after_keeper_died(self, handle: LocalRunning, request: LaunchRequest, *, final: bool) -> bool:
        """Find out whether a launch that was never answered took place; return ``False`` when it did not."""
        try:
            if records.read_claim(request.directory) is None and not final:
                return False  # the next keeper may try, and its claim decides
            resolve = partial(reconcile.resolve, request.directory, owner_lives=False)
            observation = await trio.to_thread.run_sync(resolve)
        except OSError:
            self._watch(handle)  # which examines the evidence until it is known
            return True
        check_launch(observation.ended)
        if observation.launched is not None:
            handle.set_launched(observation.launched)
        self._watch(handle)
        return True

    async def _prepare(self) -> None:
        with contextlib.suppress(LaunchFailed):  # the first launch reports it
            await self._keeper.connect()

    # ------------------------------------------------------------ what the keeper says

    def _receive(self, message: protocol.Message) -> None:
        if not isinstance(message, _REPORTS):
            if isinstance(message, protocol.Held):
                self._orders.receive(message)
            elif isinstance(message, protocol.MissingLimits):
                self._limits.receive(message)
            return
        handle = self._handles.get(message.token)
        if handle is None:
            return
        if isinstance(message, protocol.Launched) and handle.begun.is_set():
            handle.refresh()
            return
        if isinstance(message, protocol.Launched):
            launched = Launched(
                pid=message.pid, started_ns=message.started_ns, deadline_boot_ns=message.deadline_boot_ns
            )
            handle.set_launched(launched, hold=True)
            handle.answered.set()
            return
        del self._handles[message.token]
        if isinstance(message, protocol.Exited):
            exit_ = Exit(
                exit_code=message.exit_code,
                signal=message.signal,
                ended_ns=message.ended_ns,
                cpu_seconds=message.cpu_seconds,
                max_rss_bytes=message.max_rss_bytes,
                memory_peak_bytes=message.memory_peak_bytes,
                **message.output,
            )
            handle.answered.set()
            cause = None if message.stopped != "budget" else stopping.cause_on_record(handle.directory)
            survivors = tuple(message.survivors)
            handle.set_ended(Ended(exit=exit_, stopped=message.stopped, survivors=survivors, cause=cause))
            return
        if message.claimed:  # by a process that took this one for dead, or cancelled the job: the evidence tells
            handle.keeper_died = True
        else:
            handle.failure = LaunchFailed(message.reason, exit_status=message.status)
        handle.answered.set()

    def _keeper_died(self, link: KeeperClient) -> None:
        if self._nursery is None:
            return  # this engine left
        handles, self._handles = self._handles, {}
        self._orders.lose()
        self._limits.lose()
        self._keeper.forget(link)
        log.warning("keeper_lost", keeper_pid=link.pid, jobs=len(handles))
        for handle in handles.values():
            handle.keeper_died = True
            if handle.answered.is_set():
                self._watch(handle)
            else:
                handle.answered.set()

    # ------------------------------------------------------------ adopting

    def client(self) -> LocalClient:
        """Return a new client."""
        return LocalClient()

    async def adopt(
        self,
        directory: str,
        launched: Launched | None,
        *,
        record: Mapping[str, Any] | None = None,
        owner_lives: Callable[[], bool] = lambda: False,
    ) -> LocalRunning:
        """Watch a command that another supervisor has launched, or is about to launch."""
        await trio.lowlevel.checkpoint()
        handle = LocalRunning(
            engine=self,
            pidfds=self._pidfds,
            directory=directory,
            deadline_seconds=(record or {}).get("deadline_seconds"),
            owner_lives=owner_lives,
        )
        with contextlib.suppress(NotKnown):  # its watcher finds it out later
            if launched is None or records.read_pause(directory):  # the row may not have it yet
                launched = validation.launch(directory) or launched
        if launched is not None:
            handle.set_launched(launched)
        if self._nursery is not None:
            self._adopted.add(handle)
        return handle

    def _watch_adopted(self, job: Watched) -> None:
        if isinstance(job, LocalRunning):
            self._watch(job)

    def _watch(self, handle: LocalRunning) -> None:
        # The keeper may die between its answer and the moment at which the task that waits for it goes on.
        if self._nursery is not None and not handle.watched:
            handle.watched = True
            self._nursery.start_soon(self._watcher.watch, handle)

    # ------------------------------------------------------------ stopping

    def stop(self, handle: LocalRunning, why: str, by: str) -> None:
        """End a tree: by its keeper if there is one, else from here."""
        over = handle.finished.is_set() or handle.failure is not None
        if self._nursery is None or over or handle.stop_asked is not None:
            return
        handle.stop_asked = why
        link = self._keeper.link
        if link is not None and handle.token in self._handles:
            link.send(protocol.Stop(token=handle.token, why=why, by=by))
            self._nursery.start_soon(self._stop_if_keeper_does_not, handle, why, by)
        else:
            self._nursery.start_soon(self._stop_without_link, handle, why, by)

    async def _stop_if_keeper_does_not(self, handle: LocalRunning, why: str, by: str) -> None:
        with trio.move_on_after(stopping.BACKSTOP_SECONDS):
            await handle.finished.wait()
            return
        if await until_known(handle.directory, lambda: stopping.is_signalled(handle.directory)):
            # The keeper has begun. If it does not finish, this process takes over.
            patience = stopping.seconds_of_grace(handle.directory) + stopping.BACKSTOP_SECONDS
            with trio.move_on_after(patience):
                await handle.finished.wait()
                return
        if stopping.refusal_of(handle.directory):
            return
        await self._trees.stop(handle.directory, why, by)
        if stopping.refusal_of(handle.directory):
            return
        if self._handles.pop(handle.token, None) is not None:
            self._watch(handle)  # its keeper may never say how it ended

    async def _stop_without_link(self, handle: LocalRunning, why: str, by: str) -> None:
        cancel = stopping.Cancel(handle.directory, by)
        not_known = Patience(handle.directory)
        while not handle.finished.is_set():
            try:
                tree = await trio.to_thread.run_sync(cancel.step, why)
            except OSError as error:  # a full disk, or it was forgotten, as its watcher will find
                patience = not_known.seconds(error)
                with contextlib.suppress(NotKnown):
                    if not isinstance(error, NotKnown) and validation.process(handle.directory):
                        await self._trees.stop(handle.directory, why, by)
                        return
                with trio.move_on_after(patience):
                    await handle.finished.wait()
                continue
            if cancel.refused:
                return
            if cancel.until is None:
                return  # it will not be launched, and its watcher finds the exit record
            if tree is not None:
                await self._trees.end(tree)
                return
            with trio.move_on_after(cancel.until - time.monotonic()):
                await handle.finished.wait()
