"""What the tests of the kinds share: captured runs, and outcomes made of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.interpret import Outcome

_FIXTURES = Path(__file__).parent / "fixtures"


def _outcome(
    stdout: bytes = b"", stderr: bytes = b"", exit_code: int | None = 0, signal: int | None = None, **rest: Any
) -> Outcome:
    return Outcome(
        exit_code=exit_code, signal=signal, read_stdout=lambda: stdout, read_stderr=lambda: stderr[-65536:], **rest
    )


@pytest.fixture(scope="session")
def outcome_of() -> Callable[..., Outcome]:
    """Make an outcome of what a command wrote and how it ended."""
    return _outcome


@pytest.fixture(scope="session")
def captured() -> Callable[..., Outcome]:
    """Make the outcome of a captured run, with anything about it replaced."""

    def load(name: str, **changes: Any) -> Outcome:
        run = json.loads((_FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
        status = run["exit_code"]
        settings: dict[str, Any] = {
            "stdout": run["stdout"].encode(),
            "stderr": run["stderr"].encode(),
            "exit_code": status if status >= 0 else None,
            "signal": -status if status < 0 else None,
        }
        return _outcome(**{**settings, **changes})

    return load


@pytest.fixture(scope="session")
def success_envelope() -> dict[str, Any]:
    """Return the envelope of a captured run that went well."""
    run = json.loads((_FIXTURES / "claude/success.json").read_text(encoding="utf-8"))
    envelope: dict[str, Any] = json.loads(run["stdout"])
    return envelope
