from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.text.durations import finite_seconds, parse_seconds


@pytest.mark.parametrize(
    ("held", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("0.5", 0.5),
        (" 1e3 ", 1000),
        ("90s", 90),
        ("1.5s", 1.5),
        ("5m", 300),
        (" 5m ", 300),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1D2h3m4s", 93784),
        ("0s", 0),
        ("None", math.inf),
        (7, 7),
        (math.inf, math.inf),
    ],
)
def test_a_duration_is_seconds_or_has_units(held: object, seconds: float) -> None:
    assert parse_seconds(held) == seconds


@pytest.mark.parametrize(
    "held",
    [
        *(
            "",
            " ",
            "s",
            "5 minutes",
            "1m1h",
            "1m1m",
            "-5m",
            "-1",
            "1.5h",
            "\u0665m",
            "nan",
            "5M5",
            "1 h",
            "1h 30m",
            "1h30",
        ),
        *(True, None, b"5m", [5], -0.5, math.nan, 10**400),
    ],
)
def test_what_is_no_duration(held: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the caller adds the accepted values
        parse_seconds(held)


@pytest.mark.parametrize("held", ["none", "inf", math.inf, "9" * 400 + "d"])
def test_a_finite_duration_is_not_infinite(held: object) -> None:
    assert parse_seconds(held) == math.inf
    with pytest.raises(ValueError):  # noqa: PT011  # as above
        finite_seconds(held)


@given(st.floats(min_value=0, allow_nan=False) | st.integers(min_value=0, max_value=10**12))
def test_durations_are_read_back_from_how_they_are_written(seconds: float) -> None:
    assert parse_seconds(seconds) == parse_seconds(str(seconds)) == seconds


@example(10**400)
@example("9" * 5000)
@example("9" * 5000 + "d")
@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans() | st.binary())
def test_anything_else_is_a_value_error(held: object) -> None:
    try:
        seconds = parse_seconds(held)
    except ValueError:
        return
    assert seconds >= 0
