"""Runs tests of this project in a guest with systemd: ``python -m tests.vm [OPTIONS] [ARGUMENTS OF PYTEST]``.

By default root runs ``tests/vm`` there. With ``--user`` a user runs the tests, as a service of the user manager with
a delegated control group: so tests from other directories can be run with unified control groups. ``--shell SCRIPT``
runs a script of bash as root instead, with the project in /srv/vm.

Needs Debian's packages of ``image.PACKAGES``; root on a Debian machine installs them. Exits with 77 where they cannot
be had.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.vm import image
from tests.vm.guest import Guest

NOT_HERE = 77  # as automake has it: what is needed cannot be had on this machine
CHECKOUT = Path(__file__).parents[2]
# In the guest: no compiler output beside the tests, which belong to root or to `user`.
_INSTALL = "pip install --quiet --no-index --no-deps /srv/vm/*.whl && cd /srv/vm && "
_PYTEST = "python -m pytest -p no:cacheprovider -q --vm"


def cache_of(suite: str) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trio-supervisor" / "vm" / suite


def _missing() -> list[str]:
    return [package for package, program in image.PACKAGES.items() if shutil.which(program) is None]


def why_not_here() -> str | None:
    """Install the packages that are missing; return why the guest cannot be had."""
    if os.geteuid() != 0:
        return "building the image of the guest needs root (mmdebstrap, and files that belong to root)"
    if not (missing := _missing()):
        return None
    words = f"{', '.join(missing)} not installed"
    if shutil.which("apt-get") is None:
        return f"{words}, and there is no apt-get"
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ("apt-get", "--yes", "--quiet=2")
    for argv in ((*apt, "update"), (*apt, "install", "--no-install-recommends", *missing)):
        done = subprocess.run(argv, env=quiet, check=False, capture_output=True, text=True)
    return f"{words}: {done.stderr.strip()}" if _missing() else None


def requirements() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["test"]]


def _pack(folder: Path) -> None:
    """Put the wheel of the project and its tests into a folder."""
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(CHECKOUT)]
    subprocess.run(wheel, check=True)
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("tests", "docs", "benchmarks"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=unwanted, symlinks=True)
    for name in ("pyproject.toml", "README.md", "SECURITY.md"):
        shutil.copy(CHECKOUT / name, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", action="store_true")
    parser.add_argument("--only-build", action="store_true", help="build the image, or say why that is not possible")
    parser.add_argument("--suite", choices=image.SUITES, default="bookworm", help="the release of Debian")
    parser.add_argument("--shell", metavar="SCRIPT")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS")
    parser.add_argument("--console", type=Path, metavar="FILE", help="for the kernel's messages")
    parser.add_argument("--out", type=Path, metavar="TAR", help="for what the guest leaves in /srv/vm/out")
    options, rest = parser.parse_known_args()
    if (reason := why_not_here()) is not None:
        print(f"no guest: {reason}")
        return NOT_HERE
    image.build(cache_of(options.suite), requirements(), options.suite)
    if options.only_build:
        return 0
    pytest = f"{_PYTEST} {shlex.join(rest or ['-m', 'vm', 'tests/vm'])}"
    command = f"as-user user -- sh -c {shlex.quote(f'cd /srv/vm && {pytest}')}" if options.user else pytest
    guest = Guest(cache_of(options.suite), options.cpus, options.memory, options.console)
    with tempfile.TemporaryDirectory(prefix="vm-") as folder:
        _pack(Path(folder))
        return guest.run(_INSTALL + (options.shell or command), Path(folder), options.out, options.timeout)


if __name__ == "__main__":
    sys.exit(main())
