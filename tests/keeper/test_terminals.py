"""Terminals and pipes in the keeper: slow and full disks, kernels that tell less, and paths that are too long."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.engines.local import input_client
from supervisor.errors import InputRefused
from supervisor.keeper import channels, protocol, terminals
from supervisor.system import processes

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")


def asked(directory: Path, *, pty: bool) -> protocol.Launch:
    return protocol.Launch(
        token=1,
        directory=str(directory),
        argv=[b"x"],
        environment=1,
        changes={},
        deadline_seconds=None,
        grace_seconds=1,
        output_limit=1000,
        stop_leftovers=False,
        descriptors=1,
        stdin_open=not pty,
        pty=(24, 80) if pty else None,
    )


class Keeper:
    """What a keeper does with its inputs, step by step."""

    def __init__(self, directory: Path) -> None:
        self.blocked: list[Callable[[], None]] | None = None
        self.free = True
        self.inputs = terminals.Inputs(self.guard, lambda: self.free)
        self.directory = directory

    def guard(self, step: Callable[[], None]) -> None:
        if self.blocked is None:
            step()
        else:  # as if another thread went on with the loop
            self.blocked.append(step)

    def turn(self) -> list[int]:
        poll = select.poll()
        for descriptor, events in self.inputs.wanted.items():
            poll.register(descriptor, events)
        self.inputs.handle({descriptor for descriptor, _ in poll.poll(50)})
        return self.inputs.on_time()

    def terminal(self, output: str = "output") -> tuple[terminals.Terminal, int]:
        recorded = os.open(self.directory / output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        made = self.inputs.open(asked(self.directory, pty=True), None, recorded)
        os.close(recorded)
        assert isinstance(made, terminals.Terminal)
        return made, os.open(made.path, os.O_RDWR | os.O_NOCTTY)

    @property
    def recorded(self) -> bytes:
        return (self.directory / "output").read_bytes()


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path)


def test_a_disk_that_hangs_holds_up_only_its_own_job(keeper: Keeper) -> None:
    keeper.blocked = []
    terminal, job = keeper.terminal()
    os.write(job, b"one\n")
    keeper.turn()
    (step,) = keeper.blocked
    os.write(job, b"two\n")
    keeper.turn()
    assert len(keeper.blocked) == 1  # what comes meanwhile stays in the terminal
    assert terminal.send(b"typed\n", eof=False) == b""
    assert keeper.inputs.end(1) is None
    keeper.blocked = None
    step()
    assert keeper.turn() == [1]
    assert keeper.inputs.end(1) is False
    assert keeper.recorded.startswith(b"one\r\ntwo\r\n")
    os.close(job)
    assert keeper.inputs.wanted == {}


def test_where_no_further_step_may_block_the_output_waits(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminals, "AGAIN_NS", 0)
    keeper.free = False
    _, job = keeper.terminal()
    os.write(job, b"one\n")
    keeper.turn()
    assert keeper.recorded == b""
    assert keeper.inputs.next_ns is not None
    keeper.free = True
    keeper.turn()
    assert keeper.recorded == b"one\r\n"
    assert keeper.inputs.end(1) is False
    os.close(job)


def test_on_a_full_disk_the_output_waits_for_room(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminals, "AGAIN_NS", 0)
    _, job = keeper.terminal()
    write = os.write
    full = True

    def fail(descriptor: int, data: bytes) -> int:
        if full and data.startswith(b"one"):
            raise OSError(errno.ENOSPC, "no room")
        return write(descriptor, data)

    monkeypatch.setattr("supervisor.keeper.terminals.os.write", fail)
    write(job, b"one\n")
    for _ in range(3):
        keeper.turn()
    assert keeper.recorded == b""
    full = False
    keeper.turn()
    assert keeper.recorded == b"one\r\n"
    full = True
    write(job, b"one\n")
    assert keeper.inputs.end(1) is True  # no process waits for the disk, and the job says that output was lost
    os.close(job)


def test_a_job_that_writes_for_ever_does_not_keep_its_end_open(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminals, "_MAX_DRAINED", 10_000)
    terminal, job = keeper.terminal()
    monkeypatch.setattr(terminal, "_take", lambda: setattr(terminal, "_unwritten", b"x" * 4096) or True)
    assert keeper.inputs.end(1) is False
    assert len(keeper.recorded) == 3 * 4096
    os.close(job)


def test_where_the_kernel_tells_no_room_a_message_is_an_atomic_write(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_HAS_ROOM_OF_PIPES", False)
    pipe = keeper.inputs.open(asked(keeper.directory, pty=False), None, -1)
    assert pipe.send(b"x" * (select.PIPE_BUF + 1), eof=False) == b"large %d" % select.PIPE_BUF
    sent = 0
    while pipe.send(b"x" * select.PIPE_BUF, eof=False) != b"full":
        sent += select.PIPE_BUF
    os.set_blocking(pipe.reading, False)
    read = 0
    while True:
        try:
            read += len(os.read(pipe.reading, 1 << 20))
        except BlockingIOError:
            break
    assert read == sent > 0
    os.close(pipe.reading)
    keeper.inputs.drop(1)
    assert not (keeper.directory / "input").exists()


@pytest.mark.parametrize("has_proc", [True, False])
def test_a_long_path_is_shortened(tmp_path: Path, *, has_proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / ("d" * 150)
    directory.mkdir()
    if not has_proc:
        monkeypatch.setattr("supervisor.engines.local.input_client.os.path.isdir", lambda _: False)
        monkeypatch.setattr("supervisor.engines.local.input_client.tempfile.tempdir", "/tmp")
    with socket.socket(socket.AF_UNIX) as listener:
        with input_client._short(str(directory)) as path:
            listener.bind(f"{path}/input")
        listener.listen()
        input_client.connect(str(directory)).close()
    with pytest.raises(InputRefused):  # the socket is there, and no process listens
        input_client.connect(str(directory))


def test_another_user_is_no_client(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_uid_of", lambda _: 12345)
    keeper.terminal()
    with input_client.connect(str(keeper.directory)) as client:
        keeper.turn()
        assert client.recv(1) == b""
    assert keeper.inputs.end(1) is False
