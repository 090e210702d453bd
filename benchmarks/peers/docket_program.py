"""Docket and its worker in one process: ``python -m benchmarks.peers.docket_program URL FLIGHT``.

Reads one JSON array a line, an action and its arguments, and answers each with a line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from docket import Docket, Worker


async def run_command(argv: list[str]) -> None:
    """The task: run a command to its end."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:  # the task was cancelled, so the command has to be stopped
            process.kill()
    if code != 0:
        raise AssertionError(code)


async def answer(queue: Docket, what: str, given: list[Any]) -> object:
    """Run one request."""
    match what:
        case "run_all":
            argv, jobs, flight = given
            left = iter(range(jobs))
            await asyncio.gather(*(_work(queue, argv, left) for _ in range(flight)))
            return None
        case "queue":
            argv, jobs = given
            begun = time.perf_counter()
            executions = [await queue.add(run_command)(argv) for _ in range(jobs)]
            taken = time.perf_counter() - begun
            for each in executions:
                await each.get_result()
            return taken
        case "start":
            return (await queue.add(run_command)(*given)).key
        case "stop":
            await queue.cancel(*given)
            return None
    execution: Any = await queue.get_execution(*given)
    if what == "wait":
        await execution.get_result()
        return None
    return str(execution.state)


async def _work(queue: Docket, argv: list[str], left: Iterator[int]) -> None:
    for _ in left:
        execution = await queue.add(run_command)(argv)
        await execution.get_result()


async def main(url: str, flight: int) -> None:
    """Serve until stdin ends."""
    often = timedelta(milliseconds=5)  # the default is to poll every 250 ms
    pace: Any = {"minimum_check_interval": often, "scheduling_resolution": often}
    async with Docket(name="benchmark", url=url) as queue, Worker(queue, concurrency=flight, **pace) as worker:
        queue.register(run_command)
        running = asyncio.create_task(worker.run_forever())
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, *given = json.loads(line)
            print(json.dumps(await answer(queue, what, given)), flush=True)
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
