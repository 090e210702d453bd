"""What shells offer: asked for through the protocol of their scripts, and typed into real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli.app import COMMANDS
from tests.cli.conftest import Cli
from tests.cli.test_usage import imported_by
from tests.cli.tmux import Screen, screen

SHELLS = ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_say_how_to_install_them(cli: Any, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("completion", shell)
    assert done.exit_code == 0, done.output
    assert "_SUPERVISOR_COMPLETE" in done.stdout
    assert "# To install: " in done.stdout
    assert (shell == "zsh") == done.stdout.startswith("#compdef supervisor\n")
    assert cli.json("completion", shell)["script"] == done.stdout.rstrip("\n")
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert cli("completion").stdout == done.stdout
    monkeypatch.setenv("SHELL", "/bin/sh")
    assert cli("completion").exit_code == 2


@pytest.mark.parametrize(
    ("shell", "path"),
    [
        ("bash", ".local/share/bash-completion/completions/supervisor"),
        ("zsh", ".zfunc/_supervisor"),
        ("fish", ".config/fish/completions/supervisor.fish"),
    ],
)
def test_the_script_is_installed(
    cli: Any, shell: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    script = cli("completion", shell).stdout
    for _ in range(2):  # again, as after an upgrade
        assert cli.json("completion", shell, "--install")["path"] == str(tmp_path / path)
        assert (tmp_path / path).read_text() == script
    done = cli("completion", shell, "--install")
    assert ("fpath" in done.stderr) is (shell == "zsh")
    (tmp_path / path).write_text("mine")
    done = cli("completion", shell, "--install")
    assert (done.exit_code, (tmp_path / path).read_text()) == (2, "mine")
    assert "not a completion script of this program" in done.stderr


def test_the_script_goes_where_xdg_says_and_a_refusal_is_reported(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    cli.json("completion", "bash", "--install")
    assert (tmp_path / "data/bash-completion/completions/supervisor").exists()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    done = cli("completion", "bash", "--install")
    assert done.exit_code == 2
    assert "cannot write" in done.stderr


def test_job_ids_are_completed(cli: Any) -> None:
    job_id = cli.start("true")
    complete = {
        "_SUPERVISOR_COMPLETE": "bash_complete",
        "COMP_WORDS": f"supervisor status {job_id[:3]}",
        "COMP_CWORD": "2",
    }
    done = cli.run(env={**os.environ, **complete})
    assert done.stdout.decode().split() == [f"plain,{job_id}"]
    complete["COMP_WORDS"], complete["COMP_CWORD"] = "supervisor ca", "1"
    assert cli.run(env={**os.environ, **complete}).stdout.decode().split() == ["plain,cancel"]


# What each shell is made to print: the values and descriptions that it offers for the line.
OFFERED = {
    "bash": """source "$1"; COMP_LINE=$2; COMP_POINT=${#2}; COMP_TYPE=63; COLUMNS=300
        read -ra COMP_WORDS <<< "$2"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _supervisor_completion supervisor; printf '%s\\n' "${COMPREPLY[@]}" """,
    "zsh": """compdef() { :; }; compadd() { :; }; source "$1"; words=(${=2}); CURRENT=${#words}
        _describe() { print -rl -- "${(@P)3}"; }; _supervisor_completion""",
    "fish": """source $argv[1]; complete -C $argv[2]""",
}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a directory for PATH with the program ``supervisor``, as installed."""
    path = tmp_path / "bin"
    path.mkdir()
    program = path / "supervisor"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m supervisor "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return path


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "value", "description"),
    [
        ("supervisor statu", "status", COMMANDS["status"][2]),
        ("supervisor run --env-f", "--env-file", "lines NAME=VALUE, without quoting; blank lines"),
        ("supervisor status JOB", "JOB", ": echo a,b:c, d"),
    ],
)
def test_shells_offer_whole_descriptions(
    cli: Cli, tmp_path: Path, program: Path, shell: str, line: str, value: str, description: str
) -> None:
    needs(shell)
    job_id = cli.start("echo", "a,b:c,", "d")
    cli("wait", job_id)
    script = tmp_path / "script"
    script.write_text(cli("completion", shell).stdout, encoding="utf-8")
    quiet = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    head = [shell, *quiet, "-c", OFFERED[shell], *([] if shell == "fish" else [shell]), str(script)]
    environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    line = line.replace("JOB", job_id[:4])
    done = subprocess.run([*head, line], check=False, capture_output=True, timeout=60, env=environment)
    (offered,) = done.stdout.decode().splitlines()
    assert offered.startswith(value.replace("JOB", job_id)), done.stderr
    assert shell == "bash" or description in offered  # bash inserts the only value, and nothing else


