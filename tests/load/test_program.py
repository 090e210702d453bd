"""The program of every job, run by a shell; and the pattern that lets a server run it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.load.program import (
    SCRIPT,
    allow_pattern,
    argv,
    expected_output,
    processes_of,
    read_marks,
    tag_of,
)

SHELLS = [path for name in ("sh", "dash", "bash", "busybox") if (path := shutil.which(name)) is not None]


def run(command: tuple[str, ...], shell: str) -> subprocess.CompletedProcess[bytes]:
    first = [shell, "sh"] if shell.endswith("busybox") else [shell]
    return subprocess.run([*first, *command[1:]], capture_output=True, check=False, timeout=30)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("before", "after"), [(0, 0), (1, 0), (0, 1), (16, 17), (65535, 65536), (65537, 131072), (200_001, 3)]
)
def test_it_writes_what_it_is_told_to(shell: str, before: int, after: int, tmp_path: Path) -> None:
    marks = tmp_path / "marks of it"
    done = run(argv("abc-12", marks=str(marks), before=before, after=after, stderr=9, exit_code=3), shell)
    assert done.returncode == 3
    assert done.stdout == expected_output("abc-12", before, after)
    assert len(done.stdout) == before + after
    assert done.stderr == b"abc-12\nab"
    found = read_marks(str(marks))
    assert (found.begun, found.ended) == ({"abc-12": 1}, {"abc-12": 1})


@pytest.mark.parametrize("shell", SHELLS)
def test_it_sleeps_for_fractions_of_a_second(shell: str) -> None:
    assert run(argv("a", seconds=0.05), shell).returncode == 0
    assert argv("a", seconds=0.05)[6] == "0.05"
    assert argv("a", seconds=20)[6] == "20"
    assert argv("a")[6] == "0"


@pytest.mark.parametrize("stubborn", [False, True])
def test_one_that_is_stopped_leaves_no_mark_at_its_end(tmp_path: Path, stubborn: bool) -> None:  # noqa: FBT001
    marks = tmp_path / "marks"
    command = argv("a-1", marks=str(marks), seconds=60, before=5, after=5, stubborn=stubborn)
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"a-1\na"  # by now it heeds SIGTERM, or has ceased to
        os.killpg(process.pid, signal.SIGTERM)
        if stubborn:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(30) != 0
    found = read_marks(str(marks))
    assert (found.begun["a-1"], found.ended["a-1"]) == (1, 0)


def test_one_whose_sleep_alone_is_stopped_does_not_go_on(tmp_path: Path) -> None:
    fake = tmp_path / "sleep"
    fake.write_text("#!/bin/sh\nkill -TERM $$\n", encoding="ascii")
    fake.chmod(0o755)
    command = argv("a-1", marks=str(tmp_path / "marks"), seconds=60, before=5, after=5)
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (99, b"a-1\na")
    assert read_marks(str(tmp_path / "marks")).ended == {}


def test_marks_of_no_job(tmp_path: Path) -> None:
    assert read_marks(str(tmp_path / "none")).begun == {}
    (tmp_path / "marks").write_text("a-1 + 5\nrubbish\n", encoding="ascii")
    assert read_marks(str(tmp_path / "marks")).begun == {"a-1": 1, "rubbish": 1}


def test_processes_are_found_by_the_mark_of_their_job() -> None:
    job_id = "ab" * 16
    environment = {"SUPERVISOR_JOB_ID": job_id}
    script = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes_of(frozenset({job_id, "0" * 32})) == {process.pid: job_id}
        assert processes_of(frozenset({"0" * 32})) == {}
        process.communicate()
    assert processes_of(frozenset({job_id})) == {}


def test_the_pattern_allows_the_program_and_nothing_else() -> None:
    from supervisor.mcp_server.config.patterns import allows  # needs the extra

    pattern = allow_pattern()
    assert allows(pattern, argv("a-1", marks="/x y", seconds=1.5, stubborn=True))
    assert not allows(pattern, ("/bin/sh", "-c", "id", "bench", "a"))
    assert not allows(pattern, ("/bin/sh", "-c", SCRIPT + "id", "bench", "a"))
    assert not allows(pattern, ("/bin/sh", "-x", SCRIPT, "bench", "a"))
    assert "\\*" not in pattern


def test_whose_command_it_is() -> None:
    assert tag_of(argv("abc-7")) == "abc-7"
    assert tag_of(["true"]) is None
