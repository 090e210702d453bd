"""supervisord, installed into the same environment, has a package of the same name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import supervisor
from supervisor.cli.doctor.check import Severity
from supervisor.cli.doctor.machine import check_versions

PACKAGE = Path(supervisor.__file__).parent


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory of packages with the metadata of supervisord."""
    metadata = tmp_path / "supervisor-4.3.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: supervisor\nVersion: 4.3.0\n")
    return tmp_path


def test_a_command_says_what_has_overwritten_its_files(installed: Path) -> None:
    shutil.copytree(PACKAGE, installed / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "states.py"):  # which both have
        installed.joinpath("supervisor", name).write_text("")
    for option, output in (("--version", "stderr"), ("--json", "stdout")):
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "list", option],
            env=os.environ | {"PYTHONPATH": str(installed)},
            cwd=installed,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 125
        assert "supervisord, which has a package of the same name" in getattr(done, output)
        assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "feature_unavailable"


def test_a_defect_of_ours_is_not_taken_for_it(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
    tmp_path.joinpath("supervisor", "states.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "--version"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ImportError" in done.stderr


def test_the_version_says_that_it_is_there(installed: Path) -> None:
    """Where this package was installed last, all of its files are there, and some of supervisord's are not."""
    for packages, note in ((installed, True), (PACKAGE.parent, False)):
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "--version"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(packages)])},
            cwd=PACKAGE.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"supervisor {supervisor.__version__}\n"
        assert done.stderr.startswith("supervisord 4.3.0 is installed here too. Install trio-supervisor in") is note


def test_doctor_finds_it(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "supervisord" not in [check.name for check in check_versions()]
    monkeypatch.syspath_prepend(installed)
    (found,) = [check for check in check_versions() if check.name == "supervisord"]
    assert (found.severity, "4.3.0" in found.message) == (Severity.PROBLEM, True)
