"""Two ways to run the command line: in this process, which is quick, and in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from supervisor.cli.app import app
from supervisor.jobdir import records

PATIENCE_SECONDS = 60


@attrs.frozen
class Cli:
    """The command line on a state root of its own, with every job that it starts ended afterwards."""

    state_dir: Path

    def __call__(self, *words: str, **options: Any) -> Result:
        return CliRunner().invoke(app, list(words), **options)

    def json(self, *words: str, status: int = 0) -> Any:
        done = self(*words, "--json")
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)

    def start(self, *words: str) -> str:
        done = self("start", *words)
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    def process(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-m", "supervisor", *words], **{**pipes, **options})

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        with self.process(*words, **options) as process:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def directory(self, job_id: str) -> Path:
        return next(self.state_dir.glob(f"*/{job_id}"))

    def record(self, job_id: str, name: str) -> Any:
        return records.read(str(self.directory(job_id)), name)


@pytest.fixture
def cli(state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.2")
    monkeypatch.delenv("NO_COLOR", raising=False)
    # The process finds the package as this one does.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    logger = logging.getLogger("supervisor")
    before = list(logger.handlers), logger.level, logger.propagate
    made = Cli(state_dir)
    yield made
    ended = made("cancel", "--all")
    logger.handlers, logger.level, logger.propagate = before
    assert ended.exit_code == 0, ended.output


@pytest.fixture
def fifo(tmp_path: Path) -> Callable[[], None]:
    """Return what releases a job that reads from ``fifo`` in the directory above its workspace."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def release() -> None:
        path.write_text("go\n", encoding="ascii")

    return release


def read_all(descriptor: int) -> str:
    found = b""
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # EIO: the other side of a pseudo-terminal is closed
            chunk = b""
        if not chunk:
            return found.decode()
        found += chunk


def on_terminal(*words: str, **environment: str) -> tuple[int, str]:
    """Run the command line with a terminal of 60 columns for its output."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", **environment}
    with subprocess.Popen([sys.executable, "-m", "supervisor", *words], stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        shown = read_all(master)
    os.close(master)
    return process.returncode, shown
