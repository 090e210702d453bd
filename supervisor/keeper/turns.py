"""One turn of the keeper's loop after another: waiting, hearing, and doing again what has failed.

Standard library only: the keeper runs this file, outside the package. What the turns are for is in ``loop``.

Nothing is imported once it runs, and what fails for want of something (descriptors, memory, room on the disk) is kept
and done again: a step that must be done goes through ``_attempt``, a record through ``unwritten``. What may
block goes through ``relay``.
"""

from __future__ import annotations

import os
import select
import signal
import time

from supervisor.jobdir import records
from supervisor.keeper import launches, protocol, relay, resource_limits, spawn, unwritten
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from typing import Any, Final
else:
    from _collections import deque  # without the rest of `collections`

__all__ = ["Turns"]

_LOOK_AGAIN_MS: Final = 30_000  # no wait is longer: the boot clock runs on through a suspend, poll does not
# Few launches at once are answered one by one, so that the supervisor has something to do meanwhile; of many, each
# answer of its own would only wake it once more.
_ANSWER_AFTER: Final = 4
# The last says that the caller's limit on processor time has passed for us: it is meant for the jobs.
_HEARD: Final = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGXCPU)
_PAUSE_NS: Final = 50_000_000  # before what failed is done again
_LONGEST_PAUSE_NS: Final = 500_000_000
_MAX_TRIES: Final = 60  # of a step that fails for another reason than want of something


