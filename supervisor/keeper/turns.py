"""The turns of the keeper's loop: wait, handle signals and messages, retry. ``loop`` has the part about jobs.

The keeper imports no module once the loop runs. It retries each step that fails in a shortage (of descriptors, memory,
room on the disk), through ``_attempt`` or, for a record, ``unwritten``. A step that may block goes through ``relay``.
"""

from __future__ import annotations

import os
import select
import signal
import time

from supervisor.jobdir import records
from supervisor.keeper import (
    helper_starts,
    job_processes,
    launches,
    protocol,
    relay,
    resource_limits,
    spawn,
    syncs,
    unwritten,
)
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from typing import Any, Final
else:
    from _collections import deque  # without the rest of `collections`

__all__ = ["Turns", "ignore"]

_LONGEST_WAIT_MS: Final = 30_000  # the boot clock runs on through a suspend, the timeout of poll does not
# Answers to few launches go out one by one, so that the supervisor has work meanwhile; of many, each
# answer of its own would only wake the supervisor once more.
_ANSWER_AFTER: Final = 4
# The last: the keeper has passed the caller's limit on processor time, which is for the jobs.
_SIGNALS: Final = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGXCPU)
_PAUSE_NS: Final = 50_000_000  # before the first retry
_LONGEST_PAUSE_NS: Final = 500_000_000
_MAX_TRIES: Final = 60  # of a step that fails for another reason than a shortage


