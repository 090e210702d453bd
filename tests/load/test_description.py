"""Mixes, plans, and percentiles."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import InvalidArguments
from supervisor.load import mix
from supervisor.load.mix import Mix, Sort
from supervisor.load.plan import Order, plan
from supervisor.load.series import Series, percentile
from supervisor.load.spread import parse_bytes, parse_number, parse_spread

# ---------------------------------------------------------------- spreads


@pytest.mark.parametrize(
    ("given", "mean", "most"),
    [
        ("0.5", 0.5, 0.5),
        (3, 3, 3),
        ("uniform:1:3", 2, 3),
        ("exp:0.2", 0.2, 2),
        ("exp:0.2:0.4", 0.2, 0.4),
        ("lognormal:1:1", 1, 10),
        ("lognormal:0.1:2:5", 0.229, 5),
    ],
)
def test_what_is_a_spread(given: Any, mean: float, most: float) -> None:
    found = parse_spread(given)
    assert found.mean == pytest.approx(mean, rel=0.01)
    assert found.maximum == most
    random = Random(1)
    drawn = [found.draw(random) for _ in range(20_000)]
    assert all(0 <= value <= most for value in drawn)
    if found.text != "exp:0.2:0.4":  # of which a good part is cut off
        assert fmean(drawn) == pytest.approx(mean, rel=0.05)


def test_the_99th_percentile_of_a_lognormal_is_where_it_was_put() -> None:
    random, found = Random(2), parse_spread("lognormal:10:200:100000")
    drawn = sorted(found.draw(random) for _ in range(50_000))
    assert percentile(drawn, 50) == pytest.approx(10, rel=0.05)
    assert percentile(drawn, 99) == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize(
    "given",
    [
        *("", "-1", "nan", "inf", "none", "1 s", "1:2", "gauss:1:2", None, True, []),
        *("exp", "exp:0", "exp:1:0.5", "exp:1:2:3", "uniform:2:1", "uniform:1", "lognormal:2:1", "lognormal:0:1"),
    ],
)
def test_what_is_none(given: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the caller adds the accepted values
        parse_spread(given)


def test_bytes_have_units() -> None:
    assert [parse_bytes(text) for text in ("7", "1e3", "2k", "2K", "1.5M", "1G")] == [
        7,
        1000,
        2048,
        2048,
        1572864,
        1 << 30,
    ]
    assert parse_spread("uniform:1k:1M", parse_bytes).values == (1024, 1 << 20)
    with pytest.raises(ValueError, match="k"):
        parse_number("2k")


def test_seconds_have_units() -> None:
    assert parse_spread("exp:1m30s:1h").values == (90,)
    assert parse_spread("2d").mean == 172800


# ---------------------------------------------------------------- mixes


def test_the_example_says_what_it_shows() -> None:
    found = mix.parse(mix.EXAMPLE, "mix.toml")
    assert (found.rate, found.for_seconds, found.arrivals, found.jobs) == (20, 10, "poisson", None)
    quick, fails, cancelled, late = found.sorts
    assert (quick.share, quick.seconds.text, quick.output_bytes.maximum) == (90, "exp:0.2:2", 655360)
    assert (fails.exit_code, fails.stderr_bytes.mean) == (3, 200)
    assert cancelled.cancel_after_seconds is not None
    assert late.deadline_seconds is not None
    assert cancelled.seconds.mean == late.seconds.mean == 3600
    assert found.expected_jobs == 200
    assert found.max_output_bytes == 655360


def test_what_is_given_beside_a_file_stands_above_it(tmp_path: Path) -> None:
    path = tmp_path / "mix.toml"
    path.write_text(mix.EXAMPLE, encoding="utf-8")
    found = mix.load(path, rate=5, seed=9, jobs=None)
    assert (found.rate, found.seed, found.for_seconds) == (5, 9, 10)


def test_a_seed_is_made_up_where_there_is_none() -> None:
    assert len({mix.parse(mix.EXAMPLE, "mix.toml").seed for _ in range(5)}) > 1


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("rate = 0\n[job.a]", "rate is 0; allowed: a number of jobs a second", 1),
        ("rate = true\n[job.a]", "rate is True", 1),
        ("[job.a]\nshare = 1\n[job.b]\nshare = -1", "in [job.b]: share is -1", 4),
        ('[job.a]\nseconds = "soon"', "seconds is 'soon'; allowed: a number, uniform:LOW:HIGH", 2),
        ("[job.a]\nlength = 1", "there is no key 'length' here; allowed: one of cancel_after_seconds, ", 2),
        ("speed = 1\n[job.a]", "there is no key 'speed' here; allowed: one of arrivals", 1),
        ("[job.a]\nexit_code = 126", "exit_code is 126", 2),
        ("[job.a]\nstubborn = true", "stubborn needs a job that is stopped", 2),
        ("[job.a]\ndeadline_seconds = 0", "deadline_seconds is 0", 2),
        ("[job.a]\nseconds = 1\ndeadline_seconds = 1", "seconds is not allowed here", 2),
        ("[job.a]\ncancel_after_seconds = 1\ndeadline_seconds = 1", "not both", 3),
        ('arrivals = "often"\n[job.a]', 'arrivals is \'often\'; allowed: "poisson" or "constant"', 1),
        ("jobs = 0\n[job.a]", "jobs is 0", 1),
        ("job = 1", "there are no jobs in it", 1),
        ("rate = 1", "there are no jobs in it", None),
        ("[job]\na = 1", "a is 1; allowed: a table: [job.a]", 2),
        ("rate =", "this is not TOML", None),
    ],
)
def test_a_mistake_is_named(text: str, said: str, line: int | None) -> None:
    with pytest.raises(InvalidArguments) as caught:
        mix.parse(text, "mix.toml")
    assert said in caught.value.message
    assert caught.value.repair
    assert caught.value.details.get("line") == line
    if line is not None:
        assert f"mix.toml, line {line}" in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments, match="No such file"):
        mix.load(tmp_path / "none.toml")
    path = tmp_path / "odd.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidArguments, match="not UTF-8"):
        mix.load(path)


def simple(**given: Any) -> Mix:
    shape = {"cancels": 0.0, "timeouts": 0.0, "failures": 0.0, **given}
    return mix.simple(seconds=parse_spread(1), output_bytes=parse_spread(10), **shape)


def test_a_mix_of_options() -> None:
    assert [sort.name for sort in simple().sorts] == ["plain"]
    found = simple(cancels=0.2, timeouts=0.3, failures=0.5)
    assert {sort.name: sort.share for sort in found.sorts} == {"failing": 0.5, "cancelled": 0.2, "late": 0.3}
    with pytest.raises(InvalidArguments, match=r"is 1\.1"):
        simple(cancels=0.6, timeouts=0.5)
    with pytest.raises(InvalidArguments, match="more than"):
        simple(rate=100_000, for_seconds=1000)


def test_the_report_of_a_mix_is_one_again() -> None:
    def toml(value: Any) -> str:
        return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)

    for found in (mix.parse(mix.EXAMPLE, "mix.toml"), simple(cancels=0.1, timeouts=0.1, failures=0.1)):
        shape = found.to_json()
        tables = shape.pop("job")
        lines = [f"{name} = {toml(value)}" for name, value in shape.items() if value is not None]
        for name, table in tables.items():
            lines += [f"[job.{name}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
        assert list(plan(mix.parse("\n".join(lines), "again"))) == list(plan(found))


# ---------------------------------------------------------------- plans


def planned(**given: Any) -> list[Order]:
    return list(plan(simple(**{"cancels": 0.3, "timeouts": 0.3, "rate": 50, "for_seconds": 20, "seed": 4, **given})))


def test_a_seed_makes_the_same_plan_again_and_another_another() -> None:
    assert planned() == planned()
    assert planned() != planned(seed=5)


def test_the_plan_of_a_seed_stays_as_it_is() -> None:
    """People compare runs of one seed across releases."""
    first, second, *_ = planned()
    assert (round(first.due, 6), first.sort.name) == (0.018766, "cancelled")
    assert (round(second.due, 6), second.sort.name, round(second.cancel_after or 0, 6)) == (
        0.022099,
        "cancelled",
        0.908003,
    )


def test_other_arrivals_leave_the_jobs_as_they_are() -> None:
    def shapes(orders: list[Order]) -> list[tuple[str, float | None, float | None]]:
        return [(order.sort.name, order.cancel_after, order.deadline) for order in orders[:500]]

    assert shapes(planned()) == shapes(planned(arrivals="constant"))
    assert [order.due for order in planned()] == [order.due for order in planned(cancels=0.0)]


def test_constant_arrivals_are_evenly_spaced() -> None:
    orders = planned(arrivals="constant", rate=4, for_seconds=2.1)
    assert [order.due for order in orders] == [number / 4 for number in range(9)]
    assert [order.number for order in orders] == list(range(1, 10))


def test_poisson_arrivals_come_at_their_rate_and_by_chance() -> None:
    orders = planned(rate=100, for_seconds=100)
    assert len(orders) == pytest.approx(10_000, rel=0.05)
    gaps = [later.due - earlier.due for earlier, later in pairwise(orders)]
    # Of an exponential distribution the share of gaps beyond the mean is 1/e.
    assert sum(gap > 0.01 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def test_a_number_of_jobs_ends_a_plan() -> None:
    assert len(planned(jobs=7)) == 7


def test_shares_are_kept() -> None:
    orders = planned(rate=500, cancels=0.3, timeouts=0.1)
    assert sum(order.sort.name == "cancelled" for order in orders) / len(orders) == pytest.approx(0.3, abs=0.02)
    assert all((order.cancel_after is not None) == (order.sort.name == "cancelled") for order in orders)
    assert all((order.deadline is not None) == (order.sort.name == "late") for order in orders)


# ---------------------------------------------------------------- percentiles


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([1, 50, 90, 99, 100]))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= percent / 100 * len(ordered)
    assert sum(value < found for value in ordered) < percent / 100 * len(ordered)


def test_a_series() -> None:
    series = Series()
    assert series.to_json() == {"count": 0, "p50": None, "p90": None, "p99": None, "max": None}
    for number in range(100, 0, -1):
        series.add(number / 1000)
    assert series.to_json() == {"count": 100, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert series.recent()[0] == 0.001
    series.add(0.5)
    assert series.recent() == [0.5]
    assert series.recent() == []


def test_a_sort_says_what_differs_from_the_rest() -> None:
    assert Sort(name="a", share=2).to_json() == {"share": 2}
