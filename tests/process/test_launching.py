"""The environment of a command, the errors of a launch, and the record of its end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.jobdir import records

if TYPE_CHECKING:
    from tests.process.conftest import World

LOOK = """
import json, os, signal, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "fds": {name: os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")},
    "ignored": int(status["SigIgn"], 16), "blocked": int(status["SigBlk"], 16),
    "umask": status["Umask"].strip(), "session": os.getsid(0), "group": os.getpgid(0), "pid": os.getpid(),
    "cwd": os.getcwd(), "environment": dict(os.environ), "stdin": sys.stdin.read(),
}))
"""
# Python itself ignores two signals when it starts; this shell does not.
SIGNALS = 'while read name value; do case $name in SigIgn:|SigBlk:) echo "$value";; esac; done < /proc/$$/status'


@pytest.mark.parametrize(
    ("end", "status", "reason", "code", "number"),
    [
        ("exit 0", "done", "exited", 0, None),
        ("exit 1", "failed", "nonzero_exit", 1, None),
        ("exit 7", "failed", "nonzero_exit", 7, None),
        ("exit 137", "failed", "nonzero_exit", 137, None),
        ("exit 255", "failed", "nonzero_exit", 255, None),
        ("kill -TERM $$", "failed", "killed_by_signal", None, signal.SIGTERM),
        ("kill -KILL $$", "failed", "killed_by_signal", None, signal.SIGKILL),
        ("ulimit -c 0; kill -SEGV $$", "failed", "killed_by_signal", None, signal.SIGSEGV),
    ],
)
async def test_peer_2_every_exit_code_and_signal_is_on_record(
    world: World,
    end: str,
    status: str,
    reason: str,
    code: int | None,
    number: int | None,
) -> None:
    async with supervisor.open_supervisor() as sup:
        job = (await sup.run(["sh", "-c", end])).job
    assert (job.status, job.reason, job.exit_code, job.signal) == (status, reason, code, number)
    noted = world.record(job.job_id, records.EXIT) or {}
    assert (noted["exit_code"], noted["signal"]) == (code, number)


async def test_peer_2_json_and_running_on_is_not_done_and_json_then_exit_7_is_failed(world: World) -> None:
    told, gate = world.fifo(), world.fifo()
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(
            ["sh", "-c", """echo '{"a": 1}'; echo up > "$1"; read line < "$2"; exit 7""", "sh", str(told), str(gate)],
            kind="json",
        )
        await trio.to_thread.run_sync(told.line)
        assert (await sup.status(job.job_id)).status == "running"
        with pytest.raises(supervisor.JobRunning):
            await sup.result(job.job_id)
        assert world.catalog.status(job.job_id).status == "running"
        gate.open()
        ended = await sup.wait(job.job_id)
        result = await sup.result(job.job_id)
    assert (ended.status, ended.reason, ended.exit_code) == ("failed", "nonzero_exit", 7)
    assert (result.value, result.error is None) == (None, False)


def executable(path: Path, content: bytes, mode: int = 0o755) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda _: ["no-such-command-anywhere"], 127),
        (lambda here: [str(here / "missing")], 127),
        (lambda here: [str(here / "missing" / "deeper")], 127),
        (lambda here: [executable(here / "plain", b"#!/bin/sh\n", 0o644)], 126),
        (lambda here: [str(here)], 126),
        (lambda here: [executable(here / "noise", b"echo no first line\n")], 126),
        (lambda here: [executable(here / "lost", b"#!/no/such/interpreter\n")], 126),
        (lambda _: ["true", "x" * 200_000], 126),  # longer than the kernel takes in one piece
    ],
    ids=["not in PATH", "no such file", "no such directory", "mode", "directory", "ENOEXEC", "interpreter", "E2BIG"],
)
async def test_launch_failures_are_told_apart_and_leave_nothing(world: World, make: Any, status: int) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(make(world.directory))
        result = await sup.result(job.job_id)
        again = await sup.run(["true"])  # the keeper is unharmed
    assert (job.status, job.reason, job.exit_code, job.pid) == ("failed", "launch_failed", None, None)
    assert result.error is not None
    assert (result.error.code, result.error.details["exit_status"]) == ("launch_failed", status)
    assert again.ok
    assert world.record(job.job_id, records.PROCESS) is None


async def test_a_workspace_that_is_gone_is_a_launch_that_failed(world: World) -> None:
    gone = world.directory / "gone"
    file = world.directory / "file"
    file.touch()
    async with supervisor.open_supervisor() as sup:
        for workspace in (gone, file):
            job = await sup.start(["true"], workspace=workspace)
            assert (job.status, job.reason) == ("failed", "launch_failed")
            assert job.detail is not None
            assert str(workspace) in job.detail


async def test_what_a_command_finds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "of the caller")
    async with supervisor.open_supervisor() as sup:
        result = await sup.run([sys.executable, "-c", LOOK], kind="json")
        bare = await sup.run([sys.executable, "-c", LOOK], kind="json", env={"ONLY": "this"})
    found, job = result.value, result.job
    directory = world.job(job.job_id)
    listing = found["fds"].pop(max(found["fds"], key=int))  # of /proc/self/fd itself
    assert listing.startswith("/proc/")
    assert found["fds"] == {
        "0": "/dev/null",
        "1": str(directory / records.STDOUT),
        "2": str(directory / records.STDERR),
    }
    assert found["session"] == found["group"] == found["pid"] == job.pid
    assert found["cwd"] == str(world.directory)
    assert found["blocked"] == 0
    assert found["stdin"] == ""
    assert found["environment"]["SUPERVISOR_JOB_ID"] == job.job_id
    assert found["environment"]["SOME_VARIABLE"] == "of the caller"
    shown = {name: value for name, value in bare.value["environment"].items() if name != "LC_CTYPE"}  # Python's own
    assert shown == {"ONLY": "this", "SUPERVISOR_JOB_ID": bare.job.job_id}


@pytest.mark.parametrize("size", [0, 1, 65_537, 10 << 20])
async def test_stdin_arrives_whole_and_ends(world: World, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"\0" * (size % 256)
    async with supervisor.open_supervisor() as sup:
        result = await sup.run(["sha256sum"], stdin=content)
    assert result.value.split()[0] == hashlib.sha256(content).hexdigest()
    assert world.root.exists()


def test_stdin_arrives_whole_although_the_sender_dies(world: World) -> None:
    ran, gate = world.fifo(), world.fifo()
    program = """
