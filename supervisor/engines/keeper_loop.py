"""What the keeper does: launch, record, watch, stop, reap; one loop, one thread.

Standard library only; see ``keeper.py`` for how it is started and ``keeper_line`` for what is said on the
line to its supervisor. When the supervisor is gone its jobs go on, and so does everything here, the deadlines
now without the delay that leaves them to the supervisor first.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from heapq import heapify, heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from supervisor.engines import keeper_line, keeper_output, keeper_spawn, processes, records, trees
else:  # run by keeper.py, outside the package
    import keeper_line
    import keeper_output
    import keeper_spawn
    import processes
    import records
    import trees
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["BACKSTOP_NS", "Keeper"]

BACKSTOP_NS: Final = 2_000_000_000
_LOOK_AGAIN_MS: Final = 30_000  # no wait is longer: the boot clock runs on through a suspend, poll does not
# Few launches at once are answered one by one, so that the supervisor has something to do meanwhile; of many, each
# answer of its own would only wake it once more.
_ANSWER_AFTER: Final = 4


class Slot:
    """A job that was launched here and is not settled yet."""

    __slots__ = (
        "deadline",
        "directory",
        "exit",
        "grace",
        "pid",
        "request",
        "start",
        "stop",
        "token",
        "why",
    )

    def __init__(self, token: int, directory: str, grace: float) -> None:
        self.token = token
        self.directory = directory
        self.grace = grace
        self.pid = 0
        self.start = 0
        self.deadline: int | None = None
        self.stop: trees.Stop | None = None
        self.request: dict[str, object] = {}  # what stop.json says, or will when there is room for it
        self.why: str | None = None  # why it was stopped, once the first signal went out
        self.exit: tuple[Any, ...] | None = None


class Keeper:
    """Keeps the jobs of one supervisor."""

    def __init__(self, root: str) -> None:
        """Take over standard input as the socket, and prepare to spawn."""
        self.root = root
        self.line = keeper_line.Line(os.dup(0))
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for standard in (0, 1, 2):
            os.dup2(self.null, standard)
        self.umask = os.umask(0o077)  # theirs is for the jobs; ours keeps every record private
        self.pid, self.start = processes.own_identity()
        self.claim = records.keeper_claim(self.pid, self.start, processes.boot_id(), processes.pid_namespace())
        self.claimed: str | None = None
        self.identity: dict[str, object] = {"boot": processes.boot_id(), "ns": processes.pid_namespace()}
        self.environments: dict[int, dict[bytes, bytes]] = {}
        self.slots: dict[int, Slot] = {}
        self.by_pid: dict[int, Slot] = {}
        self.killer = trees.TreeKiller(self.by_pid)
        self.stopping: dict[trees.Stop, Slot] = {}
        self.deadlines: list[tuple[int, int]] = []
        self.outputs = keeper_output.Outputs()
        self.unwritten: list[tuple[str, str, dict[str, object]]] = []
        self.ticks_agree = True
        self.ticks_checked = False
        self.wake = self._watch_signals()
        self.poll = select.poll()

    @staticmethod
    def _watch_signals() -> int:
        for number in signal.valid_signals():
            try:
                if signal.getsignal(number) is signal.SIG_IGN and number not in keeper_spawn.RESET:
                    signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                continue
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, _heard)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return reading

    # ------------------------------------------------------------ the loop

    def run(self) -> None:
        """Keep jobs until the supervisor is gone and the last job is settled."""
        poll = self.poll
        poll.register(self.wake, select.POLLIN)
        assert self.line.socket is not None  # noqa: S101  # it is closed in this loop only
        connection = self.line.socket.fileno()
        poll.register(connection, select.POLLIN)
        hears = False
        self.line.say("hello", keeper_line.PROTOCOL, self.pid, self.start)
        while self.line.socket is not None or self.slots or self.unwritten:
            try:
                self.line.send()
                if self.line.socket is None:
                    if connection >= 0:
                        poll.unregister(connection)
                        connection = -1
                        continue
                else:
                    poll.modify(connection, select.POLLIN | (select.POLLOUT if self.line.unsent else 0))
                if self.outputs.descriptor >= 0 and not hears:
                    hears = True
                    poll.register(self.outputs.descriptor, select.POLLIN)
                ready = poll.poll(self._timeout_ms())
                if any(descriptor == self.wake for descriptor, _ in ready):
                    self._signalled()
                if any(descriptor == connection for descriptor, _ in ready):
                    self._receive()
                if any(descriptor == self.outputs.descriptor for descriptor, _ in ready):
                    self.outputs.heard()
                self._on_time()
            except Exception:  # noqa: BLE001  # whatever it was, the jobs still need their keeper
                self._log()
                time.sleep(0.05)  # and if it comes again and again, not the whole processor

    def _timeout_ms(self) -> int:
        due = [when for when in (self.killer.next_ns, self.outputs.next_ns) if when is not None]
        if self.deadlines:
            due.append(self.deadlines[0][0] + (BACKSTOP_NS if self.line.socket is not None else 0))
        wait = _LOOK_AGAIN_MS if not self.unwritten else 1000
        if due:
            wait = min(wait, max(0, -(-(min(due) - processes.boottime_ns()) // 1_000_000)))
        return wait

    def _signalled(self) -> None:
        try:
            numbers = os.read(self.wake, 65536)
        except BlockingIOError:
            return
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGUSR1 in numbers:
            self._look_for_stops()

    def _on_time(self) -> None:
        now = processes.boottime_ns()
        late = BACKSTOP_NS if self.line.socket is not None else 0
        while self.deadlines and self.deadlines[0][0] + late <= now:
            slot = self.slots.get(heappop(self.deadlines)[1])
            if slot is not None and slot.exit is None:
                self._begin_stop(slot, "deadline", "keeper")
        for token in self.outputs.look():
            slot = self.slots.get(token)
            if slot is not None and slot.exit is None:
                self._begin_stop(slot, "output_limit", "keeper")
        due = self.killer.next_ns
        if due is not None and due <= now:
            for stop in self.killer.tick(self._attend):
                self._stopped(stop)
        if self.unwritten:
            waiting, self.unwritten = self.unwritten, []
            for directory, name, record in waiting:
                self._record(directory, name, record)

    def _attend(self) -> None:
        """See to what has come in the middle of something long: stops to begin, children to reap."""
        ready = self.poll.poll(0)
        if any(descriptor == self.wake for descriptor, _ in ready):
            self._signalled()
        if any(descriptor != self.wake and events & ~select.POLLOUT for descriptor, events in ready):
            self._receive()
        self.line.send()

    def _record(self, directory: str, name: str, record: dict[str, object]) -> None:
        """Write a record; if the disk is full, again every second until it can be written."""
        try:
            records.replace(directory, name, record)
        except (FileNotFoundError, NotADirectoryError):
            pass  # somebody has deleted the job: nobody will ask
        except OSError:
            self.unwritten.append((directory, name, record))

    def _begin_record(self, directory: str, record: dict[str, object]) -> None:
        try:
            records.begin(directory, record)
        except OSError:  # whatever stood in the way, writing it aside is what can be repeated
            self._record(directory, records.PROCESS, record)

    def _end_record(self, directory: str, record: dict[str, object]) -> None:
        try:
            records.end(directory, record)
        except OSError:
            self._record(directory, records.EXIT, record)

    def _log(self) -> None:
        import traceback

        try:
            with open(f"{self.root}/keeper.log", "a", encoding="utf-8") as file:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                file.write(f"{stamp} keeper {self.pid}\n{traceback.format_exc()}\n")
        except OSError:
            pass

    # ------------------------------------------------------------ the supervisor's end

    def _receive(self) -> None:
        # Descriptors keep the frames that they come with apart, so there may be one launch in each.
        for _ in range(_ANSWER_AFTER):
            messages = self.line.receive()
            if messages is None:
                return
            answer_after = max(1, min(len(messages) // 2, _ANSWER_AFTER))
            for number, message in enumerate(messages, 1):
                self._handle(message)
                if number % answer_after == 0:
                    self._signalled()
                    self.line.send()
            self.line.forget_lost()

    def _handle(self, message: tuple[Any, ...]) -> None:
        what, token, *rest = message
        if what == "launch":
            try:
                self._launch(token, *rest)
            except Exception as error:  # noqa: BLE001  # an answer is owed whatever happens
                self._log()
                self.line.say("failed", token, 125, f"the keeper failed: {error!r}", False)
        elif what == "stop":
            slot = self.slots.get(token)
            if slot is not None and slot.exit is None:
                self._begin_stop(slot, *rest)
        elif what == "env":
            self.environments[token] = rest[0]
        elif what == "drop_env":
            self.environments.pop(token, None)

    # ------------------------------------------------------------ launching

    def _launch(
        self,
        token: int,
        directory: str,
        argv: list[bytes],
        env_token: int,
        changes: dict[bytes, bytes],
        deadline: float | None,
        grace: float,
        limit: int,
        descriptors: int,
    ) -> None:
        passed = self.line.take(descriptors)
        opened: list[int] = []
        try:
            if not self._take_claim(directory):
                self.line.say("failed", token, 125, "it was claimed by somebody else", True)
                return
            self.claimed = directory
            if len(passed) < descriptors:
                raise keeper_spawn.LaunchError(125, os.strerror(errno.EMFILE) + " in the keeper")
            environment = {**self.environments[env_token], **changes}
            slot = Slot(token, directory, grace)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                opened += [os.open(f"{directory}/{name}", flags, 0o600) for name in (records.STDOUT, records.STDERR)]
            except OSError as error:
                raise keeper_spawn.LaunchError(125, f"cannot create its output files: {error.strerror}") from None
            standard = (passed[1] if descriptors > 1 else self.null, *opened)
            before_wall, before = time.time_ns(), processes.boottime_ns()
            slot.pid = self._spawn(passed[0], argv, environment, standard)
            after = processes.boottime_ns()
            slot.start = self._start_of(slot.pid, before, after)
        except keeper_spawn.LaunchError as error:
            self._record(
                directory,
                records.EXIT,
                {"launch_error": error.message, "launch_status": error.status, "ended_ns": time.time_ns()},
            )
            self.line.say("failed", token, error.status, error.message, False)
            return
        finally:
            for descriptor in (*passed, *opened):
                os.close(descriptor)
        self.slots[token] = self.by_pid[slot.pid] = slot
        if deadline is not None:
            slot.deadline = before + int(deadline * 1e9)
            heappush(self.deadlines, (slot.deadline, token))
            if len(self.deadlines) > 2 * len(self.slots) + 1000:  # most are of jobs that ended long before
                self.deadlines = [entry for entry in self.deadlines if entry[1] in self.slots]
                heapify(self.deadlines)
        self.outputs.add(token, directory, limit, before)
        self._begin_record(
            directory,
            {
                "pid": slot.pid,
                "start": slot.start,
                **self.identity,
                "keeper_pid": self.pid,
                "keeper_start": self.start,
                "started_ns": before_wall,
                "started_boot_ns": before,
                "spawned_boot_ns": after,
                "deadline_boot_ns": slot.deadline,
                "ticks": self.ticks_agree,
            },
        )
        self.line.say("launched", token, slot.pid, slot.start, before_wall, before, slot.deadline)

    def _take_claim(self, directory: str) -> bool:
        return records.take_claim(directory, self.claim, self.claimed)

    def _spawn(
        self,
        workspace: int,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        standard: tuple[int, ...],
    ) -> int:
        try:
            os.fchdir(workspace)
        except OSError as error:
            raise keeper_spawn.LaunchError(125, f"cannot enter the workspace: {error.strerror}") from None
        try:
            executable = keeper_spawn.find_executable(argv[0], environment)
            os.umask(self.umask)
            try:
                return keeper_spawn.spawn(executable, argv, environment, standard)
            except OSError as error:
                raise keeper_spawn.why_not(error, executable) from None
        finally:
            os.umask(0o077)
            os.chdir("/")  # a workspace must not be held by us

    def _start_of(self, pid: int, before: int, after: int) -> int:
        """Return the start tick of a child, read from ``/proc`` only where the clock leaves a doubt."""
        start = processes.start_from_boottime(before, after) if self.ticks_agree else None
        if start is None or not self.ticks_checked:
            found = processes.read_process(pid)  # not reaped, so it is there
            read = found.start if found is not None else 0
            if start is not None:
                self.ticks_checked = True
                self.ticks_agree = start == read  # a sandbox may count ticks in another way
            return read
        return start

    # ------------------------------------------------------------ watching and stopping

    def _look_for_stops(self) -> None:
        for slot in list(self.slots.values()):
            if slot.exit is None and slot.stop is None and os.access(f"{slot.directory}/{records.STOP}", os.F_OK):
                self._begin_stop(slot, "cancelled", "another process", asked=True)

    def _begin_stop(self, slot: Slot, why: str, by: str, *, asked: bool = False) -> None:
        """Begin to end a tree; ``asked``: somebody has put the request on disk already."""
        if slot.stop is not None or slot.why is not None:
            return
        directory = slot.directory
        # Nobody is known by descent alone: the first signal need not wait for a look at all processes.
        at_once = not processes.has_child_ended(slot.pid) and not processes.may_have_children(slot.pid)
        request: dict[str, object] = {
            "why": why,
            "requested_ns": time.time_ns(),
            "by": by,
            "signalled_boot_ns": processes.boottime_ns() if at_once else None,
            "gone": False,
        }
        there: dict[str, object] = (records.read_stop(directory) or {}) if asked else {}
        if not there:
            try:
                first = records.create(directory, records.STOP, request)
            except OSError:  # a full disk must not keep a job alive: it may be what fills it
                first = True
                self.unwritten.append((directory, records.STOP, request))
            there = request if first else (records.read_stop(directory) or {})
        if not there:  # it makes no sense, so nobody has asked yet
            self._record(directory, records.STOP, request)
            there = request
        slot.why = str(there["why"])
        slot.request = there

        def on_signal(signalled: int) -> None:
            try:
                records.mark_stop(directory, signalled=signalled, known=there)
            except OSError:
                there["signalled_boot_ns"] = signalled
                self._owe_stop(slot)
            there["signalled_boot_ns"] = signalled

        at_once = at_once and there.get("signalled_boot_ns") in {None, request["signalled_boot_ns"]}
        if at_once and there is not request:
            on_signal(processes.boottime_ns())

        self.outputs.drop(slot.token)
        slot.stop = trees.Stop(
            directory.rpartition("/")[2],
            slot.pid,
            slot.start,
            slot.grace,
            on_signal,
            signalled_ns=there.get("signalled_boot_ns"),  # type: ignore[arg-type]  # a number or None, as we write it
            is_child=True,
        )
        self.stopping[slot.stop] = slot
        if at_once and not self.killer.signal_leader(slot.stop):
            slot.stop.signalled_ns = there["signalled_boot_ns"] = None  # it has ended by itself after all
            there.pop("v", None)
            self._record(directory, records.STOP, there)
        self.killer.add(slot.stop)

    def _owe_stop(self, slot: Slot) -> None:
        """Write ``stop.json`` as soon as there is room for it, in the version of that moment."""
        slot.request.pop("v", None)
        if not any(record is slot.request for _, _, record in self.unwritten):
            self.unwritten.append((slot.directory, records.STOP, slot.request))

    def _stopped(self, stop: trees.Stop) -> None:
        slot = self.stopping.pop(stop)
        slot.stop = None
        if stop.natural:
            slot.why = None
        else:
            try:
                left = " ".join(map(str, stop.survivors))
                records.mark_stop(slot.directory, gone=True, survivors=left, known=slot.request)
            except OSError:
                pass
            else:
                slot.request = {}
            if slot.request:
                slot.request |= {"gone": True, "survivors": " ".join(map(str, stop.survivors))}
                if slot.request.get("signalled_boot_ns") is None:
                    slot.request["signalled_boot_ns"] = stop.signalled_ns
                self._owe_stop(slot)
        if slot.exit is not None:
            self._settled(slot, stop.survivors)
        else:
            self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = self.by_pid.pop(pid, None)
            if slot is not None:
                self._ended(slot, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)

    def _ended(self, slot: Slot, status: int, cpu: float, rss: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        wall, boot = time.time_ns(), processes.boottime_ns()
        exit_code, by_signal = (code, None) if code >= 0 else (None, -code)
        rss_bytes = rss * (1 if sys.platform == "darwin" else 1024)
        cpu = round(cpu, 6)
        slot.exit = (exit_code, by_signal, wall, boot, cpu, rss_bytes)
        self.outputs.drop(slot.token)
        self._end_record(
            slot.directory,
            {
                "pid": slot.pid,
                "start": slot.start,
                "boot": self.identity["boot"],
                "exit_code": exit_code,
                "signal": by_signal,
                "ended_ns": wall,
                "ended_boot_ns": boot,
                "cpu_seconds": cpu,
                "max_rss_bytes": rss_bytes,
                "by": "keeper",
                **self._told_with_the_end(slot),
            },
        )
        if slot.stop is None and slot.why is None and os.access(f"{slot.directory}/{records.STOP}", os.F_OK):
            there = records.read_stop(slot.directory) or {}
            if there.get("signalled_boot_ns") is not None and not there.get("gone"):
                self._begin_stop(slot, "cancelled", "another process")  # finish what somebody began
            elif there.get("signalled_boot_ns") is not None:
                slot.why = str(there["why"])
        if slot.stop is not None:
            slot.stop.ended_at(boot)
            self.killer.hurry(slot.stop)
        else:
            self._settled(slot, [])

    def _told_with_the_end(self, slot: Slot) -> dict[str, object]:
        """Return what the record of an end says besides."""
        del slot
        return {}

    def _settled(self, slot: Slot, survivors: list[int]) -> None:
        del self.slots[slot.token]
        assert slot.exit is not None  # noqa: S101  # only jobs that ended come here
        self.line.say("exit", slot.token, *slot.exit, slot.why, survivors)


def _heard(_number: int, _frame: object) -> None:
    """Do nothing: the descriptor that the signal made readable says it all."""
