"""The stdin of a running job: messages from several processes, each whole and at most once, or refused."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from supervisor.engines.local.input_client import connect
from supervisor.errors import InputRefused, InvalidArguments, JobNotFound, StateBusy
from supervisor.jobdir import records
from supervisor.jobs.inputs import MAX_MESSAGE, send
from supervisor.system import processes
from tests.process.test_spool import command

if TYPE_CHECKING:
    from tests.process.conftest import Fifo, World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)\nprint('end')"
BLIND = 'echo ready > "$0"; read line < "$1"; exec wc -c'


def start(world: World, *words: str, **more: object) -> str:
    done = command(world, "start", *words, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def blind(world: World, *options: str, **more: object) -> tuple[str, Fifo]:
    """Start a job that reads nothing until a line comes through the fifo that is returned."""
    ready, go = world.fifo(), world.fifo()
    job_id = start(world, *options, "--", "sh", "-c", BLIND, str(ready), str(go), **more)
    ready.line()
    return job_id, go


def send_at_last(world: World, job_id: str, data: bytes) -> None:
    """Send a message and the end of file once the job takes it."""
    while True:
        try:
            send(world.catalog, job_id, data, eof=True)
        except InputRefused as error:
            if not error.retryable:
                raise
        else:
            return


def result(world: World, job_id: str) -> str:
    (job,) = world.catalog.wait([job_id], timeout=30)
    assert job.status.terminal, job
    value: str = world.catalog.result(job_id).value
    return value


def test_a_job_gets_the_messages_of_two_processes_and_then_the_end_of_file(world: World) -> None:
    host = world.host()
    job_id = host.start(sys.executable, "-c", ECHO, stdin_open=True)
    assert command(world, "send", job_id[:8], input="from the command line\n").returncode == 0
    assert command(world, "send", job_id, "--json", input="again\n").stdout == (
        f'{{"ok":true,"job_id":"{job_id}","sent_bytes":6,"eof":false}}\n'
    )
    send(world.catalog, job_id, b"from another process\n", eof=True)
    assert result(world, job_id) == "from the command line\nagain\nfrom another process\nend\n"
    assert world.catalog.status(job_id).stdin_open


def test_messages_need_no_supervisor(world: World) -> None:
    job_id = start(world, "--stdin-open", "--", "cat")
    send(world.catalog, job_id, b"one\n")
    assert command(world, "send", job_id, "--eof", stdin=subprocess.DEVNULL).returncode == 0
    assert result(world, job_id) == "one\n"


def test_messages_of_many_processes_at_once_are_whole(world: World) -> None:
    job_id = start(world, "--stdin-open", "--", "cat")
    lines = [f"{number}" * 3000 + "\n" for number in range(1, 9)]
    senders = [
        subprocess.Popen([sys.executable, "-m", "supervisor", "send", job_id], stdin=subprocess.PIPE, text=True)
        for _ in lines
    ]
    for sender, line in zip(senders, lines, strict=True):
        sender.communicate(line)
    assert [sender.returncode for sender in senders] == [0] * len(lines)
    send(world.catalog, job_id, b"", eof=True)
    assert sorted(result(world, job_id).splitlines(keepends=True)) == sorted(lines)


def test_the_first_input_comes_first(world: World) -> None:
    job_id, go = blind(world, "--stdin-open", "--stdin", "-", input="x" * 200_000)
    with pytest.raises(InputRefused, match="has not read all") as refused:
        send(world.catalog, job_id, b"message")
    assert refused.value.retryable
    assert command(world, "send", job_id, input="message").returncode == 75
    go.open()
    send_at_last(world, job_id, b"message")
    assert result(world, job_id).strip() == str(200_000 + len("message"))


@pytest.mark.parametrize("size", [2049, 4096, 5000, 20_000, MAX_MESSAGE])
def test_a_job_that_does_not_read_refuses_messages_whole(world: World, size: int) -> None:
    job_id, go = blind(world, "--stdin-open")
    sent = 0

    def fill() -> None:
        nonlocal sent
        while sent <= 1 << 17:
            send(world.catalog, job_id, b"x" * size)
            sent += size

    with pytest.raises(InputRefused) as refused:
        fill()
    assert refused.value.retryable
    assert size <= sent <= 1 << 16
    go.open()
    send_at_last(world, job_id, b"y" * size)
    assert result(world, job_id).strip() == str(sent + size)


def test_errors_say_what_is_wrong(world: World) -> None:
    with pytest.raises(JobNotFound):
        send(world.catalog, "0" * 32, b"x")
    plain = start(world, "--", "sleep", "60")
    with pytest.raises(InvalidArguments, match="does not stay open"):
        send(world.catalog, plain, b"x")
    opened = start(world, "--stdin-open", "--", "cat")
    with pytest.raises(InvalidArguments, match="at most 65536"):
        send(world.catalog, opened, b"x" * (MAX_MESSAGE + 1))
    with pytest.raises(InvalidArguments, match="nothing to send"):
        send(world.catalog, opened, b"")
    command(world, "send", opened, "--eof", stdin=subprocess.DEVNULL)
    (ended,) = world.catalog.wait([opened], timeout=30)
    assert ended.status == "done"
    with pytest.raises(InvalidArguments, match="has ended"):
        send(world.catalog, opened, b"x")
    held = start(world, "--stdin-open", "--hold", "--", "cat")
    with pytest.raises(InputRefused, match="does not run yet") as waits:
        send(world.catalog, held, b"x")
    assert waits.value.retryable
    assert world.catalog.cancel(held).status == "cancelled"


def test_a_job_that_has_waited_has_its_input_open(world: World) -> None:
    job_id = start(world, "--stdin-open", "--hold", "--stdin", "-", "--", "cat", input="first\n")
    host = world.host()
    host.call("release", job_id)
    send_at_last(world, job_id, b"second\n")
    assert result(world, job_id) == "first\nsecond\n"


def test_a_job_that_has_closed_its_stdin_gets_no_more(world: World) -> None:
    ready = world.fifo()
    job_id = start(world, "--stdin-open", "--", "sh", "-c", f"exec 0<&-; echo ready > {ready}; exec sleep 60")
    ready.line()
    for _ in range(2):
        with pytest.raises(InputRefused, match="is closed") as refused:
            send(world.catalog, job_id, b"x")
        assert not refused.value.retryable
    assert command(world, "send", job_id, input="x").returncode == 1


def test_the_death_of_the_keeper_is_the_end_of_file(world: World) -> None:
    read, end = world.fifo(), world.fifo()
    script = f"while read line; do echo $line > {read}; done; echo end > {end}"
    job_id = start(world, "--stdin-open", "--", "sh", "-c", script)
    send(world.catalog, job_id, b"one\n")
    assert read.line() == "one"
    world.keeper(job_id).kill()
    assert end.line() == "end"


def test_without_a_keeper_a_message_is_refused_for_good(world: World) -> None:
    ready = world.fifo()
    job_id = start(world, "--stdin-open", "--", "sh", "-c", f"cat; echo ready > {ready}; exec sleep 60")
    world.keeper(job_id).kill()
    ready.line()
    with pytest.raises(InputRefused, match="keeper") as refused:
        send(world.catalog, job_id, b"x")
    assert not refused.value.retryable


def connected(world: World, job_id: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    directory = os.open(world.job(job_id), os.O_PATH)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{records.INPUT}")
    finally:
        os.close(directory)
    connection.settimeout(20)
    return connection


@pytest.fixture
def job(world: World) -> Iterator[str]:
    """A job that echoes its messages, and gets one at the end."""
    job_id = start(world, "--stdin-open", "--", sys.executable, "-c", ECHO)
    yield job_id
    send(world.catalog, job_id, b"last\n", eof=True)
    assert result(world, job_id).endswith("last\nend\n")
    assert not (world.root / "keeper.log").exists()


RUBBISH = [
    b"\0" * 100_000,
    b"s\xff\xff\xff\xff" + b"x" * 1000,
    b"s\0\0\0\0",
    b"w\4\0\0\0abcd",
    b"t\1\0\0\0x",
    b"GET / HTTP/1.1\r\n\r\n",
    b"s\x02\0\0",
    b"a\0\0\0\0",
    bytes(range(256)) * 300,
]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=range(len(RUBBISH)))
def test_the_keeper_drops_a_client_that_sends_rubbish(world: World, job: str, rubbish: bytes) -> None:
    with connected(world, job) as client:
        try:
            client.sendall(rubbish)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass


def test_half_a_message_is_no_message(world: World, job: str) -> None:
    with connected(world, job) as client:
        client.sendall(b"s\x20\0\0\0\0half")
    with connected(world, job) as client:  # after the keeper has read the first
        client.sendall(b"s\x07\0\0\0\0whole")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    with connected(world, job) as client:
        client.sendall(b"s\x07\0\0\0\0whole\n")
        assert client.recv(100) == b"a\0\0\0\0"
    send(world.catalog, job, b"more\n")
    assert "half" not in (world.job(job) / records.STDOUT).read_text()


def test_clients_that_stay_and_say_nothing_keep_no_other_out(world: World, job: str) -> None:
    idle = [connected(world, job) for _ in range(150)]
    send(world.catalog, job, b"in spite of them\n")
    for client in idle:
        client.close()


def test_a_sender_waits_where_others_fill_the_queue_of_the_keeper(
    world: World, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.job(job))  # the path of a socket is short
    keeper = world.keeper(job)
    world.stop(keeper)
    idle = [connected(world, job)]
    with contextlib.suppress(BlockingIOError):
        while True:
            idle.append(socket.socket(socket.AF_UNIX))
            idle[-1].setblocking(False)
            idle[-1].connect(records.INPUT)
    with ThreadPoolExecutor(1) as thread:
        waits = thread.submit(connect, str(world.job(job)))
        with pytest.raises(TimeoutError):
            waits.result(0.2)  # it is given up after ten seconds
        world.resume(keeper)
        waits.result(30).close()
    for client in idle:
        client.close()


def test_a_sender_that_is_killed_has_sent_all_or_nothing(world: World, job: str) -> None:
    argv = [sys.executable, "-m", "supervisor", "send", job]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as sender:
        assert sender.stdin is not None
        sender.stdin.write(b"killed\n" * 1000)
        sender.stdin.flush()
        sender.send_signal(signal.SIGKILL)
    assert "killed" not in (world.job(job) / records.STDOUT).read_text()


def test_only_the_user_reaches_the_socket_and_it_ends_with_the_job(world: World) -> None:
    job_id = start(world, "--stdin-open", "--", "cat")
    path = world.job(job_id) / records.INPUT
    assert path.stat().st_mode & 0o777 == 0o600
    send(world.catalog, job_id, b"", eof=True)
    result(world, job_id)
    assert not path.exists()
    plain = start(world, "--", "cat")
    result(world, plain)
    assert not (world.job(plain) / records.INPUT).exists()


def test_a_renamed_state_root_keeps_its_inputs(world: World) -> None:
    job_id = start(world, "--stdin-open", "--", "cat")
    elsewhere = world.root.with_name("e" * 200)
    world.root.rename(elsewhere)
    done = command(world, "--state-dir", str(elsewhere), "send", job_id, "--eof", input="moved\n")
    assert done.returncode == 0, done.stderr
    assert command(world, "--state-dir", str(elsewhere), "wait", job_id).returncode == 0
    assert command(world, "--state-dir", str(elsewhere), "result", job_id).stdout == "moved\n"


def test_a_keeper_that_stands_still_is_not_waited_for_without_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.engines.local.input_client._SECONDS", 0.2)
    job_id = start(world, "--stdin-open", "--", "cat")
    keeper = world.keeper(job_id)
    world.stop(keeper)
    with pytest.raises((InputRefused, StateBusy)) as refused:
        send(world.catalog, job_id, b"x")
    assert isinstance(refused.value, StateBusy) or not refused.value.retryable
    world.resume(keeper)
