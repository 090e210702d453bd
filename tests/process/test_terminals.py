"""Jobs with a terminal: what they get, what is recorded, and terminals that are attached, detached and killed."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import trio

import supervisor
from supervisor.cli import attaching
from supervisor.errors import FeatureUnavailable, InputRefused, InvalidArguments
from supervisor.jobdir import records
from supervisor.jobs.inputs import send
from supervisor.keeper import spawn
from supervisor.system import processes
from supervisor.testing import FakeEngine
from tests.cli.tmux import screen
from tests.process.terminal import terminal
from tests.process.test_input import start
from tests.process.test_spool import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")

# An agent that is used interactively: it takes the terminal as it is, and paints when the window changes.
AGENT = """
import os, signal, sys
def paint(*_):
    size = os.get_terminal_size()
    print(f"[{size.lines}x{size.columns}]", flush=True)
signal.signal(signal.SIGWINCH, paint)
paint()
for line in sys.stdin:
    print("answer to", line.strip(), flush=True)
print("bye", flush=True)
"""


def agent(world: World, *options: str) -> str:
    return start(world, "--pty", *options, "--", sys.executable, "-c", AGENT)


def output(world: World, job_id: str) -> str:
    return (world.job(job_id) / records.STDOUT).read_bytes().decode()


def ended(world: World, job_id: str) -> supervisor.Job:
    (job,) = world.catalog.wait([job_id], timeout=30)
    assert job.status.terminal, job
    return job


def test_a_terminal_controls_the_session_of_its_job_and_is_recorded(world: World) -> None:
    script = (
        'tty; stty size; echo to stderr >&2; set -- $(ps -o tty=,sid=,pgid=,tpgid= -p $$); echo "$@" $$; cat < /dev/tty'
    )
    job_id = start(world, "--pty", "--", "sh", "-c", script)
    send(world.catalog, job_id, b"typed\n", eof=True)
    job = ended(world, job_id)
    assert (job.status, job.pty, job.stdin_open, job.stderr_bytes) == ("done", True, False, 0)
    name, size, error, numbers, *rest = [line for line in output(world, job_id).split("\r\n") if line != "typed"]
    assert re.fullmatch("/dev/pts/[0-9]+", name)
    assert (size, error) == ("24 80", "to stderr")
    tty, *pids = numbers.split()
    assert f"/dev/{tty}" == name
    assert set(pids) == {str(job.pid)}
    assert rest == [""]
    assert output(world, job_id).count("typed") == 2  # as the terminal echoes it, and as `cat` writes it
    assert job.stdout_bytes == len(output(world, job_id))


@pytest.mark.parametrize("library", ["ctypes", "os"])
def test_both_ways_to_spawn_give_a_terminal(library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    import os
    import pty

    if library == "os":
        monkeypatch.setattr(spawn, "_library", None)
    elif spawn._library is None:
        pytest.skip("needs ctypes")
    master, slave = pty.openpty()
    here = os.open(str(tmp_path), os.O_RDONLY)
    pid = spawn.spawn(b"/bin/sh", [b"sh", b"-c", b"tty; kill -INT 0"], [], here, os.ttyname(slave).encode())
    _, status = os.waitpid(pid, 0)
    assert os.read(master, 100).decode().strip() == os.ttyname(slave)
    assert os.WTERMSIG(status) == signal.SIGINT
    for descriptor in (master, slave, here):
        os.close(descriptor)


def test_keys_are_signals(world: World) -> None:
    ready = world.fifo()
    job_id = start(world, "--pty", "--", "sh", "-c", f"echo ready > {ready}; exec sleep 60")
    ready.line()
    send(world.catalog, job_id, b"\x03")
    job = ended(world, job_id)
    assert (job.status, job.signal) == ("failed", signal.SIGINT)


def test_a_terminal_has_a_name_in_the_environment(world: World) -> None:
    for given, expected in (("vt100", "vt100"), ("dumb", "xterm-256color"), ("", "xterm-256color")):
        job_id = start(world, "--pty", "--env", f"TERM={given}", "--", "sh", "-c", "echo $TERM")
        ended(world, job_id)
        assert output(world, job_id).strip() == expected


def test_a_line_that_the_terminal_would_cut_is_refused(world: World) -> None:
    ready = world.fifo()
    job_id = start(world, "--pty", "--", "sh", "-c", f"stty -echo; echo ready > {ready}; exec md5sum")
    ready.line()
    with pytest.raises(InvalidArguments, match="4095"):
        send(world.catalog, job_id, b"x" * 4096 + b"\n")
    lines = b"".join(b"%04d" % number * 1000 + b"\n" for number in range(16))
    send(world.catalog, job_id, lines, eof=True)
    ended(world, job_id)
    assert output(world, job_id).split()[0] == hashlib.md5(lines, usedforsecurity=False).hexdigest()


def test_a_terminal_that_is_not_read_refuses_in_the_end_and_blocks_no_other_job(world: World) -> None:
    host = world.host()
    job_id = host.start("sh", "-c", "stty raw -echo; echo ready; exec sleep 60", pty=True)
    other = host.start(sys.executable, "-c", AGENT, pty=True)

    def fill() -> None:
        for _ in range(100):
            send(world.catalog, job_id, b"y" * 60_000)

    with pytest.raises(InputRefused, match="does not read"):
        fill()
    send(world.catalog, other, b"question\n", eof=True)
    ended(world, other)
    assert "answer to question" in output(world, other)
    assert world.catalog.cancel(job_id).status == "cancelled"


def test_the_output_limit_holds(world: World) -> None:
    job_id = start(world, "--pty", "--max-output", "100000", "--", "sh", "-c", "yes")
    job = ended(world, job_id)
    assert (job.status, job.reason) == ("failed", "output_limit")


def test_all_that_a_job_wrote_before_its_end_is_recorded(world: World) -> None:
    job_id = start(world, "--pty", "--", "sh", "-c", "seq 20000")
    job = ended(world, job_id)
    assert job.status == "done"
    assert output(world, job_id).split() == [str(number) for number in range(1, 20001)]


def test_processes_that_are_left_behind_lose_the_terminal_and_keep_no_job_alive(world: World) -> None:
    pid, go = world.fifo(), world.fifo()
    behind = f'trap "" HUP; echo $$ > {pid}; exec sleep 600'
    script = f"sh -c '{behind}' & read line < {go}; echo done"
    job_id = start(world, "--pty", "--", "sh", "-c", script)
    left = world.hold(pid.number())
    go.open()
    job = ended(world, job_id)
    assert job.status == "done"
    assert output(world, job_id).strip() == "done"
    assert left.alive
    left.kill()


def test_the_death_of_the_keeper_hangs_the_terminal_up(world: World) -> None:
    job_id = agent(world)
    leader = world.leader(job_id)
    world.keeper(job_id).kill()
    assert leader.ended()
    job = ended(world, job_id)
    assert job.status == "failed"


def test_what_cannot_have_a_terminal_says_so(world: World) -> None:
    done = command(world, "start", "--pty", "--stdin", "-", "--", "cat", input="x")
    assert (done.returncode, "stdin is given, and pty" in done.stderr) == (2, True)
    done = command(world, "attach", "0" * 32)
    assert (done.returncode, "not a terminal" in done.stderr) == (2, True)
    plain = start(world, "--stdin-open", "--", "cat")
    with terminal("attach", plain) as shown:
        shown.until("has no terminal")
        assert shown.status() == 2
    with terminal("run", "--json", "-t", "--", "true") as shown:
        assert shown.status() == 2

    async def main() -> None:
        async with supervisor.open_supervisor(engine=FakeEngine({})) as sup:
            for options in ({"pty": True}, {"stdin_open": True}):
                with pytest.raises(FeatureUnavailable, match="fake"):
                    await sup.start(["tool"], **options)  # type: ignore[arg-type]

    trio.run(main)


# ---------------------------------------------------------------- attach


def test_attach_detach_and_attach_again(world: World) -> None:
    job_id = agent(world)
    with terminal("attach", job_id, rows=30, columns=100) as first:
        first.until("[30x100]")
        first.type("one\n")
        first.until("answer to one")
        first.type("\x1d")
        first.until("detached")
        assert first.status() == 0
        assert first.is_restored
    with terminal("attach", job_id[:8], rows=40, columns=200) as second:
        second.until("answer to one")
        second.until("[40x200]")
        second.type("two\n")
        second.until("answer to two")
        second.type("\x04")
        second.until("bye")
        assert second.status() == 0
        assert second.is_restored
    assert ended(world, job_id).status == "done"


@pytest.mark.parametrize("key", ["\x1b[93;5u", "\x1b[27;5;93~"])
def test_a_terminal_that_reports_keys_as_sequences_detaches_too(world: World, key: str) -> None:
    job_id = agent(world)
    with terminal("attach", job_id) as shown:
        shown.until("[24x80]")
        shown.type(key)
        assert shown.status() == 0


def test_the_key_can_be_chosen(world: World) -> None:
    job_id = agent(world)
    with terminal("attach", "--detach-key", "ctrl-q", job_id) as shown:
        shown.until("[24x80]")
        shown.type("\x1d\n\x11")
        assert shown.status() == 0
    with terminal("attach", job_id, SUPERVISOR_DETACH_KEY="^B") as shown:
        shown.until("[24x80]")
        shown.type("\x02")
        assert shown.status() == 0
    with terminal("attach", "--detach-key", "q", job_id) as shown:
        assert shown.status() == 2


def test_several_terminals_are_attached_and_the_last_one_has_the_window(world: World) -> None:
    job_id = agent(world)
    with terminal("attach", job_id, rows=30, columns=100) as first:
        first.until("[30x100]")
        with terminal("attach", job_id, rows=20, columns=60) as second:
            second.until("[20x60]")
            first.until("[20x60]")
            first.type("from the first\n")
            second.until("answer to from the first")
            first.resize(31, 101)
            second.until("[31x101]")
            second.resize(21, 61)
            first.until("[21x61]")
            second.type("\x1d")
            assert second.status() == 0
        first.until("[31x101]")


def test_a_job_outlives_the_terminals_that_are_killed_with_their_commands(world: World) -> None:
    job_id = agent(world)
    with terminal("attach", job_id, rows=30, columns=100) as stays:
        stays.until("[30x100]")
        with terminal("attach", job_id, rows=20, columns=60) as dies:
            dies.until("[20x60]")
            dies.type("half a li")
            dies.until("half a li")
            dies.kill()
        stays.until("[30x100]")
        stays.type("ne\n")
        stays.until("answer to half a line")
    with terminal("attach", job_id) as again:
        again.until("answer to half a line")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_detaches_and_restores_the_terminal(world: World, number: signal.Signals) -> None:
    job_id = agent(world)
    with terminal("attach", job_id) as shown:
        shown.until("[24x80]")
        shown.process.send_signal(number)
        assert shown.status() == 128 + number
        assert shown.is_restored
    send(world.catalog, job_id, b"still\n", eof=True)
    assert ended(world, job_id).status == "done"


def test_modes_that_the_job_has_set_are_restored_and_set_again(world: World) -> None:
    script = "printf '\\033[?1049h\\033[?25l\\033[?2004hpainted'; exec sleep 60"
    job_id = start(world, "--pty", "--", "sh", "-c", script)
    for _ in range(2):
        with terminal("attach", job_id) as shown:
            shown.until("\x1b[?1049h\x1b[?25l\x1b[?2004hpainted")
            shown.type("\x1d")
            shown.until("\x1b[?1049l")
            assert shown.status() == 0
            assert b"\x1b[?25h" in shown.shown
    assert world.catalog.cancel(job_id).status == "cancelled"


def test_a_job_that_writes_much_is_shown_from_a_whole_line_on(world: World) -> None:
    ready = world.fifo()
    job_id = start(world, "--pty", "--", "sh", "-c", f"seq 100000; echo ready > {ready}; exec cat")
    ready.line()
    with terminal("attach", job_id) as shown:
        lines = shown.until("\n100000\r\n").decode().split()
        assert lines[-1] == "99999"
        numbers = [int(word) for word in lines if word.isdigit()]
        assert numbers == list(range(numbers[0], 100000))


def test_cancelling_the_job_ends_attach(world: World) -> None:
    job_id = agent(world)
    with terminal("attach", job_id) as shown:
        shown.until("[24x80]")
        assert world.catalog.cancel(job_id).status == "cancelled"
        assert shown.status() == 130
        assert shown.is_restored


def test_killing_the_keeper_ends_attach(world: World) -> None:
    script = "trap '' HUP; echo ready; while :; do sleep 1; done"
    job_id = start(world, "--pty", "--", "sh", "-c", script)
    with terminal("attach", job_id) as shown:
        shown.until("ready")
        world.keeper(job_id).kill()
        shown.until("keeper")
        assert shown.status() == 125
        assert shown.is_restored


# ---------------------------------------------------------------- run -t


def test_run_on_a_terminal_is_as_in_a_shell(world: World) -> None:
    del world
    with terminal("run", "-t", "--", "sh", "-c", "stty size; read line; exit 7", rows=33, columns=111) as shown:
        shown.until("33 111")
        shown.type("\n")
        assert shown.status() == 7
        assert shown.is_restored


@pytest.mark.parametrize(
    ("script", "status"),
    [("echo quick", 0), ("kill -9 $$", 137), ("exec /nowhere/at/all", 127)],
)
def test_run_on_a_terminal_ends_as_its_command(world: World, script: str, status: int) -> None:
    del world
    with terminal("run", "-t", "--", "sh", "-c", script) as shown:
        if not status:
            shown.until("quick")
        assert shown.status() == status


def test_run_on_a_terminal_says_what_it_cannot_launch(world: World) -> None:
    del world
    with terminal("run", "-t", "--", "there-is-no-such-program") as shown:
        shown.until("not found")
        assert shown.status() == 127


def test_an_agent_is_still_there_after_its_connection_has_died(world: World) -> None:
    with terminal("run", "-t", "--", sys.executable, "-c", AGENT) as connection:
        connection.until("[24x80]")
        connection.type("before\n")
        connection.until("answer to before")
        connection.kill()
    (job,) = world.catalog.list(state="running").jobs
    with terminal("attach", job.job_id) as again:
        again.until("answer to before")
        again.type("after\n")
        again.until("answer to after")
        again.type("\x04")
        assert again.status() == 0


def test_run_on_a_terminal_waits_for_its_turn(world: World) -> None:
    command(world, "group", "set", "g", "--limit", "1")
    ready = world.fifo()
    first = start(world, "--group", "g", "--", "sh", "-c", f"echo ready > {ready}; exec sleep 60")
    ready.line()
    with terminal("run", "-t", "--group", "g", "--", "sh", "-c", "echo its turn; tty") as shown:
        shown.until("waits")
        subprocess.run([sys.executable, "-m", "supervisor", "cancel", first], check=True, capture_output=True)
        shown.until("its turn")
        shown.until("/dev/pts/")
        assert shown.status() == 0


def test_a_job_that_ends_while_run_connects_is_no_refusal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keeper closes the terminal a moment before it records the end."""
    job_id = start(world, "--pty", "--", "sh", "-c", "read line")
    waits = world.catalog.wait

    def refuse(*_: object, **__: object) -> NoReturn:
        message = f"job {job_id} takes no connection"
        raise InputRefused(message)

    def end(job_ids: Sequence[str], **options: Any) -> list[supervisor.Job]:
        send(world.catalog, job_id, b"\n")
        return waits(job_ids, **options)

    monkeypatch.setattr(attaching, "connection_to", refuse)
    monkeypatch.setattr(world.catalog, "wait", end)
    assert attaching._connected(world.catalog, job_id, fresh=True) is None
    with pytest.raises(InputRefused, match="takes no connection"):
        attaching._connected(world.catalog, job_id, fresh=False)


