"""Shared by all tests: a private state root, and a guard against processes left behind."""

from __future__ import annotations

import importlib.util
import os
import resource
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import hypothesis
import pytest
import trio
import trio.testing

# Tests may import helpers as `tests.…`. It is last in the path, so that the installed package is tested.
sys.path.append(str(Path(__file__).parents[1]))

PROC = Path("/proc")

# Inherited by every job with the environment of the tests, in any session.
SESSION_VARIABLE = "TRIO_SUPERVISOR_TEST_SESSION"
SESSION = uuid.uuid4().hex
os.environ[SESSION_VARIABLE] = SESSION

PATIENCE_SECONDS = 60.0  # a keeper looks for processes that were left behind every eight seconds

# A busy machine must not fail a property.
hypothesis.settings.register_profile(
    "patient",
    parent=hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slurm", action="store_true", help="bring up a Slurm cluster, and use it instead of our imitation"
    )
    parser.addoption("--vm", action="store_true", help="this is the guest of `nox -s vm`, with systemd and users")
    parser.addoption("--rounds", type=int, default=20, help="rounds of each chaos test (default: 20)")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a clock that pytest-trio does not see, with which a test would wait for real seconds."""
    if any("clock" in name for mark in item.iter_markers("usefixtures") for name in mark.args):
        message = f"{item.nodeid}: a clock is used only if it is an argument of the test"
        raise pytest.UsageError(message)


os.environ["SUPERVISOR_CONFIG_FILE"] = os.devnull  # the settings of the user who runs the tests are not theirs
os.environ["SUPERVISOR_STATE_DIR"] = f"{os.devnull}/needs-the-fixture-state_dir"  # nor is that user's state root
for _name in ("COLUMNS", "LINES"):  # set in workers of pytest-xdist: they hold whatever size a terminal gets
    os.environ.pop(_name, None)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """The number of rounds of a chaos test."""
    given: int = request.config.getoption("--rounds")
    return given


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a private state root, which children and defaults find, too."""
    root = tmp_path / "state"
    root.mkdir(mode=0o700)
    root.chmod(0o700)  # for any umask
    monkeypatch.setenv("SUPERVISOR_STATE_DIR", str(root))
    return root


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("needs two thousand descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """The clock of this name of pytest-trio, which here waits for threads."""
    from tests.clock import jumping_clock

    return jumping_clock(monkeypatch)


SLURM = Path(__file__).parent / "slurm"


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A Slurm cluster on loopback, see ``slurm/cluster.py``; only with ``--slurm``."""
    if not request.config.getoption("--slurm"):
        pytest.skip("needs a Slurm cluster: run it with --slurm, or by `nox -s slurm`")
    with _module(SLURM / "cluster.py").running() as made:
        yield made


class FakeSlurm:
    """Slurm's commands, imitated by ``slurm/fake_slurm``, in a directory that is first on PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "release"):
            (directory / name).symlink_to(SLURM / "fake_slurm")

    def arrange(self, trouble: str, text: str = "") -> None:
        """Let Slurm fail in a way, see ``slurm/fake_slurm``."""
        (self.directory / trouble).write_text(text, encoding="utf-8")

    def mend(self, trouble: str) -> None:
        (self.directory / trouble).unlink(missing_ok=True)

    def release(self) -> None:
        """Start the waiting jobs."""
        subprocess.run([self.directory / "release"], check=True)

    def calls(self, name: str) -> list[str]:
        """Return the calls of a command so far."""
        path = self.directory / "calls"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if line.partition(" ")[0] == name and not line.endswith("--version")]


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put an imitation of Slurm on PATH."""
    directory = tmp_path / "slurm"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return FakeSlurm(directory)


@pytest.fixture
def slurm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a Slurm on PATH: an imitation, or with ``--slurm`` a real one."""
    if not request.config.getoption("--slurm"):
        return request.getfixturevalue("fake_slurm")
    cluster = request.getfixturevalue("cluster")
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


@attrs.frozen
class Stray:
    """A process of this test session that should have ended."""

    pid: int
    what: str


def _pids() -> frozenset[int]:
    return frozenset(int(name) for name in os.listdir(PROC) if name.isdecimal())


def _stray(pid: int, temporary: str) -> Stray | None:
    """Return the process if it is a keeper or a marked job of this test session.

    Other test sessions may run on this machine at the same time, so a mark alone is not enough.
    """
    process = PROC / str(pid)
    try:
        command = process.joinpath("cmdline").read_bytes()
        environment = process.joinpath("environ").read_bytes().split(b"\0")
        links = [os.readlink(process / name) for name in ("cwd", "fd/1", "fd/2") if os.path.lexists(process / name)]
    except OSError:
        return None  # it has ended, or another user's process has its pid
    ours = (
        os.fsencode(temporary) in command
        or f"{SESSION_VARIABLE}={SESSION}".encode() in environment
        or any(link.startswith(temporary) for link in links)
    )
    mark = next((each for each in environment if each.startswith(b"SUPERVISOR_JOB_ID=")), None)
    keeper = b"keeper/entry.py" in command and mark is None
    if not ours or (mark is None and not keeper):
        return None
    kind = "keeper" if keeper else os.fsdecode(mark or b"")
    return Stray(pid=pid, what=f"{kind}: pid {pid}: {os.fsdecode(command.replace(bytes(1), b' '))}")


def _left_behind(pids: frozenset[int], temporary: str) -> list[Stray]:
    """Wait for the processes of this session among ``pids``; end those that stay, and return them."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    stayed: list[Stray] = []
    for pid in sorted(pids):
        if _stray(pid, temporary) is None:
            continue
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            stray = _stray(pid, temporary)  # again, now that the pid cannot be another process's
            if stray is None:
                continue
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(max(0.0, give_up - time.monotonic()) * 1000):
                stayed.append(stray)
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
    return stayed


@pytest.fixture(scope="session", autouse=True)
def _bytecode(tmp_path_factory: pytest.TempPathFactory) -> None:
    """If bytecode may not be written beside the sources, write it elsewhere: each program would compile the package."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str(tmp_path_factory.mktemp("bytecode"))


@pytest.fixture(autouse=True)
def _no_process_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a keeper or a job running; a test that does not costs two listings of ``/proc``."""
    before = _pids()
    yield
    new = _pids() - before
    stayed = _left_behind(new, str(tmp_path_factory.getbasetemp())) if new else []
    if stayed:
        pytest.fail("left behind:\n" + "\n".join(each.what for each in stayed), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _no_process_left_at_the_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Check all processes once more: a process that outlived its test may have had children."""
    yield
    stayed = _left_behind(_pids() - {os.getpid()}, str(tmp_path_factory.getbasetemp()))
    if stayed:
        pytest.fail("left behind:\n" + "\n".join(each.what for each in stayed), pytrace=False)
