"""The supervisor behind a server, opened after the first answer.

Some hosts silently drop a server that has not answered within a second, and most of that goes on
imports. So nothing that the first answer does not need is imported before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module
from typing import TYPE_CHECKING

import trio

from supervisor import log
from supervisor.errors import InternalError, SupervisorError
from supervisor.settings import Settings

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["Backend", "opening"]

Beside = Callable[["Supervisor"], AbstractAsyncContextManager[None]]
Open = Callable[[], AbstractAsyncContextManager["Supervisor"]]


def opening(settings: Settings) -> Open:
    """Return what opens the supervisor of a state root."""

    def open_it() -> AbstractAsyncContextManager[Supervisor]:
        from supervisor.runtime.opening import open_supervisor

        return open_supervisor(settings)

    return open_it


def _import() -> None:
    for module in ("supervisor.runtime.opening", "supervisor.engines.local.engine"):
        import_module(module)


class Backend:
    """Opens the supervisor when it is time, and hands it out.

    Attributes:
        beside: what is opened over the supervisor, and closed before it.
        ending: set when the server is about to end: whoever waits for a job tells what it knows.
    """

    def __init__(self, open_it: Open) -> None:
        """Open nothing yet."""
        self._open = open_it
        self._supervisor: Supervisor | None = None
        self._wanted = trio.Event()
        self._attempt = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._problem: SupervisorError = InternalError("the server has ended")
        self.ending = trio.Event()
        self.beside: list[Beside] = []

    def look_after(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run ``task`` until the server ends; what goes wrong in it is logged."""

        async def run() -> None:
            try:
                await task()
            except Exception as error:  # noqa: BLE001  # one subscriber's trouble is not everybody's
                log.warning("mcp_background_failed", error=repr(error))

        if self._nursery is not None:
            self._nursery.start_soon(run)

    def begin(self) -> None:
        """Open the supervisor now; called after the first answer."""
        self._wanted.set()

    async def run(self) -> None:
        """Hold the supervisor open until cancelled; a state root that cannot be used is tried again when asked for."""
        # In a thread, so that requests which need no supervisor are answered meanwhile.
        await self._wanted.wait()
        await trio.to_thread.run_sync(_import, abandon_on_cancel=True)
        while True:
            await self._wanted.wait()
            try:
                await self._hold_open()
            except SupervisorError as error:
                log.warning("mcp_state_unusable", error=error.message)
                self._problem = error
            except Exception as error:  # noqa: BLE001  # jobs outlive a supervisor, and so does who asks about them
                log.warning("mcp_background_failed", error=repr(error))
                self._problem = InternalError(f"the supervisor behind this server has broken down: {error!r}")
            self._wanted = trio.Event()
            self._tell()

    async def _hold_open(self) -> None:
        async with self._open() as supervisor, AsyncExitStack() as stack:
            for beside in self.beside:
                await stack.enter_async_context(beside(supervisor))
            async with trio.open_nursery() as nursery:
                self._nursery, self._supervisor = nursery, supervisor
                self._tell()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = self._supervisor = None

    def _tell(self) -> None:
        attempt, self._attempt = self._attempt, trio.Event()
        attempt.set()

    async def supervisor(self) -> Supervisor:
        """Return the supervisor, waiting until it is open.

        Raises:
            SupervisorError: the state root cannot be used.
        """
        if self._supervisor is None:
            self._wanted.set()
            await self._attempt.wait()
            if self._supervisor is None:
                raise self._problem
        return self._supervisor
