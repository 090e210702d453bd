"""Generates the page that leads from a word to the sections about it: ``python docs/generate_terms.py``.

A test fails while ``docs/terms.md`` differs. The words are those of the code: commands, options and variables, and the
terms of the design page. The sections are those of the pages in which a word stands: in the heading, at the head of a
row of a table, or in the text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click

from supervisor.cli.app import app

DOCS: Final = Path(__file__).parent
PAGE: Final = DOCS / "terms.md"
_MOST: Final = 3
"""The most sections for one word."""
_OTHERS: Final = {"errors.md", "index.md", "limits.md", "performance.md", "reference.md", "terms.md"}
"""Pages with an order of their own, and that of figures."""

TEXT: Final = """\
<!-- `python docs/generate_terms.py` makes this page from the code and the other pages; a change here is lost. -->
# Where to find a word

Look for a term, a command, an option or a variable on this page, with the search of your browser. Each leads to the sections about it.
The site that `nox -s docs` builds has a search over all pages as well.

Not here: [error codes](errors.md#all-codes) with causes and repairs, [limits and defaults](limits.md), and the [names in Python](reference.md).

## Terms

[Words](design.md#words) defines each.

{terms}

## Commands

`supervisor COMMAND --help` describes one.

{commands}

## Options

{options}

## Variables

{variables}
"""

_HEADING: Final = re.compile(r"^(#{1,3}) (.+)$", re.MULTILINE)
_FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_TERM: Final = re.compile(r"^\| ([^|]+?) \| ", re.MULTILINE)


class _Section(NamedTuple):
    page: str
    title: str
    anchor: str
    text: str
    prose: str

    @property
    def link(self) -> str:
        place = self.page.removesuffix(".md")
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", self.title)
        return f"[{place}: {title}]({self.page}{self.anchor})"


def _pages() -> Iterator[Path]:
    """Yield the pages in the order in which a section is preferred: how to do it, the rest, examples."""
    late = {"tutorial.md", "comparison.md", "design.md", "versions.md", "architecture.md", "releasing.md"}
    own = sorted(path for path in DOCS.glob("*.md") if path.name not in _OTHERS)
    yield from sorted(own, key=lambda path: path.name in late)
    yield from sorted(path for path in DOCS.glob("cookbook/*.md") if path.name != "index.md")


def _sections() -> Iterator[_Section]:
    for path in _pages():
        text = path.read_text(encoding="utf-8")
        blank = _FENCED.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
        headings = list(_HEADING.finditer(blank))
        titles = [heading[2] for heading in headings]
        for heading, end in zip(headings, [*(each.start() for each in headings[1:]), len(text)], strict=True):
            name = str(path.relative_to(DOCS))
            # A heading that is there twice has a number in its anchor, and that of the page needs none.
            plain = len(heading[1]) > 1 and titles.count(heading[2]) == 1
            yield _Section(
                name,
                heading[2],
                f"#{_anchor(heading[2])}" if plain else "",
                text[heading.end() : end],
                blank[heading.end() : end],
            )


def _anchor(title: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
    return re.sub(r"[^\w\- ]", "", shown).strip().replace(" ", "-")


def _about(pattern: str, sections: Iterable[_Section], *, in_text: bool = True) -> list[str]:
    """Return links to the sections about what the pattern finds, the best ones first."""
    word, head = re.compile(pattern, re.IGNORECASE), re.compile(rf"^\|[^|]*{pattern}", re.MULTILINE)
    ranked: list[tuple[int, int, str]] = []
    for number, section in enumerate(sections):
        if word.search(section.title):
            ranked.append((0, number, section.link))
        elif in_text and word.search(section.text):
            rank = 1 if head.search(section.prose) else 2 if word.search(section.prose) else 3
            ranked.append((rank, number, section.link))
    return [link for _, _, link in sorted(ranked)[:_MOST]]


def _commands(
    command: click.Command, parent: click.Context | None = None, path: str = ""
) -> Iterator[tuple[str, click.Command]]:
    """Yield each command with its words."""
    context = click.Context(command, parent=parent)
    if path:
        yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _commands(found, context, f"{path} {name}".strip())


def _options() -> dict[str, list[str]]:
    """Return the long options, each with the commands that have it."""
    options: dict[str, list[str]] = defaultdict(list)
    for path, command in _commands(app):
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                for name in {each for each in (*param.opts, *param.secondary_opts) if each.startswith("--")}:
                    options[name].append(path)
    return options


def _row(name: str, links: list[str]) -> str:
    return f"* {name}: {', '.join(links)}"


def generated() -> str:
    """Return the text of the page."""
    sections = list(_sections())
    words = next(each for each in sections if (each.page, each.title) == ("design.md", "Words"))
    terms: list[str] = []
    for term in _TERM.findall(words.text)[2:]:
        plural = f"{term[:-1]}ies" if term.endswith("y") else f"{term}(?:s|es)?"
        links = _about(rf"\b(?:{term}|{plural})\b", sections, in_text=False)
        if links:
            terms.append(_row(term, links))
    commands = [
        _row(f"`supervisor {path}`", links)
        for path, _ in sorted(_commands(app))
        if (links := _about(rf"supervisor {path}\b(?!-)", sections))
    ]
    options: list[str] = []
    for name, having in sorted(_options().items()):
        links = _about(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sections)
        options.append(_row(f"`{name}`", links or [f"`supervisor {each} --help`" for each in having[:_MOST]]))
    names = {name for each in sections for name in re.findall(r"\bSUPERVISOR_[A-Z]\w+", each.text)}
    variables = [_row(f"`{name}`", links) for name in sorted(names) if (links := _about(rf"\b{name}\b", sections))]
    lists = {"terms": terms, "commands": commands, "options": options, "variables": variables}
    return TEXT.format(**{name: "\n".join(rows) for name, rows in lists.items()})


if __name__ == "__main__":
    PAGE.write_text(generated(), encoding="utf-8")
