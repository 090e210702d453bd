"""Finds the Chromium of the machine, or installs that of Debian: ``python tests/browser/chromium.py`` says why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""It talks to the server under test, and to nothing else."""


def find() -> str | None:
    return shutil.which("chromium")


def install() -> str | None:
    """Install Chromium unless it is there; return why that is impossible."""
    if find() is not None:
        return None
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return "there is no Chromium, and it is installed only as root on Debian"
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            ["apt-get", "--quiet=2", *command], env=quiet, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"apt-get {command[0]} fails: {done.stderr.strip()[-200:]}"
    return None if find() is not None else "Debian has no Chromium for this machine"


if __name__ == "__main__":
    reason = install()
    if reason is not None:
        print(reason)  # noqa: T201  # the session of nox skips with it
        sys.exit(77)
