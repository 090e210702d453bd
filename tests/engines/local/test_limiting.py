"""What a keeper says about limits: asked again until the answer lasts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from supervisor.engines.local.limiting import KeeperLimits
from supervisor.errors import FeatureUnavailable
from supervisor.keeper import protocol
from supervisor.model import Limits

REQUIRED = Limits(memory_bytes=1 << 20)


class Keeper:
    """A keeper that does not know at first."""

    knows_limits = alive = True

    def __init__(self, *answers: tuple[dict[str, str], bool]) -> None:
        self.answers = list(answers)
        self.limits = KeeperLimits(self.connect)

    async def connect(self) -> Any:
        await trio.lowlevel.checkpoint()
        return self

    def send(self, question: protocol.FindLimits) -> None:
        missing, lasts = self.answers.pop(0)
        self.limits.receive(protocol.MissingLimits(token=question.token, missing=missing, lasts=lasts))


async def test_an_error_that_may_pass_is_retryable_and_the_keeper_is_asked_again() -> None:
    keeper = Keeper(({"memory": "systemd does not answer"}, False), ({}, True))
    with pytest.raises(FeatureUnavailable, match="systemd does not answer") as raised:
        await keeper.limits.check(1, REQUIRED)
    assert raised.value.retryable
    assert raised.value.repair.startswith("Try again.")
    for token in (2, 3):  # the second answer lasts
        assert (await keeper.limits.check(token, REQUIRED)).lacking == ()
    assert not keeper.answers


async def test_an_answer_that_lasts_is_final() -> None:
    keeper = Keeper(({"memory": "there is no such controller"}, True))
    for token in (1, 2):
        with pytest.raises(FeatureUnavailable) as raised:
            await keeper.limits.check(token, REQUIRED)
        assert not raised.value.retryable
