"""What the keeper does: launch, record, watch, stop, reap; one loop.

Standard library only; see ``entry`` for how it is started and ``protocol`` for what is said on the
line to its supervisor. When the supervisor is gone its jobs go on, and so does everything here, the deadlines
now without the delay that leaves them to the supervisor first.

The loop itself is in ``turns``.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from heapq import heapify, heappop, heappush

from supervisor.jobdir import factories, job_marks, measures, records
from supervisor.keeper import launches, output_limit, process_tree, protocol, spawn, turns, unwritten
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["BACKSTOP_NS", "Keeper"]

BACKSTOP_NS: Final = 2_000_000_000
_LOOK_AT_LAUNCH_NS: Final = 50_000_000  # one that is to end, and has not come back


class Keeper(turns.Turns):
    """Keeps the jobs of one supervisor."""

    registers = True

    def __init__(self, root: str) -> None:
        """Take over standard input as the socket, and prepare to spawn."""
        super().__init__(root)
        self.claim = records.keeper_claim(self.pid, self.start, processes.boot_id(), processes.pid_namespace())
        self.gives_tags = job_marks.drop_tag()
        self.claimed: str | None = None
        self.identity: dict[str, object] = {"boot": processes.boot_id(), "ns": processes.pid_namespace()}
        self.ticks = launches.Ticks()
        self.environments: dict[int, tuple[dict[bytes, bytes], list[bytes]]] = {}
        self.launching: dict[int, launches.Launch] = {}
        self.early: dict[int, launches.End] = {}  # children that ended before they were known
        self.slots: dict[int, launches.Slot] = {}
        self.by_pid: dict[int, launches.Slot] = {}
        self.killer = process_tree.TreeKiller(self.by_pid)
        self.stopping: dict[process_tree.Stop, launches.Slot] = {}
        self.deadlines: list[tuple[int, int]] = []
        self.outputs = output_limit.Outputs()
        self.leftovers: dict[int, launches.Slot] = {}  # settled, and what was left behind may write on

    def run(self) -> None:
        """Keep jobs until the supervisor is gone and the last job is settled, registered as a keeper meanwhile."""
        if self.registers:
            job_marks.register(self.root, self.claim)
        super().run()

    def _loop(self) -> None:
        super()._loop()
        if self.registers:
            job_marks.leave(self.root, self.claim)

    # ------------------------------------------------------------ in its turns

    def _has_jobs(self) -> bool:
        return bool(self.slots or self.launching or self.leftovers)

    def _watched(self) -> int:
        return self.outputs.descriptor

    def _told(self) -> None:
        self.outputs.heard()

    def _due_ns(self) -> list[int]:
        due = [when for when in (self.killer.next_ns, self.outputs.next_ns) if when is not None]
        if self.deadlines:
            due.append(self.deadlines[0][0] + (BACKSTOP_NS if self.connection.is_open else 0))
        for launch in self.launching.values():
            until = processes.boottime_ns() + _LOOK_AT_LAUNCH_NS if launch.stop is not None else launch.overdue_ns()
            if until is not None:
                due.append(until)
        return due

    def _on_time(self) -> None:
        now = processes.boottime_ns()
        late = BACKSTOP_NS if self.connection.is_open else 0
        while self.deadlines and self.deadlines[0][0] + late <= now:
            slot = self.slots.get(heappop(self.deadlines)[1])
            if slot is not None and slot.exited is None:
                self._attempt(self._begin_stop, slot, "deadline", "keeper")
        if self.launching:
            self._on_time_for_launches(now)
        for token in self.outputs.look():
            slot = self.slots.get(token)
            if slot is not None and slot.exited is None:
                self._attempt(self._begin_stop, slot, "output_limit", "keeper")
            elif token in self.leftovers:
                self._end_leftovers(self.leftovers[token])
        for token in self.outputs.quitted():
            self.leftovers.pop(token, None)
        due = self.killer.next_ns
        if due is not None and due <= now:
            self._tick()

    def _tick(self) -> None:
        scarce = self.reserve.open()
        try:
            for stop in self.killer.tick(self._attend):
                self._attempt(self._stopped, stop)
        finally:
            if self.killer.unseen is not None:  # not all can be seen: what needs no look is not to wait for one
                for stop in self.killer.stops:
                    self._attempt(self._stop_blindly, stop)
            if scarce:
                self.reserve.refill()

    def _stop_blindly(self, stop: process_tree.Stop) -> None:
        """Signal the group of a leader that was not reaped yet, so that its number is its own."""
        if not stop.is_child or processes.has_child_ended(stop.pid):
            return
        now = processes.boottime_ns()
        if stop.signalled_ns is None:
            stop.signalled_ns = now
            stop.on_signal(now)
        if now >= stop.signalled_ns + stop.grace_ns:
            os.killpg(stop.pid, signal.SIGKILL)
        elif (stop.pid, stop.start) not in stop.termed:
            stop.termed.add((stop.pid, stop.start))
            os.killpg(stop.pid, signal.SIGTERM)

    def _handle(self, message: protocol.Message) -> None:
        match message:
            case protocol.Launch():
                self._launch(message)
            case protocol.Stop(token=token):
                slot = self.slots.get(token)
                if slot is not None and slot.exited is None:
                    self._attempt(self._begin_stop, slot, message.why, message.by)
                elif token in self.launching:
                    self._attempt(self._stop_launch, self.launching[token], message.why, message.by)
            case protocol.SetEnvironment(token=token, variables=variables):
                self.environments[token] = variables, [name + b"=" + value for name, value in variables.items()]
            case protocol.DropEnvironment(token=token):
                self.environments.pop(token, None)
            case _:
                pass

    # ------------------------------------------------------------ launching

    def _launch(self, asked: protocol.Launch) -> None:
        launch = launches.Launch(asked, self.connection.take_descriptors(asked.descriptors))
        try:
            if not self._take_claim(asked.directory):
                launch.close()
                self._say_failed(asked.token, 125, "another process has claimed it", claimed=True)
                return
            self.claimed = asked.directory
            if len(launch.held) < asked.descriptors:
                raise spawn.LaunchError(125, os.strerror(errno.EMFILE) + " in the keeper")
            if not self.relay.may_block:
                raise spawn.LaunchError(125, "too many launches wait for file systems that do not answer")
            self._prepare(launch)
        except spawn.LaunchError as error:
            launch.error = error
        except Exception as error:  # noqa: BLE001  # an answer is owed whatever happens
            self.journal.failure(error)
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            launch.error = spawn.LaunchError(125, f"the keeper cannot launch it: {reason}")
        self.launching[asked.token] = launch
        if launch.error is None:
            self.relay.guard(self._spawn, launch)
        else:
            launch.close()
        self._attempt(self._launched, launch)

    def _say_failed(self, token: int, status: int, reason: str, *, claimed: bool) -> None:
        self.connection.queue(protocol.Failed(token=token, status=status, reason=reason, claimed=claimed))

    def _prepare(self, launch: launches.Launch) -> None:
        changes = launch.asked.changes
        environment, entries = self.environments[launch.asked.environment]
        launch.environment = {**environment, **changes}
        if len(launch.environment) == len(environment) + len(changes):
            launch.entries = [*entries, *(name + b"=" + value for name, value in changes.items())]
        else:
            launch.entries = [name + b"=" + value for name, value in launch.environment.items()]
        launch.workspace = launch.held[0]
        stdin = launch.held[1] if launch.asked.descriptors > 1 else self.null
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        outputs: list[int] = []
        try:
            for name in (records.STDOUT, records.STDERR):
                outputs.append(os.open(f"{launch.asked.directory}/{name}", flags, 0o600))
                launch.held.append(outputs[-1])
                if self.umask_is_odd:
                    os.fchmod(outputs[-1], 0o600)
        except OSError as error:
            raise spawn.LaunchError(125, f"cannot create its output files: {error.strerror}") from None
        launch.standard = (stdin, *outputs)

    def _take_claim(self, directory: str) -> bool:
        return records.take_claim(directory, self.claim, self.claimed)

    def _spawn(self, launch: launches.Launch) -> int:
        """Spawn it, in whichever thread runs the loop now; may block, and raises nothing."""
        launch.spawn(self.limits)
        if launch.pid and self.gives_tags:
            job_marks.put_tag(launch.pid, launch.asked.directory.rpartition("/")[2])
        return launch.pid

    def _launched(self, launch: launches.Launch) -> None:
        """Take a launch into our care, or say why there is none. Everything here may be done again."""
        token, directory = launch.asked.token, launch.asked.directory
        if launch.given_up:
            return  # that was told when it was given up
        if launch.error is not None:
            error = launch.error
            record = factories.launch_failure(error.message, error.status, final=error.final)
            self.owed.write(directory, records.EXIT, record)
            self._say_failed(token, error.status, error.message, claimed=False)
            self.launching.pop(token, None)
            return
        if launch.start is None:
            if launch.pid in self.early:  # it is gone, so that no other process can be taken for it
                launch.start = launch.before // processes.TICK_NS
            else:
                launch.start = self.ticks.start_of(launch.pid, launch.before, launch.after)
        slot = launch.slot
        if slot is None:
            slot = launch.slot = launches.Slot(launch.asked)
            slot.pid, slot.start, slot.deadline = launch.pid, launch.start, launch.overdue_ns()
            self.slots[token] = self.by_pid[slot.pid] = slot
        if slot.deadline is not None:
            heappush(self.deadlines, (slot.deadline, token))
            if len(self.deadlines) > 2 * len(self.slots) + 1000:  # most are of jobs that ended long before
                self.deadlines = [entry for entry in self.deadlines if entry[1] in self.slots]
                heapify(self.deadlines)
        self.outputs.add(token, directory, launch.asked.output_limit, launch.before)
        self._begin_record(
            directory,
            {
                "pid": slot.pid,
                "start": slot.start,
                **self.identity,
                "keeper_pid": self.pid,
                "keeper_start": self.start,
                "started_ns": launch.before_wall,
                "started_boot_ns": launch.before,
                "spawned_boot_ns": launch.after,
                "deadline_boot_ns": slot.deadline,
                "ticks": self.ticks.agree,
            },
        )
        self.connection.queue(
            protocol.Launched(
                token=token,
                pid=slot.pid,
                start=slot.start,
                started_ns=launch.before_wall,
                started_boot_ns=launch.before,
                deadline_boot_ns=slot.deadline,
            )
        )
        self.launching.pop(token, None)
        if launch.stop is not None:
            self._attempt(self._begin_stop, slot, *launch.stop, True)
        end = self.early.pop(slot.pid, None)
        if end is not None:
            self.by_pid.pop(slot.pid, None)
            slot.end = end
            self._attempt(self._ended, slot)
        if not self.launching:
            self.early.clear()

    def _on_time_for_launches(self, now: int) -> None:
        """See to launches that hang: their deadlines run, and they can be stopped."""
        for launch in list(self.launching.values()):
            until = launch.overdue_ns()
            if launch.stop is not None:
                self._attempt(self._kill_launch, launch)
            elif until is not None and until <= now:
                self._attempt(self._stop_launch, launch, "deadline", "keeper")

    def _stop_launch(self, launch: launches.Launch, why: str, by: str, asked: bool = False) -> None:  # noqa: FBT001, FBT002
        """Give up a launch that hangs; if its process is there already, end that before it has run."""
        token, directory = launch.asked.token, launch.asked.directory
        if token not in self.launching or launch.stop is not None:
            return
        now = processes.boottime_ns()
        given_up = launch.give_up()
        request = factories.stop_request(why, by, signalled_boot_ns=now, gone=given_up)
        if asked or not records.create(directory, records.STOP, request):
            records.mark_stop(directory, signalled=now, gone=given_up)
        if not given_up:
            launch.stop = why, by
            return
        self.owed.write(directory, records.EXIT, factories.launch_failure(launches.CANCELLED))
        self._say_failed(token, 125, launches.CANCELLED, claimed=True)
        self.launching.pop(token, None)

    def _kill_launch(self, launch: launches.Launch) -> None:
        launch.kill({*self.by_pid, *self.early})

    # ------------------------------------------------------------ watching and stopping

    def _look_for_stops(self) -> None:
        for token, slot in list(self.slots.items()):
            if slot.exited is None and slot.stop is None and _is_there(f"{slot.directory}/{records.STOP}"):
                self._attempt(self._begin_stop, self.slots[token], "cancelled", "another process", True)
        for launch in list(self.launching.values()):
            if launch.stop is None and _is_there(f"{launch.asked.directory}/{records.STOP}"):
                self._attempt(self._stop_launch, launch, "cancelled", "another process", True)

    def _begin_stop(self, slot: launches.Slot, why: str, by: str, asked: bool = False) -> None:  # noqa: FBT001, FBT002
        """Begin to end a tree; ``asked``: the request is on disk already. May be done again."""
        if slot.stop is not None or slot.why is not None:
            return
        directory = slot.directory
        # Nobody is known by descent alone: the first signal need not wait for a look at all processes.
        at_once = not processes.has_child_ended(slot.pid) and not processes.may_have_children(slot.pid)
        request = factories.stop_request(why, by, signalled_boot_ns=processes.boottime_ns() if at_once else None)
        there: dict[str, object] = (self._read_stop(directory) or {}) if asked else {}
        if not there:
            try:
                first = self.reserve.use(records.create, directory, records.STOP, request)
            except OSError:  # a full disk must not keep a job alive: it may be what fills it
                first = True
                self.owed.owe(directory, records.STOP, request)
            there = request if first else (self._read_stop(directory) or {})
        if there.get("refused"):
            return  # until it is asked for anew
        if not there:  # it makes no sense, so nobody has asked yet
            self.owed.write(directory, records.STOP, request)
            there = request

        def on_signal(signalled: int) -> None:
            try:
                records.mark_stop(directory, signalled=signalled, known=there)
            except OSError:
                there["signalled_boot_ns"] = signalled
                self._owe_stop(slot)
            there["signalled_boot_ns"] = signalled

        at_once = at_once and there.get("signalled_boot_ns") in {None, request["signalled_boot_ns"]}
        stop = process_tree.Stop(
            directory.rpartition("/")[2],
            slot.pid,
            slot.start,
            slot.grace,
            on_signal,
            signalled_ns=there.get("signalled_boot_ns"),  # type: ignore[arg-type]  # a number or None, as we write it
            is_child=True,
        )
        slot.why, slot.request, slot.stop = str(there["why"]), there, stop
        self.stopping[stop] = slot
        self.outputs.drop(slot.token)
        self.leftovers.pop(slot.token, None)
        try:
            if at_once and there is not request:
                on_signal(processes.boottime_ns())
                stop.signalled_ns = there["signalled_boot_ns"]  # type: ignore[assignment]  # a number by now
            if at_once:
                self._signal_at_once(stop, slot)
        finally:
            self.killer.add(stop)

    def _signal_at_once(self, stop: process_tree.Stop, slot: launches.Slot) -> None:
        try:
            if self.killer.signal_leader(stop):
                return
        except OSError:  # the look that follows sees to it
            return
        stop.signalled_ns = slot.request["signalled_boot_ns"] = None  # it has ended by itself after all
        slot.request.pop("v", None)
        self.owed.write(slot.directory, records.STOP, slot.request)

    def _read_stop(self, directory: str) -> dict[str, Any] | None:
        """Return the request on disk; nothing where there is no job directory (any more).

        Raises:
            OSError: it cannot be read now.
        """
        try:
            held: dict[str, Any] | None = self.reserve.use(records.read_stop, directory)
        except OSError as error:
            if not unwritten.leads_nowhere(directory, error):
                raise
            return None
        return held

    def _owe_stop(self, slot: launches.Slot) -> None:
        """Write ``stop.json`` as soon as there is room for it, in the version of that moment."""
        slot.request.pop("v", None)
        self.owed.owe(slot.directory, records.STOP, slot.request)

    def _stopped(self, stop: process_tree.Stop) -> None:
        """Note that nothing is left of a tree, or who is. May be done again."""
        slot = self.stopping.get(stop)
        if slot is None:
            return
        if slot.stop is not stop:  # of what was left behind
            del self.stopping[stop]
            self.leftovers.pop(slot.token, None)
            return
        if stop.natural or stop.refused:
            slot.why = None
            if stop.signalled_ns is not None and slot.request:
                self._take_back(slot, stop)
        elif slot.request:
            left = " ".join(map(str, stop.survivors))
            sizes = measures.sizes(slot.directory)  # what all of its processes wrote
            slot.output |= sizes
            try:
                records.mark_stop(slot.directory, gone=True, survivors=left, known=slot.request, sizes=sizes)
            except OSError:
                slot.request |= {**sizes, "gone": True, "survivors": left}
                if slot.request.get("signalled_boot_ns") is None:
                    slot.request["signalled_boot_ns"] = stop.signalled_ns
                self._owe_stop(slot)
            slot.request = {}
        del self.stopping[stop]
        slot.stop = None
        if slot.exited is not None:
            self._attempt(self._settled, slot, stop.survivors if slot.why is not None else [])
        else:
            self.to_reap = True

    def _take_back(self, slot: launches.Slot, stop: process_tree.Stop) -> None:
        """Note that no signal has reached the command of a job."""
        refused = " ".join(map(str, stop.survivors)) if stop.refused else ""
        try:
            records.take_back_stop(slot.directory, refused, slot.request)
        except OSError:
            slot.request |= {"signalled_boot_ns": None, **({"refused": refused} if refused else {})}
            self._owe_stop(slot)
        slot.request = {}

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            cpu = usage.ru_utime + usage.ru_stime
            end = status, cpu, usage.ru_maxrss, time.time_ns(), processes.boottime_ns()
            slot = self.by_pid.pop(pid, None)
            if slot is None:
                self.early[pid] = end  # its launch has not come back yet
            else:
                slot.end = end
                self._attempt(self._ended, slot)

    def _ended(self, slot: launches.Slot) -> None:
        """Record an end, and settle the job unless its tree is still to be ended. May be done again."""
        assert slot.end is not None  # noqa: S101  # only jobs that were reaped come here
        status, cpu, rss, wall, boot = slot.end
        exit_code, by_signal = factories.exit_code_and_signal(status)
        rss_bytes = rss * (1 if sys.platform == "darwin" else 1024)
        cpu = round(cpu, 6)
        if not slot.output:
            slot.output = self._measure(slot)
        if slot.exited is None:
            record = factories.process_end(
                {"pid": slot.pid, "start": slot.start, "boot": self.identity["boot"]},
                exit_code,
                by_signal,
                by="keeper",
                ended_ns=wall,
                ended_boot_ns=boot,
                cpu_seconds=cpu,
                max_rss_bytes=rss_bytes,
            )
            self._end_record(slot.directory, {**record, **slot.output, **self._told_with_the_end(slot)})
            slot.exited = protocol.Exited(
                token=slot.token,
                exit_code=exit_code,
                signal=by_signal,
                ended_ns=wall,
                ended_boot_ns=boot,
                cpu_seconds=cpu,
                max_rss_bytes=rss_bytes,
                output=slot.output,
                stopped=None,
                survivors=[],
            )
        if slot.stop is None and slot.why is None and _is_there(f"{slot.directory}/{records.STOP}"):
            there = self._read_stop(slot.directory) or {}
            if there.get("signalled_boot_ns") is not None and not there.get("gone"):
                self._begin_stop(slot, "cancelled", "another process")  # finish what somebody began
            elif there.get("signalled_boot_ns") is not None:
                slot.why = str(there["why"])
        if slot.stop is not None:
            slot.stop.ended_at(boot)
            self.killer.hurry(slot.stop)
        else:
            self._settled(slot, [])

    def _told_with_the_end(self, slot: launches.Slot) -> dict[str, object]:
        """Return what the record of an end says besides."""
        del slot
        return {}

    def _settled(self, slot: launches.Slot, survivors: list[int]) -> None:
        assert slot.exited is not None  # noqa: S101  # only jobs that ended come here
        if self.slots.get(slot.token) is slot:
            slot.exited.stopped, slot.exited.survivors = slot.why, survivors
            self.connection.queue(slot.exited)
            del self.slots[slot.token]

    # ------------------------------------------------------------ what was left behind

    def _measure(self, slot: launches.Slot) -> dict[str, object]:
        """Return what a job has written that has just ended; keep an eye on it if something may write on."""
        stopped = slot.stop is not None or slot.why is not None  # then nothing is left behind
        found, may_grow = self.outputs.end(slot.token, slot.directory, slot.pid, watch=not stopped)
        if slot.stop_leftovers and not stopped:
            self._end_leftovers(slot)
        elif may_grow and not stopped:
            self.leftovers[slot.token] = slot
        return found

    def _end_leftovers(self, slot: launches.Slot) -> None:
        """End what a command has left behind, as a cancel would; its job has ended, and that changes nothing there."""
        assert slot.end is not None  # noqa: S101  # that is what leaves something behind
        self.outputs.drop(slot.token)
        self.leftovers[slot.token] = slot
        mark, now, ended = slot.directory.rpartition("/")[2], processes.boottime_ns(), slot.end[4]
        stop = process_tree.Stop(mark, slot.pid, slot.start, slot.grace, _say_nothing, signalled_ns=now, ended_ns=ended)
        self.stopping[stop] = slot
        self.killer.add(stop)


def _say_nothing(_signalled_ns: int) -> None:
    """Note nowhere that something is signalled."""


def _is_there(path: str) -> bool:
    """Whether there is a file of this name that can be read.

    Raises:
        OSError: that cannot be told now.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if unwritten.is_shortage(error):
            raise
        return False
    return True
