"""State roots with many finished or waiting jobs, which the package's own store enters without running them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.model import Exit
from supervisor.states import Reason, State
from supervisor.store import Row
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes

__all__ = ["FILES_ALONE", "entering", "files_alone", "fill", "waiting_jobs"]

FILES_ALONE: Final = "a directory and two files each"


def fill(settings: supervisor.Settings, count: int, workspaces: int = 1) -> list[str]:
    """Enter ``count`` finished jobs, every tenth a failed one, each with its directory, and return their ids.

    They alternate between ``workspaces`` directories; the current one is the first.
    """
    here = Path.cwd().resolve()
    places = [str(here), *(str(here / f"workspace-{number}") for number in range(1, workspaces))]
    ids: list[str] = []
    with Catalog(settings) as catalog:
        owner = catalog.layout.owners.register()

        def enter() -> None:
            for number in range(count):
                place = places[number % workspaces]
                now = time.time_ns()
                record = _record(place, owner, now) | {"labels": {"batch": str(number % 100)}}
                job_id = record["job_id"]
                text = dump(record)
                directory = catalog.layout.make_job(workspace_key(place), job_id, text.encode("ascii"))
                Path(directory, records.STDOUT).touch(0o600)
                row = row_of_record(workspace_key(place), record, text, ours=True)
                row.started_ns = now
                catalog.index.insert(row)
                failed = number % 10 == 9
                outcome = JobOutcome(
                    state=State.FAILED if failed else State.DONE,
                    reason=Reason.NONZERO_EXIT if failed else Reason.EXITED,
                    exit=Exit(exit_code=int(failed), ended_ns=now),
                    error=supervisor.model.ErrorInfo(code="job_failed", message="It failed.", repair="Look at it.")
                    if failed
                    else None,
                )
                catalog.index.finish(row.with_outcome(outcome))
                ids.append(job_id)

        catalog.index.write(enter)
        catalog.index.checkpoint()
        catalog.layout.owners.unregister(owner)
    return ids


@contextlib.contextmanager
def waiting_jobs(settings: supervisor.Settings, count: int, group: str) -> Generator[list[str]]:
    """Enter ``count`` jobs that wait in a group, each with its directory, for a supervisor that is open meanwhile.

    Gives their ids. Afterwards they are jobs without a supervisor, and without orders.
    """
    with Catalog(settings) as catalog, entering(catalog, group) as enter:
        ids = enter(count)
        catalog.index.checkpoint()
        yield ids


@contextlib.contextmanager
def entering(catalog: Catalog, group: str) -> Generator[Callable[[int], list[str]]]:
    """Give a function that enters so many jobs as ``waiting_jobs`` does, over the connection of ``catalog``."""
    here = str(Path.cwd().resolve())
    owner = catalog.layout.owners.register()

    def enter(count: int) -> list[str]:
        rows: list[Row] = []
        for _ in range(count):
            record = _record(here, owner, time.time_ns()) | {"groups": [group], "priority": 0, "weight": 1}
            text = dump(record)
            catalog.layout.make_job(workspace_key(here), record["job_id"], text.encode("ascii"))
            rows.append(row_of_record(workspace_key(here), record, text, ours=True))
        catalog.index.write(lambda: catalog.index.insert_all(rows))
        return [row.job_id for row in rows]

    try:
        yield enter
    finally:
        catalog.layout.owners.unregister(owner)


def files_alone(folder: Path, count: int) -> float:
    """Return how many directories with two files of the size of a record can be made in a second."""
    begun = time.perf_counter()
    for number in range(count):
        directory = folder / str(number)
        directory.mkdir()
        for name in ("one", "two"):
            (directory / name).write_bytes(b"x" * 600)
    return count / (time.perf_counter() - begun)


def _record(workspace: str, owner: str, created_ns: int) -> dict[str, Any]:
    return {
        "v": 1,
        "job_id": new_job_id(),
        "kind": "raw",
        "argv": ["true"],
        "workspace": workspace,
        "labels": {},
        "created_ns": created_ns,
        "deadline_seconds": 1800.0,
        "ttl_seconds": 86400.0,
        "grace_seconds": 5.0,
        "output_limit": 1 << 26,
        "idempotency_key": None,
        "digest": "",
        "engine": "local",
        "owner": owner,
        "host": processes.host_id(),
        "boot": processes.boot_id(),
        "ns": processes.pid_namespace(),
    }
