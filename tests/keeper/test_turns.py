"""The turns of a keeper, with a connection and jobs of the test's own."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from supervisor.keeper.turns import Turns


class Connection:
    """A connection to a supervisor that is found to be gone with the next send."""

    def __init__(self) -> None:
        self.is_open = True

    def send(self) -> None:
        self.is_open = False


class Helper:
    """No job of this keeper was in a queue."""

    def next_ns(self, *, connected: bool) -> None:
        del connected


class Idle(Turns):
    """A keeper without jobs, which must not wait any more."""

    def __init__(self) -> None:
        self.connection: Any = Connection()
        self.back, self.syncs, self.inbox = deque(), deque(), deque()
        self.unwritten, self.retries = (), []  # type: ignore[assignment]
        self.scarce = False
        self.helper: Any = Helper()

    def _has_jobs(self) -> bool:
        return False

    def _wait(self) -> set[int]:
        pytest.fail("it waits, and nothing is to come")


def test_a_keeper_without_jobs_leaves_in_the_turn_in_which_it_finds_its_supervisor_gone() -> None:
    idle = Idle()
    idle._loop()
    assert not idle.connection.is_open
