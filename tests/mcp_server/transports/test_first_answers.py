"""The record of the first answers on disk: whose, of which code, and what of it is trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor import Settings, _version
from supervisor.mcp_server.config import kinds_file
from supervisor.mcp_server.options import Options
from supervisor.mcp_server.transports import first_answers
from supervisor.mcp_server.transports.first_answers import FirstAnswers, forget, key_of, load, save

KEY = "k" * 64
ANSWERS = FirstAnswers({"1": {"initialize": '{"a":"\N{GRINNING FACE}"}'}}, {"2": {"tools/list": "{}"}})
KINDS = '[kind.a]\ndescription = "A."\ncommand = ["a"]\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(tmp_path, KEY, ANSWERS)
    return tmp_path / "first-answers" / f"{KEY}.json"


def test_a_record_is_read_as_it_was_written_and_is_private(path: Path) -> None:
    root = path.parents[1]
    assert load(root, KEY) == ANSWERS
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    save(root, KEY, ANSWERS)
    assert os.listdir(path.parent) == [path.name]
    forget(root, KEY)
    forget(root, KEY)
    assert load(root, KEY) is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_record_that_others_can_write_is_not_trusted(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert load(path.parents[1], KEY) is None


def test_a_record_of_another_user_is_not_trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert load(path.parents[1], KEY) is None


def test_a_link_and_a_pipe_are_not_read(path: Path) -> None:
    target = path.rename(path.with_name("target"))
    path.symlink_to(target)
    assert load(path.parents[1], KEY) is None
    path.unlink()
    os.mkfifo(path)
    assert load(path.parents[1], KEY) is None


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"key": "other"},
        {"handshake": None},
        {"handshake": {"1": {"initialize": 5}}},
        {"modern": {"1": {"tools/list": "two\nlines"}}},
        {"modern": [1]},
    ],
)
def test_a_record_of_another_shape_is_none(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    assert load(path.parents[1], KEY) is None


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "5", '"x"', "\xff"])
def test_a_damaged_record_is_none(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    assert load(path.parents[1], KEY) is None


def test_only_the_newest_records_are_kept(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path, str(number), ANSWERS)
        os.utime(tmp_path / "first-answers" / f"{number}.json", (number, number))
    save(tmp_path, "last", ANSWERS)
    assert sorted(os.listdir(tmp_path / "first-answers")) == sorted(
        [*(f"{each}.json" for each in range(5, 12)), "last.json"]
    )


def test_no_state_root_is_made_for_a_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "none", KEY, ANSWERS)


def test_a_draft_that_cannot_be_written_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):  # noqa: PT011  # the one raised above
        save(path.parents[1], "other", ANSWERS)
    assert os.listdir(path.parent) == [path.name]


def test_the_key_changes_with_all_that_the_answers_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path)
    kinds = kinds_file.parse(KINDS, "kinds.toml")
    key = key_of(Options(settings=settings, kinds=kinds))
    assert key == key_of(Options(settings=Settings(state_dir=tmp_path / "x"), kinds=kinds_file.parse(KINDS, "k")))
    others = {
        key_of(Options(settings=settings)),
        key_of(Options(settings=settings, kinds=kinds, allow_commands=["ls"])),
        key_of(Options(settings=settings, kinds=kinds_file.parse(KINDS.replace("A.", "B."), "k"))),
        key_of(Options(settings=settings, kinds=kinds_file.parse(f'{KINDS}control = ["rerun"]\n', "k"))),
    }
    package = tmp_path / "supervisor"
    package.mkdir()
    module = package / "__init__.py"
    for text in ("", "x = 1\n"):
        module.write_text(text, encoding="utf-8")
        monkeypatch.setattr(_version, "__file__", str(module))
        others.add(key_of(Options(settings=settings, kinds=kinds)))
    monkeypatch.setattr(first_answers, "_SDK", frozenset[str]())
    others.add(key_of(Options(settings=settings, kinds=kinds)))
    assert len(others | {key}) == 8
