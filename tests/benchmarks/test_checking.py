"""A run is compared with the page by its ratios: what fell is named, and noise is told from a loss."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

import benchmarks.__main__ as program
from benchmarks import checking
from benchmarks.checking import compare, place_like, pooled, told
from benchmarks.figures import OURS, Figure
from benchmarks.pages import KEPT
from benchmarks.peers.baselines import BARE, ORIGINAL
from benchmarks.plan import Plan
from benchmarks.report import Run
from supervisor.system.file_systems import file_system_of


def figure(name: str, values: Mapping[str, Sequence[float]], *, unit: str = "1/s", case: str = "growth") -> Figure:
    return Figure(case=case, name=name, unit=unit, values=values)


def run_of(*figures: Figure, size: str = "full", file_system: str = "tmpfs") -> Run:
    machine = {
        "processor": "A processor", "cores": 2, "memory_gib": 4, "kernel": "6", "python": "CPython 3",
        "file_system": file_system, "commit": "abc", "date": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return Run(machine=machine, load=[0.5, 1.5], size=size, peers={}, figures=[*figures])


def verdicts(page: Run, run: Run) -> dict[str, str]:
    return {each.name: each.verdict for each in compare(page, run)[0]}


@pytest.mark.parametrize(
    ("ours", "beside", "unit", "verdict"),
    [
        ([50, 50, 50], [100, 100, 100], "1/s", "held"),
        ([25, 25, 25], [50, 50, 50], "1/s", "held"),  # a machine of half the speed
        ([46, 46, 46], [100, 100, 100], "1/s", "held"),
        ([44, 44, 44], [100, 100, 100], "1/s", "fell"),
        ([80, 90, 90], [100, 100, 100], "1/s", "held"),  # better is never worse
        ([54, 54, 54], [100, 100, 100], "ms", "held"),
        ([57, 57, 57], [100, 100, 100], "ms", "fell"),
        ([20, 20, 20], [100, 100, 100], "ms", "held"),
        ([40, 40, 60], [100, 100, 100], "1/s", "noisy"),
        ([55, 70, 49], [100, 100, 100], "ms", "held"),
        ([60, 70, 49], [100, 100, 100], "ms", "noisy"),
    ],
)
def test_a_figure_falls_by_more_than_a_tenth_of_its_ratio(
    ours: list[float], beside: list[float], unit: str, verdict: str
) -> None:
    page = run_of(figure("a", {OURS: [49, 50, 51], BARE: [100, 100, 100]}, unit=unit))
    assert verdicts(page, run_of(figure("a", {OURS: ours, BARE: beside}, unit=unit))) == {"a": verdict}


def test_one_contender_that_became_quicker_is_no_loss_of_ours() -> None:
    page = run_of(figure("a", {OURS: [50, 50], BARE: [100, 100], ORIGINAL: [10, 10], "nq": [40, 40]}))
    other = run_of(figure("a", {OURS: [50, 50], BARE: [100, 100], ORIGINAL: [10, 10], "nq": [400, 400]}))
    assert verdicts(page, other) == {"a": "held"}
    slower = run_of(figure("a", {OURS: [40, 40], BARE: [100, 100], ORIGINAL: [10, 10], "nq": [10, 10]}))
    assert verdicts(page, slower) == {"a": "fell"}


def test_memory_stands_for_itself_and_a_time_without_contender_is_not_compared() -> None:
    page = run_of(figure("memory", {OURS: [10, 10]}, unit="KiB"), figure("alone", {OURS: [10, 10]}, unit="ms"))
    found, without = compare(
        page, run_of(figure("memory", {OURS: [12, 12]}, unit="KiB"), figure("alone", {OURS: [99, 99]}, unit="ms"))
    )
    assert [(each.name, each.verdict) for each in found] == [("memory", "fell")]
    assert without == {"have no contender in both runs": ["alone"]}


def test_what_was_taken_otherwise_is_not_compared_and_says_why() -> None:
    one = figure("a", {OURS: [50, 50], BARE: [100, 100]})
    page = run_of(one)
    assert compare(page, run_of(one, size="quick")) == ([], {"have full size on the page": ["a"]})
    assert compare(page, run_of(one, file_system="ext4")) == ([], {"have the state root on tmpfs on the page": ["a"]})
    assert compare(page, run_of(attrs.evolve(one, name="b"))) == ([], {"are not on the page": ["b"]})
    none = figure("a", {OURS: [0, 0], BARE: [100, 100]})
    assert compare(run_of(none), run_of(none)) == ([], {"are zero": ["a"]})


def test_the_words_name_what_fell_and_what_is_noisy_with_the_spread_and_what_to_do() -> None:
    values = {OURS: [50, 50, 50], BARE: [100, 100, 100]}
    page = run_of(figure("down", values), figure("loud", values), figure("same", values))
    run = run_of(
        figure("down", {**values, OURS: [30, 25, 20]}),
        figure("loud", {**values, OURS: [20, 40, 60]}),
        figure("same", values),
    )
    run.machine = {**run.machine, "kernel": "7"}
    run.failed = {"mcp": "it failed"}
    words = told(page, run, *compare(page, run))
    fell, noisy = words.index("fell by more than 10 %:\n  growth: down"), words.index("too noisy to tell")
    assert "50 % less than on the page, beside bare spawn and wait; rounds from 0.40 to 0.60 of it" in words[fell:noisy]
    assert "loud\n    20 % less" in words[noisy:]
    assert "rounds from 0.40 to 1.20 of it, the page's rounds are from 1.00 to 1.00" in words[noisy:]
    assert "growth: same" not in words
    assert "mcp failed: it failed" in words
    assert "another kernel: 6 on the page, 7 here" in words
    assert "3 figures compared with the page of 2026-01-02: 1 fell, 1 noisy, 1 held." in words
    assert "What to do: measure the commit of the page (abc)" in words
    assert "--check growth`" in words


def test_rounds_of_two_runs_are_put_together() -> None:
    one = run_of(figure("a", {OURS: [1], BARE: [2], "nq": [3]}), figure("b", {OURS: [1]}))
    both = pooled(one, run_of(figure("a", {OURS: [4], BARE: [5]})))
    assert [each.values for each in both.figures] == [{OURS: [1, 4], BARE: [2, 5]}, {OURS: [1]}]


def test_the_place_has_the_file_system_of_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert place_like(file_system_of(str(tmp_path))) == tmp_path
    monkeypatch.setattr(checking, "_SHARED_MEMORY", tmp_path / "none")
    assert place_like("a file system of another kind") is None


class _Measured:
    """A case that takes its figures from a list, a figure each time that it is measured."""

    def __init__(self, *ours: Sequence[float]) -> None:
        self._ours = iter(ours)

    def __call__(self, plan: Plan, /) -> Iterator[Figure]:
        assert plan.folder.is_dir()
        yield figure("a", {OURS: next(self._ours), BARE: [100, 100, 100]})


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([[50, 50, 50]], "0 fell, 0 noisy, 1 held"),
        ([[30, 30, 30], [30, 30, 30]], "1 fell, 0 noisy, 0 held"),
        ([[30, 30, 30], [50, 50, 50]], "0 fell, 1 noisy, 0 held"),
        ([[30, 50, 30], [50, 50, 50]], "0 fell, 0 noisy, 1 held"),
    ],
)
def test_check_measures_as_the_page_did_and_once_more_what_fell(
    ours: list[list[float]], verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kept = tmp_path / "page.json"
    page = figure("a", {OURS: [50, 50, 50], BARE: [100, 100, 100]})
    run_of(page, size="toy", file_system=file_system_of(str(tmp_path))).save(kept)
    monkeypatch.setattr(program, "CASES", {"other": _Measured(), "growth": _Measured(*ours)})
    argv = ["benchmarks", "--check", "--against", str(kept), "--root", str(tmp_path)]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == int("1 fell" in verdict)
    assert verdict in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["page.json"]


def test_check_says_where_the_state_roots_of_the_page_stood(tmp_path: Path) -> None:
    run_of(figure("a", {OURS: [1], BARE: [1]}), file_system="a kind that no machine has").save(tmp_path / "page.json")
    with pytest.raises(SystemExit, match="a kind that no machine has: give a directory there with --root"):
        program.check(["--check", "--against", str(tmp_path / "page.json")])


def test_the_run_of_the_page_is_its_own_equal() -> None:
    page = Run.load_from(KEPT)
    found, _ = compare(page, page)
    assert len(found) > 30
    assert {each.verdict for each in found} == {"held"}
