"""SECURITY.md says which files hold the environment and the stdin of a job: the same files are found on disk."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisor
from supervisor.states import State

ROOT = Path(__file__).parents[1]
SECRET = "hush-hush"
VALUES: dict[str, Any] = {
    "env": {"TOKEN": f"{SECRET}-env", "PATH": "/bin:/usr/bin"},
    "stdin": f"{SECRET}-stdin".encode(),
}


def _table() -> dict[str, tuple[set[str], set[str]]]:
    """Return, for each engine that the page names, the files that hold the environment and those that hold stdin."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    section = page.partition("## The environment and stdin of a job")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| a job on ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return {
        engine: (set(re.findall(r"`(\w+)`", env)), set(re.findall(r"`(\w+)`", stdin))) for engine, env, stdin in rows
    }


def _files_with(text: str, *directories: Path) -> list[Path]:
    files = [path for each in directories for path in each.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if text.encode() in path.read_bytes()]


@pytest.fixture
def turn(tmp_path: Path) -> Path:
    """Give a pipe from which a command reads before it ends."""
    path = tmp_path / "turn"
    os.mkfifo(path)
    return path


async def test_of_a_job_of_this_machine_neither_is_on_disk(state_dir: Path, turn: Path) -> None:
    async with supervisor.open_supervisor() as sup:
        job = await sup.start(["sh", "-c", f"read line < {turn}"], **VALUES)
        while_running = _files_with(SECRET, state_dir)
        await trio.to_thread.run_sync(turn.write_text, "go\n")
        assert (await sup.wait(job.job_id)).status is State.DONE
    assert while_running == _files_with(SECRET, state_dir) == []
    assert _table()["this machine"] == (set(), set())


async def test_of_a_job_on_a_cluster_both_are_on_disk_until_the_node_has_read_them(
    fake_slurm: Any, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = tmp_path / "shared"
    fake_slurm.arrange("hold")
    async with supervisor.open_supervisor() as sup:
        options = {"shared_dir": str(shared)}
        job = await sup.start(["true"], engine="slurm", engine_options=options, **VALUES)
        while_queued = [_files_with(f"{SECRET}-{name}", state_dir, shared) for name in ("env", "stdin")]
        modes = {path.stat().st_mode & 0o777 for paths in while_queued for path in paths}
        fake_slurm.release()
        assert (await sup.wait(job.job_id)).status is State.DONE
    named = [{path.relative_to(shared / job.job_id).as_posix() for path in paths} for paths in while_queued]
    assert _table()["a cluster"] == tuple(named) == ({"orders"}, {"stdin"})
    assert modes == {0o600}
    assert _files_with(SECRET, state_dir, shared) == []


def test_start_sends_its_readers_to_that_table() -> None:
    assert supervisor.JobSpec.__doc__ is not None
    line = next(line for line in supervisor.JobSpec.__doc__.splitlines() if line.strip().startswith("env:"))
    assert "SECURITY.md" in line
