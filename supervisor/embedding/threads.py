"""The supervisor for plain threads: ``BlockingSupervisor``."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, Generic, Self, TypeVar

from supervisor.embedding.portal import Call, Portal, Source, nothing
from supervisor.embedding.thread_methods import BlockingSupervisorMethods
from supervisor.engines.interface import Engine
from supervisor.errors import SupervisorClosed
from supervisor.runtime.opening import open_supervisor
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings

__all__ = ["BlockingSupervisor"]

_T = TypeVar("_T")


def _until_done(call: Call[Any]) -> None:
    """Wait in this thread until a call is done."""
    event = threading.Event()
    call.on_done(event.set)
    event.wait()


def _until_done_or_withdrawn(call: Call[Any], withdraw: Callable[[Call[Any]], object] | None = None) -> None:
    """Wait until a call is done. When interrupted, ``withdraw`` it and wait on; the next time, no longer."""
    try:
        _until_done(call)
    except BaseException:
        if withdraw is not None:
            withdraw(call)
        _until_done(call)
        raise


class _Items(Generic[_T]):
    """An iterator over the items of a source."""

    def __init__(self, source: Source[_T]) -> None:
        self._source = source
        self._turn = threading.Lock()
        self._pending: Call[_T] | None = None

    def __iter__(self) -> _Items[_T]:
        return self

    def __next__(self) -> _T:
        self._source.check()
        with self._turn:
            if self._pending is None:
                self._pending = self._source.fetch()
            _until_done(self._pending)  # when this is interrupted the next call gets the item
            call, self._pending = self._pending, None
            try:
                return call.result()
            except StopAsyncIteration:
                raise StopIteration from None


class BlockingSupervisor(BlockingSupervisorMethods):
    """The interface of ``Supervisor`` for programs without an event loop: a context manager.

    Input
        settings: ``None`` reads them from the environment.
        engine: how commands are run; ``None`` is the local engine.

    A call waits in the calling thread. Several threads may call at once. Each method may raise ``SupervisorClosed``
    as well.

    The supervisor runs in Trio, on a thread of its own, which ends with the block; without one, when
    the object is deleted and at interpreter exit. In each case running jobs go on, and any process can ask
    for them. No signal handler is touched. After ``os.fork()`` every call in the
    child raises ``SupervisorClosed``, and leaving the block there does nothing.

    Errors
        InvalidSettings, StateUnsafe, PermissionDenied, StateFull, StateBusy: on entering.
        InternalError: on leaving, if the supervisor broke down meanwhile; calls raise it too.

    Interruption
        ``KeyboardInterrupt`` during a call ends that call, in the Trio thread too, and never stops a job, except for
        ``run``. It is raised when the call has come to rest; a second one is raised at once: the stop of a ``run``
        goes on then, and a result that was being consumed may be lost. Closing the supervisor under a ``run`` does
        not stop its job.
    """

    def __init__(self, settings: Settings | None = None, *, engine: Engine | None = None) -> None:
        self._open_it = partial(open_supervisor, settings, engine=engine)
        self._portal: Portal[Supervisor] | None = None

    def __enter__(self) -> Self:
        """Open the state root."""
        if self._portal is not None:
            message = "the supervisor is open already"
            raise SupervisorClosed(message, repair="Make a second BlockingSupervisor; a state root can have several.")
        self._portal = Portal(self._open_it)
        opening: Call[None] = Call(nothing)
        try:
            self._portal.start(opening)
            _until_done(opening)
            opening.result()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close it; running jobs go on."""
        portal = self._close()
        if portal is not None and kind is None:
            portal.check()

    def __del__(self) -> None:
        """Stop the thread, if the block was not left."""
        portal = getattr(self, "_portal", None)
        if portal is not None:
            portal.stop()

    def _close(self) -> Portal[Supervisor] | None:
        portal, self._portal = self._portal, None
        if portal is not None:
            ended: Call[None] = Call(nothing)
            portal.stop(ended)
            _until_done_or_withdrawn(ended)
            portal.join()
        return portal

    def _through(self) -> Portal[Supervisor]:
        if self._portal is None:
            message = "the supervisor is not open"
            raise SupervisorClosed(message, repair="Use it inside of its `with` block.")
        return self._portal

    def _ask(
        self,
        ask: Callable[[Supervisor], Awaitable[_T]],
        at_once: Callable[[Supervisor], _T | None] | None = None,
        *,
        scoped: bool = False,  # noqa: ARG002  # only a task can be discarded
    ) -> _T:
        portal = self._through()
        quick = None if at_once is None else lambda: at_once(portal.target)
        call = Call(lambda: ask(portal.target), quick)
        try:
            portal.submit(call)
            _until_done(call)
        except BaseException:  # KeyboardInterrupt, or another exception from a signal handler of the host
            portal.cancel(call)
            _until_done(call)
            raise
        return call.result()

    @contextmanager
    def _open(
        self,
        enter: Callable[[Supervisor], AbstractAsyncContextManager[AsyncIterator[_T]]],
    ) -> Generator[Iterator[_T]]:
        portal = self._through()
        source = Source(portal, lambda: enter(portal.target))
        try:
            portal.submit(source.opening)
            _until_done_or_withdrawn(source.opening, portal.cancel)
            source.opening.result()
            yield _Items(source)
        finally:
            source.close()

    @property
    def settings(self) -> Settings:
        """The settings it was opened with."""
        return self._through().target.settings
