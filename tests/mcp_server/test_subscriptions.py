"""Subscriptions to events by webhook: requests over HTTP, and real receivers with TLS on loopback."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import h11
import httpx2
import pytest
import trio
import trio.abc
from mcp_types import INVALID_PARAMS

from supervisor import Settings
from supervisor.mcp_server.events import sending, subscribing
from supervisor.mcp_server.events.reading import FORBIDDEN, NOT_FOUND, RESOURCE_EXHAUSTED, UNSUPPORTED
from supervisor.mcp_server.events.subscribing import CALLBACK_ENDPOINT_ERROR
from supervisor.runtime import webhooks
from supervisor.store import subscriptions
from tests.mcp_server.conftest import Servers
from tests.mcp_server.transports.test_held import modern
from tests.mcp_server.transports.test_http import Server, start
from tests.mcp_server.transports.test_limits import NAMES, TOKENS, served

__all__ = ["start"]  # a fixture

PEM = Path(__file__).parents[1] / "runtime" / "receiver.pem"
PATIENCE = 60.0
SECRETS = tuple("whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 4))
Status = Callable[[Mapping[str, Any]], int | None]


@attrs.define
class Message:
    """What a receiver got: the headers, the bytes, and the JSON."""

    headers: Mapping[str, str]
    raw: bytes
    body: dict[str, Any]

    def is_signed_with(self, secret: str) -> bool:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.raw
        expected = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        return expected in self.headers["webhook-signature"].split()


@attrs.define
class Receiver:
    """A receiver that answers challenges, and each other message with the status that ``status`` returns.

    ``None`` closes the connection without an answer.
    """

    context: ssl.SSLContext
    got: trio.MemorySendChannel[Message]
    messages: trio.MemoryReceiveChannel[Message]
    status: Status = lambda _: 204
    echo: Callable[[str], bytes] = attrs.field(factory=lambda: echo)
    verification: int | None = 200
    port: int = 0
    challenges: list[Message] = attrs.Factory(list[Message])

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/hooks/secret-path"

    async def next(self) -> Message:
        with trio.fail_after(PATIENCE):
            return await self.messages.receive()

    async def serve(self, plain: trio.abc.Stream) -> None:
        stream = trio.SSLStream(plain, self.context, server_side=True)
        connection, headers, raw = h11.Connection(h11.SERVER), dict[str, str](), b""
        try:
            while True:
                match event := connection.next_event():
                    case h11.NEED_DATA:
                        connection.receive_data(bytes(await stream.receive_some()))
                    case h11.Request():
                        headers = {name.decode(): value.decode() for name, value in event.headers}
                    case h11.Data():
                        raw += event.data
                    case _:
                        break
            message = Message(headers, raw, json.loads(raw))
            if message.body.get("type") == "verification":
                self.challenges.append(message)
                answer = self.echo(message.body["challenge"])
                status = self.verification
            else:
                answer = b""
                status = self.status(message.body)
                await self.got.send(message)
            if status is not None:
                head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(answer)}\r\n\r\n"
                await stream.send_all(head.encode() + answer)
            await stream.aclose()
        except (trio.BrokenResourceError, h11.ProtocolError):
            await trio.aclose_forcefully(stream)


@pytest.fixture
async def receiver(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    webhooks._trust.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(PEM)
    made = Receiver(context, *trio.open_memory_channel[Message](100))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made.port = listener.socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, made.serve, [listener])
    yield made
    nursery.cancel_scope.cancel()
    webhooks._trust.cache_clear()


@pytest.fixture
def hooked(servers: Servers) -> Servers:
    """Servers that may send webhooks to loopback."""
    servers.settings = Settings(
        state_dir=servers.settings.state_dir, stop_grace_seconds=1, webhook_allow="127.0.0.0/8 ::1/128"
    )
    return servers


async def ask(requests: Any, method: str, called: str = "", /, **params: Any) -> dict[str, Any]:
    body, headers = modern(method, called, **params)
    told: dict[str, Any] = (await requests.post("/mcp", content=body, headers=headers)).json()
    answer: dict[str, Any] = told["result"] if "result" in told else told["error"]
    return answer


async def run(requests: Any) -> str:
    told = await ask(requests, "tools/call", "count", name="count", arguments={"upto": 3, "wait_seconds": 50})
    job_id: str = told["structuredContent"]["job_id"]
    return job_id


async def subscribe(requests: Any, url: str, secret: str = SECRETS[0], **more: Any) -> dict[str, Any]:
    delivery = {"mode": "webhook", "url": url, "secret": secret}
    return await ask(requests, "events/subscribe", **{"name": "job.ended", "delivery": delivery, **more})


def ids(servers: Servers) -> list[str]:
    return list(subscriptions.scan(str(servers.settings.state_dir)))


async def test_events_are_sent_to_a_receiver_that_wants_them(hooked: Servers, receiver: Receiver) -> None:
    async with served(hooked, events=True) as server, server.requests() as hers, server.requests("bob") as his:
        listed = (await ask(hers, "events/list"))["events"]
        assert [each["delivery"] for each in listed] == [["poll", "push", "webhook"]] * 2
        made = await subscribe(hers, receiver.url)
        assert (made["resultType"], made["truncated"]) == ("complete", False)
        assert "deliveryStatus" not in made
        (challenge,) = receiver.challenges
        assert challenge.headers["x-mcp-subscription-id"] == made["id"]
        assert challenge.headers["webhook-id"].startswith("msg_verification_")
        assert challenge.is_signed_with(SECRETS[0])

        await run(his)  # not one of hers
        first = await run(hers)
        message = await receiver.next()
        assert message.is_signed_with(SECRETS[0])
        assert message.headers["x-mcp-subscription-id"] == made["id"]
        assert message.headers["webhook-id"] == message.body["eventId"] == f"evt_{first}"
        # What a poll returns is the same; the cursor is one from which nothing is missed.
        polled = await ask(hers, "events/poll", name="job.ended", cursor=message.body["cursor"])
        assert [{**each, "cursor": message.body["cursor"]} for each in polled["events"]] == [message.body]

        second = await run(hers)
        message = await receiver.next()
        assert message.body["data"]["job_id"] == second
        polled = await ask(hers, "events/poll", name="job.ended", cursor=message.body["cursor"])
        assert [each["eventId"] for each in polled["events"]] == [f"evt_{second}"]

        while (status := await subscribe(hers, receiver.url))["cursor"] == message.body["cursor"]:
            pass  # the answer of the receiver has not been recorded yet
        assert (await ask(hers, "events/poll", name="job.ended", cursor=status["cursor"]))["events"] == []
        assert status["id"] == made["id"]
        assert status["deliveryStatus"]["lastError"] is None
        assert status["deliveryStatus"]["active"] is True
        other = await subscribe(hers, receiver.url, arguments={"job_id": first})
        assert other["id"] != made["id"]
        assert len(receiver.challenges) == 1  # the receiver has already said that it wants hers
        await subscribe(his, receiver.url)
        assert len(receiver.challenges) == 2


async def test_a_new_server_goes_on_and_replay_begins_at_the_cursor(hooked: Servers, receiver: Receiver) -> None:
    async with served(hooked, events=True) as server, server.requests() as hers:
        cursor = (await ask(hers, "events/poll", name="job.ended"))["cursor"]
        first = await run(hers)
        made = await subscribe(hers, receiver.url, cursor=cursor)
        assert (await receiver.next()).body["eventId"] == f"evt_{first}"
        floor = await subscribe(hers, receiver.url, name="job.started", cursor=cursor, maxAgeMs=0)
        assert floor["truncated"] is True
        await ask(hers, "events/unsubscribe", name="job.started", delivery={"url": receiver.url})
    async with served(hooked, events=False) as server, server.requests() as hers:
        second = await run(hers)
    async with served(hooked, events=True) as server, server.requests() as hers:
        while (message := await receiver.next()).body["eventId"] == f"evt_{first}":
            pass  # the answer was not recorded before the end of the first server
        assert message.headers["x-mcp-subscription-id"] == made["id"]
        assert message.body["eventId"] == f"evt_{second}"
        assert len(receiver.challenges) == 1


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"delivery": None}, INVALID_PARAMS),
        ({"delivery": {"url": 7, "secret": SECRETS[0]}}, INVALID_PARAMS),
        ({"delivery": {"mode": "push", "url": "https://a.example/", "secret": SECRETS[0]}}, UNSUPPORTED),
        ({"delivery": {"url": "http://a.example/", "secret": SECRETS[0]}}, INVALID_PARAMS),
        ({"delivery": {"url": "http://localhost/", "secret": SECRETS[0]}}, INVALID_PARAMS),
        ({"delivery": {"url": "https://10.0.0.1/", "secret": SECRETS[0]}}, INVALID_PARAMS),
        ({"delivery": {"url": "https://[::1]/", "secret": SECRETS[0]}}, INVALID_PARAMS),
        ({"delivery": {"url": "https://127.0.0.1/", "secret": SECRETS[0]}}, INVALID_PARAMS),
        ({"delivery": {"url": "https://a:b@a.example/", "secret": SECRETS[0]}}, INVALID_PARAMS),
        ({"delivery": {"url": "https://a.example/", "secret": "whsec_c2hvcnQ="}}, INVALID_PARAMS),
        ({"delivery": {"url": "https://a.example/", "secret": " ".join(SECRETS[:2])}}, INVALID_PARAMS),
        ({"delivery": {"url": "https://a.example/", "secret": [SECRETS[0]]}}, INVALID_PARAMS),
        ({"delivery": {"url": "https://a.example/"}}, INVALID_PARAMS),
        ({"delivery": [SECRETS[0]]}, INVALID_PARAMS),
        ({"name": "job.lost"}, NOT_FOUND),
        ({"name": 7}, INVALID_PARAMS),
        ({"arguments": {"job_id": "0" * 32}}, FORBIDDEN),
        ({"arguments": {"upto": "3"}}, INVALID_PARAMS),
        ({"cursor": "elsewhere"}, INVALID_PARAMS),
        ({"ttlMs": -1}, INVALID_PARAMS),
        ({"ttlMs": "long"}, INVALID_PARAMS),
    ],
)
async def test_what_cannot_be_subscribed_to(servers: Servers, params: dict[str, Any], code: int) -> None:
    async with served(servers, events=True) as server, server.requests() as hers:
        refused = await subscribe(hers, "https://a.example/hook", **params)
        assert refused["code"] == code, refused
        assert "whsec_c" not in json.dumps(refused)
        assert SECRETS[0] not in json.dumps(refused)
        assert ids(servers) == []


async def test_loopback_is_refused_unless_the_owner_allows_it(servers: Servers, receiver: Receiver) -> None:
    async with served(servers, events=True) as server, server.requests() as hers:
        refused = await subscribe(hers, receiver.url)  # the name says no more than that it is not there
        assert (refused["code"], refused["data"]) == (CALLBACK_ENDPOINT_ERROR, {"reason": "connection_refused"})
        assert receiver.challenges == []
        assert ids(servers) == []


def echo(nonce: str) -> bytes:
    return json.dumps({"challenge": nonce}).encode()


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (200, b"{}", "challenge_failed"),
        (200, b'{"challenge": "another"}', "challenge_failed"),
        (200, b'{"challenge": ["x"]}', "challenge_failed"),
        (200, b"[" * 100_000, "challenge_failed"),
        (404, None, "http_4xx"),
        (302, None, "http_4xx"),
        (503, None, "http_5xx"),
        (None, None, "connection_refused"),
    ],
)
async def test_a_receiver_that_does_not_want_events_gets_none(
    hooked: Servers, receiver: Receiver, status: int | None, answer: bytes | None, reason: str
) -> None:
    receiver.verification = status
    receiver.echo = echo if answer is None else lambda _: answer
    async with served(hooked, events=True) as server, server.requests() as hers:
        refused = await subscribe(hers, receiver.url)
        assert (refused["code"], refused["data"]) == (CALLBACK_ENDPOINT_ERROR, {"reason": reason})
        await run(hers)
        assert ids(hooked) == []
    assert len(receiver.challenges) == 1
    with pytest.raises(trio.WouldBlock):
        receiver.messages.receive_nowait()


async def test_a_receiver_whose_certificate_is_not_valid(hooked: Servers, receiver: Receiver) -> None:
    async with served(hooked, events=True) as server, server.requests() as hers:
        refused = await subscribe(hers, receiver.url.replace("localhost", "127.0.0.1"))
        assert refused["data"] == {"reason": "tls_error"}


async def test_an_event_that_is_not_accepted_comes_again_and_delivery_is_suspended(
    hooked: Servers, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_WAITS", (0.0, 0.0))
    statuses: list[int | None] = [500, None, 500]
    receiver.status = lambda _: statuses.pop(0) if statuses else 204
    async with served(hooked, events=True) as server, server.requests() as hers:
        await subscribe(hers, receiver.url)
        first = await run(hers)
        tried = [await receiver.next() for _ in range(3)]
        assert {each.headers["webhook-id"] for each in tried} == {f"evt_{first}"}
        await run(hers)
        while (status := (await subscribe(hers, receiver.url))["deliveryStatus"])["active"]:
            assert status["lastError"] in {"http_5xx", "connection_refused"}
        assert (status["lastError"], status["lastDeliveryAt"]) == ("http_5xx", None)
        assert status["failedSince"]
        again = await receiver.next()
        assert again.headers["webhook-id"] == f"evt_{first}"
        assert again.body == tried[0].body
        assert (await receiver.next()).body["eventId"] != f"evt_{first}"


async def test_a_new_subscription_does_not_wait_for_the_back_off_of_the_one_before(
    hooked: Servers, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_WAITS", (3000.0,))
    statuses = [503]
    receiver.status = lambda _: statuses.pop() if statuses else 204
    async with served(hooked, events=True) as server, server.requests() as hers:
        made = await subscribe(hers, receiver.url)
        first = await run(hers)
        assert (await receiver.next()).body["eventId"] == f"evt_{first}"
        while (await subscribe(hers, receiver.url))["deliveryStatus"]["lastError"] is None:
            pass  # the answer of the receiver has not been recorded yet
        await ask(hers, "events/unsubscribe", name="job.ended", delivery={"url": receiver.url})
        await subscribe(hers, receiver.url, cursor=made["cursor"])
        assert (await receiver.next()).body["eventId"] == f"evt_{first}"


async def test_an_event_that_is_refused_is_given_up(
    hooked: Servers, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_WAITS", (0.0, 0.0))
    statuses = [410, 413, 400, 400, 400, 204]
    receiver.status = lambda _: statuses.pop(0)
    async with served(hooked, events=True) as server, server.requests() as hers:
        await subscribe(hers, receiver.url)
        jobs = [await run(hers) for _ in range(4)]
        tried = [(await receiver.next()).body["data"]["job_id"] for _ in range(6)]
        assert tried == [jobs[0], jobs[1], jobs[2], jobs[2], jobs[2], jobs[3]]


async def test_both_secrets_sign_during_a_rotation(hooked: Servers, receiver: Receiver) -> None:
    async with served(hooked, events=True) as server, server.requests() as hers:
        await subscribe(hers, receiver.url, SECRETS[0])
        await subscribe(hers, receiver.url, SECRETS[1])
        await run(hers)
        message = await receiver.next()
        assert [message.is_signed_with(each) for each in SECRETS] == [True, True, False]


async def test_a_subscription_ends_with_its_time(
    hooked: Servers, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(hooked, events=True) as server, server.requests() as hers:
        assert (await subscribe(hers, receiver.url, ttlMs=None))["refreshBefore"]
        assert len(ids(hooked)) == 1
        monkeypatch.setattr(subscribing, "_MIN_SECONDS", 0)
        await subscribe(hers, receiver.url, ttlMs=0)
        with trio.fail_after(PATIENCE):
            while ids(hooked):
                await ask(hers, "events/list")
        assert (await ask(hers, "events/unsubscribe", name="job.ended", delivery={"url": receiver.url}))["code"]
        await subscribe(hers, receiver.url)
        assert len(receiver.challenges) == 2


async def test_a_subscription_can_be_ended_by_its_principal_only(hooked: Servers, receiver: Receiver) -> None:
    ended = {"name": "job.ended", "delivery": {"url": receiver.url}}
    async with served(hooked, events=True) as server, server.requests() as hers, server.requests("bob") as his:
        await subscribe(hers, receiver.url)
        refused = await ask(his, "events/unsubscribe", **ended)
        assert (refused["code"], refused["data"]) == (NOT_FOUND, {"kind": "subscription"})
        other = await ask(hers, "events/unsubscribe", **ended, arguments={"kind": "ask"})
        assert other["code"] == NOT_FOUND
        assert (await ask(hers, "events/unsubscribe", **ended))["resultType"] == "complete"
        assert ids(hooked) == []
        await run(hers)
        await subscribe(hers, receiver.url)
        last = await run(hers)
        assert (await receiver.next()).body["eventId"] == f"evt_{last}"


async def test_a_principal_without_access_gets_no_more_events(hooked: Servers, receiver: Receiver) -> None:
    async with served(hooked, events=True) as server, server.requests() as hers:
        made = await subscribe(hers, receiver.url)
        (hooked.settings.state_dir / "mcp-tokens" / "alice").unlink()
        subscription = subscriptions.load(str(hooked.settings.state_dir), made["id"])
        assert subscription is not None
        subscriptions.save(str(hooked.settings.state_dir), subscription)  # it is looked at before the next event
        message = await receiver.next()
        assert message.body["type"] == "terminated"
        assert message.body["error"]["code"] == FORBIDDEN
        assert message.headers["webhook-id"].startswith("msg_terminated_")
        assert message.is_signed_with(SECRETS[0])
        with trio.fail_after(PATIENCE):
            while ids(hooked):
                await trio.lowlevel.checkpoint()


async def test_a_gap_is_told(hooked: Servers, receiver: Receiver) -> None:
    async with served(hooked, events=True) as server, server.requests() as hers:
        lost = await subscribe(hers, receiver.url, cursor="00000000-1")
        assert (lost["truncated"], lost["cursor"][:9] == "00000000-") == (True, False)
        root = str(hooked.settings.state_dir)
        subscription = subscriptions.load(root, lost["id"])
        assert subscription is not None
        changed = attrs.evolve(subscription, start="00000000-1", made_ns=subscription.made_ns + 1)
        subscriptions.save(root, changed)  # as after the loss of the index
        gap = await receiver.next()
        assert gap.body == {"type": "gap", "cursor": lost["cursor"]}
        assert gap.headers["webhook-id"].startswith("msg_gap_")
        first = await run(hers)
        assert (await receiver.next()).body["eventId"] == f"evt_{first}"


async def test_subscriptions_are_bounded(hooked: Servers, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribing, "_MAX_OF_A_PRINCIPAL", 2)
    monkeypatch.setattr(subscribing, "_MAX_IN_ALL", 3)
    monkeypatch.setattr(subscribing, "_MAX_FOR_A_HOST", 2)
    async with served(hooked, events=True) as server, server.requests() as hers, server.requests("bob") as his:
        for kind in ("a", "b"):
            assert "id" in await subscribe(hers, receiver.url, arguments={"kind": kind})
        refused = await subscribe(hers, receiver.url)
        assert (refused["code"], refused["data"]) == (RESOURCE_EXHAUSTED, {"limit": "subscriptions", "max": 2})
        assert "id" in await subscribe(hers, receiver.url, arguments={"kind": "a"})  # a refresh
        assert "id" in await subscribe(his, receiver.url)
        refused = await subscribe(his, receiver.url, arguments={"kind": "a"})
        assert refused["data"] == {"limit": "subscriptions", "max": 3}
        await ask(hers, "events/unsubscribe", name="job.ended", arguments={"kind": "a"}, delivery={"url": receiver.url})
        refused = await subscribe(his, f"{receiver.url}/other")
        assert refused["data"] == {"limit": "verifications", "max": 2}
        assert len(receiver.challenges) == 2


async def test_secrets_are_private(
    hooked: Servers, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", "supervisor")  # a command that another test has run in this process may have set it
    monkeypatch.setattr(logging.getLogger("supervisor"), "propagate", True)
    async with served(hooked, events=True) as server, server.requests() as hers:
        made = await subscribe(hers, receiver.url)
        assert SECRETS[0] not in json.dumps(made)
        await run(hers)
        await receiver.next()
        file = hooked.settings.state_dir / "subscriptions" / f"{made['id']}.json"
        assert file.stat().st_mode & 0o077 == 0
        assert SECRETS[0] in file.read_text()
        loaded = subscriptions.load(str(hooked.settings.state_dir), made["id"])
        assert SECRETS[0] not in repr(loaded)
    logged = "\n".join(f"{each.getMessage()} {vars(each)}" for each in caplog.records)
    assert "subscribed" in logged
    assert SECRETS[0] not in logged
    assert "secret-path" not in logged


async def test_a_killed_server_is_followed_by_another_one(
    start: Callable[..., Server], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERVISOR_WEBHOOK_ALLOW", "127.0.0.0/8 ::1/128")
    killed = start("--events")
    token = killed.principal("alice", TOKENS["alice"])
    others = start("--events")
    headers = {**NAMES, "Authorization": f"Bearer {token}"}

    def kill(_: Mapping[str, Any]) -> int | None:
        """Kill the server that sends before it has an answer; the other one is asked to continue."""
        if killed.process.poll() is None:
            killed.process.kill()
            killed.process.wait()
            return None
        return 204

    async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE, trust_env=False) as requests:

        async def ask_one(server: Server, method: str, called: str = "", /, **params: Any) -> dict[str, Any]:
            body, names = modern(method, called, **params)
            told: dict[str, Any] = (await requests.post(server.url, content=body, headers=names)).json()
            answer: dict[str, Any] = told["result"]
            return answer

        delivery = {"mode": "webhook", "url": receiver.url, "secret": SECRETS[0]}
        made = await ask_one(killed, "events/subscribe", name="job.ended", delivery=delivery)
        receiver.status = kill
        say = {"name": "say", "arguments": {"word": "hello", "wait_seconds": 50}}
        job_id = (await ask_one(others, "tools/call", "say", **say))["structuredContent"]["job_id"]
        sent = [await receiver.next(), await receiver.next()]
    assert {each.headers["webhook-id"] for each in sent} == {f"evt_{job_id}"}
    assert {each.headers["x-mcp-subscription-id"] for each in sent} == {made["id"]}
    assert sent[0].body == sent[1].body
    assert len(receiver.challenges) == 1
