"""Sessions to run before you propose a change: ``nox`` for all, ``nox -s lint`` for one.

``nox -l`` lists the sessions; long ones run only when they are named.
Arguments after ``--`` are passed to the tool that the session runs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
CONFORMANCE_SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
OTHERS_CLIENTS = (
    "ajv@8.20.0",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/ext-tasks@0.2.2",
    "@modelcontextprotocol/inspector@2.12.0",
)
DEBIAN_PEERS = {
    "task-spooler": "tsp", "nq": "nq", "parallel": "parallel", "supervisor": "supervisord",
    "redis-server": "redis-server",
}  # fmt: skip
NPM_PEER = "pm2@7.0.4"
GITHUB_FILES = {
    "github-workflows": "workflows/*.yml",
    "github-issue-forms": "ISSUE_TEMPLATE/[!c]*.yml",
    "github-issue-config": "ISSUE_TEMPLATE/config.yml",
}
QUICK = "uv|venv"  # of the sessions that need no pip of their own: with uv, what several install is fetched once
PYTHONS = nox.project.python_versions(PYPROJECT)
IN_PROCESS = [
    *(f"tests/{room}" for room in ("admission", "interpret", "jobdir", "jobs", "runtime", "settings", "store", "text")),
    *(f"tests/test_{room}.py" for room in ("errors", "log", "metrics", "model", "retry", "settings", "states")),
]


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


def _lowest(requirement: str) -> str:
    parsed = Requirement(requirement)
    floors = [each.version for each in parsed.specifier if each.operator == ">="]
    if not floors:
        message = f"{requirement!r} in pyproject.toml has no minimum"
        raise ValueError(message)
    marker = f"; {parsed.marker}" if parsed.marker else ""
    return f"{parsed.name}=={floors[0]}{marker}"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run all tests except the slow ones and chaos."""
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


@nox.session(venv_backend=QUICK)
def lint(session: nox.Session) -> None:
    """Check style, formatting, workflows and templates; ``ruff check --fix && ruff format`` repairs most problems."""
    session.install(*_group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    for schema, pattern in GITHUB_FILES.items():
        files = map(str, sorted(Path(".github").glob(pattern)))
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)
    session.run("zizmor", "--offline", "--quiet", ".github/workflows")


@nox.session(venv_backend=QUICK)
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, both strict, and those of the programs on the pages."""
    session.install("--editable", ".[test]", *_group("types"))
    session.run("mypy", *session.posargs)
    # A call that only Linux has, and that nothing guards, is an error here.
    session.run("mypy", "--platform", "darwin", "--cache-dir", ".mypy_cache/darwin", "supervisor", "docs/examples")
    session.run("pyright")
    session.run("python", "tests/typing/page_programs.py")


@nox.session(venv_backend=QUICK)
def docs(session: nox.Session) -> None:
    """Build the pages in ``docs/`` with warnings as errors; the tests run the programs on them."""
    session.install("--editable", ".", *_group("docs"))
    target = Path(session.create_tmp()).absolute() / "html"
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-E", "-b", "html", "docs", str(target), *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build the sdist and the wheel, check both, and try a release with a local index, pip, pipx and uv."""
    session.install(*_group("package"))
    target = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(target, ignore_errors=True)
    session.run("python", "-m", "build", "--quiet", "--outdir", str(target))
    (sdist,), (wheel,) = target.glob("*.tar.gz"), target.glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    session.run("check-wheel-contents", str(wheel))
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"{wheel}[{','.join(PYPROJECT['project']['optional-dependencies'].keys() - {'test'})}]")
    session.run("python", "-m", "tests.release", str(target))


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """List the lines and branches that the tests do not reach, and fail below the floor in pyproject.toml.

    It runs the tests that need few processes, and reports on the rooms that run in those of the tests. A keeper runs
    without site-packages, and what is killed writes no data, so the other rooms have no figure. ``-- TESTS`` runs other
    tests, and reports on all rooms, without the floor.
    """
    session.install("--editable", ".[test]", *_group("coverage"))
    session.run("coverage", "run", "-m", "pytest", *(session.posargs or IN_PROCESS))
    session.run("coverage", "report", *(["--include=supervisor/*", "--fail-under=0"] if session.posargs else []))


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Measure on this machine, next to its limits and to other tools; as root, install missing tools from Debian.

    With Node, pm2 is installed from npm, beside the environment of the session.

    ``-- --full`` takes over an hour. ``-- --json FILE`` saves a run; ``-- report FILE...`` makes the page and the
    plots in docs/ from it. ``-- --check`` compares with the page, without peers, and fails if a figure fell.
    """
    session.install("--editable", ".[serve,webhooks]", *_group("benchmarks"))
    missing = [package for package, program in DEBIAN_PEERS.items() if shutil.which(program) is None]
    peers_take_part = not {"report", "--check"} & set(session.posargs)
    if missing and peers_take_part and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        argv = ("apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *missing)
        # A tool that cannot be installed is a dash in the tables.
        session.run(*argv, external=True, env=quiet, success_codes=range(256), silent=True)
    path = os.environ.get("PATH", os.defpath)
    if peers_take_part and shutil.which("pm2") is None and shutil.which("npm") is not None:
        # A temporary directory of the session would become that of the benchmarks, and decide the file system.
        folder = Path(session.virtualenv.location).resolve() / "pm2"
        quiet_npm = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional")
        argv = ("npm", "install", *quiet_npm, "--prefix", str(folder), NPM_PEER)
        session.run(*argv, external=True, success_codes=range(256), silent=True)
        path = os.pathsep.join([path, str(folder / "node_modules" / ".bin")])
    session.run("python", "-m", "benchmarks", *session.posargs, env={"PATH": path})


@nox.session(default=False, venv_backend=QUICK)
def conformance(session: nox.Session) -> None:
    """Run the MCP conformance suite against a server with this package's tasks; needs pip and an npm registry."""
    session.install(".[mcp]", *_group("conformance"))
    folder = Path(session.create_tmp()).resolve()
    quiet = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    session.run("npm", "install", *quiet, "--prefix", str(folder), CONFORMANCE_SUITE)
    suite = folder / "node_modules" / CONFORMANCE_SUITE.rpartition("@")[0]
    session.run("python", "-m", "tests.conformance", str(suite), *session.posargs)


