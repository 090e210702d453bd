"""The checks of ``doctor`` for Slurm: with fake Slurm commands, and without any."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.engines.cluster.interface import Unreachable
from supervisor.engines.cluster.slurm import commands
from supervisor.engines.cluster.slurm.commands import Answer, Partition


def look(cli: Any, name: str = "Slurm") -> dict[str, Any]:
    (check,) = [check for check in cli.json("doctor")["checks"] if check["name"] == name]
    found: dict[str, Any] = check
    return found


def test_where_there_is_none_that_is_one_line(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = cli.json("doctor")["checks"]
    check = checks[-1]
    assert (check["name"], check["verdict"], check["repair"]) == ("Slurm", "note", None)
    assert check["message"] == 'not installed; needed only for engine="slurm"'
    assert "shared directory" not in {check["name"] for check in checks}


def test_one_that_is_well(cli: Any, fake_slurm: Any) -> None:
    check = look(cli)
    assert (check["verdict"], check["repair"]) == ("fine", None)
    assert check["message"] == "22.05.8; partitions: main (default) 3 of 3 nodes"
    assert check["facts"]["partitions"] == {"main": {"default": True, "up": True, "nodes": 3, "usable": 3}}
    assert fake_slurm.calls("squeue") == []


@pytest.mark.parametrize(
    ("trouble", "text", "says", "repair"),
    [
        ("version", "slurm 20.11.9", "22.05 or newer", "newer version"),
        ("version", "what?", "sbatch --version failed", "SLURM_CONF"),
        ("down", "", "22.05.8; its controller cannot be reached: sinfo: error: Unable to contact", "would wait"),
        ("nodes", "main*|down|idle|3\ngpu|up|down*|2\n", "gpu 0 of 2 nodes", "no partition is up"),
        ("nodes", "\n", "partitions: none", "no partition is up"),
    ],
)
def test_one_that_is_not(cli: Any, fake_slurm: Any, trouble: str, text: str, says: str, repair: str) -> None:
    if trouble == "down":
        fake_slurm.arrange("version", "slurm-wlm 22.05.8")
    fake_slurm.arrange(trouble, text)
    check = look(cli)
    assert check["verdict"] == "warning"
    assert says in check["message"]
    assert repair in check["repair"]


def test_one_that_does_not_answer_costs_seconds(cli: Any, fake_slurm: Any) -> None:
    fake_slurm.arrange("slow")
    begun = time.monotonic()
    check = look(cli)
    assert time.monotonic() - begun < 30
    assert (check["verdict"], check["facts"]["reachable"]) == ("warning", False)
    assert "no answer in time" in check["message"]


def test_one_that_is_there_in_part(cli: Any, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake_slurm.directory / "scancel").unlink()
    monkeypatch.setenv("PATH", str(fake_slurm.directory))
    check = look(cli)
    assert (check["verdict"], check["message"].partition(" ")[0]) == ("warning", "scancel")


@pytest.mark.usefixtures("fake_slurm")
class TestSharedDirectory:
    def test_none(self, cli: Any) -> None:
        check = look(cli, "shared directory")
        assert (check["verdict"], check["facts"]["path"]) == ("note", None)

    def test_one_that_is_not_there_is_not_made(self, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SUPERVISOR_SHARED_DIR", str(tmp_path / "a" / "b"))
        check = look(cli, "shared directory")
        assert check["verdict"] in {"note", "fine"}  # as the file system of this machine is
        assert "will create it" in check["message"]
        assert not (tmp_path / "a").exists()

    def test_one_that_others_may_write_to(self, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        monkeypatch.setenv("SUPERVISOR_SHARED_DIR", str(shared))
        check = look(cli, "shared directory")
        assert check["verdict"] == "warning"
        assert "yours alone" in check["message"]


def test_partitions_are_counted_over_their_lines() -> None:
    text = "main*|up|idle|2\nmain*|up|mixed-|1\nmain*|up|down*|1\nmain*|up|idle~|4\ngpu|drain|drained|2\n"
    assert commands.read_sinfo(Answer(0, text)) == [
        Partition(name="main", default=True, up=True, nodes=8, usable=7),
        Partition(name="gpu", default=False, up=False, nodes=2, usable=0),
    ]
    with pytest.raises(Unreachable, match="no answer in time"):
        commands.read_sinfo(Answer(None))
