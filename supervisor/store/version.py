"""The version of the index, apart from its tables: a process that only reads needs the number, not the statements."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = 9
"""How many migrations ``schema`` has, which checks it: an index of this version has all tables of this package."""
