"""System calls of SQLite fail, as ``strace`` has them: the index stays as it is, and answers are right or retryable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings
from tests.store.test_index import make

STRACE = shutil.which("strace")
FILES = ("registry.db", "registry.db-wal", "registry.db-shm")
FAULTS = ("openat:error=EMFILE", "pread64:error=EIO", "pwrite64:error=ENOSPC", "mmap:error=ENOMEM")


def run(root: Path, fault: str, log: Path, *words: str) -> tuple[dict[str, Any], bool]:
    """Return what a command answers, and whether the fault has come to it."""
    assert STRACE is not None
    paths = [word for name in FILES for word in ("-P", f"{root}/{name}")]
    trace = [STRACE, "-f", "-qq", "-o", str(log), *paths, "-e", f"inject={fault}"]
    command = [sys.executable, "-m", "supervisor", words[0], "--json", *words[1:]]
    done = subprocess.run([*trace, *command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert log.exists(), done.stderr
    return json.loads(done.stdout), "(INJECTED)" in log.read_text(encoding="utf-8")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    if STRACE is None:
        pytest.skip("needs strace")
    path = tmp_path / "trace"
    tried = subprocess.run([STRACE, "-o", str(path), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip()}")
    return path


@pytest.mark.parametrize("when", ["1", "2", "1+"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_system_call_of_sqlite_that_fails_changes_nothing(state_dir: Path, log: Path, fault: str, when: str) -> None:
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog, ended=3)
    before = os.stat(f"{state_dir}/registry.db").st_ino
    started: list[str] = []
    for words in (("status", row.job_id), ("list", "--all"), ("start", "--", "true")):
        answer, _ = run(state_dir, f"{fault}:when={when}", log, *words)
        if not answer["ok"]:
            assert answer["error"]["retryable"], answer
        elif words[0] == "status":
            assert (answer["status"], answer["exit_code"]) == ("failed", 3)
        elif words[0] == "list":
            assert row.job_id in [job["job_id"] for job in answer["jobs"]]
        else:
            started.append(answer["job_id"])
    assert os.stat(f"{state_dir}/registry.db").st_ino == before
    assert not [name for name in os.listdir(state_dir) if "damaged" in name]
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert catalog.status(row.job_id).exit_code == 3
        assert all(job.exit_code == 0 for job in catalog.wait(started, timeout=30))


def test_the_faults_come_to_sqlite(state_dir: Path, log: Path) -> None:
    """Or the tests above prove nothing: descriptors and reads are needed by every command."""
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        row = make(catalog, ended=3)
    for fault in FAULTS[:2]:
        answer, came = run(state_dir, f"{fault}:when=1+", log, "status", row.job_id)
        assert came, fault
        assert answer["error"]["code"] == "state_busy", answer
