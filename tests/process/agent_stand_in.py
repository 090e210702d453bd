"""A stand-in for an agent CLI: replays a captured run, with its timing.

It is installed under the name of the program (``claude``, ``codex``), first on PATH.
The environment configures it:

``STAND_IN_RUN``   the captured run: JSON with ``stdout``, ``stderr``, ``exit_code``, ``signals_sent``
``STAND_IN_UP``    a named pipe that gets its pid, on a line, once it can be signalled
``STAND_IN_GATE``  a named pipe; a line is read from it before each line of output, and before the end

Without a gate each line is written at its own timestamp, the last one after the
``duration_ms`` in it. A run that ended by a signal waits for one. Signals have the effect
that they have on ``claude``: SIGTERM and SIGHUP end it with a status, SIGINT with status 0 and
without output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime

ENDS = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 0}


def moments(lines: list[str]) -> Iterator[float]:
    """Return for each line its time in seconds after the start."""
    first = None
    now = 0.0
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            event = {}
        if "duration_ms" in event:
            now = max(now, event["duration_ms"] / 1000)
        elif "timestamp" in event:
            at = datetime.fromisoformat(event["timestamp"]).timestamp()
            first = at if first is None else first
            now = max(now, at - first)
        yield now


def main() -> None:
    for number, status in ENDS.items():
        signal.signal(number, lambda *_, status=status: os._exit(status))
    with open(os.environ["STAND_IN_RUN"], encoding="utf-8") as file:
        run = json.load(file)
    if "STAND_IN_UP" in os.environ:
        with open(os.environ["STAND_IN_UP"], "w", encoding="ascii") as up:
            up.write(f"{os.getpid()}\n")
    gate = None
    if "STAND_IN_GATE" in os.environ:
        gate = open(os.environ["STAND_IN_GATE"], "rb", buffering=0)  # noqa: SIM115  # until the end
    os.write(2, run["stderr"].encode())
    begun = time.monotonic()
    lines = run["stdout"].splitlines(keepends=True)
    for line, moment in zip(lines, moments(lines), strict=True):
        if gate is not None:
            gate.readline()
        else:
            time.sleep(max(0.0, begun + moment - time.monotonic()))
        os.write(1, line.encode())
    if gate is not None:
        gate.readline()
    if run["signals_sent"]:
        while True:
            signal.pause()
    sys.exit(run["exit_code"])


main()
