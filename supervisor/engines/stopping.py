"""Stopping a local job from a process that is not its keeper's supervisor, without an event loop.

If the keeper lives it is asked to do it: the request is written to ``stop.json``, a signal makes
the keeper look, and it goes on with the stop even if the asking process dies. Only without a
keeper, or when that one does not answer, is the tree ended from here. Both at once do no harm.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Iterable
from typing import Any, Final, Self

from supervisor.engines import evidence, processes, records
from supervisor.engines.inotify import CHANGED, Inotify

__all__ = [
    "BACKSTOP_SECONDS",
    "NOTED_SOON_SECONDS",
    "Change",
    "cancel_queued",
    "is_noted",
    "make_stop",
    "nudge_keeper",
    "request_stop",
    "stop_trees",
]

BACKSTOP_SECONDS: Final = 2.0
NOTED_SOON_SECONDS: Final = 1.0


def request_stop(directory: str, why: str, by: str) -> dict[str, Any]:
    """Put the request on disk, unless there is one already, and return the one that counts.

    Raises:
        OSError: it cannot be written; nothing was signalled.
    """
    request: dict[str, object] = {
        "why": why,
        "requested_ns": time.time_ns(),
        "by": by,
        "signalled_boot_ns": None,
        "gone": False,
    }
    if records.create(directory, records.STOP, request):
        return request
    there = records.read(directory, records.STOP)
    if not there:
        records.replace(directory, records.STOP, request)
        return request
    return there


def nudge_keeper(process: dict[str, Any]) -> bool:
    """Make the keeper look for stop requests; ``False`` when it is gone."""
    try:
        return processes.send_signal(process["keeper_pid"], process["keeper_start"], signal.SIGUSR1)
    except PermissionError:
        return False


def cancel_queued(directory: str, by: str) -> bool:
    """Rule that a job which nobody has launched will not be; ``False`` when a launch is under way."""
    if not records.take_claim(directory, records.NOBODY):
        return False
    now = {"requested_ns": time.time_ns(), "signalled_boot_ns": processes.boottime_ns()}
    stop: dict[str, object] = {"why": "cancelled", "by": by, **now, "gone": True}
    records.replace(directory, records.STOP, stop)
    ended: dict[str, object] = {
        "launch_error": "it was cancelled before it was launched",
        "launch_status": 125,
        "ended_ns": time.time_ns(),
    }
    records.create(directory, records.EXIT, ended)
    return True


def make_stop(directory: str, process: dict[str, Any], request: dict[str, Any]) -> processes.Stop:
    """Return the stop of a tree for a ``TreeKiller`` of this process, which notes its first signal."""
    job = records.read(directory, records.JOB) or {}
    grace = job.get("grace_seconds")
    ended = (records.read(directory, records.EXIT) or {}).get("ended_boot_ns")
    signalled = request.get("signalled_boot_ns")

    def on_signal(signalled_ns: int) -> None:
        with contextlib.suppress(OSError):  # a full disk must not keep a job alive
            records.mark_stop(directory, signalled=signalled_ns)

    return processes.Stop(
        directory.rpartition("/")[2],
        process["pid"],
        process["start"],
        grace if isinstance(grace, int | float) else 5,
        on_signal,
        signalled_ns=signalled if isinstance(signalled, int) else None,
        ended_ns=ended if isinstance(ended, int) else None,
    )


def note_gone(directory: str, stop: processes.Stop) -> None:
    """Note that a tree is gone, so that its job can be settled."""
    if not stop.natural:
        with contextlib.suppress(OSError):
            records.mark_stop(directory, gone=True, survivors=" ".join(map(str, stop.survivors)))


def is_noted(directory: str, process: dict[str, Any], *, patience_is_over: bool) -> bool:
    """Whether the end of a leader that was just killed is on record, or needs no noting from here.

    Its keeper does that within milliseconds. One that is there and does not (stopped itself, or
    hanging in a write) must not keep the job from ending: what the zombie tells is noted instead.
    """
    if os.access(f"{directory}/{records.EXIT}", os.F_OK):
        return True
    status = processes.exit_status_of_zombie(process["pid"], process["start"])
    if status is None or not processes.is_alive(process.get("keeper_pid", 0), process.get("keeper_start", 0)):
        return True
    if patience_is_over:
        with contextlib.suppress(OSError):
            evidence.note_exit(directory, process, status, by="zombie")
    return patience_is_over


def stop_trees(jobs: Iterable[tuple[str, dict[str, Any], dict[str, Any]]]) -> None:
    """End the trees of (job directory, process record, stop request) from here, all side by side."""
    killer = processes.TreeKiller()
    trees: dict[processes.Stop, tuple[str, dict[str, Any]]] = {}
    for directory, process, request in jobs:
        stop = make_stop(directory, process, request)
        trees[stop] = directory, process
        killer.add(stop)
    while (due := killer.next_ns) is not None:
        # The trees are not our children: nothing tells us of their end but looking again.
        time.sleep(max(0, due - processes.boottime_ns()) / 1e9)
        for stop in killer.tick():
            note_gone(trees[stop][0], stop)
    give_up = time.monotonic() + NOTED_SOON_SECONDS
    while not all(is_noted(*tree, patience_is_over=time.monotonic() > give_up) for tree in trees.values()):
        time.sleep(NOTED_SOON_SECONDS / 100)


class Change:
    """Waits, without an event loop, until something may have happened to one of several jobs.

    A context manager. Where neither inotify nor pidfds can be had it looks again at intervals.
    """

    _LOOK_AGAIN: Final = 0.1
    _LONGEST: Final = 30.0

    def __init__(self, directories: Iterable[str], mask: int = CHANGED) -> None:
        """Watch these job directories and the processes that they name."""
        self._poll = select.poll()
        self._pidfds: list[int] = []
        self._notify = Inotify.open()
        self._blind = self._notify is None
        if self._notify is not None:
            self._poll.register(self._notify.descriptor, select.POLLIN)
        # The rest of what this process can open is for the registry, records and output.
        self._most_pidfds = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._keepers: set[tuple[int, int]] = set()
        self._unseen: set[str] = set(directories)
        if self._notify is not None:
            for directory in self._unseen:
                self._blind |= self._notify.watch(directory, mask) is None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every descriptor."""
        for descriptor in self._pidfds:
            os.close(descriptor)
        if self._notify is not None:
            self._notify.close()

    def _watch_processes(self) -> None:
        for directory in list(self._unseen):
            process = records.read(directory, records.PROCESS)
            if not process:
                continue
            self._unseen.discard(directory)
            for pid, start in (("pid", "start"), ("keeper_pid", "keeper_start")):
                identity = (process.get(pid), process.get(start))
                if identity in self._keepers or not isinstance(identity[0], int) or not isinstance(identity[1], int):
                    continue
                self._keepers.add((identity[0], identity[1]))
                if len(self._pidfds) >= self._most_pidfds > 0:
                    continue
                descriptor = processes.open_pidfd(identity[0], identity[1])
                if descriptor is not None:
                    self._pidfds.append(descriptor)
                    self._poll.register(descriptor, select.POLLIN)

    def wait(self, seconds: float | None) -> None:
        """Wait for a change, for ``seconds`` at most; may return early, for nothing."""
        self._watch_processes()
        longest = self._LOOK_AGAIN if self._blind else self._LONGEST
        limit = longest if seconds is None else max(0.0, min(seconds, longest))
        for descriptor, _ in self._poll.poll(-(-int(limit * 1e6) // 1000)):
            if self._notify is not None and descriptor == self._notify.descriptor:
                self._notify.read()
            else:  # it stays readable for ever: once is enough, what follows is written into the directory
                self._poll.unregister(descriptor)
