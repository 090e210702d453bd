from __future__ import annotations

import math
import os
import pwd
import re
from operator import methodcaller
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.cli.front import DEFAULTS
from supervisor.errors import InvalidSettings
from supervisor.jobs.validation import MAX_INPUT_BYTES
from supervisor.settings import LOG_LEVELS, Settings


@attrs.frozen
class Case:
    """A setting, and values that show how it is parsed."""

    name: str
    variable: str
    default: Any
    held: str
    read: Any
    argument: Any
    accepts: str
    bad: tuple[Any, ...]


SECONDS = "a number of seconds of at least 0, or a duration such as 90s, 5m, 1h30m or 2d"
COUNT = "a whole number of at least 0"

CASES = [
    Case(
        "state_dir",
        "SUPERVISOR_STATE_DIR",
        Path.home() / ".local/state/trio-supervisor",
        "/srv/jobs",
        Path("/srv/jobs"),
        "/srv/other",
        "the path of a directory",
        ("~nobody-of-this-name/x", "a\0b", 7, None, b"/srv"),
    ),
    Case(
        "job_max_seconds",
        "SUPERVISOR_JOB_MAX_SECONDS",
        1800,
        "1h30m",
        5400,
        60,
        f"{SECONDS}, or none",
        ("soon", "-1", "nan", True, None, -0.5, math.nan, 10**400),
    ),
    Case("job_ttl", "SUPERVISOR_JOB_TTL", 86400, "0", 0, 60, SECONDS, ("1w", "-1", "inf", "none", None, math.inf)),
    Case("job_max_count", "SUPERVISOR_JOB_MAX_COUNT", 1000, "0", 0, 7, COUNT, ("1.5", "-1", "many", 1.0, True, None)),
    Case(
        "job_max_output_bytes",
        "SUPERVISOR_JOB_MAX_OUTPUT_BYTES",
        67108864,
        "64M",
        64 << 20,
        7,
        "a whole number of bytes of at least 0, or a size such as 64k, 200M, 1.5G or 1GiB",
        ("64Q", "-1", "1.5", 1e6, None, 2**63),
    ),
    Case(
        "job_leftovers", "SUPERVISOR_JOB_LEFTOVERS", "leave", "STOP", "stop", "stop", "leave or stop", ("kill", None, 1)
    ),
    Case("stop_grace_seconds", "SUPERVISOR_STOP_GRACE_SECONDS", 5, "0.25", 0.25, 0, SECONDS, ("x", "-1", "none", None)),
    Case(
        "durability",
        "SUPERVISOR_DURABILITY",
        "process",
        "Power",
        "power",
        "power",
        "process or power",
        ("disk", None, 1),
    ),
    Case(
        "config",
        "SUPERVISOR_CONFIG",
        None,
        "/etc/kinds.toml",
        Path("/etc/kinds.toml"),
        Path("/srv/kinds.toml"),
        "the path of a TOML file",
        ("a\0b", 7),
    ),
    Case(
        "shared_dir",
        "SUPERVISOR_SHARED_DIR",
        None,
        "/shared/jobs",
        Path("/shared/jobs"),
        Path("/srv/jobs"),
        "the path of a directory",
        ("a\0b", 7),
    ),
    Case(
        "python",
        "SUPERVISOR_PYTHON",
        None,
        "/opt/python",
        Path("/opt/python"),
        Path("/srv/python"),
        "a Python interpreter: its path, or its name on PATH",
        ("a\0b", 7, "no-such-python-anywhere"),
    ),
    Case(
        "webhook_secret",
        "SUPERVISOR_WEBHOOK_SECRET",
        None,
        "whsec_one whsec_two",
        "whsec_one whsec_two",
        "whsec_one",
        "one or two secrets: whsec_ and base64",
        (),  # what is wrong with one is said, without its text, where it is used
    ),
    Case(
        "webhook_allow",
        "SUPERVISOR_WEBHOOK_ALLOW",
        "",
        "10.1.0.0/16 fd00::/8",
        "10.1.0.0/16 fd00::/8",
        "10.0.0.1",
        "networks such as 10.1.0.0/16, separated by spaces",
        ("10.0.0.1/8", "example.com", 7, None),
    ),
    Case(
        "log",
        "SUPERVISOR_LOG",
        "warning",
        " DEBUG ",
        "debug",
        "error",
        "one of debug, info, warning, error, critical",
        ("loud", "10", None),
    ),
]

each_setting = pytest.mark.parametrize("case", CASES, ids=lambda case: case.variable)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES:
        monkeypatch.delenv(case.variable, raising=False)


def test_every_setting_is_tested_here() -> None:
    assert [case.name for case in CASES] == [field.name for field in attrs.fields(Settings)]


@each_setting
def test_default(case: Case) -> None:
    assert getattr(Settings(), case.name) == case.default