class Turns:
    """The loop of a keeper, without its jobs."""

    def __init__(self, root: str) -> None:
        """Take over standard input as the socket; ``root`` is where ``keeper.log`` is written."""
        self.root = root
        connection = os.dup(0)
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for standard in (0, 1):
            os.dup2(self.null, standard)
        self.reserve = unwritten.Reserve(self.null)  # first, for its numbers are to be low
        self.connection = protocol.Connection(connection)
        # The umask of the process that started us is for the jobs. It cannot open to others what is made for its owner,
        # but it may close it to the owner.
        umask = os.umask(0o077)
        os.umask(umask)
        self.umask_is_odd = bool(umask & 0o600)
        self.pid, self.start = processes.own_identity()
        self.limits = resource_limits.Limits()
        self.inbox: deque[protocol.Message] = deque()
        self.back: deque[launches.Launch] = deque()  # launches that blocked, and have come back
        self.journal = unwritten.Journal(f"{root}/keeper.log", self.pid)
        self.unwritten = unwritten.Unwritten(self._write, self.journal.note)
        self.again: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self.to_reap = self.to_look = self.scarce = False
        self.wake, self.waker = self._watch_signals()
        self.poll = select.poll()
        self.polled = {self.wake: select.POLLIN}
        self.poll.register(self.wake, select.POLLIN)
        self.relay = relay.Relay(self._loop, self._came_back, _HEARD)

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
        for number in _HEARD:
            signal.signal(number, _heard)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return reading, writing

    # ------------------------------------------------------------ the loop

    def run(self) -> None:
        """Keep jobs until the supervisor is gone and the last job is settled."""
        if self.limits.left:
            self.journal.note(f"limits of the caller that hold for the keeper too: {', '.join(self.limits.left)}")
        self.connection.queue(protocol.Hello(protocol=protocol.PROTOCOL, pid=self.pid, start=self.start))
        self.connection.send()
        os.dup2(self.null, 2)  # what was said until here says why there is no greeting
        self.relay.run()

    def _is_needed(self) -> bool:
        return self.connection.is_open or self._has_jobs() or bool(self.unwritten or self.again or self.inbox)

    def _loop(self) -> None:
        while self._is_needed():
            try:
                self._turn()
                if self.scarce:
                    self.scarce = False
                    self.reserve.refill()
            except Exception as error:  # noqa: BLE001  # whatever it was, the jobs still need their keeper
                self.scarce = True
                self.reserve.give_up()  # for the next turn
                self.journal.failure(error)
                time.sleep(_PAUSE_NS / 1e9)  # and if it comes again and again, not the whole processor

    def _turn(self) -> None:
        while self.back:
            self._attempt(self._launched, self.back.popleft())
        if self.inbox:  # left by a thread that was relieved in the middle of them
            self._handle_all()
        self.connection.send()
        if not self._is_needed():  # the supervisor is gone, as was found out just now, and so is the last job
            return
        ready = self._wait()
        if self.wake in ready or self.to_reap or self.to_look:
            self._signalled()
        if self.connection.descriptor in ready or self.connection.has_more:
            self._receive()
        if self._watched() in ready:
            self._told()
        self._on_time()
        self._do_again()

    def _wait(self) -> set[int]:
        """Return the descriptors for which there is something to do, at the latest when the next thing is due."""
        wanted = {self.wake: select.POLLIN}
        if (descriptor := self.connection.descriptor) >= 0:
            wanted[descriptor] = select.POLLIN | (select.POLLOUT if self.connection.unsent else 0)
        if (watched := self._watched()) >= 0:
            wanted[watched] = select.POLLIN
        if wanted != self.polled:
            for descriptor in self.polled.keys() - wanted.keys():
                self.poll.unregister(descriptor)
            for descriptor, events in wanted.items():
                self.poll.register(descriptor, events)
            self.polled = wanted
        try:
            return {descriptor for descriptor, _ in self.poll.poll(self._timeout_ms())}
        except OSError:  # no memory; a limit on descriptors that is lower than what is polled
            time.sleep(_PAUSE_NS / 1e9)
            self.to_reap = self.to_look = True
            return set(wanted)

    def _timeout_ms(self) -> int:
        now = processes.boottime_ns()
        due = [*self._due_ns(), *(entry[0] for entry in self.again)]
        if (due_ns := self.unwritten.next_ns) is not None:
            due.append(due_ns)
        if self.to_reap or self.to_look or self.connection.has_more or self.back:
            due.append(now + _PAUSE_NS)
        return min(_LOOK_AGAIN_MS, max(0, -(-(min(due) - now) // 1_000_000))) if due else _LOOK_AGAIN_MS

    def _came_back(self, launch: launches.Launch) -> None:
        """Hand a launch to the loop; from any thread."""
        self.back.append(launch)
        try:
            os.write(self.waker, b"\0")
        except OSError:  # full: the loop wakes up anyway
            return

    def _hear(self) -> set[int]:
        """Return the signals that came since the last time; all that matter where it cannot be told."""
        try:
            return set(os.read(self.wake, 65536))
        except BlockingIOError:
            return set()
        except OSError:
            return {signal.SIGCHLD, signal.SIGUSR1}

    def _signalled(self) -> None:
        numbers = self._hear()
        if signal.SIGXCPU in numbers:
            self.journal.note("the caller's limit on processor time has passed for the keeper")
        self.to_reap |= signal.SIGCHLD in numbers
        self.to_look |= signal.SIGUSR1 in numbers
        if self.to_reap:
            self._reap()
            self.to_reap = False
        if self.to_look:
            self._look_for_stops()
            self.to_look = False

    def _attend(self) -> None:
        """See to what has come in the middle of something long: stops to begin, children to reap."""
        ready = self.poll.poll(0)
        if any(descriptor == self.wake for descriptor, _ in ready):
            self._signalled()
        if any(descriptor != self.wake and events & ~select.POLLOUT for descriptor, events in ready):
            self._receive()
        self.connection.send()

    def _attempt(self, step: Callable[..., object], *args: Any, tries: int = 0) -> None:
        """Do a step that must be done and may be done again: if it fails now, a little later."""
        try:
            self.reserve.use(step, *args)
        except Exception as error:  # noqa: BLE001  # as in the loop
            self.journal.failure(error)
            if tries < _MAX_TRIES or isinstance(error, MemoryError) or unwritten.is_shortage(error):
                due = processes.boottime_ns() + min(_PAUSE_NS << min(tries, 8), _LONGEST_PAUSE_NS)
                self.again.append((due, tries + 1, step, args))

    def _do_again(self) -> None:
        if self.again:
            now = processes.boottime_ns()
            for entry in [entry for entry in self.again if entry[0] <= now]:
                self.again.remove(entry)
                self._attempt(entry[2], *entry[3], tries=entry[1])
        if self.unwritten:
            self.reserve.use(self.unwritten.flush)

    # ------------------------------------------------------------ records

    def _write(self, directory: str, name: str, record: dict[str, object]) -> None:
        self.reserve.use(records.replace, directory, name, record)

    def _begin_record(self, directory: str, record: dict[str, object]) -> None:
        try:
            if self.umask_is_odd:
                self._write(directory, records.PROCESS, record)
            else:
                self.reserve.use(records.begin, directory, record)
        except (OSError, MemoryError):  # whatever stood in the way, writing it aside is what can be repeated
            self.unwritten.write(directory, records.PROCESS, record)

    def _end_record(self, directory: str, record: dict[str, object]) -> None:
        try:
            self.reserve.use(records.end, directory, record)
        except (OSError, MemoryError):
            self.unwritten.write(directory, records.EXIT, record)

    # ------------------------------------------------------------ the supervisor's end

    def _receive(self) -> None:
        # Descriptors keep the frames that they come with apart, so there may be one launch in each.
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
                self._signalled()
                self.connection.send()
        self.connection.close_stray_descriptors()

    # ------------------------------------------------------------ what a keeper does in its turns

    def _has_jobs(self) -> bool:
        """Whether it has to stay although its supervisor is gone."""
        raise NotImplementedError

    def _due_ns(self) -> list[int]:
        """Return when something is to be done, on the boot clock."""
        raise NotImplementedError

    def _on_time(self) -> None:
        """Do what is due."""
        raise NotImplementedError

    def _watched(self) -> int:
        """Return a descriptor that is to be waited for as well, or one below 0."""
        raise NotImplementedError

    def _told(self) -> None:
        """Take what this descriptor has to say."""
        raise NotImplementedError

    def _handle(self, message: protocol.Message) -> None:
        """Do what the supervisor asks for."""
        raise NotImplementedError

    def _launched(self, launch: launches.Launch) -> None:
        """Take a launch into our care, or say why there is none."""
        raise NotImplementedError

    def _reap(self) -> None:
        """Take the ends of children."""
        raise NotImplementedError

    def _look_for_stops(self) -> None:
        """See which jobs others have asked to be stopped."""
        raise NotImplementedError


def _heard(_number: int, _frame: object) -> None:
    """Do nothing: the descriptor that the signal made readable says it all."""
