"""State roots with many finished jobs, which the package's own store enters without running them."""

from __future__ import annotations

import time
from pathlib import Path

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.model import Exit
from supervisor.states import Reason, State
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes

__all__ = ["fill"]


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
                job_id = new_job_id()
                record = {
                    "v": 1,
                    "job_id": job_id,
                    "kind": "raw",
                    "argv": ["true"],
                    "workspace": place,
                    "labels": {"batch": str(number % 100)},
                    "created_ns": now,
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
