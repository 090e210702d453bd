"""The pages in ``docs/`` are true: their programs run, and their tables and pictures agree with the code."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import attrs
import pytest

import supervisor
from supervisor import errors, interpret, log, testing
from supervisor.interpret import Outcome, get_interpreter
from supervisor.interpret.failures import FAILURES
from supervisor.jobs.outcome import CODES
from supervisor.load import check
from supervisor.states import TRANSITIONS, Reason

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUNS = ROOT / "tests/interpret/fixtures"

# <!-- file: NAME --> a file to write, <!-- run --> a program, <!-- sh --> a shell script, <!-- prints --> the output
# of the block before it, <!-- source: FILE --> a file of docs/, <!-- not run: WHY --> a block that cannot run here
BLOCK = re.compile(
    r"^<!-- (?P<what>file: (?P<name>\S+)|run|sh|prints) -->\n```\w+\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
FENCED = re.compile(r"^(?P<above>[^\n]*)\n```(?P<language>\w+)\n.*?^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (file: \S+|run|sh|source: \S+|not run: .+) -->")
SOURCE = re.compile(r"^<!-- source: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOCTREE = re.compile(r"^```\{toctree\}\n(?P<entries>.*?)^```$", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^```\{(?!toctree\}|eval-rst\})[^\n]*$", re.MULTILINE)
PAGES = sorted(DOCS.rglob("*.md"))


in_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS).with_suffix("")))


def _linked(page: Path) -> list[str]:
    """Return the pages that a page links to, as it names them."""
    return re.findall(r"\]\(([\w/-]+)\.md\)", page.read_text(encoding="utf-8"))


def _install(directory: Path) -> None:
    """Write the metadata of an installed distribution into ``directory``, so that its entry points are found."""
    project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    where = directory / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    where.mkdir()
    names = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    where.joinpath("METADATA").write_text(names, encoding="utf-8")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    where.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


COMMANDS = {"run": [sys.executable, "-c"], "sh": ["bash", "-eu", "-c"]}


@pytest.mark.usefixtures("state_dir", "fake_slurm")
@in_every_page
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, started in {"supervisor": f"{sys.executable} -m supervisor", "python3": sys.executable}.items():
        programs.joinpath(name).write_text(f'#!/bin/sh\nexec {started} "$@"\n', encoding="utf-8")
        programs.joinpath(name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
    }
    blocks = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
    for block in blocks:
        if block["name"]:
            tmp_path.joinpath(block["name"]).write_text(block["text"], encoding="utf-8")
            if block["name"] == "pyproject.toml":
                _install(tmp_path)
    printed = ""
    for block in blocks:
        if block["what"] in COMMANDS:
            done = subprocess.run(
                [*COMMANDS[block["what"]], block["text"]],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        elif block["what"] == "prints":
            assert printed == block["text"]


@in_every_page
def test_every_program_on_a_page_is_run(page: Path) -> None:
    """A block that is not run has a mark that says why."""
    text = page.read_text(encoding="utf-8")
    shown = [block for block in FENCED.finditer(text) if block["language"] in {"python", "py", "sh", "bash", "toml"}]
    assert [block[0] for block in shown if not MARK.fullmatch(block["above"])] == []


@in_every_page
def test_a_page_is_whole_in_a_plain_view(page: Path) -> None:
    """A repository host renders no directives: programs stand on the page, and pages are linked."""
    text = page.read_text(encoding="utf-8")
    assert DIRECTIVE.findall(text) == []
    for name, shown in SOURCE.findall(text):
        assert shown == (page.parent / name).read_text(encoding="utf-8"), f"copy docs/{name} into {page.name}"
    for tree in TOCTREE.finditer(text):
        listed = [line for line in tree["entries"].splitlines() if line and not line.startswith(":")]
        names = [path.stem for each in listed for path in page.parent.glob("0*.md")] if listed == ["0*"] else listed
        assert [name for name in names if f"]({name}.md)" not in text] == []


def test_every_page_is_in_the_index() -> None:
    linked = {page.parent / f"{name}.md" for page in DOCS.rglob("index.md") for name in _linked(page)}
    assert {*DOCS.rglob("*.md")} - linked == {DOCS / "index.md"}


def test_the_table_of_what_can_be_wrong_under_load_is_whole() -> None:
    text = (DOCS / "load.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert dict(rows) == check.MEANINGS


def _row(path: Path) -> str:
    run = json.loads(path.read_text(encoding="utf-8"))
    status = run["exit_code"]
    outcome = Outcome(
        exit_code=status if status >= 0 else None,
        signal=-status if status < 0 else None,
        read_stdout=run["stdout"].encode,
        read_stderr=run["stderr"].encode,
    )
    verdict = get_interpreter(path.parent.name).verdict(outcome)
    done = verdict.reason is Reason.EXITED
    cells = (
        f"`{path.parent.name}/{path.stem}`",
        str(status) if status >= 0 else f"signal {-status}",
        "done" if done else "failed",
        verdict.reason.value,
        "" if done else verdict.code or CODES[verdict.reason],
        "" if done else "yes" if verdict.retryable else "no",
        "" if verdict.cost_usd is None else f"{verdict.cost_usd:.6f}",
    )
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def test_the_table_of_captured_runs_is_what_they_get() -> None:
    text = (DOCS / "agents.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\w+/[\w-]+` \|.*$", text, re.MULTILINE)
    expected = [_row(path) for path in sorted(RUNS.glob("*/*.json"))]
    assert rows == expected, "the table should be:\n" + "\n".join(expected)


def test_the_table_of_log_events_is_the_vocabulary() -> None:
    text = (DOCS / "observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\w+` \| (?:debug|info|warning) \|.*$", text, re.MULTILINE)
    expected = [
        f"| `{name}` | {kind.level} | {', '.join(f'`{fact}`' for fact in kind.facts)} | {kind.meaning} |"
        for name, kind in log.EVENTS.items()
    ]
    assert rows == expected, "the table should be:\n" + "\n".join(expected)


GENERATORS = {page: runpy.run_path(str(DOCS / f"generate_{page}.py")) for page in ("errors", "limits", "terms")}
ROOMS = runpy.run_path(str(DOCS / "generate_rooms.py"))


@pytest.mark.parametrize("page", GENERATORS)
def test_the_generated_pages_are_up_to_date(page: str) -> None:
    current = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert current == GENERATORS[page]["generated"](), f"regenerate with `python docs/generate_{page}.py`"


def test_the_page_of_errors_has_every_code() -> None:
    known = {getattr(errors, name).code for name in errors.__all__} | {*CODES.values()}
    known |= {failure.code or name for name, failure in FAILURES.items()}
    assert set(re.findall(r"^### `(\w+)`$", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)) >= known


def test_the_page_of_limits_has_every_setting() -> None:
    page = (DOCS / "limits.md").read_text(encoding="utf-8")
    for field in attrs.fields(supervisor.Settings):
        assert f"| `{field.name}` |" in page, field.name
        assert f"* `{field.name}`: " in page, field.name


def test_the_picture_of_the_states_is_that_of_the_table() -> None:
    drawn = subprocess.run(
        [sys.executable, "-c", "import state_diagram; print(state_diagram.svg(), end='')"],
        cwd=DOCS,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    current = (DOCS / "states.svg").read_text(encoding="utf-8")
    assert current == drawn, "run `python docs/state_diagram.py`"
    for state, ways in TRANSITIONS.items():
        assert f">{state.value}</text>" in current
        assert all(f">{event.value}</text>" in current for event in ways)


def test_the_picture_of_the_rooms_is_that_of_the_code() -> None:
    current = (DOCS / "rooms.svg").read_text(encoding="utf-8")
    assert current == ROOMS["svg"](), "regenerate with `python docs/generate_rooms.py`"


def test_the_picture_of_the_rooms_has_all_rooms_and_each_arrow_or_a_way_of_arrows() -> None:
    arrows = ROOMS["imports"]()
    drawn = ROOMS["necessary"](arrows)
    reached: dict[str, set[str]] = {}
    for floor in ROOMS["floors"](arrows):
        for room in floor:
            reached[room] = drawn[room].union(*(reached[each] for each in drawn[room]))
    assert set(reached) == set(ROOMS["rooms"]())
    assert [room for room, targets in arrows.items() if targets - reached[room]] == []
    texts = re.findall(r">(\w+)</text>", (DOCS / "rooms.svg").read_text(encoding="utf-8"))
    assert texts == list(ROOMS["rooms"]())


# ---------------------------------------------------------------- the public names

PUBLIC = {
    "supervisor": supervisor.__all__,
    "supervisor.testing": testing.__all__,
    "supervisor.interpret": interpret.__all__,
    "supervisor.log": ["EVENTS"],
}


def test_the_reference_has_every_public_name_and_no_other() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    found = re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", text, re.MULTILINE)
    assert sorted(found) == sorted(f"{module}.{name}" for module, names in PUBLIC.items() for name in names)


@pytest.mark.parametrize("name", supervisor.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    held = getattr(supervisor, name)
    if name == "__version__":
        return
    assert inspect.getdoc(held)
    if inspect.isclass(held) and held.__module__.startswith("supervisor") and not issubclass(held, BaseException | str):
        members = [member for member in vars(held) if not member.startswith("_")]
        documented = inspect.getdoc(held) or ""
        plain = [each for each in members if not inspect.getdoc(getattr(held, each))]
        assert [each for each in plain if f"{each}:" not in documented] == []


def test_nothing_is_exported_by_accident() -> None:
    """The public attributes of the package are its names and its modules."""
    program = """
        import json, pkgutil, types
        import supervisor
        early = [name for name in vars(supervisor) if not name.startswith("_")]
        for name in supervisor.__all__:
            getattr(supervisor, name)
        late = [name for name, held in vars(supervisor).items()
                if not name.startswith("_") and not isinstance(held, types.ModuleType)]
        modules = [each.name for each in pkgutil.iter_modules(supervisor.__path__)]
        print(json.dumps([early, late, modules, supervisor.__all__, dir(supervisor)]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    early, late, modules, names, listed = json.loads(done.stdout)
    assert set(early) - set(modules) <= {"annotations", "TYPE_CHECKING"}
    assert set(late) <= {*names, "annotations", "TYPE_CHECKING"}
    assert names == sorted(set(names), key=lambda name: (not name[0].isupper(), name))
    assert set(listed) == set(names)
