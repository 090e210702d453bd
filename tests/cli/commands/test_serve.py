from __future__ import annotations

from typing import Any

import pytest


def test_without_the_extra_it_says_what_to_install(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "prometheus_client" else object())
    error = cli.json("serve", status=2)["error"]
    assert error["code"] == "invalid_settings"
    assert "prometheus_client" in error["message"]
    assert error["repair"] == 'pip install "trio-supervisor[serve]"'


@pytest.mark.parametrize(
    "words", [("--http", "nowhere"), ("--http", "192.0.2.1:1", "--no-token"), ("--allow-command", ""), ("word",)]
)
def test_wrong_usage(cli: Any, words: tuple[str, ...]) -> None:
    assert cli.json("serve", *words, status=2)["error"]["code"] == "invalid_arguments"
