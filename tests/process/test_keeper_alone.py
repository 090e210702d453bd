"""The keeper needs nothing once it runs, and exits when no job needs it."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.jobdir import records
from supervisor.keeper import entry as keeper_entry
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

linux = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 60


async def test_nothing_is_imported_after_the_greeting(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "alone" / "keeper"
    place.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("alone") / "keeper" / "entry.py", place)
    (place / "real").write_text(str(Path(keeper_entry.__file__).parent), encoding="utf-8")
    monkeypatch.setattr(keeper_entry, "__file__", str(place / "entry.py"))
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(PATIENCE):
            assert (await sup.run(["echo", "x"])).value == "x\n"
            assert (await sup.run(["sh", "-c", "exit 3"])).job.exit_code == 3
            assert (await sup.run(["no-such-command-\u00e9"])).job.reason == "launch_failed"
            many = [await sup.start(["sleep", "600"]) for _ in range(70)]  # so many that the keeper uses inotify
            late = await sup.start(["sleep", "600"], deadline_seconds=0.5)
            odd = await sup.start(["sleep", "600"])
            (world.job(odd.job_id) / records.STOP).write_text("{")
            assert (await sup.cancel(odd.job_id)).status == "cancelled"
            assert (await sup.wait(late.job_id)).status == "timeout"
            flood = await sup.start(["sh", "-c", "yes; sleep 600"], deadline_seconds=3)
            await sup.wait(flood.job_id)
            for job in many:
                await sup.cancel(job.job_id)
            assert (await sup.run(["echo", "y"])).value == "y\n"
    imported = world.root / "imported"
    found = imported.read_text("utf-8").split() if imported.exists() else []
    assert found == [], "import these in supervisor/keeper/entry.py, before the greeting"


@linux
@pytest.mark.parametrize("spare", [-4, 0])
def test_without_a_free_descriptor_no_exit_and_no_deadline_is_lost(world: World, spare: int) -> None:
    host, gate = world.host(), world.fifo()
    ends = host.start("sh", "-c", 'read line < "$1"; exit 5', "sh", str(gate))
    late = host.start("sleep", "600", deadline_seconds=0.5)
    keeper_process = world.keeper(ends)
    soft, hard = resource.prlimit(keeper_process.pid, resource.RLIMIT_NOFILE)
    held = len(os.listdir(f"/proc/{keeper_process.pid}/fd"))
    resource.prlimit(keeper_process.pid, resource.RLIMIT_NOFILE, (held + spare, hard))
    assert host.call("wait", late)["status"] == "timeout"
    gate.open()
    assert host.call("wait", ends)["exit_code"] == 5
    resource.prlimit(keeper_process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert host.call("run", ["echo", "after"])["value"] == "after\n"


@pytest.mark.parametrize("instead", ["ln -s {0} {0}", "touch {0}", "mkfifo {0}", "true", "ln -s /nowhere {0}"])
def test_a_job_that_replaces_its_directory_leaves_no_keeper_behind(world: World, instead: str) -> None:
    host, gate = world.host(), world.fifo()
    script = 'read d < "$1"; rm -rf "$d"; ' + instead.format('"$d"')
    made = host.start("sh", "-c", script, "sh", str(gate))
    kept, directory = world.keeper(made), world.job(made)
    with gate.path.open("w", encoding="utf-8") as file:
        file.write(f"{directory}\n")
    host.kill()
    assert kept.ended(PATIENCE)
    if directory.is_symlink() or not directory.is_dir():
        directory.unlink(missing_ok=True)


@linux
def test_the_callers_limit_on_processor_time_is_for_its_jobs(world: World) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (700, 800))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 21))

    host = world.host(preexec_fn=limit)
    told = host.call("run", ["sh", "-c", "ulimit -St; ulimit -Ht; ulimit -Sf"])["value"].split()
    assert told[:2] == ["700", "800"]
    assert told[2] in {"2048", "1024"}
    held = world.keeper(host.start("sleep", "600"))
    soft, own = resource.prlimit(held.pid, resource.RLIMIT_CPU)
    assert soft == own
