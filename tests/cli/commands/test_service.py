"""The service of a user, with a stand-in for systemctl; tests/vm has the real one."""

from __future__ import annotations

import configparser
import json
import plistlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.cli.service_units import LABEL, UNIT, launch_agent, systemd_unit

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="systemd")

SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$0.calls"
case "$*" in *"show trio"*) cat "$0.says";; esac
"""


def parsed(unit: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the documentation says
    parser.read_string(unit)
    return parser


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a systemctl first in the path; return the file of its calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL)
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return programs / "systemctl.calls"


def test_the_unit_spares_jobs_and_has_absolute_paths() -> None:
    unit = parsed(systemd_unit(["/usr/bin/python3", "-m", "supervisor", "serve"], {"PATH": "/bin"}))
    held = unit["Service"]
    assert (held["KillMode"], held["Delegate"], held["Restart"]) == ("process", "yes", "always")
    assert held["ExecStart"].startswith('"/usr/bin/python3" ')
    assert unit["Install"]["WantedBy"] == "default.target"


def test_odd_words_are_quoted() -> None:
    unit = parsed(systemd_unit(["/a b/%h", 'q"q', "$HOME", "back\\slash"], {"X": '$1 "%t"'}))
    assert unit["Service"]["ExecStart"] == r'"/a b/%%h" "q\"q" "$$HOME" "back\\slash"'
    assert unit["Service"]["Environment"] == r'"X=$1 \"%%t\""'
    with pytest.raises(ValueError, match="no unit can hold"):
        systemd_unit(["a\nExecStart=/bin/false"], {})


def test_the_launch_agent_spares_jobs() -> None:
    held = plistlib.loads(launch_agent(["/usr/bin/python3", "<&>"], {"PATH": "/bin"}, "/tmp/log"))
    assert (held["Label"], held["KeepAlive"], held["AbandonProcessGroup"]) == (LABEL, True, True)
    assert held["ProgramArguments"] == ["/usr/bin/python3", "<&>"]
    assert held["EnvironmentVariables"] == {"PATH": "/bin"}


def test_print_changes_nothing(cli: Cli, calls: Path, tmp_path: Path) -> None:
    done = cli("service", "install", "--print", "--http", "127.0.0.1:0", "--config", "kinds.toml")
    assert done.exit_code == 0, done.output
    command = parsed(done.stdout)["Service"]["ExecStart"]
    assert f'"--state-dir" "{cli.state_dir}"' in command
    assert f'"--http" "127.0.0.1:0" "--config" "{Path.cwd()}/kinds.toml"' in command
    assert not calls.exists()
    assert not (tmp_path / "config").exists()


def test_install_status_uninstall(cli: Cli, calls: Path, tmp_path: Path) -> None:
    path = tmp_path / "config/systemd/user" / UNIT
    assert cli.json("service", "install")["path"] == str(path)
    assert parsed(path.read_text())["Service"]["KillMode"] == "process"
    assert calls.read_text().splitlines()[1:] == [
        f"--user {w}" for w in ("daemon-reload", f"enable {UNIT}", f"restart {UNIT}")
    ]
    says = calls.with_name("systemctl.says")
    says.write_text("LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=7\n")
    shown = cli("service", "status")
    assert (shown.exit_code, "active (running)" in shown.stdout) == (0, True)
    says.write_text("LoadState=loaded\nActiveState=failed\nSubState=failed\n")
    assert cli("service", "status").exit_code == 1
    calls.unlink()
    assert cli.json("service", "uninstall") == {"ok": True, "removed": True, "path": str(path)}
    assert not path.exists()
    assert calls.read_text().splitlines() == [f"--user disable --now {UNIT}", "--user daemon-reload"]
    assert cli.json("service", "uninstall")["removed"] is False


def test_without_a_user_manager_the_error_says_what_to_do(cli: Cli, calls: Path, tmp_path: Path) -> None:
    program = calls.with_name("systemctl")
    program.write_text("#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2; exit 1\n")
    for words in (["install"], ["status"]):
        done = cli("service", *words)
        assert done.exit_code == 125
        assert "there is no systemd user manager here" in done.stderr
        assert "XDG_RUNTIME_DIR" in done.stderr
    program.unlink()
    assert not (tmp_path / "config").exists()


def test_without_systemd_the_error_says_so(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = cli.json("service", "install", status=125)["error"]
    assert error["code"] == "feature_unavailable"
    assert "no systemctl" in error["message"]
    assert json.dumps(error)
