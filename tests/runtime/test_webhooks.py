"""A webhook on the wire: to good receivers, to bad ones, and to names that lead elsewhere."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import h11
import pytest
import trio
import trio.abc
import trio.testing

from supervisor.runtime import webhooks
from supervisor.runtime.webhooks import Failed, post
from supervisor.text.webhook_signatures import parse_secrets, sign
from supervisor.text.webhook_urls import Network, parse_networks
from tests.clock import jumping_clock

PEM = Path(__file__).with_name("receiver.pem")
"""A key and a certificate for localhost and receiver.test, which only these tests trust."""
KEYS = parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
BODY = b'{"type":"job.ended"}'
NOW = 1614265330


@attrs.define
class Receiver:
    """A server on loopback that reads each request and answers as ``answer`` does."""

    port: int = 0
    requests: list[tuple[dict[str, str], bytes]] = attrs.Factory(list)
    answer: Callable[[trio.abc.Stream], Awaitable[None]] = attrs.field(init=False)
    tls: ssl.SSLContext | None = None

    async def serve(self, stream: trio.abc.Stream) -> None:
        if self.tls is not None:
            stream = trio.SSLStream(stream, self.tls, server_side=True)
        connection, headers, body = h11.Connection(h11.SERVER), dict[str, str](), b""
        try:
            while True:
                match event := connection.next_event():
                    case h11.NEED_DATA:
                        connection.receive_data(bytes(await stream.receive_some()))
                    case h11.Request():
                        headers = {name.decode(): value.decode() for name, value in event.headers}
                        headers["target"] = event.target.decode()
                    case h11.Data():
                        body += event.data
                    case _:
                        break
            self.requests.append((headers, body))
            await self.answer(stream)
            await stream.aclose()
        except (trio.BrokenResourceError, h11.ProtocolError):
            await trio.aclose_forcefully(stream)


def says(*pieces: bytes) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    async def answer(stream: trio.abc.Stream) -> None:
        for piece in pieces:
            await stream.send_all(piece)

    return answer


OK = says(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Jump only when nothing has happened for a moment: a connection takes its time."""
    return jumping_clock(monkeypatch, threshold=0.02)


@pytest.fixture
async def receiver(nursery: trio.Nursery) -> AsyncIterator[Receiver]:
    made = Receiver()
    made.answer = OK
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made.port = listener.socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, made.serve, [listener])
    yield made
    nursery.cancel_scope.cancel()


async def send(
    receiver: Receiver, url: str = "http://127.0.0.1:{}/hook?a=b", allowed: tuple[Network, ...] = ()
) -> None:
    await post(url.format(receiver.port), "evt_1", BODY, keys=KEYS, now=NOW, allowed=allowed)


async def why(receiver: Receiver, *, url: str = "http://127.0.0.1:{}/hook") -> str:
    with pytest.raises(Failed) as raised:
        await send(receiver, url)
    return str(raised.value).replace(str(receiver.port), "PORT")


