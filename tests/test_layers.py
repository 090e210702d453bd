"""Each file imports only from rows above it in the map, wherever in it the import stands."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

from supervisor.engines.batch_files import KEEPER_FILES

# From the bottom up: a module may import what stands in a row before its own, or its own part.
# A part is a module or package under `supervisor`; one of two names is a module with a row of its
# own, apart from the rest of its package. Parts that do not exist yet have their place all the same.
LAYERS = (
    "_version",
    "errors",
    "paths",
    "states",
    "metrics",
    "model",
    "settings",
    "log",
    "mounts",
    "trust",
    "forking",
    "signals",
    "interpret",
    "engines.plain_json",
    "engines.looking",
    "engines.processes",
    "engines.records",
    "engines.kin",
    "engines.measures",
    "engines.trees",
    "engines.__init__",  # the protocols; run whenever something of the package is imported, so below the store
    "store",
    "tracing",
    "engines",
    "outputs",
    "settle",
    "progress",
    "listing",
    "endings",
    "forgetting",
    "catalog",
    "actors",
    "follow",
    "workspaces",
    "requests",
    "gate",
    "launching",
    "core",
    "opening",
    "testing",
    "embedding",
    "mcp_server",
    "load",
    "web",
    "cli",
    "__main__",
    "__init__",  # the front door: it shows the others to users, and no module of ours goes through it
)
RANK = {part: rank for rank, part in enumerate(LAYERS)}

# For users and for tests; nothing else may come to depend on them.
IMPORTED_BY_NOBODY = {"testing", "__main__", "__init__"}

# What runs in the keeper (`python -I -S`, without site-packages) or is shared with it.
STDLIB_ONLY = {
    "engines.inotify",
    "engines.keeper",
    "engines.keeper_job",
    "engines.keeper_launch",
    "engines.keeper_limits",
    "engines.keeper_line",
    "engines.keeper_loop",
    "engines.keeper_output",
    "engines.keeper_owed",
    "engines.keeper_relay",
    "engines.keeper_spawn",
    "engines.keeper_turns",
    "engines.kin",
    "engines.plain_json",
    "engines.looking",
    "engines.measures",
    "engines.processes",
    "engines.records",
    "engines.trees",
}

# Used by some commands only, and slow to import.
HEAVY = ("click", "hypercorn", "importlib.metadata", "mcp", "opentelemetry", "rich", "starlette", "structlog")

# What only an extra installs, and tests may have to do without.
EXTRAS = ("hypercorn", "mcp", "opentelemetry", "starlette")


def _root() -> Path:
    spec = find_spec("supervisor")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


ROOT = _root()


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}
in_every_module = pytest.mark.parametrize("module", MODULES)


def _part(module: str) -> str:
    """Return the entry of the map that ``module`` (its name below ``supervisor``) belongs to."""
    pieces = module.split(".")
    two = ".".join([*pieces, "__init__"][:2])
    part = two if two in RANK else pieces[0]
    if part not in RANK:
        pytest.fail(
            f"supervisor.{module} has no row: give {part!r} its place in LAYERS in tests/test_layers.py, "
            "above everything that it imports and below everything that imports it",
            pytrace=False,
        )
    return part


def _imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) for every import in ``source``, those in functions included."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom():
                base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
                for alias in node.names:
                    # `from package import name` may mean the module package.name.
                    below = f"{base}.{alias.name}"
                    yield node.lineno, below if below.removeprefix("supervisor.") in MODULES else str(base)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def _imports_of(module: str) -> list[tuple[int, str]]:
    path = MODULES[module]
    inside = ["supervisor", *path.relative_to(ROOT).parent.parts]
    return list(_imports(path.read_text(encoding="utf-8"), ".".join(inside)))


def _ours(name: str) -> str | None:
    """Return the name below ``supervisor``, or ``None`` for a module that is not ours."""
    first, _, rest = name.partition(".")
    return (rest or "__init__") if first == "supervisor" else None


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
        import os.path, supervisor.core
        from supervisor import states, open_supervisor
        from .keeper import main
        from ..model import Job
        def late():
            from supervisor.cli import main
            import_module("supervisor.web")
            importlib.import_module("supervisor.actors")
    """
    assert [name for _, name in sorted(_imports(textwrap.dedent(source), "supervisor.engines"))] == [
        "os.path",
        "supervisor.core",
        "supervisor",
        "supervisor.states",
        "supervisor.engines.keeper",
        "supervisor.model",
        "supervisor.cli",
        "supervisor.web",
        "supervisor.actors",
    ]


@in_every_module
def test_every_module_has_a_row(module: str) -> None:
    assert _part(module) in RANK


@in_every_module
def test_no_module_imports_upward(module: str) -> None:
    here = _part(module)
    wrong = []
    for line, name in _imports_of(module):
        target = _ours(name)
        if target is None or _part(target) == here:
            continue
        there = _part(target)
        if RANK[there] > RANK[here]:
            wrong.append(f"{MODULES[module]}:{line}: {here} imports {name}, which stands above it")
        elif there in IMPORTED_BY_NOBODY and here != "__init__":
            wrong.append(f"{MODULES[module]}:{line}: {here} imports {name}, which is for users only")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [name for name in MODULES if name in STDLIB_ONLY])
def test_what_the_keeper_runs_needs_only_the_standard_library(module: str) -> None:
    wrong = []
    for line, name in _imports_of(module):
        # The keeper runs outside the package, where the files beside it go by their bare names.
        target = f"engines.{name}" if f"engines.{name}" in MODULES else _ours(name)
        allowed = target in STDLIB_ONLY if target else name.split(".")[0] in sys.stdlib_module_names
        if not allowed:
            wrong.append(f"{MODULES[module]}:{line}: {module} imports {name}")
    assert not wrong, "\n".join(wrong)


def _run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_the_first_that_is_imported() -> None:
    """A package's ``__init__`` runs before each of its modules, so rows alone do not rule out cycles."""
    names = ["supervisor" if name == "__init__" else f"supervisor.{name}" for name in MODULES]
    program = """
        import importlib, json, sys
        failed = {}
        for name in json.loads(sys.argv[1]):
            for loaded in [each for each in sys.modules if each.partition(".")[0] == "supervisor"]:
                del sys.modules[loaded]
            try:
                importlib.import_module(name)
            except ImportError as error:
                if (error.name or "").partition(".")[0] not in sys.argv[2:]:
                    failed[name] = str(error)
        print(json.dumps(failed))
    """
    importable = [name for name in names if not name.endswith("__main__")]
    assert json.loads(_run(program, json.dumps(importable), *EXTRAS)) == {}


def test_importing_the_package_is_light() -> None:
    program = """
        import json, sys
        import supervisor
        print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))
    """
    assert json.loads(_run(program, *HEAVY)) == []


def test_the_keepers_files_are_those_that_go_to_other_machines() -> None:
    """``python -I -S`` runs them there, with nothing of the package beside them."""
    assert {f"engines.{name.removesuffix('.py')}" for name in KEEPER_FILES} == STDLIB_ONLY
