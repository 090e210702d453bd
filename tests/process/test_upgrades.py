"""The installation is deleted, moved or replaced under processes that run: no job is lost, run twice or misreported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from supervisor.jobdir import records
from tests.process.conftest import PACKAGE, Fifo, Host, World, environment
from tests.process.test_two_versions import last_package
from tests.web.conftest import starting

__all__ = ["last_package"]

PATIENCE = 60

TELLING: Final = """
import os
from supervisor import log

def tell(event, **facts):
    if event == "installation_loaded":
        with open(os.environ["LOADED"], "a") as fifo:
            fifo.write("loaded\\n")

log.debug = tell
"""
"""Has a program tell when it has loaded all that it may need later."""

LIBRARIES: Final = (
    *("attr", "attrs", "cattrs", "click", "cronsim", "idna", "outcome", "sniffio"),
    *("sortedcontainers", "structlog", "trio", "typing_extensions"),
)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _copy(source: Path, target: Path, *without: str) -> None:
    shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(*without))


@attrs.frozen
class Installation:
    """A copy of the package in a directory of its own, and what becomes of it."""

    place: Path
    fate: str
    other: Path

    def install(self) -> None:
        """Install this version; its commands tell when they have loaded everything."""
        package = self.place / "supervisor"
        shutil.rmtree(package, ignore_errors=True)
        _copy(PACKAGE / "supervisor", package)
        main = package / "__main__.py"
        code = main.read_text(encoding="utf-8")
        main.unlink()  # it is a link to that of this checkout
        main.write_text(code.replace("\nif __name__", f"{TELLING}\nif __name__"), encoding="utf-8")

    def move_back(self) -> None:
        """Undo the move."""
        (self.place / "elsewhere").rename(self.place / "supervisor")

    def change(self) -> None:
        """Do what an upgrade or a removal does."""
        package = self.place / "supervisor"
        if self.fate == "moved":
            package.rename(self.place / "elsewhere")
            return
        shutil.rmtree(package)
        if self.fate == "replaced":
            _copy(self.other / "supervisor", package)


FATES: Final = ("deleted", "moved", "replaced")


@pytest.fixture
def installation(request: pytest.FixtureRequest, tmp_path: Path, last_package: Path) -> Installation:
    fate = getattr(request, "param", "deleted")
    made = Installation(tmp_path / "site", fate, last_package)
    made.install()
    return made


@pytest.fixture
def loaded(world: World, monkeypatch: pytest.MonkeyPatch) -> Fifo:
    """Gets a line from each command of a copied package that needs none of its files any more."""
    fifo = world.fifo()
    monkeypatch.setenv("LOADED", str(fifo))
    return fifo


@attrs.frozen
class Python:
    """A copy of Python with its library and what this package needs, which can be deleted."""

    home: Path

    @property
    def program(self) -> str:
        return str(self.home / "bin" / "python3")

    def delete(self) -> None:
        shutil.rmtree(self.home)


@pytest.fixture
def python(tmp_path: Path) -> Python:
    home, library = tmp_path / "python", Path(sysconfig.get_path("stdlib"))
    there = home / library.relative_to(sys.base_prefix)
    (home / "bin").mkdir(parents=True)
    shutil.copy2(os.path.realpath(sys.executable), home / "bin" / "python3")
    without = (
        "test",
        "tests",
        "site-packages",
        "dist-packages",
        "idlelib",
        "ensurepip",
        "lib2to3",
        "tkinter",
        "config-*",
    )
    _copy(library, there, *without)
    for name in LIBRARIES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        if spec.submodule_search_locations is None:
            _link(str(origin), str(there / origin.name))
        else:
            _copy(origin.parent, there / name, "_tests")
    look = [str(home / "bin" / "python3"), "-I", "-S", "-c", "import os; print(os.__file__)"]
    done = subprocess.run(look, capture_output=True, text=True, check=False)
    if not Path(done.stdout.strip()).is_relative_to(home):
        pytest.skip(f"this Python cannot be copied: {done.stdout}{done.stderr}")
    return Python(home)


class Command:
    """A command of the copied package."""

    def __init__(self, world: World, installation: Installation, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", *words],
            env=environment(installation.place),
            cwd=world.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[str, int]:
        out, error = self._process.communicate(timeout=PATIENCE)
        assert "Traceback" not in error, error
        return out, self._process.returncode


JOBS: Final[dict[str, tuple[str, dict[str, Any], tuple[str, str]]]] = {
    "done": ("echo out", {}, ("done", "exited")),
    "failed": ("echo why >&2; exit 3", {}, ("failed", "nonzero_exit")),
    "killed": ("kill -9 $$", {}, ("failed", "killed_by_signal")),
    "json": ("echo '{}'", {"kind": "json"}, ("done", "exited")),
    "invalid": ("echo no", {"kind": "json"}, ("failed", "invalid_output")),
    "claude": ("echo no; exit 1", {"kind": "claude"}, ("failed", "nonzero_exit")),
    "codex": ("echo no; exit 1", {"kind": "codex"}, ("failed", "nonzero_exit")),
    "retried": ("exit 4", {"retry": {"maximum_attempts": 2, "initial_interval": 0.01}}, ("failed", "nonzero_exit")),
}
"""Jobs that end in different ways: the script, the options, and the end."""


def start_jobs(host: Host, gate: Fifo) -> dict[str, str]:
    """Start jobs that wait for the gate."""
    jobs = {
        name: host.start("sh", "-c", f'read line < "{gate}"; {script}', **options)
        for name, (script, options, _) in JOBS.items()
    }
    jobs["cancelled"] = host.start("sleep", "600")
    return jobs


def open_gate(gate: Fifo) -> None:
    gate.open(len(JOBS) + 1)  # one is tried twice


def check_ends(host: Host, gate: Fifo, jobs: dict[str, str]) -> None:
    waits = {name: host.ask("wait", job_id) for name, job_id in jobs.items()}
    assert host.call("cancel", jobs["cancelled"])["status"] == "cancelled"
    open_gate(gate)
    ends = {name: host.answer(number) for name, number in waits.items()}
    assert {name: (ends[name]["status"], ends[name]["reason"]) for name in JOBS} == {
        name: end for name, (_, _, end) in JOBS.items()
    }
    assert host.call("run", ["echo", "after"])["value"] == "after\n"  # its keeper needs nothing from disk
    late = host.start("sleep", "600", deadline_seconds=0.2)
    assert host.call("wait", late)["status"] == "timeout"


# ---------------------------------------------------------------- embedded supervisors


@pytest.mark.parametrize("installation", FATES, indirect=True)
def test_running_jobs_of_a_host(world: World, installation: Installation) -> None:
    host, gate = world.host(package=installation.place), world.fifo()
    jobs = start_jobs(host, gate)
    assert host.call("load") == "loaded"
    installation.change()
    check_ends(host, gate, jobs)


def test_running_jobs_of_a_host_whose_python_is_deleted(world: World, python: Python, last_package: Path) -> None:
    installation = Installation(python.home / "site", "deleted", last_package)
    installation.install()
    host, gate = world.host(package=installation.place, python=python.program), world.fifo()
    jobs = start_jobs(host, gate)
    assert host.call("load") == "loaded"
    python.delete()
    check_ends(host, gate, jobs)


def test_a_host_that_has_not_loaded_everything_misreports_nothing(world: World, installation: Installation) -> None:
    host, gate = world.host(package=installation.place), world.fifo()
    jobs = start_jobs(host, gate)
    installation.change()
    open_gate(gate)
    for name, (_, _, end) in JOBS.items():
        (ended,) = world.catalog.wait([jobs[name]], timeout=PATIENCE)
        assert (ended.status, ended.reason) == end
    assert world.catalog.cancel(jobs["cancelled"]).status == "cancelled"


@pytest.mark.parametrize("installation", FATES, indirect=True)
def test_waiting_jobs_of_a_host(world: World, installation: Installation) -> None:
    """With a keeper they are launched. Without one they wait until the package is back, or for another program."""
    gate, ran = world.fifo(), world.fifo()
    host = world.host(package=installation.place)
    host.call("set_group", "g", limit=1)
    script = f'echo "$0" > "{ran}"; read line < "{gate}"'
    jobs = [host.start("sh", "-c", script, str(number), groups=["g"]) for number in range(4)]
    assert host.call("load") == "loaded"
    installation.change()
    for number in range(2):
        assert ran.number() == number
        gate.open()
        assert host.call("wait", jobs[number])["status"] == "done"
    assert ran.number() == 2
    world.keeper(jobs[0]).kill()
    gate.open()
    host.call("wait", jobs[2])
    if installation.fate != "replaced":
        error = host.call("run", ["true"])["error"]
        assert (error["code"], error["retryable"]) == ("launch_failed", True)
        assert str(installation.place) in error["message"]
        assert host.call("status", jobs[3])["status"] == "queued"
    if installation.fate == "moved":
        installation.move_back()
    if installation.fate == "deleted":
        assert host.leave() == 0
    gate.open()
    assert world.catalog.wait([jobs[3]], timeout=PATIENCE)[0].status == "done"
    assert ran.number() == 3
    assert ran.silent


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("installation", FATES, indirect=True)
def test_waits(world: World, installation: Installation, loaded: Fifo) -> None:
    host, gate = world.host(), world.fifo()
    jobs = {status: host.start("sh", "-c", f'read line < "{gate}"; exit {status}') for status in (0, 3)}
    assert host.leave() == 0
    every = [(0, ("wait", "--json")), (3, ("wait",))]
    commands = [Command(world, installation, *words, jobs[status]) for status, words in every]
    for _ in commands:
        assert loaded.line() == "loaded"
    installation.change()
    gate.open(2)
    for command, (status, _) in zip(commands, every, strict=True):
        out, returned = command.end()
        assert jobs[status] in out
        assert ("failed" if status else "done") in out
        assert returned == bool(status)


def test_a_run(world: World, installation: Installation, loaded: Fifo) -> None:
    gate = world.fifo()
    job = ("--", "sh", "-c", f'read line < "{gate}"; echo out; exit 3')
    command = Command(world, installation, "run", *job)
    assert loaded.line() == "loaded"
    installation.change()
    gate.open()
    out, returned = command.end()
    assert returned == 3
    assert "out" in out


@pytest.mark.parametrize("installation", FATES, indirect=True)
def test_the_helper_launches_the_waiting_jobs(world: World, installation: Installation, loaded: Fifo) -> None:
    gate, ran = world.fifo(), world.fifo()
    host = world.host(package=installation.place)
    host.call("set_group", "g", limit=1)
    script = f'echo "$0" > "{ran}"; read line < "{gate}"; exit "$0"'
    jobs = [host.start("sh", "-c", script, str(number), groups=["g"]) for number in range(3)]
    assert ran.number() == 0
    assert host.leave() == 0
    assert loaded.line() == "loaded"
    installation.change()
    for number in range(3):
        gate.open()
        (ended,) = world.catalog.wait([jobs[number]], timeout=PATIENCE)
        assert ended.exit_code == number
        assert number == 2 or ran.number() == number + 1
    assert ran.silent


def test_a_server(
    world: World, installation: Installation, loaded: Fifo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any(find_spec(name) is None for name in ("hypercorn", "jinja2", "mcp", "prometheus_client", "starlette")):
        pytest.skip("needs the extra serve")
    monkeypatch.syspath_prepend(str(installation.place))
    directory = tmp_path / "server"
    directory.mkdir()
    with starting(world.root, directory) as start:
        server = start()
        with server.client() as client:
            made = client.post("/v1/jobs", json={"kind": "say", "parameters": {"word": "first"}})
            assert made.status_code == 201, made.text
            assert loaded.line() == "loaded"
            installation.change()
            made = client.post("/v1/jobs", json={"kind": "say", "parameters": {"word": "then"}})
            assert made.status_code == 201, made.text
            job = f"/v1/jobs/{made.json()['job_id']}"
            for path in (f"{job}?wait=30", f"{job}/result", "/v1/jobs", "/v1/groups", "/metrics", "/readyz"):
                answer = client.get(path)
                assert answer.status_code == 200, answer.text
            assert client.get("/v1/jobs/none").status_code == 404
        if server.login_url is not None:
            with server.client(None, follow_redirects=True) as visitor:
                assert "<main" in visitor.get(server.login_url).text


# ---------------------------------------------------------------- keepers


@pytest.mark.parametrize("fate", FATES)
def test_a_keeper_alone_needs_nothing_from_disk(world: World, python: Python, last_package: Path, fate: str) -> None:
    """It watches, enforces deadlines, stops with escalation, and records ends."""
    installation = Installation(python.home / "site", fate, last_package)
    installation.install()
    host, gate, ready = world.host(package=installation.place, python=python.program), world.fifo(), world.fifo()
    deaf = f'trap "" TERM; echo ready > "{ready}"; while :; do read line < "{gate}.none" || sleep 600; done'
    ends = host.start("sh", "-c", f'read line < "{gate}"; echo out; exit 3')
    flood = host.start("sh", "-c", f'read line < "{gate}"; yes', max_output_bytes=100_000)
    deaf_job = host.start("sh", "-c", deaf)
    assert ready.line() == "ready"
    late = host.start("sleep", "600", deadline_seconds=1)
    keeper = world.keeper(ends)
    host.kill()
    installation.change()
    if fate != "replaced":
        python.delete()
    gate.open(2)
    catalog = world.catalog
    assert catalog.wait([late], timeout=PATIENCE)[0].status == "timeout"
    (ended,) = catalog.wait([ends], timeout=PATIENCE)
    assert (ended.exit_code, ended.stdout_bytes) == (3, 4)
    assert catalog.wait([flood], timeout=PATIENCE)[0].reason == "output_limit"
    assert catalog.cancel(deaf_job).status == "cancelled"
    for job_id in (ends, flood, deaf_job, late):
        end = world.record(job_id, records.EXIT)
        assert end is not None
        assert end["by"] == "keeper"
    assert keeper.ended()
