"""The helper at work: launches the waiting jobs of a state root until none can be launched without another command.

This module imports Trio late: a helper that finds nothing to do exits in half the time.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

from supervisor.admission.launch_helper import can_go_on, fires, only_one
from supervisor.errors import InvalidSettings, StateBusy, SupervisorError
from supervisor.jobdir import job_marks
from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings, config_file

__all__ = ["launch_waiting", "main"]

_CHECK_SECONDS: Final = 1.0
_IDLE_CHECKS: Final = 5
_GC_THRESHOLD: Final = 100_000
"""As in ``cli``: loading modules makes no garbage."""


def main() -> int:
    """Be the helper of the state root that the environment names; return the exit status.

    This is what ``python -m supervisor launch-waiting`` runs, without the command line's modules: a job waits for it.
    """
    gc.set_threshold(_GC_THRESHOLD, 10, 10)
    try:
        launch_waiting(_settings())
    except SupervisorError as error:
        sys.stderr.write(f"supervisor: {error.message}\n")
        return 125
    return 0


def _settings() -> Settings:
    """Return the settings. A mistake in the configuration file keeps no job from being launched.

    The state root comes from the environment, and what the file says about a job is in its record.
    """
    try:
        return Settings()
    except (InvalidSettings, StateBusy):
        given = os.environ.get(config_file.VARIABLE)
        os.environ[config_file.VARIABLE] = os.devnull
        try:
            return Settings(job_max_count=sys.maxsize)  # the file may allow more jobs to be kept: forget none
        finally:
            if given is None:
                del os.environ[config_file.VARIABLE]
            else:
                os.environ[config_file.VARIABLE] = given


def launch_waiting(settings: Settings) -> bool:
    """Launch waiting jobs as their groups get room; return ``False`` at once if another helper does.

    Raises:
        SupervisorError: the state root cannot be used.
    """
    job_marks.drop_tag()  # a job that has started this process must not count it as its own
    # Closing the catalog starts another helper for a job that has come since this one has decided to end.
    # It makes no state root: that was moved since, and its jobs are at the new place.
    with Catalog(settings, create=False, launches_waiting=True) as catalog:
        if not can_go_on(catalog.index):
            return True
        with only_one(catalog.index) as mine:
            if mine and can_go_on(catalog.index):
                _launch(settings, catalog)
    return mine


def _launch(settings: Settings, catalog: Catalog) -> None:
    import trio

    from supervisor.engines.local.engine import LocalEngine
    from supervisor.runtime.opening import open_supervisor
    from supervisor.states import State

    async def go() -> None:
        engine = LocalEngine(catalog.layout.root, settings.python, at_once=True)
        async with open_supervisor(settings, engine=engine) as sup:
            idle = 0
            while idle < _IDLE_CHECKS and can_go_on(catalog.index):
                await trio.sleep(_CHECK_SECONDS)  # what other processes do has no event here
                jobs = (await sup.metrics()).jobs
                mine = jobs.get(State.QUEUED, 0) + jobs.get(State.RUNNING, 0) + sup.deliveries.is_busy
                fire = catalog.index.read(lambda: fires(catalog.index))
                idle = 0 if mine or fire else idle + 1  # all are of another machine, container, version or supervisor

    trio.run(go)