def test_bash_lists_descriptions_only_where_it_does_not_insert_values(cli: Cli, tmp_path: Path, program: Path) -> None:
    needs("bash")
    script = tmp_path / "script"
    script.write_text(cli("completion", "bash").stdout, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}"}
    for kind, wanted in (
        ("63", [f"start   ({COMMANDS['start'][2]})", f"status  ({COMMANDS['status'][2]})"]),
        ("37", ["start", "status"]),
    ):
        words = OFFERED["bash"].replace("63", kind)
        head = ["bash", "--norc", "-c", words, "bash", str(script), "supervisor sta"]
        done = subprocess.run(head, check=True, capture_output=True, timeout=60, env=environment)
        assert done.stdout.decode().splitlines() == wanted


def test_a_script_of_an_older_version_still_gets_answers(cli: Cli) -> None:
    words = {"_SUPERVISOR_COMPLETE": "bash_complete", "COMP_WORDS": "supervisor sta", "COMP_CWORD": "1"}
    assert cli.run(env={**os.environ, **words}).stdout.decode().split() == ["plain,start", "plain,status"]
    words |= {"_SUPERVISOR_COMPLETE": "zsh_complete"}
    assert cli.run(env={**os.environ, **words}).stdout.decode().splitlines()[:3] == [
        "plain",
        "start",
        COMMANDS["start"][2],
    ]


@pytest.fixture
def offered(cli: Cli) -> Callable[[str], list[str]]:
    """Return what asks for the items of a line, as the script of fish does."""

    def ask(line: str) -> list[str]:
        asked = {"SUPERVISOR_COMPLETE_LINE": line, "_SUPERVISOR_COMPLETE": "fish_complete"}
        done = cli.run(env={**os.environ, **asked})
        assert (done.returncode, done.stderr) == (0, b"")
        return [each.partition("\t")[0] for each in done.stdout.decode().splitlines() if each]

    return ask


def test_only_jobs_that_fit_are_offered(cli: Cli, offered: Callable[[str], list[str]]) -> None:
    ended = cli.start("--", "true")
    cli("wait", ended)
    cli("group", "set", "few", "--limit", "1")
    running = cli.start("--group", "few", "--", "sleep", "60")
    waiting = cli.start("--group", "few", "--", "true")
    held = cli.start("--hold", "--", "true")
    everything = [held, waiting, running, ended]
    for command, fitting in {
        "cancel": [held, waiting, running],
        f"cancel {running}": [held, waiting],
        "rm": [ended],
        "result": [ended],
        "release": [held],
        "hold": [held, waiting],
        "move": [held, waiting],
        "status": everything,
        "wait": everything,
        "logs --follow": everything,
    }.items():
        assert offered(f"supervisor {command} ") == [f"plain,{job_id}" for job_id in fitting], command
    assert offered(f"supervisor start --after any:{held[:6]}") == [f"plain,any:{held}"]
    assert offered(f"supervisor start --after={held[:6]}") == [f"plain,--after={held}"]
    assert offered("supervisor cancel xyz") == []
    assert offered("supervisor start --group ") == ["plain,few"]
    assert offered(f"supervisor --state-dir {cli.state_dir}/none cancel ") == []


