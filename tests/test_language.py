"""Sentences name their subjects: words that hide one are counted in the package and on the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HIDDEN = re.compile(r"\b(somebody|nobody|whoever|anybody)\b", re.IGNORECASE)

# These are data, not sentences: the holder of a claim on disk and the author of an end that was not seen.
EXCEPTED = re.compile(r"""\bNOBODY\b|"nobody"|`nobody`|https?://\S+""")

PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

# The most hidden subjects that each room or page may have. A number may only become smaller.
LIMITS = {
    "engines": 5,
}


def _files() -> Iterator[tuple[str, Path]]:
    """Yield each file with its room: the first name below ``supervisor``, ``docs``, or a page."""
    for path in sorted((ROOT / "supervisor").rglob("*.py")):
        yield path.relative_to(ROOT / "supervisor").parts[0].removesuffix(".py"), path
    for path in sorted((ROOT / "docs").rglob("*")):
        if path.suffix in {".md", ".py"}:
            yield "docs", path
    for name in PAGES:
        yield name, ROOT / name


def _found(text: str) -> list[tuple[int, str]]:
    """Return (line, word) for each hidden subject in ``text``."""
    lines = enumerate(text.splitlines(), 1)
    return [(number, match[0]) for number, line in lines for match in HIDDEN.finditer(EXCEPTED.sub("", line))]


def test_hidden_subjects_are_found() -> None:
    text = "Somebody knows.\nsomebodys, `nobody`, by='x', NOBODY\nit's nobody's, whoever\n"
    assert _found(text) == [(1, "Somebody"), (3, "nobody"), (3, "whoever")]


FOUND = {(room, path): _found(path.read_text(encoding="utf-8")) for room, path in _files()}


@pytest.mark.parametrize("room", sorted({room for room, _ in FOUND}))
def test_no_room_has_more_hidden_subjects_than_it_had(room: str) -> None:
    held = [f"{path}:{line}: {word}" for (there, path), words in FOUND.items() if there == room for line, word in words]
    assert len(held) <= LIMITS.get(room, 0), "\n".join(held)


def test_each_limit_is_of_a_room() -> None:
    assert set(LIMITS) <= {room for room, _ in FOUND}
