"""Asking a keeper which limits jobs cannot have here: the keeper knows where it can make control groups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from supervisor.engines.limits import Granted, granted
from supervisor.engines.local.keeper_client import KeeperClient
from supervisor.keeper import protocol
from supervisor.model import Limits

__all__ = ["KeeperLimits"]

_OLD: dict[str, str] = dict.fromkeys(("memory", "cpu", "pids"), "the keeper is of an older version")


@attrs.define(slots=True, eq=False)
class _Question:
    """A question to a keeper, until it is answered."""

    answered: trio.Event = attrs.field(factory=trio.Event)
    answer: protocol.MissingLimits | None = None


class KeeperLimits:
    """Asks the keeper, until it gives an answer that lasts.

    Args:
        connect: returns the keeper; starts one if need be.
    """

    def __init__(self, connect: Callable[[], Awaitable[KeeperClient]]) -> None:
        """Begin without a question."""
        self._connect = connect
        self._known: tuple[KeeperClient, protocol.MissingLimits] | None = None
        self._questions: dict[int, _Question] = {}

    async def check(self, token: int, limits: Limits) -> Granted:
        """Return what the keeper does with the limits of a job.

        Raises:
            FeatureUnavailable: it must not run without them. It may be tried again if the keeper does not know now.
            LaunchFailed: there is no keeper.
        """
        answer = await self._missing(token)
        return granted(limits, answer.missing, lasts=answer.lasts)

    async def _missing(self, token: int) -> protocol.MissingLimits:
        link = await self._connect()
        if self._known is not None and self._known[0] is link:
            return self._known[1]
        if not link.knows_limits:
            return protocol.MissingLimits(token=token, missing=_OLD)
        question = self._questions[token] = _Question()
        try:
            link.send(protocol.FindLimits(token=token))
            if not link.alive:
                self.lose()
            await question.answered.wait()
        finally:
            del self._questions[token]
        if question.answer is None:  # it was killed; the launch by the next keeper finds out
            return protocol.MissingLimits(token=token, missing={})
        if question.answer.lasts:
            self._known = link, question.answer
        return question.answer

    def receive(self, message: protocol.MissingLimits) -> None:
        """Handle the answer of a keeper."""
        if (question := self._questions.get(message.token)) is not None:
            question.answer = message
            question.answered.set()

    def lose(self) -> None:
        """End the questions to a keeper that has ended."""
        for question in self._questions.values():
            question.answered.set()
