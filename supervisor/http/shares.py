"""How much memory the requests and the answers of one caller may hold at once.

A request holds its body until it is answered, and an answer is held until its client has read it. The number of
requests bounds neither: a few hundred bodies of some MiB each, of calls that wait, or as many answers that no client
reads, would be gigabytes.
"""

from __future__ import annotations

import trio

__all__ = ["Room", "Share"]


class Share:
    """The bytes that the requests of one caller hold.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._less = trio.Event()

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may be held; anything may if nothing is."""
        return not self._held or self._held + size <= self._most

    def take(self, size: int) -> None:
        """Count bytes, without a look at the limit."""
        self._held += size

    def give_back(self, size: int) -> None:
        """Count bytes no longer, and wake those that wait for room."""
        if size:
            self._held -= size
            less, self._less = self._less, trio.Event()
            less.set()

    async def wait_for(self, size: int) -> None:
        """Return once there is room for so many bytes, and count them."""
        while not self.has_room(size):
            await self._less.wait()
        self.take(size)


class Room:
    """The part of a share that the answer of one request has, until its client has read it."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._taken = 0
        self._is_closed = False

    async def reserve(self, size: int) -> None:
        """Return once there is room for an answer of up to so many bytes. Reserve once for each request.

        A request that would wait with room of its own could wait for itself.
        """
        if self._taken or self._is_closed:
            return
        await self._share.wait_for(size)
        if self._is_closed:  # the client has gone meanwhile
            self._share.give_back(size)
        else:
            self._taken = size

    def close(self) -> None:
        """Give back what was reserved: the answer has been sent, or is not wanted any more."""
        self._is_closed = True
        self._share.give_back(self._taken)
        self._taken = 0
