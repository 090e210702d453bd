"""The files of the groups: read whole or refused, and never rewritten without what a newer version has set."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import InvalidArguments, StateCorrupt, SupervisorError
from supervisor.store import groups
from supervisor.store.groups import Group, Pause
from supervisor.store.queue.usage import FOR_EVER_NS


def test_a_group_is_read_as_it_was_written(tmp_path: Path) -> None:
    group = Group(name="agents", limit=3, aging_seconds=None, pauses=(Pause("user", 5, "lunch"), Pause("reboot")))
    groups.save(str(tmp_path), group)
    assert groups.load(str(tmp_path), "agents") == group
    assert dict(groups.load_all(str(tmp_path))) == {"agents": group}
    assert (tmp_path / "groups" / "agents.json").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "groups") == ["agents.json"]


def test_there_is_none_without_a_file(tmp_path: Path) -> None:
    assert groups.load(str(tmp_path), "agents") is None
    assert list(groups.load_all(str(tmp_path))) == []
    groups.remove(str(tmp_path), "agents")


def test_what_a_newer_version_has_set_is_kept(tmp_path: Path) -> None:
    groups.save(str(tmp_path), Group(name="g", limit=1))
    path = tmp_path / "groups" / "g.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rate": "10/min"}))
    group = groups.load(str(tmp_path), "g")
    assert group is not None
    groups.save(str(tmp_path), group)
    assert json.loads(path.read_text())["rate"] == "10/min"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"v": 2, "limit": 1, "aging_seconds": 1}',
        '{"v": 1, "limit": -1, "aging_seconds": 1}',
        '{"v": 1, "limit": true, "aging_seconds": 1}',
        '{"v": 1, "limit": 1, "aging_seconds": "long"}',
        '{"v": 1, "limit": 1, "aging_seconds": 1, "paused": [{"until_ns": 1}]}',
        '{"v": 1, "limit": 1, "aging_seconds": 1, "paused": [{"by": "user", "until_ns": "noon"}]}',
        '{"v": 1, "limit": 1, "aging_seconds": 1, "paused": 7}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_an_error_that_names_it_and_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "groups" / "g.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(StateCorrupt, match="group g") as raised:
        groups.load(str(tmp_path), "g")
    assert str(path) in raised.value.repair
    ((name, problem),) = groups.load_all(str(tmp_path))
    assert (name, type(problem)) == ("g", StateCorrupt)
    assert path.read_text() == content


@pytest.mark.parametrize("name", ["", ".", "-x", "a/b", "../x", "a b", "é", "x" * 65, "a\n", None, 7])
def test_a_name_that_is_none(name: Any) -> None:
    with pytest.raises(InvalidArguments, match="group is"):
        groups.check_name(name)


@pytest.mark.parametrize("limit", [-1, 1.5, True, "3", 10**10])
def test_a_limit_that_is_none(limit: Any) -> None:
    with pytest.raises(InvalidArguments, match="limit"):
        Group(name="g", limit=limit)


@pytest.mark.parametrize("seconds", [-1, 10**6, "1", float("nan"), float("inf"), True])
def test_an_aging_that_is_none(seconds: Any) -> None:
    with pytest.raises(InvalidArguments, match="aging"):
        Group(name="g", aging_seconds=seconds)


def test_the_last_pause_counts() -> None:
    assert groups.end_of([]) == 0
    assert groups.end_of([Pause("a", 5), Pause("b", 9)]) == 9
    assert groups.end_of([Pause("a", 5), Pause("b")]) == FOR_EVER_NS


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("rate", rate) for rate in ("10", "10/m", "0/s", "-1/s", "1.5/s", "10/min ", "9999999/s", 10, "\u0661/s")],
        *[("fair_by", what) for what in ("label:", "job", "", 1, "label:" + "x" * 2000)],
        *[("pause_on_failure", number) for number in (0, -1, True, "3", 10**9)],
        *[("on_reboot", word) for word in ("", "stop", None)],
        *[("on_rate_limit", word) for word in ("fail", 1)],
    ],
)
def test_settings_that_are_none(setting: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments, match=setting):
        Group(name="g", **{setting: value})
    groups.save(str(tmp_path), Group(name="g"))
    path = tmp_path / "groups/g.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(StateCorrupt, match=setting):
        groups.load(str(tmp_path), "g")


def test_all_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    group = Group(
        name="g",
        rate="10/min",
        fair_by="label:user",
        pause_on_failure=3,
        on_rate_limit="ignore",
        on_reboot="fail",
        more={"newer": [1]},
    )
    groups.save(str(tmp_path), group)
    assert groups.load(str(tmp_path), "g") == group
    assert group.settings == (6 * 10**9, 10, "label:user", 3, "fail")


def test_strict_priority_outweighs_any_aging() -> None:
    assert Group(name="g", aging_seconds=None).aging_ns > Group(name="g", aging_seconds=86400).aging_ns


def test_a_group_that_cannot_be_read_now_is_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups.save(str(tmp_path), Group(name="g", limit=1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SupervisorError, match=r"g\.json") as raised:
        groups.load(str(tmp_path), "g")
    assert not isinstance(raised.value, StateCorrupt)
