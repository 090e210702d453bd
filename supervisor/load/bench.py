"""One run: a trial job, the load, the audit, the report. Afterwards the jobs are deleted.

A run has a name, and a directory of its own for the workspace of its jobs and their marks. So it does not
list or cancel other jobs, and its jobs do not evict others by the limit of kept jobs.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, Final

import trio

from supervisor.errors import EndpointFailed, SupervisorError
from supervisor.load.audit import Audit, audit, forget
from supervisor.load.driver import Driver, Refused
from supervisor.load.generator import Load
from supervisor.load.mix import Mix
from supervisor.load.report import RunFacts, report
from supervisor.load.trial import own_cost, try_out

__all__ = ["Bench", "Phase"]

_ALLOW: Final = 'Start the server with --allow-command "$(supervisor bench --print-allow)".'

OpenDriver = Callable[[str], AbstractAsyncContextManager[Driver]]
"""Opens a driver that runs its jobs in the given workspace."""


class Phase(Enum):
    """The phases of a run."""

    PREPARING = "preparing"
    LOADING = "starting jobs"
    ENDING = "waiting for their ends"
    AUDITING = "auditing"
    FORGETTING = "deleting the jobs"


class Bench:
    """One run of a mix.

    Attributes:
        run_name: the value of the label of its jobs.
        load: the load and its figures; ``None`` before the first job is due.
        began: set once there is a load.
    """

    def __init__(self, mix: Mix, open_driver: OpenDriver, *, keep: bool = False, patience_seconds: float = 60) -> None:
        """Prepare a run.

        Input
            mix: the description of the load.
            open_driver: opens the driver that runs the jobs.
            keep: keep the jobs and their workspace.
            patience_seconds: how late a job may end, and how long a call may take.
        """
        self.mix = mix
        self.run_name = secrets.token_hex(3)
        self.load: Load | None = None
        self.began = trio.Event()
        self._phase = Phase.PREPARING
        self._open_driver = open_driver
        self._keep = keep
        self._patience = patience_seconds
        self._interrupts = 0
        self._cancel = True

    @property
    def phase(self) -> Phase:
        """The current phase."""
        ending = self._phase is Phase.LOADING and self.load is not None and self.load.all_due
        return Phase.ENDING if ending else self._phase

    def interrupt(self, *, cancel: bool = True) -> None:
        """Start no more jobs, and cancel the running ones or let them end. The second time, stop waiting."""
        self._interrupts += 1
        self._cancel = cancel
        if self.load is not None:
            self._interrupt(self.load)

    def _interrupt(self, load: Load) -> None:
        if self._interrupts == 1:
            load.interrupt(cancel=self._cancel)
        elif self._interrupts > 1:
            load.abandon()

    async def run(self) -> dict[str, Any]:
        """Run to the end, and return the report.

        Raises:
            SupervisorError: no job could be started, and there is no report.
        """
        scratch = await trio.to_thread.run_sync(lambda: os.path.realpath(tempfile.mkdtemp(prefix="supervisor-bench-")))
        try:
            workspace = f"{scratch}/workspace"
            os.mkdir(workspace)
            async with self._open_driver(workspace) as driver:
                return await self._run(driver, scratch)
        finally:
            if not self._keep:
                with trio.CancelScope(shield=True):  # it deletes a few small files
                    await trio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))

    async def _run(self, driver: Driver, scratch: str) -> dict[str, Any]:
        marks_readable = await self._trial(driver, f"{scratch}/trial")
        cost = await own_cost(self.mix)
        marks = f"{scratch}/marks" if marks_readable else ""
        load = Load(driver, self.mix, self.run_name, marks=marks, patience_seconds=self._patience)
        self.load = load
        self.began.set()
        self._phase = Phase.LOADING
        self._interrupt(load)
        cpu, began = time.process_time(), trio.current_time()
        await load.run()
        facts = RunFacts(
            run=self.run_name,
            target=driver.facts,
            loaded_seconds=trio.current_time() - began,
            cpu_seconds=time.process_time() - cpu,
            shares_process=driver.facts["kind"] == "local",
            own_cost=cost,
            same_clock=driver.same_machine or marks_readable,
            kept=self._keep,
            gave_up=self._interrupts > 1,
        )
        self._phase = Phase.AUDITING
        here = driver.same_machine and marks_readable
        found = await audit(
            driver,
            load,
            self.run_name,
            marks=marks or None,
            processes=here,
            patience_seconds=self._patience,
            limit=driver.facts.get("limit"),
        )
        facts.most_at_once = found.most_at_once
        await self._delete_jobs(driver, load, found, facts)
        if not marks_readable:
            facts.not_checked.append("how often each job ran, and its remaining processes: it ran on another machine")
        if not driver.keeps_jobs:
            facts.not_checked.append("the final list of jobs: fetching the output of a job deletes the job")
        return report(load, [*load.faults, *found.faults], facts)

    async def _trial(self, driver: Driver, marks: str) -> bool:
        try:
            return await try_out(driver, self.run_name, marks, self._patience)
        except Refused as error:
            if isinstance(error.__cause__, SupervisorError):
                raise error.__cause__ from None
            message = f"a first job was refused: {error.message}"
            details = {"code": error.code, **driver.facts}
            raise EndpointFailed(message, repair=_ALLOW, details=details) from error

    async def _delete_jobs(self, driver: Driver, load: Load, found: Audit, facts: RunFacts) -> None:
        if found.listed is None:
            unfetched = (record.job is not None and record.output is None for record in load.records.values())
            facts.not_forgotten = load.acknowledged if driver.keeps_jobs else sum(unfetched)
            facts.not_checked.append("whether all jobs are listed: the list was refused")
            return
        facts.found_again = found.found_again
        facts.left_running = found.left_running
        if not self._keep and self._interrupts < 2:
            self._phase = Phase.FORGETTING
            facts.not_forgotten = await forget(driver, found, self._patience)
            facts.left_running = ()
