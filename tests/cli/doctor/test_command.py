from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_the_doctor_is_content_and_changes_nothing(cli: Any, tmp_path: Path) -> None:
    job_id = cli.start("true")
    cli("wait", job_id)
    shape = cli.json("doctor")
    assert shape["ok"]
    checks = {check["name"]: check for check in shape["checks"]}
    assert checks["registry"]["facts"]["jobs"] == 1
    assert {"supervisor", "platform", "state root", "pidfd", "inotify", "umask", "limits", "container"} <= set(checks)
    done = cli("doctor", "--state-dir", str(tmp_path / "a" / "b"))
    assert done.exit_code == 0, done.output
    assert "will create it" in done.stdout
    assert not tmp_path.joinpath("a").exists()


def test_the_doctor_finds_what_would_fail(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o777)
    monkeypatch.setenv("SUPERVISOR_CONFIG", str(tmp_path / "no-such-file"))
    done = cli("doctor", "--state-dir", str(root))
    assert done.exit_code == 1
    assert "open to others" in done.stdout
    assert "chmod 700" in done.stdout
    names = {check["name"] for check in cli.json("doctor", status=1)["checks"] if check["verdict"] == "problem"}
    assert names == {"kinds file"}
