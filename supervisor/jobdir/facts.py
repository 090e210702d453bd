"""The two facts about a command in its records: that it was launched, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from supervisor.model import Exit

__all__ = ["Ended", "Launched"]


@attrs.frozen(slots=True, kw_only=True)
class Launched:
    """A command that was spawned. Boot-clock times are comparable only within one boot.

    Attributes:
        pid: its process id.
        started_ns: its start, on the wall clock.
        deadline_boot_ns: its deadline, on the boot clock, as far as pauses have moved it by now.
        paused: whether its processes are stopped.
        held_since_boot_ns: since when a pause holds its deadline, which does not fall before that ends; or ``None``.
        moved_ns: for how long pauses have held its deadline before.
    """

    pid: int
    started_ns: int
    deadline_boot_ns: int | None = None
    paused: bool = False
    held_since_boot_ns: int | None = None
    moved_ns: int = 0


@attrs.frozen(slots=True, kw_only=True)
class Ended:
    """A command that ended, with everything that a stop had to reach.

    Attributes:
        exit: how it ended.
        stopped: why it was stopped (``cancelled``, ``deadline``, ``output_limit``), or ``None``
            when it ended by itself, even if a stop had been asked for.
        survivors: its processes that live on because this user may not signal them.
        remark: a sentence of its engine about the end, where nothing better is known.
        cause: facts about why it was not launched, for a job that waited.
    """

    exit: Exit
    stopped: str | None = None
    survivors: tuple[int, ...] = ()
    remark: str | None = None
    cause: Mapping[str, Any] | None = None
