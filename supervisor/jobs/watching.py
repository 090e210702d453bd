"""Takes overviews of a state root in a thread, one after each change, whichever process has made it.

``supervisor top`` and the page show them.

Each commit to the index writes to a file in the state root; a job whose supervisor is gone ends with a file in its
directory. Both are watched with inotify. Where that is missing, an overview is taken at intervals.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from supervisor import log
from supervisor.engines.waiting import Change
from supervisor.errors import InternalError, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings
from supervisor.store.state_errors import state_error
from supervisor.system.inotify import MODIFIED, Inotify

__all__ = ["Source", "Taken"]

_LEAST_PAUSE: Final = 0.1
_BLIND_PAUSE: Final = 1.0
"""Where inotify is missing."""
_LONGEST_PAUSE: Final = 30.0
"""An error of the state root may go away without an event."""
_SHARE: Final = 10
"""The pause between two overviews is so many times as long as the last one took,"""
_PROCESSOR_SHARE: Final = 25
"""and so many times as long as it took the processor: jobs of the same process keep 96% of it."""


class Taken(Protocol):
    """What a source takes of a state root."""

    @property
    def directories(self) -> tuple[str, ...]:
        """The job directories: after a change in one, it is out of date."""
        ...


_Taken = TypeVar("_Taken", bound=Taken)


class Source(Generic[_Taken]):
    """The thread. Both functions are called in it.

    Args:
        settings: of the state root.
        take: takes an overview.
        show: is called with each overview, or with the error that prevents one.
        every: returns after how many seconds an overview is taken again although nothing has changed; by default never.
        name: of the thread.
    """

    def __init__(
        self,
        settings: Settings,
        take: Callable[[Catalog], _Taken],
        show: Callable[[_Taken | SupervisorError], None],
        *,
        every: Callable[[_Taken], float | None] = lambda _: None,
        name: str = "supervisor-watching",
    ) -> None:
        self._settings = settings
        self._root = os.path.abspath(os.fspath(settings.state_dir))
        self._take = take
        self._every = every
        self._show = show
        self._woken, self._waker = os.pipe()
        for each in (self._woken, self._waker):
            os.set_blocking(each, False)
        self._over = threading.Event()
        self._pause = _LEAST_PAUSE
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once it has taken the overview that it may be at."""
        self._over.set()
        self.refresh()
        self._thread.join()
        os.close(self._woken)
        os.close(self._waker)

    def refresh(self) -> None:
        """Have an overview taken soon."""
        with contextlib.suppress(BlockingIOError):  # it has been woken many times, and has not looked yet
            os.write(self._waker, b"x")

    def _run(self) -> None:
        while not self._over.is_set():
            begun = _identity(self._root)
            try:
                self._follow_root(begun)
            except SupervisorError as error:
                self._show(error)
                self._wait_for_root(begun)
            except OSError as error:
                self._show(state_error(error, "the state root cannot be read now"))
                self._wait_for_root(begun)
            except Exception as error:  # noqa: BLE001  # a defect with one job must not end the view for ever
                log.warning("overview_failed", error=repr(error))
                repair = "It is tried again after a pause; report this as a defect."
                self._show(InternalError(f"the overview is not known now: {error!r}", repair=repair))
                self._over.wait(_LEAST_PAUSE)
                _wait_for([self._woken], self._pause)
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _follow_root(self, begun: tuple[int, int] | None) -> None:
        """Show overviews until the state root is another one, or cannot be read."""
        with contextlib.ExitStack() as stack:
            notify = _watching(stack, self._root)
            catalog = stack.enter_context(Catalog(self._settings, create=False, launches_waiting=True))
            watches = stack.enter_context(contextlib.ExitStack())
            change: Change | None = None
            directories: tuple[str, ...] = ()
            while not self._over.is_set() and _identity(self._root) == begun:
                self._drain()
                if notify is not None:
                    notify.read()
                began, used = time.monotonic(), time.thread_time()
                overview = self._take(catalog)
                self._show(overview)
                catalog.ensure_launcher()  # the overview may have recorded an end that lets another job run
                self._pause = _LEAST_PAUSE
                pauses = _SHARE * (time.monotonic() - began), _PROCESSOR_SHARE * (time.thread_time() - used)
                self._over.wait(max(_LEAST_PAUSE, *pauses))
                if begun is None:
                    self._wait_for_root(begun)
                elif notify is None:
                    self._over.wait(_BLIND_PAUSE)
                elif change is None or directories != overview.directories:
                    # A change since the overview and before this is seen by the next overview, which is taken now.
                    watches.close()
                    change = watches.enter_context(
                        Change(overview.directories, wakers=(self._woken, notify.descriptor))
                    )
                    directories = overview.directories
                else:
                    change.wait(self._every(overview))

    def _wait_for_root(self, begun: tuple[int, int] | None) -> None:
        """Wait until the state root is another one than it was, or may be readable."""
        with contextlib.ExitStack() as stack:
            notify = None
            for above in Path(self._root).parents:
                notify = _watching(stack, str(above))
                if notify is not None:
                    break
            wakers = [self._woken] if notify is None else [self._woken, notify.descriptor]
            if _identity(self._root) == begun:
                _wait_for(wakers, _LONGEST_PAUSE)
        self._over.wait(_LEAST_PAUSE)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 4096):
                pass


def _wait_for(descriptors: Iterable[int], seconds: float) -> None:
    """Wait until a descriptor can be read; ``select.select`` takes none above 1023, which a server may have."""
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    poll.poll(seconds * 1000)


def _watching(stack: contextlib.ExitStack, directory: str) -> Inotify | None:
    """Watch a directory and its files; return ``None`` where that is impossible."""
    notify = Inotify.open()
    if notify is None:
        return None
    stack.callback(notify.close)
    return None if notify.watch(directory, MODIFIED) is None else notify


def _identity(root: str) -> tuple[int, int] | None:
    try:
        found = os.stat(root)
    except OSError:
        return None
    return found.st_dev, found.st_ino
