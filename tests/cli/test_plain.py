from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from supervisor.cli import main, plain
from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings
from supervisor.states import State
from tests.jobs.test_reading import make


@pytest.fixture
def catalog(state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """Return a state root with ended jobs, two of them of the current directory."""
    monkeypatch.chdir(tmp_path)
    with Catalog(Settings(state_dir=state_dir)) as opened:
        make(opened, 0, workspace=str(tmp_path))
        make(opened, 1, state=State.FAILED, workspace=str(tmp_path), labels={"batch": "4"})
        make(opened, 2, state=State.CANCELLED, argv=["sh", "-c", "echo '\x1b[31m' | cat"])
        yield opened


def both(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: Sequence[str]) -> bool:
    """Compare the answer of a command with the one of click's; return whether it was given without click."""
    capsys.readouterr()
    answers: list[int | None] = []
    answer = plain.answer

    def watched(arguments: Sequence[str]) -> int | None:
        answers.append(answer(arguments))
        return answers[-1]

    monkeypatch.setattr(plain, "answer", watched)
    status = main(words)
    shown = capsys.readouterr()
    monkeypatch.setattr(plain, "answer", lambda _: None)
    assert main(words) == status
    assert capsys.readouterr() == shown
    monkeypatch.setattr(plain, "answer", answer)
    return answers != [None]


@pytest.mark.parametrize(
    "words",
    [
        ["status", "00000000"],
        ["status", "00000001"],
        ["status", "--json", "00000001"],
        ["status", "00000002", "--json"],
        ["status", "00000002"],
        ["list"],
        ["list", "--all"],
        ["list", "--json"],
        ["list", "--json", "--all", "--limit", "2"],
        ["list", "--all", "--limit=3"],
        ["list", "--all", "--limit", "2"],
        ["list", "--json", "--limit", "2"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("catalog")
def test_the_usual_forms_have_the_answer_of_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr("supervisor.cli.text.ago", lambda *_: "a moment")  # the two answers are given one after another
    monkeypatch.setattr("supervisor.cli.job_text.text.duration", lambda _: "some time")
    assert both(capsys, monkeypatch, words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--json", "status", "00000000"],
        ["status"],
        ["status", ""],
        ["status", "-h"],
        ["status", "--", "00000000"],
        ["status", "00000000", "00000001"],
        ["status", "000"],
        ["status", "0000"],
        ["status", "ffffffff"],
        ["status", "--state-dir"],
        ["status", "00000000", "--state-dir", ""],
        ["status", "--all", "00000000"],
        ["list", "00000000"],
        ["list", "--limit"],
        ["list", "--limit", "0"],
        ["list", "--limit", "1001"],
        ["list", "--limit", "two"],
        ["list", "--label", "batch=4"],
        ["list", "--state-dir", "/nowhere/at/all", "--state-dir", "/nowhere"],
        ["list", "--state-dir", "none"],
        ["ls"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("catalog")
def test_other_words_are_left_to_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr("supervisor.cli.text.ago", lambda *_: "a moment")
    assert not both(capsys, monkeypatch, words)


@pytest.mark.usefixtures("catalog")
def test_a_setting_that_is_wrong_is_left_to_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_TTL", "soon")
    assert not both(capsys, monkeypatch, ["status", "00000000", "--json"])


def test_a_job_that_has_not_ended_is_left_to_the_command(catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    make(catalog, 3, state=None)
    assert plain.answer(["status", "00000003"]) is None
    assert plain.answer(["list", "--all"]) is None
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("catalog")
def test_another_state_root_is_named_by_an_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = os.environ["SUPERVISOR_STATE_DIR"]
    monkeypatch.setenv("SUPERVISOR_STATE_DIR", str(tmp_path / "none"))
    for words in (["--state-dir", root], [f"--state-dir={root}"]):
        assert plain.answer(["status", "00000000", "--json", *words]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == "done"


@pytest.mark.usefixtures("catalog")
@pytest.mark.parametrize("words", [["status", "00000000", "--json"], ["list", "--all"]], ids=" ".join)
def test_an_answer_loads_neither_click_nor_what_launches_and_repairs(words: list[str]) -> None:
    program = "import sys; from supervisor.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    heavy = {"click", "logging", "cattrs", "ctypes", "trio", "supervisor.store.queue", "supervisor.store.index"}
    heavy |= {"supervisor.jobs.catalog", "supervisor.store.schema", "supervisor.interpret", "supervisor.engines"}
    assert ran.stdout
    assert heavy & {*ran.stderr.split()} == set()


@pytest.mark.usefixtures("catalog")
def test_a_terminal_gets_the_answer_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert plain.answer(["list", "--all"]) is None


@pytest.mark.usefixtures("catalog")
@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")])
def test_stdout_that_fails_has_the_status_of_the_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    class Failing(io.StringIO):
        def write(self, _: str, /) -> int:
            raise error

        def fileno(self) -> int:
            raise OSError

    monkeypatch.setattr(sys, "stdout", Failing())
    statuses = [main(["status", "00000000"])]
    monkeypatch.setattr(plain, "answer", lambda _: None)
    statuses.append(main(["status", "00000000"]))
    assert statuses[0] == statuses[1] != 0
    said = capfd.readouterr().err.splitlines()
    assert said[: len(said) // 2] == said[len(said) // 2 :]
