"""The options of ``start`` and ``run`` that limit a job."""

from __future__ import annotations

from typing import Any


def test_the_options_of_the_command_line(cli: Any) -> None:
    refused = cli("start", "--limits", "require", "--", "true")
    assert refused.exit_code == 2
    assert "--limits needs --memory, --cpus or --pids" in refused.stderr
    refused = cli("start", "--memory", "10", "--", "true")
    assert refused.exit_code == 2
    assert "memory_bytes is 10" in refused.stderr
