"""What a process loads so that it needs no file of its installation later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from supervisor.system import installation

LATER = """
    import ast, importlib, json, sys
    from importlib.util import find_spec
    from pathlib import Path

    importlib.import_module(sys.argv[1])
    from supervisor.system import installation

    installation.load_rest()
    later = set()
    for name, module in list(sys.modules.items()):
        if not name.startswith("supervisor.") or name.split(".")[1] in {"cli", "keeper", "load", "testing"}:
            continue
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for node in [node for function in functions for node in ast.walk(function)]:
            if isinstance(node, ast.Import):
                later.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                later.add(node.module)
                later.update(f"{node.module}.{alias.name}" for alias in node.names if node.module in {"supervisor.jobs",
                    "supervisor.store", "supervisor.interpret", "supervisor.text", "supervisor.runtime"})
    def exists(name):
        try:
            return find_spec(name) is not None
        except ImportError:
            return False
    print(json.dumps(sorted(name for name in later if name not in sys.modules and exists(name))))
"""


def test_an_open_supervisor_imports_nothing_later() -> None:
    """Each import in a function of a module that it has loaded is of a module that it has loaded, too."""
    program = [sys.executable, "-c", textwrap.dedent(LATER), "supervisor.runtime.opening"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    later = json.loads(done.stdout)
    # Spans are made where the program has imported OpenTelemetry, and without `structlog` the log is that of `logging`.
    assert [name for name in later if name.split(".")[0] not in {"opentelemetry", "structlog"}] == []


def test_a_package_is_imported_before_a_module_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a thread that imports the package meanwhile, and with it the module, waits for no thread that waits for it."""
    imported: list[str] = []
    monkeypatch.setattr(installation, "_unloaded", lambda: ["a.b.c", "d"])
    monkeypatch.setattr(installation, "import_module", imported.append)
    assert len(list(installation.steps())) == 2
    assert imported == ["a", "a.b", "a.b.c", "d"]


def test_a_package_that_is_not_the_one_of_the_start_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not installation.has_changed()
    monkeypatch.setattr(installation, "PACKAGE", str(tmp_path))
    assert installation.has_changed()
    assert list(installation.steps()) == []
    (tmp_path / "__init__.py").touch()
    assert installation.has_changed()


def test_what_cannot_be_observed_has_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> os.stat_result:
        raise PermissionError(13, "no", path)

    monkeypatch.setattr(os, "stat", fail)
    assert not installation.has_changed()
