"""The supervisor for asyncio, uvloop included: ``open_supervisor_asyncio``."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, Generic, TypeVar

from supervisor.embedding.aio_methods import AsyncioSupervisorMethods
from supervisor.embedding.portal import Call, Portal, Source, nothing
from supervisor.engines.interface import Engine
from supervisor.runtime.opening import open_supervisor
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings

__all__ = ["AsyncioSupervisor", "open_supervisor_asyncio"]

_T = TypeVar("_T")
_DAY: Final = 86400


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _until_done(call: Call[Any]) -> None:
    """Wait on the running loop until a call is done."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    call.on_done(lambda: loop.call_soon_threadsafe(_set, future))
    await future


async def _until_done_or_withdrawn(call: Call[Any], withdraw: Callable[[Call[Any]], object] | None = None) -> None:
    """Wait until a call is done. When cancelled, ``withdraw`` it and wait on; when cancelled again, no longer."""
    try:
        await _until_done(call)
    except asyncio.CancelledError:
        if withdraw is not None:
            withdraw(call)
        await _until_done(call)
        raise


class _Items(Generic[_T]):
    """An async iterator over the items of a source."""

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
            await _until_done(self._pending)  # when this is cancelled the next call gets the item
            call, self._pending = self._pending, None
            return call.result()


class AsyncioSupervisor(AsyncioSupervisorMethods):
    """The interface of ``Supervisor`` for asyncio. Made by ``open_supervisor_asyncio``.

    Any task on any event loop may call any method until the block that opened it is left. Each method may raise
    ``SupervisorClosed`` as well.

    Cancellation
        Cancelling a call ends that call, in the Trio thread too, and never stops a job, except for ``run``. As in
        Trio the call returns when it has come to rest, which is at once unless it starts a job or waits for the
        disk. Cancelling it once more returns without waiting: the stop of a ``run`` goes on then, and a result that
        was being consumed may be lost. Neither closing the supervisor nor discarding the task of a ``run`` with its
        loop stops its job.
    """

    def __init__(self, portal: Portal[Supervisor]) -> None:
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
            await _until_done_or_withdrawn(call, self._portal.cancel)
        except GeneratorExit:  # the task was discarded, not cancelled: a job goes on
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
            await _until_done_or_withdrawn(source.opening, self._portal.cancel)
            source.opening.result()
            yield _Items(source)
        finally:
            source.close()

    @property
    def settings(self) -> Settings:
        """The settings it was opened with."""
        return self._portal.target.settings


class _Canary:
    """Stops the portal when the event loop is closed: a timer of the loop holds the only reference to it."""

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
        An exception of the block is raised as it is.

    Cancellation
        Leaves the block as any exception does: when the supervisor is closed, or at once if it is
        cancelled a second time.
    """
    portal = Portal(partial(open_supervisor, settings, engine=engine))
    canary = weakref.ref(_Canary(portal))
    try:
        opening: Call[None] = Call(nothing)
        portal.start(opening)
        await _until_done(opening)
        opening.result()
        yield AsyncioSupervisor(portal)
    finally:
        watching = canary()
        if watching is not None:
            watching.cancel()
        del watching
        ended: Call[None] = Call(nothing)
        portal.stop(ended)
        await _until_done_or_withdrawn(ended)
        portal.join()
    portal.check()
