"""Sentences name their subjects: words that hide one are counted in the package and on the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

HIDDEN = re.compile(r"\b(somebody|nobody|whoever|anybody)\b", re.IGNORECASE)

# These are data, not sentences: the holder of a claim on disk and the author of an end that was not seen.
EXCEPTED = re.compile(r"""\bNOBODY\b|"nobody"|`nobody`|https?://\S+""")

PAGES = ("README.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "ROADMAP.md", "SECURITY.md")

# The most hidden subjects in all. The number may only become smaller.
MAX_HIDDEN = 5


def _files() -> Iterator[Path]:
    """Yield the files of the package and the pages."""
    yield from sorted((ROOT / "supervisor").rglob("*.py"))
    yield from (path for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in {".md", ".py"})
    yield from (ROOT / name for name in PAGES)


def _found(text: str) -> list[tuple[int, str]]:
    """Return (line, word) for each hidden subject in ``text``."""
    lines = enumerate(text.splitlines(), 1)
    return [(number, match[0]) for number, line in lines for match in HIDDEN.finditer(EXCEPTED.sub("", line))]


def test_hidden_subjects_are_found() -> None:
    text = "Somebody knows.\nsomebodys, `nobody`, by='x', NOBODY\nit's nobody's, whoever\n"
    assert _found(text) == [(1, "Somebody"), (3, "nobody"), (3, "whoever")]


def test_at_most_five_sentences_hide_their_subject() -> None:
    held = [f"{path}:{line}: {word}" for path in _files() for line, word in _found(path.read_text(encoding="utf-8"))]
    assert len(held) <= MAX_HIDDEN, "\n".join(held)
