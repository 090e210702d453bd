"""What is measured, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.cases.throughput import throughput
from benchmarks.plan import Case

__all__ = ["CASES"]

CASES: Final[Mapping[str, Case]] = {
    "throughput": throughput,
}
