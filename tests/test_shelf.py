"""What maintainers and hosts read agrees with the project: workflows, hooks, templates, decisions, links."""

from __future__ import annotations

import ast
import itertools
import os
import re
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]

LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)\s]*)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MATRIX = re.compile(r"\$\{\{ matrix\.(\w+) \}\}")
SESSIONS = re.compile(r"nox (?:-s|--sessions?) (.+?)(?: --(?: .*)?)?$", re.MULTILINE)


def _yaml(path: Path) -> Any:
    yaml: Any = import_module("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def _pythons() -> tuple[str, ...]:
    prefix = "Programming Language :: Python :: "
    versions = [each.removeprefix(prefix) for each in _project()["project"]["classifiers"] if each.startswith(prefix)]
    return tuple(each for each in versions if re.fullmatch(r"3\.\d+", each))


@cache
def _sessions() -> frozenset[str]:
    """Return the names of the sessions of noxfile.py, with the Pythons of those that have several."""
    names = set[str]()
    for function in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body:
        for decorator in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
            text = ast.unparse(decorator)
            if text.startswith("nox.session"):
                pythons = {
                    "python=PYTHONS": _pythons(),
                    "python=[PYTHONS[0], PYTHONS[-1]]": (_pythons()[0], _pythons()[-1]),
                }
                several = next((each for argument, each in pythons.items() if argument in text), ())
                names |= {f"{function.name}-{each}" for each in several} or {function.name}
    return frozenset(names)


def _named(script: str) -> set[str]:
    return {name.strip('"') for match in SESSIONS.finditer(script) for name in match[1].split()}


def _runs(job: dict[str, Any]) -> set[str]:
    """Return the commands of a job, with each value of its matrix."""
    matrix: dict[str, list[str]] = job.get("strategy", {}).get("matrix", {})
    cases = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]
    return {
        MATRIX.sub(lambda match, case=case: case[match[1]], step["run"])
        for case in cases
        for step in job["steps"]
        if "run" in step
    }


def _anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MyST make them."""
    texts = HEADING.findall(FENCED.sub("", path.read_text(encoding="utf-8")))
    shown = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", each).lower() for each in texts)
    return {re.sub(r"[^\w\- ]", "", each).strip().replace(" ", "-") for each in shown}


def _broken(page: Path) -> list[str]:
    broken = list[str]()
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            broken.append(target)
    return broken


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`: c\n[x](#a-b-c) [y](other.md) [z](#d) [w](page.md#a-b-c) [v](https://x.org/y)\n", encoding="utf-8"
    )
    assert _broken(page) == ["other.md", "#d"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert _broken(page) == []


def test_each_decision_has_a_date_a_decision_figures_and_what_was_rejected() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]
    for number, path in enumerate(DECISIONS, 1):
        text = path.read_text(encoding="utf-8")
        assert re.match(rf"# {number}\. .+\n\nDate: \d{{4}}-\d\d-\d\d\n", text), path
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Decision", "Figures", "Rejected"], path


def test_sessions_are_found_in_commands() -> None:
    assert _named('nox --session "tests-3.11" -- -n 2\nx/nox --sessions lint types\nnox -s docs') == {
        "tests-3.11",
        "lint",
        "types",
        "docs",
    }
    assert {"lint", f"tests-{_pythons()[0]}"} <= _sessions()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_each_command_of_a_workflow_is_there(workflow: Path) -> None:
    commands = set[str]().union(*map(_runs, _yaml(workflow)["jobs"].values()))
    scripts = [ROOT / each for each in commands if re.fullmatch(r"[\w./-]+", each)]
    assert [path for path in scripts if not os.access(path, os.X_OK)] == []
    texts = [*commands, *(path.read_text(encoding="utf-8") for path in scripts)]
    named = set[str]().union(*map(_named, texts))
    assert named
    assert named - _sessions() == set()


def test_hosted_ci_runs_all_and_the_tests_on_each_python_and_system() -> None:
    jobs = _yaml(ROOT / ".github/workflows/ci.yml")["jobs"]
    assert ".ci/run" in _runs(jobs["all"])
    assert len(_pythons()) > 1
    assert set().union(*map(_named, _runs(jobs["tests"]))) == {f"tests-{each}" for each in _pythons()}
    assert set().union(*map(_named, _runs(jobs["minimums"]))) == {each for each in _sessions() if "minimums" in each}
    systems = jobs["tests"]["strategy"]["matrix"]["system"]
    assert {each.partition("-")[0] for each in systems} == {"ubuntu", "macos"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_only_read_and_pin_their_actions(workflow: Path) -> None:
    content = _yaml(workflow)
    assert content["permissions"] == {"contents": "read"}
    for job in content["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"]
        for step in job["steps"]:
            action = step.get("uses", "")
            assert "run" in step or re.fullmatch(r"actions/[\w-]+@v\d+", action)
            assert not action.startswith("actions/checkout@") or step["with"] == {"persist-credentials": False}


def test_hooks_run_the_ruff_of_the_linter() -> None:
    (ruff,) = [each for each in _project()["dependency-groups"]["lint"] if each.startswith("ruff")]
    hooks = [hook for repository in _yaml(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert {hook["entry"].partition(" --")[0] for hook in hooks} == {"ruff check", "ruff format"}
    assert [hook["additional_dependencies"] for hook in hooks] == [[ruff]] * len(hooks)


def test_a_source_distribution_has_what_these_tests_read() -> None:
    included = _project()["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    shelf = {".editorconfig", ".github", ".pre-commit-config.yaml", "CODE_OF_CONDUCT.md", "ROADMAP.md", "docs"}
    assert {f"/{name}" for name in shelf} <= set(included)
    assert [name for name in shelf if not (ROOT / name).exists()] == []
