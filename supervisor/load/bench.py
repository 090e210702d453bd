"""One run: a trial job, the load, a look at what is left, the report; afterwards the jobs are forgotten.

A run has a name, and a directory of its own for the workspace of its jobs and their marks, so that
nobody else's jobs are touched: not listed, not cancelled, and not pushed out by the limit of those kept.
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
from supervisor.load.report import Surroundings, report
from supervisor.load.trial import own_cost, try_out

__all__ = ["Bench", "Phase"]

_ALLOW: Final = 'Have the server started with --allow-command "$(supervisor bench --print-allow)".'

OpenDriver = Callable[[str], AbstractAsyncContextManager[Driver]]
"""Given a workspace for the jobs, gives a driver."""


class Phase(Enum):
    """What a run is at."""

    PREPARING = "preparing"
    LOADING = "starting jobs"
    ENDING = "waiting for their ends"
    AUDITING = "looking at what is left"
    FORGETTING = "forgetting the jobs"


class Bench:
    """One run of a mix.

    Attributes:
        run_name: the value of the label that its jobs have.
        load: what is measured; ``None`` before the first job is due.
        began: set when there is a load.
    """

    def __init__(self, mix: Mix, open_driver: OpenDriver, *, keep: bool = False, patience_seconds: float = 60) -> None:
        """Prepare a run.

        Input
            mix: the description.
            open_driver: opens whom the jobs are asked of.
            keep: leave the jobs, and their workspace, where they are.
            patience_seconds: how long after its time a job may end, and how long a call may take.
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
        """What it is at."""
        ending = self._phase is Phase.LOADING and self.load is not None and self.load.all_due
        return Phase.ENDING if ending else self._phase

    def interrupt(self, *, cancel: bool = True) -> None:
        """Start no more jobs, and ``cancel`` those that run or let them end; the second time, wait for nothing."""
        self._interrupts += 1
        self._cancel = cancel
        if self.load is not None:
            self._pass_on(self.load)

    def _pass_on(self, load: Load) -> None:
        if self._interrupts == 1:
            load.interrupt(cancel=self._cancel)
        elif self._interrupts > 1:
            load.abandon()

    async def run(self) -> dict[str, Any]:
        """Do it all, and return the report.

        Raises:
            SupervisorError: nothing could be started; there is no report then.
        """
        scratch = await trio.to_thread.run_sync(lambda: os.path.realpath(tempfile.mkdtemp(prefix="supervisor-bench-")))
        try:
            workspace = f"{scratch}/workspace"
            os.mkdir(workspace)
            async with self._open_driver(workspace) as driver:
                return await self._with(driver, scratch)
        finally:
            if not self._keep:
                with trio.CancelScope(shield=True):  # a few files of ours
                    await trio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))

    async def _with(self, driver: Driver, scratch: str) -> dict[str, Any]:
        marks_seen = await self._trial(driver, f"{scratch}/trial")
        cost = await own_cost(self.mix)
        marks = f"{scratch}/marks" if marks_seen else ""
        load = Load(driver, self.mix, self.run_name, marks=marks, patience_seconds=self._patience)
        self.load = load
        self.began.set()
        self._phase = Phase.LOADING
        self._pass_on(load)
        cpu, began = time.process_time(), trio.current_time()
        await load.run()
        beside = Surroundings(
            run=self.run_name,
            target=driver.facts,
            loaded_seconds=trio.current_time() - began,
            cpu_seconds=time.process_time() - cpu,
            shares_process=driver.facts["kind"] == "local",
            own_cost=cost,
            same_clock=driver.same_machine or marks_seen,
            kept=self._keep,
            gave_up=self._interrupts > 1,
        )
        self._phase = Phase.AUDITING
        here = driver.same_machine and marks_seen
        found = await audit(
            driver, load, self.run_name, marks=marks or None, processes=here, patience_seconds=self._patience
        )
        await self._clear(driver, load, found, beside)
        if not marks_seen:
            beside.not_checked.append("how often each job ran, and what is left of it: it runs on another machine")
        if not driver.keeps:
            beside.not_checked.append("the list of jobs at the end: each is forgotten when its output is fetched")
        return report(load, [*load.faults, *found.faults], beside)

    async def _trial(self, driver: Driver, marks: str) -> bool:
        try:
            return await try_out(driver, self.run_name, marks, self._patience)
        except Refused as error:
            if isinstance(error.__cause__, SupervisorError):
                raise error.__cause__ from None
            message = f"a first job was refused: {error.message}"
            details = {"code": error.code, **driver.facts}
            raise EndpointFailed(message, repair=_ALLOW, details=details) from error

    async def _clear(self, driver: Driver, load: Load, found: Audit, beside: Surroundings) -> None:
        if found.listed is None:
            unfetched = (record.job is not None and record.found is None for record in load.records.values())
            beside.not_forgotten = load.acknowledged if driver.keeps else sum(unfetched)
            beside.not_checked.append("whether all jobs are listed: the list was refused")
            return
        beside.found_again = found.found_again
        beside.left_running = found.left_running
        if not self._keep and self._interrupts < 2:
            self._phase = Phase.FORGETTING
            beside.not_forgotten = await forget(driver, found, self._patience)
            beside.left_running = ()
