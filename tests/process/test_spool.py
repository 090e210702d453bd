"""The orders of waiting jobs: in memory they leave no trace on disk, and each job keeps its process settings."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

import supervisor
from supervisor.admission import orders
from supervisor.engines.interface import LaunchRequest
from supervisor.errors import FeatureUnavailable, InvalidArguments
from supervisor.jobdir.records import ORDERS, STDIN
from supervisor.store.rows import Row, row_of_record
from supervisor.system import processes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 60
SECRET = "a-secret-of-this-test"


def command(world: World, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "supervisor", *words]
    options: dict[str, Any] = {"text": True, "capture_output": True, "timeout": PATIENCE}
    done = subprocess.run(argv, env={**world.environment, "TOKEN": SECRET}, check=False, **(options | more))
    return cast("subprocess.CompletedProcess[str]", done)


def traces(root: Path) -> list[str]:
    """Return the files below ``root`` that hold the secret; links to the memory of a keeper are no files."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if SECRET.encode() in path.read_bytes()]


def keeper_of(world: World, job_id: str) -> int:
    (link,) = world.root.glob(f"*/{job_id}/{ORDERS}")
    return int(os.readlink(link).split("/")[2])


def test_orders_in_memory_outlive_their_supervisor_and_are_never_on_disk(world: World) -> None:
    script = ["sh", "-c", 'echo "$TOKEN"; cat']
    command(world, "group", "set", "g")
    command(world, "group", "pause", "g")
    job_id = command(
        world, "start", "--group", "g", "--spool", "memory", "--stdin", "-", "--", *script, input=SECRET
    ).stdout
    job_id = job_id.strip()
    keeper = world.hold(keeper_of(world, job_id))
    assert traces(world.root) == []
    assert command(world, "status", job_id, "--json").stdout.count('"paused"') > 0
    command(world, "cancel", job_id)
    assert not list(world.root.glob(f"*/{job_id}/{ORDERS}"))
    assert keeper.ended()


@pytest.mark.usefixtures("world")
async def test_a_job_with_orders_in_memory_is_launched_by_another_supervisor(world: World) -> None:
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.call("set_group", "g", limit=1)
    first = host.call("start", ["sh", "-c", 'echo up > "$1"; read line < "$0"', str(gate), str(up)], groups=["g"])
    assert up.line() == "up"
    environment = {"PATH": os.defpath, "TOKEN": SECRET}
    job = host.call("start", ["sh", "-c", 'echo "$TOKEN"'], groups=["g"], env=environment, spool="memory")
    assert job["queue_reason"] == "limit"
    assert traces(world.root) == []
    host.kill()
    async with supervisor.open_supervisor() as sup:
        gate.open()
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(first["job_id"])).status == "done"
            assert (await sup.wait(job["job_id"])).status == "done"
        assert (await sup.result(job["job_id"])).value == SECRET + "\n"


def test_a_job_whose_keeper_is_killed_ends_and_has_never_run(world: World) -> None:
    host = world.host()
    job_id = host.start("touch", str(world.directory / "ran"), delay_seconds=3600, spool="memory")
    host.kill()
    os.kill(keeper_of(world, job_id), signal.SIGKILL)
    ended = command(world, "wait", job_id, "--timeout", str(PATIENCE), "--json")
    assert '"launch_failed"' in ended.stdout
    assert not (world.directory / "ran").exists()


def test_orders_that_cannot_be_seen_now_are_not_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host = world.host()
    job_id = host.start("true", delay_seconds=3600, spool="memory")
    host.kill()
    stat = os.stat

    def refuse(path: Any, **more: Any) -> os.stat_result:
        if str(path).endswith(ORDERS):
            raise PermissionError(13, "refused", path)
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", refuse)
    assert world.catalog.status(job_id).status == "queued"
    monkeypatch.undo()
    assert world.catalog.status(job_id).queue_reason == "not_before"
    world.catalog.cancel(job_id, by="test")


async def test_an_engine_without_memory_refuses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "HAVE_PROC", False)
    async with supervisor.open_supervisor() as sup:
        with pytest.raises(FeatureUnavailable, match="in memory"):
            await sup.start(["true"], hold=True, spool="memory")
        with pytest.raises(InvalidArguments, match="disk or memory"):
            await sup.start(["true"], hold=True, spool="paper")
    assert not list(world.root.glob("*/*/job.json"))


def row_of() -> Row:
    record = {"job_id": "0" * 32, "kind": "raw", "created_ns": 1, "digest": "", "owner": "", "argv": ["true"]}
    return row_of_record("w", record, "{}", ours=True)


def test_orders_in_memory_have_the_input_whatever_it_contains(world: World) -> None:
    for number, stdin in enumerate((None, b"", b"\0m\1\0", SECRET.encode())):
        directory = world.directory / str(number)
        directory.mkdir()
        request = LaunchRequest(
            directory=str(directory),
            record=row_of().request | {"deadline_seconds": None},
            argv=(b"true",),
            workspace="/",
            env={b"A": b"1"},
            stdin=stdin,
        )
        (directory / ORDERS).write_bytes(orders.in_memory(request))
        found = orders.read(row_of(), str(directory), stop_leftovers=False)
        assert found is not None
        assert (found.stdin, found.argv, found.env) == (stdin, (b"true",), {b"A": b"1"})
        assert not (directory / STDIN).exists()


def test_a_waiting_job_has_the_umask_the_niceness_and_the_limits_of_its_start(world: World) -> None:
    def strange() -> None:
        os.umask(0o027)
        os.nice(3)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (321, 654))

    command(world, "group", "set", "g", "--limit", "1")
    gate = world.fifo()
    command(world, "start", "--group", "g", "--", "sh", "-c", 'read line < "$0"', str(gate))
    script = "umask; nice; ulimit -c; ulimit -Sn; ulimit -Hn"
    job_id = command(world, "start", "--group", "g", "--", "sh", "-c", script, preexec_fn=strange).stdout.strip()
    gate.open()
    command(world, "wait", job_id, "--timeout", str(PATIENCE))
    assert command(world, "result", job_id).stdout.split() == ["0027", str(os.nice(0) + 3), "0", "321", "654"]