@nox.session(default=False)
def clients(session: nox.Session) -> None:
    """Drive one job with the SDK's client, FastMCP's, the MCP Inspector and ext-tasks; check all answers with ajv."""
    session.install(".[mcp]", *_group("conformance"), *_group("clients"))
    folder = Path(session.create_tmp()).resolve()
    quiet = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    session.run("npm", "install", *quiet, "--prefix", str(folder), *OTHERS_CLIENTS)
    session.run("python", "-m", "tests.conformance.clients", str(folder / "node_modules"), *session.posargs)


@nox.session(default=False)
def chaos(session: nox.Session) -> None:
    """Kill supervisors, keepers and jobs at random; ``-- --rounds N`` for how long."""
    session.install(".[test]")
    session.run("pytest", "-m", "chaos", *session.posargs)


@nox.session(default=False, venv_backend=QUICK)
def browser(session: nox.Session) -> None:
    """Read the page in headless Chromium; as root, install that of Debian. ``-- screenshots`` makes those of docs/."""
    session.install(".[test]", *_group("browser"))
    reason = session.run("python", "tests/browser/chromium.py", silent=True, success_codes=[0, 77])
    if reason:
        session.skip(str(reason).strip())
    if session.posargs == ["screenshots"]:
        session.run("python", "docs/screenshots.py")
    else:
        session.run("pytest", "-m", "browser", "-s", "tests/browser", *session.posargs)


@nox.session(default=False, venv_backend=QUICK)
def slurm(session: nox.Session) -> None:
    """Run jobs on a Slurm cluster on loopback; as root, install missing Debian packages."""
    session.install(".[test]")
    reason = session.run("python", "tests/slurm/cluster.py", "--only-install", silent=True, success_codes=[0, 77])
    if reason:
        session.skip(str(reason).strip())
    session.run("pytest", "--slurm", "-m", "slurm", "-s", "tests/slurm", *session.posargs)
    session.run(
        "pytest",
        "--slurm",
        "-k",
        "slurm",
        "tests/engines/test_contract.py",
        "tests/mcp_server/config/test_slurm_kinds.py",
    )


@nox.session(default=False)
def vm(session: nox.Session) -> None:
    """Run tests in an emulated machine with systemd, control groups and user sessions; needs root on Debian.

    It boots in half a minute; the first time its image is built, in two minutes. Arguments are those of
    ``python -m tests.vm``: ``-- --user tests/keeper`` has a user run other tests there.
    """
    session.install("attrs")
    reason = session.run("python", "-m", "tests.vm", "--only-build", silent=True, success_codes=[0, 77])
    if "no guest:" in str(reason):
        session.skip(str(reason).strip())
    session.run("python", "-m", "tests.vm", *session.posargs)
