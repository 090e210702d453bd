"""A process begins in its control group of version 2: by the C library where it can do that, else by a copy."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.keeper import spawn
from supervisor.system import cgroups


def _unified() -> str | None:
    found = cgroups.find_places(spawns_into=True, prepare=False)
    return found.tree.directory if found.tree is not None and found.tree.version == 2 else None


UNIFIED = _unified()
pytestmark = pytest.mark.skipif(UNIFIED is None, reason="no control group of version 2 can be made here")


@pytest.fixture
def group() -> Iterator[Path]:
    directory = Path(f"{UNIFIED}/supervisor-test-{os.getpid()}")
    directory.mkdir()
    yield directory
    directory.rmdir()


def run(group: Path, *argv: bytes, tmp_path: Path) -> tuple[int, str]:
    """Run a program in the group; return its wait status and what it has said."""
    output = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    null, into = os.open(os.devnull, os.O_RDONLY), os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    workspace = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pid = spawn.spawn(argv[0], list(argv), [b"A=b"], workspace, (null, output, output), into)
        status = os.waitpid(pid, 0)[1]
        return status, os.pread(output, 65536, 0).decode()
    finally:
        for descriptor in (output, null, into, workspace):
            os.close(descriptor)


def test_the_program_runs_in_the_group_with_its_environment_and_a_session_of_its_own(
    group: Path, tmp_path: Path
) -> None:
    script = b'cat /proc/self/cgroup; echo "$A $PWD"; cut -d" " -f6 /proc/$$/stat; echo $$; kill -PIPE $$'
    status, said = run(group, b"/bin/sh", b"-c", script, tmp_path=tmp_path)
    lines = said.splitlines()
    assert [line for line in lines if line.startswith("0::") and line.endswith(f"/{group.name}")]
    assert lines[-3] == "b /"
    assert lines[-2] == lines[-1], "it leads its session"
    assert os.waitstatus_to_exitcode(status) == -signal.SIGPIPE, "a signal that Python ignores is not ignored"


def test_a_program_that_is_not_there_is_an_error_and_leaves_no_process(group: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        run(group, b"/nowhere/at/all", tmp_path=tmp_path)
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_all_processes_of_the_group_end_at_once(group: Path, tmp_path: Path) -> None:
    del tmp_path
    tree = cgroups.TreeGroup(str(group), 2)
    null, into = os.open(os.devnull, os.O_RDWR), os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    workspace = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pid = spawn.spawn(b"/bin/sleep", [b"sleep", b"600"], [], workspace, (null, null, null), into)
        assert tree.pids() == [pid]
        assert not tree.is_empty()
        assert tree.kill()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert tree.is_empty()
    finally:
        for descriptor in (null, into, workspace):
            os.close(descriptor)
