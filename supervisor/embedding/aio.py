"""The supervisor for asyncio, uvloop included: ``open_supervisor_asyncio``."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, Generic, TypeVar, Unpack, overload

from supervisor.embedding.portal import Call, Portal, Source, nothing
from supervisor.engines.interface import Engine
from supervisor.jobs.validation import spec_of
from supervisor.metrics import Metrics
from supervisor.model import Job, JobEvent, JobOptions, JobPage, JobSpec, Result
from supervisor.runtime.opening import open_supervisor
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings

__all__ = ["AsyncioSupervisor", "open_supervisor_asyncio"]

_T = TypeVar("_T")
_DAY: Final = 86400


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _settled(call: Call[Any]) -> None:
    """Wait on the running loop until a call is settled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    call.on_settled(lambda: loop.call_soon_threadsafe(_set, future))
    await future


async def _settled_even_so(call: Call[Any], withdraw: Callable[[Call[Any]], object] | None = None) -> None:
    """Wait until a call is settled. When cancelled, ``withdraw`` it and wait on; when cancelled again, no longer."""
    try:
        await _settled(call)
    except asyncio.CancelledError:
        if withdraw is not None:
            withdraw(call)
        await _settled(call)
        raise


class _Items(Generic[_T]):
    """An async iterator over what a source gives."""

    def __init__(self, source: Source[_T]) -> None:
        self._source = source
        self._turn = asyncio.Lock()
        self._pending: Call[_T] | None = None

    def __aiter__(self) -> _Items[_T]:
        return self

    async def __anext__(self) -> _T:
        async with self._turn:
            if self._pending is None:
                self._pending = self._source.fetch()
            await _settled(self._pending)  # when this is cancelled the item is for whoever comes next
            call, self._pending = self._pending, None
            return call.result()