def test_two_panes_of_tmux_show_the_same_job(world: World) -> None:
    job_id = agent(world)
    attach = f"{sys.executable} -m supervisor attach {job_id}"
    with screen(world.directory, attach, columns=200) as shown:
        shown.until_shown("[24x200]")
        shown.tmux("split-window", "-d", "-h", attach)
        shown.until_shown("[24x99]")
        shown.type("question", "Enter")
        shown.until_shown("answer to question")
        shown.tmux("kill-pane", "-t", "1")
        shown.until_shown("[24x200]", "answer to question")
    with terminal("attach", job_id) as again:
        again.until("answer to question")
        again.type("\x04")
        assert again.status() == 0


def test_a_job_is_started_again_with_its_terminal(world: World) -> None:
    with terminal("run", "-t", "--", "sh", "-c", "stty size; tty", rows=33, columns=111) as shown:
        assert shown.status() == 0
    (job,) = world.catalog.list().jobs
    again = command(world, "rerun", job.job_id).stdout.strip().split()[-1]
    assert ended(world, again).pty
    assert output(world, again).startswith("33 111\r\n/dev/pts/")


def test_another_attempt_has_a_terminal_of_its_own(world: World) -> None:
    del world
    options = ["--attempts", "2", "--retry-on", "job_failed", "--retry-delay", "0"]
    with terminal("run", "-t", *options, "--", "sh", "-c", "tty; read line; exit $line") as shown:
        shown.until("/dev/pts/")
        shown.type("3\n")
        shown.until("/dev/pts/")
        shown.type("0\n")
        assert shown.status() == 0
