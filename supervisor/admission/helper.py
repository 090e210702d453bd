"""The helper: a process that launches waiting jobs while no supervisor is open.

A process that leaves waiting jobs behind starts it: ``supervisor launch-waiting``, in a session of its own. It ends
when no waiting job can be launched without another command. That command starts a new helper.
"""

from __future__ import annotations

import contextlib
import os

from supervisor import log
from supervisor.engines.interpreter import find_python
from supervisor.errors import SupervisorError
from supervisor.jobdir.job_marks import MARK
from supervisor.store import Index

__all__ = ["can_go_on", "ensure"]

_SCRIPT = 'cd / && "$0" "$@" < /dev/null > /dev/null 2>&1 &'


def can_go_on(index: Index) -> bool:
    """Whether waiting jobs can be launched without another command: now, or after the end of a job or a pause.

    Raises:
        SupervisorError: the index cannot be read now.
    """
    return index.read_queue(lambda queue: queue.can_go_on())


def ensure(index: Index) -> bool:
    """Start the helper if waiting jobs need it and certainly no supervisor is open; return whether it was started.

    It is no child of this process, and gets neither its descriptors nor its standard streams.
    """
    layout = index.layout
    try:
        if not can_go_on(index) or layout.owners.any_may_be_alive():
            return False
        python = find_python()
        environment = {name: value for name, value in os.environb.items() if name != MARK}
        environment[b"SUPERVISOR_STATE_DIR"] = os.fsencode(layout.root)
        words = ["sh", "-c", _SCRIPT, python, "-P", "-m", "supervisor", "launch-waiting"]
        child = os.posix_spawn("/bin/sh", words, environment, setsid=True)
        with contextlib.suppress(ChildProcessError):  # the program ignores SIGCHLD, or has reaped it itself
            os.waitpid(child, 0)
    except (OSError, SupervisorError, NotImplementedError) as error:
        log.warning("helper_not_started", error=str(error))
        return False
    return True
