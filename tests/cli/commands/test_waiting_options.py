"""The options of ``start`` and ``run`` that make a job wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from supervisor.cli.arguments import dependency, moment, seconds, size


def test_durations_and_sizes_are_parsed() -> None:
    assert (seconds("1h30m"), seconds("none"), size("1.5k")) == (5400, float("inf"), 1536)
    with pytest.raises(click.BadParameter, match=r"^'5 minutes' is not a duration: give a number .* or 'none'\.$"):
        seconds("5 minutes")
    with pytest.raises(click.BadParameter, match=r"^'9{79} is not a size: give a whole number of bytes"):
        size("9" * 100)


def test_times_and_dependencies_are_parsed() -> None:
    assert moment("2030-01-31T18:00+02:00") == datetime(2030, 1, 31, 16, tzinfo=UTC)
    assert dependency("abcd") == dependency("ok:abcd") == ("ok", "abcd")
    assert dependency("failed:abcd") == ("failed", "abcd")
    for text in ("soon:abcd", ":", "ok:", ""):
        with pytest.raises(click.BadParameter, match="WHEN"):
            dependency(text)


def facts(shown: str) -> dict[str, str]:
    return {name: value.strip() for name, value in (line.split("  ", 1) for line in shown.splitlines())}


def test_a_job_waits_for_what_its_options_say(cli: Any) -> None:
    first = cli.start("--hold", "--", "true")
    shape = cli.json("status", first)
    assert (shape["status"], shape["queue_reason"], shape["not_before"]) == ("queued", "held", None)
    assert facts(cli("status", first).stdout)["Waiting"] == "on hold, until it is released"

    second = cli.start("--after", first[:8], "--after", f"any:{first}", "--start-within", "1d", "--", "true")
    shape = cli.json("status", second)
    assert (shape["queue_reason"], shape["after"]) == (
        "dependency",
        [{"job_id": first, "when": "ok"}, {"job_id": first, "when": "any"}],
    )
    shown = facts(cli("status", second).stdout)
    assert (shown["Waiting"], shown["After"]) == ("for other jobs", f"ok:{first} any:{first}")

    third = cli.json("status", cli.start("--delay", "1h30m", "--", "true"))
    assert third["queue_reason"] == "not_before"
    wait = datetime.fromisoformat(third["not_before"]) - datetime.fromisoformat(third["created_at"])
    assert wait == timedelta(minutes=90)
    assert facts(cli("status", third["job_id"]).stdout)["Not before"].endswith((", in 1 h 30 min", ", in 1 h 29 min"))

    when = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    fourth = cli.json("status", cli.start("--not-before", when.isoformat(), "--", "true"))
    assert datetime.fromisoformat(fourth["not_before"]) == when


def test_run_ends_with_130_when_its_job_cannot_start_in_time(cli: Any) -> None:
    done = cli.run("run", "--hold", "--start-within", "0.1s", "--", "true")
    assert done.returncode == 130
    assert b"could not be launched in the time" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["--delay", "soon"], 2, "invalid_arguments"),
        (["--delay", "365d"], 2, "invalid_arguments"),
        (["--delay", "none"], 2, "invalid_arguments"),
        (["--not-before", "tomorrow"], 2, "invalid_arguments"),
        (["--not-before", "2999-01-01T00:00"], 2, "invalid_arguments"),
        (["--delay", "5m", "--not-before", "2030-01-01T00:00"], 2, "invalid_arguments"),
        (["--start-within", "-1"], 2, "invalid_arguments"),
        (["--after", "soon:abcdef"], 2, "invalid_arguments"),
        (["--after", "abc"], 2, "invalid_arguments"),
        (["--after", "abcdef"], 3, "job_not_found"),
        (["--after", "0" * 32], 3, "job_not_found"),
    ],
)
def test_what_no_job_can_wait_for_is_refused(cli: Any, words: list[str], status: int, code: str) -> None:
    done = cli("start", "--json", *words, "--", "true")
    assert (done.exit_code, f'"code":"{code}"' in done.stdout.replace(" ", "")) == (status, True), done.output
    assert cli.json("list", "--all")["jobs"] == []


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_the_window_of_a_budget_ends_by_the_clock_of_the_time_zone_that_is_shown_with_it(cli: Any, zone: str) -> None:
    cli("group", "set", "paid", "--budget", "usd=1/day", "--tz", zone)
    assert facts(cli("group", "show", "paid").stdout)["Budget"].endswith(f" 00:00:00 ({zone}); then hold")
