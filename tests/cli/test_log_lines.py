"""The log of the command line contains no secrets and no control characters, from any source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7z" * 2

SAY = """
import logging, sys, warnings
from supervisor import log
from supervisor.cli import front
front._configure_logging("warning")
secret = sys.argv[1]
log.warning("mcp_token_refused", file=f"/x/{secret}", why=ValueError(f"token={secret}"))
logging.getLogger("mcp.server.transport_security").warning("Invalid Origin header: \\x1b[31m%s\\nforged", secret)
warnings.warn(f"\\x1b]0;title\\x07{secret}")
try:
    raise RuntimeError(f"{secret} \\x1b[2J")
except RuntimeError as error:
    log.warning("mcp_background_failed", error=repr(error))
    logging.getLogger("hypercorn.error").exception("failed")
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_has_a_secret_or_an_escape(terminal: bool) -> None:  # noqa: FBT001
    program = SAY if not terminal else "import sys; sys.stderr.isatty = lambda: True\n" + SAY
    command = [sys.executable, "-c", program, SECRET]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert SECRET not in done.stderr
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr
    assert done.stderr.count("[redacted]") >= 5
    assert "Invalid Origin header" in done.stderr
    assert "hypercorn" in done.stderr or terminal
    assert not any(line.startswith("forged") for line in done.stderr.splitlines())


@pytest.mark.parametrize("kind", ["raw", "json", "claude", "codex"])
def test_a_command_that_cannot_be_started_is_not_quoted_with_its_secrets(state_dir: Path, kind: str) -> None:
    assert state_dir
    base = [sys.executable, "-m", "supervisor"]
    command = [*base, "run", "--kind", kind, "--", f"GITHUB_TOKEN={SECRET}", "make"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 127
    assert SECRET not in done.stdout + done.stderr
    assert "GITHUB_TOKEN" in done.stderr
