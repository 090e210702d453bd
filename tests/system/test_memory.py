"""The memory of a process and of its descendants."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from supervisor.system.memory import resident_bytes

MIB = 1 << 20


@pytest.mark.skipif(not os.path.exists(f"/proc/{os.getpid()}/statm"), reason="needs /proc")
def test_descendants_count() -> None:
    child = "import sys; held = b'x' * (40 << 20); print('ready', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {child!r}]))"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = resident_bytes(process.pid)
        assert found is not None
        assert 45 * MIB < found < 400 * MIB
        process.communicate()
    assert resident_bytes(process.pid) is None
