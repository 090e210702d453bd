"""Tries a release: uploads it to an index on loopback, and installs it from there as the pages say.

``python -m tests.release DIRECTORY`` takes the sdist and the wheel in DIRECTORY; ``nox -s package`` calls it. The
environment must have twine, pypiserver, pipx, uv, and all that the package needs: the pages' commands get nothing but
the local index, so a distribution of the same name on a public one is never installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"pip install (['\"]?)(trio-supervisor(?:\[[\w,]+\])?)\1(?=[\s`]|$)", re.MULTILINE)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name of the base class
        pass


@contextmanager
def index(packages: Path) -> Iterator[str]:
    """Serve an index on loopback that takes uploads from any user; yield its URL."""
    app = import_module("pypiserver").app(
        roots=[packages], password_file=".", authenticate=[], disable_fallback=True, overwrite=False
    )
    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def run(*argv: str, directory: Path, **variables: str) -> str:
    """Run a program and return its stdout; stop with its stderr if it fails."""
    environment = {**os.environ, **variables}
    done = subprocess.run(argv, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def requirements() -> list[str]:
    """Return what the pages install, each once."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    found = dict.fromkeys(match[2] for text in texts for match in COMMAND.finditer(text))
    assert "trio-supervisor" in found, "no page installs the package"
    return list(found)


def main() -> None:
    """Upload, install, and run a job."""
    files = sorted(str(path) for path in Path(sys.argv[1]).resolve().iterdir())
    (version,) = {match[1] for each in files if (match := re.search(r"trio_supervisor-(.+?)(?:-py3|\.tar)", each))}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.joinpath("packages").mkdir()
        programs = Path(sys.executable).parent
        supervisor, uninstall = str(programs / "supervisor"), ("-m", "pip", "uninstall", "--yes", "trio-supervisor")
        with index(directory / "packages") as url:
            only = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{url}simple/"}
            only |= {"PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}  # pip takes an empty variable for none
            login = ("--username", "any", "--password", "any")
            upload = (sys.executable, "-m", "twine", "upload", "--non-interactive", "--disable-progress-bar")
            run(*upload, "--repository-url", url, *login, *files, directory=directory)
            print(f"uploaded {len(files)} files of {version} to a local index")
            for requirement in requirements():
                run(sys.executable, *uninstall, directory=directory)
                run(
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    requirement,
                    directory=directory,
                    **only,
                )
                assert run(supervisor, "--version", directory=directory) == f"supervisor {version}\n"
                print(f"pip install '{requirement}': supervisor {version}")
        state = {"SUPERVISOR_STATE_DIR": str(directory / "state")}
        assert run(supervisor, "run", "--", "echo", "hello", directory=directory, **state) == "hello\n"
        (wheel,) = [each for each in files if each.endswith(".whl")]
        tools = {
            "uv": ("tool", "install", "--python", sys.executable, wheel),
            "pipx": ("install", "--python", sys.executable, wheel),
        }
        for tool, arguments in tools.items():
            places = ("UV_TOOL_DIR", "UV_TOOL_BIN_DIR", "PIPX_HOME", "PIPX_BIN_DIR", "PIPX_MAN_DIR")
            variables = {place: str(directory / tool / place.lower()) for place in places}
            run(str(programs / tool), *arguments, directory=directory, **variables)
            (command,) = directory.glob(f"{tool}/*_bin_dir/supervisor")
            assert run(str(command), "run", "--", "echo", "hello", directory=directory, **state) == "hello\n"
            print(f"{tool} {' '.join(arguments[: arguments.index('--python')])}: supervisor {version}")


main()
