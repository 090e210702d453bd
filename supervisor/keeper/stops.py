"""How a keeper ends the trees of its jobs, and what jobs have left behind: from the request to the record of it."""

from __future__ import annotations

import os
import signal

from supervisor.jobdir import factories, measures
from supervisor.keeper import launches, output_limit, tree_killer, turns
from supervisor.keeper.stop_record import StopRecord
from supervisor.system import processes

__all__ = ["Stops"]


class Stops(turns.Turns):
    """A keeper that ends trees."""

    def __init__(self, root: str) -> None:
        """Take over standard input as the socket, and prepare to spawn."""
        super().__init__(root)
        self.by_pid: dict[int, launches.Child] = {}
        self.killer = tree_killer.TreeKiller(self.by_pid)
        self.stopping: dict[tree_killer.Stop, launches.Child] = {}
        self.outputs = output_limit.Outputs()
        self.leftovers: dict[int, launches.Child] = {}  # ended, and processes that they left behind may write on

    def _report_end(self, child: launches.Child, survivors: list[int]) -> None:
        """Report the end of a job that is on record."""
        raise NotImplementedError

    def _tick(self) -> None:
        scarce = self.reserve.open()
        try:
            for stop in self.killer.tick(self._handle_waiting):
                self._attempt(self._stopped, stop)
        finally:
            if self.killer.incomplete is not None:  # leaders that are children need no snapshot
                for stop in self.killer.stops:
                    self._attempt(self._stop_blindly, stop)
            if scarce:
                self.reserve.refill()

    def _stop_blindly(self, stop: tree_killer.Stop) -> None:
        """Signal the group of a leader that was not reaped yet, so that no other group has its number."""
        if not stop.is_child or processes.has_child_ended(stop.pid):
            return
        now = processes.boottime_ns()
        if stop.signalled_ns is None:
            stop.signalled_ns = now
            stop.on_signal(now)
        if now >= stop.signalled_ns + stop.grace_ns:
            os.killpg(stop.pid, signal.SIGKILL)
        elif (stop.pid, stop.start) not in stop.terminated:
            stop.terminated.add((stop.pid, stop.start))
            os.killpg(stop.pid, stop.first_signal)
            os.killpg(stop.pid, signal.SIGCONT)  # it may be paused
            tree_killer.thaw(stop)

    def _begin_stop(
        self,
        child: launches.Child,
        why: str,
        by: str,
        asked: bool = False,  # noqa: FBT001, FBT002  # a step has no names for its arguments
        signalled_ns: int | None = None,
    ) -> None:
        """Begin to end a tree; ``asked``: the request is on disk already. May be repeated.

        ``signalled_ns``: the kernel has begun by then.
        """
        if child.stop is not None or child.why is not None:
            return
        # No process is known by descent alone: the first signal need not wait for a snapshot of all processes.
        at_once = (
            signalled_ns is None
            and not processes.has_child_ended(child.pid)
            and not processes.may_have_children(child.pid)
        )
        if at_once:
            signalled_ns = processes.boottime_ns()
        request = factories.stop_request(why, by, signalled_boot_ns=signalled_ns)
        record = StopRecord.request(child.directory, request, self.reserve, self.unwritten, asked=asked)
        if record.held.get("refused"):
            return  # until it is asked for anew
        signalled = record.held.get("signalled_boot_ns")
        at_once = at_once and signalled in {None, request["signalled_boot_ns"]}
        first = record.held.get("signal")
        stop = child.stop = child.new_stop(
            record.mark_signalled, signalled_ns=signalled, is_child=child.end is None, first_signal=first
        )
        child.why, child.record = str(record.held["why"]), record
        self.stopping[stop] = child
        self.outputs.drop(child.token)
        self.leftovers.pop(child.token, None)
        try:
            if at_once:
                stop.spare_search()
                self._signal_at_once(stop, record)
        finally:
            self.killer.add(stop)

    def _signal_at_once(self, stop: tree_killer.Stop, record: StopRecord) -> None:
        if stop.signalled_ns is None:
            stop.signalled_ns = processes.boottime_ns()
            record.mark_signalled(stop.signalled_ns)
        try:
            if self.killer.signal_leader(stop):
                return
        except OSError:  # the first snapshot will find it
            return
        stop.signalled_ns = None
        record.unmark_signalled()

    def _stopped(self, stop: tree_killer.Stop) -> None:
        """Record that no process of a tree is left, or which are. May be repeated."""
        child = self.stopping.get(stop)
        if child is None:
            return
        if child.stop is not stop:  # of leftovers
            del self.stopping[stop]
            self.leftovers.pop(child.token, None)
            return
        if stop.natural or stop.refused:
            child.why = None
            if stop.signalled_ns is not None and child.record is not None:
                child.record.take_back(stop.survivors if stop.refused else [])
        elif child.record is not None:
            sizes = measures.sizes(child.directory)  # what all of its processes wrote
            child.output |= sizes
            child.record.mark_gone(stop.signalled_ns, stop.survivors, sizes)
        child.record = None
        del self.stopping[stop]
        child.stop = None
        if child.exited is not None:
            self._attempt(self._report_end, child, stop.survivors if child.why is not None else [])
        else:
            self.to_reap = True

    # ------------------------------------------------------------ leftovers

    def _measure(self, child: launches.Child) -> dict[str, object]:
        """Return the sizes of the output of a job that has just ended; watch it if leftovers may write on."""
        stopped = child.stop is not None or child.why is not None  # then there are no leftovers
        found, may_grow = self.outputs.end(child.token, child.directory, child.pid, watch=not stopped)
        if child.stop_leftovers and not stopped:
            self._end_leftovers(child)
        elif may_grow and not stopped:
            self.leftovers[child.token] = child
        return found

    def _end_leftovers(self, child: launches.Child) -> None:
        """End the processes that a command has left behind, as a cancel would; the end of its job stays as it is."""
        self.outputs.drop(child.token)
        self.leftovers[child.token] = child
        stop = child.new_stop(lambda _: None, signalled_ns=processes.boottime_ns())  # this stop is not recorded
        self.stopping[stop] = child
        self.killer.add(stop)
