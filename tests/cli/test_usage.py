"""Usage errors, settings, help and completion, which need no job."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from supervisor.cli.app import COMMANDS, app
from supervisor.cli.front import DEFAULTS, _configure_logging

ARGUMENTS = {
    "run": ["x"],
    "start": ["x"],
    "status": ["abcd"],
    "result": ["abcd"],
    "wait": ["abcd"],
    "cancel": ["abcd"],
    "rm": ["abcd"],
    "logs": ["abcd"],
    "completion": ["bash"],
    "group": ["list"],
    "worktree": ["list"],
    "schedule": ["list"],
    "service": ["status"],
    "explain": ["abcd"],
    "hold": ["abcd"],
    "pause": ["abcd"],
    "resume": ["abcd"],
    "signal": ["abcd", "USR1"],
    "rerun": ["abcd"],
    "release": ["abcd"],
    "move": ["abcd", "--first"],
    "attach": ["abcd"],
    "send": ["abcd"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(cli: Any, name: str) -> None:
    done = cli(name, "--help")
    assert done.exit_code == 0
    assert "--json" in done.stdout
    assert "--state-dir" in done.stdout
    command = app.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.get_short_help_str(200) == COMMANDS[name][2]
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize(
    "related", [["--workspace", "--worktree"], ["--memory", "--cpus", "--pids", "--limits"]], ids=lambda names: names[0]
)
def test_related_options_are_beside_each_other(cli: Any, related: list[str]) -> None:
    lines = cli("start", "--help").stdout.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  --")]
    first = names.index(related[0])
    assert names[first : first + len(related)] == related


def test_the_group_has_help_and_a_version(cli: Any) -> None:
    done = cli("--help")
    assert done.exit_code == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert cli("--version").stdout.startswith("supervisor ")
    assert (cli().exit_code, cli().stdout, cli().stderr) == (0, done.stdout, "")


def test_the_help_tells_the_defaults(cli: Any) -> None:
    for words in ([], ["run"], ["start"], ["prune"], ["cancel"]):
        assert DEFAULTS in " ".join(cli(*words, "--help").stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["status"],
        ["status", "a", "b"],
        ["list", "--state", "odd"],
        ["list", "--all", "--workspace", "."],
        ["list", "--limit", "0"],
        ["list", "--label", "novalue"],
        ["wait", "--timeout", "-1", "abcd"],
        ["wait", "--timeout", "nan", "abcd"],
        ["cancel"],
        ["cancel", "--all", "abcd"],
        ["run"],
        ["run", "--dedline", "5", "x"],
        ["run", "--deadline", "soon", "x"],
        ["start", "--stdin", "/does/not/exist", "x"],
        ["start", "--env", "SURELY_NOT_SET_ANYWHERE", "x"],
        ["start", "--env", "=x", "x"],
        ["start", "--kind", "unheard-of", "x"],
        ["start", ""],
        ["start", "--workspace", "", "x"],
        ["status", "abc"],
    ],
)
def test_wrong_usage_gives_2_and_says_so_in_json_as_well(cli: Any, words: list[str]) -> None:
    done = cli(*words)
    if words[:2] != ["start", "--workspace"]:  # an empty option counts as left out
        assert done.exit_code == 2, done.output
        assert done.stdout == ""
        assert done.stderr
        failure = cli(words[0], "--json", *words[1:])
        assert failure.exit_code == 2
        assert failure.stderr == ""
        assert json.loads(failure.stdout)["error"]["code"] == "invalid_arguments"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_setting_names_its_variable(cli: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_TTL", "tomorrow")
    words = [name, *ARGUMENTS.get(name, [])]
    done = cli(*words)
    failure = cli(name, "--json", *words[1:])
    monkeypatch.delenv("SUPERVISOR_JOB_TTL")
    assert done.exit_code == failure.exit_code == 2
    assert "SUPERVISOR_JOB_TTL is 'tomorrow'" in done.stderr
    shape = json.loads(failure.stdout)
    assert shape["ok"] is False
    assert shape["error"]["code"] == "invalid_settings"


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("ps", "Did you mean `supervisor list`?"),
        ("LS", "Did you mean `supervisor list`?"),
        ("kill", "Did you mean `supervisor cancel`?"),
        ("tail", "Did you mean `supervisor logs --follow`?"),
        ("cancle", "Did you mean `supervisor cancel`?"),
        ("statsu", "Did you mean `supervisor status` or `supervisor start`?"),
        ("zzz", "No such command 'zzz'.\n"),
    ],
)
def test_a_command_that_does_not_exist_gives_a_suggestion(cli: Any, word: str, suggestion: str) -> None:
    done = cli(word)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"No such command '{word}'. " in done.stderr.replace("\n", " ")
    assert suggestion in done.stderr
    message = json.loads(cli("--json", word).stdout)["error"]["message"]
    assert message.endswith(suggestion.strip())
    assert "Did you mean" in cli("run", "--dedline", "5", "x").stderr


def test_an_unsafe_state_root_is_refused(cli: Any, tmp_path: Path) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o755)
    failure = cli.json("list", "--state-dir", str(root), status=125)
    assert failure["error"]["code"] == "state_unsafe"
    assert cli("list", "--state-dir", "").exit_code == 2


def test_the_options_of_every_command_may_stand_before_it(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = {"ok": True, "jobs": [], "next_cursor": None}
    job_id = cli.start("--", sys.executable, "-c", "pass")
    here = os.fspath(cli.state_dir)
    assert json.loads(cli("--json", "list", "--all").stdout)["jobs"][0]["job_id"] == job_id
    monkeypatch.delenv("SUPERVISOR_STATE_DIR")
    elsewhere = os.fspath(tmp_path / "elsewhere")
    assert json.loads(cli("--state-dir", elsewhere, "--json", "list", "--all").stdout) == empty
    assert json.loads(cli("--json", "--state-dir", here, "status", job_id).stdout)["job_id"] == job_id
    assert json.loads(cli("--state-dir", elsewhere, "status", job_id, "--state-dir", here, "--json").stdout)["ok"]
    assert cli("--state-dir", elsewhere, "status", job_id).exit_code == 3
    for words, status in (("--json status beef", 3), ("--json", 2), ("--state-dir= list --json", 2)):
        done = cli(*words.split())
        assert (done.exit_code, json.loads(done.stdout)["ok"]) == (status, False)
    line = f"supervisor --state-dir {here} status "
    complete = {"_SUPERVISOR_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": "4"}
    assert job_id.encode() in cli.run(env={**os.environ, **complete}).stdout


def test_no_such_job_gives_3(cli: Any) -> None:
    for name in ("status", "result", "wait", "cancel", "rm", "logs"):
        assert cli.json(name, "abcdef", status=3)["error"]["code"] == "job_not_found"
        done = cli(name, "0" * 32)
        assert done.exit_code == 3
        assert "there is no job" in done.stderr
        assert "supervisor list" in done.stderr


@pytest.mark.usefixtures("cli")
def test_warnings_of_the_library_reach_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    _configure_logging("warning")
    log = logging.getLogger("supervisor.store")
    log.warning("the registry was %s", "damaged", extra={"job_id": "1"})
    log.info("not of interest")
    shape = json.loads(capsys.readouterr().err)
    assert shape["event"] == "the registry was damaged"
    assert (shape["level"], shape["logger"], shape["job_id"]) == ("warning", "supervisor.store", "1")


def test_a_damaged_registry_is_rebuilt_and_that_is_said(cli: Any, state_dir: Path) -> None:
    job_id = cli.start("true")
    cli("wait", job_id)
    for path in state_dir.glob("registry.db*"):
        path.unlink()
    state_dir.joinpath("registry.db").write_bytes(b"no database at all" * 1000)
    done = cli("status", job_id)
    assert done.exit_code == 0, done.output
    assert "registry_rebuilt" in done.stderr


def imported_by(words: list[str], names: list[str]) -> list[str]:
    """Return which of the modules a command line has imported by the time it has gone well."""
    program = (
        "import json, sys\n"
        "from supervisor.cli import main\n"
        "status = main(json.loads(sys.argv[1]))\n"
        "found = [name for name in json.loads(sys.argv[2]) if name in sys.modules]\n"
        "print(json.dumps([status, found]))\n"
    )
    argv = [sys.executable, "-c", program, json.dumps(words), json.dumps(names)]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=30)
    status, found = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    return found


@pytest.mark.parametrize("name", ["status", "result", "list", "wait", "cancel", "rm", "logs", "prune"])
def test_commands_that_read_import_nothing_heavy(cli: Any, name: str) -> None:
    job_id = cli.start("true")
    cli("wait", job_id)
    heavy = ["trio", "structlog", "rich", "importlib.metadata", "mcp", "cattrs"]
    heavy += ["starlette", "hypercorn", "prometheus_client", "supervisor.http", "supervisor.web"]
    words = [name] if name in {"list", "prune"} else [name, job_id]
    assert imported_by(words, heavy) == []


@pytest.mark.usefixtures("cli")
def test_a_command_that_runs_well_imports_nothing_that_only_others_need() -> None:
    others = ["cattrs", "importlib.metadata", "mcp", "rich", "structlog", "supervisor.engines.cluster.engine"]
    others += [
        "supervisor.engines.cluster.interface",
        "supervisor.engines.cluster.slurm.commands",
        "supervisor.text.redact",
    ]
    assert imported_by(["run", "--", "true"], others) == []
    assert imported_by(["run", "--", "true"], ["trio"]) == ["trio"]
