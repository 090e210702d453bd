"""Run the conformance suite against the fixture server: ``python -m tests.conformance SUITE [--node NODE]``.

SUITE is the installed npm package. ``nox -s conformance`` installs it, and a Node that can run it.
Each requirement set is run once, at its own version of the protocol; that of 2026-07-28 runs the
scenarios of the tasks extension too, which it does not score and we do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

_SUITE_SECONDS: Final = 300
_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 20
_SERVER: Final = (sys.executable, "-m", "tests.conformance.server", "--port", "0")
_TASK_CHECKS: Final = 44
_SETS: Final = {"2026-07-28": 37, "2025-11-25": 30}

# What the suite runs, does not score, and need not pass here.
_NOT_OURS: Final = {
    "json-schema-2020-12": "asks for a tool with a schema that the SDK does not generate from a function",
    "http-custom-header-server-validation": "asks for tools with x-mcp-header annotations, which are the SDK's matter",
    "server-sse-polling": "asks for resumable streams; a task is what a client comes back for here",
    "tasks-status-notifications": "skipped by the suite; tests/mcp_server/tasks/test_listening.py has them",
}


@attrs.frozen
class Scenario:
    """One scenario, as it was run."""

    name: str
    passed: int
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it has checked something, and nothing failed."""
        return self.passed > 0 and not self.failures


@contextlib.contextmanager
def fixture_server() -> Iterator[str]:
    """Run the fixture server on a state root of its own; gives its address."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        environment = {**os.environ, "SUPERVISOR_STATE_DIR": f"{folder}/state"}
        with subprocess.Popen(_SERVER, stdout=subprocess.PIPE, text=True, env=environment) as server:
            try:
                assert server.stdout is not None
                ready, _, _ = select.select([server.stdout], [], [], _START_SECONDS)
                address = server.stdout.readline().strip() if ready else ""
                if not address:
                    sys.exit("the fixture server did not start")
                yield address
            finally:
                server.send_signal(signal.SIGTERM)
                try:
                    server.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    server.kill()
                    raise


def _run(node: str, suite: Path, address: str, revision: str, folder: Path) -> dict[str, Scenario]:
    """Run one requirement set and return its scenarios by name."""
    command = [node, suite / "dist/index.js", "server", "--url", address, "--requirements", revision, "-o", folder]
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        # Its exit status counts what is scored only, and so says less than what it has written down.
        subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=_SUITE_SECONDS, check=False)
    found: dict[str, Scenario] = {}
    for checks in folder.glob("server-*/checks.json"):
        match = re.fullmatch(r"server-(.*)-\d{4}-\d\d-\d\dT.*Z", checks.parent.name)
        assert match is not None, checks
        held = json.loads(checks.read_text(encoding="utf-8"))
        failures = tuple(f"{each['id']}: {each.get('errorMessage')}" for each in held if each["status"] == "FAILURE")
        found[match[1]] = Scenario(match[1], sum(each["status"] == "SUCCESS" for each in held), failures)
    if not found:
        sys.exit(f"the suite gave no results:\n{log.read_text(encoding='utf-8', errors='replace')}")
    return found


def _required(suite: Path, revision: str) -> list[str]:
    """Return the server scenarios that a revision requires, from the list that comes with the suite."""
    lines = (suite / "requirements" / f"{revision}.yaml").read_text(encoding="utf-8").splitlines()
    begin = lines.index("server:") + 1
    names: list[str] = []
    for line in lines[begin:]:
        if not line.startswith("  - "):
            break
        names.append(line.removeprefix("  - ").strip())
    return names


def _tell(title: str, passed: int, wanted: int, failed: list[Scenario]) -> None:
    print(f"{title}: {passed} of {wanted}")
    for scenario in failed:
        why = "; ".join(scenario.failures) or "nothing was checked"
        print(f"  FAILED {scenario.name}: {why}")


def main() -> int:
    """Run both sets and say what passed; 1 when anything that counts did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, help="the installed package @modelcontextprotocol/conformance")
    parser.add_argument("--node", default=shutil.which("node"), help="Node 22 or later (default: the one on the path)")
    given = parser.parse_args()
    if given.node is None:
        parser.error("there is no node on the path; `nox -s conformance` installs one")
    good = bad = 0
    with tempfile.TemporaryDirectory(prefix="conformance-results-") as folder, fixture_server() as address:
        for revision, wanted in _SETS.items():
            found = _run(given.node, given.suite, address, revision, Path(folder) / revision)
            required = _required(given.suite, revision)
            scored = [found.get(name, Scenario(name, 0, ("it was not run",))) for name in required]
            failed = [scenario for scenario in scored if not scenario.ok]
            _tell(f"requirements of {revision}, scenarios", len(scored) - len(failed), wanted, failed)
            good, bad = good + len(scored) - len(failed), bad + len(failed)
            bad += len(scored) < wanted  # a suite that asks for less is not the one that we mean
            extra = {name: scenario for name, scenario in found.items() if name not in required}
            tasks = [scenario for name, scenario in extra.items() if name.startswith("tasks-")]
            if tasks:
                failed = [each for each in tasks if each.failures]
                passed = sum(each.passed for each in tasks)
                _tell("tasks, checks", passed, _TASK_CHECKS, failed)
                good, bad = good + passed, bad + max(_TASK_CHECKS - passed, len(failed))
            for name, scenario in extra.items():
                if not scenario.ok and scenario not in tasks:
                    reason = _NOT_OURS.get(name)
                    print(f"  not scored, not passed: {name}: {reason or 'WHY IS NOT KNOWN'}")
                    bad += reason is None
    print(f"{good} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
