"""Commands that read create nothing, and nothing is created where another user could replace it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from supervisor.cli import exits
from tests.cli.conftest import Cli

NONE = "0" * 32
ASKING = [
    (["list"], exits.OK),
    (["list", "--all"], exits.OK),
    (["prune"], exits.OK),
    (["prune", "--all"], exits.OK),
    (["cancel", "--all"], exits.OK),
    *((words.split(), exits.NO_SUCH_JOB) for words in (f"status {NONE}", f"result {NONE}", f"logs {NONE}")),
    *((words.split(), exits.NO_SUCH_JOB) for words in (f"wait {NONE}", f"cancel {NONE}", f"rm {NONE}", "status abcd")),
]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("words", "status"), ASKING)
def test_asking_makes_nothing(cli: Cli, words: list[str], status: int, *, as_json: bool) -> None:
    shutil.rmtree(cli.state_dir)
    done = cli(*words, *(["--json"] if as_json else []))
    assert done.exit_code == status, done.output
    assert not cli.state_dir.exists()
    cli.state_dir.mkdir(mode=0o700)
    assert cli(*words, *(["--json"] if as_json else [])).exit_code == status
    assert list(cli.state_dir.iterdir()) == []


def test_doctor_makes_nothing(cli: Cli) -> None:
    shutil.rmtree(cli.state_dir)
    cli.json("doctor")
    assert not cli.state_dir.exists()
    cli.state_dir.mkdir(mode=0o700)
    cli.json("doctor")
    assert list(cli.state_dir.iterdir()) == []


def test_what_is_started_after_it_was_asked_for_is_found(cli: Cli) -> None:
    shutil.rmtree(cli.state_dir)
    assert cli.json("list", "--all")["jobs"] == []
    job_id = cli.start("--", "true")
    assert cli.json("list", "--all")["jobs"][0]["job_id"] == job_id


def test_a_root_that_others_could_replace_is_refused_and_doctor_says_so(cli: Cli, tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    where = ["--state-dir", str(above / "state")]
    done = cli("start", *where, "--", "true")
    assert done.exit_code == exits.BROKEN
    assert f"{above} can be written by other users" in done.stderr
    assert f"chmod go-w {above}" in done.stderr
    assert list(above.iterdir()) == []
    told = {each["name"]: each for each in cli.json("doctor", *where, status=exits.BAD)["checks"]}
    assert told["state root"]["verdict"] == "problem"
    assert str(above) in told["state root"]["message"]
    assert told["state root"]["repair"] == f"If no other user tampered with it: chmod go-w {above}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_with_the_home_of_another_user_nothing_is_made_in_it(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 54321, -1)
    environment = {name: value for name, value in os.environ.items() if name != "SUPERVISOR_STATE_DIR"}
    environment["HOME"] = str(home)

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        return cli.run(*words, env=environment)

    assert run("list").returncode == exits.OK
    done = run("run", "--", "true")
    assert done.returncode == exits.BROKEN
    assert b"54321" in done.stderr
    assert b"HOME" in done.stderr
    assert run("doctor").returncode == exits.BAD
    assert list(home.iterdir()) == []
