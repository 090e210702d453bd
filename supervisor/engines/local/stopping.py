"""Stopping a local job from a process that is not its keeper's supervisor, without an event loop.

A keeper that lives stops the job: the request is written to ``stop.json``, a signal makes the keeper read it, and the
stop goes on even if the requesting process dies. Without a keeper, or if it does not answer, this process ends the
tree. Both at once do no harm.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from supervisor.engines.local import evidence, reconcile
from supervisor.jobdir import factories, measures, records, stops, validation
from supervisor.keeper import job_cgroups, tree_killer
from supervisor.system import processes
from supervisor.system.observing import NotKnown, is_absent, not_known

__all__ = [
    "BACKSTOP_SECONDS",
    "NOTED_SOON_SECONDS",
    "STUCK_SECONDS",
    "Cancel",
    "KeeperSignals",
    "Tree",
    "ask_again",
    "cancel_queued",
    "is_noted",
    "is_signalled",
    "make_stop",
    "note_gone",
    "nudge_keeper",
    "refusal_of",
    "request_stop",
    "rule_out",
    "seconds_of_grace",
    "stop_trees",
]

_USUAL_GRACE_SECONDS: Final = 5.0
_LONGEST_GRACE_SECONDS: Final = 2.0**40
_SILENCE_SECONDS: Final = 6.0
_BLIND_SECONDS: Final = 5.0
BACKSTOP_SECONDS: Final = 2.0
NOTED_SOON_SECONDS: Final = 1.0
STUCK_SECONDS: Final = 3.0
_OVERDUE_SECONDS: Final = 10.0


def request_stop(
    directory: str,
    why: str,
    by: str,
    cause: Mapping[str, Any] | None = None,
    first_signal: int | None = None,
) -> dict[str, Any]:
    """Write the request, unless there is one already, and return the request that counts.

    Raises:
        OSError: it cannot be written; nothing was signalled.
    """
    request = factories.stop_request(why, by, cause=cause, first_signal=first_signal)
    if records.create(directory, records.STOP, request):
        return request
    there = stops.read_stop(directory)
    if not there:
        records.replace(directory, records.STOP, request)
        return request
    if there.get("refused"):  # try again
        stops.take_back_stop(directory, known=there)
        del there["refused"]
    return there


def cause_on_record(directory: str) -> Mapping[str, Any] | None:
    """Return the facts about why a stop was requested, ``None`` if they cannot be read."""
    with contextlib.suppress(NotKnown):
        return validation.stop_cause(stops.read_stop(directory))
    return None


def ask_again(directory: str, by: str) -> None:
    """Have a refused stop tried again, by the job's keeper or, without one, by its watcher.

    Raises:
        OSError: the request cannot be written.
    """
    if refusal_of(directory):
        request_stop(directory, "cancelled", by)
        nudge_keeper(evidence.recorded_keeper(directory))


def refusal_of(directory: str) -> list[int]:
    """Return the pids of the processes of a job that this user could not signal in the last attempt."""
    stop = stops.read_stop(directory)
    return [int(word) for word in stop.get("refused", "").split() if validation.is_number(word)] if stop else []


def nudge_keeper(keeper: tuple[int, int] | None) -> bool:
    """Signal a keeper, given as (pid, start time), to read stop requests; return ``False`` when it is gone.

    A keeper whose state is not known now is not gone: a caller that trusts it in vain takes over before long.
    """
    try:
        return keeper is not None and processes.send_signal(*keeper, signal.SIGUSR1)
    except NotKnown:
        return True
    except PermissionError:
        return False


class KeeperSignals:
    """Signals each of several keepers once, after all requests to it were written."""

    def __init__(self) -> None:
        self._owed: dict[tuple[int, int], bool] = {}

    def owe(self, keeper: tuple[int, int] | None) -> bool:
        """Have the next ``send`` signal a keeper; return ``False`` when it is gone."""
        if keeper is None:
            return False
        if keeper not in self._owed:
            try:
                self._owed[keeper] = processes.is_alive(*keeper)
            except NotKnown:  # as above
                self._owed[keeper] = True
        return self._owed[keeper]

    def send(self) -> None:
        """Signal them. The watchers of its jobs take over from one that has ended."""
        owed, self._owed = self._owed, {}
        for keeper, alive in owed.items():
            if alive:
                nudge_keeper(keeper)


def rule_out(directory: str, by: str, why: str, cause: Mapping[str, Any] | None = None) -> bool:
    """Rule that a job is never launched; return ``False`` when it was, or its launch is under way.

    The next observation records its end.

    Raises:
        OSError: that cannot be found out, or recorded, now.
    """
    if records.read_claim(directory) is not None:
        return False
    request_stop(directory, why, by, cause)  # before the claim, so that an observation in between agrees
    return records.take_claim(directory, records.NOBODY)


def cancel_queued(directory: str, by: str, why: str = "cancelled") -> bool:
    """Rule that a job is never launched, and record that; return ``False`` when it was, or its launch is under way."""
    if not rule_out(directory, by, why):
        return False
    reconcile.note_cancelled(directory)
    return True


@attrs.frozen(slots=True, eq=False)
class Tree:
    """The processes of one job, to be ended.

    Attributes:
        directory: the job's; its name is the mark.
        process: ``pid`` and ``start`` of the leader, and those of its keeper if they are known.
        request: ``stop.json`` as it stands.
        sound: whether the directory may be written to. If not, the mark is all there is of the job.
    """

    directory: str
    process: dict[str, Any]
    request: dict[str, Any] = attrs.field(factory=dict[str, Any])
    sound: bool = True


def seconds_of_grace(directory: str) -> float:
    """Return the grace of a job, which is fixed when the job is started."""
    grace = validation.number((records.read(directory, records.JOB) or {}).get("grace_seconds"), _LONGEST_GRACE_SECONDS)
    return _USUAL_GRACE_SECONDS if grace is None else grace


def make_stop(tree: Tree) -> tree_killer.Stop:
    """Return the stop of a tree for a ``TreeKiller`` of this process; the first signal is recorded."""
    directory = tree.directory
    ended = (records.read(directory, records.EXIT) or {}).get("ended_boot_ns") if tree.sound else None
    signalled = tree.request.get("signalled_boot_ns")

    def on_signal(signalled_ns: int) -> None:
        if tree.sound:
            try:
                stops.mark_stop(directory, signalled=signalled_ns)
            except OSError as error:
                if error.errno not in records.NO_ROOM:  # without a record of the signal the end would count as natural
                    raise not_known(error, directory) from error
                # A full disk must not keep a job alive.

    return tree_killer.Stop(
        directory.rpartition("/")[2],
        tree.process["pid"],
        tree.process["start"],
        seconds_of_grace(directory) if tree.sound else _USUAL_GRACE_SECONDS,
        on_signal,
        tree=job_cgroups.tree_of(tree.process, directory.rpartition("/")[2]),
        signalled_ns=signalled if _is_time(signalled) else None,
        ended_ns=ended if _is_time(ended) else None,
        first_signal=tree.request.get("signal"),
    )


def _is_time(held: object) -> bool:
    return type(held) is int and 0 <= held <= processes.boottime_ns()


def note_gone(tree: Tree, stop: tree_killer.Stop) -> None:
    """Record the result of a stop: the tree is gone, so that its job can be finished, or the stop was refused.

    Raises:
        OSError: it cannot be written now; ``NotKnown`` unless the disk is full.
    """
    job_cgroups.remove_of(tree.process, tree.directory.rpartition("/")[2])
    if not tree.sound:
        return
    survivors = " ".join(map(str, stop.survivors))
    try:
        if not stop.natural and not stop.refused:
            signalled = stop.signalled_ns  # may be missing, for want of room
            sizes = measures.sizes(tree.directory)
            stops.mark_stop(tree.directory, signalled=signalled, gone=True, survivors=survivors, sizes=sizes)
        elif stop.signalled_ns is not None:
            stops.take_back_stop(tree.directory, survivors if stop.refused else "")
    except OSError as error:
        if error.errno in records.NO_ROOM:
            raise
        if not is_absent(error, tree.directory):  # else the job was forgotten meanwhile
            raise not_known(error, tree.directory) from error


def is_noted(tree: Tree, *, patience_is_over: bool) -> bool:
    """Return whether the end of a leader that was just killed is recorded, or need not be recorded from here.

    Its keeper does that within milliseconds. A keeper that does not (it is stopped, hangs in a write, or its record
    was deleted) must not keep the job from ending: then the status of the zombie, or that it is unknown, is recorded.
    """
    directory, process = tree.directory, tree.process
    try:
        if not tree.sound or validation.end(directory):
            return True
        leader, keeper = (process["pid"], process["start"]), (process["keeper_pid"], process["keeper_start"])
        if processes.is_alive(*leader) or not processes.is_alive(*keeper):
            return True
        if patience_is_over:
            status = processes.exit_status_of_zombie(*leader)
            reconcile.note_exit(directory, process, status, by="nobody" if status is None else "zombie")
    except OSError:  # not known now, or it cannot be recorded: the next observation does it
        pass
    return patience_is_over


def stop_trees(jobs: Iterable[Tree]) -> None:
    """End these trees from here, side by side.

    What lives on for ``STUCK_SECONDS`` after SIGKILL is left: it is frozen, or hangs in the kernel, and ends by that
    signal when it goes on.

    Raises:
        OSError: they cannot be looked at, and could not for some time; or what was done cannot be written now.
    """
    unwritten: OSError | None = None
    killer = tree_killer.TreeKiller()
    under_way: dict[tree_killer.Stop, Tree] = {}
    patience = 0.0
    for tree in jobs:
        stop = make_stop(tree)
        under_way[stop] = tree
        since = processes.boottime_ns() if stop.signalled_ns is None else stop.signalled_ns
        patience = max(patience, (since + stop.grace_ns - processes.boottime_ns()) / 1e9)
        killer.add(stop)
    blind_since: float | None = None
    give_up = time.monotonic() + patience + STUCK_SECONDS
    while (due := killer.next_ns) is not None and time.monotonic() < give_up:
        # These are no children of this process: only the process table shows their ends.
        time.sleep(max(0, due - processes.boottime_ns()) / 1e9)
        for stop in killer.tick():
            try:
                note_gone(under_way[stop], stop)
            except OSError as error:
                unwritten = error
        if killer.incomplete is None:
            blind_since = None
        else:
            blind_since = blind_since or time.monotonic()
            if time.monotonic() - blind_since > _BLIND_SECONDS:
                raise killer.incomplete
    give_up = time.monotonic() + NOTED_SOON_SECONDS
    left = list(under_way.values())
    while left := [tree for tree in left if not is_noted(tree, patience_is_over=time.monotonic() > give_up)]:
        time.sleep(NOTED_SOON_SECONDS / 100)
    if unwritten is not None:
        raise unwritten


class Cancel:
    """A stop of one job by a process that is not its supervisor, step by step.

    ``until`` is how long, on the monotonic clock, the job's keeper is trusted to begin. ``unrecorded``: there was no
    room on the disk for the request. ``refused``: what is left of the job is not ours to stop, see ``refusal_of``.
    """

    def __init__(self, directory: str, by: str, nudge: Callable[[tuple[int, int] | None], bool] | None = None) -> None:
        """``nudge`` signals a keeper now or later, and returns ``False`` when it is gone."""
        self.directory = directory
        self._by = by
        self._nudge = nudge or nudge_keeper
        self._begun = self.refused = False
        self._handed_out_ns: int | None = None
        self._overdue = 0.0
        self._silent_since: float | None = None
        self.until: float | None = None
        self.unrecorded = False

    def step(self, why: str = "cancelled", *, now: bool = False) -> Tree | None:
        """Advance the stop, and return the tree if this process has to end it.

        ``now``: no other process does that. Otherwise the job's keeper is asked and trusted for
        ``BACKSTOP_SECONDS``. A keeper that is launching it this very moment finds the request
        when it is done, so a job whose launch never comes to an end is waited for.

        Raises:
            OSError: the request cannot be written; nothing was signalled.
        """
        directory = self.directory
        self.refused = self.until is not None and bool(refusal_of(directory))
        if self.refused:
            return None
        if self._handed_out_ns is not None and self.until is not None and time.monotonic() < self.until:
            return None  # a tree that resists is not tried again without a pause
        if self.until is None:
            process = validation.process(directory)
            if process is None and cancel_queued(directory, self._by, why):
                return None  # the next observation finds the exit record
            request = self._request(why)
            self.until = time.monotonic() + BACKSTOP_SECONDS
            self._overdue = time.monotonic() + seconds_of_grace(directory) + _OVERDUE_SECONDS
            now = now or not request or not self._nudge(evidence.recorded_keeper(directory))
        if not now:
            if time.monotonic() < self.until:
                return None
            if not self._begun and is_signalled(directory):
                # The keeper has begun. If it does not finish, this process takes over.
                self._begun = True
                self.until = time.monotonic() + seconds_of_grace(directory) + BACKSTOP_SECONDS
                return None
        process = validation.process(directory)
        if not process and reconcile.adopt_marked(directory):
            process = validation.process(directory)
        if not process:
            self._wait_for_keeper()
            return None
        if self._handed_out_ns is None:
            self._handed_out_ns = processes.boottime_ns()
        self.until = time.monotonic() + BACKSTOP_SECONDS
        return Tree(directory, process, self._request(why))

    @property
    def is_over(self) -> bool:
        """Whether this process has ended its tree, and that could not be recorded."""
        process = validation.process(self.directory) if self.unrecorded and self._handed_out_ns is not None else None
        return process is not None and process != {} and not processes.is_alive(process["pid"], process["start"])

    def _request(self, why: str) -> dict[str, Any]:
        """Write the request and return it; return nothing on a full disk, which must not keep a job alive.

        It may be the job that fills the disk. Then its keeper finds nothing, and its tree is ended from here.
        """
        try:
            return request_stop(self.directory, why, self._by)
        except OSError as error:
            if error.errno not in records.NO_ROOM:
                raise
            self.unrecorded = True
            return {}

    @property
    def overdue(self) -> bool:
        """Whether it has had the time to end: SIGKILL was due a while ago, or a keeper that begins late should be done.

        A tree that this process was to end may get its signals from another one, which has begun a moment before.
        """
        if self._handed_out_ns is None:
            return 0 < self._overdue < time.monotonic()
        signalled: Any = (stops.read_stop(self.directory) or {}).get("signalled_boot_ns")
        since: int = signalled if _is_time(signalled) else self._handed_out_ns
        late = seconds_of_grace(self.directory) + STUCK_SECONDS / 2  # a while before `stop_trees` gives up
        return processes.boottime_ns() - since >= late * 1e9

    def _wait_for_keeper(self) -> None:
        """Wait on for a keeper that alone can identify the command, or still has to spawn it.

        One that could have looked for the request again and again, and has not begun, does not have
        the job any more: it has reaped it, and the records of that were deleted.
        """
        now = time.monotonic()
        self.until = now + BACKSTOP_SECONDS
        keeper = evidence.recorded_keeper(self.directory)
        if keeper is None or processes.is_held(*keeper):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
            self._nudge(keeper)
        elif now - self._silent_since >= _SILENCE_SECONDS:
            reconcile.note_exit(self.directory, None, None, by="nobody")


def is_signalled(directory: str) -> bool:
    """Return whether a process has begun to end the tree of a job."""
    stop = stops.read_stop(directory)
    return bool(stop and stop["signalled_boot_ns"] is not None)
