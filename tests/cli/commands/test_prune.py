from __future__ import annotations

from typing import Any

import pytest


def test_prune_forgets_what_is_too_much(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [cli.start("true") for _ in range(3)]
    cli("wait", *jobs)
    assert cli("prune").stdout == "Forgot 0 jobs.\n"
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "1")
    assert set(cli.json("prune")["forgotten"]) == set(jobs[:2])
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_COUNT", "0")
    assert cli("prune", "--workspace", "/").stdout == "Forgot 0 jobs.\n"
    assert cli("prune", "--all").stdout == "Forgot 1 job.\n"
