from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import on_terminal


def test_status_of_a_job_through_its_life(cli: Any, fifo: Callable[[], None]) -> None:
    job_id = cli.start("--label", "batch=4 2", "--deadline", "600", "--", "sh", "-c", "read x < ../fifo; exit 7")
    running = cli("status", job_id[:6])
    assert running.exit_code == 0
    facts = dict(line.split("  ", 1) for line in running.stdout.splitlines())
    assert facts["Job"].strip() == job_id
    assert facts["Status"].strip().startswith("running, for ")
    assert facts["Labels"].strip() == "batch=4 2"
    assert "10 min 00 s" in facts["Deadline"]
    shape = cli.json("status", job_id)
    assert (shape["ok"], shape["job_id"], shape["status"], shape["exit_code"]) == (True, job_id, "running", None)
    fifo()
    assert cli("wait", job_id).exit_code == 1
    ended = cli("status", job_id).stdout
    assert "failed (exit status 7)" in ended
    assert "Deadline   10 min 00 s from its start\n" in ended
    assert cli.json("status", job_id)["exit_code"] == 7


def test_control_characters_do_not_reach_a_terminal(cli: Any) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    job_id = cli.start("--label", f"a={evil}", "--", "sh", "-c", "exit 1", evil)
    cli("wait", job_id)
    for words in (["status", job_id], ["list"]):
        status, shown = on_terminal(*words, NO_COLOR="1")
        assert status == 0
        assert "owned" not in shown
        assert "\x07" not in shown
        assert "\x1b[2J" not in shown


@pytest.mark.parametrize("words", [["status"], ["list"]])
def test_colours_are_for_terminals_that_want_them(cli: Any, words: list[str]) -> None:
    job_id = cli.start("true")
    cli("wait", job_id)
    words = [*words, job_id] if words == ["status"] else words
    assert "\x1b[" in on_terminal(*words)[1]
    assert "\x1b[3" not in on_terminal(*words, NO_COLOR="1")[1]
    assert "\x1b" not in cli.run(*words).stdout.decode()


def test_an_ended_job_says_what_its_deadline_was(cli: Any) -> None:
    late = cli.start("--deadline", "0.1", "--", "sleep", "60")
    endless = cli.start("--deadline", "none", "--", "true")
    cli("wait", late, endless)
    assert "Deadline   100 ms from its start, which has passed\n" in cli("status", late).stdout
    assert "Deadline   none\n" in cli("status", endless).stdout


def test_a_job_that_takes_messages_says_where_they_go(cli: Any) -> None:
    for option, words in (("--stdin-open", "stdin stays open"), ("--pty", "a terminal")):
        job_id = cli.start(option, "--", "cat")
        assert f"Input      {words}\n" in cli("status", job_id).stdout
        cli("cancel", job_id)
        assert "Input" not in cli("status", job_id).stdout


def test_a_job_says_what_its_limits_are(cli: Any) -> None:
    words = ["--memory", "200M", "--cpus", "1.5", "--pids", "50", "--limits", "best-effort"]
    job_id = cli.start(*words, "--", "true")
    cli("wait", job_id)
    assert "Limits     200.0 MiB of memory, 1.5 processors, 50 processes\n" in cli("status", job_id).stdout
    job_id = cli.start("--pids", "50", "--limits", "best-effort", "--", "true")
    assert "Limits     50 processes\n" in cli("status", job_id).stdout
