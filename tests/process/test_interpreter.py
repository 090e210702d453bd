"""The Python that runs the keeper, and the error if it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
import pytest
import trio

import supervisor
from supervisor.engines import interpreter
from supervisor.engines.interpreter import find_python
from supervisor.errors import LaunchFailed

if TYPE_CHECKING:
    from tests.process.conftest import World


@pytest.mark.parametrize("executable", ["", "/bin/true", "/usr/sbin/uwsgi", "/no/such/python3", None])
async def test_a_process_that_no_python_runs_finds_one(
    world: World, monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    async with supervisor.open_supervisor() as sup:
        assert (await sup.run(["echo", "x"])).value == "x\n"
    assert world.root.exists()


def test_without_any_python_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(sys, "_base_executable", "", raising=False)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchFailed) as raised:
        find_python()
    assert "SUPERVISOR_PYTHON" in raised.value.repair
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(LaunchFailed):
        find_python()
    assert find_python("/a/python") == "/a/python"


async def test_what_a_keeper_says_until_its_greeting_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first >&2\necho 'ImportError: the reason' >&2\nexit 3\n")
    broken.chmod(0o755)
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 3\n")
    silent.chmod(0o755)
    for python, reason in (
        (broken, "ImportError: the reason"),
        (silent, "ended with 3"),
        (tmp_path / "gone", "No such file"),
    ):
        monkeypatch.setenv("SUPERVISOR_PYTHON", str(python))
        async with supervisor.open_supervisor() as sup:
            result = await sup.run(["true"])
        assert result.error is not None
        assert reason in result.error.message
        assert str(python) in result.error.message
        assert "SUPERVISOR_PYTHON" in result.error.repair
        assert not result.error.retryable
    assert world.root.exists()


async def test_a_keeper_that_is_killed_before_it_runs_is_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python, once = tmp_path / "python", tmp_path / "once"
    python.write_text(f'#!/bin/sh\nmkdir {once} 2>/dev/null && kill -9 $$\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("SUPERVISOR_PYTHON", str(python))
    async with supervisor.open_supervisor() as sup:
        assert (await sup.run(["echo", "x"])).value == "x\n"
    assert once.exists()
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    monkeypatch.setenv("SUPERVISOR_STATE_DIR", str(tmp_path / "other"))
    async with supervisor.open_supervisor() as sup:
        error = (await sup.run(["true"])).error
    assert error is not None
    assert "killed again and again" in error.message
    assert error.retryable
    assert world.root.exists()


def test_from_a_zip_application(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "application.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        for module in (supervisor, attrs, click, trio):
            _add(file, Path(module.__file__ or "").parent)
        for name in (
            "attr",
            "cattrs",
            "outcome",
            "sniffio",
            "sortedcontainers",
            "structlog",
            "idna",
            "rich",
            "typing_extensions",
        ):
            found = Path(attrs.__file__ or "").parents[1] / name
            if found.is_dir():
                _add(file, found)
            elif found.with_suffix(".py").exists():
                file.write(found.with_suffix(".py"), f"{name}.py")
        file.writestr("__main__.py", "from supervisor.cli import main\nraise SystemExit(main())\n")
    variables = {name: held for name, held in world.environment.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", str(archive), "run", "--", "echo", "zipped"],
        capture_output=True,
        text=True,
        check=False,
        env=variables,
        cwd=world.directory,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("zipped\n", 0), done.stderr
    assert len(world.catalog.list().jobs) == 1


def test_the_helper_of_a_zip_application_comes_from_it(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del state_dir
    archive = tmp_path / "app.pyz"
    package = tmp_path / "supervisor"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys; print(__file__, *sys.argv[1:])", encoding="utf-8")
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("__init__.py", "__main__.py"):
            file.write(package / name, f"supervisor/{name}")
    monkeypatch.setattr(interpreter.keeper_entry, "__file__", f"{archive}/supervisor/keeper/entry.py")
    done = subprocess.run(interpreter.helper_command(), capture_output=True, text=True, check=True)
    assert done.stdout == f"{archive}/supervisor/__main__.py launch-waiting\n"


def _add(archive: zipfile.ZipFile, package: Path) -> None:
    for path in package.rglob("*.py"):
        archive.write(path, str(Path(package.name) / path.relative_to(package)))


def test_where_proc_shows_processes_only(world: World) -> None:
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        pytest.skip("needs root and unshare (util-linux) to mount another /proc")
    command = 'mount -t proc -o subset=pid proc /proc || exit 77; exec "$@"'
    argv = [sys.executable, "-m", "supervisor", "run", "--", "true"]
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", command, "sh", *argv],
        capture_output=True,
        text=True,
        check=False,
        env=world.environment,
        cwd=world.directory,
        timeout=60,
    )
    if done.returncode == 77:
        pytest.skip(f"no such /proc can be mounted here: {done.stderr}")
    assert done.returncode == 125
    assert "boot_id" in done.stderr
    assert "ProcSubset" in done.stderr
    assert "Traceback" not in done.stderr
