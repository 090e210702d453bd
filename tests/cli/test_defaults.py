"""Defaults for options of ``run`` and ``start``, from the configuration file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.settings.config_file import VARIABLE

Write = Callable[[str], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def write(path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv(VARIABLE, str(path))

    def write(text: str) -> None:
        path.write_text(text, encoding="utf-8")

    return write


def started(cli: Any, *words: str) -> Any:
    done = cli("start", "--json", *words, "--", "true")
    return json.loads(done.stdout)


def test_a_default_holds_where_the_option_is_not_given(cli: Any, write: Write) -> None:
    write('[defaults]\ndeadline = "2h"\nlabel = ["team=x", "by=me"]\nmax_output = "1k"\nmax-output = "2k"\nttl = 60\n')
    job = started(cli)
    assert (job["deadline_seconds"], job["ttl_seconds"], job["labels"]) == (7200, 60, {"team": "x", "by": "me"})
    job = started(cli, "--deadline", "5", "--label", "a=b")
    assert (job["deadline_seconds"], job["labels"]) == (5, {"a": "b"})
    assert cli.record(job["job_id"], "job.json")["output_limit"] == 2048


def test_it_holds_for_run_too(cli: Any, write: Write) -> None:
    write("[defaults]\nmerge_stderr = true\nttl = 0\n")
    done = cli.run("run", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\nerr\n", b"")


def test_a_flag_of_the_file_is_turned_off_by_its_other_form(cli: Any, write: Write) -> None:
    write("[defaults]\nmerge_stderr = true\nhold = true\nno_new_privs = true\n")
    words = ("--no-hold", "--no-merge-stderr", "--new-privs")
    done = cli.run("run", *words, "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"err\n")
    job = started(cli)
    assert (job["status"], job["queue_reason"]) == ("queued", "held")
    write("[defaults]\nno_hold = true\n")
    assert cli.run("start", "--", "true").returncode == 2


def test_the_environment_wins_over_it(cli: Any, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write('job_max_seconds = 1\njob_ttl = 1\n[defaults]\ndeadline = 2\nttl = 2\ngrace = 2\nmax-output = "2k"\n')
    monkeypatch.delenv("SUPERVISOR_STOP_GRACE_SECONDS")
    job = started(cli)
    assert (job["deadline_seconds"], job["ttl_seconds"]) == (2, 2)
    assert cli.record(job["job_id"], "job.json")["grace_seconds"] == 2
    for name in ("JOB_MAX_SECONDS", "JOB_TTL", "STOP_GRACE_SECONDS", "JOB_MAX_OUTPUT_BYTES"):
        monkeypatch.setenv(f"SUPERVISOR_{name}", "3000")
    job = started(cli)
    found = cli.record(job["job_id"], "job.json")
    members = ("deadline_seconds", "ttl_seconds", "grace_seconds", "output_limit")
    assert [found[name] for name in members] == 4 * [3000]
    assert started(cli, "--deadline", "4")["deadline_seconds"] == 4


def test_a_group_can_be_a_default(cli: Any, write: Write) -> None:
    write('[defaults]\ngroup = "agents"\n')
    assert cli("group", "set", "agents").exit_code == 0
    assert cli("group", "set", "other").exit_code == 0
    assert started(cli)["groups"] == ["agents"]
    assert started(cli, "--group", "other")["groups"] == ["other"]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("\ndeadline = 'soon'", 3, "deadline is 'soon'; allowed: what --deadline accepts ('soon' is not a duration"),
        ("deadline = [5]", 2, "deadline is [5]; allowed: what --deadline accepts"),
        ("deadline = true", 2, "deadline is True; allowed: what --deadline accepts"),
        ("deadline = {}", 2, "deadline is {}; allowed"),
        ("label = 'x'", 2, "label is 'x'; allowed: what --label accepts ('x' is not a label: give it as NAME=VALUE)"),
        ("label = {a = 'b'}", 2, "label is {'a': 'b'}; allowed: what --label accepts, or a list of that"),
        ("label = [true]", 2, "label is [True]; allowed"),
        ("merge_stderr = 'yes'", 2, "merge_stderr is 'yes'; allowed: true or false"),
        ("spool = 'tape'", 2, "spool is 'tape'; allowed: what --spool accepts ("),
        ("max-output = 1.5", 2, "max-output is 1.5; allowed: what --max-output accepts ('1.5' is not a size"),
        ("attempts = 'x'", 2, "attempts is 'x'; allowed: what --attempts accepts ("),
        ("deadlin = 5", 2, "there is no key 'deadlin' here; allowed: one of admission, after"),
        *((f"{name} = 'x'", 2, f"there is no key '{name}' here") for name in ("key", "json", "state-dir", "help", "")),
    ],
)
def test_a_mistake_is_named_with_its_line_and_starts_nothing(
    cli: Any, write: Write, path: Path, text: str, line: int, problem: str
) -> None:
    if text.startswith(" ="):
        text = f'""{text}'
    write(f"[defaults]\n{text}\n")
    done = cli("start", "--json", "--", "true")
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "invalid_settings"
    assert error["message"].startswith(f"{path}, line {line}, in [defaults]: {problem}")
    # What asks about jobs, or ends them, does not depend on it.
    assert cli.json("list")["jobs"] == []
    assert cli("cancel", "--all").exit_code == 0
    assert cli("start", "--help").exit_code == 0
    (check,) = [check for check in cli.json("doctor", status=1)["checks"] if check["name"] == "configuration"]
    assert (check["verdict"], check["message"]) == ("problem", error["message"])
    # An option that is given corrects no file.
    assert cli("start", "--deadline", "5", "--", "true").exit_code == 2


def test_a_mistyped_option_has_a_suggestion_and_hidden_ones_are_not_named(cli: Any, write: Write) -> None:
    write("[defaults]\ndeadlin = 5\n")
    error = json.loads(cli("start", "--json", "--", "true").stdout)["error"]
    assert error["repair"].startswith("Did you mean 'deadline'?")
    assert "slurm-" not in error["message"]


def test_defaults_are_a_table(cli: Any, write: Write, path: Path) -> None:
    write("defaults = 5\n")
    done = cli("start", "--", "true")
    assert f"{path}, line 1: defaults is 5; allowed: a table of options" in done.stderr


def test_a_mistake_in_a_setting_is_one_for_every_command(cli: Any, write: Write, path: Path) -> None:
    write("job_tll = 5\n")
    for words in (["status", "0" * 32], ["list"], ["cancel", "--all"], ["start", "--", "true"], ["doctor"]):
        done = cli(*words)
        assert done.exit_code == 2
        assert f"{path}, line 1: there is no key 'job_tll' here" in done.stderr
    assert cli("list", "--help").exit_code == 0
    write("")


def test_doctor_says_where_each_value_is_from(
    cli: Any, write: Write, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write('job_ttl = "2d"\n[defaults]\ndeadline = 5\n')
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "7")
    checks = {check["name"]: check for check in cli.json("doctor")["checks"]}
    origin = checks["settings"]["facts"]["from"]
    assert (origin["job_ttl"], origin["job_max_count"]) == (f"{path}, line 1", "SUPERVISOR_JOB_MAX_COUNT")
    assert (origin["state_dir"], origin["log"]) == ("SUPERVISOR_STATE_DIR", "default")
    assert f"job_ttl 172800.0 ({path}, line 1)" in checks["settings"]["message"]
    assert checks["configuration"]["message"] == f"{path}, defaults for deadline"
    checks = {check["name"]: check for check in cli.json("doctor", "--state-dir", str(tmp_path / "s"))["checks"]}
    assert checks["settings"]["facts"]["from"]["state_dir"] == "--state-dir"


def test_without_a_file_doctor_says_where_it_would_be(
    cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    (check,) = [check for check in cli.json("doctor")["checks"] if check["name"] == "configuration"]
    assert check["message"] == f"no file ({tmp_path}/.config/trio-supervisor/config.toml)"
