"""The request for a scope, against message buses that answer, refuse, say nothing, or talk nonsense.

``tests/vm`` has the tests against systemd itself.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from supervisor.system import cgroups, message_bus, scopes

NAME = "supervisor-1-2.scope"
Answer = Callable[[socket.socket], object]


def message(kind: int, fields: list[tuple[int, str, str | int]], body: message_bus.Body | None = None) -> bytes:
    """Return a message as a bus sends it."""
    content = bytes(body.data) if body is not None else b""
    head = message_bus.Body()
    head.data += b"l%c\0\1" % kind
    head.number(len(content)).number(7).array(8)
    for code, signature, value in fields:
        head.struct().byte(code).signature(signature)
        if isinstance(value, int):
            head.number(value)
        elif signature == "g":
            head.signature(value)
        else:
            head.string(value)
    return bytes(head.end().pad(8).data) + content


def job_removed(unit: str, result: str) -> bytes:
    body = message_bus.Body().number(5).string("/org/freedesktop/systemd1/job/5").string(unit).string(result)
    return message(4, [(1, "o", "/org/freedesktop/systemd1"), (3, "s", "JobRemoved"), (8, "g", "uoss")], body)


HELLO = message(2, [(5, "u", 1), (8, "g", "s")], message_bus.Body().string(":1.5"))
REFUSED = message(
    3, [(5, "u", 4), (4, "s", "org.freedesktop.DBus.Error.AccessDenied"), (8, "g", "s")], message_bus.Body()
)


@contextmanager
def bus(path: Path, answer: Answer, wanted: bytes = b"a(sv)a(sa(sv))") -> Iterator[str]:
    """A message bus that authenticates its client, waits for the request, and answers with ``answer``."""

    def serve() -> None:
        # A client that gives up closes with data unread: the next call on the connection then fails.
        with listening.accept()[0] as client, suppress(ConnectionError):
            said = client.recv(1000)
            assert said == b"\0AUTH EXTERNAL %s\r\n" % str(os.geteuid()).encode().hex().encode()
            client.sendall(b"OK 0123\r\n")
            said = b""
            while wanted not in said or said[-1]:
                if not (more := client.recv(1 << 16)):
                    return
                said += more
            assert said.startswith(b"BEGIN\r\nl")
            answer(client)
            client.recv(1)  # until the client has closed

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield str(path)
        thread.join()


def ask(path: str) -> None:
    scopes.move_into_scope(path, NAME, "a keeper")


def test_the_request_returns_when_the_scope_is_made(tmp_path: Path) -> None:
    others = HELLO + job_removed("another.scope", "done")
    with bus(tmp_path / "bus", lambda client: client.sendall(others + job_removed(NAME, "done"))) as path:
        ask(path)


def here(monkeypatch: pytest.MonkeyPatch, own: str, *, crowded: bool) -> None:
    """Have this process be in a control group; ``crowded``: other processes are there, so no job can be limited."""
    places = cgroups.Places()
    places.crowded = crowded
    monkeypatch.setattr(scopes, "own_group", lambda: own)
    monkeypatch.setattr(cgroups, "find_places", lambda **_: places)


@pytest.mark.parametrize("delegate", [1, 0])
def test_a_unit_of_the_user_is_asked_whether_it_is_delegated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delegate: int
) -> None:
    """Only then its keeper needs no scope."""
    variant = message_bus.Body().signature("b").number(delegate)
    answer = HELLO + message(2, [(5, "u", 2), (8, "g", "v")], variant)
    own = f"/user.slice/user-1.slice/user@{os.geteuid()}.service/app.slice/my-own.service"
    here(monkeypatch, own, crowded=False)
    with bus(tmp_path / "bus", lambda client: client.sendall(answer), b"Delegate\0") as path:
        monkeypatch.setattr(scopes, "_manager_of", lambda *_: path)
        assert scopes.find_manager() == (None if delegate else path)


def test_a_scope_of_a_keeper_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of that keeper has a supervisor of its own."""
    own = f"/user.slice/user-1.slice/user@{os.geteuid()}.service/app.slice/supervisor-1-2.scope/job-1"
    here(monkeypatch, own, crowded=True)
    monkeypatch.setattr(scopes, "_manager_of", lambda *_: "no bus is asked")
    assert scopes.find_manager() is None


@pytest.mark.parametrize(
    "own", ["/system.slice/reports.service", f"/x/user@{os.geteuid()}.service/app.slice/my.service"]
)
def test_a_delegated_unit_with_other_processes_is_left(monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    """The kernel uses no controllers below a control group with processes: no job could be limited there."""
    here(monkeypatch, own, crowded=True)
    monkeypatch.setattr(scopes, "_is_delegated", lambda *_: True)
    monkeypatch.setattr(scopes, "_manager_of", lambda *_: "a bus")
    assert scopes.find_manager() == "a bus"
    here(monkeypatch, own, crowded=False)
    assert scopes.find_manager() is None


def test_a_delegated_unit_with_other_processes_is_not_left_where_no_manager_has_a_scope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here(monkeypatch, "/system.slice/reports.service", crowded=True)
    monkeypatch.setattr(scopes, "_is_delegated", lambda *_: True)
    monkeypatch.setattr(scopes, "_manager_of", _no_manager)
    with pytest.raises(scopes.ScopeError, match="no user manager"):
        scopes.find_manager()


def _no_manager(*_: object) -> str:
    message = "this user has no user manager of systemd"
    raise scopes.ScopeError(message)


def test_an_answer_may_come_in_pieces(tmp_path: Path) -> None:
    def answer(client: socket.socket) -> None:
        for byte in HELLO + job_removed(NAME, "done"):
            client.sendall(bytes([byte]))

    with bus(tmp_path / "bus", answer) as path:
        ask(path)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (HELLO + REFUSED, "refuses: org.freedesktop.DBus.Error.AccessDenied"),
        (HELLO + job_removed(NAME, "failed"), "could not make the scope: failed"),
        (b"l" + b"\xff" * 40, "does not answer"),
    ],
)
def test_a_refusal_is_reported(tmp_path: Path, answer: bytes, said: str) -> None:
    def refuse(client: socket.socket) -> None:
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)

    with bus(tmp_path / "bus", refuse) as path, pytest.raises(scopes.ScopeError, match=said):
        ask(path)


def test_a_bus_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_SECONDS", 0.2)
    with bus(tmp_path / "bus", lambda _: None) as path, pytest.raises(scopes.ScopeError, match="no answer within"):
        ask(path)


def test_a_bus_that_never_stops_talking_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_SECONDS", 0.2)

    def talk(client: socket.socket) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            client.sendall(job_removed("another.scope", "done") * 100)

    with bus(tmp_path / "bus", talk) as path, pytest.raises(scopes.ScopeError, match="no answer within"):
        ask(path)


def test_a_bus_that_accepts_no_connection_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_SECONDS", 0.2)
    path = str(tmp_path / "bus")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for each in (first, second):  # they fill its queue
                each.setblocking(False)
                each.connect_ex(path)
            with pytest.raises(scopes.ScopeError, match="does not answer"):
                ask(path)


def test_a_socket_without_a_bus_is_reported(tmp_path: Path) -> None:
    with pytest.raises(scopes.ScopeError, match="No such file"):
        ask(str(tmp_path / "bus"))