import os, signal, sys, trio, supervisor
async def main():
    async with supervisor.open_supervisor() as sup:
        script = 'echo up > "$1"; read line < "$2"; wc -c'
        await sup.start(["sh", "-c", script, "sh", *sys.argv[1:]], stdin=bytes(5 << 20))
        os.kill(os.getpid(), signal.SIGKILL)
trio.run(main)
"""
    argv = [sys.executable, "-c", program, str(ran), str(gate)]
    assert os.spawnve(os.P_WAIT, sys.executable, argv, world.environment) == -signal.SIGKILL
    assert ran.line() == "up"
    gate.open()
    (job,) = world.catalog.list().jobs
    world.catalog.wait([job.job_id], timeout=60)
    assert world.catalog.result(job.job_id).value.strip() == str(5 << 20)


def test_a_host_that_ignores_and_blocks_signals_gives_its_jobs_the_defaults(world: World) -> None:
    def disturb() -> None:
        ignored = (signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2, signal.SIGCHLD, signal.SIGUSR1])

    host = world.host(preexec_fn=disturb)
    told = host.call("run", ["sh", "-c", SIGNALS])["value"].split()
    its_own = 0b11 << 31  # two signals of glibc, which its posix_spawn ignores
    assert [int(mask, 16) & ~its_own for mask in told] == [0, 0]
    job_id = host.start("sleep", "600")
    assert host.call("cancel", job_id)["signal"] == signal.SIGTERM
    assert world.catalog.cancel(host.start("sleep", "600")).signal == signal.SIGTERM  # its keeper hears SIGUSR1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_files_are_private_under_any_umask_and_the_job_has_the_callers(world: World, umask: int) -> None:
    world.root.rmdir()
    host = world.host(umask=umask)
    look = "umask; touch made; stat -c %a made; rm made; echo oops >&2; exit 3"
    job = host.call("run", ["sh", "-c", look], stdin=None)["job"]
    host.call("cancel", host.start("sleep", "600"))
    orphan = host.start("sleep", "600")
    keeper = world.keeper(orphan)
    keeper.kill()
    assert host.call("cancel", orphan)["status"] == "cancelled"  # the host itself writes these records
    assert (world.job(job["job_id"]) / records.STDOUT).read_text().split() == [
        f"{umask:04o}",
        f"{0o666 & ~umask:o}",
    ]
    assert world.root.stat().st_mode & 0o777 == 0o700
    wrong = {
        str(path.relative_to(world.root)): oct(path.lstat().st_mode & 0o777)
        for path in world.root.rglob("*")
        if not path.is_symlink() and path.lstat().st_mode & 0o777 != (0o700 if path.is_dir() else 0o600)
    }
    assert not wrong


def test_peer_18_environment_and_stdin_never_reach_the_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "inherited-hunter2")
    program = """
