"""The messages and frames of a keeper's socket."""

from __future__ import annotations

import marshal
import os
import socket

import pytest

from supervisor.keeper import protocol
from supervisor.keeper.protocol import Connection, Frames, Message, encode

LAUNCH = protocol.Launch(
    token=7,
    directory="./work-1/0a",
    argv=[b"echo", b"1"],
    environment=3,
    changes={b"A": b"b"},
    deadline_seconds=1.5,
    grace_seconds=5.0,
    output_limit=1000,
    stop_leftovers=False,
    descriptors=2,
    queued=True,
    limits=(1 << 20, 0.5, 50, True),
    durable=True,
)
EXITED = protocol.Exited(
    token=7,
    exit_code=None,
    signal=15,
    ended_ns=1,
    ended_boot_ns=2,
    cpu_seconds=0.25,
    max_rss_bytes=4096,
    output={"stdout_bytes": 3},
    stopped="deadline",
    survivors=[12],
    memory_peak_bytes=1 << 20,
)
# What a keeper of version 3 sends and takes. Another change than a new message, or a new last field that has a default,
# needs another number.
WIRE: list[tuple[Message, tuple[object, ...]]] = [
    (
        protocol.SetEnvironment(token=3, variables={b"A": b"1"}, helper=[b"python"]),
        ("env", 3, {b"A": b"1"}, [b"python"]),
    ),
    (protocol.DropEnvironment(token=3), ("drop_env", 3)),
    (
        LAUNCH,
        (
            "launch",
            7,
            "./work-1/0a",
            [b"echo", b"1"],
            3,
            {b"A": b"b"},
            1.5,
            5.0,
            1000,
            False,
            2,
            None,
            True,
            *(False, False, False),
            None,
            (1 << 20, 0.5, 50, True),
            True,
        ),
    ),
    (protocol.FindLimits(token=7), ("find_limits", 7)),
    (protocol.MissingLimits(token=7, missing={"pids": "no"}), ("missing_limits", 7, {"pids": "no"}, True)),
    (protocol.Hold(token=7, directory="./work-1/0a"), ("hold", 7, "./work-1/0a")),
    (protocol.Held(token=7, error=""), ("held", 7, "")),
    (protocol.Stop(token=7, why="cancelled", by="me"), ("stop", 7, "cancelled", "me")),
    (protocol.Hello(protocol=3, pid=10, start=11, limits=True), ("hello", 3, 10, 11, True)),
    (
        protocol.Launched(token=7, pid=10, start=11, started_ns=12, started_boot_ns=13, deadline_boot_ns=None),
        ("launched", 7, 10, 11, 12, 13, None),
    ),
    (protocol.Failed(token=7, status=127, reason="no", claimed=False), ("failed", 7, 127, "no", False)),
    (EXITED, ("exit", 7, None, 15, 1, 2, 0.25, 4096, {"stdout_bytes": 3}, "deadline", [12], 1 << 20)),
]


@pytest.mark.parametrize(("message", "wire"), WIRE)
def test_a_message_has_the_shape_of_this_version(message: Message, wire: tuple[object, ...]) -> None:
    assert protocol.PROTOCOL == 3
    assert message.encode() == wire
    decoded = Message.decode(wire)
    assert type(decoded) is type(message)
    assert decoded.encode() == wire


def test_every_message_is_pinned() -> None:
    assert {type(message) for message, _ in WIRE} == set(Message.__subclasses__())


def test_the_greeting_of_a_newer_version_is_understood() -> None:
    greeting = Message.decode(("hello", 9, 10, 11, "more"))
    assert isinstance(greeting, protocol.Hello)
    assert (greeting.protocol, greeting.pid) == (9, 10)


def test_messages_of_a_version_without_groups_are_understood_and_those_of_this_version_by_that() -> None:
    launch, environment = LAUNCH.encode()[:11], ("env", 3, {b"A": b"1"})
    older = Message.decode(launch)
    assert isinstance(older, protocol.Launch)
    assert (older.queued, older.descriptors) == (False, 2)
    assert older.encode() == (*launch, None, *[False] * 4, None, None, False)
    without = Message.decode(environment)
    assert isinstance(without, protocol.SetEnvironment)
    assert without.helper is None
    for message, wire in WIRE:  # that version compares the number, and leaves out what it does not know
        assert Message.decode((*wire, "more")).encode() == message.encode()


def test_a_stream_that_comes_byte_by_byte_gives_each_message_once() -> None:
    frames = Frames()
    taken: list[Message] = []
    for byte in encode([LAUNCH]) + encode([EXITED, EXITED]):
        frames.add(bytes([byte]))
        taken += frames.take()
    assert [message.kind for message in taken] == ["launch", "exit", "exit"]
    assert not frames.is_complete


def test_the_keeper_gets_messages_and_descriptors_and_sees_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        connection = Connection(theirs.detach())
        assert connection.receive() is None
        socket.send_fds(ours, [encode([LAUNCH])], [0, 1])
        (message,) = connection.receive() or ()
        assert isinstance(message, protocol.Launch)
        descriptors = connection.take_descriptors(2)
        assert len(descriptors) == 2
        assert not any(map(os.get_inheritable, descriptors))
        connection.queue(EXITED)
        connection.send()
        assert marshal.loads(ours.recv(4096)[4:]) == [EXITED.encode()]
    for descriptor in descriptors:
        os.close(descriptor)
    assert connection.receive() is None
    assert not connection.is_open
