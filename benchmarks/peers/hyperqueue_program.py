"""A server and a worker of HyperQueue: ``python -m benchmarks.peers.hyperqueue_program FOLDER CORES``.

Reads one JSON array a line, an action and its arguments, and answers each with a line.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from hyperqueue import Job
from hyperqueue.cluster import LocalCluster, WorkerConfig


class _SeenError(Exception):
    """Ends its wait after the first look; the wait itself looks once a second."""


class _Queue:
    def __init__(self, cluster: LocalCluster, folder: str) -> None:
        self._client: Any = cluster.client()
        self._folder = folder
        self._numbers = itertools.count(1)  # as it counts its jobs

    def enter(self, argv: list[str], tasks: int) -> int:
        job, number = Job(default_workdir=self._folder, max_fails=None), next(self._numbers)
        for task in range(tasks):
            place = f"{self._folder}/{number}-{task}"
            job.program(argv, stdout=f"{place}.out", stderr=f"{place}.err")
        submitted = self._client.submit(job)
        if submitted.id != number:
            raise AssertionError(submitted.id)
        return number

    def look(self, job: int) -> Mapping[str, Any]:
        """Return the counts of a job."""
        seen: list[Mapping[str, Any]] = []

        def told(jobs: Mapping[int, Mapping[str, Any]]) -> None:
            seen.append(jobs[job])
            raise _SeenError

        try:
            self._client.connection.wait_for_jobs((job,), told)
        except _SeenError:
            return seen[0]
        raise AssertionError(job)

    def wait(self, job: int) -> None:
        while not (found := self.look(job))["completed"]:
            time.sleep(0.0005)
        if found["failed"]:
            raise AssertionError(found)

    def answer(self, what: str, given: list[Any]) -> object:
        """Run one request."""
        match what:
            case "run_all":
                begun = time.perf_counter()
                job = self.enter(*given)
                taken = time.perf_counter() - begun
                self.wait(job)
                return taken
            case "start":
                return self.enter(given[0], 1)
            case "wait":
                self.wait(*given)
                return None
            case "status":
                return dict(self.look(*given))
        raise AssertionError(what)


def main(folder: str, cores: int) -> None:
    """Serve until stdin ends, or until the request to close."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # it prints a table when it starts
    with LocalCluster(folder, WorkerConfig(cores=cores)) as cluster:
        queue = _Queue(cluster, folder)
        for line in iter(sys.stdin.readline, ""):
            what, *given = json.loads(line)
            if what == "close":
                break
            print(json.dumps(queue.answer(what, given)), file=answers, flush=True)
    print("null", file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
