"""Errors that say why a job, or a part of it, lives on although a stop was requested.

Two kinds of processes can keep a stop from its end for ever: processes that this user may not signal, and processes
that do not receive the signal yet, since they are frozen or wait in the kernel. The caller gets an error instead.
"""

from __future__ import annotations

import os
from typing import Any, Final

from supervisor.engines.local import evidence, stopping
from supervisor.errors import JobRunning, PermissionDenied, SupervisorError
from supervisor.jobdir import records, stops, validation
from supervisor.keeper import tree_killer
from supervisor.system import processes
from supervisor.system.trust import user_name

__all__ = ["obstacle", "survivors_error"]

# Of the two versions of control groups only a frozen one of the first keeps its processes from SIGKILL.
_FREEZER: Final = "/sys/fs/cgroup/freezer"
_STATES: Final = {"D": "waits in the kernel (state D)", "T": "is stopped", "t": "is traced"}


def obstacle(job_id: str, directory: str, *, overdue: bool) -> SupervisorError | None:
    """Return the error that names what keeps a job from ending; ``None`` while nothing is known to do so.

    ``overdue``: the job has had the time to end by SIGKILL.

    Raises:
        OSError: its processes cannot be observed now.
    """
    refused = stopping.refusal_of(directory)
    if refused:
        return _refused(job_id, refused, "cannot be stopped", "The job goes on, and the stop stays requested.")
    if not overdue:
        return None
    process = validation.process(directory)
    if process:
        left = tree_killer.members_of(stopping.make_stop(stopping.Tree(directory, process)))
        stuck = [{"pid": each.pid, "state": _state_of(each)} for each in left]
        what = "process"
    else:
        what, found = _launch_of(directory)
        stuck = [] if found is None else [{"pid": found.pid, "state": _state_of(found)}]
    if not stuck:
        return None
    words = ", ".join(f"{what} {each['pid']} {each['state']}" for each in stuck[:5])
    message = f"job {job_id} was asked to stop and has not ended: {words}"
    repair = "The stop goes on by itself when they do: thaw them (cgroup freezer, SIGCONT), or mend what they wait for."
    details: dict[str, Any] = {"job_id": job_id, "pid": stuck[0]["pid"], "processes": stuck}
    return JobRunning(message, repair=repair, retry_after_ms=1000, details=details)


def _launch_of(directory: str) -> tuple[str, processes.Process | None]:
    """Return, in words and as a process, what a launch waits for: a program that the kernel loads, or the keeper."""
    keeper = evidence.recorded_keeper(directory)
    if keeper is None or not processes.is_alive(*keeper):
        return "", None
    for child in _children_of(keeper[0]):
        if _writes_to(child, f"{directory}/{records.STDOUT}") and (found := processes.read_process(child)) is not None:
            return "its program is being loaded, process", found
    return "its launch is up to its keeper, process", processes.read_process(keeper[0])


def _children_of(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        held = [processes.slurp(f"/proc/{pid}/task/{thread}/children") for thread in threads]
    except OSError:  # then the message names the keeper, which is true as well
        return []
    return [int(word) for word in b" ".join(held).split()]


def _writes_to(pid: int, path: str) -> bool:
    try:
        return os.path.samefile(f"/proc/{pid}/fd/1", path)
    except OSError:
        return False


def survivors_error(job_id: str, directory: str) -> SupervisorError | None:
    """Return the error of a stopped job that has left processes that this user may not signal."""
    stop = stops.read_stop(directory)
    if not stop or stop["signalled_boot_ns"] is None or not (pids := validation.stop_facts(stop)[1]):
        return None
    return _refused(job_id, list(pids), "has ended, and a part of it cannot be stopped", "The job itself has ended.")


def _refused(job_id: str, pids: list[int], what: str, then: str) -> PermissionDenied:
    held: list[dict[str, Any]] = []
    for pid in [each for each in pids if not _has_ended(each)] or pids[:1]:
        uid = _owner_of(pid)
        held.append({"pid": pid, "uid": uid, "user": None if uid is None else user_name(uid)})
    pids = [each["pid"] for each in held]  # the kernel may have given the pid of an ended process to another one
    words = ", ".join(f"process {each['pid']} belongs to user {each['user'] or 'unknown'}" for each in held[:5])
    return PermissionDenied(
        f"job {job_id} {what}: {words}, and is not ours to signal",
        repair=f"Stop it as that user or as root: `sudo kill {' '.join(map(str, pids[:5]))}`. {then}",
        details={"job_id": job_id, **held[0], "processes": held},
    )


def _has_ended(pid: int) -> bool:
    try:
        return processes.read_process(pid) is None
    except OSError:
        return False


def _owner_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _state_of(process: processes.Process) -> str:
    if _is_frozen(process.pid):
        return "is frozen"
    return _STATES.get(process.state, f"lives on (state {process.state})")


def _is_frozen(pid: int) -> bool:
    try:
        groups = processes.slurp(f"/proc/{pid}/cgroup").decode("utf-8", "replace").splitlines()
        group = next((line.partition(":freezer:")[2] for line in groups if ":freezer:" in line), "")
        return bool(group) and processes.slurp(f"{_FREEZER}{group}/freezer.state").strip() != b"THAWED"
    except OSError:
        return False
