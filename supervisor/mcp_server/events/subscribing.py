"""The requests that make and end subscriptions by webhook; ``sending`` sends their events.

A client names any URL, so this server could be made to send requests to others. Against that the receiver must answer
a challenge before it gets an event, addresses that are not public are refused at each attempt, and what a receiver has
answered is told in six words only. What a subscription holds is bounded for each principal and in all, and expires.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

import attrs
import trio
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from supervisor import log
from supervisor.jobdir.durability import POWER
from supervisor.mcp_server.events.params import SubscribeParams, UnsubscribeParams
from supervisor.mcp_server.events.reading import (
    FORBIDDEN,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNSUPPORTED,
    Wanted,
    check_access,
    checked,
    position_of,
    read,
)
from supervisor.mcp_server.events.sending import Sender, send
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.model import from_ns
from supervisor.model.job_json import time_to_json
from supervisor.settings import Settings
from supervisor.store import Layout, subscriptions
from supervisor.store.journal import Position
from supervisor.store.subscriptions import Progress, Subscription
from supervisor.text.webhook_signatures import parse_secrets
from supervisor.text.webhook_urls import parse_networks, parse_public_url, shown

__all__ = ["Webhooks"]

CALLBACK_ENDPOINT_ERROR: Final = -32027

_MAX_OF_A_PRINCIPAL: Final = 16
_MAX_IN_ALL: Final = 128
_MIN_SECONDS: Final = 60
_DEFAULT_SECONDS: Final = 3600
_MAX_SECONDS: Final = 86400
_ROTATION_SECONDS: Final = 300
_MAX_TTL_MS: Final = 1 << 53
_CHALLENGE_SECONDS: Final = 10.0
_MAX_CHALLENGES: Final = 2
"""Of one principal, at once."""
_MAX_FOR_A_HOST: Final = 10
_HOST_SECONDS: Final = 60.0
_MAX_ANSWER: Final = 4096


_T = TypeVar("_T")


class Webhooks:
    """Makes and ends subscriptions.

    Args:
        lazy: opens the supervisor.
        settings: of the server.
        sender: sends the events.
    """

    def __init__(self, lazy: LazySupervisor, settings: Settings, sender: Sender) -> None:
        self._lazy = lazy
        self._settings = settings
        self._sender = sender
        self._layout = Layout(settings.state_dir, durable=settings.durability == POWER)
        self._challenges: Counter[str] = Counter()
        self._hosts: dict[str, deque[float]] = {}

    async def unsubscribe(self, principal: str | None, params: UnsubscribeParams) -> dict[str, Any]:
        """End a subscription.

        Raises:
            MCPError: there is none, or the caller has no name.
        """
        owner = _named(principal)
        wanted = checked(params.name, params.arguments, owner)
        url = _members(params.delivery)["url"]
        subscription_id = subscriptions.id_of(owner, url, wanted.name, wanted.arguments)
        remove = partial(subscriptions.remove, durable=self._layout.durable)
        found = await self._in_thread(remove, self._layout.root, subscription_id)
        self._sender.wake()
        if not found:
            raise MCPError(NOT_FOUND, "there is no such subscription", {"kind": "subscription"})
        log.info("unsubscribed", subscription_id=subscription_id, principal=owner)
        return {"resultType": "complete"}

    async def subscribe(self, principal: str | None, params: SubscribeParams) -> dict[str, Any]:
        """Make or refresh a subscription.

        Raises:
            MCPError: it is not valid, there are too many, or its receiver does not want it.
        """
        owner = _named(principal)
        wanted = checked(params.name, params.arguments, owner)
        url, secret = self._receiver(params.delivery)
        seconds = _granted(params)
        position = position_of(params.cursor)
        wanted = await check_access(self._lazy, wanted, params.max_age_ms)
        start, truncated = await self._start(wanted, position)
        now_ns = self._now_ns()
        given = Subscription(
            subscription_id=subscriptions.id_of(owner, url, wanted.name, wanted.arguments),
            principal=owner,
            url=url,
            name=wanted.name,
            arguments=wanted.arguments,
            secret=secret,
            start=str(start),
            since_ns=wanted.since_ns,
            made_ns=now_ns,
            refreshed_ns=now_ns,
            expires_ns=now_ns + seconds * 10**9,
        )
        if not await self._in_thread(self._is_verified, given):
            await self._challenge(given)
        before, progress = await self._in_thread(self._store, given)
        self._sender.wake()
        log.info("subscribed", subscription_id=given.subscription_id, principal=owner, to=shown(url))
        answer: dict[str, Any] = {
            "resultType": "complete",
            "id": given.subscription_id,
            "refreshBefore": time_to_json(from_ns(given.expires_ns)),
            "cursor": progress.position,
            "truncated": truncated and before is None,
        }
        if before is not None:
            answer["deliveryStatus"] = _status(before)
        return answer

    async def _start(self, wanted: Wanted, position: Position | None) -> tuple[Position, bool]:
        """Return where a new subscription begins, and whether events before are missing."""
        batch = await read(self._lazy, wanted, position)
        if position is None or batch.is_reset:
            return batch.position, batch.is_truncated
        while batch.has_more and not batch.events and not batch.is_truncated:
            position = batch.position
            batch = await read(self._lazy, wanted, position)
        return position, batch.is_truncated

    # ------------------------------------------------------------ what a request has

    def _receiver(self, delivery: object) -> tuple[str, str]:
        """Return the URL and the secret of a receiver.

        Raises:
            MCPError: nothing can be sent to it. The message has no secret.
        """
        members = _members(delivery)
        try:
            parse_public_url(members["url"], parse_networks(self._settings.webhook_allow))
        except ValueError as error:
            raise MCPError(INVALID_PARAMS, f"nothing can be sent to delivery.url: {error}") from error
        secret = members.get("secret")
        if not isinstance(secret, str) or not _is_secret(secret):
            message = "delivery.secret must be whsec_ and the base64 of 24 to 64 random bytes"
            raise MCPError(INVALID_PARAMS, message)
        return members["url"], secret

    # ------------------------------------------------------------ whether the receiver wants it

    def _is_verified(self, given: Subscription) -> bool:
        """Whether the principal has a subscription with this URL, which is there because the receiver wanted it.

        Raises:
            MCPError: there is no room for a new one.
        """
        live = self._live()
        if all(each.subscription_id != given.subscription_id for each in live):
            _check_room(live, given.principal)
        return any((each.principal, each.url) == (given.principal, given.url) for each in live)

    async def _challenge(self, given: Subscription) -> None:
        """Have the receiver prove that it wants to receive.

        Raises:
            MCPError: it does not, or too many are asked.
        """
        self._count_challenge(given)
        self._challenges[given.principal] += 1
        try:
            reason = await self._answer_to(given)
        finally:
            self._challenges[given.principal] -= 1
            if not self._challenges[given.principal]:
                del self._challenges[given.principal]
        if reason is not None:
            log.info("subscription_refused", principal=given.principal, to=shown(given.url), reason=reason)
            message = "the receiver could not be reached, or has not answered the challenge"
            raise MCPError(CALLBACK_ENDPOINT_ERROR, message, {"reason": reason})

    def _count_challenge(self, given: Subscription) -> None:
        if self._challenges[given.principal] >= _MAX_CHALLENGES:
            details = {"limit": "verifications", "max": _MAX_CHALLENGES}
            raise MCPError(RESOURCE_EXHAUSTED, "other receivers have not answered their challenges yet", details)
        now = trio.current_time()
        for host, times in list(self._hosts.items()):
            while times and times[0] <= now - _HOST_SECONDS:
                times.popleft()
            if not times:
                del self._hosts[host]
        times = self._hosts.setdefault(shown(given.url), deque())
        if len(times) >= _MAX_FOR_A_HOST:
            details = {"limit": "verifications", "max": _MAX_FOR_A_HOST}
            raise MCPError(RESOURCE_EXHAUSTED, "this host was sent many challenges in the last minute", details)
        times.append(now)

    async def _answer_to(self, given: Subscription) -> str | None:
        """Send a challenge; return why it has failed."""
        from supervisor.runtime.webhooks import Failed  # it imports h11

        nonce = secrets.token_urlsafe(32)
        body = {"type": "verification", "challenge": nonce}
        message_id = f"msg_verification_{secrets.token_hex(16)}"
        with trio.move_on_after(_CHALLENGE_SECONDS):
            try:
                answer = await send(self._settings, given, message_id, body, max_answer=_MAX_ANSWER)
            except Failed as failure:
                return failure.reason
            return None if _echoes(answer, nonce) else "challenge_failed"
        return "timeout"

    # ------------------------------------------------------------ the files

    def _live(self) -> list[Subscription]:
        now_ns = self._now_ns()
        return [each for each in subscriptions.load_all(self._layout.root) if each.expires_ns > now_ns]

    def _store(self, given: Subscription) -> tuple[Progress | None, Progress]:
        """Record a subscription; return how the one before it stood, and how far this one was delivered."""
        with subscriptions.locked(self._layout.root):
            live = {each.subscription_id: each for each in self._live()}
            found = live.get(given.subscription_id)
            if found is None:
                _check_room(list(live.values()), given.principal)
                made = given
            else:
                made = _refreshed(found, given)
            progress = subscriptions.load_progress(self._layout.root, made)
            subscriptions.save(self._layout.root, made, durable=self._layout.durable)
        return None if found is None else progress, progress

    def _now_ns(self) -> int:
        return self._layout.clock.now_ns()

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        try:
            return await trio.to_thread.run_sync(function, *args)
        except OSError as error:
            raise MCPError(INTERNAL_ERROR, "the subscriptions cannot be read or written now") from error


def _named(principal: str | None) -> str:
    """Return the name of a caller, which a subscription must have."""
    if principal is None:
        message = "only a principal with a token can subscribe; the events are there by poll and push"
        raise MCPError(FORBIDDEN, message)
    return principal


def _members(delivery: object) -> dict[str, Any]:
    """Return the members of ``delivery``, of which ``url`` is a string."""
    if not isinstance(delivery, dict):
        raise MCPError(INVALID_PARAMS, "delivery must be an object with a url")
    members = cast("dict[str, Any]", delivery)
    mode = members.get("mode", "webhook")
    if mode != "webhook":
        message = "delivery.mode must be webhook; poll and push need no subscription"
        raise MCPError(UNSUPPORTED, message, {"feature": "deliveryMode", "value": str(mode)[:80]})
    if not isinstance(members.get("url"), str):
        raise MCPError(INVALID_PARAMS, "delivery.url must be a string")
    return members


def _is_secret(text: str) -> bool:
    try:
        return text == text.strip() and len(parse_secrets(text)) == 1
    except ValueError:
        return False


def _granted(params: SubscribeParams) -> int:
    """Return for how many seconds a subscription is granted."""
    if "ttl_ms" not in params.model_fields_set:
        return _DEFAULT_SECONDS
    if params.ttl_ms is None:
        return _MAX_SECONDS
    if not 0 <= params.ttl_ms <= _MAX_TTL_MS:
        raise MCPError(INVALID_PARAMS, "ttlMs must not be negative")
    return max(_MIN_SECONDS, min(params.ttl_ms // 1000, _MAX_SECONDS))


def _check_room(live: Sequence[Subscription], principal: str) -> None:
    own = sum(each.principal == principal for each in live)
    for count, most in ((own, _MAX_OF_A_PRINCIPAL), (len(live), _MAX_IN_ALL)):
        if count >= most:
            details = {"limit": "subscriptions", "max": most}
            raise MCPError(RESOURCE_EXHAUSTED, "there are too many subscriptions", details)


def _refreshed(found: Subscription, given: Subscription) -> Subscription:
    """Return a live subscription after its refresh. Its position is its own: the client's is not ahead of it."""
    made = attrs.evolve(found, refreshed_ns=given.refreshed_ns, expires_ns=given.expires_ns)
    if given.secret == found.secret:
        return made
    until_ns = given.refreshed_ns + _ROTATION_SECONDS * 10**9
    return attrs.evolve(made, secret=given.secret, old_secret=found.secret, old_until_ns=until_ns)


def _echoes(answer: bytes, nonce: str) -> bool:
    try:
        found: object = json.loads(answer)["challenge"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(found, str) and hmac.compare_digest(found.encode(), nonce.encode())


def _status(before: Progress) -> dict[str, Any]:
    """Return how the delivery stood before the refresh, which has made it active."""
    status: dict[str, Any] = {
        "active": not before.suspended_ns,
        "lastDeliveryAt": time_to_json(from_ns(before.delivered_ns)) if before.delivered_ns else None,
        "lastError": before.error,
    }
    return {**status, "failedSince": time_to_json(from_ns(before.failing_ns))} if before.failing_ns else status