class AsyncioSupervisor:
    """What ``Supervisor`` is in Trio, awaited from asyncio. Made by ``open_supervisor_asyncio``.

    Each method takes, returns and raises what the one of the same name of ``Supervisor`` does,
    whose documentation holds; beside that any may raise ``SupervisorClosed``. All may be called from
    any task, on any event loop, as long as the block that opened it is not left.

    Cancellation
        Cancelling a call ends that call, in the Trio thread too, and nothing else: never a job,
        except for ``run``. As in Trio it returns when the call has come to rest, which is at once
        unless a job was just being started or the disk is waited for. Cancelling it once more
        leaves without waiting.
    """

    def __init__(self, portal: Portal[Supervisor]) -> None:
        """Speak through an open portal."""
        self._portal = portal

    async def _ask(
        self,
        ask: Callable[[Supervisor], Awaitable[_T]],
        at_once: Callable[[Supervisor], _T | None] | None = None,
        *,
        scoped: bool = False,
    ) -> _T:
        quick = None if at_once is None else lambda: at_once(self._portal.target)
        call = Call(lambda: ask(self._portal.target), quick)
        self._portal.submit(call)
        try:
            await _settled_even_so(call, self._portal.cancel)
        except GeneratorExit:  # the task was thrown away, not cancelled: a job goes on
            if not scoped:
                self._portal.cancel(call)
            raise
        return call.result()

    @asynccontextmanager
    async def _open(
        self,
        enter: Callable[[Supervisor], AbstractAsyncContextManager[AsyncIterator[_T]]],
    ) -> AsyncGenerator[AsyncIterator[_T]]:
        source = Source(self._portal, lambda: enter(self._portal.target))
        self._portal.submit(source.opening)
        try:
            await _settled_even_so(source.opening, self._portal.cancel)
            source.opening.result()
            yield _Items(source)
        finally:
            source.close()

    @property
    def settings(self) -> Settings:
        """The settings it was opened with."""
        return self._portal.target.settings

    @overload
    async def start(self, argv: JobSpec) -> Job: ...

    @overload
    async def start(self, argv: Sequence[str], **options: Unpack[JobOptions]) -> Job: ...

    async def start(self, argv: Sequence[str] | JobSpec, **options: Unpack[JobOptions]) -> Job:
        """Start a command as a job and return as soon as it runs (or provably never will).

        Input and errors are those of ``Supervisor.start``.

        Cancellation
            Is delivered before anything was done, or after the job was started and recorded. The
            job, whose id the caller does not know then, goes on; an idempotency key finds it again.
        """
        return await self._ask(
            lambda sup: sup.start(
                spec_of(argv, options),
            ),
        )

    @overload
    async def run(self, argv: JobSpec) -> Result: ...

    @overload
    async def run(self, argv: Sequence[str], **options: Unpack[JobOptions]) -> Result: ...

    async def run(self, argv: Sequence[str] | JobSpec, **options: Unpack[JobOptions]) -> Result:
        """Start a command, wait for its end and return its result: the scoped twin of ``start``.

        Takes what ``start`` takes and raises what it raises.

        Cancellation
            Stops the job and waits for that, its grace and a little more at most; a second one
            leaves at once, and the stop goes on. A supervisor that is closed under it, or a task
            that is thrown away with its loop, does not stop the job.
        """
        return await self._ask(
            lambda sup: sup.run(
                spec_of(argv, options),
            ),
            scoped=True,
        )

    async def status(self, job_id: str) -> Job:
        """Return a job as it is now.

        Raises:
            JobNotFound: none of this id is kept.
        """
        return await self._ask(lambda sup: sup.status(job_id), lambda sup: sup.glance(job_id))

    async def list(
        self,
        workspace: str | os.PathLike[str] | None = None,
        state: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> JobPage:
        """Return a page of jobs, newest first; input and errors are those of ``Supervisor.list``."""
        return await self._ask(lambda sup: sup.list(workspace, state, limit, cursor, labels))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until a job has ended, and return it.

        ``timeout`` is in seconds; ``asyncio.timeout`` around the call does as well. Nothing is polled.

        Raises:
            JobNotFound: none of this id is kept.
            JobRunning: ``timeout`` seconds have passed and it has not ended.
        """
        return await self._ask(lambda sup: sup.wait(job_id, timeout))

    async def result(self, job_id: str, consume: bool = False, detail: str | None = None) -> Result:  # noqa: FBT001, FBT002
        """Return the result of a finished job; input and errors are those of ``Supervisor.result``.

        Cancellation
            A result that was just being consumed may be gone.
        """
        return await self._ask(lambda sup: sup.result(job_id, consume, detail))

    async def metrics(self) -> Metrics:
        """Return what this supervisor has done since it was opened, and what it is at now."""
        return await self._ask(lambda sup: sup.metrics())

    async def cancel(self, job_id: str) -> Job:
        """Stop a job, and return it when nothing of it is left; a finished one is returned unchanged.

        Raises:
            JobNotFound: none of this id is kept.
            JobElsewhere: it runs on another host or in another pid namespace.

        Cancellation
            Does not take the request back.
        """
        return await self._ask(lambda sup: sup.cancel(job_id))

    async def forget(self, job_id: str) -> None:
        """Forget a finished job now.

        Raises:
            JobRunning: it has not ended; cancel it first.
            JobNotFound: none of this id is kept.
        """
        return await self._ask(lambda sup: sup.forget(job_id))

    async def prune(self, workspace: str | os.PathLike[str] | None = None) -> Sequence[str]:
        """Forget what has expired or is beyond the cap, in one workspace or in all; returns the ids."""
        return await self._ask(lambda sup: sup.prune(workspace))

    def events(self, job_id: str | None = None) -> AbstractAsyncContextManager[AsyncIterator[JobEvent]]:
        """Subscribe to changes of state and progress, of one job or of all in this supervisor's care.

        Gives an async iterator of ``JobEvent``, of bounded memory: a reader that is too slow misses
        the oldest, is told how many (``lagged``), and never delays anybody. Cancelling a wait for the
        next one loses none, so that ``asyncio.wait_for(anext(events), 1)`` is safe.
        """
        return self._open(lambda sup: sup.events(job_id))

    def follow(self, job_id: str, stream: str = "stdout") -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read what a job writes, from the beginning, as it is written.

        Gives an async iterator of ``bytes``, at most 64 KiB each, that ends when the job has ended
        and everything was read. Nothing is read ahead, and cancelling a wait for the next bytes loses none.

        Raises:
            JobNotFound: none of this id is kept.
            InvalidArguments: ``stream`` is neither ``"stdout"`` nor ``"stderr"``.
        """
        return self._open(lambda sup: sup.follow(job_id, stream))


class _Canary:
    """Lives in a timer of an event loop, and nowhere else: when the loop is closed it dies, and tells."""

    def __init__(self, portal: Portal[Supervisor]) -> None:
        self._portal = portal
        self._wait()

    def _wait(self) -> None:
        self._handle = weakref.ref(asyncio.get_running_loop().call_later(_DAY, self._wait))

    def cancel(self) -> None:
        handle = self._handle()
        if handle is not None:
            handle.cancel()

    def __del__(self) -> None:
        self._portal.stop()


@asynccontextmanager
async def open_supervisor_asyncio(
    settings: Settings | None = None,
    *,
    engine: Engine | None = None,
) -> AsyncGenerator[AsyncioSupervisor]:
    """Open a state root from asyncio: an async context manager that gives an ``AsyncioSupervisor``.

    Input
        settings: ``None`` reads them from the environment.
        engine: how commands are run; ``None`` is the local engine.

    The supervisor runs in Trio, on a thread of its own, which ends with the block; it ends as
    well when the event loop is closed without leaving the block, and at interpreter exit. In each
    case running jobs go on, and can be asked about from anywhere. No signal handler, child watcher
    or event-loop policy is touched. After ``os.fork()`` every call in the child raises
    ``SupervisorClosed``, and leaving the block there does nothing.

    Errors
        InvalidSettings: a setting does not parse.
        StateUnsafe, PermissionDenied, StateFull, StateBusy: the state root cannot be used.
        InternalError: at the end of the block, if the supervisor broke down during it; calls raise it too.
        What the block raises comes out as it is.

    Cancellation
        Leaves the block as any exception does: when the supervisor is closed, or at once if it is
        cancelled a second time.
    """
    portal = Portal(partial(open_supervisor, settings, engine=engine))
    canary = weakref.ref(_Canary(portal))
    try:
        opening: Call[None] = Call(nothing)
        portal.start(opening)
        await _settled(opening)
        opening.result()
        yield AsyncioSupervisor(portal)
    finally:
        watching = canary()
        if watching is not None:
            watching.cancel()
        del watching
        ended: Call[None] = Call(nothing)
        portal.stop(ended)
        await _settled_even_so(ended)
        portal.join()
    portal.check()
