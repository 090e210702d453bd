"""Turns jobs, groups and overviews into HTML: the templates, their filters, and the static files.

Everything is escaped unless a template makes it. Text of jobs loses its control characters first, and is cut.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import attrs
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from supervisor.jobs import queue_text, words
from supervisor.jobs.overview import Overview
from supervisor.model import Spend
from supervisor.web.page.filters import FILTERS

__all__ = ["SECTIONS", "Section", "attention_in_words", "render", "sections_of", "static_files", "warm_up"]

_HERE: Final = Path(__file__).parent
_BAR_HEIGHT: Final = 30
_BAR_WIDTH: Final = 4
_DASH: Final = Markup('<span class="none">&ndash;</span>')  # our own text

SECTIONS: Final = ("attention", "numbers", "groups", "running", "waiting", "ended")
"""The parts of the overview that change, in their order on the page."""

_TICKING: Final = re.compile(r"(<time [^>]*data-(?:since|ago|left)=[^>]*>)[^<]*")
"""What passes with the time alone: scripts in the browser count on."""


@attrs.frozen(slots=True)
class Section:
    """A part of a page that is replaced as a whole.

    Attributes:
        name: the ``id`` of its element.
        html: the element.
        key: differs after a change that is more than the passage of time.
    """

    name: str
    html: Markup
    key: str

    @classmethod
    def of(cls, name: str, html: str) -> Section:
        """Return the section of this element."""
        return cls(name, Markup(html), _TICKING.sub(r"\1", html))  # noqa: S704  # a template has made it


def render(template: str, **values: Any) -> str:
    """Return a page or a part of one."""
    return _environment().get_template(template).render(**values)


def warm_up() -> None:
    """Compile the templates and read the static files, for which the first page would wait.

    The server needs the files of this package no more: they may be replaced or deleted.
    """
    static_files()
    for name in _environment().list_templates():
        _environment().get_template(name)


def sections_of(overview: Overview, spent: Spend | None, *, may_change: bool, owner: bool) -> list[Section]:
    """Return the parts of the overview.

    Args:
        overview: what to show.
        spent: what jobs have spent today; ``None`` if that is not known now.
        may_change: whether there are buttons.
        owner: whether groups may be changed, too.
    """
    values = {
        "overview": overview,
        "spent": spent,
        "now": overview.at,
        "ends": _bars(overview.ends),
        "may_change": may_change,
        "owner": owner,
    }
    return [Section.of(name, render(f"{name}.html", **values)) for name in SECTIONS]


def attention_in_words(overview: Overview) -> str:
    """Return in one sentence what needs attention, for a screen reader."""
    paused = sum(bool(group.paused) for group in overview.groups)
    parts = [words.plural(count, "job") + " ended badly" for count in [overview.counts.get("failed", 0)] if count]
    parts += [words.plural(paused, "group") + " paused"] * bool(paused)
    parts += [queue_text.unattended(overview.unattended)] * bool(overview.unattended)
    dead = overview.dead_deliveries
    parts += [f"{dead} deliver{'y' if dead == 1 else 'ies'} given up"] * bool(dead)
    return f"Needs attention: {'; '.join(parts)}." if parts else "Nothing needs attention."


@attrs.frozen(slots=True)
class _Bar:
    what: str
    x: int
    y: float
    height: float


@attrs.frozen(slots=True)
class _Ends:
    well: int
    badly: int
    most: int
    bars: list[_Bar]


def _bars(ends: tuple[tuple[int, int], ...]) -> _Ends:
    most = max((well + badly for well, badly in ends), default=0)
    bars: list[_Bar] = []
    for number, (well, badly) in enumerate(ends):
        top = 31.0
        for what, count in (("well", well), ("badly", badly)):
            if count:
                height = round(max(1.5, _BAR_HEIGHT * count / most), 1)
                top -= height
                bars.append(_Bar(what, number * _BAR_WIDTH, round(max(0.0, top), 1), height))
    return _Ends(sum(well for well, _ in ends), sum(badly for _, badly in ends), most, bars)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(FILTERS)
    shared: dict[str, Any] = {"static": _static_url, "dash": _DASH}
    made.globals.update(shared)
    return made


# ------------------------------------------------------------ static files

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@cache
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Return the static files by their names: (content, media type)."""
    files = [each for each in sorted((_HERE / "static").iterdir()) if each.suffix in _TYPES]
    return {each.name: (each.read_bytes(), _TYPES[each.suffix]) for each in files}


@cache
def _static_url(name: str) -> str:
    digest = hashlib.sha256(static_files()[name][0]).hexdigest()[:12]
    return f"/page/{name}?v={digest}"