class Turns:
    """The loop of a keeper, without its jobs."""

    def __init__(self, root: str) -> None:
        """Take over standard input as the socket; ``root`` is where ``keeper.log`` is written."""
        self.root = root
        connection = os.dup(0)
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for standard in (0, 1):
            os.dup2(self.null, standard)
        self.reserve = unwritten.Reserve(self.null)  # first, so that its descriptors have low numbers
        self.connection = protocol.Connection(connection)
        # The umask of the caller is for the jobs. It opens no file to other users that is made for its owner,
        # but it may close it to the owner.
        umask = os.umask(0o077)
        os.umask(umask)
        self.umask_is_odd = bool(umask & 0o600)
        self.pid, self.start = processes.own_identity()
        self.limits = resource_limits.Limits()
        self.helper = helper_starts.Helper(root, self.null, self.limits)
        self.inbox: deque[protocol.Message] = deque()
        self.back: deque[launches.Launch | syncs.Sync] = deque()  # steps that blocked, and have returned
        self.syncs: deque[syncs.Sync] = deque()  # that have not begun
        self.journal = unwritten.Journal(f"{root}/keeper.log", self.pid)
        self.unwritten = unwritten.Unwritten(self._write, self.journal.note)
        self.retries: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self.to_reap = self.to_find_stops = self.scarce = self.hides = False
        self.wake, self.waker = self._watch_signals()
        self.poll = select.poll()
        self.polled = {self.wake: select.POLLIN}
        self.poll.register(self.wake, select.POLLIN)
        self.relay = relay.Relay(self._loop, self._came_back, _SIGNALS)

    @staticmethod
    def _watch_signals() -> tuple[int, int]:
        for number in signal.valid_signals():
            try:
                if signal.getsignal(number) is signal.SIG_IGN and number not in spawn.RESET:
                    signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                continue
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, ignore)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return reading, writing

    # ------------------------------------------------------------ the loop

    def run(self) -> None:
        """Keep jobs until the supervisor is gone and the last job has ended."""
        if self.limits.left:
            self.journal.note(f"limits of the caller that hold for the keeper too: {', '.join(self.limits.left)}")
        self.connection.queue(protocol.Hello(protocol=protocol.PROTOCOL, pid=self.pid, start=self.start, limits=True))
        self.connection.send()
        os.dup2(self.null, 2)  # text before this point explains a missing greeting
        self.hides = job_processes.may_read_environments() and not processes.may_hide_own()
        self._set_dumpable(False)
        self._greeted()
        self.relay.run()

    def _set_dumpable(self, dumpable: bool) -> None:  # noqa: FBT001  # as of prctl
        """Let processes of this user, so also jobs, read the memory of this one, with the secrets of jobs in it."""
        if self.hides:
            spawn.set_dumpable(dumpable)

    def _is_needed(self) -> bool:
        is_busy = bool(self.unwritten or self.retries or self.inbox)
        return self.connection.is_open or self._has_jobs() or is_busy or self._wake_ns() is not None

    def _loop(self) -> None:
        while self._is_needed():
            try:
                self._turn()
                if self.scarce:
                    self.scarce = False
                    self.reserve.refill()
            except Exception as error:  # noqa: BLE001  # the jobs still need their keeper
                self.scarce = True
                self.reserve.give_up()  # for the next turn
                self.journal.failure(error)
                time.sleep(_PAUSE_NS / 1e9)  # an error that recurs must not take the whole processor

    def _turn(self) -> None:
        while self.back:
            done = self.back.popleft()
            if isinstance(done, syncs.Sync):
                self._attempt(done.go_on)
            else:
                self._attempt(self._launched, done)
        if self.syncs and self.relay.may_block:  # one in each turn: they are slow, and the other jobs go on
            sync = self.syncs.popleft()
            self.relay.guard(syncs.run, sync)
            self._attempt(sync.go_on)
        if self.inbox:  # left by a thread that was relieved while it handled them
            self._handle_all()
        self.connection.send()
        if not self._is_needed():  # the send has found the supervisor gone, after the last job
            return
        ready = self._wait()
        if self.wake in ready or self.to_reap or self.to_find_stops:
            self._handle_signals()
        if self.connection.descriptor in ready or self.connection.has_more:
            self._receive()
        self._handle_watched(ready)
        self._on_time()
        if (wake := self._wake_ns()) is not None and wake <= processes.boottime_ns():
            self.relay.guard(self._wake, self.helper.take())
        self._retry()

    def _wait(self) -> set[int]:
        """Return the readable descriptors, at the latest when the next step is due."""
        wanted = {self.wake: select.POLLIN}
        if (descriptor := self.connection.descriptor) >= 0:
            wanted[descriptor] = select.POLLIN | (select.POLLOUT if self.connection.unsent else 0)
        self._add_watched(wanted)
        if wanted != self.polled:
            for descriptor in self.polled.keys() - wanted.keys():
                self.poll.unregister(descriptor)
            for descriptor, events in wanted.items():
                self.poll.register(descriptor, events)
            self.polled = wanted
        try:
            return {descriptor for descriptor, _ in self.poll.poll(self._timeout_ms())}
        except OSError:  # no memory; a limit on descriptors that is lower than their number
            time.sleep(_PAUSE_NS / 1e9)
            self.to_reap = self.to_find_stops = True
            return set(wanted)

    def _timeout_ms(self) -> int:
        now = processes.boottime_ns()
        due = [*self._due_ns(), *(entry[0] for entry in self.retries)]
        due += [at for at in (self.unwritten.next_ns, self._wake_ns()) if at is not None]
        if self.to_reap or self.to_find_stops or self.connection.has_more or self.back or self.syncs:
            due.append(now if self.syncs and self.relay.may_block else now + _PAUSE_NS)
        return min(_LONGEST_WAIT_MS, max(0, -(-(min(due) - now) // 1_000_000))) if due else _LONGEST_WAIT_MS

    def _came_back(self, done: object = None) -> None:
        """Hand a launch or a sync that blocked to the loop; from any thread. Other steps have no result."""
        if isinstance(done, launches.Launch | syncs.Sync):
            self.back.append(done)
        try:
            os.write(self.waker, b"\0")
        except OSError:  # full: the loop wakes up anyway
            return

    def _take_signals(self) -> set[int]:
        """Return the signals that came since the last call; all that matter where they cannot be read."""
        try:
            return set(os.read(self.wake, 65536))
        except BlockingIOError:
            return set()
        except OSError:
            return {signal.SIGCHLD, signal.SIGUSR1}

    def _handle_signals(self) -> None:
        numbers = self._take_signals()
        if signal.SIGXCPU in numbers:
            self.journal.note("the caller's limit on processor time has passed for the keeper")
        self.to_reap |= signal.SIGCHLD in numbers
        self.to_find_stops |= signal.SIGUSR1 in numbers
        if self.to_reap:
            self._reap()
            self.to_reap = False
        if self.to_find_stops:
            self._find_stops()
            self.to_find_stops = False

    def _handle_waiting(self) -> None:
        """Handle signals and messages in the middle of a long step."""
        ready = self.poll.poll(0)
        if any(descriptor == self.wake for descriptor, _ in ready):
            self._handle_signals()
        if any(descriptor != self.wake and events & ~select.POLLOUT for descriptor, events in ready):
            self._receive()
        self.connection.send()

    def _attempt(self, step: Callable[..., object], *args: Any, tries: int = 0) -> None:
        """Do a step that must be done and may be repeated; if it fails, repeat it a little later."""
        try:
            self.reserve.use(step, *args)
        except Exception as error:  # noqa: BLE001  # as in the loop
            self.journal.failure(error)
            if tries < _MAX_TRIES or isinstance(error, MemoryError) or unwritten.is_shortage(error):
                due = processes.boottime_ns() + min(_PAUSE_NS << min(tries, 8), _LONGEST_PAUSE_NS)
                self.retries.append((due, tries + 1, step, args))

    def _retry(self) -> None:
        if self.retries:
            now = processes.boottime_ns()
            for entry in [entry for entry in self.retries if entry[0] <= now]:
                self.retries.remove(entry)
                self._attempt(entry[2], *entry[3], tries=entry[1])
        if self.unwritten:
            self.reserve.use(self.unwritten.flush)

    # ------------------------------------------------------------ the helper

    def _wake_ns(self) -> int | None:
        return self.helper.next_ns(connected=self.connection.is_open)

    def _wake(self, always: bool) -> None:  # noqa: FBT001  # a step that may block
        self._attempt(self._wake_now, always)

    def _wake_now(self, always: bool) -> None:  # noqa: FBT001
        try:
            self.helper.wake(always)
        except OSError as error:
            if unwritten.is_shortage(error):
                raise
            self.journal.failure(error)  # the state root, or the Python, is not there any more

    # ------------------------------------------------------------ records

    def _write(self, directory: str, name: str, record: dict[str, object]) -> None:
        self.reserve.use(records.replace, directory, name, record)

    def _begin_record(self, directory: str, record: dict[str, object]) -> None:
        try:
            if self.umask_is_odd:
                self._write(directory, records.PROCESS, record)
            else:
                self.reserve.use(records.begin, directory, record)
        except (OSError, MemoryError):  # `begin` cannot be repeated, a replacement can
            self.unwritten.write(directory, records.PROCESS, record)

    def _end_record(self, directory: str, record: dict[str, object]) -> None:
        try:
            self.reserve.use(records.end, directory, record)
        except (OSError, MemoryError):
            self.unwritten.write(directory, records.EXIT, record)

    # ------------------------------------------------------------ messages

    def _receive(self) -> None:
        # The kernel keeps frames with descriptors apart, so each call may bring a single launch.
        for _ in range(_ANSWER_AFTER):
            messages = self.connection.receive()
            if messages is None:
                return
            self.inbox.extend(messages)
            self._handle_all()

    def _handle_all(self) -> None:
        answer_after = max(1, min(len(self.inbox) // 2, _ANSWER_AFTER))
        number = 0
        while self.inbox:
            self._handle(self.inbox.popleft())
            number += 1
            if number % answer_after == 0:
                self._handle_signals()
                self.connection.send()
        self.connection.close_stray_descriptors()

    # ------------------------------------------------------------ for the class that has the jobs

    def _greeted(self) -> None:
        """Prepare what the greeting need not wait for."""

    def _has_jobs(self) -> bool:
        """Whether the keeper has to stay although its supervisor is gone."""
        raise NotImplementedError

    def _due_ns(self) -> list[int]:
        """Return when the jobs need a call of ``_on_time``, on the boot clock."""
        raise NotImplementedError

    def _on_time(self) -> None:
        raise NotImplementedError

    def _add_watched(self, wanted: dict[int, int]) -> None:
        """Add the further descriptors to poll, with their events."""
        raise NotImplementedError

    def _handle_watched(self, ready: set[int]) -> None:
        """Handle those of them that are ready."""
        raise NotImplementedError

    def _handle(self, message: protocol.Message) -> None:
        raise NotImplementedError

    def _launched(self, launch: launches.Launch) -> None:
        """Take over a launch that has returned."""
        raise NotImplementedError

    def _reap(self) -> None:
        raise NotImplementedError

    def _find_stops(self) -> None:
        """Find the jobs that another process has asked to be stopped."""
        raise NotImplementedError


def ignore(_number: int, _frame: object) -> None:
    """Do nothing: the signal has made a descriptor readable."""
