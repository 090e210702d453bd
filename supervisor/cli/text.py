"""Durations, sizes, command lines and outcomes as text for a terminal. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from supervisor.jobs.words import *  # noqa: F403  # the words of every interface, and three of this one
from supervisor.model import Job
from supervisor.states import State

_COLOURS: Final = {
    State.QUEUED: "yellow",
    State.RUNNING: "cyan",
    State.DONE: "green",
    State.FAILED: "red",
    State.CANCELLED: "magenta",
    State.TIMEOUT: "red",
}
"""Names of colours that click and the libraries of the live view accept."""
_GAP: Final = "  "


def colour(job: Job) -> str:
    """Return the colour of the job's state; a state that only a newer version knows is white."""
    return _COLOURS.get(job.status, "white")


def dead_deliveries(root: str) -> str | None:
    """Return how many ends of jobs could not be delivered in a day; ``None`` for none."""
    if not os.path.lexists(f"{root}/deliveries"):
        return None
    from supervisor.jobs.deliveries import count_dead  # few state roots need it

    dead = count_dead(root)
    return f"{dead} {'delivery is' if dead == 1 else 'deliveries are'} dead" if dead else None


def pairs(facts: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return names and values as lines with aligned values; omit names whose value is ``None``."""
    held = [(name, value) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in held), default=0)
    return [f"{name:<{width}}{_GAP}{value}" for name, value in held]
