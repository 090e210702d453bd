"""Pruning while other processes start jobs: the directory of a job that is being started stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.store.state_root import Layout, new_job_id
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World


def prune(root: Path) -> None:
    with Catalog(supervisor.Settings(state_dir=root)) as catalog:
        catalog.prune()


@pytest.mark.parametrize("moment", ["before_mkdir", "before_open", "after_open", "before_close"])
async def test_a_prune_in_the_middle_of_a_start(world: World, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Another process prunes at every step of the creation of a directory."""
    pruned: list[str] = []
    mkdir, opened, close = os.mkdir, os.open, os.close
    job_file: list[int] = []

    def at(when: str) -> None:
        if when == moment and not pruned:
            pruned.append(when)
            prune(world.root)

    def is_new(path: Any, flags: int) -> bool:
        return str(path).endswith(records.JOB) and bool(flags & os.O_CREAT)

    def making(path: Any, *rest: Any, **named: Any) -> None:
        at("before_mkdir")
        mkdir(path, *rest, **named)

    def opening(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if is_new(path, flags):
            at("before_open")
        descriptor = opened(path, flags, *rest, **named)
        if is_new(path, flags):
            job_file.append(descriptor)
            at("after_open")
        return descriptor

    def closing(descriptor: int) -> None:
        if job_file == [descriptor]:
            job_file.clear()
            at("before_close")
        close(descriptor)

    async with supervisor.open_supervisor() as sup:
        await sup.run(["true"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", making)
            patch.setattr(os, "open", opening)
            patch.setattr(os, "close", closing)
            job = await sup.start(["echo", "x"])
        assert pruned == [moment]
        await sup.wait(job.job_id)
        assert (await sup.result(job.job_id)).value == "x\n"


STARTER = """
    import sys, trio, supervisor

    async def main():
        async with supervisor.open_supervisor() as sup:
            print("ready", flush=True)
            sys.stdin.readline()
            for number in range(int(sys.argv[1])):
                result = await sup.run(["echo", str(number)])
                assert result.value == f"{number}\\n", result

    trio.run(main)
"""
PRUNER = """
    import sys, supervisor
    from supervisor.jobs.catalog import Catalog

    print("ready", flush=True)
    sys.stdin.readline()
    with Catalog(supervisor.Settings()) as catalog:
        for _ in range(int(sys.argv[1])):
            catalog.prune()
    print("done")
"""


def spawn(program: str, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("world")
def test_processes_that_prune_while_others_start() -> None:
    prune(Path(os.environ["SUPERVISOR_STATE_DIR"]))
    programs = [*(spawn(STARTER, 40) for _ in range(2)), *(spawn(PRUNER, 60) for _ in range(2))]
    try:
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        outputs = [program.communicate("go\n", timeout=120) for program in _told(programs)]
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert [(program.returncode, output[1]) for program, output in zip(programs, outputs, strict=True)] == [(0, "")] * 4
    with Catalog(supervisor.Settings()) as catalog:
        jobs = catalog.list(limit=1000).jobs
    assert (len(jobs), {job.status for job in jobs}) == (80, {"done"})


def _told(programs: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """Start all of them before any is awaited."""
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    return programs


# ---------------------------------------------------------------- what is left when it has died


def orphan(world: World, make: Callable[[Path], object]) -> Path:
    """Leave a job directory as a start may leave it whose process has died."""
    with Catalog(supervisor.Settings(state_dir=world.root)) as catalog:
        directory = Path(catalog.layout.job("work-0123456789ab", new_job_id()))
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700)
    make(directory)
    return directory


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(text)


def nothing(_: Path) -> None:
    """Leave it empty."""


DEAD = [nothing, write(records.JOB, ""), write(records.JOB, '{"v":1,"job_'), write(records.JOB, '{"v":1}\n')]


@pytest.mark.parametrize("make", DEAD)
def test_the_directory_of_a_dead_start_is_swept_once_no_supervisor_can_be_using_it(
    world: World, make: Callable[[Path], object]
) -> None:
    directory = orphan(world, make)
    layout = Layout(world.root)
    owner = layout.owners.register()
    prune(world.root)
    assert directory.exists()
    layout.owners.unregister(owner)
    pid, start = processes.own_identity()
    elsewhere = world.root / ".owners" / f"{pid}.{start}.{processes.boot_id()[:12]}.pid:[7].0"
    elsewhere.touch()  # announced in another container
    prune(world.root)
    assert directory.exists()
    elsewhere.unlink()
    prune(world.root)
    assert not directory.exists()


@pytest.mark.parametrize(
    "make",
    [
        write(records.JOB, '{"v":2,"whatever":1}\n'),  # only a newer version knows the meaning
        lambda directory: (directory / records.CLAIM).symlink_to("keeper.1.1.0.0"),  # it may have been launched
    ],
)
def test_what_cannot_be_judged_stays(world: World, make: Callable[[Path], object]) -> None:
    directory = orphan(world, make)
    before = sorted(os.listdir(directory))
    prune(world.root)
    assert sorted(os.listdir(directory)) == before


def test_a_job_of_a_supervisor_in_another_container_stays_until_that_is_gone(world: World) -> None:
    owner = f"1.1.{processes.boot_id()[:12]}.pid:[7].0"
    record = {"v": 1, "kind": "raw", "argv": ["x"], "workspace": "/", "labels": {}, "created_ns": 1, "owner": owner}
    record |= {"deadline_seconds": None, "ttl_seconds": 60, "digest": "", "idempotency_key": None}

    def make(directory: Path) -> None:
        (directory / records.JOB).write_text(json.dumps(record | {"job_id": directory.name}) + "\n")

    directory = orphan(world, make)
    announced = world.root / ".owners" / owner
    announced.touch()
    prune(world.root)
    assert directory.exists()
    announced.unlink()
    prune(world.root)
    assert not directory.exists()
