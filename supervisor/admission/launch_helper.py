"""The helper: a process that launches waiting jobs while no supervisor is open.

A process that leaves waiting jobs behind starts it: ``supervisor launch-waiting``, in a session of its own. So does a
keeper whose job has ended, if no other process of ours is left. It ends when no waiting job can be launched without
another command. That command starts a new helper.

There is one helper at a time for each state root and pid namespace: the one that holds the lock, see
``keeper.helper_starts``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.jobdir.job_marks import MARK
from supervisor.jobdir.records import EXIT, SUBMISSION
from supervisor.keeper.helper_starts import STATE_DIR, find_owners, lock_name, take_lock
from supervisor.store import Index
from supervisor.store.state_errors import state_error
from supervisor.system.observing import NotKnown, is_there

__all__ = ["can_go_on", "ensure", "fires", "only_one"]

_SCRIPT = 'exec 3<&0; cd / && "$0" "$@" <&3 3<&- > /dev/null 2>&1 &'
"""The input is the lock. A shell gives a background process another input, unless that is redirected."""


def can_go_on(index: Index) -> bool:
    """Whether waiting jobs can be launched without another command: now, or after the end of a job or a pause.

    Also whether a schedule will start jobs, whether there is anything to deliver, and whether a job has ended that may
    be tried again, or whose end is delivered, and its end is not recorded. The keepers of such jobs start the helper.

    Raises:
        SupervisorError: the index cannot be read now.
    """
    if _is_to_deliver(index.layout.root):
        return True
    index.follow_files()
    waiting, unlaunched, ended = index.read_queue(
        lambda queue: (queue.can_go_on() or fires(index), queue.unlaunched(), queue.with_more_at_the_end())
    )
    if waiting or any(not _is_submitted(index, job_id) for job_id in unlaunched):
        return True
    try:
        return any(is_there(f"{index.layout.job(*job)}/{EXIT}") for job in ended)
    except NotKnown:
        return True


def fires(index: Index) -> bool:
    """Whether a schedule will start a job, inside ``read``."""
    return index.schedules.next_ns() is not None


def _is_to_deliver(root: str) -> bool:
    try:
        if not is_there(f"{root}/deliveries"):
            return False
        from supervisor.store import outbox  # few state roots need it

        return outbox.is_any_pending(root)
    except OSError:
        return True


def _is_submitted(index: Index, job_id: str) -> bool:
    """Whether a job with slots is, as far as is known, in the queue of a cluster, which launches it."""
    row = index.get(job_id)
    shared = None if row is None else row.request.get("directory")
    try:
        return shared is not None and is_there(f"{shared}/{SUBMISSION}")
    except NotKnown:
        return False


def ensure(index: Index) -> bool:
    """Start the helper if waiting jobs need it and certainly no supervisor is open; return whether it was started.

    It is no child of this process, and gets neither its descriptors nor its standard streams.
    """
    root = index.layout.root
    try:
        if not can_go_on(index) or find_owners(root)[0]:
            return False
        lock = take_lock(_path(root))
        if lock is None:  # there is a helper, or it is being started
            return False
        try:
            _start(root, lock)
        finally:
            os.close(lock)
    except (OSError, SupervisorError, NotImplementedError) as error:
        log.warning("helper_not_started", error=str(error))
        return False
    return True


def _path(root: str) -> str:
    return f"{root}/{lock_name()}"


def _start(root: str, lock: int) -> None:
    environment = {name: value for name, value in os.environb.items() if name != MARK}
    environment[STATE_DIR] = os.fsencode(root)
    from supervisor.engines.interpreter import helper_command  # few processes start one

    words = ["sh", "-c", _SCRIPT, *helper_command()]
    actions = [(os.POSIX_SPAWN_DUP2, lock, 0)]
    child = os.posix_spawn("/bin/sh", words, environment, file_actions=actions, setsid=True)
    with contextlib.suppress(ChildProcessError):  # the program ignores SIGCHLD, or has reaped it itself
        os.waitpid(child, 0)


@contextlib.contextmanager
def only_one(index: Index) -> Generator[bool]:
    """Be the helper in the block, unless there is one already: then give ``False``.

    A process that leaves a waiting job behind starts no helper while there is one. So call ``ensure`` after the block:
    such a job may have come since this helper has decided to end.
    """
    try:
        lock = take_lock(_path(index.layout.root), given=0)
        if lock == 0:  # inherited by nothing that this process starts
            lock = os.dup(0)
            with open(os.devnull, "rb") as null:
                os.dup2(null.fileno(), 0)
    except OSError as error:
        raise state_error(error, "cannot lock the queue") from error
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        os.close(lock)
