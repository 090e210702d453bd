"""What is made of figures: ratios, goals, tables, plots, the page."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from benchmarks import pages
from benchmarks.cases import CASES
from benchmarks.figures import OURS, Cannot, Figure, Goal, Together, interleaved, number
from benchmarks.peers import every_peer
from benchmarks.peers.baselines import BARE, ORIGINAL
from benchmarks.plots import PLOTS, draw
from benchmarks.report import Run, markdown, table


def rate(at: float, ours: list[float], bare: list[float], **others: list[float]) -> Figure:
    return Figure(
        case="throughput",
        name=f"jobs, {at:g} in flight",
        unit="1/s",
        values={OURS: ours, BARE: bare, **others},
        missing={"nq": "not installed (Debian's nq)"},
        goals=[Goal(">=", 0.5, of=BARE), Goal("<=", 100)],
        at=at,
        along="jobs in flight",
    )


def a_run() -> Run:
    figures = [rate(1, [50, 60, 70], [100, 100, 200]), rate(16, [10, 10, 10], [100, 100, 100], tsp=[40, 50, 60])]
    for at in (10.0, 100.0):
        values = {OURS: [4.0, 5.0], ORIGINAL: [1.0, 2.0]}
        figures.append(Figure(case="growth", name=f"jobs, {at:g} kept", unit="1/s", values=values, at=at, along="kept"))
        values = {OURS: [0.5, 0.25]}
        figures.append(Figure(case="lists", name=f"list of {at:g}", unit="ms", values=values, at=at, along="kept"))
    figures += [
        Figure(case=case, name=case, unit="ms", values={OURS: [2.0, 3.0], BARE: [1.0, 1.0]})
        for case in ("starts", "exits")
    ]
    machine = {
        "processor": "A processor",
        "cores": 2,
        "memory_gib": 4,
        "kernel": "6",
        "python": "CPython 3",
        "file_system": "ext4",
        "commit": "abc",
        "date": "2026-01-02T03:04:05+00:00",
    }
    peers = {"tsp": {"version": "1.0", "about": "what of it was measured"}}
    return Run(machine=machine, load=[0.5, 1.5], size="toy", peers=peers, figures=figures)


def test_a_ratio_is_taken_within_each_round() -> None:
    figure = rate(1, [50, 60, 70], [100, 100, 200])
    assert figure.ratios(BARE) == [0.5, 0.6, 0.35]
    assert figure.ratios("circus") == []
    assert [goal.met(figure) for goal in figure.goals] == [True, True]
    assert Goal(">=", 0.51, of=BARE).met(figure) is False
    assert Goal("<=", 59).met(figure) is False
    assert Goal(">=", 1, of="circus").met(figure) is None


def test_contenders_take_turns_and_one_that_cannot_is_left_out_with_the_reason() -> None:
    order: list[str] = []

    def contender(name: str, value: float = 1) -> float:
        order.append(name)
        if value < 0:
            reason = "has no list"
            raise Cannot(reason)
        if value == 0:
            raise ZeroDivisionError
        return value

    contenders = {
        OURS: lambda: contender(OURS),
        "a": lambda: contender("a", 2),
        "b": lambda: contender("b", -1),
        "c": lambda: contender("c", 0),
    }
    values, missing = interleaved(3, contenders)
    assert order == [OURS, "a", "b", "c", "a", OURS, OURS, "a"]
    assert values == {OURS: [1, 1, 1], "a": [2, 2, 2]}
    assert missing == {"b": "has no list", "c": "failed: ZeroDivisionError()"}
    with pytest.raises(ZeroDivisionError):
        interleaved(1, {OURS: lambda: contender(OURS, 0)})


def test_what_is_measured_in_one_go_is_measured_again_for_each_round() -> None:
    measured: list[float] = []

    def measure() -> dict[str, float]:
        measured.append(0)
        return {OURS: len(measured), "a": -len(measured)}

    together = Together(measure)
    values, _ = interleaved(3, {OURS: together.one(OURS), "a": together.one("a")})
    assert values == {OURS: [1, 2, 3], "a": [-1, -2, -3]}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.01234, "0.0123"), (1.0, "1.00"), (12.34, "12.3"), (1234.5, "1,234"), (2e9, "2e+09")],
)
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


def test_tables_show_medians_ratios_goals_and_why_one_is_missing() -> None:
    shown = table(a_run().figures[:2])
    ours, bare, missing = shown.splitlines()[2:5]
    assert ours.split() == [
        "jobs,",
        "1",
        "in",
        "flight",
        "1/s",
        "ours",
        "60.0",
        "50.0",
        "-",
        "70.0",
        "<=",
        "100",
        "met",
    ]
    assert bare.split()[4:] == ["100", "100", "-", "200", "0.500x", ">=", "0.5x", "met"]
    assert missing.split() == ["nq", "-", "not", "installed", "(Debian's", "nq)"]
    assert "NOT MET" in shown
    assert "\x1b[" not in shown
    assert "\x1b[31m" in table(a_run().figures[:2], colour=True)
    page = markdown(a_run().figures[:2])
    assert "| jobs, 16 in flight, 1/s | ours | 10.0 | 10.0 - 10.0 | | <= 100: met |" in page
    assert "| | tsp | 50.0 | 40.0 - 60.0 | 0.200x | |" in page
    assert page.endswith("Not in it: nq: not installed (Debian's nq).\n")


def test_a_run_is_kept_whole(tmp_path: Path) -> None:
    run = a_run()
    run.save(tmp_path / "run.json")
    held = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert held["figures"][0]["medians"] == {OURS: 60, BARE: 100}
    assert held["figures"][0]["ratios"] == {BARE: 0.5}
    assert held["figures"][0]["met"] == [True, True]
    again = Run.load_from(tmp_path / "run.json")
    assert json.loads(json.dumps([figure.to_json() for figure in again.figures])) == held["figures"]
    assert pages.tables(again) == pages.tables(run)
    (tmp_path / "run.json").write_text('{"figures": []}', encoding="utf-8")
    with pytest.raises(ValueError, match="take them again"):
        Run.load_from(tmp_path / "run.json")


def test_what_was_taken_otherwise_says_so() -> None:
    run = a_run()
    before = pages.tables(run)
    assert "another run" not in before
    other = a_run()
    other.size = "full"
    other.machine = {**other.machine, "file_system": "tmpfs"}
    other.figures = [figure for figure in other.figures if figure.case == "lists"]
    other.failed = {"exits": "it failed"}
    run.put_in(other)
    shown = pages.tables(run)
    words = "Taken in another run: of full size, state root on tmpfs, commit `abc`, load average 0.5."
    assert shown.count(words) == 1
    assert words in shown[shown.index("### Asking for many") :]
    assert len(run.figures) == len(a_run().figures) - 1
    assert "**exits** failed: `it failed`" in shown
    assert "### Waiting" not in shown


def test_plots_show_what_was_measured_and_are_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = a_run()
    assert draw(run, tmp_path) == list(PLOTS)
    first = {name: (tmp_path / name).read_text(encoding="utf-8") for name in PLOTS}
    assert {"trio-supervisor", BARE, "tsp"} <= set(_words(first["performance-throughput.svg"]))
    assert ORIGINAL in _words(first["performance-growth.svg"])
    assert "2.50" in _words(first["performance-latency.svg"])
    draw(run, tmp_path)
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in PLOTS} == first
    run.figures[0] = rate(1, [500, 600, 700], [100, 100, 200])
    draw(run, tmp_path)
    assert (tmp_path / "performance-throughput.svg").read_text(encoding="utf-8") != first["performance-throughput.svg"]
    run.figures = [figure for figure in run.figures if figure.case != "growth"]
    assert "performance-growth.svg" not in draw(run, tmp_path)


def test_the_plot_has_a_colour_for_each_peer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = a_run()
    names = [peer.name for peer in every_peer()]
    every = {name: [float(number)] * 3 for number, name in enumerate(names, start=1)}
    figures = run.figures[:2]
    run.figures[:2] = [attrs.evolve(each, values={OURS: [50.0] * 3, **every}) for each in figures]
    draw(run, tmp_path)
    assert set(names) <= set(_words((tmp_path / "performance-throughput.svg").read_text(encoding="utf-8")))


def _words(picture: str) -> list[str]:
    return [line.rpartition("<")[0].rpartition(">")[2] for line in picture.splitlines() if "</text>" in line]


def test_the_page_shows_the_run_that_is_kept_beside_it() -> None:
    run = Run.load_from(pages.KEPT)
    shown = pages.PAGE.read_text(encoding="utf-8")
    assert pages.figures_in(shown) == pages.tables(run), "run `python -m benchmarks report docs/performance.json`"
    for name in PLOTS:
        assert "trio-supervisor" in _words((pages.PAGE.parent / name).read_text(encoding="utf-8"))


def test_only_what_stands_between_the_marks_is_renewed() -> None:
    page = "above\n<!-- figures -->\nold\n<!-- end of figures -->\nbelow\n"
    assert pages.figures_in(page) == "old\n"
    assert pages.renewed(page, "new \\1\n") == page.replace("old", "new \\1")
    assert pages.figures_in("no marks") is None


def test_the_page_has_a_place_for_each_case_and_says_what_was_only_published() -> None:
    assert set(pages._TITLES) == set(CASES)
    assert set(pages._PUBLISHED) <= set(CASES)
    run = a_run()
    run.figures.append(Figure(case="draining", name="a queue", unit="1/s", values={OURS: [2.0], BARE: [1.0]}))
    shown = pages.tables(run)
    assert shown.index("### Through a queue") < shown.index("Published, and not measured here: ")
    assert "Published" not in pages.tables(a_run())
