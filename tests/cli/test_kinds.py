"""Kinds of other distributions on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.interpret import BUILT_IN

OURS = ", ".join(sorted(BUILT_IN))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make what installing a distribution with these kinds would."""
    where = tmp_path / "site"
    info = where / "of_others-1.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: of-others\nVersion: 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(where))

    def done(**kinds: str) -> None:
        lines = ["[supervisor.kinds]", *(f"{name} = {target}" for name, target in kinds.items())]
        info.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return done


def test_the_help_lists_the_kinds_that_are_installed(cli: Any, install: Callable[..., None]) -> None:
    install(zz_sound_1="supervisor.interpret.codex:Codex")
    for command in ("run", "start"):
        words = re.sub(r"\s+", " ", cli(command, "--help").stdout)
        assert f"How its output is read: {OURS}, zz_sound_1." in words


def test_the_doctor_loads_every_kind(cli: Any, install: Callable[..., None]) -> None:
    (check,) = [check for check in cli.json("doctor")["checks"] if check["name"] == "kinds"]
    assert (check["verdict"], check["message"]) == ("fine", OURS)
    assert check["facts"]["progress"] == ["claude", "codex"]
    install(sound_2="supervisor.interpret.codex:Codex", gone_2="no_such_module:Kind", wrong_2="json:loads")
    (check,) = [check for check in cli.json("doctor")["checks"] if check["name"] == "kinds"]
    assert check["verdict"] == "warning"
    assert check["facts"]["installed"] == ["gone_2", "sound_2", "wrong_2"]
    assert check["facts"]["progress"] == ["claude", "codex", "sound_2"]
    assert set(check["facts"]["broken"]) == {"gone_2", "wrong_2"}
    assert "no_such_module" in check["message"]


def test_a_missing_kind_is_refused_with_those_there_are(cli: Any) -> None:
    done = cli("run", "--kind", "surely-no-such-kind", "--", "true")
    assert done.exit_code == 2
    assert OURS in done.stderr


@pytest.mark.parametrize("words", [["--detail", "half"], ["--detail", ""]])
def test_a_detail_that_there_is_not_is_refused(cli: Any, words: list[str]) -> None:
    job_id = cli.start("--", "true")
    cli("wait", job_id)
    shape = cli.json("result", job_id, *words, status=2)
    assert shape["error"]["code"] == "invalid_arguments"
    assert cli("result", job_id, "--detail", "summary").exit_code == 0
