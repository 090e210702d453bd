from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest


def test_results_are_the_bytes_that_were_written(cli: Any) -> None:
    job_id = cli.start("--", "printf", r"caf\303\251 \377 no newline")
    assert cli("wait", job_id).exit_code == 0
    assert cli.run("result", job_id).stdout == b"caf\xc3\xa9 \xff no newline"
    shape = cli.json("result", job_id)
    assert shape["encoding"] == "base64"
    assert base64.b64decode(shape["value"]) == b"caf\xc3\xa9 \xff no newline"
    assert cli("result", "--consume", job_id).exit_code == 0
    assert cli("result", job_id).exit_code == 3


def test_the_result_of_a_running_job_is_75_and_of_a_bad_one_1(cli: Any, fifo: Callable[[], None]) -> None:
    job_id = cli.start("--kind", "json", "--", "sh", "-c", "read x < ../fifo; echo '{'")
    shape = cli.json("result", job_id, status=75)
    assert (shape["error"]["code"], shape["error"]["retryable"], shape["job"]["status"]) == (
        "job_running",
        True,
        "running",
    )
    fifo()
    assert cli("wait", job_id).exit_code == 1
    done = cli("result", job_id)
    assert (done.exit_code, done.stdout) == (1, "")
    assert job_id in done.stderr
    assert cli.json("result", job_id, status=1)["error"]["code"] == "invalid_output"


def test_the_value_of_kind_json(cli: Any) -> None:
    job_id = cli.start("--kind", "json", "--", "echo", '{"a": [1, "\\u001b"]}')
    cli("wait", job_id)
    done = cli("result", job_id)
    assert json.loads(done.stdout) == {"a": [1, "\x1b"]}
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("character", ["a", "\x01", "\N{PILE OF POO}", '"'])
def test_a_large_value_is_written_in_pieces_that_fit(cli: Any, monkeypatch: pytest.MonkeyPatch, character: str) -> None:
    monkeypatch.setattr("supervisor.cli.front._PIECE", 10)
    value = character * 25
    job_id = cli.start("--label", 'value="value":""', "--", "printf", "%s", value)
    cli("wait", job_id)
    assert cli.json("result", job_id)["value"] == value
    assert cli.json("result", job_id)["job"]["labels"] == {"value": '"value":""'}
    assert cli.json("logs", job_id)["value"] == value
