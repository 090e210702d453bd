"""A copy of the package whose processes find on Linux what macOS has: no ``/proc``, no pidfds, no inotify; ``ps``.

``sys.platform`` stays ``linux``, as Trio and the standard library choose their system calls by it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent


def package(original: Path, target: Path) -> Path:
    """Make the copy of the package below ``original``; return the directory to import it from."""
    shutil.copytree(original / "supervisor", target / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
    programs = target / "bin"
    programs.mkdir()
    for name in ("ps", "sysctl"):
        program = programs / name
        program.write_text(f"#!{sys.executable} -IS\n{(HERE / name).read_text()}", encoding="utf-8")
        program.chmod(0o700)
    first = f"exec(open({str(HERE / 'missing.py')!r}).read(), {{'__name__': 'missing'}})\n"
    future = "from __future__ import annotations\n"
    _change(target / "supervisor" / "__init__.py", future, future + first)
    _change(target / "supervisor" / "keeper" / "entry.py", "", first)
    for name in ("cli/doctor/machine.py", "keeper/channels.py", "keeper/spawn.py", "system/inotify.py"):
        _change(target / "supervisor" / name, 'sys.platform.startswith("linux")', "False")
    _change(target / "supervisor" / "system" / "processes.py", '"PATH": "/usr/bin:', f'"PATH": "{programs}:/usr/bin:')
    return target


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} is not what this copy expects"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
