from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.text.sizes import parse_size


@pytest.mark.parametrize(
    ("held", "size"),
    [
        ("0", 0),
        (" 4096 ", 4096),
        ("7b", 7),
        ("2k", 2048),
        ("2K", 2048),
        ("2KiB", 2048),
        ("2kB", 2000),
        ("200M", 200 << 20),
        ("200 MiB", 200 << 20),
        ("200MB", 200_000_000),
        ("1.5G", 3 << 29),
        ("0.0001k", 0),
        ("1GiB", 1 << 30),
        ("1t", 1 << 40),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(held: object, size: int) -> None:
    assert parse_size(held) == size


@pytest.mark.parametrize(
    "held",
    [
        *(
            "",
            " ",
            "M",
            "-1",
            "-1M",
            "1.5",
            "1.5b",
            ".5M",
            "1e6",
            "1_000",
            "64Q",
            "1MM",
            "1Mi B",
            "\u0665M",
            "inf",
            "none",
        ),
        *(True, None, b"1M", 1.0, -1, 2**63, str(2**63), "9999999t", "9" * 5000, "1." + "9" * 400 + "t" * 2),
    ],
)
def test_what_is_no_size(held: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the caller adds the accepted values
        parse_size(held)


@example("9" * 400 + ".5t")
@given(st.text(alphabet="0123456789.kMGTiB ") | st.text() | st.integers() | st.floats() | st.binary())
def test_anything_else_is_a_value_error(held: object) -> None:
    try:
        size = parse_size(held)
    except ValueError:
        return
    assert 0 <= size < 2**63
