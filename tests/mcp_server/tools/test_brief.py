"""Short jobs, and advice that names tools instead of shell commands."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

import supervisor
from supervisor import Job
from supervisor.mcp_server.tools.brief import brief, for_tools
from supervisor.states import Reason, State

JOB_ID = "0123456789abcdef" * 2
SOURCES = Path(supervisor.__file__).parent


def job(**facts: Any) -> Job:
    made: dict[str, Any] = {
        "job_id": JOB_ID,
        "kind": "claude",
        "status": State.RUNNING,
        "reason": None,
        "workspace": "/repo",
        "argv": ("claude",),
        "labels": {},
        "created_at": datetime.now(UTC),
        "started_at": None,
        "completed_at": None,
        "elapsed_ms": 5,
        "deadline_seconds": 1800,
        "deadline_at": None,
    }
    given = {each.name for each in attrs.fields(Job)}
    return Job(**{name: value for name, value in (made | facts).items() if name in given})


def test_a_usual_job_has_its_state_and_no_more() -> None:
    assert brief(job()) == {
        "ok": True,
        "job_id": JOB_ID,
        "kind": "claude",
        "status": "running",
        "reason": None,
        "elapsed_ms": 5,
        "argv": ["claude"],
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exit_code", 3),
        ("signal", 9),
        ("warnings", ("It is cut.",)),
        ("cost_usd", 0.5),
        ("stop_requested", "cancelled"),
        ("paused", True),
        ("queue_reason", "limit"),
        ("queue_position", 2),
        ("groups", ("agents",)),
        ("attempt", 2),
        ("session_id", "s"),
        ("engine", "slurm"),
    ],
)
def test_an_unusual_field_is_shown(name: str, value: object) -> None:
    shown = brief(job(**{name: value}))[name]
    assert shown == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(("name", "value"), [("exit_code", 0), ("attempt", 1), ("pid", 4), ("stdout_bytes", 7)])
def test_a_usual_field_is_not_shown(name: str, value: object) -> None:
    assert name not in brief(job(**{name: value}))


def test_an_ended_job_shows_no_groups() -> None:
    assert "groups" not in brief(job(groups=("g",), status=State.DONE, reason=Reason.EXITED, exit_code=0))


def test_long_texts_are_cut() -> None:
    shown = brief(
        job(argv=("x" * 100, *"abcdefghijkl"), detail="d" * 1000, progress={"turn": 0, "tool": "t" * 100, "note": None})
    )
    assert shown["argv"] == ["x" * 60 + "…", *"abcdefg", "… 5 more"]
    assert shown["argv_truncated"] is True
    assert len(shown["detail"]) == 301
    assert shown["progress"] == {"tool": "t" * 60 + "…"}
    assert brief(job(argv=["w" * 50] * 8))["argv"] == ["w" * 50] * 2 + ["… 6 more"]


@pytest.mark.parametrize(
    ("advice", "named"),
    [
        (f"See `supervisor logs {JOB_ID}`.", f"See job_logs with job_id {JOB_ID} and stream stdout."),
        (f"See `supervisor logs {JOB_ID} --stderr`.", f"See job_logs with job_id {JOB_ID} and stream stderr."),
        ("See `supervisor logs JOB --stderr`.", "See job_logs with stream stderr."),
        ("Wait (`supervisor wait JOB`).", "Wait (job_wait)."),
        ("List with `supervisor list --all`.", "List with job_list."),
        ("Run `supervisor doctor`.", "Run `supervisor doctor` in a shell."),
        ("Use `supervisor group set g --limit 3`.", "Use `supervisor group set g --limit 3` in a shell."),
        ("Run `make`.", "Run `make`."),
    ],
)
def test_advice_names_tools(advice: str, named: str) -> None:
    assert for_tools(advice) == named


def test_no_advice_in_the_package_names_a_shell_command_to_a_model() -> None:
    found = 0
    for path in SOURCES.rglob("*.py"):
        for advice in re.findall(r"`supervisor [a-z-]+[^`\n]*`", path.read_text(encoding="utf-8")):
            found += 1
            shown = for_tools(advice)
            assert not shown.startswith("`") or shown.endswith("` in a shell"), (path, advice)
    assert found > 50