@each_setting
def test_the_variable_is_read_where_no_argument_is_given(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(case.variable, case.held)
    assert getattr(Settings(), case.name) == case.read
    others = {other.name: other.default for other in CASES if other is not case}
    assert {name: getattr(Settings(), name) for name in others} == others


@each_setting
def test_the_argument_comes_first(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(case.variable, case.held)
    read = getattr(Settings(**{case.name: case.argument}), case.name)
    assert read == (Path(case.argument) if isinstance(read, Path) else case.argument)


@each_setting
def test_an_argument_saves_the_variable_from_being_read(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(case.variable, "~nobody-of-this-name/not a number")
    Settings(**{case.name: case.argument})


@each_setting
def test_an_empty_variable_counts_as_unset(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(case.variable, "")
    assert getattr(Settings(), case.name) == case.default


@pytest.mark.parametrize(("case", "bad"), [(case, bad) for case in CASES for bad in case.bad])
def test_a_bad_value_is_named_with_its_variable_and_what_would_do(case: Case, bad: Any) -> None:
    with pytest.raises(InvalidSettings, match=f"^{re.escape(f'{case.variable} is {bad!r}; it accepts ')}") as caught:
        Settings(**{case.name: bad})
    assert caught.value.message.endswith(case.accepts)
    assert caught.value.details == {"variable": case.variable, "value": str(bad)}


@pytest.mark.parametrize(
    ("case", "bad"),
    [(case, bad) for case in CASES for bad in case.bad if isinstance(bad, str) and "\0" not in bad],
)
def test_a_bad_variable_is_named_with_what_it_held(case: Case, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(case.variable, bad)
    with pytest.raises(InvalidSettings, match=f"^{re.escape(f'{case.variable} is {bad!r}; it accepts ')}"):
        Settings()


def test_the_state_directory_is_where_server_and_shell_both_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/else")
    monkeypatch.setenv("HOME", "/home/anna")
    assert Settings().state_dir == Path("/home/anna/.local/state/trio-supervisor")


def test_paths_are_made_absolute_when_they_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    settings = Settings(state_dir=Path("jobs"), config=Path("~/kinds.toml"))
    assert (settings.state_dir, settings.config) == (tmp_path / "jobs", Path("/home/anna/kinds.toml"))


@pytest.mark.parametrize("held", ["none", "None", " NONE "])
def test_a_default_deadline_can_be_none(held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_SECONDS", held)
    assert Settings().job_max_seconds == math.inf


@pytest.mark.parametrize("level", LOG_LEVELS)
def test_every_log_level(level: str) -> None:
    assert Settings(log=level.upper()).log == level


def test_settings_are_a_value() -> None:
    assert Settings(job_ttl=1) == Settings(job_ttl=1.0)
    assert hash(Settings(job_ttl=1)) == hash(Settings(job_ttl=1.0))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().job_ttl = 1  # type: ignore[misc]


@pytest.mark.parametrize("home", [None, ""])
def test_without_a_home_the_message_names_what_to_set(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    def no_entry(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("SUPERVISOR_STATE_DIR", raising=False)
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    with pytest.raises(InvalidSettings, match=r"^SUPERVISOR_STATE_DIR is not set, and .*: HOME is not set") as caught:
        Settings()
    assert caught.value.repair == "Set SUPERVISOR_STATE_DIR to an absolute path."
    with pytest.raises(InvalidSettings, match=r"the value for SUPERVISOR_CONFIG .*: HOME is not set"):
        Settings(state_dir=Path("/somewhere"), config=Path("~/kinds.toml"))


def test_an_empty_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert Settings(state_dir=Path("~/jobs")).state_dir == Path(home) / "jobs"
    monkeypatch.setenv("HOME", "/")
    assert Settings(state_dir=Path("~/jobs")).state_dir == Path("/jobs")


def test_the_pages_and_the_help_tell_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SUPERVISOR_")]:
        monkeypatch.delenv(name)
    settings = Settings()
    told = {
        "SUPERVISOR_JOB_MAX_SECONDS": f"{settings.job_max_seconds / 60:g} minutes",
        "SUPERVISOR_JOB_MAX_OUTPUT_BYTES": f"{settings.job_max_output_bytes / (1 << 20):g} MiB",
        "SUPERVISOR_STOP_GRACE_SECONDS": f"{settings.stop_grace_seconds:g} seconds",
        "SUPERVISOR_JOB_TTL": f"{settings.job_ttl / 3600:g} hours",
        "SUPERVISOR_JOB_MAX_COUNT": f"{settings.job_max_count:,}",
    }
    root = Path(__file__).parents[1]
    page = (root / "docs/command-line.md").read_text(encoding="utf-8")
    by_variable = {
        variable: default
        for row in map(methodcaller("split", "|"), page.splitlines())
        if len(row) == 5
        for default in [row[2].strip()]
        for variable in re.findall(r"SUPERVISOR_\w+", row[3])
    }
    assert {name: by_variable[name] for name in told} == told
    assert by_variable["SUPERVISOR_STATE_DIR"].strip("`") == str(settings.state_dir).replace(str(Path.home()), "~")
    assert f"the stdin of a job | {MAX_INPUT_BYTES >> 20} MiB |" in page
    readme = (root / "README.md").read_text(encoding="utf-8")
    for text in (" ".join(readme.replace("`", "").split()), DEFAULTS):
        for variable, default in told.items():
            assert re.search(rf"{re.escape(default)}[^(.]*\([^)]*\b{variable}\)", text), variable
