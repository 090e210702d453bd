"""The registry actor: the only writer of job states in its process.

Everything that happens to a job arrives as a message. All messages that wait in the mailbox are
committed in one transaction; then, and only then, waiters are woken and events published. A commit
neither syncs nor waits, so it is made right here on the event loop; when another process holds the
lock, the batch is committed in a thread instead, and the mailbox fills meanwhile.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple

import attrs
import trio

from supervisor import log
from supervisor.engines.interface import Running
from supervisor.errors import JobNotFound, StateBusy, SupervisorError
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.metrics import Counters
from supervisor.model import Job, JobEvent
from supervisor.runtime import tracing
from supervisor.states import State
from supervisor.store import Index, Row
from supervisor.store.rows import job_of
from supervisor.system.observing import NotKnown

__all__ = ["Create", "Entry", "Finish", "NoteFetched", "NoteLaunch", "Registry", "Subscription"]

_MAILBOX: Final = 1024
_MOST_IN_A_BATCH: Final = 256
_MOST_EVENTS: Final = 256
_MOST_IN_A_ROW: Final = 16
_NOTE_AFTER_SECONDS: Final = 0.05


def _is_gone(directory: str) -> bool:
    try:
        return records.is_gone(directory)
    except NotKnown:
        return False


def _nobody() -> bool:
    return False


class Entry:
    """A job that this supervisor takes care of, from its creation or adoption to its end.

    ``scope`` holds the deadline and is what a cancel cancels; ``settling`` is set when the
    launch is decided, ``finished`` when the end is on record. ``adopted``: what memory
    knows of it may be old, until its actor has looked. ``owner_lives`` tells of another supervisor
    that may be about to launch it. ``progress``: what its output says, for kinds that report it.
    ``stop_seen``: why another process has asked for its stop, as of the last look.
    """

    __slots__ = (
        "adopted",
        "directory",
        "finished",
        "generation",
        "key_conflict",
        "owner_lives",
        "problem",
        "progress",
        "row",
        "running",
        "scope",
        "started",
        "stop_by",
        "stop_seen",
        "stop_why",
        "waiters",
    )

    def __init__(self, row: Row, directory: str) -> None:
        """Begin to take care of the job of ``row``."""
        self.row = row
        self.directory = directory
        self.running: Running | None = None
        self.adopted = False
        self.owner_lives: Callable[[], bool] = _nobody
        self.scope = trio.CancelScope()
        self.started = trio.Event()
        self.finished = trio.Event()
        self.stop_why: str | None = None
        self.stop_by = ""
        self.stop_seen: str | None = None
        self.problem: SupervisorError | None = None
        self.progress: dict[str, Any] | None = None
        self.key_conflict = False
        self.generation = 0
        self.waiters = 0

    def stop(self, why: str, by: str) -> None:
        """Ask for the job to be stopped; the first reason stays."""
        if self.stop_why is None:
            self.stop_why, self.stop_by = why, by
            self.scope.cancel()

    def job(self) -> Job:
        """Return the job as it is now."""
        running = self.running
        return job_of(
            self.row,
            self.directory,
            stop_requested=self.stop_why or self.stop_seen or (None if running is None else running.stop_seen),
            progress=self.progress,
            queue_reason=None if running is None else running.queue_reason,
        )


class Create(NamedTuple):
    """A job is to exist. ``begin`` starts its actor once it does.

    If it cannot, ``entry.started`` is set with ``entry.problem`` saying why, or with
    ``entry.key_conflict`` because its idempotency key belongs to somebody else's job by now.
    """

    entry: Entry
    cap: int
    begin: Callable[[], None]


class NoteLaunch(NamedTuple):
    """The command of a job was spawned, some time ago."""

    entry: Entry


class Finish(NamedTuple):
    """The command of a job has ended, and it was decided what that means."""

    entry: Entry
    row: Row
    reason: str


class NoteFetched(NamedTuple):
    """Somebody has seen the result of a job: it may go first when room is needed."""

    job_id: str


Message = Create | NoteLaunch | Finish | NoteFetched


class Subscription:
    """A reader of events with bounded memory: what it does not fetch in time is counted, not kept.

    Of the progress of a job only the latest is kept, and none that would push out something else.
    """

    def __init__(self, job_id: str | None) -> None:
        """Want the events of one job, or of all."""
        self.job_id = job_id
        self._events: OrderedDict[object, JobEvent] = OrderedDict()
        self._lagged = 0
        self._readers = trio.lowlevel.ParkingLot()
        self._in_a_row = 0
        self._closed = False

    @property
    def unread(self) -> int:
        """How many events it holds."""
        return len(self._events)

    def put(self, event: JobEvent) -> None:
        """Take an event; the oldest goes when there are too many."""
        job = event.job
        if self.job_id is not None and self.job_id != job.job_id:
            return
        events = self._events
        progress = event.previous is job.status
        key: object = job.job_id if progress else object()
        if progress:
            events.pop(key, None)
        if len(events) >= _MOST_EVENTS:
            self._lagged += 1
            if progress:
                return
            events.popitem(last=False)
        events[key] = event
        if self._readers:
            self._readers.unpark_all()

    def close(self) -> None:
        """End the iteration after what is there."""
        self._closed = True
        self._readers.unpark_all()

    def __aiter__(self) -> Subscription:
        """Return itself."""
        return self

    async def __anext__(self) -> JobEvent:
        """Return the next event; its ``lagged`` says how many were missed before it.

        Can be cancelled every time, with nothing lost. Others get their turn when there is no event, and at the
        latest after ``_MOST_IN_A_ROW`` that were there: a turn for each would make a hundred readers miss most.
        """
        if self._events and self._in_a_row < _MOST_IN_A_ROW:
            self._in_a_row += 1
            await trio.lowlevel.checkpoint_if_cancelled()
        elif self._events or self._closed:
            self._in_a_row = 1
            await trio.lowlevel.checkpoint()
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._in_a_row = 0
            await self._readers.park()
        _, event = self._events.popitem(last=False)
        if self._lagged:
            event = attrs.evolve(event, lagged=self._lagged)
            self._lagged = 0
        return event


class Registry:
    """Commits what happens to jobs, and tells who wants to know."""

    def __init__(self, catalog: Catalog) -> None:
        """Write through the catalog's registry, whose lock must not be waited for."""
        self._index = catalog.index
        self._catalog = catalog
        self._patient: Index | None = None
        self.entries: dict[str, Entry] = {}
        self.subscriptions: set[Subscription] = set()
        self.protected: Counter[str] = Counter()
        self.generation = 0
        self.unwritten: dict[str, Row] = {}
        self.counters = Counters()
        self._launches: deque[tuple[float, Entry]] = deque()
        self._launched = trio.Event()
        self._send, self._receive = trio.open_memory_channel[Message](_MAILBOX)

    @property
    def queue_length(self) -> int:
        """How many messages wait to be committed."""
        return self._send.statistics().current_buffer_used

    @property
    def deferred_launches(self) -> int:
        """How many launches are to be committed when they are due."""
        return len(self._launches)

    async def send(self, message: Message) -> None:
        """Hand over a message; waits while the mailbox is full, and only then."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            await self._send.send(message)

    @contextlib.contextmanager
    def protected_job(self, job_id: str) -> Generator[None]:
        """Keep a job from being evicted while somebody is about to fetch its result."""
        self.protected[job_id] += 1
        try:
            yield
        finally:
            self.protected[job_id] -= 1
            if not self.protected[job_id]:
                del self.protected[job_id]

    def check_for_changes(self) -> bool:
        """Notice whether another process has written since the last look."""
        try:
            changed = self._index.changed()
        except SupervisorError:
            changed = True
        if changed:
            self.generation += 1
        return changed

    def close(self) -> None:
        """Take no more messages; ``run`` ends when the mailbox is empty."""
        self._send.close()

    def release_waiters(self) -> None:
        """Wake whoever still waits for a job: nobody here will see its end."""
        for entry in self.entries.values():
            entry.started.set()
            entry.finished.set()

    async def run(self) -> None:
        """Commit until ``close``; what is left when it is cancelled is committed as well."""
        batch: list[Message] = []
        try:
            while True:
                try:
                    batch.append(await self._receive.receive())
                except trio.EndOfChannel:
                    break
                self._drain(batch)
                try:
                    answers = self._commit(self._index, batch)
                except StateBusy:
                    answers = await self._commit_in_thread(batch)
                except SupervisorError as problem:
                    answers = self._refused(batch, problem)
                self._announce(batch, answers)
                batch = []
        finally:
            self._drain(batch)
            batch += [NoteLaunch(entry) for _, entry in self._launches if not entry.row.finished]
            if batch:
                self._last_commit(batch)
            self.flush()
            if self._patient is not None:
                self._patient.close()

    def _drain(self, batch: list[Message]) -> None:
        try:
            while len(batch) < _MOST_IN_A_BATCH:
                batch.append(self._receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass

    def _last_commit(self, batch: list[Message]) -> None:
        try:
            answers = self._commit(self._index, batch)
        except SupervisorError as problem:
            # Nothing is lost: what became of these jobs stands in their directories.
            answers = self._refused(batch, problem)
        self._announce(batch, answers)

    async def _commit_in_thread(self, batch: list[Message]) -> list[bool]:
        def commit() -> list[bool]:
            if self._patient is None:
                self._patient = Index(self._catalog.layout, self._catalog.judge, wait_seconds=10, any_thread=True)
            return self._commit(self._patient, batch)

        try:
            return await trio.to_thread.run_sync(commit)
        except SupervisorError as problem:
            return self._refused(batch, problem)
        except RuntimeError as error:  # no thread can be started now
            return self._refused(batch, StateBusy(f"cannot commit: {error}", repair="Try again."))

    def _commit(self, index: Index, batch: list[Message]) -> list[bool]:
        single = len(batch) == 1 and not isinstance(batch[0], Create)
        return index.write(lambda: [self._apply(index, message) for message in batch], single=single)

    def _apply(self, index: Index, message: Message) -> bool:
        if isinstance(message, NoteFetched):
            index.set_fetched(message.job_id)
            return True
        row = message.entry.row
        if isinstance(message, Create):
            if not index.insert(row):
                return False
            index.evict(row.workspace_key, message.cap, self.protected)
            return True
        if isinstance(message, NoteLaunch):
            launched = row.launched()
            if launched is not None:
                index.set_launched(row.job_id, launched)
            return True
        return index.finish(message.row)

    def _refused(self, batch: list[Message], problem: SupervisorError) -> list[bool]:
        """Deal with a batch that cannot be written: a new job is refused, all else is true regardless."""
        log.warning("commit_failed", code=problem.code, error=problem.message, messages=len(batch))
        for message in batch:
            if isinstance(message, Create):
                message.entry.problem = problem
            elif isinstance(message, Finish):
                self.unwritten[message.row.job_id] = message.row
        return [True for _ in batch]

    def flush(self) -> None:
        """Commit the ends that could not be written when they came, if that is possible by now."""
        if self.unwritten:
            rows = list(self.unwritten.values())
            with contextlib.suppress(SupervisorError):
                self._index.write(lambda: [self._index.finish(row) for row in rows])
                for row in rows:
                    del self.unwritten[row.job_id]

    # ------------------------------------------------------------ after the commit

    def _announce(self, batch: list[Message], answers: list[bool]) -> None:
        for message, answer in zip(batch, answers, strict=True):
            if isinstance(message, Create):
                self._created(message, taken=not answer)
            elif isinstance(message, Finish):
                self._settled(message, first=answer)

    def _created(self, message: Create, *, taken: bool) -> None:
        entry = message.entry
        if taken or entry.problem is not None:
            entry.key_conflict = taken
            entry.started.set()
            return
        self.entries[entry.row.job_id] = entry
        self._publish(entry, None)
        message.begin()

    def _settled(self, message: Finish, *, first: bool) -> None:
        entry = message.entry
        row = entry.row
        previous = State(row.state)
        theirs = None if first else self._read(row.job_id)
        # If somebody else was first, they decided the same from the same evidence.
        entry.row = theirs if theirs is not None and theirs.finished else message.row
        if not first and theirs is None and _is_gone(entry.directory):
            text = f"job {row.job_id} has been consumed or forgotten by somebody else"
            entry.problem = JobNotFound(text, details={"job_id": row.job_id})
        self.entries.pop(row.job_id, None)
        entry.started.set()
        entry.finished.set()
        self._publish(entry, previous)
        self.counters.ended[entry.row.state] += 1
        if first:
            tracing.end(entry.row, entry.directory)
        log.info("job_ended", job_id=row.job_id, state=entry.row.state, reason=message.reason)

    def launched(self, entry: Entry) -> None:
        """Tell everybody that the command of a job was spawned, and have that noted before long."""
        self._publish(entry, State.QUEUED)
        self._launches.append((trio.current_time() + _NOTE_AFTER_SECONDS, entry))
        self._launched.set()
        entry.started.set()

    async def note_launches(self) -> None:
        """Have launches committed, each a little later, and not at all if its job has ended by then.

        Whoever asks about an unfinished job looks at the evidence anyway, so nothing is missed meanwhile.
        """
        with contextlib.suppress(trio.ClosedResourceError):  # what is left then is in the last commit
            while True:
                await self._launched.wait()
                self._launched = trio.Event()
                while self._launches:
                    due, entry = self._launches[0]
                    if not entry.row.finished and due > trio.current_time():
                        await trio.sleep_until(due)
                    if not entry.row.finished:
                        await self.send(NoteLaunch(entry))
                    self._launches.popleft()

    def publish_progress(self, entry: Entry) -> None:
        """Publish that the output of a job says something new about its progress."""
        self._publish(entry, State(entry.row.state))

    def _read(self, job_id: str) -> Row | None:
        try:
            return self._index.get(job_id)
        except SupervisorError:
            return None

    def _publish(self, entry: Entry, previous: State | None) -> None:
        if self.subscriptions:
            event = JobEvent(job=entry.job(), previous=previous)
            for subscription in self.subscriptions:
                subscription.put(event)
