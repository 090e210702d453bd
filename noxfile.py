"""What is run before a change is proposed: ``nox``, or ``nox -s lint`` for one session of it.

``nox -l`` lists the sessions; those that take long run only when they are named.
Arguments after ``--`` go to the tool that the session runs.
"""

from __future__ import annotations

from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


def _lowest(requirement: str) -> str:
    parsed = Requirement(requirement)
    floors = [each.version for each in parsed.specifier if each.operator == ">="]
    if not floors:
        message = f"{requirement!r} in pyproject.toml has no minimum"
        raise ValueError(message)
    return f"{parsed.name}=={floors[0]}"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests, those with real processes included; not the slow ones and not chaos."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def minimums(session: nox.Session) -> None:
    """Run the tests with the oldest direct dependencies that pyproject.toml allows."""
    project = PYPROJECT["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    constraints = Path(session.create_tmp()) / "minimums.txt"
    constraints.write_text("".join(f"{_lowest(each)}\n" for each in direct), encoding="utf-8")
    session.install("--constraint", str(constraints), ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting; ``ruff check --fix && ruff format`` repairs most of it."""
    session.install(*_group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, both strict."""
    session.install("--editable", ".[test]", *_group("types"))
    session.run("mypy", *session.posargs)
    session.run("pyright")


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Run the tests and list the lines that none of them reached."""
    session.install("--editable", ".[test]", *_group("coverage"))
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "report")


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Measure on this machine, each figure beside its yardstick."""
    session.install(".")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(default=False)
def chaos(session: nox.Session) -> None:
    """Kill supervisors, keepers and jobs at random; ``-- --rounds N`` for how long."""
    session.install(".[test]")
    session.run("pytest", "-m", "chaos", *session.posargs)


@nox.session(default=False)
def slurm(session: nox.Session) -> None:
    """Run jobs on a Slurm cluster of our own on loopback; as root, Debian's packages are installed if need be."""
    session.install(".[test]")
    reason = session.run("python", "tests/slurm/cluster.py", "--only-install", silent=True, success_codes=[0, 77])
    if reason:
        session.skip(str(reason).strip())
    session.run("pytest", "--slurm", "-m", "slurm", "-s", "tests/slurm", *session.posargs)
    session.run("pytest", "--slurm", "-k", "slurm", "tests/engines/test_contract.py")
