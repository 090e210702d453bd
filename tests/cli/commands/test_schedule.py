"""``supervisor schedule``: what it prints, what it refuses, and with which status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.jobs.scheduled import request_of, spec_of_schedule
from supervisor.model import JobSpec, Limits
from supervisor.retry import Retry
from supervisor.store.schedule_files import load

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

ADD = ("nightly", "--cron", "30 2 * * *", "--tz", "Europe/Berlin")


def add(cli: Cli, *words: str, status: int = 0) -> Any:
    """Add a schedule; what comes after -- belongs to its command."""
    done = cli("schedule", "add", "--json", *words)
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def test_a_schedule_is_added_shown_paused_resumed_and_removed(cli: Cli) -> None:
    added = add(cli, *ADD, "--group", "agents", "--create-group", "--", "sh", "-c", "echo --tz")
    assert (added["cron"], added["tz"], added["argv"]) == ("30 2 * * *", "Europe/Berlin", ["sh", "-c", "echo --tz"])
    assert (added["overlap"], added["catch_up"], added["catch_up_window_seconds"]) == ("skip", "latest", 3600)
    assert cli.json("schedule", "list")["schedules"][0]["groups"] == ["agents"]
    shown = cli("schedule", "show", "nightly")
    assert "Europe/Berlin" in shown.stdout
    assert cli.json("schedule", "pause", "nightly")["next_at"] is None
    assert "paused" in cli("schedule", "list").stdout
    assert cli.json("schedule", "resume", "nightly")["next_at"].endswith("0:00.000Z")
    assert cli.json("schedule", "rm", "nightly") == {"ok": True, "removed": "nightly"}
    assert cli.json("schedule", "list") == {"ok": True, "schedules": []}


def test_a_schedule_that_exists_is_changed_only_if_that_is_asked_for(cli: Cli) -> None:
    add(cli, *ADD, "--", "true")
    error = add(cli, *ADD, "--", "false", status=2)["error"]
    assert error["code"] == "invalid_arguments"
    assert "--replace" in error["repair"]
    assert add(cli, *ADD, "--replace", "--", "false")["argv"] == ["false"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--cron", "0 0 31 2 *", "--", "true"), "never fires"),
        (("--cron", "61 * * * *", "--", "true"), "bad minute"),
        (("--cron", "@daily", "--tz", "Mars", "--", "true"), "no time zone"),
        (("--cron", "@daily", "--key", "k", "--", "true"), "keys of their own"),
        (("--cron", "@daily", "--delay", "5", "--", "true"), "its instants say when"),
        (("--cron", "@daily", "--hold", "--", "true"), "wait for ever"),
        (("--cron", "@daily", "--spool", "memory", "--", "true"), "are on disk"),
        (("--cron", "@daily", "--workspace", "/nowhere", "--", "true"), "no directory"),
        (("--cron", "@daily", "--jitter", "91d", "--", "true"), "90 days"),
    ],
)
def test_what_no_schedule_can_have_is_refused(cli: Cli, words: tuple[str, ...], what: str) -> None:
    error = add(cli, "x", *words, status=2)["error"]
    assert what in error["message"]
    assert cli.json("schedule", "list")["schedules"] == []


def test_a_schedule_that_does_not_exist_is_an_error(cli: Cli) -> None:
    for verb in ("show", "pause", "resume", "run", "rm"):
        assert cli.json("schedule", verb, "nope", status=125)["error"]["code"] == "schedule_not_found"


def test_a_request_comes_back_from_its_file_with_every_option(cli: Cli) -> None:
    add(cli, *ADD, "--stdin", "/dev/null", "--", "true")
    schedule = load(str(cli.state_dir), "nightly")
    assert schedule is not None
    spec = JobSpec(
        argv=["true"],
        workspace="/tmp",
        env={"A": "b"},
        labels={"a": "b"},
        deadline_seconds=float("inf"),
        groups=["g"],
        retry=Retry(maximum_attempts=3, retry_on=[75]),
        limits=Limits(memory_bytes=1 << 30),
        pty=True,
        window=(30, 90),
    )
    held = json.loads(json.dumps(request_of(spec, "/tmp")))
    object.__setattr__(schedule, "request", held)
    made = spec_of_schedule(schedule, None, "key", 0, instant_ns=5)
    for name in ("argv", "env", "labels", "deadline_seconds", "groups", "retry", "limits", "pty", "window"):
        assert getattr(made, name) == getattr(spec, name), name
