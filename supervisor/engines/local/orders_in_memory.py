"""Orders of waiting jobs that a keeper holds in memory, so that no environment and no input is on disk.

Their name in the job directory is a link to a file in the memory of the keeper. The link leads nowhere once the keeper
has ended, so the orders are gone then, as for every process that looks.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from supervisor.engines.local.keeper_client import KeeperClient
from supervisor.errors import FeatureUnavailable, LaunchFailed
from supervisor.keeper import protocol
from supervisor.system import processes
from supervisor.system.unnamed_files import unnamed_file

__all__ = ["OrdersInMemory"]

_REPAIR: Final = "Start the job with --spool disk."


@attrs.define(slots=True, eq=False)
class _Request:
    """A request to hold orders, until the keeper has answered."""

    answered: trio.Event = attrs.field(factory=trio.Event)
    error: str = ""


class OrdersInMemory:
    """Asks a keeper to hold orders.

    Args:
        connect: returns the keeper; starts one if need be.
    """

    def __init__(self, connect: Callable[[], Awaitable[KeeperClient]]) -> None:
        """Begin without a request."""
        self._connect = connect
        self._requests: dict[int, _Request] = {}

    async def hold(self, token: int, directory: str, orders: bytes) -> None:
        """Have the keeper hold ``orders`` until their name in the directory is deleted.

        Raises:
            FeatureUnavailable: there are no files in memory here, or no links to them.
            LaunchFailed: there is no keeper, or it ended.
        """
        if not (hasattr(os, "memfd_create") and processes.HAVE_PROC):
            message = "orders cannot be held in memory on this machine"
            raise FeatureUnavailable(message, repair=_REPAIR)
        link = await self._connect()
        descriptor = _in_memory(orders)
        request = self._requests[token] = _Request()
        try:
            link.send(protocol.Hold(token=token, directory=directory), (descriptor,))
            if not link.alive:
                self.lose()
            await request.answered.wait()
        finally:
            del self._requests[token]
        if request.error:
            message = f"the keeper cannot hold the orders of the job in memory: {request.error}"
            raise LaunchFailed(message, retryable=True, repair=f"Try again. {_REPAIR}")

    def receive(self, message: protocol.Held) -> None:
        """Handle the answer of a keeper."""
        if (request := self._requests.get(message.token)) is not None:
            request.error = message.error
            request.answered.set()

    def lose(self) -> None:
        """Fail the requests to a keeper that has ended."""
        for request in self._requests.values():
            request.error = "it has ended"
            request.answered.set()


def _in_memory(content: bytes) -> int:
    descriptor = unnamed_file("orders")
    with open(os.dup(descriptor), "wb") as file:
        file.write(content)
    return descriptor
