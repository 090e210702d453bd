"""An error while looking settles nothing about jobs that wait: no command ends, admits, deletes or forgets one of them.

Each command runs as in a process of its own over a root with every kind of waiting job, with one call of the package
failing, once or for good. It tells the truth or an error that can be retried, and nothing on disk or in the queue
changes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.admission import launch_helper
from supervisor.jobdir import records
from supervisor.system import processes
from tests.faults.test_deeds import files_of, is_retryable, run
from tests.faults.test_looks import ERRORS, Shim, Site, shim
from tests.jobs.test_rebuilt_queue import SECOND, Root, tables

__all__ = ["shim"]  # a fixture

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs /proc")


class Waiting:
    """Jobs of a supervisor that is gone: one that runs, one that has its slots, and one of each kind that waits."""

    def __init__(self, root: Root) -> None:
        self.root = root
        running = root.start(groups=["a"])
        root.launch(running)
        root.catalog.status(running)
        self.jobs = {
            "granted": root.start(owner="gone", groups=["b"]),
            "limit": root.start(owner="gone", groups=["a"]),
            "held": root.start(owner="gone", hold=True),
            "dependency": root.start(owner="gone", after=[{"job_id": running, "when": "ok"}]),
            "not_before": root.start(owner="gone", delay_ns=3600 * SECOND, groups=["b"]),
        }
        for job_id in self.jobs.values():
            Path(root.directory(job_id), records.ORDERS).write_text("{}")
        root.turn()
        self.job_ids = [row.job_id for row in root.rows()]
        self.before = self.now()

    def now(self) -> Any:
        """Return all that must stay: the files of the jobs, and the queue."""
        return [files_of(self.root.directory(job_id)) for job_id in self.job_ids], tables(self.root.index)


@pytest.fixture
def waiting(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    root = Root(state_dir)
    now = root.catalog.layout.clock.moment()
    root.wall_ns, root.boot_ns = now.wall_ns, now.boot_ns
    monkeypatch.setattr(launch_helper, "_start", lambda *_: None)  # the process that would launch them
    yield Waiting(root)
    root.close()


COMMANDS: dict[str, tuple[str, ...]] = {
    "list": ("list", "--all"),
    "wait": ("wait", "--timeout", "0"),
    "groups": ("group", "list"),
    "prune": ("prune",),
    **{f"status-{kind}": ("status",) for kind in ("granted", "limit", "held", "dependency", "not_before")},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_at_any_look_changes_no_waiting_job(waiting: Waiting, shim: Shim, name: str) -> None:
    command, _, kind = name.partition("-")
    words = [*COMMANDS[name], *([waiting.jobs[kind]] if kind else waiting.jobs.values() if command == "wait" else ())]
    shim.seen.clear()
    told, seen = run(*words), dict(shim.seen)
    sites = {site for site in seen if not site[0].startswith(("cli", "log", "embedding"))}
    assert told.get("error") is None or command == "wait"
    assert sites
    assert waiting.now() == waiting.before
    for site in sorted(sites):
        each = [(number, times, 0) for number in ERRORS for times in (1, 1 << 30)]
        later = [(errno.EIO, 1, skipped) for skipped in range(1, min(seen[site], 20))]
        for number, times, skipped in each + later:
            shim.arm(site, number, times, skipped)
            try:
                answer = run(*words)
            finally:
                shim.fails = None
            case: tuple[Site, str, int, int] = (site, errno.errorcode[number], times, skipped)
            assert states(answer) <= states(told) or is_retryable(answer), (case, answer)
            assert waiting.now() == waiting.before, case
    assert states(run(*words)) == states(told)


def states(answer: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the states of the jobs in an answer."""
    jobs = answer.get("jobs", [answer] if "job_id" in answer else [])
    return {(job["job_id"], job["status"]) for job in jobs}
