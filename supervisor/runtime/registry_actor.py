"""The registry actor: the only writer of job states in its process.

Every change of a job arrives as a message. The actor commits all messages in the mailbox in one transaction, and only
then wakes waiters and publishes events. A commit neither syncs nor waits, so it runs on the event loop. When another
process holds the lock, or a commit waits for the disk, the actor commits the batch in a thread, and the mailbox fills
meanwhile. Where each commit waits for the disk, it takes the turns of waiting jobs so, too.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio

from supervisor import log
from supervisor.errors import JobNotFound, StateBusy, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.runtime import metering, tracing
from supervisor.runtime.deferred_launches import DeferredLaunches
from supervisor.runtime.entry import Entry
from supervisor.runtime.messages import (
    Create,
    CreateMany,
    Finish,
    Message,
    NoteFetched,
    NoteLaunch,
    NoteLimit,
    NoteSpent,
    TakeTurn,
    changes_queue,
    create_all,
    creations_of,
    frees_slots,
    is_one_statement,
    may_wait,
    waits_for_disk,
    why_not_fired,
    why_unfit,
)
from supervisor.runtime.publishing import Publisher
from supervisor.states import State
from supervisor.store import Index, Row
from supervisor.store.budgets import spent_so_far
from supervisor.store.queue import TURN, Turn
from supervisor.store.queue.queries import End
from supervisor.store.tickets import groups_of

__all__ = ["Registry"]

_T = TypeVar("_T")

_MAILBOX: Final = 1024
_MAX_BATCH: Final = 256
_MAX_INLINE: Final = 32
"""How many jobs one message creates on the event loop: some 100 us each. For more there is a thread."""
_PORTION: Final = 16
"""How many jobs one turn covers on the event loop: each admission makes a file."""


class Registry(Publisher):
    """Commits state changes in batches, then wakes waiters and publishes events.

    Attributes:
        settings: of the supervisor.
        launches: those that are not committed yet.
        protected: the jobs that may not be evicted and do not expire now, with how many callers need each.
        unwritten: ended jobs whose ends could not be committed, on a full disk for one.
        generation: increases when another process has written to the index.
        admission_due: whether the turns of waiting jobs are to be taken: a commit may have freed their slots, or
            another process held the index.
        ends: some of the jobs that are to end without a launch, by the last turn.
        ends_known: is set when there are any.
        spent: is set when jobs may have spent more than a budget allows.
    """

    def __init__(self, catalog: Catalog) -> None:
        """Write through the index of ``catalog``, which must not wait for locks."""
        super().__init__(catalog.index)
        self._catalog = catalog
        self.settings = catalog.settings
        self._patient: Index | None = None
        self.protected: Counter[str] = Counter()
        self.unwritten: dict[str, Row] = {}
        self.generation = 0
        self.admission_due = False
        self.supervise_next: Callable[[str], bool] = lambda _: True
        self.deliver: Callable[[Row], None] = lambda _: None
        self._granted: dict[str, None] = {}  # in the order of the admissions
        self.ends: list[End] = []
        self.ends_known = trio.Event()
        self.spent = trio.Event()
        self._ended: dict[str, Row | None] = {}
        self._postponed: dict[str, Finish] = {}
        self._flush_due = False
        self._next: set[str] = set()
        self.launches = DeferredLaunches(self.send)
        self._send, self._receive = trio.open_memory_channel[Message](_MAILBOX)

    @property
    def queue_length(self) -> int:
        """How many messages wait to be committed."""
        return self._send.statistics().current_buffer_used

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
            self.spent.set()
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
                    is_long = self._index.layout.durable or any(
                        len(creations_of(message)) > _MAX_INLINE or waits_for_disk(message) for message in batch
                    )
                    done = await self._commit_in_thread(batch) if is_long else self._commit(self._index, batch)
                except StateBusy:
                    done = await self._commit_in_thread(batch)
                except SupervisorError as problem:
                    done = self._refuse(batch, problem), None
                self._announce(batch, *done)
                if self._flush_due:
                    await self._write_ends()
                if self.admission_due:
                    await self._take_turn()
                else:
                    self._begin_granted()
                self._ends_ns.clear()
                batch = []
        finally:
            self._drain(batch)
            batch += self.launches.messages()
            with trio.CancelScope(shield=True):  # the commits give up on a lock
                if batch:
                    try:
                        done = await self._do(partial(self._commit, batch=batch))
                    except SupervisorError as problem:  # nothing is lost: the job directories have the records
                        done = self._refuse(batch, problem), None
                    self._announce(batch, *done)
                self.flush()
                await self._write_ends()
            if self._patient is not None:
                self._patient.close()

    def _drain(self, batch: list[Message]) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while len(batch) < _MAX_BATCH:
                batch.append(self._receive.receive_nowait())

    async def _commit_in_thread(self, batch: list[Message]) -> tuple[list[bool], Turn | None]:
        try:
            return await self._in_thread(partial(self._commit, batch=batch))
        except SupervisorError as problem:
            return self._refuse(batch, problem), None

    async def _in_thread(self, action: Callable[[Index], _T]) -> _T:
        """Do ``action`` in a thread, with an index that waits for locks."""
        has_thread = False

        def act() -> _T:
            nonlocal has_thread
            has_thread = True
            if self._patient is None:
                self._patient = Index(self._catalog.layout, self._catalog.judge, wait_seconds=10, any_thread=True)
            return action(self._patient)

        try:
            return await trio.to_thread.run_sync(act)
        except RuntimeError as error:
            if has_thread:  # a defect, perhaps after the commit: to refuse the batch could deny jobs that exist
                raise
            message = f"cannot commit: {error}"
            raise StateBusy(message, repair="Try again.") from error

    async def _do(self, action: Callable[[Index], _T]) -> _T:
        """Do ``action``, which makes one commit, in a thread if that waits for the disk."""
        return await self._in_thread(action) if self._index.layout.durable else action(self._index)

    def _commit(self, index: Index, batch: list[Message]) -> tuple[list[bool], Turn | None]:
        """Commit a batch; return which messages took effect, and the turn that was taken in the same transaction.

        A turn is taken for new jobs that may wait, and when an end has freed slots or met a dependency: so the next job
        is launched after one commit. It may run in a thread, so it changes nothing that tasks of the event loop wait
        for.
        """
        single = len(batch) == 1 and is_one_statement(batch[0])
        pending = any(map(may_wait, batch))
        changes = any(map(changes_queue, batch))
        freed = any(map(frees_slots, batch))
        turn: Turn | None = None

        def apply() -> list[bool]:
            nonlocal turn
            answers = [self._apply(index, message) for message in batch]
            due = changes and index.queue.is_due(index.layout.clock.moment, freed=freed)
            if due and not (single or pending):
                turn = index.try_turn(_PORTION)
            if pending or (due and (turn is None or turn.more)):
                self.admission_due = True  # after the commit
            if pending:
                turn = index.take_turn(max(TURN, sum(len(creations_of(message)) for message in batch)))
                granted = {grant.job_id for grant in turn.grants}
                for message, answer in zip(batch, answers, strict=True):
                    for creation in creations_of(message) if answer else ():
                        row = creation.entry.row
                        # The next attempt is launched from them. No caller repeats the start of a schedule.
                        if row.job_id not in granted or row.may_be_retried or "schedule" in row.request:
                            creation.entry.spool()
            return answers

        return index.write(apply, single=single), turn

    def _apply(self, index: Index, message: Message) -> bool:
        """Write one message; return whether it took effect."""
        match message:
            case Create(entry, cap):
                entry.problem = why_unfit(index, entry.row) or why_not_fired(index, entry.row)
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
            case NoteSpent(entry, usd, tokens):
                index.queue.spending.note(entry.row.seq, usd, tokens)
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
        """Take a turn if one is due, and start the actors of the admitted jobs. The next turn follows at once.

        Where its commit waits for the disk, ``run`` does it soon.
        """
        self.admission_due = True
        if self._index.layout.durable:
            self._wake()
            return
        with contextlib.suppress(SupervisorError):  # the next commit tries again, and the janitor
            turn = self._index.take_due_turn(_PORTION)
            self.admission_due = False
            self._follow(turn)
        self._begin_granted()

    async def _take_turn(self) -> None:
        if not self._index.layout.durable:
            self.admit()
            return
        self.admission_due = False  # a task may ask for the next one meanwhile
        try:
            self._follow(await self._in_thread(lambda index: index.take_due_turn(_PORTION)))
        except SupervisorError:  # as above
            self.admission_due = True
        self._begin_granted()

    def _wake(self) -> None:
        """Have ``run`` go round again."""
        with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self._send.send_nowait(TakeTurn())

    def _follow(self, turn: Turn) -> None:
        self._note(turn)
        if turn.more:  # not in one go: there may be thousands
            self.admission_due = True
            self._wake()

    def _begin_granted(self) -> None:
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
        spec = self._index.read_queue(lambda queue: queue.spec_of_held(job_id))
        if spec is None:
            self._index.revoke(entry.row)
            entry.started.set()
        else:
            self.begin_admitted(entry, is_current=spec == entry.row.spec)

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
        """Commit the ends that could not be committed earlier, soon, if that is possible now."""
        if self.unwritten:
            self._flush_due = True
            self._wake()
        with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError):
            for message in self._postponed.values():
                self._send.send_nowait(message)
        self._continue_series()

    async def _write_ends(self) -> None:
        self._flush_due = False
        rows = list(self.unwritten.values())
        if not rows:
            return
        with contextlib.suppress(SupervisorError):
            await self._do(lambda index: index.write(lambda: [index.finish(row) for row in rows]))
            self.admission_due = True
            for row in rows:
                self.unwritten.pop(row.job_id, None)

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
                case NoteSpent():
                    self.spent.set()
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
        self.deliver(row)
        self.counters.ended[entry.row.state] += 1
        for name in groups_of(entry.row.request):
            self.spent.set()
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
        if "groups" in entry.row.request:
            self.spent.set()
        if entry.slot_free_ns is not None and entry.row.started_ns is not None:
            seconds = (entry.row.started_ns - entry.slot_free_ns) / 1e9
            for counters in (counted := self.counters.of_groups(groups_of(entry.row.request))).values():
                counters.slot_to_launch.add(seconds)
            metering.launched(counted, max(seconds, 0.0))
        self.launches.add(entry)
        entry.started.set()

    def publish_progress(self, entry: Entry) -> None:
        """Publish a new progress snapshot of a job, and record what it says about a usage limit, and has spent."""
        self._publish(entry, State(entry.row.state))
        if "groups" not in entry.row.request:
            return
        limit, spent = (entry.progress or {}).get("limit"), spent_so_far(entry.progress or {})
        with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            if limit and limit != entry.limit_noted:
                self._send.send_nowait(NoteLimit(entry, limit))
                entry.limit_noted = limit
            if spent is not None and spent != entry.spent_noted and self._reserves(entry):
                self._send.send_nowait(NoteSpent(entry, *spent))
                entry.spent_noted = spent

    def _reserves(self, entry: Entry) -> bool:
        """Whether a running job has reserved anything; that does not change."""
        if entry.reserves is None:
            with contextlib.suppress(SupervisorError):  # the next snapshot asks again
                entry.reserves = self._index.read_queue(lambda queue: queue.spending.has_reserved(entry.row.seq))
        return bool(entry.reserves)
