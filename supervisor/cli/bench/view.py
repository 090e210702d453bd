"""What people see while a load goes on: a few lines that are drawn anew, or a plain line now and then."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

import trio

from supervisor.cli import text
from supervisor.cli.front import in_colour
from supervisor.load.bench import Bench, Phase
from supervisor.load.driver import RUN_LABEL
from supervisor.load.generator import Load
from supervisor.load.series import percentile
from supervisor.states import State

__all__ = ["Lines", "Screen"]

_DRAWN_EVERY: Final = 0.25
_LINE_EVERY: Final = 5.0
_SHOWN: Final = {
    "start_due": "start",
    "exit_known": "exit known",
    "cancel_ended": "cancel",
    "deadline_overshoot": "late",
}


class Lines:
    """A plain line on stderr every few seconds: for logs."""

    every = _LINE_EVERY
    first_after = 1.0

    def __init__(self, bench: Bench) -> None:
        """Show a run."""
        self._bench = bench

    async def run(self) -> None:
        """Show it until cancelled."""
        await self._bench.began.wait()
        assert self._bench.load is not None  # noqa: S101  # it has begun
        self.say(f"begun; its jobs have the label {RUN_LABEL}={self._bench.run_name}")
        await trio.sleep(self.first_after)
        while True:
            self.show(self._bench.load)
            await trio.sleep(self.every)

    def show(self, load: Load) -> None:
        """Write how it stands."""
        self._put(f"{_standing(self._bench, load)}; {'; '.join(_latencies(load))}\n")

    def say(self, line: str) -> None:
        """Tell people something, on a line of its own."""
        self._put(f"{text.one_line(line)}\n")

    def erase(self) -> None:
        """Take away what was drawn."""

    @staticmethod
    def _put(words: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that has gone away is not told
            sys.stderr.write(words)
            sys.stderr.flush()


class Screen(Lines):
    """A few lines at the bottom of a terminal, drawn anew several times a second."""

    every = first_after = _DRAWN_EVERY

    def __init__(self, bench: Bench) -> None:
        """Show a run."""
        super().__init__(bench)
        self._drawn = 0

    @staticmethod
    def possible() -> bool:
        """Whether stderr is a terminal on which lines can be drawn anew."""
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, load: Load) -> None:
        """Draw how it stands."""
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        except OSError:
            width = 80
        lines = [_standing(self._bench, load), *_latencies(load)]
        drawn = [f"{line[: width - 1]}\x1b[K" for line in lines]
        if in_colour(sys.stderr):
            drawn[0] = f"\x1b[1m{lines[0][: width - 1]}\x1b[0m\x1b[K"
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._put("\r" + up + "\n".join(drawn) + "\n")
        self._drawn = len(lines)

    def say(self, line: str) -> None:
        """Tell people something, on a line of its own above the others."""
        self.erase()
        super().say(line)

    def erase(self) -> None:
        """Take away what was drawn."""
        if self._drawn:
            self._put(f"\r\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0


def _standing(bench: Bench, load: Load) -> str:
    elapsed = trio.current_time() - load.began
    ended = sum(load.ended.values())
    left = f" of {text.duration(load.mix.for_seconds)}" if bench.phase is Phase.LOADING else ""
    by_state = ", ".join(f"{load.ended[state]} {state.value}" for state in State if load.ended[state])
    wrong = len(load.faults) + sum(load.errors.values())
    words = [
        f"{text.duration(elapsed)}{left}, {bench.phase.value}",
        f"{load.acknowledged} started ({load.acknowledged / max(elapsed, 1e-3):.1f}/s of {load.mix.rate:g})",
        f"{load.in_flight} in flight",
        f"{ended} ended" + (f" ({by_state})" if by_state else ""),
        f"{wrong} wrong",
    ]
    return ", ".join(words)


def _latencies(load: Load) -> list[str]:
    """Return what has been measured since the last time."""
    lines: list[str] = []
    for name, shown in _SHOWN.items():
        recent = load.figures[name].recent()
        if recent:
            p50, p99 = (text.milliseconds(percentile(recent, percent) * 1000) for percent in (50, 99))
            lines.append(f"{shown} p50 {p50} p99 {p99} ms")
        else:
            lines.append(f"{shown} -")
    return lines
