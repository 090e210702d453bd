"""``mcp install``: what is written for each host, and what is never lost."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.mcp_server.hosts import HOSTS, ByFile
from tests.cli.conftest import Cli

FILES = {name: host for name, host in HOSTS.items() if isinstance(host, ByFile)}
KINDS = '[kind.k]\ndescription = "K."\ncommand = ["true"]\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def entry_of(host: ByFile, name: str = "jobs") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.path().read_text(encoding="utf-8"))[host.table][name]
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_host_gets_a_command_with_absolute_paths(cli: Cli, home: Path, state_dir: Path, name: str) -> None:
    kinds = home / "kinds.toml"
    kinds.write_text(KINDS, encoding="utf-8")
    kinds.chmod(0o600)
    done = cli("mcp", "install", name, "--config", os.path.relpath(kinds))
    assert done.exit_code == 0, done.stderr
    entry = entry_of(FILES[name])
    assert entry["args"][-4:] == ["--state-dir", str(state_dir), "--config", str(kinds)]
    assert all(os.path.isabs(each) for each in (entry["command"], entry["args"][-1]))
    assert FILES[name].more.items() <= entry.items()
    request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    served = subprocess.run(
        [entry["command"], *entry["args"]],
        input=json.dumps(request).encode() + b"\n",
        capture_output=True,
        check=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert json.loads(served.stdout)["id"] == 1


def test_the_rest_of_a_file_is_kept_and_a_second_time_changes_nothing(cli: Cli, home: Path) -> None:
    path = FILES["cursor"].path()
    path.parent.mkdir()
    held = {"other": [1, "\N{SNOWMAN}"], "mcpServers": {"theirs": {"command": "x"}}}
    path.write_text(json.dumps(held), encoding="utf-8")
    path.chmod(0o640)
    shape = json.loads(cli("mcp", "install", "cursor", "--json").stdout)
    assert (shape["ok"], shape["changed"], shape["path"]) == (True, True, str(path))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == {**held, "mcpServers": {**held["mcpServers"], "jobs": shape["entry"]}}  # type: ignore[dict-item]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    before = path.stat().st_mtime_ns
    assert json.loads(cli("mcp", "install", "cursor", "--json").stdout)["changed"] is False
    assert (path.stat().st_mtime_ns, os.listdir(path.parent)) == (before, [path.name])
    assert home in path.parents


def test_another_server_of_the_name_is_replaced_only_on_request(cli: Cli, home: Path) -> None:
    path = home / ".gemini" / "settings.json"
    path.parent.mkdir()
    path.write_text('{"mcpServers": {"jobs": {"command": "x"}}}', encoding="utf-8")
    refused = cli("mcp", "install", "gemini")
    assert refused.exit_code == 2
    assert "--replace" in refused.stderr
    assert "x" in path.read_text(encoding="utf-8")
    assert cli("mcp", "install", "gemini", "--name", "mine").exit_code == 0
    assert cli("mcp", "install", "gemini", "--replace").exit_code == 0
    assert entry_of(FILES["gemini"])["command"] != "x"


@pytest.mark.parametrize("text", ['// a comment\n{"a": 1}', "{", "[]", '{"context_servers": 1}', "\ud800"])
def test_a_file_of_another_form_is_left_alone(cli: Cli, home: Path, text: str) -> None:
    path = home / ".config" / "zed" / "settings.json"
    path.parent.mkdir(parents=True)
    data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    refused = cli("mcp", "install", "zed", "--json")
    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["error"]["code"] == "invalid_arguments"
    assert path.read_bytes() == data


def test_a_link_stays_a_link(cli: Cli, home: Path) -> None:
    path = home / ".cursor" / "mcp.json"
    path.parent.mkdir()
    target = home / "dotfiles.json"
    target.write_text("{}", encoding="utf-8")
    path.symlink_to(target)
    assert cli("mcp", "install", "cursor").exit_code == 0
    assert path.is_symlink()
    assert "jobs" in target.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HOSTS)
def test_print_changes_nothing(cli: Cli, home: Path, name: str) -> None:
    shown = cli("mcp", "install", name, "--print")
    assert shown.exit_code == 0
    assert "--state-dir" in shown.stdout
    assert os.listdir(home) == []


@pytest.mark.parametrize("name", ["claude", "codex"])
def test_a_host_with_a_command_is_configured_by_it(
    cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "none"))
        missing = cli("mcp", "install", name)
    assert missing.exit_code == 2
    assert f"{name} mcp add" in missing.stderr
    program = tmp_path / "bin" / name
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nfor word; do echo "$word"; done > {home}/words\n', encoding="utf-8")
    program.chmod(0o755)
    shape = json.loads(cli("mcp", "install", name, "--json").stdout)
    assert shape["changed"] is True
    assert (home / "words").read_text(encoding="utf-8").splitlines() == shape["command"][1:]
    program.write_text("#!/bin/sh\necho there is one already >&2\nexit 1\n", encoding="utf-8")
    refused = cli("mcp", "install", name)
    assert refused.exit_code == 2
    assert "there is one already" in refused.stderr


@pytest.mark.parametrize(
    "words", [["emacs"], ["zed", "--name", "a b"], ["zed", "--name", ""], ["zed", "--config", "no"], []]
)
def test_what_is_wrong_is_said(cli: Cli, home: Path, words: list[str]) -> None:
    assert cli("mcp", "install", *words).exit_code == 2
    assert os.listdir(home) == []
