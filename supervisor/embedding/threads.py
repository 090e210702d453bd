"""The supervisor for plain threads: ``BlockingSupervisor``."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from supervisor.embedding.portal import Call, Portal, Source, nothing
from supervisor.engines.interface import Engine
from supervisor.errors import SupervisorClosed
from supervisor.jobs.validation import spec_of
from supervisor.metrics import Metrics
from supervisor.model import Job, JobEvent, JobOptions, JobPage, JobSpec, Result
from supervisor.runtime.opening import open_supervisor
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings

__all__ = ["BlockingSupervisor"]

_T = TypeVar("_T")


def _settled(call: Call[Any]) -> None:
    """Wait in this thread until a call is settled."""
    event = threading.Event()
    call.on_settled(event.set)
    event.wait()


def _settled_even_so(call: Call[Any], withdraw: Callable[[Call[Any]], object] | None = None) -> None:
    """Wait until a call is settled. When interrupted, ``withdraw`` it and wait on; the next time, no longer."""
    try:
        _settled(call)
    except BaseException:
        if withdraw is not None:
            withdraw(call)
        _settled(call)
        raise


class _Items(Generic[_T]):
    """An iterator over what a source gives."""

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
            _settled(self._pending)  # when this is interrupted the item is for whoever comes next
            call, self._pending = self._pending, None
            try:
                return call.result()
            except StopAsyncIteration:
                raise StopIteration from None


class BlockingSupervisor:
    """What ``Supervisor`` is in Trio, for programs without an event loop: a context manager.

    Input
        settings: ``None`` reads them from the environment.
        engine: how commands are run; ``None`` is the local engine.

    Each method takes, returns and raises what the one of the same name of ``Supervisor`` does,
    whose documentation holds, and waits for that in the calling thread. All may be called from
    several threads at once; any may raise ``SupervisorClosed``.

    The supervisor runs in Trio, on a thread of its own, which ends with the block; without one, when
    the object is thrown away and at interpreter exit. In each case running jobs go on, and can be
    asked about from anywhere. No signal handler is touched. After ``os.fork()`` every call in the
    child raises ``SupervisorClosed``, and leaving the block there does nothing.

    Errors
        InvalidSettings, StateUnsafe, PermissionDenied, StateFull, StateBusy: on entering.
        InternalError: on leaving, if the supervisor broke down meanwhile; calls raise it too.

    Cancellation
        ``KeyboardInterrupt`` while a call waits ends that call, in the Trio thread too, and nothing
        else: never a job, except for ``run``. It comes out when the call has come to rest; a
        second one comes out at once.
    """

    def __init__(self, settings: Settings | None = None, *, engine: Engine | None = None) -> None:
        """Prepare; entering the block opens the state root."""
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
            _settled(opening)
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
        """Have the thread end, if nobody has."""
        portal = getattr(self, "_portal", None)
        if portal is not None:
            portal.stop()

    def _close(self) -> Portal[Supervisor] | None:
        portal, self._portal = self._portal, None
        if portal is not None:
            ended: Call[None] = Call(nothing)
            portal.stop(ended)
            _settled_even_so(ended)
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
    ) -> _T:
        portal = self._through()
        quick = None if at_once is None else lambda: at_once(portal.target)
        call = Call(lambda: ask(portal.target), quick)
        try:
            portal.submit(call)
            _settled(call)
        except BaseException:  # KeyboardInterrupt, or whatever else a signal handler of the host raises
            portal.cancel(call)
            _settled(call)
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
            _settled_even_so(source.opening, portal.cancel)
            source.opening.result()
            yield _Items(source)
        finally:
            source.close()

    @property
    def settings(self) -> Settings:
        """The settings it was opened with."""
        return self._through().target.settings

    @overload
    def start(self, argv: JobSpec) -> Job: ...

    @overload
    def start(self, argv: Sequence[str], **options: Unpack[JobOptions]) -> Job: ...

    def start(self, argv: Sequence[str] | JobSpec, **options: Unpack[JobOptions]) -> Job:
        """Start a command as a job and return as soon as it runs (or provably never will).

        Input and errors are those of ``Supervisor.start``. If it is interrupted, either nothing was
        done, or the job was started and recorded, and goes on; an idempotency key finds it again.
        """
        return self._ask(
            lambda sup: sup.start(
                spec_of(argv, options),
            ),
        )

    @overload
    def run(self, argv: JobSpec) -> Result: ...

    @overload
    def run(self, argv: Sequence[str], **options: Unpack[JobOptions]) -> Result: ...

    def run(self, argv: Sequence[str] | JobSpec, **options: Unpack[JobOptions]) -> Result:
        """Start a command, wait for its end and return its result: the scoped twin of ``start``.

        Takes what ``start`` takes and raises what it raises. ``KeyboardInterrupt`` stops the job and
        waits for that, its grace and a little more at most; a second one comes out at once, and the
        stop goes on. A supervisor that is closed under it does not stop the job.
        """
        return self._ask(
            lambda sup: sup.run(
                spec_of(argv, options),
            ),
        )

    def status(self, job_id: str) -> Job:
        """Return a job as it is now.

        Raises:
            JobNotFound: none of this id is kept.
        """
        return self._ask(lambda sup: sup.status(job_id), lambda sup: sup.glance(job_id))

    def list(
        self,
        workspace: str | os.PathLike[str] | None = None,
        state: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> JobPage:
        """Return a page of jobs, newest first; input and errors are those of ``Supervisor.list``."""
        return self._ask(lambda sup: sup.list(workspace, state, limit, cursor, labels))

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until a job has ended, and return it. ``timeout`` is in seconds; nothing is polled.

        Raises:
            JobNotFound: none of this id is kept.
            JobRunning: ``timeout`` seconds have passed and it has not ended.
        """
        return self._ask(lambda sup: sup.wait(job_id, timeout))

    def result(self, job_id: str, consume: bool = False, detail: str | None = None) -> Result:  # noqa: FBT001, FBT002
        """Return the result of a finished job; input and errors are those of ``Supervisor.result``."""
        return self._ask(lambda sup: sup.result(job_id, consume, detail))

    def metrics(self) -> Metrics:
        """Return what this supervisor has done since it was opened, and what it is at now."""
        return self._ask(lambda sup: sup.metrics())

    def cancel(self, job_id: str) -> Job:
        """Stop a job, and return it when nothing of it is left; a finished one is returned unchanged.

        An interrupt does not take the request back.

        Raises:
            JobNotFound: none of this id is kept.
            JobElsewhere: it runs on another host or in another pid namespace.
        """
        return self._ask(lambda sup: sup.cancel(job_id))

    def forget(self, job_id: str) -> None:
        """Forget a finished job now.

        Raises:
            JobRunning: it has not ended; cancel it first.
            JobNotFound: none of this id is kept.
        """
        return self._ask(lambda sup: sup.forget(job_id))

    def prune(self, workspace: str | os.PathLike[str] | None = None) -> Sequence[str]:
        """Forget what has expired or is beyond the cap, in one workspace or in all; returns the ids."""
        return self._ask(lambda sup: sup.prune(workspace))

    def events(self, job_id: str | None = None) -> AbstractContextManager[Iterator[JobEvent]]:
        """Subscribe to changes of state and progress, of one job or of all in this supervisor's care.

        Gives an iterator of ``JobEvent``, of bounded memory: a reader that is too slow misses the
        oldest, is told how many (``lagged``), and never delays anybody.
        """
        return self._open(lambda sup: sup.events(job_id))

    def follow(self, job_id: str, stream: str = "stdout") -> AbstractContextManager[Iterator[bytes]]:
        """Read what a job writes, from the beginning, as it is written.

        Gives an iterator of ``bytes``, at most 64 KiB each, that ends when the job has ended and
        everything was read. Nothing is read ahead.

        Raises:
            JobNotFound: none of this id is kept.
            InvalidArguments: ``stream`` is neither ``"stdout"`` nor ``"stderr"``.
        """
        return self._open(lambda sup: sup.follow(job_id, stream))
