"""Every logged event is in the vocabulary, with its level and its facts, and the vocabulary has no other events."""

from __future__ import annotations

import ast
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import supervisor
from supervisor import Settings, log, open_supervisor
from supervisor.testing import FakeEngine, Script

PACKAGE = Path(supervisor.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield (place, level, call) for each call of the package that logs."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "log.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level)) if level in LEVELS:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", level, node


CALLS = list(calls())


@pytest.mark.parametrize(("place", "level", "call"), CALLS, ids=[place for place, _, _ in CALLS])
def test_what_is_logged_is_in_the_vocabulary(place: str, level: str, call: ast.Call) -> None:
    assert len(call.args) == 1, place
    assert isinstance(call.args[0], ast.Constant), f"{place}: the name of an event is written out"
    kind = log.EVENTS[str(call.args[0].value)]
    assert (kind.level, kind.facts) == (level, tuple(keyword.arg for keyword in call.keywords))


def test_the_vocabulary_holds_nothing_else() -> None:
    used = {call.args[0].value for _, _, call in CALLS if isinstance(call.args[0], ast.Constant)}
    assert used == set(log.EVENTS)


def test_nothing_is_logged_past_the_vocabulary() -> None:
    """Only the module that configures the logger for the command line writes to the standard logger."""
    with_logging = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(alias.name in {"logging", "structlog"} for alias in node.names)
    }
    assert with_logging == {
        "log.py",
        "cli/front.py",
        "http/serving.py",
    }  # the last one passes a logger to Hypercorn


def test_events_of_a_job_bear_its_id() -> None:
    assert all("job_id" in kind.facts for name, kind in log.EVENTS.items() if name.startswith(("job_", "submission_")))


def test_an_event_is_logged_while_structlog_cannot_be_imported(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_descriptor() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(log, "_bound", no_descriptor)
    log.warning("janitor_failed", code="state_busy", error="x")
    (record,) = caplog.records
    assert (record.message, record.levelname, vars(record)["code"]) == ("janitor_failed", "WARNING", "state_busy")


async def test_the_life_of_a_job_in_events(state_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "supervisor")
    async with open_supervisor(Settings(state_dir=state_dir), engine=FakeEngine(Script(seconds=None))) as sup:
        job = await sup.start(["tool"])
        await sup.cancel(job.job_id)
        left = await sup.start(["tool"])
    seen = [(record.message, getattr(record, "job_id", None)) for record in caplog.records]
    assert seen == [
        ("supervisor_opened", None),
        ("job_launched", job.job_id),
        ("job_stopping", job.job_id),
        ("job_ended", job.job_id),
        ("job_launched", left.job_id),
        ("supervisor_closed", None),
    ]
    ended = next(record for record in caplog.records if record.message == "job_ended")
    assert (vars(ended)["state"], vars(ended)["reason"]) == ("cancelled", "cancelled")
    assert vars(caplog.records[-1])["jobs"] == 1
