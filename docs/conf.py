"""Configures Sphinx for ``nox -s docs``, which treats warnings as errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import supervisor

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "trio-supervisor"
author = "The trio-supervisor authors"
version = release = supervisor.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "trio-supervisor"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True  # otherwise autodoc describes attributes a second time

_HEADINGS: Final = ("Input", "Output", "Errors", "Cancellation", "Time")
_ITEM: Final = re.compile(r"([\w.]+(?:, [\w.]+)*): (.*)")


def _lay_out(_app: Sphinx, _what: str, _name: str, _obj: object, _options: Any, lines: list[str]) -> None:
    """Render the headings of this package's docstrings, and the items below them as definitions."""
    laid_out: list[str] = []
    inside = in_item = in_text = False
    for line in lines:
        if line in _HEADINGS:
            inside, in_item, in_text = True, False, False
            laid_out += ["", f".. rubric:: {line}", ""]
            continue
        if line and not line.startswith(" "):
            inside = False
        if not inside:
            laid_out.append(line)
            continue
        body = line[4:]
        if not in_text and (item := _ITEM.fullmatch(body)):
            in_item = True
            laid_out += ["", f"``{item[1]}``", f"    {item[2]}"]
            continue
        if in_item and body and not body.startswith(" "):
            in_item = False
            laid_out.append("")
        in_text = bool(body) and not in_item  # the next line of text may begin like an item and is none
        laid_out.append(body)
    lines[:] = laid_out


def setup(app: Sphinx) -> None:
    """Format docstrings before napoleon processes them."""
    app.connect("autodoc-process-docstring", _lay_out, priority=400)