@pytest.mark.parametrize(
    ("line", "items"),
    [
        ("supervisor run -- ", ["command,0"]),
        ("supervisor run --label a=b -- git --group ", ["command,2"]),
        ("supervisor run -- git --de", ["command,1"]),
        ("supervisor start make te", ["command,1"]),
        ("supervisor start --stdin ", ["file,"]),
        ("supervisor start --stdin='two wo", ["file,two wo"]),
        ("supervisor start --env-file ~/x", ["file,~/x"]),
        ("supervisor start --workspace /t", ["dir,/t"]),
        ("supervisor list --state=ru", ["plain,--state=running"]),
        ("supervisor list --state ru", ["plain,running"]),
        ("supervisor start --engine slurm --engine-option par", ["plain,partition="]),
        ("supervisor start --env SUPERVISOR_COMPLETE_L", ["plain,SUPERVISOR_COMPLETE_LINE"]),
        ("supervisor unheard-of x", []),
        ("supervisor status a b c ", []),
        ("supervisor list --columns", ["plain,--columns"]),
    ],
)
def test_what_is_offered(offered: Callable[[str], list[str]], line: str, items: list[str]) -> None:
    assert offered(line) == items


def test_a_completion_imports_nothing_heavy(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.start("--", "true")
    with monkeypatch.context() as patch:
        patch.setenv("SUPERVISOR_COMPLETE_LINE", "supervisor cancel ")
        patch.setenv("_SUPERVISOR_COMPLETE", "fish_complete")
        assert imported_by([], ["trio", "structlog", "rich", "importlib.metadata", "cattrs", "subprocess"]) == []


BEGUN = {
    "bash": ["--norc", "--noprofile", "-i"],
    "zsh": ["-f", "-i"],
    "fish": ["--no-config", "-i"],
}
PREPARED = {
    "bash": "PS1='%% '; source <(supervisor completion bash)",
    "zsh": "PS1='%%%% '; autoload -U compinit; compinit -u -D; source <(supervisor completion zsh)",
    "fish": "function fish_prompt; printf '%% '; end; supervisor completion fish | source",
}


def typed(shown: Screen, text: str, *wanted: str) -> None:
    """Type a line that ends with Tab, see it completed, and delete it.

    Control-U waits in the terminal while the shell still completes, for what is shown may be a suggestion of fish.
    Control-C would be lost there.
    """
    shown.tmux("send-keys", "-l", text)
    shown.until_shown(text)
    shown.type("Tab")
    shown.until_shown(*wanted)
    shown.type("C-u")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(cli: Cli, tmp_path: Path, program: Path, shell: str) -> None:
    needs(shell)
    ended = cli.start("--", "true")
    running = cli.start("--", "sleep", "60")
    cli("wait", ended)
    tool = program / "unusual-tool"
    tool.write_text("#!/bin/sh\n", encoding="ascii")
    tool.chmod(0o755)
    Path("a file of mine").touch()
    words = f"HOME='{tmp_path}' PATH='{program}':\"$PATH\" {shell} {' '.join(BEGUN[shell])}"
    with screen(tmp_path, words, columns=120, lines=40) as shown:
        shown.tmux("send-keys", "-l", f"{PREPARED[shell]}; echo re''ady")
        shown.type("Enter")
        shown.until_shown("ready")
        typed(shown, f"supervisor cancel {running[:5]}", f"supervisor cancel {running}")
        typed(shown, "supervisor run -- unusu", "supervisor run -- unusual-tool")
        typed(shown, "supervisor run -- cat a\\ fi", r"supervisor run -- cat a\ file\ of\ mine")
        typed(shown, "supervisor run --stdin a\\ fi", r"supervisor run --stdin a\ file\ of\ mine")
        typed(shown, "supervisor list --state=ru", "supervisor list --state=running")
        shown.tmux("send-keys", "-l", "supervisor sta")
        shown.type("Tab", "Tab")
        shown.until_shown("Show the state of a job.", "Start a command as a job")
        assert ended not in "\n".join(shown.lines())
