"""What the tests of both facades share."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import supervisor
from supervisor import Settings
from supervisor.testing import FakeEngine, Script

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
PACKAGE = Path(supervisor.__file__).parents[1]
PATIENCE = 60.0
FORKS_KNOWINGLY = "ignore:This process:DeprecationWarning"  # with threads, which Python 3.12 warns of


def portal_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "supervisor (Trio)"]


@pytest.fixture(autouse=True)
def _no_thread_left_behind() -> Iterator[None]:
    yield
    for each in portal_threads():
        each.join(PATIENCE)
    assert portal_threads() == []


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir, stop_grace_seconds=1)


@pytest.fixture
def endless() -> FakeEngine:
    """Commands that run until they are stopped."""
    return FakeEngine(Script(seconds=None))


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
        return loop
    return asyncio.new_event_loop()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "uvloop":
        pytest.importorskip("uvloop")
    return name


@pytest.fixture
def run(loop_name: str) -> Run[Any]:
    """Run a coroutine as a program of asyncio does, on either event loop."""

    def run_on(coroutine: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=lambda: new_loop(loop_name)) as runner:
            return runner.run(asyncio.wait_for(coroutine, PATIENCE))

    return run_on


@pytest.fixture
def program(state_dir: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a program in a Python of its own and return what it printed."""

    def execute(text: str, *arguments: object, status: int = 0) -> str:
        script = tmp_path / "program.py"
        script.write_text(textwrap.dedent(text), encoding="utf-8")
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-W", FORKS_KNOWINGLY, script, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(PACKAGE), "SUPERVISOR_STATE_DIR": str(state_dir)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                shown, complained = process.communicate(timeout=60)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # and its forks
                raise
        assert process.returncode == status, complained
        assert complained == ""
        return shown

    return execute
