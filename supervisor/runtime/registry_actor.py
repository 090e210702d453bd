"""The registry actor: the only writer of job states in its process.

Every change of a job arrives as a message. The actor commits all messages in the mailbox in one transaction, and only
then wakes waiters and publishes events. A commit neither syncs nor waits, so it runs on the event loop. When another
process holds the lock, the actor commits the batch in a thread, and the mailbox fills meanwhile.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from supervisor import log
from supervisor.errors import JobNotFound, StateBusy, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.metrics import Counters
from supervisor.model import JobEvent
from supervisor.runtime import metering, tracing
from supervisor.runtime.entry import LAUNCHING, Entry
from supervisor.runtime.events import Subscription
from supervisor.runtime.messages import (
    Create,
    CreateMany,
    Finish,
    Message,
    NoteFetched,
    NoteLaunch,
    NoteLimit,
    TakeTurn,
    create_all,
    creations_of,
    is_one_statement,
    why_unfit,
)
from supervisor.states import State
from supervisor.store import Index, Row
from supervisor.store.queue import TURN, Turn
from supervisor.store.queue_queries import End
from supervisor.store.tickets import groups_of, has_ticket

__all__ = ["Registry"]

_MAILBOX: Final = 1024
_MAX_BATCH: Final = 256
_MAX_INLINE: Final = 32
"""How many jobs one message creates on the event loop: some 100 us each. For more there is a thread."""
_NOTE_AFTER_SECONDS: Final = 0.05
_PORTION: Final = 16
"""How many jobs one turn covers on the event loop: each admission makes a file."""


class Registry:
    """Commits state changes in batches, then wakes waiters and publishes events.

    Attributes:
        entries: the jobs that this supervisor supervises, by id.
        subscriptions: the open iterators of events.
        protected: the jobs that may not be evicted and do not expire now, with how many callers need each.
        unwritten: ended jobs whose ends could not be committed, on a full disk for one.
        generation: increases when another process has written to the index.
        admission_due: whether the turns of waiting jobs are to be taken: a commit may have freed their slots, or
            another process held the index.
        ends: some of the jobs that are to end without a launch, by the last turn.
        ends_known: is set when there are any.
        counters: of this supervisor.
    """

    def __init__(self, catalog: Catalog) -> None:
        """Write through the index of ``catalog``, which must not wait for locks."""
        self._index = catalog.index
        self._catalog = catalog
        self._patient: Index | None = None
        self.entries: dict[str, Entry] = {}
        self.subscriptions: set[Subscription] = set()
        self.protected: Counter[str] = Counter()
        self.unwritten: dict[str, Row] = {}
        self.generation = 0
        self.counters = Counters()
        self.admission_due = False
        self.supervise_next: Callable[[str], bool] = lambda _: True
        self._granted: dict[str, None] = {}  # in the order of the admissions
        self.ends: list[End] = []
        self.ends_known = trio.Event()
        self._ended: dict[str, Row | None] = {}
        self._postponed: dict[str, Finish] = {}
        self._next: set[str] = set()
        self._ends_ns: dict[str, int] = {}  # of the last job of each group, among those of this batch
        self._launches: deque[tuple[float, Entry]] = deque()
        self._launched = trio.Event()
        self._send, self._receive = trio.open_memory_channel[Message](_MAILBOX)

    @property
    def queue_length(self) -> int:
        """How many messages wait to be committed."""
        return self._send.statistics().current_buffer_used

    @property
    def deferred_launches(self) -> int:
        """How many launches are not committed yet."""
        return len(self._launches)

    async def send(self, message: Message) -> None:
        """Put a message into the mailbox; waits only while the mailbox is full."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            await self._send.send(message)

    def protect(self, job_id: str, protection: contextlib.ExitStack) -> None:
        """Protect a job from eviction and expiry until ``protection`` closes: a caller is about to fetch its result."""
        self.protected[job_id] += 1
        protection.callback(self._unprotect, job_id)

    def _unprotect(self, job_id: str) -> None:
        self.protected[job_id] -= 1
        if not self.protected[job_id]:
            del self.protected[job_id]

    def check_for_changes(self) -> bool:
        """Tell whether another process has written to the index since the last call."""
        try:
            changed = self._index.changed()
        except SupervisorError:
            changed = True
        if changed:
            self.generation += 1
        return changed

    def close(self) -> None:
        """Accept no more messages; ``run`` ends when the mailbox is empty."""
        self._send.close()

    def release_waiters(self) -> None:
        """Wake every task that still waits for a job: this process will not see the end of the job."""
        for entry in self.entries.values():
            entry.started.set()
            entry.finished.set()

    async def run(self) -> None:
        """Commit until ``close``; when it is cancelled, commit the remaining messages."""
        batch: list[Message] = []
        try:
            while True:
                try:
                    batch.append(await self._receive.receive())
                except trio.EndOfChannel:
                    break
                self._drain(batch)
                try:
                    is_long = any(len(creations_of(message)) > _MAX_INLINE for message in batch)
                    done = await self._commit_in_thread(batch) if is_long else self._commit(self._index, batch)
                except StateBusy:
                    done = await self._commit_in_thread(batch)
                except SupervisorError as problem:
                    done = self._refuse(batch, problem), None
                self._announce(batch, *done)
                if self.admission_due:
                    self.admit()
                self._ends_ns.clear()
                batch = []
        finally:
            self._drain(batch)
            batch += [NoteLaunch(entry) for _, entry in self._launches if not entry.row.finished]
            if batch:
                try:
                    done = self._commit(self._index, batch)
                except SupervisorError as problem:  # nothing is lost: the job directories have the records
                    done = self._refuse(batch, problem), None
                self._announce(batch, *done)
            self.flush()
            if self._patient is not None:
                self._patient.close()

    def _drain(self, batch: list[Message]) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while len(batch) < _MAX_BATCH:
                batch.append(self._receive.receive_nowait())

    async def _commit_in_thread(self, batch: list[Message]) -> tuple[list[bool], Turn | None]:
        has_thread = False

        def commit() -> tuple[list[bool], Turn | None]:
            nonlocal has_thread
            has_thread = True
            if self._patient is None:
                self._patient = Index(self._catalog.layout, self._catalog.judge, wait_seconds=10, any_thread=True)
            return self._commit(self._patient, batch)

        try:
            return await trio.to_thread.run_sync(commit)
        except SupervisorError as problem:
            return self._refuse(batch, problem), None
        except RuntimeError as error:
            if has_thread:  # a defect, perhaps after the commit: to refuse the batch could deny jobs that exist
                raise
            return self._refuse(batch, StateBusy(f"cannot commit: {error}", repair="Try again.")), None

    def _commit(self, index: Index, batch: list[Message]) -> tuple[list[bool], Turn | None]:
        """Commit a batch; return which messages took effect, and the turn that was taken for new jobs that may wait.

        It may run in a thread, so it changes nothing that tasks of the event loop wait for.
        """
        single = len(batch) == 1 and is_one_statement(batch[0])
        pending = changes = freed = False
        for message in batch:
            match message:
                case Finish(row=row):
                    changes = True
                    freed = freed or has_ticket(row.request)
                case NoteLaunch():
                    changes = True
                case _:
                    pending = pending or any(creation.entry.pending for creation in creations_of(message))
        turn: Turn | None = None

        def apply() -> list[bool]:
            nonlocal turn
            answers = [self._apply(index, message) for message in batch]
            if pending or (changes and index.queue.is_due(index.layout.clock.moment, freed=freed)):
                self.admission_due = True  # after the commit
            if pending:
                turn = index.take_turn(max(TURN, sum(len(creations_of(message)) for message in batch)))
                granted = {grant.job_id for grant in turn.grants}
                for message, answer in zip(batch, answers, strict=True):
                    for creation in creations_of(message) if answer else ():
                        row = creation.entry.row
                        if row.job_id not in granted or row.may_be_retried:  # the next attempt is launched from them
                            creation.entry.spool()
            return answers

        answers = index.write(apply, single=single)
        return answers, turn

    def _apply(self, index: Index, message: Message) -> bool:
        """Write one message; return whether it took effect."""
        match message:
            case Create(entry, cap):
                entry.problem = why_unfit(index, entry.row)
                if entry.problem is not None:
                    return False
                created = index.insert(entry.row)
                if created:
                    index.evict(entry.row.workspace_key, cap, self.protected)
                return created
            case CreateMany(creations):
                return create_all(index, creations, self.protected)
            case Finish(row=row) if row.may_be_retried:
                return self._end_attempt(index, message)
            case Finish(row=row):
                return index.finish(row)
            case NoteLaunch(entry):
                if (launched := entry.row.launched()) is not None:
                    index.set_launched(entry.row.job_id, launched)
            case NoteFetched(job_id):
                index.set_fetched(job_id)
            case NoteLimit(entry, limit):
                index.note_limit(entry.row, limit)
            case TakeTurn():
                pass
        return True

    def _end_attempt(self, index: Index, message: Finish) -> bool:
        """Record the end of an attempt; postpone it as long as the next one cannot be made, on a full disk for one."""
        job_id = message.row.job_id
        self._postponed.pop(job_id, None)
        try:
            first = index.finish(message.row)
        except SupervisorError as problem:  # nothing was written
            log.warning("commit_failed", code=problem.code, error=problem.message, messages=1)
            self._postponed[job_id] = message
            return False
        self._ended[job_id] = index.get(job_id)
        return first

    def _note(self, turn: Turn) -> None:
        self._granted.update((grant.job_id, None) for grant in turn.grants)
        self.ends = turn.ends
        if turn.ends:
            self.ends_known.set()

    def admit(self) -> None:
        """Take a turn if one is due, and start the actors of the admitted jobs. The next turn follows at once."""
        self.admission_due = True
        with contextlib.suppress(SupervisorError):  # the next commit tries again, and the janitor
            turn = self._index.take_due_turn(_PORTION)
            self._note(turn)
            self.admission_due = turn.more
            if turn.more:  # not in one go: there may be thousands
                with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
                    self._send.send_nowait(TakeTurn())
        for job_id in list(self._granted):
            with contextlib.suppress(SupervisorError):
                self._begin(job_id)
                self._granted.pop(job_id, None)
        self.admission_due |= bool(self._granted)

    def _begin(self, job_id: str) -> None:
        """Start the actor of an admitted job, unless the index was replaced since, and knows nothing of its slots."""
        entry = self.entries.get(job_id)
        if entry is None or entry.pending is None:
            return
        if self._index.read_queue(lambda queue: queue.holds(job_id)):
            self.begin_admitted(entry)
        else:
            self._index.revoke(entry.row)
            entry.started.set()

    def _refuse(self, batch: list[Message], problem: SupervisorError) -> list[bool]:
        """Handle a batch that cannot be committed: refuse new jobs, and hold ends until they can be."""
        log.warning("commit_failed", code=problem.code, error=problem.message, messages=len(batch))
        for message in batch:
            match message:
                case Create() | CreateMany():
                    for creation in creations_of(message):
                        creation.entry.problem = problem
                case Finish(row=row) if row.may_be_retried:  # until it is recorded, it is open whether it is the last
                    self._postponed[row.job_id] = message
                case Finish(row=row):
                    self.unwritten[row.job_id] = row
                case _:
                    pass
        return [True for _ in batch]

    def flush(self) -> None:
        """Commit the ends that could not be committed earlier, if that is possible now."""
        if self.unwritten:
            rows = list(self.unwritten.values())
            with contextlib.suppress(SupervisorError):
                self._index.write(lambda: [self._index.finish(row) for row in rows])
                self.admission_due = True
                for row in rows:
                    del self.unwritten[row.job_id]
        with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError):
            for message in self._postponed.values():
                self._send.send_nowait(message)
        self._continue_series()

    # ------------------------------------------------------------ after the commit

    def _announce(self, batch: list[Message], answers: list[bool], turn: Turn | None) -> None:
        if turn is not None:
            self._note(turn)
        for message, answer in zip(batch, answers, strict=True):
            match message:
                case Create() | CreateMany():
                    for creation in creations_of(message):
                        self._announce_creation(creation, key_conflict=not answer and creation.entry.problem is None)
                case Finish(row=row) if row.job_id not in self._postponed:
                    self._announce_end(message, first=answer)
                case _:
                    pass

    def _announce_creation(self, message: Create, *, key_conflict: bool) -> None:
        entry = message.entry
        if key_conflict or entry.problem is not None:
            entry.key_conflict = key_conflict
            entry.started.set()
            return
        self.entries[entry.row.job_id] = entry
        self._publish(entry, None)
        if entry.pending is None:
            message.begin()
        elif entry.row.job_id not in self._granted:
            entry.started.set()  # no launch to wait for

    def _announce_end(self, message: Finish, *, first: bool) -> None:
        entry = message.entry
        row = entry.row
        previous = State(row.state)
        if row.may_be_retried:
            committed = self._ended.pop(row.job_id, None)
        else:
            committed = None if first else self._read(row.job_id)
        # Another process that was first decided the same from the same evidence.
        entry.row = committed if committed is not None and committed.finished else message.row
        if not first and committed is None and entry.is_gone:
            text = f"another process has consumed or forgotten job {row.job_id}"
            entry.problem = JobNotFound(text, details={"job_id": row.job_id})
        self.entries.pop(row.job_id, None)
        if entry.row.retried_by is not None:
            self._next.add(entry.row.retried_by)
            self._continue_series()
        entry.started.set()
        entry.finished.set()
        self._publish(entry, previous)
        self.counters.ended[entry.row.state] += 1
        for name in groups_of(entry.row.request):
            self._ends_ns[name] = max(self._ends_ns.get(name, 0), entry.row.completed_ns or 0)
        if first:
            tracing.end(entry.row, entry.directory)
        log.info("job_ended", job_id=row.job_id, state=entry.row.state, reason=message.reason)

    def _continue_series(self) -> None:
        """Supervise the attempts that follow ended jobs, or leave them to their supervisors."""
        for job_id in list(self._next):
            if self.supervise_next(job_id):
                self._next.discard(job_id)
                if (entry := self.entries.get(job_id)) is not None:
                    self._publish(entry, None)

    def launched(self, entry: Entry) -> None:
        """Publish that the command of a job was launched, and commit it a little later."""
        self._publish(entry, State.QUEUED)
        entry.queue_reason = None
        if entry.slot_free_ns is not None and entry.row.started_ns is not None:
            seconds = (entry.row.started_ns - entry.slot_free_ns) / 1e9
            for counters in (counted := self.counters.of_groups(groups_of(entry.row.request))).values():
                counters.slot_to_launch.add(seconds)
            metering.launched(counted, max(seconds, 0.0))
        self._launches.append((trio.current_time() + _NOTE_AFTER_SECONDS, entry))
        self._launched.set()
        entry.started.set()

    async def note_launches(self) -> None:
        """Commit each launch after a short delay, and not at all if the job has ended by then.

        Readers of an unfinished job observe the evidence, so the delay hides nothing from them.
        """
        with contextlib.suppress(trio.ClosedResourceError):  # the last commit takes the remaining launches
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

    def publish_pause(self, entry: Entry) -> None:
        """Publish that a job is paused, or runs again."""
        self._publish(entry, State(entry.row.state))

    def publish_progress(self, entry: Entry) -> None:
        """Publish a new progress snapshot of a job, and record what it says about a usage limit."""
        self._publish(entry, State(entry.row.state))
        limit = (entry.progress or {}).get("limit")
        if limit and limit != entry.limit_noted and "groups" in entry.row.request:
            with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
                self._send.send_nowait(NoteLimit(entry, limit))
                entry.limit_noted = limit

    def _read(self, job_id: str) -> Row | None:
        try:
            return self._index.get(job_id)
        except SupervisorError:
            return None

    def begin_admitted(self, entry: Entry) -> None:
        """Start the actor of a job that has its slots, to launch it; publish that."""
        if entry.pending is not None and entry.queue_reason != LAUNCHING:
            self._publish(entry, State.QUEUED)
        entry.queue_reason = LAUNCHING
        if entry.pending is not None and "groups" in entry.row.request:
            row = self._read(entry.row.job_id)
            if row is not None and not row.finished:
                entry.row = row  # another process may have moved it
            self._count_admission(entry, groups_of(entry.row.request))
        entry.begin(launch=True)

    def _count_admission(self, entry: Entry, names: Iterable[str]) -> None:
        for counters in (counted := self.counters.of_groups(names)).values():
            counters.admissions += 1
        metering.admitted(counted)
        ends = [self._ends_ns[name] for name in names if name in self._ends_ns]
        if ends and max(ends) >= entry.row.created_ns:
            entry.slot_free_ns = max(ends)

    def publish_reasons(self, entries: Sequence[Entry]) -> None:
        """Publish for which of these jobs, which wait, ``queue_reason`` has changed since the last event.

        Raises:
            SupervisorError: the index cannot be read now.
        """
        if self.subscriptions and entries:
            standings = self._index.standings([entry.row for entry in entries])
            for entry, (reason, _) in zip(entries, standings, strict=True):
                if reason is None or entry.queue_reason == reason:
                    continue
                if entry.queue_reason is None:  # the first look
                    entry.queue_reason = reason
                else:
                    self._publish(entry, State.QUEUED)

    def _publish(self, entry: Entry, previous: State | None) -> None:
        if self.subscriptions:
            before, job = entry.queue_reason, entry.job()
            entry.queue_reason = job.queue_reason
            before = before if previous is State.QUEUED else None
            paused, entry.paused = entry.paused, job.paused
            event = JobEvent(job=job, previous=previous, previous_queue_reason=before, previous_paused=paused)
            for subscription in self.subscriptions:
                subscription.put(event)
