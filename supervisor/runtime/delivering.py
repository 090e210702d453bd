"""Delivers the ends of jobs: to the commands and webhooks that their requests name, from the files of the outbox.

One process of a state root delivers at a time, the one that holds the lock ``deliveries.lock``; the kernel frees it
when that process ends. A supervisor takes it as soon as there is anything to deliver and no other process has it, and
releases it when there is nothing left. The janitor's tick is what tells it of the files, and the locks, of other
processes; the registry tells it of its own files at once.

A delivery is made at least once: a process that is killed between the answer and the deletion of the file is followed
by one that delivers the same event again, under the same id. Those of a series are made in the order of its attempts,
so one that fails holds back the later ones, until it is dead.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import attrs
import trio

from supervisor import log
from supervisor.errors import SupervisorClosed, SupervisorError
from supervisor.jobs.deliveries import receiver_of, webhook_keys
from supervisor.keeper.helper_starts import take_lock
from supervisor.model import Job, JobSpec
from supervisor.settings import Settings
from supervisor.states import State
from supervisor.store import outbox
from supervisor.store.outbox import Delivery
from supervisor.system.fork_safety import tell_in_child
from supervisor.system.observing import find
from supervisor.text.webhook_urls import parse_networks

__all__ = ["Deliverer", "back_off_seconds"]

_FIRST_SECONDS: Final = 5
_LONGEST_SECONDS: Final = 3600
_DAY_SECONDS: Final = 86400
_MAX_TASKS: Final = 32
_MAX_FOR_ONE: Final = 4
"""How many deliveries are under way to one receiver, so that one that does not answer leaves room for the others."""
_COMMAND_SECONDS: Final = 600.0
_SETTLED_NS: Final = 100_000_000
LABEL: Final = "supervisor.delivery"
"""The label of a job that is the attempt of a delivery; ``supervisor.job`` names the job that it is about."""


def back_off_seconds(failures: int) -> float | None:
    """Return how long to wait after so many failed attempts; ``None`` when those have taken a day: it is dead.

    What counts is the sum of the waits, and no clock, which may be set, or have run on while the machine was off.
    """
    waits = [min(_FIRST_SECONDS * 2**number, _LONGEST_SECONDS) for number in range(failures)]
    return None if sum(waits[:-1]) >= _DAY_SECONDS else float(waits[-1])


def _nearest(path: str) -> str:
    """Return a directory, or if it was removed, the nearest one above it that is there."""
    while find(path, follow=True) is None and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


class _Known(NamedTuple):
    """What is remembered of a delivery: not its body. ``delivery`` is ``None`` for one of a newer version."""

    inode: int
    delivery: Delivery | None
    receiver: str


class Deliverer:
    """Makes the deliveries of a state root while it holds the lease.

    Args:
        root: the state root.
        settings: of the supervisor.
        start: starts a job.
        wait: waits for the end of a job.
        wall_ns: returns the time by the wall clock.
    """

    def __init__(
        self,
        root: str,
        settings: Settings,
        start: Callable[[JobSpec], Awaitable[Job]],
        wait: Callable[[str], Awaitable[Job]],
        wall_ns: Callable[[], int],
    ) -> None:
        """Hold no lease until ``run`` finds anything to deliver."""
        self._root = root
        self._settings = settings
        self._start = start
        self._wait = wait
        self._wall_ns = wall_ns
        self._lease: int | None = None
        self._stamp: tuple[int, int] | None = None
        self._known: dict[str, _Known] = {}
        self._due_ns = math.inf
        self._active: dict[str, str] = {}  # receivers by the ids of the deliveries
        self._woken = trio.Event()
        tell_in_child(self)

    @property
    def is_busy(self) -> bool:
        """Whether this process is the one that delivers, and there is anything to deliver."""
        return self._lease is not None

    def wake(self) -> None:
        """Look for deliveries soon: this process has made one."""
        self._stamp = None
        self._woken.set()

    def tick(self) -> None:
        """Look for deliveries soon if there may be any that are due; in a few microseconds if not."""
        try:
            changed = outbox.stamp(self._root) != self._stamp
        except OSError:
            changed = True
        if changed or self._due_ns <= self._wall_ns():
            self._woken.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._woken.wait()
                    self._woken = trio.Event()
                    try:
                        await trio.to_thread.run_sync(self._look)
                    except (OSError, RuntimeError) as error:  # no descriptor, no thread: the next tick tries again
                        log.warning("deliveries_not_read", error=str(error))
                        self._stamp = None
                    else:
                        self._begin(nursery)
        finally:
            self._release()

    # ------------------------------------------------------------ what there is to do

    def _look(self) -> None:
        """Follow the files of the outbox, and take or release the lease. Runs in a thread."""
        stamp = outbox.stamp(self._root)
        if stamp == self._stamp:
            return
        found = outbox.scan(self._root)
        if found and self._lease is None:
            self._lease = take_lock(f"{self._root}/{outbox.LEASE}")
            found = outbox.scan(self._root)  # another process may have delivered until now
        for name in self._known.keys() - found.keys():
            del self._known[name]
        for name, inode in found.items():
            if self._lease is not None and (name not in self._known or self._known[name].inode != inode):
                self._read(name, inode)
        # A name that is added in the same tick of the kernel's clock does not change the time of the directory.
        has_settled = time.time_ns() - stamp[1] > _SETTLED_NS
        self._stamp = stamp if has_settled and (self._lease is not None or not found) else None
        if not found and not self._active:
            self._release()

    def _read(self, name: str, inode: int) -> None:
        delivery = outbox.read(self._root, name)
        if delivery is None:
            self._known[name] = _Known(inode, None, "")
        else:
            self._known[name] = _Known(inode, attrs.evolve(delivery, body=""), receiver_of(delivery))

    def _release(self) -> None:
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    def in_child(self) -> None:
        """Leave the lease to the parent process."""
        self._release()

    def _begin(self, nursery: trio.Nursery) -> None:
        """Begin the deliveries that are due, and for which there is room: of each series the first one."""
        self._due_ns = math.inf
        if self._lease is None:
            return
        heads: dict[tuple[str, str], tuple[Delivery, str]] = {}
        for _, delivery, receiver in self._known.values():
            if delivery is not None:
                key = delivery.series_id, delivery.channel
                if key not in heads or heads[key][0].attempt > delivery.attempt:
                    heads[key] = delivery, receiver
        busy, now_ns = Counter(self._active.values()), self._wall_ns()
        for delivery, receiver in sorted(heads.values(), key=lambda head: (head[0].due_ns, head[0].made_ns)):
            if delivery.delivery_id in self._active:
                continue
            if delivery.due_ns > now_ns:
                self._due_ns = delivery.due_ns
                break
            if len(self._active) < _MAX_TASKS and busy[receiver] < _MAX_FOR_ONE:  # else the end of another one wakes
                busy[receiver] += 1
                self._active[delivery.delivery_id] = receiver
                nursery.start_soon(self._deliver, delivery.delivery_id)

    # ------------------------------------------------------------ one delivery

    async def _deliver(self, delivery_id: str) -> None:
        try:
            delivery = outbox.read(self._root, delivery_id)
            if delivery is not None and not delivery.is_dead:
                await self._settle(delivery, await self._attempt(delivery))
        except SupervisorClosed:
            pass  # the next process that delivers makes this attempt
        except OSError as problem:
            log.warning("deliveries_not_read", error=str(problem))
            await trio.sleep(_FIRST_SECONDS)
        finally:
            del self._active[delivery_id]
            self.wake()

    async def _attempt(self, delivery: Delivery) -> str | None:
        """Make one attempt; return why it has failed."""
        try:
            if isinstance(delivery.target, tuple):
                return await self._run_command(delivery, delivery.target)
            return await self._post(delivery, delivery.target)
        except SupervisorClosed:
            raise
        except SupervisorError as problem:
            return problem.message
        except OSError:
            raise
        except Exception as defect:  # noqa: BLE001  # it costs this delivery an attempt, and no other one
            return f"a defect: {type(defect).__name__}"

    async def _run_command(self, delivery: Delivery, argv: tuple[str, ...]) -> str | None:
        """Run the command as a job; a process that continues this attempt after a kill finds the same job."""
        spec = JobSpec(
            argv=argv,
            workspace=_nearest(delivery.workspace),
            stdin=delivery.body.encode("ascii"),
            deadline_seconds=_COMMAND_SECONDS,
            labels={LABEL: delivery.delivery_id, "supervisor.job": delivery.job_id},
            idempotency_key=f"delivery {delivery.delivery_id} {delivery.made_ns} {delivery.failures}",
        )
        job = await self._start(spec)
        job = await self._wait(job.job_id)
        if job.status is State.DONE:
            return None
        return f"job {job.job_id} is {job.status}, reason {job.reason}" + (f": {job.detail}" if job.detail else "")

    async def _post(self, delivery: Delivery, url: str) -> str | None:
        try:
            from supervisor.runtime.webhooks import Failed, post
        except ImportError:
            return "h11 is not installed here: install trio-supervisor[webhooks]"
        keys = await trio.to_thread.run_sync(webhook_keys, self._settings, self._root)
        try:
            await post(
                url,
                delivery.event_id,
                delivery.body.encode("ascii"),
                keys=keys,
                now=self._wall_ns() // 10**9,
                allowed=parse_networks(self._settings.webhook_allow),
            )
        except Failed as error:
            return str(error)
        return None

    async def _settle(self, delivery: Delivery, error: str | None) -> None:
        """Record the outcome of an attempt."""
        delivery_id, job_id = delivery.delivery_id, delivery.job_id
        if error is None:
            outbox.remove(self._root, [delivery_id])
            self._known.pop(delivery_id, None)
            log.info("delivered", delivery_id=delivery_id, job_id=job_id)
            return
        failures = delivery.failures + 1
        seconds = back_off_seconds(failures)
        due_ns = 0 if seconds is None else self._wall_ns() + int(seconds * 1e9)
        failed = attrs.evolve(delivery, failures=failures, due_ns=due_ns, error=error[:500])
        if seconds is None:
            await self._write(outbox.bury, failed)
            self._known.pop(delivery_id, None)
            log.warning("delivery_dead", delivery_id=delivery_id, job_id=job_id, error=failed.error)
        else:
            await self._write(outbox.save, failed)
            log.info("delivery_failed", delivery_id=delivery_id, job_id=job_id, error=failed.error)

    async def _write(self, write: Callable[[str, Delivery], None], delivery: Delivery) -> None:
        """Write a delivery, in a thread if that waits for the disk."""
        if delivery.durable:
            await trio.to_thread.run_sync(write, self._root, delivery)
        else:
            write(self._root, delivery)
