"""The live view of a load: lines that are redrawn on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import sys
from typing import Final

import trio

from supervisor.cli import terminal, text
from supervisor.load.bench import Bench, Phase
from supervisor.load.driver import RUN_LABEL
from supervisor.load.generator import Load
from supervisor.load.series import percentile
from supervisor.states import State

__all__ = ["Lines", "Screen"]

_SHOWN: Final = {
    "start_due": "start",
    "exit_known": "exit known",
    "cancel_ended": "cancel",
    "deadline_overshoot": "late",
}


class Lines:
    """A plain line on stderr every few seconds, for logs."""

    every = 5.0
    first_after = 1.0

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def run(self) -> None:
        """Show the load until cancelled."""
        await self._bench.began.wait()
        assert self._bench.load is not None  # noqa: S101  # it has begun
        self.note(f"begun; its jobs have the label {RUN_LABEL}={self._bench.run_name}")
        await trio.sleep(self.first_after)
        while True:
            self.show(self._bench.load)
            await trio.sleep(self.every)

    def show(self, load: Load) -> None:
        """Write the current figures."""
        terminal.write(f"{_summary(self._bench, load)}; {'; '.join(_latencies(load))}\n")

    def note(self, line: str) -> None:
        """Write a line of its own."""
        terminal.write(f"{text.one_line(line)}\n")

    def erase(self) -> None:
        """Erase the lines that can be redrawn."""


class Screen(Lines):
    """A few lines at the bottom of a terminal, redrawn several times a second."""

    every = first_after = 0.25

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._drawn = 0

    def show(self, load: Load) -> None:
        """Redraw the lines with the current figures."""
        lines = [terminal.fitted(line) for line in (_summary(self._bench, load), *_latencies(load))]
        if terminal.in_colour(sys.stderr):
            lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        terminal.write("\r" + up + "".join(f"{line}\x1b[K\n" for line in lines))
        self._drawn = len(lines)

    def note(self, line: str) -> None:
        """Write a line of its own above the redrawn ones."""
        self.erase()
        super().note(line)

    def erase(self) -> None:
        """Erase the lines."""
        if self._drawn:
            terminal.write(f"\r\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0


def _summary(bench: Bench, load: Load) -> str:
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
    lines: list[str] = []
    for name, shown in _SHOWN.items():
        recent = load.figures[name].recent()
        if recent:
            p50, p99 = (text.milliseconds(percentile(recent, percent) * 1000) for percent in (50, 99))
            lines.append(f"{shown} p50 {p50} p99 {p99} ms")
        else:
            lines.append(f"{shown} -")
    return lines
