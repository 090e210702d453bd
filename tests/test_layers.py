"""Each module imports only from rooms below its own, at the top and in functions."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

from supervisor.engines.staging import KEEPER_FILES

# The rooms from the bottom up: a module imports only from its own room and from rooms before it in this list.
# A room is a package or a module under `supervisor`.
# The map in `supervisor/__init__.py` and the one in docs/design.md are compared with this table.
ROOMS = (
    "_version",
    "deprecation",
    "errors",
    "states",
    "metrics",
    "retry",
    "model",
    "text",
    "log",
    "system",
    "settings",
    "interpret",
    "jobdir",
    "keeper",
    "worktrees",
    "store",
    "engines",
    "admission",
    "jobs",
    "runtime",
    "testing",
    "embedding",
    "http",
    "mcp_server",
    "web",
    "load",
    "cli",
    "__main__",
    "__init__",  # the front door: users import from it, and no module of the package does
)
RANK = {room: rank for rank, room in enumerate(ROOMS)}

# For users and for tests; no other module may depend on them.
FOR_USERS = {"testing", "__main__", "__init__"}

# The program of the keeper (`python -I -S`, without site-packages), alone on other machines.
STDLIB_ONLY = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in KEEPER_FILES}

# Used by some commands only, and slow to import.
HEAVY = (
    "click",
    "h11",
    "hypercorn",
    "importlib.metadata",
    "jinja2",
    "mcp",
    "opentelemetry",
    "prometheus_client",
    "rich",
    "starlette",
    "structlog",
    "textual",
)

# Extras install these, and tests must run without them.
EXTRAS = (
    "h11",
    "hypercorn",
    "jinja2",
    "markupsafe",
    "mcp",
    "opentelemetry",
    "prometheus_client",
    "rich",
    "starlette",
    "textual",
)


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


def _room(module: str) -> str:
    """Return the room of ``module`` (its name below ``supervisor``): the longest name that matches."""
    pieces = [*module.split("."), "__init__"]
    for length in range(len(pieces), 0, -1):
        room = ".".join(pieces[:length])
        if room in RANK:
            return room
    pytest.fail(
        f"supervisor.{module} has no room: give {pieces[0]!r} its place in ROOMS in tests/test_layers.py, "
        "after everything that it imports and before everything that imports it",
        pytrace=False,
    )


def _imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) for every import in ``source``, also those in functions."""
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


@cache
def _imports_of(module: str) -> list[tuple[int, str]]:
    path = MODULES[module]
    inside = ["supervisor", *path.relative_to(ROOT).parent.parts]
    return list(_imports(path.read_text(encoding="utf-8"), ".".join(inside)))


def _ours(name: str) -> str | None:
    """Return the name below ``supervisor``; ``None`` for other modules."""
    first, _, rest = name.partition(".")
    return (rest or "__init__") if first == "supervisor" else None


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
        import os.path, supervisor.errors
        from supervisor import states, open_supervisor
        from .toy import main
        from ..model import Job
        def late():
            from supervisor.cli import main
            import_module("supervisor.web")
            importlib.import_module("supervisor.toys")
    """
    assert [name for _, name in sorted(_imports(textwrap.dedent(source), "supervisor.engines"))] == [
        "os.path",
        "supervisor.errors",
        "supervisor",
        "supervisor.states",
        "supervisor.engines.toy",
        "supervisor.model",
        "supervisor.cli",
        "supervisor.web",
        "supervisor.toys",
    ]


@in_every_module
def test_every_module_has_a_room(module: str) -> None:
    assert _room(module) in RANK


def test_every_room_exists() -> None:
    assert set(ROOMS) == {_room(module) for module in MODULES}


def _circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components with a circle (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in sorted(arrows[module]):
            if target not in order:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], order[target])
        if lowest[module] == order[module]:
            start = stack.index(module)
            component, stack[start:] = stack[start:], []
            if len(component) > 1 or module in arrows[module]:
                found.append(component)

    for module in arrows:
        if module not in order:
            visit(module)
    return found


def test_a_circle_is_found() -> None:
    arrows: dict[str, set[str]] = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}}
    assert [sorted(each) for each in _circles(arrows)] == [["b", "c"], ["d"]]


def _arrows() -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    return {module: {ours for _, name in _imports_of(module) if (ours := _ours(name)) in MODULES} for module in MODULES}


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert _circles(_arrows()) == []


def test_the_map_of_the_package_is_this_table() -> None:
    import supervisor

    assert supervisor.__doc__ is not None
    block = supervisor.__doc__.partition("::\n\n")[2].rstrip()
    assert [line.split()[0] for line in block.splitlines()] == list(reversed(ROOMS[1:-2]))
    page = (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
    assert textwrap.dedent(block) in page, "docs/design.md has another map than the docstring of supervisor"


@in_every_module
def test_no_module_imports_upward(module: str) -> None:
    here = _room(module)
    wrong = []
    for line, name in _imports_of(module):
        target = _ours(name)
        if target is None or _room(target) == here:
            continue
        there = _room(target)
        if RANK[there] > RANK[here]:
            wrong.append(f"{MODULES[module]}:{line}: {here} imports {name}, which stands above it")
        elif there in FOR_USERS and here != "__init__":
            wrong.append(f"{MODULES[module]}:{line}: {here} imports {name}, which is for users only")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", sorted(STDLIB_ONLY))
def test_the_keeper_needs_only_the_standard_library(module: str) -> None:
    wrong = []
    for line, name in _imports_of(module):
        target = _ours(name)
        allowed = target in STDLIB_ONLY if target else name.split(".")[0] in sys.stdlib_module_names
        if not allowed:
            wrong.append(f"{MODULES[module]}:{line}: {module} imports {name}")
    assert not wrong, "\n".join(wrong)


def _run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _packages(module: str) -> set[str]:
    """Return the packages around it, whose ``__init__`` runs before it."""
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def test_every_module_can_be_the_first_that_is_imported() -> None:
    """A package's ``__init__`` runs before each of its modules, so the table alone does not rule out circles.

    Only modules of such a circle can need another one to be imported first: these are tried one by one.
    """
    arrows = {
        module: targets | set().union(*map(_packages, targets)) - _packages(module) - {module}
        for module, targets in _arrows().items()
    }
    names = {module: "supervisor" if module == "__init__" else f"supervisor.{module}" for module in MODULES}
    circling = [names[module] for circle in _circles(arrows) for module in circle]
    program = """
        import importlib, json, sys
        every, circling, extras = map(json.loads, sys.argv[1:])
        failed = {}
        for number, name in enumerate(circling + every):
            if number < len(circling):
                for loaded in [each for each in sys.modules if each.partition(".")[0] == "supervisor"]:
                    del sys.modules[loaded]
            try:
                importlib.import_module(name)
            except ImportError as error:
                if (error.name or "").partition(".")[0] not in extras:
                    failed[name] = str(error)
        print(json.dumps(failed))
    """
    importable = [name for name in names.values() if not name.endswith("__main__")]
    assert json.loads(_run(program, *map(json.dumps, (importable, circling, sorted(EXTRAS))))) == {}


def test_importing_the_package_is_light() -> None:
    program = """
        import json, sys
        import supervisor
        print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))
    """
    assert json.loads(_run(program, *HEAVY)) == []
