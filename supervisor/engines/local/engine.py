"""The local engine: commands on this machine, in the care of a keeper.

The keeper does the launching, recording, reaping and (normally) the stopping. This side asks,
listens, and takes over what the keeper leaves undone when it dies: then jobs are watched by
identity, their exit is read from the kernel where that is possible, and their trees are ended
from here. Watching a job that somebody else launched is the same thing.
"""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Final

import trio

from supervisor import log
from supervisor.engines.interface import Capabilities, LaunchRequest, Observation
from supervisor.engines.local import reconcile, stopping
from supervisor.engines.local.adopted import Kept, KeptJobs
from supervisor.engines.local.keeper_client import KeeperClient
from supervisor.engines.local.own_trees import Trees
from supervisor.errors import LaunchFailed
from supervisor.jobdir import factories, records, validation
from supervisor.jobdir.facts import Ended, Launched
from supervisor.keeper import protocol, spawn
from supervisor.model import Exit
from supervisor.system import processes
from supervisor.system.backoff import Patience, until_known
from supervisor.system.file_systems import on_network
from supervisor.system.hanging_calls import HangingCalls
from supervisor.system.inotify import CHANGED
from supervisor.system.notifier import Notifier
from supervisor.system.observing import NotKnown, identity_of

__all__ = ["LocalEngine", "LocalRunning"]

_LOOK_AGAIN_SECONDS: Final = 30.0
_LOOK_AT_OUTPUT_SECONDS: Final = 5.0
_LOOK_BLINDLY_SECONDS: Final = 0.2
_REAPED_SOON_SECONDS: Final = 0.05
_LAUNCH_ATTEMPTS: Final = 3
_NO_ENVIRONMENT: Final = 0


class LocalRunning:
    """A command on this machine. Made by ``LocalEngine``."""

    __slots__ = (
        "_engine",
        "answered",
        "directory",
        "ended",
        "failure",
        "finished",
        "keeper_died",
        "launched",
        "owner_lives",
        "pidfd",
        "poked",
        "stop_asked",
        "token",
        "unwatch",
        "watched",
    )

    def __init__(self, engine: LocalEngine, directory: str, token: int) -> None:
        self._engine = engine
        self.directory = directory
        self.token = token
        self.answered = trio.Event()
        self.finished = trio.Event()
        self.poked = trio.Event()
        self.launched = Launched(pid=0, started_ns=0)
        self.failure: LaunchFailed | None = None
        self.ended: Ended | None = None
        self.keeper_died = False
        self.owner_lives: Callable[[], bool] = lambda: False
        self.stop_asked: str | None = None
        self.pidfd: int | None = None
        self.watched = False
        self.unwatch: Callable[[], None] | None = None

    @property
    def queue_reason(self) -> str | None:
        """Nothing waits here."""
        return None

    @property
    def stop_seen(self) -> str | None:
        """Return nothing: the job directory is on a local disk, and tells whoever asks."""
        return None

    async def begun(self) -> None:
        """Wait until it was spawned: by the time that there is such an object, it was."""
        await trio.lowlevel.checkpoint()

    async def wait(self) -> Ended:
        """Wait until the command and everything that a stop has to reach have ended."""
        await self.finished.wait()
        assert self.ended is not None  # noqa: S101  # set right before the event
        return self.ended

    async def stop(self, why: str, by: str) -> None:
        """Ask for the tree to be ended."""
        await trio.lowlevel.checkpoint()
        self._engine.stop(self, why, by)

    def note_launch(self, launched: Launched) -> None:
        """Take what its keeper has recorded about its launch."""
        self.launched = launched
        if self.pidfd is None:
            self._engine.hold_pidfd(self, launched.pid)

    def poke(self) -> None:
        """Have the evidence looked at again."""
        self.poked.set()

    def set_ended(self, ended: Ended) -> None:
        """Note the end and wake who waits."""
        if self.unwatch is not None:
            self.unwatch()
            self.unwatch = None
        self.ended = ended
        self._engine.close_pidfd(self)
        self.finished.set()