import sys, trio, supervisor
async def main():
    async with supervisor.open_supervisor() as sup:
        given = {"PATH": "/usr/bin:/bin", "B_TOKEN": "given-hunter2"}
        for key, env in (("a", None), ("b", given)):
            secret = {"env": env, "stdin": b"typed-hunter2"}
            await sup.run(["sh", "-c", "cat > /dev/null; exit 1"], idempotency_key=key, **secret)
            await sup.run(["no-such-command"], **secret)
        job = await sup.start(["sleep", "600"], **secret)
        await sup.cancel(job.job_id)
trio.run(main)
"""
    ended = os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", program], world.environment)
    assert ended == 0
    assert len(world.catalog.list().jobs) == 5
    found = [path for path in world.root.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert not found


def test_the_keeper_has_neither_the_environment_nor_the_files_of_its_host(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_TOKEN", "hunter2")
    host = world.host()
    keeper = world.keeper(host.start("sleep", "600"))
    variables = Path(f"/proc/{keeper.pid}/environ").read_bytes()
    assert b"hunter2" not in variables
    assert b"SUPERVISOR" not in variables
    files = {os.path.realpath(f"/proc/{keeper.pid}/fd/{name}") for name in os.listdir(f"/proc/{keeper.pid}/fd")}
    assert not {file for file in files if file.startswith(str(world.directory.parent))}
    assert os.readlink(f"/proc/{keeper.pid}/cwd") == str(world.root.resolve())
    assert os.getsid(keeper.pid) != os.getsid(host.pid)


async def test_follow_gives_bytes_as_they_are_written_and_events_tell_every_change(world: World) -> None:
    told, gate = world.fifo(), world.fifo()
    script = 'for word in one two three; do echo $word; echo $word > "$1"; read line < "$2"; done; printf end >&2'
    states: list[str] = []
    async with supervisor.open_supervisor() as sup, sup.events() as events:
        job = await sup.start(["sh", "-c", script, "sh", str(told), str(gate)])
        got = b""
        with trio.fail_after(60):
            async with sup.follow(job.job_id) as chunks:
                async for chunk in chunks:
                    got += chunk
                    if got.endswith(b"\n"):  # each word is read before the next is written
                        await trio.to_thread.run_sync(told.line)
                        gate.open()
            async with sup.follow(job.job_id, stream="stderr") as chunks:
                errors = b"".join([chunk async for chunk in chunks])
            async for event in events:
                states.append(event.status)
                if event.status.terminal:
                    break
    assert (got, errors) == (b"one\ntwo\nthree\n", b"end")
    assert states == ["queued", "running", "done"]


def test_follow_and_wait_for_the_job_of_another_process(world: World) -> None:
    gate = world.fifo()
    owner, other = world.hosts(2)
    job_id = owner.start("sh", "-c", 'echo one; read line < "$1"; echo two', "sh", str(gate))
    waits = [other.ask("wait", job_id) for _ in range(5)]
    assert not any(other.answered(number) for number in waits)
    gate.open()
    assert {json.dumps(other.answer(number)["status"]) for number in waits} == {'"done"'}
    assert other.call("result", job_id)["value"] == "one\ntwo\n"
