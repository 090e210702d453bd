"""The configuration file: every setting by its name, below the environment and above the defaults."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.errors import InvalidSettings, StateBusy
from supervisor.settings import Settings, config_file, origins

VALUES: dict[str, tuple[str, Any]] = {
    "state_dir": ('"/srv/jobs"', Path("/srv/jobs")),
    "job_max_seconds": ('"1h30m"', 5400),
    "job_ttl": ("60", 60),
    "job_max_count": ("7", 7),
    "job_max_output_bytes": ('"1G"', 1 << 30),
    "job_leftovers": ('"stop"', "stop"),
    "stop_grace_seconds": ("0.5", 0.5),
    "durability": ('"power"', "power"),
    "config": ('"kinds.toml"', Path("kinds.toml")),  # relative to the file
    "shared_dir": ('"/shared"', Path("/shared")),
    "python": ('"./venv/python"', Path("venv/python")),
    "webhook_secret": ('"whsec_a2tra2tra2tra2tra2tra2tra2tra2tr"', "whsec_a2tra2tra2tra2tra2tra2tra2tra2tr"),
    "webhook_allow": ('"10.1.0.0/16"', "10.1.0.0/16"),
    "log": ('"debug"', "debug"),
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the configuration file; there are no variables beside it."""
    for name in list(os.environ):
        if name.startswith("SUPERVISOR_"):
            monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv(config_file.VARIABLE, str(path))
    return path


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def held(file: Path, name: str) -> Any:
    value = VALUES[name][1]
    return file.parent / value if isinstance(value, Path) and not value.is_absolute() else value


def test_every_setting_can_be_in_it(file: Path) -> None:
    assert [field.name for field in attrs.fields(Settings)] == list(VALUES)
    write(file, "".join(f"{name} = {text}\n" for name, (text, _) in VALUES.items()))
    found = Settings()
    assert {name: getattr(found, name) for name in VALUES} == {name: held(file, name) for name in VALUES}
    assert origins() == {name: f"{file}, line {number}" for number, name in enumerate(VALUES, 1)}


def test_the_environment_wins_over_it_and_arguments_over_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, "job_ttl = 1\njob_max_count = 1\nstop_grace_seconds = 1\n")
    monkeypatch.setenv("SUPERVISOR_JOB_TTL", "2")
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "2")
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "")  # counts as unset
    found = Settings(job_ttl=3)
    assert (found.job_ttl, found.job_max_count, found.stop_grace_seconds) == (3, 2, 1)
    origin = origins()
    assert origin["job_max_count"] == "SUPERVISOR_JOB_MAX_COUNT"
    assert origin["stop_grace_seconds"] == f"{file}, line 3"
    assert origin["log"] == "default"


def test_what_the_file_does_not_name_has_its_default(file: Path) -> None:
    write(file, "job_ttl = 1\n[defaults]\ndeadline = 7\n")
    assert (Settings().job_ttl, Settings().job_max_seconds) == (1, 1800)


def test_a_changed_value_keeps_all_others(file: Path) -> None:
    write(file, "job_ttl = 1\njob_max_count = 2\n")
    before = Settings(job_max_count=3)
    write(file, "job_ttl = 9\njob_max_count = 9\n")
    after = attrs.evolve(before, log="debug")
    assert (after.job_ttl, after.job_max_count) == (1, 3)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('\njob_ttl = "soon"', 2, "job_ttl is 'soon'; allowed: a number of seconds"),
        ("job_ttl = -1", 1, "job_ttl is -1; allowed: a number of seconds"),
        ("job_ttl = inf", 1, "job_ttl is inf; allowed: a number of seconds"),
        ("job_ttl = true", 1, "job_ttl is True"),
        ("job_ttl = 2030-01-01", 1, "job_ttl is datetime.date"),
        ("job_ttl = {}", 1, "job_ttl is {}"),
        ("job_max_count = 1.5", 1, "job_max_count is 1.5; allowed: a whole number"),
        ('job_max_output_bytes = "much"', 1, "job_max_output_bytes is 'much'; allowed: a whole number of bytes"),
        ('state_dir = ""', 1, "state_dir is ''; allowed: the path of a directory"),
        ("state_dir = 5", 1, "state_dir is 5"),
        ('state_dir = "a\\u0000b"', 1, "state_dir is"),
        ('log = "loud"', 1, "log is 'loud'; allowed: one of debug, info"),
        ("config = []", 1, "config is []"),
        ("[job]\nttl = 1", 1, "there is no key 'job' here"),
        ("job_tll = 1", 1, "there is no key 'job_tll' here; allowed: one of config, defaults, durability"),
    ],
)
def test_a_mistake_is_named_with_its_line(file: Path, text: str, line: int, problem: str) -> None:
    write(file, text)
    with pytest.raises(InvalidSettings, match=f"^{re.escape(f'{file}, line {line}: {problem}')}") as caught:
        Settings()
    assert caught.value.repair.endswith("To do without it for now: SUPERVISOR_CONFIG_FILE=/dev/null.")
    assert Settings(**{name: held(file, name) for name in VALUES}).log == "debug"  # the file is not needed


