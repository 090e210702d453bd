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
    assert "Deadline" not in ended
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
