"""``launch-waiting``: launch the waiting jobs of the state root."""

from __future__ import annotations

from supervisor.cli import exits
from supervisor.cli.front import Invocation, command
from supervisor.states import State

__all__ = ["launch_waiting"]

_CHECK_SECONDS = 1.0
_IDLE_CHECKS = 5


@command("launch-waiting", short_help="Launch waiting jobs until none can be launched.")
def launch_waiting(call: Invocation) -> int:
    """Launch the waiting jobs of the state root as their groups get room, and exit when none can be launched.

    Commands that leave waiting jobs behind start this by themselves. Running jobs go on when it ends.
    """
    import trio

    from supervisor.admission.helper import can_go_on
    from supervisor.jobdir import job_marks
    from supervisor.jobs.catalog import Catalog
    from supervisor.runtime.opening import open_supervisor

    job_marks.drop_tag()  # a job that has started this process must not count it as its own

    async def main() -> None:
        async with open_supervisor(call.settings) as sup:
            with Catalog(call.settings) as catalog:
                idle = 0
                while idle < _IDLE_CHECKS and can_go_on(catalog.index):
                    await trio.sleep(_CHECK_SECONDS)  # what other processes do has no event here
                    jobs = (await sup.metrics()).jobs
                    mine = jobs.get(State.QUEUED, 0) + jobs.get(State.RUNNING, 0)
                    idle = 0 if mine else idle + 1  # all are of another machine, container, version or supervisor

    trio.run(main)
    return exits.OK