class LocalEngine:
    """Runs commands on this machine.

    Args:
        root: the state root, real path.
        python: the interpreter that runs the keeper; found by itself without.
    """

    name = "local"
    capabilities = Capabilities()

    def __init__(self, root: str, python: str | os.PathLike[str] | None = None) -> None:
        """Prepare; the keeper is started with the first launch."""
        self._root = root
        self._root_identity = identity_of(root)
        self._python = python
        self._tokens = count(1)
        self._nursery: trio.Nursery | None = None
        self._link: KeeperClient | None = None
        self._linking = trio.Lock()
        self._handles: dict[int, LocalRunning] = {}
        self._environment: Mapping[bytes, bytes] | None = None
        self._environment_token = _NO_ENVIRONMENT
        self._holding: set[LocalRunning] = set()
        self._most_pidfds = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._notifier = Notifier()
        self._kept = KeptJobs(self._notifier, self._watch_kept_no_more)
        self._trees = Trees()
        self._slow_workspaces: dict[str, bool] = {}
        self._may_hang = HangingCalls()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the background work until cancelled; every command goes on then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._trees.serve)
                nursery.start_soon(self._notifier.serve)
                nursery.start_soon(self._kept.serve)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            if self._link is not None:
                self._link.close()
                self._link = None
            for handle in list(self._holding):
                self.close_pidfd(handle)

    # ------------------------------------------------------------ launching

    async def launch(self, request: LaunchRequest) -> LocalRunning:
        """Start a command. Cancelling the call leaves the launch to whoever looks next.

        A keeper that stands still (stopped by SIGSTOP, hanging on a disk) is waited for, as it alone knows
        whether it has begun. Until it goes on the job is queued, and can be cancelled.
        """
        for attempt in range(1, _LAUNCH_ATTEMPTS + 1):
            handle = await self._ask_for_launch(request, final=attempt == _LAUNCH_ATTEMPTS)
            if handle is not None:
                return handle
        raise AssertionError  # pragma: no cover  # the last attempt returns or raises

    def _name_of(self, directory: str) -> str:
        """Return the name of a job directory for a keeper, whose working directory is the state root."""
        below = directory.removeprefix(f"{self._root}/")
        return directory if below == directory else f"./{below}"

    async def _ask_for_launch(self, request: LaunchRequest, *, final: bool) -> LocalRunning | None:
        descriptors: list[int] = []
        try:
            link = await self._connect()
            descriptors.append(await self._open_workspace(request.workspace))
            if request.stdin is not None:
                descriptors.append(_stdin_file(request.stdin, self._root))
        except (LaunchFailed, OSError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise self._never(request.directory, error) from error
        if not link.alive:  # killed while it came up or while the workspace was opened: nothing was asked of it
            for descriptor in descriptors:
                os.close(descriptor)
            if not final:
                return None
            message = "the keeper did not come up, or was killed again and again"
            repair = f"Try again, and see what kills it; {self._root}/keeper.log tells if it has noted that."
            failure = LaunchFailed(message, retryable=True, repair=repair)
            raise self._never(request.directory, failure)
        handle = LocalRunning(self, request.directory, next(self._tokens))
        self._handles[handle.token] = handle
        mark = {processes.MARK: request.job_id.encode("ascii")}
        changes = {**(request.env or {}), **request.changes, **mark}
        token = self._environment_for(link) if request.env is None else _NO_ENVIRONMENT
        launch = protocol.Launch(
            token=handle.token,
            directory=self._name_of(request.directory),
            argv=list(request.argv),
            environment=token,
            changes=changes,
            deadline_seconds=request.deadline_seconds,
            grace_seconds=request.grace_seconds,
            output_limit=request.output_limit,
            stop_leftovers=request.stop_leftovers,
            descriptors=len(descriptors),
        )
        link.send(launch, tuple(descriptors))
        await handle.answered.wait()
        if handle.failure is not None:
            raise handle.failure
        if handle.keeper_died:
            return await self._after_keeper_died(handle, request, final=final)
        return handle

    def _never(self, directory: str, error: Exception) -> LaunchFailed:
        """Rule that a job will not be launched, since what its launch needs cannot be had."""
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

    async def _after_keeper_died(
        self,
        handle: LocalRunning,
        request: LaunchRequest,
        *,
        final: bool,
    ) -> LocalRunning | None:
        """Find out whether a launch that was never answered took place; ``None`` means it did not."""
        try:
            if records.read_claim(request.directory) is None and not final:
                return None  # provably not: the next keeper may try, and its claim decides
            seen = await trio.to_thread.run_sync(self.observe_unowned, request.directory)
        except OSError:
            self._watch(handle)  # which looks until it can be known
            return handle
        if seen.ended is not None and seen.ended.exit.launch_error is not None:
            raise LaunchFailed(seen.ended.exit.launch_error, exit_status=seen.ended.exit.launch_status or 125)
        if seen.launched is not None:
            handle.launched = seen.launched
        self._watch(handle)
        return handle

    async def _connect(self) -> KeeperClient:
        link = self._link
        if link is not None and link.alive:
            return link
        async with self._linking:
            if self._link is not None and self._link.alive:
                return self._link
            if self._nursery is None:
                message = "the engine is not being served"
                raise LaunchFailed(message)
            link = KeeperClient(self._receive, self._keeper_died, self._python)
            await link.start(self._root, self._nursery)
            if not link.alive:
                return link
            link.send(protocol.SetEnvironment(token=_NO_ENVIRONMENT, variables={}))
            self._environment = None
            self._link = link
            log.debug("keeper_started", keeper_pid=link.pid)
            return link

    def _environment_for(self, link: KeeperClient) -> int:
        """Return the token under which the keeper knows our environment as it is now."""
        current = _environment()
        if current != self._environment:
            if self._environment_token != _NO_ENVIRONMENT and self._environment is not None:
                link.send(protocol.DropEnvironment(token=self._environment_token))
            self._environment = dict(current)
            self._environment_token = next(self._tokens)
            link.send(protocol.SetEnvironment(token=self._environment_token, variables=self._environment))
        return self._environment_token

    async def _open_workspace(self, path: str) -> int:
        slow = self._slow_workspaces.get(path)
        if slow is None:
            slow = self._slow_workspaces[path] = await trio.to_thread.run_sync(on_network, path)
            if len(self._slow_workspaces) > 1000:
                self._slow_workspaces.clear()
        flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
        if slow:  # a hung mount must not stall the event loop, nor the keeper
            return await self._may_hang.run(path, os.open, path, flags)
        return os.open(path, flags)

    # ------------------------------------------------------------ what the keeper says

    def _receive(self, message: protocol.Message) -> None:
        if not isinstance(message, protocol.Launched | protocol.Exited | protocol.Failed):
            return
        handle = self._handles.get(message.token)
        if handle is None:
            return
        if isinstance(message, protocol.Launched):
            pid, started_ns = message.pid, message.started_ns
            handle.launched = Launched(pid=pid, started_ns=started_ns, deadline_boot_ns=message.deadline_boot_ns)
            self.hold_pidfd(handle, pid)
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
                **message.output,
            )
            handle.answered.set()
            handle.set_ended(Ended(exit=exit_, stopped=message.stopped, survivors=tuple(message.survivors)))
            return
        if message.claimed:  # by a process that took this one for dead, or cancelled the job: the evidence tells
            handle.keeper_died = True
        else:
            handle.failure = LaunchFailed(message.reason, exit_status=message.status)
        handle.answered.set()

    def _keeper_died(self, link: KeeperClient) -> None:
        if self._nursery is None:
            return  # it is we who left
        handles, self._handles = self._handles, {}
        if self._link is link:
            self._link = None
        log.warning("keeper_lost", keeper_pid=link.pid, jobs=len(handles))
        for handle in handles.values():
            handle.keeper_died = True
            if handle.answered.is_set():
                self._watch(handle)
            else:
                handle.answered.set()

    def hold_pidfd(self, handle: LocalRunning, pid: int) -> None:
        """Hold on to the process, so that its exit status can be read even after somebody else reaped it."""
        if len(self._holding) >= self._most_pidfds or not hasattr(os, "pidfd_open"):
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return
        with contextlib.suppress(OSError):
            # Not reaped yet, as its keeper would have said so; a stranger that has the pid already
            # would have to lead a session as well.
            if os.getsid(pid) == pid:
                handle.pidfd = descriptor
                self._holding.add(handle)
                return
        os.close(descriptor)

    def close_pidfd(self, handle: LocalRunning) -> None:
        """Let go of a process."""
        if handle.pidfd is not None:
            with contextlib.suppress(Exception):
                trio.lowlevel.notify_closing(handle.pidfd)
            os.close(handle.pidfd)
            handle.pidfd = None
            self._holding.discard(handle)

    # ------------------------------------------------------------ watching by identity

    def observe(self, directory: str, *, owner_lives: bool, launched: bool = False) -> Observation:
        """Look at the evidence."""
        return reconcile.resolve(directory, owner_lives=owner_lives, launched=launched)

    def observe_unowned(self, directory: str) -> Observation:
        """Look at the evidence of a job that nobody else takes care of."""
        return self.observe(directory, owner_lives=False)

    async def adopt(
        self,
        directory: str,
        launched: Launched | None,
        *,
        owner_lives: Callable[[], bool] = lambda: False,
    ) -> LocalRunning:
        """Watch a command that somebody else has launched, or is about to."""
        await trio.lowlevel.checkpoint()
        handle = LocalRunning(self, directory, next(self._tokens))
        handle.owner_lives = owner_lives
        with contextlib.suppress(NotKnown):  # its watcher tells later
            launched = launched or validation.launch(directory)  # the row may not know of it yet
        if launched is not None:
            handle.launched = launched
        handle.answered.set()
        if self._nursery is not None:
            self._kept.add(handle)
        return handle

    def _watch_kept_no_more(self, handle: Kept) -> None:
        if isinstance(handle, LocalRunning):
            self._watch(handle)

    def _watch(self, handle: LocalRunning) -> None:
        # The keeper may die between its answer and the moment at which whoever waits for that goes on.
        if self._nursery is not None and not handle.watched:
            handle.watched = True
            self._nursery.start_soon(self._watch_by_identity, handle)

    async def _watch_by_identity(self, handle: LocalRunning) -> None:
        watched: set[tuple[int, int]] = set()
        ended: Ended | None = None
        not_known = Patience(handle.directory)
        with self._notifier.watching(handle.directory, CHANGED, handle.poke) as told:
            async with trio.open_nursery() as pokers:
                while ended is None:
                    handle.poked = trio.Event()
                    try:
                        seen = await trio.to_thread.run_sync(self._look, handle)
                    except OSError as error:  # one job's trouble is not that of all others
                        if self._is_forgotten(handle.directory):
                            ended = Ended(exit=Exit(ended_ns=time.time_ns()))
                            break
                        await trio.sleep(not_known.seconds(error))  # a full disk, no descriptors left: it may pass
                        continue
                    not_known.over()
                    ended = seen.ended
                    if ended is not None:
                        break
                    if seen.launched is not None:
                        handle.launched = seen.launched
                    if seen.to_stop is not None:
                        await self._trees.stop(handle.directory, seen.to_stop, "nobody else was there")
                        continue
                    patience = _LOOK_AT_OUTPUT_SECONDS if seen.unkept else _LOOK_AGAIN_SECONDS
                    try:
                        blind = self._watch_processes(handle, watched, pokers)
                    except NotKnown:
                        blind = True
                    if blind or not told:
                        patience = _LOOK_BLINDLY_SECONDS
                    with trio.move_on_after(patience):
                        await handle.poked.wait()
                pokers.cancel_scope.cancel()
        handle.set_ended(ended)

    def _is_forgotten(self, directory: str) -> bool:
        """Whether a job was settled and forgotten by another process, and not moved away with the whole state root."""
        try:
            return records.is_gone(directory) and identity_of(self._root) == self._root_identity
        except NotKnown:
            return False

    def _look(self, handle: LocalRunning) -> Observation:
        def reaped_status() -> int | None:
            return None if handle.pidfd is None else processes.exit_status_of_pidfd(handle.pidfd)

        return reconcile.resolve(
            handle.directory,
            owner_lives=handle.owner_lives(),
            launched=handle.launched.pid != 0,
            reaped_status=reaped_status,
        )

    def _watch_processes(self, handle: LocalRunning, watched: set[tuple[int, int]], pokers: trio.Nursery) -> bool:
        """See to it that the end of the leader or of its keeper pokes; ``True`` where it cannot be had."""
        process = records.read(handle.directory, records.PROCESS)
        if not process:
            return True
        blind = False
        for pid, start in (("pid", "start"), ("keeper_pid", "keeper_start")):
            identity = (process.get(pid), process.get(start))
            if identity in watched or not isinstance(identity[0], int) or not isinstance(identity[1], int):
                continue
            leader = pid == "pid"
            descriptor = handle.pidfd if leader and handle.pidfd is not None else None
            if descriptor is None and len(self._holding) < self._most_pidfds:
                descriptor = processes.open_pidfd(identity[0], identity[1])
                if descriptor is not None and leader:
                    handle.pidfd = descriptor
                    self._holding.add(handle)
            if descriptor is None:
                blind |= processes.is_alive(identity[0], identity[1])
                continue
            watched.add((identity[0], identity[1]))
            pokers.start_soon(self._poke_at_end, handle, descriptor, leader)
        return blind

    async def _poke_at_end(self, handle: LocalRunning, descriptor: int, leader: bool) -> None:  # noqa: FBT001
        try:
            await trio.lowlevel.wait_readable(descriptor)
            if leader and processes.exit_status_of_pidfd(descriptor) is None:
                # A zombie: its status can be read as it is, or a moment later from the pidfd.
                await trio.sleep(_REAPED_SOON_SECONDS)
        except trio.ClosedResourceError:
            return
        finally:
            if not leader:
                os.close(descriptor)
        handle.poke()

    # ------------------------------------------------------------ stopping

    def stop(self, handle: LocalRunning, why: str, by: str) -> None:
        """See to it that a tree is ended: by its keeper if there is one, else from here."""
        if self._nursery is None or handle.finished.is_set() or handle.stop_asked is not None:
            return
        handle.stop_asked = why
        if self._link is not None and handle.token in self._handles:
            self._link.send(protocol.Stop(token=handle.token, why=why, by=by))
            self._nursery.start_soon(self._stop_if_keeper_does_not, handle, why, by)
        else:
            self._nursery.start_soon(self._stop_without_link, handle, why, by)

    async def _stop_if_keeper_does_not(self, handle: LocalRunning, why: str, by: str) -> None:
        with trio.move_on_after(stopping.BACKSTOP_SECONDS):
            await handle.finished.wait()
            return
        if await until_known(handle.directory, lambda: stopping.is_signalled(handle.directory)):
            # It is at it. If it falls silent before the end, that is our business again.
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
            except OSError as error:  # a full disk, or it was forgotten: whoever watches sees that too
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
                return  # it will not be launched, and whoever watches sees the exit record
            if tree is not None:
                await self._trees.end(tree)
                return
            with trio.move_on_after(cancel.until - time.monotonic()):
                await handle.finished.wait()


def _environment() -> Mapping[bytes, bytes]:
    # os.environb copies itself entry by entry, which is a tenth of a launch; what it wraps is a dict.
    held: Mapping[bytes, bytes] | None = getattr(os.environb, "_data", None)
    return dict(os.environb) if held is None else held


def _stdin_file(content: bytes, root: str) -> int:
    """Return a descriptor from which ``content`` and then the end of file are read."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix=".stdin-", dir=root)
        os.unlink(path)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
