"""Run the benchmarks, print a table, and write the figures as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.figures import Figure, table


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all without any")
    parser.add_argument("--full", action="store_true", help="more rounds and larger numbers; takes some minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    chosen = parser.parse_args()
    unknown = set(chosen.cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    figures: list[Figure] = []
    for name in chosen.cases or CASES:
        sys.stderr.write(f"{name} ...\n")
        figures += CASES[name](full=chosen.full)
    sys.stdout.write(table(figures))
    if chosen.json is not None:
        facts = {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        }
        shape = {"machine": facts, "figures": [figure.to_json() for figure in figures]}
        chosen.json.write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
