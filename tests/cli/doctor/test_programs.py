"""``doctor`` says which versions of the agent programs are there, and which were tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cli.doctor.machine import check_programs


def _program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_versions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, "claude", "test $DISABLE_AUTOUPDATER = 1 && echo '2.1.400 (Claude Code)'")
    _program(tmp_path, "codex", "echo broken >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    agents, git, _ = check_programs()
    assert agents.message == (
        f"claude {tmp_path}/claude 2.1.400 (tried with 2.1.330 and 2.1.332), "
        f"codex {tmp_path}/codex of an unknown version (tried with 0.169.0 and 0.171.0)"
    )
    assert agents.facts is not None
    assert agents.facts["versions"] == {"claude": "2.1.400", "codex": None}
    assert agents.facts["tried"]["claude"] == ["2.1.330", "2.1.332"]
    assert git.message == "not on PATH: no job can have a worktree"
    _program(tmp_path, "git", "echo git version 2.39.5")
    assert list(check_programs())[1].message == f"{tmp_path}/git 2.39.5"
