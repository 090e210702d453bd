"""A Trio program on a thread of its own, and calls into it from any other thread.

How the thread ends. ``stop`` asks for it; the facade that opened the portal waits for that and joins
the thread. A program that never leaves the block must end all the same, so the thread is a daemon
thread, and a hook at interpreter exit closes every open portal and waits some seconds for it. The interpreter
would wait for an ordinary thread without end, before it runs such hooks.

Errors. A call raises the exception that was raised in the Trio thread, itself: a group of one is
unwrapped, and ``trio.Cancelled`` is never raised. When the portal closes during a call, the Trio
program closes first, and its calls raise its errors. A call that still waits then raises ``SupervisorClosed``. So
closing is no cancellation: a ``run`` does not stop its job. If the Trio program breaks down, calls raise an
``InternalError`` with that cause, and so does closing the portal.

In a forked child the thread does not exist. Every call is rejected; closing does nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from typing import Any, Final, Generic, TypeVar

import trio

from supervisor import log
from supervisor.errors import InternalError, SupervisorClosed, SupervisorError
from supervisor.store.state_errors import state_error
from supervisor.system.fork_safety import forked_error, tell_in_child
from supervisor.text.groups import leaves

__all__ = ["Call", "Portal", "Source"]

_T = TypeVar("_T")
_Target = TypeVar("_Target")
_EXIT_SECONDS: Final = 10.0


class Call(Generic[_T]):
    """An awaitable to run in the Trio thread, once, for a caller in another thread.

    ``ask`` is awaited with the context variables of the caller. ``done`` becomes true
    when ``result()`` has something to return or raise. ``at_once``, if given, is called
    first: unless it returns ``None``, its answer saves a task and two rounds of the event loop, which are half of the
    cost of a call.
    """

    __slots__ = ("_error", "_value", "_wake", "ask", "at_once", "begun", "context", "done", "forget", "scope")

    def __init__(self, ask: Callable[[], Awaitable[_T]], at_once: Callable[[], _T | None] | None = None) -> None:
        self.ask = ask
        self.at_once = at_once
        self.context = copy_context()
        self.scope = trio.CancelScope()
        self.begun = False
        self.done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._wake: Callable[[], object] | None = None
        self.forget: Callable[[Call[_T]], object] | None = None

    def on_done(self, wake: Callable[[], object]) -> None:
        """Call ``wake`` when the call is done, in any thread; at once if it is done now, and perhaps twice."""
        self._wake = wake
        if self.done:
            wake()

    def finish(self, value: object = None, error: BaseException | None = None) -> None:
        """Set the result or the error; only the first time counts."""
        if self.done:
            return
        self._value, self._error = value, error
        self.done = True
        if self.forget is not None:
            self.forget(self)
        wake = self._wake
        if wake is not None:
            with contextlib.suppress(RuntimeError):  # the event loop of the caller is closed: no task waits
                wake()

    def begin(self) -> None:
        """Finish the call if that needs no waiting."""
        self.begun = True
        if self.at_once is not None:
            try:
                value = self.context.run(self.at_once)
            except Exception as error:  # noqa: BLE001  # it is the caller's, as when it is awaited
                self.finish(error=error)
            else:
                if value is not None:
                    self.finish(value)

    def result(self) -> _T:
        """Return the result, or raise the error."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = SupervisorClosed("the outcome was fetched already")  # no cycle through its frames
        value: _T = self._value
        return value


async def nothing() -> None:
    """The awaitable of a call that other code finishes."""


def _failures(error: BaseException) -> list[BaseException]:
    """Return the leaves of a group except cancellations."""
    return [each for each in leaves(error) if not isinstance(each, trio.Cancelled)]


def _bare(error: BaseException) -> BaseException:
    """Return the one exception in a group; for several, an ``InternalError`` that lists them."""
    found = _failures(error)
    if len(found) == 1:
        return found[0]
    several = InternalError(f"several errors at once: {', '.join(map(repr, found))}")
    several.__cause__ = error
    return several


