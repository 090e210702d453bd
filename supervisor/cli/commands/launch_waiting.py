"""``launch-waiting``: launch the waiting jobs of the state root."""

from __future__ import annotations

from supervisor.cli import exits
from supervisor.cli.front import Invocation, command

__all__ = ["launch_waiting"]


@command("launch-waiting", short_help="Launch waiting jobs until none can be launched.")
def launch_waiting(call: Invocation) -> int:
    """Launch the waiting jobs of the state root as their groups get room, and exit when none can be launched.

    Commands that leave waiting jobs behind start this by themselves. Running jobs go on when it ends. If another
    process does this already, the command exits at once.
    """
    from supervisor.runtime import launch_waiting

    if not launch_waiting.launch_waiting(call.settings):
        call.note("Another process launches the waiting jobs already.")
    return exits.OK
