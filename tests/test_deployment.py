"""The example of docs/deployment: its files fit each other and the package, and the main program keeps serving."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli.commands.serve import serve
from supervisor.mcp_server.config.kinds_file import parse
from supervisor.system import processes
from tests.process.conftest import Fifo

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs/deployment"
PATIENCE = 60


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the instructions of the Dockerfile with their arguments."""
    text = (EXAMPLE / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for line in filter(None, re.sub(r"\\\n\s*", " ", lines).splitlines()):
        name, _, rest = line.partition(" ")
        yield name, rest


INSTRUCTIONS = list(instructions())


def argument(name: str) -> str:
    (found,) = [rest for each, rest in INSTRUCTIONS if each == name]
    return found


def compose() -> Any:
    yaml: Any = import_module("yaml")
    return yaml.safe_load((EXAMPLE / "compose.yaml").read_text(encoding="utf-8"))


def served_at(words: list[str]) -> tuple[str, list[str]]:
    """Return the address and the names of a server with these options, as the command line reads them."""
    given = serve.make_context("serve", list(words)).params
    return given["http"], list(given["allow_hosts"])


def test_the_dockerfile_copies_what_is_there_and_installs_extras_that_exist() -> None:
    known = {"FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "VOLUME", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in INSTRUCTIONS} == known
    for rest in (rest for name, rest in INSTRUCTIONS if name == "COPY"):
        source, target = (word for word in rest.split() if not word.startswith("--"))
        assert (EXAMPLE / source).is_file()
        assert target.startswith("/")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, extras),) = re.findall(r'pip install .*"([a-z-]+)\[([a-z,]+)\]"', str(INSTRUCTIONS))
    assert name == project["name"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert f"python:{project['requires-python'].removeprefix('>=')}" <= argument("FROM")


def test_the_dockerfile_runs_the_server_on_loopback_as_a_user_whose_state_is_a_volume() -> None:
    (entry,) = json.loads(argument("ENTRYPOINT"))
    assert any(rest.endswith(f"/{entry}") for name, rest in INSTRUCTIONS if name == "COPY")
    assert os.access(EXAMPLE / entry, os.X_OK)
    address, _ = served_at(json.loads(argument("CMD")))
    assert address.startswith("127.0.0.1:")
    assert f"http://{address}/readyz" in argument("HEALTHCHECK")
    assert argument("USER") != "root"
    variables = dict(each.split("=") for each in shlex.split(argument("ENV")))
    assert variables["SUPERVISOR_STATE_DIR"] == argument("VOLUME")
    assert any(rest.endswith(f" {variables['SUPERVISOR_CONFIG']}") for name, rest in INSTRUCTIONS if name == "COPY")


def test_the_kinds_of_the_image_are_understood() -> None:
    assert [kind.name for kind in parse((EXAMPLE / "kinds.toml").read_bytes(), "kinds.toml")] == ["count"]


def test_the_compose_file_has_an_init_a_grace_and_a_proxy_that_reaches_the_server() -> None:
    held = compose()
    jobs, proxy = held["services"]["jobs"], held["services"]["proxy"]
    assert jobs["init"] is True
    assert set(jobs["volumes"]) == {f"{name}:{argument('VOLUME')}" for name in held["volumes"]}
    assert (EXAMPLE / jobs["build"] / "Dockerfile").is_file()
    address, names = served_at(jobs["command"])
    site = re.sub(r"#.*", "", (EXAMPLE / "nginx.conf").read_text(encoding="utf-8"))
    assert site.count("{") == site.count("}")
    assert re.findall(r"proxy_pass http://([^;]+);", site) == [address]
    assert re.findall(r"server_name ([^;]+);", site) == names
    (port,) = re.findall(r"listen (\d+) ssl;", site)
    assert jobs["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert proxy["network_mode"] == "service:jobs"
    mounts = dict(each.removesuffix(":ro").split(":") for each in proxy["volumes"])
    assert (EXAMPLE / next(iter(mounts))).is_file()
    for path in re.findall(r"ssl_certificate(?:_key)? ([^;]+);", site):
        assert any(path.startswith(f"{target}/") for target in mounts.values())


def test_every_file_of_the_example_is_named_on_the_page() -> None:
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    for name in ("Dockerfile", "compose.yaml", "nginx.conf", "keep-serving", "kinds.toml"):
        assert (EXAMPLE / name).is_file()
        assert f"`{name}`" in page or f"[{name}]" in page


SERVER = """#!/bin/sh
echo "$@" > "$CALLS"
[ "$1" = serve ] || exit 0
exec sleep 600
"""


@pytest.mark.skipif(not processes.HAVE_PROC, reason="finds the server of the program in /proc")
def test_the_main_program_starts_a_server_again_and_cancels_all_jobs_when_it_is_stopped(tmp_path: Path) -> None:
    program, calls = tmp_path / "supervisor", Fifo(tmp_path / "calls")
    program.write_text(SERVER)
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
    kept = subprocess.Popen([str(EXAMPLE / "keep-serving"), "--http", "x"], env=environment)
    children = Path(f"/proc/{kept.pid}/task/{kept.pid}/children")
    try:
        assert calls.line() == "serve --http x"
        os.kill(int(children.read_text()), signal.SIGKILL)
        assert calls.line() == "serve --http x"
        server = int(children.read_text())
        kept.send_signal(signal.SIGTERM)
        assert calls.line() == "cancel --all"
        assert kept.wait(PATIENCE) == 0
        assert processes.read_process(server) is None
    finally:
        kept.kill()
        kept.wait()
        calls.close()
