"""The supervisor of a server, opened after the first answer.

Some hosts silently drop a server that does not answer within a second, and imports take most of that
time. So modules that the first answer does not need are imported after it.
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

__all__ = ["LazySupervisor", "Open", "opener"]

Attachment = Callable[["Supervisor"], AbstractAsyncContextManager[None]]
Open = Callable[[], AbstractAsyncContextManager["Supervisor"]]


def opener(settings: Settings) -> Open:
    """Return a function that opens the supervisor of a state root."""

    def open_it() -> AbstractAsyncContextManager[Supervisor]:
        from supervisor.runtime.opening import open_supervisor

        return open_supervisor(settings)

    return open_it


def _import() -> None:
    for module in ("supervisor.runtime.opening", "supervisor.engines.local.engine"):
        import_module(module)


class LazySupervisor:
    """Opens the supervisor after the first answer, or when a request needs it.

    Attributes:
        attachments: context managers that are entered with the supervisor, and left before it closes.
        ending: set when the server is about to end: calls that wait for a job then answer with its state.
    """

    def __init__(self, open_it: Open) -> None:
        self._open = open_it
        self._supervisor: Supervisor | None = None
        self._wanted = trio.Event()
        self._attempt = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._problem: SupervisorError = InternalError("the server has ended")
        self.ending = trio.Event()
        self.attachments: list[Attachment] = []

    def run_in_background(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run ``task`` until the server ends; log its errors."""

        async def run() -> None:
            try:
                await task()
            except Exception as error:  # noqa: BLE001  # an error of one subscriber must not end the server
                log.warning("mcp_background_failed", error=repr(error))

        if self._nursery is not None:
            self._nursery.start_soon(run)

    def begin(self) -> None:
        """Let ``run`` open the supervisor; call it after the first answer."""
        self._wanted.set()

    async def begun(self) -> None:
        """Return once ``begin`` was called, or a request has needed the supervisor."""
        await self._wanted.wait()

    async def run(self) -> None:
        """Hold the supervisor open until cancelled. After a failure, the next request opens it again."""
        await self._wanted.wait()
        # In a thread: requests that need no supervisor are answered during the import.
        await trio.to_thread.run_sync(_import, abandon_on_cancel=True)
        while True:
            await self._wanted.wait()
            try:
                await self._hold_open()
            except SupervisorError as error:
                log.warning("mcp_state_unusable", error=error.message)
                self._problem = error
            except Exception as error:  # noqa: BLE001  # the server and the jobs go on without this supervisor
                log.warning("mcp_background_failed", error=repr(error))
                self._problem = InternalError(f"the supervisor of this server has failed: {error!r}")
            self._wanted = trio.Event()
            self._end_attempt()

    async def _hold_open(self) -> None:
        async with self._open() as supervisor, AsyncExitStack() as stack:
            for attachment in self.attachments:
                await stack.enter_async_context(attachment(supervisor))
            async with trio.open_nursery() as nursery:
                self._nursery, self._supervisor = nursery, supervisor
                self._end_attempt()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = self._supervisor = None

    def _end_attempt(self) -> None:
        attempt, self._attempt = self._attempt, trio.Event()
        attempt.set()

    async def supervisor(self) -> Supervisor:
        """Return the supervisor once it is open.

        Raises:
            SupervisorError: the state root cannot be used.
        """
        if self._supervisor is None:
            self._wanted.set()
            await self._attempt.wait()
            if self._supervisor is None:
                raise self._problem
        return self._supervisor
