"""The two facts about a command that its records hold: that it was launched, and how it ended."""

from __future__ import annotations

import attrs

from supervisor.model import Exit

__all__ = ["Ended", "Launched"]


@attrs.frozen(slots=True, kw_only=True)
class Launched:
    """A command that was spawned. Boot-clock times are comparable only within one boot.

    Attributes:
        pid: its process id.
        started_ns: when, by the wall clock.
        deadline_boot_ns: when its deadline falls, on the boot clock.
    """

    pid: int
    started_ns: int
    deadline_boot_ns: int | None = None


@attrs.frozen(slots=True, kw_only=True)
class Ended:
    """A command that ended, with everything that a stop had to reach.

    Attributes:
        exit: how.
        stopped: why it was stopped (``cancelled``, ``deadline``, ``output_limit``), or ``None``
            when it ended by itself, even if a stop had been asked for.
        survivors: processes of it that could not be ended because they are not ours to signal.
        remark: what its engine says about the end, where nothing better is known.
    """

    exit: Exit
    stopped: str | None = None
    survivors: tuple[int, ...] = ()
    remark: str | None = None