def test_a_mistyped_name_has_a_suggestion(file: Path) -> None:
    write(file, "job_tll = 1")
    with pytest.raises(InvalidSettings) as caught:
        Settings()
    assert caught.value.repair.startswith("Did you mean 'job_ttl'? ")
    write(file, "zzz = 1")
    with pytest.raises(InvalidSettings) as caught:
        Settings()
    assert "Did you mean" not in caught.value.repair


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"job_ttl = ", "this is not TOML"),
        (b"job_ttl = 1\njob_ttl = 2", "this is not TOML"),
        (b"\n# \xff", "line 2: this is not UTF-8"),
        (b"#" * ((1 << 20) + 1), "has more than 1048576 bytes"),
    ],
)
def test_what_is_no_such_file(file: Path, content: bytes, problem: str) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidSettings, match=problem):
        Settings()
    with pytest.raises(InvalidSettings, match=problem):
        origins()


def test_the_variable_names_a_file_that_is_there(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config_file.VARIABLE, str(tmp_path))
    with pytest.raises(InvalidSettings, match=r"SUPERVISOR_CONFIG_FILE: .* cannot be read: Is a directory"):
        Settings()
    file.unlink()
    monkeypatch.setenv(config_file.VARIABLE, str(file))
    with pytest.raises(InvalidSettings, match=r"SUPERVISOR_CONFIG_FILE: .* cannot be read: No such file"):
        Settings()
    for path in ("config.toml", "~no-such-user/config.toml"):
        monkeypatch.setenv(config_file.VARIABLE, path)
        with pytest.raises(InvalidSettings, match=f"^SUPERVISOR_CONFIG_FILE is '{path}'; it accepts the absolute"):
            Settings()
    monkeypatch.setenv(config_file.VARIABLE, os.devnull)
    assert Settings().job_ttl == 86400


def test_without_the_variable_it_is_in_its_default_place(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del file
    monkeypatch.setenv(config_file.VARIABLE, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert Settings().job_ttl == 86400
    place = tmp_path / ".config/trio-supervisor/config.toml"
    place.parent.mkdir(parents=True)
    assert Settings().job_ttl == 86400
    assert not config_file.is_there()
    write(place, "job_ttl = 5")
    assert Settings().job_ttl == 5
    assert (config_file.place(), config_file.is_there()) == (str(place), True)
    monkeypatch.setenv("HOME", str(place))  # no directory
    assert Settings().job_ttl == 86400


def test_a_file_that_may_not_be_read_is_an_error_and_another_home_is_none(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del file
    monkeypatch.delenv(config_file.VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / ".config/trio-supervisor/config.toml"
    place.parent.mkdir(parents=True)
    write(place, "job_ttl = 5")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(config_file.os, "open", refuse)
    with pytest.raises(InvalidSettings, match=r"config\.toml cannot be read: Permission denied"):
        Settings()
    monkeypatch.setattr(config_file.os.path, "lexists", lambda _: False)
    assert Settings().job_ttl == 86400


def test_a_file_that_others_can_change_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, "job_ttl = 5")
    file.chmod(0o664)
    with pytest.raises(InvalidSettings, match=r"others may write .* \(mode 0664\)") as caught:
        Settings()
    assert caught.value.repair.endswith(f"chmod go-w {file}")
    file.chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(InvalidSettings, match="others may replace"):
        Settings()
    tmp_path.chmod(0o700)
    assert Settings().job_ttl == 5
    monkeypatch.setattr(config_file.os, "geteuid", lambda: 12345)
    if file.stat().st_uid:  # root's files are trusted
        with pytest.raises(InvalidSettings, match=f"belongs to user {os.getuid()}"):
            Settings()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_a_directory_does_not_stay_open(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del file
    monkeypatch.setenv(config_file.VARIABLE, str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidSettings):
        Settings()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pipe_is_no_such_file(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InvalidSettings, match="it is not a regular file"):
        Settings()


def test_a_user_without_a_home_has_no_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del file

    def no_entry(_: int) -> None:
        raise KeyError

    monkeypatch.delenv(config_file.VARIABLE)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    assert Settings(state_dir=Path("/srv/jobs")).job_ttl == 86400
    assert (config_file.place(), config_file.is_there()) == (None, False)


def test_a_path_in_the_home_of_a_user_without_one_is_a_mistake(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(_: int) -> None:
        raise KeyError

    write(file, 'shared_dir = "~/shared"')
    monkeypatch.setenv("SUPERVISOR_STATE_DIR", "/srv/jobs")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    with pytest.raises(InvalidSettings, match="line 1: shared_dir is '~/shared'; allowed: the path of a directory"):
        Settings()


def test_without_a_file_no_parser_of_toml_is_loaded(tmp_path: Path) -> None:
    program = "import sys, supervisor; supervisor.Settings(); print('tomllib' in sys.modules, 'difflib' in sys.modules)"
    environment = {**os.environ, "HOME": str(tmp_path)}
    del environment[config_file.VARIABLE]
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_an_error_that_passes_is_no_mistake_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    monkeypatch.setenv("SUPERVISOR_CONFIG_FILE", str(path))
    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EINTR):

        def fail(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(config_file, "_open", fail)
            with pytest.raises(StateBusy, match="cannot be read") as caught:
                config_file.read()
        assert caught.value.retryable
    assert config_file.read() is not None
