"""Sends the events of subscriptions to their webhooks: for each subscription a task that follows the journal.

One process of a state root sends at a time, the one that holds the lock ``subscriptions.lock``; the kernel frees it
when that process ends. Another server takes it within a second, and goes on from the files of the subscriptions.

A task sends one event after the other, and records the position after each one that was accepted. So the position
before an event is the cursor that the protocol wants in its body: all events up to it were accepted, or given up. A
process that is killed before it has recorded the position is followed by one that sends the event again, under the
same id.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import attrs
import trio
from mcp.shared.exceptions import MCPError

from supervisor import log
from supervisor.errors import SupervisorError
from supervisor.http.tokens import Tokens
from supervisor.keeper.helper_starts import take_lock
from supervisor.mcp_server.changes import Changes, Watch
from supervisor.mcp_server.events.reading import FORBIDDEN, Wanted, read
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.settings import Settings
from supervisor.store import Layout, subscriptions
from supervisor.store.journal import Position
from supervisor.store.subscriptions import Progress, Subscription
from supervisor.system.fork_safety import tell_in_child
from supervisor.text.webhook_signatures import parse_secrets
from supervisor.text.webhook_urls import parse_networks

__all__ = ["Sender", "send"]

ID_HEADER: Final = "X-MCP-Subscription-Id"
_TICK_SECONDS: Final = 1.0
_WAITS: Final = (5.0, 30.0, 120.0, 300.0)
"""Between the attempts to send one event."""
_RETURNED: Final = frozenset({408, 425, 429})
"""Statuses by which a receiver asks for another attempt."""
_FINAL: Final = frozenset({410, 413})
"""Statuses by which a receiver asks for no other attempt."""
_LOOK_SECONDS: Final = 0.002
"""What one more subscription costs for each commit; so they never take most of the time of the server."""
_FAR: Final = 1000
"""After how many events of the journal that were not for a subscription its position is recorded."""


async def send(
    settings: Settings, subscription: Subscription, message_id: str, body: Mapping[str, Any], *, max_answer: int = 0
) -> bytes:
    """Send one message to the receiver of a subscription; return the first bytes of its answer.

    Raises:
        supervisor.runtime.webhooks.Failed: it was not accepted.
    """
    from supervisor.runtime.webhooks import post  # it imports h11

    now_ns = time.time_ns()
    held = [subscription.secret]
    if subscription.old_secret is not None and now_ns < subscription.old_until_ns:
        held.append(subscription.old_secret)
    return await post(
        subscription.url,
        message_id,
        json.dumps(body, separators=(",", ":")).encode("ascii"),
        keys=[key for each in held for key in parse_secrets(each)],
        now=now_ns // 10**9,
        allowed=parse_networks(settings.webhook_allow),
        headers=[(ID_HEADER, subscription.subscription_id)],
        from_network=True,
        max_answer=max_answer,
    )


@attrs.frozen(slots=True)
class _Message:
    """What is to be sent, under which id, and the position after it."""

    message_id: str
    body: Mapping[str, Any]
    after: str
    is_event: bool


@attrs.define(slots=True)
class _Flow:
    """What a task knows of its subscription; ``due`` is when the next attempt is made, by the clock of Trio."""

    progress: Progress
    saved: Progress
    messages: deque[_Message] = attrs.Factory(deque[_Message])
    failures: int = 0
    due: float = 0.0


class Sender:
    """Sends the events of the subscriptions of a state root while it holds the lease.

    Args:
        lazy: opens the supervisor.
        changes: tells of new events.
        settings: of the server.
        tokens: of the principals, whose subscriptions end with their access.
    """

    def __init__(self, lazy: LazySupervisor, changes: Changes, settings: Settings, tokens: Tokens) -> None:
        self._lazy = lazy
        self._changes = changes
        self._settings = settings
        self._tokens = tokens
        self._layout = Layout(settings.state_dir)
        self._lease: int | None = None
        self._known: dict[str, int] = {}
        self._tasks: dict[str, trio.Event] = {}  # set when the subscription may have changed
        self._woken = trio.Event()
        tell_in_child(self)

    def in_child(self) -> None:
        """Leave the lease to the parent process."""
        self._release()

    def wake(self) -> None:
        """Look for subscriptions at once: this process has changed one."""
        self._woken.set()

    @contextlib.asynccontextmanager
    async def serving(self, _: object) -> AsyncGenerator[None]:
        """Send for as long as a supervisor is open."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, nursery)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            self._release()

    # ------------------------------------------------------------ which subscriptions there are

    async def _run(self, nursery: trio.Nursery) -> None:
        while True:
            self._woken = trio.Event()
            try:
                found = await trio.to_thread.run_sync(self._look)
            except (OSError, RuntimeError) as error:  # no descriptor, no thread: the next tick tries again
                log.warning("subscriptions_not_read", error=str(error))
            else:
                self._follow(found, nursery)
            with trio.move_on_after(_TICK_SECONDS):
                await self._woken.wait()

    def _look(self) -> dict[str, int]:
        """Return the subscriptions that this process sends for. Runs in a thread."""
        found = subscriptions.scan(self._layout.root)
        if found and self._lease is None:
            self._lease = take_lock(f"{self._layout.root}/{subscriptions.LEASE}")
        return {} if self._lease is None else found

    def _follow(self, found: Mapping[str, int], nursery: trio.Nursery) -> None:
        for subscription_id, changed in self._tasks.items():
            if found.get(subscription_id) != self._known.get(subscription_id):
                changed.set()
        self._known = dict(found)
        for subscription_id in found.keys() - self._tasks.keys():
            self._tasks[subscription_id] = trio.Event()
            nursery.start_soon(self._serve, subscription_id)
        if not self._tasks:
            self._release()

    def _release(self) -> None:
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    # ------------------------------------------------------------ one subscription

    async def _serve(self, subscription_id: str) -> None:
        try:
            with self._changes.watching() as watch:
                flow = None
                while (subscription := await self._loaded(subscription_id)) is not None:
                    if flow is None or flow.progress.made_ns != subscription.made_ns:
                        progress = await trio.to_thread.run_sync(
                            subscriptions.load_progress, self._layout.root, subscription
                        )
                        flow = _Flow(progress, progress)
                    await self._step(subscription, flow, watch)
        except (OSError, SupervisorError, MCPError) as error:
            log.warning("subscription_not_served", subscription_id=subscription_id, error=str(error))
            await trio.sleep(_TICK_SECONDS)
        except Exception as defect:  # noqa: BLE001  # it delays this subscription, and no other one
            log.warning("mcp_background_failed", error=repr(defect))
            await trio.sleep(_WAITS[0])
        finally:
            del self._tasks[subscription_id]
            self.wake()

    async def _loaded(self, subscription_id: str) -> Subscription | None:
        """Return the subscription; ``None`` when it is over. One that has expired is removed, without a message."""
        self._tasks[subscription_id] = trio.Event()  # before the file is read: no later change of it is missed
        subscription = await trio.to_thread.run_sync(subscriptions.load, self._layout.root, subscription_id)
        if subscription is None:
            return None
        now_ns = self._layout.clock.now_ns()
        if subscription.expires_ns <= now_ns:
            await trio.to_thread.run_sync(subscriptions.remove_expired, self._layout.root, subscription_id, now_ns)
            log.info("subscription_expired", subscription_id=subscription_id, principal=subscription.principal)
            return None
        return subscription

    async def _step(self, subscription: Subscription, flow: _Flow, watch: Watch) -> None:
        """Send the next message, or wait for one."""
        if self._tokens.token(subscription.principal) is None:
            if self._tokens.is_removed(subscription.principal):
                await self._terminate(subscription)
            else:  # a mistake in the file, which may be corrected
                await self._wait(subscription, seconds=_TICK_SECONDS)
            return
        if flow.progress.suspended_ns == subscription.refreshed_ns:
            await self._wait(subscription)
            return
        if (seconds := flow.due - trio.current_time()) > 0:  # a refresh does not hasten the next attempt
            await self._wait(subscription, seconds=seconds)
            return
        flow.progress = attrs.evolve(flow.progress, suspended_ns=0)
        has_more = not flow.messages and await self._fill(subscription, flow)
        if flow.messages:
            await self._attempt(subscription, flow)
        elif not has_more:
            await self._wait(subscription, watch)

    async def _fill(self, subscription: Subscription, flow: _Flow) -> bool:
        """Read the next events; return whether there may be more."""
        wanted = Wanted(
            name=subscription.name,
            arguments=subscription.arguments,
            principal=subscription.principal,
            since_ns=subscription.since_ns,
        )
        position = Position.parse(flow.progress.position)
        batch = await read(self._lazy, wanted, position or Position("", 0))  # no position is one of another journal
        if batch.is_reset:
            cursor = str(batch.position)
            message_id = f"msg_gap_{secrets.token_hex(16)}"
            flow.messages.append(_Message(message_id, {"type": "gap", "cursor": cursor}, cursor, is_event=False))
            return False
        flow.messages.extend(
            _Message(event["eventId"], event, str(after), is_event=True) for event, after in batch.events
        )
        if not batch.events:
            flow.progress = attrs.evolve(flow.progress, position=str(batch.position))
            saved = Position.parse(flow.saved.position)
            if saved is None or batch.position.number - saved.number >= _FAR:
                await self._save(subscription, flow)
        return batch.has_more

    async def _attempt(self, subscription: Subscription, flow: _Flow) -> None:
        """Send the first message; record the outcome."""
        from supervisor.runtime.webhooks import Failed

        message, before = flow.messages[0], flow.progress
        body = {**message.body, "cursor": before.position} if message.is_event else message.body
        try:
            await send(self._settings, subscription, message.message_id, body)
        except Failed as failure:
            flow.failures += 1
            failing_ns = before.failing_ns or time.time_ns()
            flow.progress = attrs.evolve(before, error=failure.reason, failing_ns=failing_ns)
            log.info("subscription_failed", subscription_id=subscription.subscription_id, error=str(failure))
            is_exhausted = flow.failures > len(_WAITS)
            is_refused = failure.reason == "http_4xx" and failure.status not in _RETURNED
            if failure.status not in _FINAL and not (is_exhausted and is_refused):
                if is_exhausted:  # the receiver is not there: the event waits until the client refreshes
                    flow.failures = 0
                    flow.progress = attrs.evolve(flow.progress, suspended_ns=subscription.refreshed_ns)
                else:
                    flow.due = trio.current_time() + _WAITS[flow.failures - 1]
                await self._save(subscription, flow)
                return
            log.warning(
                "subscription_event_dropped",
                subscription_id=subscription.subscription_id,
                message_id=message.message_id,
            )
        else:
            now_ns = time.time_ns()
            flow.progress = attrs.evolve(before, delivered_ns=now_ns, error=None, failing_ns=0)
        flow.failures = 0
        flow.messages.popleft()
        flow.progress = attrs.evolve(flow.progress, position=message.after)
        await self._save(subscription, flow)

    async def _save(self, subscription: Subscription, flow: _Flow) -> None:
        progress = flow.saved = flow.progress
        await trio.to_thread.run_sync(
            subscriptions.save_progress, self._layout.root, subscription.subscription_id, progress
        )

    async def _terminate(self, subscription: Subscription) -> None:
        """Tell the receiver once that the principal has no access any more, and end the subscription."""
        from supervisor.runtime.webhooks import Failed

        error = {"code": FORBIDDEN, "message": "Forbidden", "data": {"reason": "Access revoked"}}
        with contextlib.suppress(Failed):
            message_id = f"msg_terminated_{secrets.token_hex(16)}"
            await send(self._settings, subscription, message_id, {"type": "terminated", "error": error})
        subscription_id = subscription.subscription_id
        await trio.to_thread.run_sync(subscriptions.remove, self._layout.root, subscription_id)
        log.info("subscription_terminated", subscription_id=subscription_id, principal=subscription.principal)

    async def _wait(self, subscription: Subscription, watch: Watch | None = None, seconds: float = 3600.0) -> None:
        """Wait for a change or the end of the subscription, for new events if there is a watch, or for the time."""
        left = (subscription.expires_ns - self._layout.clock.now_ns()) / 1e9
        changed = self._tasks[subscription.subscription_id]
        with trio.move_on_after(max(0.0, min(left, seconds))):
            if watch is None:
                await changed.wait()
                return
            await watch.next_or(changed)
            await trio.sleep(_LOOK_SECONDS * len(self._tasks))