class Portal(Generic[_Target]):
    """Runs a Trio program on a thread of its own: ``opener``'s context manager, open until ``stop``."""

    def __init__(self, opener: Callable[[], AbstractAsyncContextManager[_Target]]) -> None:
        self._opener = opener
        self._target: _Target | None = None
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._calls: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._leaving = trio.Event()
        self._stop_wanted = False
        self._opening: Call[None] = Call(nothing)
        self._cut_off: list[Call[Any]] = []
        self._unfinished: set[Call[Any]] = set()
        self._lock = threading.Lock()
        self._leavers: list[Call[None]] | None = None
        self._forked = False
        self._breakdown: BaseException | None = None

    # ------------------------------------------------------------ from other threads

    def start(self, opening: Call[None]) -> None:
        """Start the thread. ``opening`` finishes when the program is open or cannot be opened."""
        self._opening = opening
        tell_in_child(self)
        run = copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="supervisor (Trio)", daemon=True)
        self._leavers = []
        _running.add(self)
        try:
            self._thread.start()
        except BaseException:  # no thread can be started; or a KeyboardInterrupt, perhaps after the start
            if self._thread.ident is None:
                _running.discard(self)
                self._leavers = None
            raise

    def submit(self, call: Call[Any], begin: Callable[[Call[Any]], object] | None = None) -> None:
        """Make a call, which finishes in any case; ``begin`` is called with it in the Trio thread.

        Raises:
            SupervisorClosed: the thread has ended, or this is a forked child.
            InternalError: the Trio program has broken down.
        """
        self._unfinished.add(call)
        call.forget = self._unfinished.discard
        try:
            self.soon(begin or self._begin, call)
        except SupervisorError:
            self._unfinished.discard(call)
            raise

    def soon(self, action: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the Trio thread; raises as ``submit`` does."""
        self.check_not_forked()
        token = self._token
        if token is None:
            raise self._closed_error()
        try:
            token.run_sync_soon(action, *arguments)
        except (trio.RunFinishedError, OSError):  # OSError: it has broken down, and its wake-up socket is closed
            raise self._closed_error() from None

    def cancel(self, call: Call[Any]) -> None:
        """Cancel a call, which finishes then, even if ``submit`` was interrupted."""
        try:
            self.soon(self._withdraw, call)
        except SupervisorError as error:
            call.finish(error=error)

    def stop(self, ended: Call[None] | None = None) -> None:
        """Ask the thread to end; ``ended`` finishes when it has ended."""
        if ended is not None and not self._note_leaver(ended):
            ended.finish()
        self._stop_wanted = True
        with contextlib.suppress(SupervisorError):
            self.soon(self._leave)

    def _note_leaver(self, ended: Call[None]) -> bool:
        if self._forked:
            return False
        with self._lock:
            if self._leavers is None:
                return False
            self._leavers.append(ended)
            return True

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread, which was asked to end."""
        if self._thread is not None and self._thread.ident is not None and not self._forked:
            self._thread.join(timeout)

    def in_child(self) -> None:
        """Reject every call from now on: this is a forked child, which has no such thread."""
        self._forked = True

    @property
    def target(self) -> _Target:
        """The object that the context manager gave."""
        self.check_not_forked()
        if self._target is None:
            raise self._closed_error()
        return self._target

    def check_not_forked(self) -> None:
        """Raise if this is a forked child."""
        if self._forked:
            raise forked_error()

    def check(self) -> None:
        """Raise ``InternalError`` if the Trio program has broken down by itself."""
        if self._breakdown is not None:
            raise self._closed_error()

    def _closed_error(self) -> SupervisorError:
        if self._breakdown is None:
            return SupervisorClosed("the supervisor is closed")
        error = InternalError(f"the supervisor has broken down: {self._breakdown!r}")
        error.__cause__ = self._breakdown
        return error

    # ------------------------------------------------------------ in the Trio thread

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001  # opening, calls and closing raise it
            self._broken(_bare(error))
        finally:
            self._finish_all()

    def _finish_all(self) -> None:
        """Wake all waiters: Trio does not end its tasks when it breaks down itself."""
        _running.discard(self)
        self._token = None  # the token of a broken run accepts calls and makes none
        with self._lock:
            leavers, self._leavers = self._leavers or [], None
        self._opening.finish(error=self._closed_error())
        for call in (*self._cut_off, *tuple(self._unfinished)):
            call.finish(error=self._closed_error())
        for ended in leavers:
            ended.finish()

    def _broken(self, error: BaseException) -> None:
        if self._target is None:
            if isinstance(error, OSError):  # Trio needs descriptors itself
                error = state_error(error, "cannot start the supervisor")
            self._opening.finish(error=error)
        else:
            self._breakdown = error
            log.warning("supervisor_broke_down", error=repr(error))

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._stop_wanted:  # before there was a token, which `stop` uses from now on
            return
        with self._scope:
            async with trio.open_nursery() as calls:
                async with self._opener() as target:
                    self._target, self._calls = target, calls
                    self._opening.finish()
                    try:
                        await self._leaving.wait()
                    finally:
                        self._calls = None
                calls.cancel_scope.cancel()

    def _leave(self) -> None:
        self._leaving.set()
        if self._target is None:
            self._scope.cancel()

    def _begin(self, call: Call[Any]) -> None:
        if self._calls is None:
            call.begun = True
            call.finish(error=self._closed_error())
            return
        call.begin()
        if not call.done:
            call.context.run(self._calls.start_soon, self.serve, call, self._cut_off)

    @staticmethod
    def _withdraw(call: Call[Any]) -> None:
        call.scope.cancel()
        if not call.begun:  # calls arrive in order, so this one will never begin
            call.finish(error=SupervisorClosed("the call was withdrawn"))

    @staticmethod
    async def serve(call: Call[Any], cut_off: list[Call[Any]]) -> None:
        """Run a call and finish it; if that is cancelled from outside, add it to ``cut_off``."""
        try:
            with call.scope:
                call.finish(await call.ask())
        except BaseException as error:
            if not _failures(error):
                cut_off.append(call)
                raise
            call.finish(error=_bare(error))
        call.finish(error=SupervisorClosed("the call was withdrawn"))  # if its own scope was cancelled


class Source(Generic[_T]):
    """An async context manager of the Trio program and the iterator that it gives, both run by one task.

    ``opening`` is the call that begins it; it finishes when the iterator exists. Items are fetched one
    at a time, so that nothing is buffered here and a slow reader slows the reading.
    """

    def __init__(
        self,
        portal: Portal[Any],
        enter: Callable[[], AbstractAsyncContextManager[AsyncIterator[_T]]],
    ) -> None:
        self._portal = portal
        self._enter = enter
        self._send, self._receive = trio.open_memory_channel[Call[_T]](float("inf"))
        self._iterator: AsyncIterator[_T] | None = None
        self._end: BaseException | None = None
        self.opening: Call[None] = Call(self._hold)

    def check(self) -> None:
        """Raise in a forked child, before the caller takes a lock that a thread of the parent may hold."""
        self._portal.check_not_forked()

    def fetch(self) -> Call[_T]:
        """Ask for the next item; ``StopAsyncIteration`` is raised after the last."""
        call = Call(self._next)
        self._portal.submit(call, self._put)
        return call

    def close(self) -> None:
        """Ask the task to leave the context manager."""
        self._portal.cancel(self.opening)

    def _put(self, call: Call[_T]) -> None:
        if self._end is None:
            self._send.send_nowait(call)
        else:
            call.finish(error=self._end)

    async def _next(self) -> _T:
        assert self._iterator is not None  # noqa: S101  # no call arrives before the iterator exists
        return await self._iterator.__anext__()

    async def _hold(self) -> None:
        waiting: list[Call[Any]] = []
        failure: BaseException | None = None
        try:
            async with self._enter() as self._iterator:
                self.opening.finish()
                async for call in self._receive:
                    await self._portal.serve(call, waiting)
        except BaseException as error:
            failure = _bare(error) if _failures(error) else None
            raise
        finally:
            self._end = failure or SupervisorClosed("the iterator is closed")
            with contextlib.suppress(trio.WouldBlock):
                while True:
                    waiting.append(self._receive.receive_nowait())
            for call in waiting:
                call.finish(error=self._end)


_running: set[Portal[Any]] = set()


def _close_all() -> None:
    """Close the portals that are open when the interpreter exits."""
    until = time.monotonic() + _EXIT_SECONDS
    portals = tuple(_running)
    for portal in portals:
        portal.stop()
    for portal in portals:
        portal.join(max(0.0, until - time.monotonic()))


atexit.register(_close_all)
