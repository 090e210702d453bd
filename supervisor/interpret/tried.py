"""The versions of the agent programs that the interpreters were tried with, on runs of the real programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["TRIED"]

TRIED: Final[Mapping[str, tuple[str, ...]]] = {"claude": ("2.1.330", "2.1.332"), "codex": ("0.169.0", "0.171.0")}
