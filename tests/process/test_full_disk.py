"""A disk without room, for bytes or for names: queries work, and jobs can be ended."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog

PROGRAM = [sys.executable, "-m", "supervisor"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state root on a file system of one MiB and 400 names."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    made = tmp_path / "disk"
    made.mkdir(mode=0o700)
    options = "size=1m,nr_inodes=400,mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(made)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode()}")
    monkeypatch.setenv("SUPERVISOR_STATE_DIR", str(made))
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.3")
    monkeypatch.chdir(tmp_path)
    try:
        yield made
    finally:
        empty(made)
        with Catalog(supervisor.Settings()) as catalog:
            catalog.cancel_all(row.job_id for row in catalog.index.unfinished())
        subprocess.run(["umount", "-l", str(made)], check=True)


def no_bytes(root: Path) -> None:
    with (root / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (65536, 512):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def no_names(root: Path) -> None:
    with contextlib.suppress(OSError):
        for number in range(1000):
            (root / f"filler{number}").touch()


def empty(root: Path) -> None:
    for path in root.glob("filler*"):
        path.unlink()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=False, timeout=60)


def start(*argv: str) -> str:
    done = run("start", "--", *argv)
    assert done.returncode == 0, done
    return done.stdout.strip()


def wait(job_id: str) -> str:
    run("wait", job_id)
    return job_id


@pytest.mark.parametrize("fill", [no_bytes, no_names])
def test_every_command_but_start_works_on_a_full_disk(root: Path, fill: Callable[[Path], None]) -> None:
    told = wait(start("echo", "told"))
    gone = wait(start("echo", "gone"))
    live = [start("sleep", "600") for _ in range(3)]
    fill(root)
    answers = {
        words: run(*words)
        for words in (
            ("list", "--all"),
            ("status", live[0]),
            ("status", told),
            ("wait", told),
            ("result", told),
            ("logs", told),
            ("cancel", live[0], live[1]),
            ("rm", gone),
            ("prune", "--all"),
            ("cancel", live[2]),
            ("list", "--all", "--json"),
        )
    }
    assert {words: done.returncode for words, done in answers.items()} == dict.fromkeys(answers, 0), answers
    assert answers["result", told].stdout == "told\n"
    assert "running" in answers["status", live[0]].stdout
    assert answers["list", "--all", "--json"].stdout.count('"cancelled"') >= 3
    refused = run("start", "--", "true")
    assert refused.returncode == 125
    assert "prune" in refused.stderr
    assert not list(root.glob("*damaged*"))
    empty(root)
    with Catalog(supervisor.Settings()) as catalog:
        assert {job.job_id: job.status for job in catalog.list().jobs} == {
            told: "done",
            **dict.fromkeys(live, "cancelled"),
        }
        assert [catalog.status(job_id).reason for job_id in live] == ["cancelled"] * 3


def test_the_job_that_goes_on_filling_the_disk_is_cancelled(root: Path) -> None:
    job_id = start("sh", "-c", "while :; do dd if=/dev/zero bs=1k 2>/dev/null; done")
    until(lambda: os.statvfs(root).f_bavail == 0)
    done = run("cancel", job_id)
    assert (done.returncode, done.stdout.split()[1]) == (0, "cancelled"), done
    assert run("rm", job_id).returncode == 0
    until(lambda: os.statvfs(root).f_bavail > 0)
    assert run("run", "--", "echo", "room").stdout == "room\n"


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.parametrize("fill", [no_bytes, no_names])
def test_where_not_even_a_stop_can_be_written_down_the_job_is_ended_and_that_is_said(
    root: Path, fill: Callable[[Path], None]
) -> None:
    """There are more jobs than spare files: the processes end, and the call reports what is on record."""
    job_id = start("sleep", "600")
    process = records.read(str(next(root.glob(f"*-*/{job_id}"))), records.PROCESS) or {}
    for spare in (root / records.SPARES).iterdir():
        spare.unlink()
    (root / records.SPARES).rmdir()
    fill(root)
    with Catalog(supervisor.Settings()) as catalog:
        (end,) = catalog.cancel_all([job_id])
        descriptor = None
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(process["pid"])
        assert descriptor is None, "it lives"
        if isinstance(end, supervisor.SupervisorError):
            assert (end.code, end.retryable) == ("state_full", True)
            assert "was ended" in end.message
        else:
            assert (end.status, end.signal) in {("failed", 15), ("cancelled", 15)}
        empty(root)
        (job,) = catalog.wait([job_id], timeout=30)
        assert job.signal == 15


@pytest.mark.parametrize("fill", [no_bytes, no_names])
async def test_a_supervisor_that_is_opened_on_a_full_disk(root: Path, fill: Callable[[Path], None]) -> None:
    async with supervisor.open_supervisor() as sup:
        done = (await sup.run(["echo", "x"])).job.job_id
        live = (await sup.start(["sleep", "600"])).job_id
        late = (await sup.start(["sleep", "600"], deadline_seconds=1)).job_id
    fill(root)
    with trio.fail_after(60):
        async with supervisor.open_supervisor() as sup:
            assert {job.job_id for job in (await sup.list()).jobs} == {done, live, late}
            assert (await sup.result(done)).value == "x\n"
            assert (await sup.status(live)).status == "running"
            assert (await sup.cancel(live)).status == "cancelled"
            assert (await sup.wait(late)).status == "timeout"
            with pytest.raises(supervisor.StateFull):
                await sup.start(["true"])
            await sup.forget(done)
            pruned = False
            while not pruned:
                with contextlib.suppress(supervisor.StateBusy):  # without room each connection locks the index
                    await sup.prune()
                    pruned = True


# ---------------------------------------------------------------- spare files, without a full disk


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every new file of a record fail with these errors, in turn."""
    errors: list[int] = []
    opened = os.open

    def refusing(path: str, flags: int, *rest: int, **named: int) -> int:
        if errors and flags & os.O_CREAT:
            raise OSError(errors[0], os.strerror(errors[0]), path)
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refusing)
    return errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_record_goes_into_a_spare_file_where_there_is_no_room(
    tmp_path: Path, no_room: list[int], number: int
) -> None:
    directory = tmp_path / "work" / "job"
    directory.mkdir(parents=True)
    records.make_spares(str(tmp_path))
    spares = len(os.listdir(tmp_path / records.SPARES))
    no_room.append(number)
    assert records.create(str(directory), records.STOP, {"why": "cancelled"})
    assert not records.create(str(directory), records.STOP, {"why": "deadline"})
    records.replace(str(directory), records.EXIT, {"exit_code": 3})
    assert records.read(str(directory), records.STOP) == {"v": 1, "why": "cancelled"}
    assert records.read(str(directory), records.EXIT) == {"v": 1, "exit_code": 3}
    assert sorted(os.listdir(directory)) == [records.EXIT, records.STOP]
    assert (directory / records.STOP).stat().st_mode & 0o777 == 0o600
    assert len(os.listdir(tmp_path / records.SPARES)) == spares - 3
    no_room.clear()
    records.make_spares(str(tmp_path))
    assert len(os.listdir(tmp_path / records.SPARES)) == spares


def test_other_errors_leave_the_spare_files_alone(tmp_path: Path, no_room: list[int]) -> None:
    directory = tmp_path / "work" / "job"
    directory.mkdir(parents=True)
    records.make_spares(str(tmp_path))
    before = os.listdir(tmp_path / records.SPARES)
    for number in (errno.EMFILE, errno.EACCES, errno.EIO):
        no_room[:] = [number]
        with pytest.raises(OSError, match=os.strerror(number)):
            records.create(str(directory), records.STOP, {"why": "cancelled"})
    assert os.listdir(tmp_path / records.SPARES) == before
    assert os.listdir(directory) == []