class Names(trio.abc.HostnameResolver):
    """A name server with one name, which counts what it is asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0

    async def getaddrinfo(self, host: bytes | None, port: Any, *_: Any) -> list[Any]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        assert host == b"receiver.test"
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (families[ip_address(each).version], socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


# ---------------------------------------------------------------- good receivers


async def test_the_request_is_signed_and_complete(receiver: Receiver) -> None:
    await send(receiver)
    ((headers, body),) = receiver.requests
    assert body == BODY
    assert headers["target"] == "/hook?a=b"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/json"
    assert headers.items() >= dict(sign(KEYS, "evt_1", NOW, BODY)).items()


@pytest.mark.parametrize(
    "answer",
    [
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        says(b"HTTP/1.0 202 Accepted\r\n\r\n"),
        says(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
async def test_every_status_of_success_will_do(
    receiver: Receiver, answer: Callable[[trio.abc.Stream], Awaitable[None]]
) -> None:
    receiver.answer = answer
    await send(receiver)


async def test_localhost_is_tried_at_all_of_its_addresses(receiver: Receiver) -> None:
    await send(receiver, "http://localhost:{}/")
    assert len(receiver.requests) == 1


async def test_over_tls_the_name_is_verified_and_sent(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    receiver.tls.load_cert_chain(PEM)
    named: list[str] = []
    receiver.tls.sni_callback = lambda _, name, __: named.append(name)
    assert "certificate of localhost is not valid" in await why(receiver, url="https://localhost:{}/")

    webhooks._trust.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    try:
        await send(receiver, "https://localhost:{}/")
        trio.socket.set_custom_hostname_resolver(Names("127.0.0.1"))
        await send(receiver, "https://receiver.test:{}/", parse_networks("127.0.0.0/8"))
        assert named[1:] == ["localhost", "receiver.test"]
        assert receiver.requests[1][0]["host"] == f"receiver.test:{receiver.port}"
        assert "certificate of 127.0.0.1 is not valid" in await why(receiver, url="https://127.0.0.1:{}/")
    finally:
        webhooks._trust.cache_clear()


# ---------------------------------------------------------------- names that lead elsewhere


@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"],
        ["127.0.0.1"],
        ["::1"],
        ["8.8.8.8", "10.0.0.1"],
        ["10.0.0.1", "8.8.8.8"],
        ["::ffff:10.0.0.1"],
        ["fe80::1"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
        ["2002:a9fe:a9fe::1"],
        ["::"],
    ],
)
async def test_a_name_with_a_private_address_is_refused(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(*addresses)
    trio.socket.set_custom_hostname_resolver(names)
    monkeypatch.setattr(webhooks, "_connected", None)
    with pytest.raises(Failed, match="is not public"):
        await post("https://receiver.test/", "evt_1", BODY, keys=KEYS, now=NOW, allowed=())
    assert names.asked == 1


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "0", "0.0", "169.254.43518", "0xa9fea9fe"]
)
async def test_another_spelling_of_a_private_address_is_refused(host: str) -> None:
    """It is a name for the parser, and an address for the C library."""
    with pytest.raises(Failed, match=r"is not public|is not found"):
        await post(f"https://{host}/", "evt_1", BODY, keys=KEYS, now=NOW, allowed=())


async def test_a_name_that_changes_between_two_attempts_is_checked_each_time(receiver: Receiver) -> None:
    """The first answer of the name server is allowed; the second, after an attempt that has failed, is not."""
    names = Names("127.0.0.1")
    trio.socket.set_custom_hostname_resolver(names)
    url, allowed = f"https://receiver.test:{receiver.port}/", parse_networks("127.0.0.1")
    with pytest.raises(Failed) as first:  # no TLS
        await post(url, "evt_1", BODY, keys=KEYS, now=NOW, allowed=allowed)
    assert "not public" not in str(first.value)
    names.addresses = ("169.254.169.254",)
    with pytest.raises(Failed, match=r"has the address 169\.254\.169\.254, which is not public"):
        await post(url, "evt_1", BODY, keys=KEYS, now=NOW, allowed=allowed)
    assert names.asked == 2


async def test_it_connects_to_the_address_that_was_checked(receiver: Receiver) -> None:
    """A name server may give another answer to the next question: there is none."""
    names = Names("127.0.0.1")
    trio.socket.set_custom_hostname_resolver(names)
    with pytest.raises(Failed):  # no TLS
        await send(receiver, "https://receiver.test:{}/", parse_networks("127.0.0.1"))
    assert names.asked == 1


async def test_a_name_that_does_not_exist() -> None:
    class Nothing(Names):
        async def getaddrinfo(self, *_: Any) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    trio.socket.set_custom_hostname_resolver(Nothing())
    with pytest.raises(Failed, match=r"the host receiver\.test is not found"):
        await post("https://receiver.test/", "evt_1", BODY, keys=KEYS, now=NOW, allowed=())


# ---------------------------------------------------------------- bad receivers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    target = b"http://127.0.0.1:%d/x" % receiver.port
    receiver.answer = says(b"HTTP/1.1 %d Elsewhere\r\nLocation: %b\r\n\r\n" % (status, target))
    assert await why(receiver) == (
        f"http://127.0.0.1:PORT answered with status {status}, which is a redirect: none is followed"
    )
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (says(b"HTTP/1.1 500 No\r\n\r\n"), "answered with status 500"),
        (says(b"HTTP/1.1 410 Gone\r\n\r\n"), "answered with status 410"),
        (says(), "connection"),
        (says(b"HTTP/1.1 2"), "connection"),
        (says(b"not HTTP\r\n\r\n"), "illegal status line"),
        (says(b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 4096] * 100), "receive buffer too long"),
        (says(*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 100), "without an answer"),
    ],
)
async def test_an_answer_that_is_no_success(
    receiver: Receiver, answer: Callable[[trio.abc.Stream], Awaitable[None]], text: str
) -> None:
    receiver.answer = answer
    assert text in (await why(receiver)).lower().replace("http/1.1 2", "")


async def test_no_body_of_an_answer_is_read(receiver: Receiver) -> None:
    sent = 0

    async def endless(stream: trio.abc.Stream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        while sent < 200_000_000:
            await stream.send_all(bytes(1 << 20))
            sent += 1 << 20

    receiver.answer = endless
    await send(receiver)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert sent < 20_000_000  # what the buffers of the kernel hold


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 200 OK\r\nX: "])
@pytest.mark.parametrize("drips", [False, True])
async def test_a_receiver_that_does_not_come_to_an_end(
    autojump_clock: trio.testing.MockClock, receiver: Receiver, *, drips: bool, begins: bytes
) -> None:
    began = autojump_clock.current_time()

    async def slow(stream: trio.abc.Stream) -> None:
        await stream.send_all(begins)
        while drips:
            await trio.sleep(12)
            await stream.send_all(b"x")
        await trio.sleep_forever()

    receiver.answer = slow
    assert await why(receiver) == "http://127.0.0.1:PORT did not answer within 30 seconds"
    assert autojump_clock.current_time() - began < 31


async def test_a_port_that_nothing_listens_on() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(Failed, match=f"http://127.0.0.1:{port}: Connection refused"):
            await post(f"http://127.0.0.1:{port}/", "evt_1", BODY, keys=KEYS, now=NOW, allowed=())
