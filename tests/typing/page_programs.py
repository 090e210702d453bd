"""Checks the types of the programs on the pages with mypy and pyright, both strict; ``nox -s types`` runs it.

It extracts each program into a file of its own, on the lines on which the program stands on its page.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = re.compile(
    r"^(?P<source><!-- source: \S+ -->\n)?(?:<!-- file: (?P<name>\S+) -->\n)?```py(?:thon)?\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


def extract(target: Path) -> list[Path]:
    """Write each program into ``target``: under the name that its page gives it, or that of the page and the line."""
    written: list[Path] = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for program in PROGRAM.finditer(text):
            if program["source"]:
                continue  # `mypy` and `pyright` check the file itself
            line = text.count("\n", 0, program.start("text"))
            file = target / (program["name"] or f"{page.stem.replace('-', '_')}_{line + 1}.py")
            if file in written:
                message = f"{page.name}: there is a program {file.name} on another page"
                raise ValueError(message)
            file.write_text("\n" * line + program["text"], encoding="utf-8")
            written.append(file)
    return written


def main() -> int:
    """Return 0 if both checkers find no mistake."""
    with tempfile.TemporaryDirectory() as directory:
        files = list(map(str, extract(Path(directory))))
        config = Path(directory, "pyrightconfig.json")
        config.write_text('{"typeCheckingMode": "strict", "pythonVersion": "3.11"}', encoding="utf-8")
        checkers = (
            [sys.executable, "-m", "mypy", "--strict", "--config-file=", *files],
            [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(config)],
        )
        return max([subprocess.call(checker, cwd=directory) for checker in checkers])


if __name__ == "__main__":
    sys.exit(main())
