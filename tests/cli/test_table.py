from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli import table
from supervisor.cli.table import Cell, Column

WIDE = "\u65e5\u672c\u8a9e"  # two cells each
ACCENT = "e\u0301"  # one cell


def test_columns_are_aligned_without_tabs_and_trailing_blanks() -> None:
    lines = table.aligned([["ID", "AGE", "COMMAND"], ["abc", "9 s", "x"], ["d", "10 min", ""]], right=frozenset({1}))
    assert lines == ["ID      AGE  COMMAND", "abc     9 s  x", "d    10 min"]
    assert table.aligned([[WIDE, "x"], [ACCENT, "y"]]) == [f"{WIDE}  x", f"{ACCENT}       y"]


@pytest.mark.parametrize(
    ("text", "most", "end", "front"),
    [
        ("abcdef", 6, "abcdef", "abcdef"),
        ("abcdef", 4, "abc\u2026", "\u2026def"),
        ("abcdef", 1, "\u2026", "\u2026"),
        ("abcdef", 0, "", ""),
        (WIDE, 5, f"{WIDE[:2]}\u2026", f"\u2026{WIDE[1:]}"),
        (WIDE, 4, f"{WIDE[0]}\u2026", f"\u2026{WIDE[2]}"),
        (ACCENT * 3, 2, f"{ACCENT}\u2026", f"\u2026{ACCENT}"),
    ],
)
def test_a_text_is_cut_at_its_end_or_front(text: str, most: int, end: str, front: str) -> None:
    assert (table.cut(text, most), table.cut(text, most, front=True)) == (end, front)


@given(
    most=st.integers(0, 120),
    rows=st.lists(st.lists(st.text(st.characters(exclude_categories=["C"])), min_size=4, max_size=4), max_size=5),
)
def test_no_line_is_wider_than_the_terminal(most: int, rows: list[list[str]]) -> None:
    columns = [Column("ID"), Column("STATUS", least=10), Column("AGE", "right", spare=1), Column("COMMAND", least=16)]
    lines = table.fitted(columns, [[Cell(text) for text in row] for row in rows], most)
    assert len(lines) == len(rows) + 1
    assert all(table.width(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) <= most for line in lines)


def test_columns_that_can_be_spared_make_room() -> None:
    columns = [Column("ID"), Column("A", spare=1), Column("B", spare=2), Column("COMMAND", least=8)]
    row = [Cell("1"), Cell("aa"), Cell("bb"), Cell("x" * 30)]
    heads = {most: table.fitted(columns, [row], most)[0].replace("\x1b[0m", "").split() for most in (22, 18, 14, 5)}
    named = {most: [head.removeprefix("\x1b[1m") for head in found] for most, found in heads.items()}
    assert named[22] == ["ID", "A", "B", "COMMAND"]
    assert named[18] == ["ID", "A", "COMMAND"]
    assert named[14] == ["ID", "COMMAND"]
    assert named[5] == ["ID", "\u2026"]
