"""Jobs with a terminal: their start, what is typed into them, and what they print."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final

import trio

import supervisor
from benchmarks.cases.throughput import TRUE
from benchmarks.figures import OURS, Figure, Together, interleaved
from benchmarks.plan import Plan
from supervisor.jobdir import records

__all__ = ["terminals"]

_WITHOUT: Final = "without a terminal"
_BARE: Final = "a bare pty and Popen"
_ECHO: Final = "a bare pty"
_COPIED: Final = "a bare pty, copied to a file"
_READ_BYTES: Final = 65536


def terminals(plan: Plan) -> Iterator[Figure]:
    """Measure a start, an answer to input, and output through a terminal."""
    yield from _starts(plan)
    yield _answers(plan)
    yield _output(plan)


def _starts(plan: Plan) -> Iterator[Figure]:
    times = plan.pick(3, 60, 300)

    async def taking_turns(sup: supervisor.Supervisor) -> dict[str, float]:
        taken: dict[str, list[float]] = {OURS: [], _WITHOUT: [], _BARE: []}
        for _ in range(times):
            for name, pty in ((OURS, True), (_WITHOUT, False)):
                begun = time.perf_counter()
                job = await sup.start(TRUE, pty=pty)
                taken[name].append(time.perf_counter() - begun)
                await sup.wait(job.job_id)
            begun = time.perf_counter()
            with _bare(TRUE) as (process, _):
                taken[_BARE].append(time.perf_counter() - begun)
                process.wait()
        return {name: median(each) * 1e3 for name, each in taken.items()}

    together = Together(lambda: plan.ours(taking_turns))
    contenders = {name: together.one(name) for name in (OURS, _WITHOUT, _BARE)}
    values, missing = interleaved(plan.rounds, contenders)
    yield Figure(
        case="pty", name="start() of a job with a terminal, until launched", unit="ms", values=values, missing=missing
    )


@contextlib.contextmanager
def _bare(argv: tuple[str, ...]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command on a terminal, and give the other end of that."""
    master, slave = os.openpty()
    tty.setraw(slave)
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    with process:
        try:
            yield process, master
        finally:
            os.close(master)
            process.kill()


def _answers(plan: Plan) -> Figure:
    """Measure from a line that is sent until the command's copy of it is in the output."""
    times = plan.pick(3, 50, 300)
    command = ("sh", "-c", "stty raw -echo; echo up; exec cat")

    async def ours(sup: supervisor.Supervisor) -> float:
        job = await sup.start(command, pty=True)
        (output,) = sup.settings.state_dir.glob(f"*-*/{job.job_id}/{records.STDOUT}")
        await _await_size(output, 3)
        taken: list[float] = []
        for _ in range(times):
            size = output.stat().st_size
            begun = time.perf_counter()
            await sup.send(job.job_id, b"x")
            await _await_size(output, size + 1)
            taken.append(time.perf_counter() - begun)
        await sup.cancel(job.job_id)
        return median(taken) * 1e3

    def bare() -> float:
        taken: list[float] = []
        with _bare(command) as (_, master):
            _read(master, 3)
            for _ in range(times):
                begun = time.perf_counter()
                os.write(master, b"x")
                _read(master, 1)
                taken.append(time.perf_counter() - begun)
        return median(taken) * 1e3

    values, missing = interleaved(plan.rounds, {OURS: lambda: plan.ours(ours), _ECHO: bare})
    return Figure(
        case="pty", name="send() until the command's answer is in the output", unit="ms", values=values,
        missing=missing, note="any process may send; a thread delivers each message, over a socket of the keeper",
    )  # fmt: skip


async def _await_size(output: Path, size: int) -> None:
    with trio.fail_after(60):
        while os.stat(output).st_size < size:  # a thread takes longer
            await trio.lowlevel.checkpoint()


def _read(master: int, count: int) -> None:
    while count > 0:
        count -= len(os.read(master, count))


def _output(plan: Plan) -> Figure:
    size = plan.pick(1 << 18, 1 << 23, 1 << 25)
    command = ("dd", "if=/dev/zero", "bs=64k", f"count={size >> 16}", "status=none")

    def ours(*, pty: bool) -> Callable[[], float]:
        async def body(sup: supervisor.Supervisor) -> float:
            begun = time.perf_counter()
            job = await sup.wait((await sup.start(command, pty=pty)).job_id)
            taken = time.perf_counter() - begun
            if job.stdout_bytes != size:
                raise AssertionError(job)
            return size / taken / 1e6

        return lambda: plan.ours(body, plan.settings(job_max_output_bytes=2 * size))

    def copied() -> float:
        target = plan.fresh("copied") / "file"
        begun, left = time.perf_counter(), size
        with target.open("wb", buffering=0) as file, _bare(command) as (process, master):
            while left > 0:
                data = os.read(master, _READ_BYTES)
                file.write(data)
                left -= len(data)
            process.wait()
        return size / (time.perf_counter() - begun) / 1e6

    contenders = {OURS: ours(pty=True), _COPIED: copied, _WITHOUT: ours(pty=False)}
    values, missing = interleaved(plan.rounds, contenders)
    return Figure(
        case="pty", name=f"{size / (1 << 20):g} MiB through a terminal", unit="MB/s", values=values, missing=missing,
        note="the keeper copies what a terminal prints; without one, a command writes to its file itself",
    )  # fmt: skip
