"""The keeper: it launches jobs, records, watches and reaps them, in the loop of ``turns``; ``stops`` ends their trees.

When the supervisor is gone the keeper goes on with its jobs. Their deadlines then fall without the delay that leaves
them to the supervisor first.
"""

from __future__ import annotations

import errno
import os
import select
import time

from supervisor.jobdir import durability, factories, job_marks, records, stops
from supervisor.keeper import (
    job_cgroups,
    launches,
    protocol,
    registration,
    spawn,
    syncs,
    terminals,
)
from supervisor.keeper.stop_record import read_stop
from supervisor.keeper.stops import Stops
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from heapq import heapify, heappop, heappush
    from typing import Final
else:
    from _heapq import heapify, heappop, heappush  # without `heapq`: 0.2 ms

__all__ = ["BACKSTOP_NS", "Keeper"]

BACKSTOP_NS: Final = 2_000_000_000
_LET_GO_NS: Final = 20_000_000_000
_KILL_AGAIN_NS: Final = 50_000_000  # a launch that is to end and has not returned


class Keeper(Stops):
    """Keeps the jobs of one supervisor."""

    registers = True
    makes_cgroups = True

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
        self.early: dict[int, launches.End] = {}  # of children whose launches have not returned
        self.children: dict[int, launches.Child] = {}
        self.deadlines: list[tuple[int, int]] = []
        self.cgroups = job_cgroups.JobCgroups(self.claim)
        self.alarms: dict[int, launches.Child] = {}
        self.without_alarm: list[launches.Child] = []
        self.inputs = terminals.Inputs(self.relay.guard, lambda: self.relay.may_block)
        self.let_go_ns = 0
        self.held = launches.HeldOrders(self.pid, self._set_dumpable)

    def run(self) -> None:
        """Keep jobs until the supervisor is gone and the last job has ended, registered as a keeper meanwhile."""
        if self.registers:
            registration.register(self.root, self.claim)
        super().run()

    def _greeted(self) -> None:
        if self.makes_cgroups:
            self.cgroups.open()

    def _loop(self) -> None:
        super()._loop()
        self.cgroups.close()
        if self.registers:
            registration.unregister(self.root, self.claim)

    # ------------------------------------------------------------ for the turns

    def _has_jobs(self) -> bool:
        return bool(self.children or self.launching or self.leftovers or self.held)

    def _add_watched(self, wanted: dict[int, int]) -> None:
        if self.outputs.descriptor >= 0:
            wanted[self.outputs.descriptor] = select.POLLIN
        wanted |= self.inputs.wanted | dict.fromkeys(self.alarms, select.POLLIN)

    def _handle_watched(self, ready: set[int]) -> None:
        if self.outputs.descriptor in ready:
            self.outputs.handle_events()
        self.inputs.handle(ready)
        for alarm in ready.intersection(self.alarms):
            self._attempt(self._end_for_memory, self.alarms.pop(alarm))

    def _wait(self) -> set[int]:
        self.cgroups.flush()  # after the answers were sent
        while self.without_alarm:
            self._set_alarm(self.without_alarm.pop())
        return super()._wait()

    def _due_ns(self) -> list[int]:
        times = (self.killer.next_ns, self.outputs.next_ns, self.inputs.next_ns)
        due = [when for when in times if when is not None]
        if self.deadlines:
            due.append(self.deadlines[0][0] + (BACKSTOP_NS if self.connection.is_open else 0))
        for launch in self.launching.values():
            until = processes.boottime_ns() + _KILL_AGAIN_NS if launch.stop is not None else launch.overdue_ns()
            if until is not None:
                due.append(until)
        return due

    def _on_time(self) -> None:
        now = processes.boottime_ns()
        late = BACKSTOP_NS if self.connection.is_open else 0
        while self.deadlines and self.deadlines[0][0] + late <= now:
            deadline, token = heappop(self.deadlines)
            child = self.children.get(token)
            if child is not None and child.exited is None and child.deadline == deadline:  # no pause has moved it
                self._attempt(self._begin_stop, child, "deadline", "keeper")
        if self.held and now >= self.let_go_ns:  # a process that was killed has sent no signal
            self.let_go_ns = now + _LET_GO_NS
            self._attempt(self.held.let_go)
        if self.launching:
            self._on_time_for_launches(now)
        for token in self.outputs.check():
            child = self.children.get(token)
            if child is not None and child.exited is None:
                self._attempt(self._begin_stop, child, "output_limit", "keeper")
            elif token in self.leftovers:
                self._end_leftovers(self.leftovers[token])
        for token in self.outputs.take_quiet():
            self.leftovers.pop(token, None)
        for token in self.inputs.on_time():
            if token in self.children:
                self._attempt(self._ended, self.children[token])
        due = self.killer.next_ns
        if due is not None and due <= now:
            self._tick()

    def _handle(self, message: protocol.Message) -> None:
        match message:
            case protocol.Launch():
                self._launch(message)
            case protocol.Stop(token=token):
                child = self.children.get(token)
                if child is not None and child.exited is None:
                    self._attempt(self._begin_stop, child, message.why, message.by)
                elif token in self.launching:
                    self._attempt(self._stop_launch, self.launching[token], message.why, message.by)
            case protocol.FindLimits(token=token):
                if self.cgroups.is_sure:
                    self._report_limits(token)
                else:
                    self.syncs.append(syncs.Sync(self.cgroups.open, lambda _: self._report_limits(token)))
            case protocol.Hold():
                error = self.held.add(message.directory, self.connection.take_descriptors(1))
                self.connection.queue(protocol.Held(token=message.token, error=error))
            case protocol.SetEnvironment(token=token, variables=variables):
                self.environments[token] = variables, [name + b"=" + value for name, value in variables.items()]
                self.helper.learn(message)
            case protocol.DropEnvironment(token=token):
                self.environments.pop(token, None)
            case _:
                pass

    def _report_limits(self, token: int) -> None:
        missing, lasts = self.cgroups.missing, self.cgroups.is_sure
        self.connection.queue(protocol.MissingLimits(token=token, missing=missing, lasts=lasts))

    # ------------------------------------------------------------ launching

    def _launch(self, asked: protocol.Launch) -> None:
        self.helper.involve(asked)
        launch = launches.Launch(asked, self.connection.take_descriptors(asked.descriptors))
        try:
            if not self._take_claim(asked.directory):
                launch.close()
                self._report_failure(asked.token, 125, "another process has claimed it", claimed=True)
                return
            self.claimed = asked.directory
            self.held.drop(asked.directory)
            if len(launch.held) < asked.descriptors:
                raise spawn.LaunchError(125, os.strerror(errno.EMFILE) + " in the keeper")
            if not self.relay.may_block:
                raise spawn.LaunchError(125, "too many launches wait for file systems that do not answer")
            launch.prepare(
                *self.environments[asked.environment], self.null, self.inputs, umask_is_odd=self.umask_is_odd
            )
            launch.leaf = self.cgroups.begin(asked.directory.rpartition("/")[2], asked.limits)
        except spawn.LaunchError as error:
            launch.error = error
        except Exception as error:  # noqa: BLE001  # the supervisor waits for an answer
            self.journal.failure(error)
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            launch.error = spawn.LaunchError(125, f"the keeper cannot launch it: {reason}")
        self.launching[asked.token] = launch
        if launch.error is None:
            self.relay.guard(self._spawn, launch)
        else:
            launch.close()
        self._attempt(self._launched, launch)

    def _report_failure(self, token: int, status: int, reason: str, *, claimed: bool) -> None:
        self.connection.queue(protocol.Failed(token=token, status=status, reason=reason, claimed=claimed))

    def _take_claim(self, directory: str) -> bool:
        return records.take_claim(directory, self.claim, self.claimed)

    def _spawn(self, launch: launches.Launch) -> int:
        """Spawn a command, in the thread that runs the loop; may block, and raises nothing."""
        launch.spawn(self.limits)
        if launch.pid and self.gives_tags:
            job_marks.put_tag(launch.pid, launch.asked.directory.rpartition("/")[2])
        return launch.pid

    def _launched(self, launch: launches.Launch) -> None:
        """Take over a launch that has returned, or report why it failed. May be repeated."""
        token, directory = launch.asked.token, launch.asked.directory
        if launch.leaf is not None and (launch.given_up or launch.error is not None):
            self.cgroups.end(launch.leaf)
        if launch.given_up:
            return  # the supervisor has its answer
        if launch.error is not None:
            error = launch.error
            record = factories.launch_failure(error.message, error.status, repair=error.repair, final=error.final)
            self.unwritten.write(directory, records.EXIT, record)
            self._report_failure(token, error.status, error.message, claimed=False)
            self.inputs.drop(token)
            self.helper.free(launch.asked)
            self.launching.pop(token, None)
            return
        if launch.start is None:
            if launch.pid in self.early:  # it is gone: no other process can be taken for it
                launch.start = launch.before // processes.TICK_NS
            else:
                launch.start = self.ticks.start_of(launch.pid, launch.before, launch.after)
        child = launch.child
        if child is None:
            child = launch.child = launches.Child(launch.asked)
            child.pid, child.start, child.deadline = launch.pid, launch.start, launch.overdue_ns()
            child.leaf = launch.leaf
            if child.leaf is not None:
                self.without_alarm.append(child)
            self.children[token] = self.by_pid[child.pid] = child
        self._watch_deadline(child)
        self.outputs.add(token, directory, launch.asked.output_limit, launch.before)
        self._begin_record(
            directory,
            {
                "pid": child.pid,
                "start": child.start,
                **self.identity,
                "keeper_pid": self.pid,
                "keeper_start": self.start,
                "started_ns": launch.before_wall,
                "started_boot_ns": launch.before,
                "spawned_boot_ns": launch.after,
                "deadline_boot_ns": child.deadline,
                "ticks": self.ticks.agree,
                "controls": records.CONTROLS,
                **({"stdin": True} if launch.asked.descriptors > 1 else {}),
                **({} if child.leaf is None else child.leaf.record()),
            },
        )
        launched = protocol.Launched(
            token=token,
            pid=child.pid,
            start=child.start,
            started_ns=launch.before_wall,
            started_boot_ns=launch.before,
            deadline_boot_ns=child.deadline,
        )
        if launch.asked.durable:
            self._sync(child, durability.sync_job, lambda: self._report_launch(child, launched))
        else:
            self._report_launch(child, launched)
        self.launching.pop(token, None)
        if launch.stop is not None:
            self._attempt(self._begin_stop, child, *launch.stop, True)
        end = self.early.pop(child.pid, None)
        if end is not None:
            self.by_pid.pop(child.pid, None)
            child.reaped(end)
            self._attempt(self._ended, child)
        if not self.launching:
            self.early.clear()

    def _report_launch(self, child: launches.Child, launched: protocol.Launched) -> None:
        child.launched = launched
        self.connection.queue(launched)

    def _sync(self, child: launches.Child, step: Callable[[str], object], then: Callable[[], object]) -> None:
        """Wait for the disk at the beginning of a later turn, and then go on. What fails is noted in the end."""

        def go_on(error: str | None) -> None:
            if error is not None:
                self.journal.note(f"not known to be on the disk: {error}")
                child.unsynced = child.unsynced or error
            then()

        self.syncs.append(syncs.Sync(lambda: step(child.directory), go_on))

    def _watch_deadline(self, child: launches.Child) -> None:
        if child.deadline is not None:
            heappush(self.deadlines, (child.deadline, child.token))
            if len(self.deadlines) > 2 * len(self.children) + 1000:  # most are of jobs that ended long before
                self.deadlines = [entry for entry in self.deadlines if entry[1] in self.children]
                heapify(self.deadlines)

    def _on_time_for_launches(self, now: int) -> None:
        """Stop the launches that hang past their deadlines, and kill those that are stopped."""
        for launch in list(self.launching.values()):
            until = launch.overdue_ns()
            if launch.stop is not None:
                self._attempt(self._kill_launch, launch)
            elif until is not None and until <= now:
                self._attempt(self._stop_launch, launch, "deadline", "keeper")

    def _stop_launch(self, launch: launches.Launch, why: str, by: str, asked: bool = False) -> None:  # noqa: FBT001, FBT002
        """Give up a launch that hangs; if its process exists already, end it before its program runs."""
        token, directory = launch.asked.token, launch.asked.directory
        if token not in self.launching or launch.stop is not None:
            return
        now = processes.boottime_ns()
        given_up = launch.give_up()
        request = factories.stop_request(why, by, signalled_boot_ns=now, gone=given_up)
        if asked or not records.create(directory, records.STOP, request):
            stops.mark_stop(directory, signalled=now, gone=given_up)
        if not given_up:
            launch.stop = why, by
            return
        self.unwritten.write(directory, records.EXIT, factories.launch_failure(launches.CANCELLED))
        self._report_failure(token, 125, launches.CANCELLED, claimed=True)
        self.inputs.drop(token)
        self.helper.free(launch.asked)
        self.launching.pop(token, None)

    def _kill_launch(self, launch: launches.Launch) -> None:
        launch.kill({*self.by_pid, *self.early})

    # ------------------------------------------------------------ watching

    def _find_stops(self) -> None:
        self.held.let_go()
        for token, child in list(self.children.items()):
            if child.exited is None and child.stop is None and launches.is_there(f"{child.directory}/{records.STOP}"):
                self._attempt(self._begin_stop, self.children[token], "cancelled", "another process", True)
            elif child.launched is not None and launches.is_there(f"{child.directory}/{records.PAUSE}"):
                self._attempt(self._note_pause, child)
        for launch in list(self.launching.values()):
            if launch.stop is None and launches.is_there(f"{launch.asked.directory}/{records.STOP}"):
                self._attempt(self._stop_launch, launch, "cancelled", "another process", True)

    def _note_pause(self, child: launches.Child) -> None:
        """Move the deadline of a job by the time for which pauses have held it, and report that it may be paused.

        Another process stops and continues its processes.
        """
        pause = self.reserve.use(records.read_pause, child.directory)
        if not pause or child.launched is None:
            return
        deadline = child.launched.deadline_boot_ns
        if deadline is not None:
            child.deadline = None if pause["held_since_boot_ns"] is not None else deadline + pause["held_ns"]
            self._watch_deadline(child)
        self.connection.queue(child.launched)  # the supervisor reads the record

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
            child = self.by_pid.pop(pid, None)
            if self.helper.has_ended(pid):
                continue
            if child is None:
                self.early[pid] = end  # its launch has not returned yet
            else:
                child.reaped(end)
                self._attempt(self._ended, child)

    def _ended(self, child: launches.Child) -> None:
        """Record an end, and report it unless the tree of the job is still to be ended. May be repeated."""
        assert child.end is not None  # noqa: S101  # set when it was reaped
        if not child.output:
            lost = self.inputs.end(child.token)
            if lost is None:  # its terminal is not recorded yet
                return
            child.output = self._measure(child)
            if lost:
                child.output["truncated"] = True
            if child.durable:
                self._sync(child, durability.sync_output, lambda: self._output_synced(child))
        if child.durable and not child.is_output_synced:
            return
        if child.exited is None:
            self._note_memory(child)
            self._end_record(child.directory, self._record_of_end(child))
            child.exited = child.report()
        if child.stop is None and child.why is None and launches.is_there(f"{child.directory}/{records.STOP}"):
            there = read_stop(child.directory, self.reserve) or {}
            if there.get("signalled_boot_ns") is not None and not there.get("gone"):
                self._begin_stop(child, "cancelled", "another process")  # finish what that process began
            elif there.get("signalled_boot_ns") is not None:
                child.why = str(there["why"])
        if child.stop is not None:
            self.killer.hurry(child.stop)
        else:
            self._report_end(child, [])

    def _output_synced(self, child: launches.Child) -> None:
        child.is_output_synced = True
        self._ended(child)

    def _record_of_end(self, child: launches.Child) -> dict[str, object]:
        if child.unsynced is not None:
            child.output["unsynced"] = child.unsynced
        return {**child.record_of_end(str(self.identity["boot"])), **child.output, **self._more_of_the_end(child)}

    def _note_memory(self, child: launches.Child) -> None:
        """Note how much memory a job has used, and that the kernel has ended it for its limit if it has.

        That is a stop of the kernel's, and on record before the end of the job. The rest of the tree ends at once.
        """
        if child.leaf is None:
            return
        child.memory_peak_bytes, reached = child.leaf.memory_facts()
        assert child.end is not None  # noqa: S101  # set when it was reaped
        if reached and child.end[0] != 0:  # a command that has succeeded without the process is done
            self._end_for_memory(child)

    def _set_alarm(self, child: launches.Child) -> None:
        """Have the kernel tell when it ends a process of a job for its limit on memory, but not the rest."""
        if child.exited is None and child.leaf is not None and (alarm := child.leaf.set_alarm()) is not None:
            self.alarms[alarm] = child

    def _end_for_memory(self, child: launches.Child) -> None:
        """End what is left of the tree of a job in which the kernel has ended a process for its limit on memory."""
        if child.exited is None:
            child.grace = 0
            self._begin_stop(child, "memory_limit", "the kernel", signalled_ns=processes.boottime_ns())

    def _more_of_the_end(self, child: launches.Child) -> dict[str, object]:
        """Return further members of the record of an end."""
        del child
        return {}

    def _report_end(self, child: launches.Child, survivors: list[int]) -> None:
        if child.durable:
            self._sync(child, durability.sync_job, lambda: self._end_synced(child, survivors))
        else:
            self._tell_end(child, survivors)

    def _end_synced(self, child: launches.Child, survivors: list[int]) -> None:
        if child.unsynced is not None and "unsynced" not in child.output:  # the record does not say it yet
            self.unwritten.write(child.directory, records.EXIT, self._record_of_end(child))
        self._tell_end(child, survivors)

    def _tell_end(self, child: launches.Child, survivors: list[int]) -> None:
        assert child.exited is not None  # noqa: S101  # set when its end was recorded
        if self.children.get(child.token) is child:
            child.exited.stopped, child.exited.survivors = child.why, survivors
            self.connection.queue(child.exited)
            del self.children[child.token]
            if child.leaf is not None:
                self.alarms.pop(child.leaf.alarm or -1, None)
                self.cgroups.end(child.leaf)
            self.helper.free(child)
