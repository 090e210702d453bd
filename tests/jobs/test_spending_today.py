"""The spending of the day is that of the ledger, whatever happens to its files."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from supervisor.errors import StateBusy, SupervisorError
from supervisor.jobs import spending_today
from supervisor.jobs.spending_today import SpendingToday
from supervisor.model import to_ns
from supervisor.store import ledger

BERLIN = ZoneInfo("Europe/Berlin")
NOON = to_ns(datetime(2026, 5, 1, 12, tzinfo=BERLIN))
HOUR = 3600 * 10**9


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending_today, "local_zone", lambda: "Europe/Berlin")


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


def spend(root: str, job_id: str, at_ns: int, usd: float | None, **more: Any) -> None:
    amount = None if usd is None else round(usd * 1e9)
    line = {"v": 1, "job_id": job_id, "at_ns": at_ns, "started_ns": None, "groups": [], "labels": {}, "charged": {}}
    ledger.append(root, {**line, "usd": amount, "tokens": 10, "seconds": 1, "starts": 1, **more})


def test_the_jobs_of_the_day_each_once(root: str) -> None:
    today = SpendingToday(root)
    assert today.total(NOON).jobs == 0
    spend(root, "yesterday", NOON - 13 * HOUR, 100)  # in the month before, in UTC as well
    spend(root, "early", NOON - 12 * HOUR + 1, 1)  # also in the month before, in UTC
    spend(root, "late", NOON, 2, labels={"who": "me"})
    assert (today.total(NOON).jobs, today.total(NOON).cost_usd) == (2, 3.0)
    spend(root, "late", NOON, 2.5, labels={"who": "me"})  # recorded again, after a kill
    spend(root, "other", NOON, None, charged={"a": {"usd": 10**9}, "b": {"usd": 3 * 10**9}})
    found = today.total(NOON)
    assert (found.jobs, found.cost_usd, found.tokens, found.estimated) == (3, 6.5, 30, 1)
    assert today.total(NOON, ("who", "me")).cost_usd == 2.5
    assert today.total(NOON, ("who", "you")).jobs == 0
    assert today.total(NOON + 12 * HOUR).jobs == 0
    spend(root, "tomorrow", NOON + 12 * HOUR, 7)
    assert today.total(NOON + 12 * HOUR).cost_usd == 7
    assert today.total(NOON).cost_usd == 6.5 + 7  # the clock was set back: it has ended since that midnight
    assert SpendingToday(root).total(NOON) == today.total(NOON)


def test_only_what_is_new_is_read(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    understood: list[bytes] = []
    understand = ledger._understood
    monkeypatch.setattr(ledger, "_understood", lambda line: understood.append(line) or understand(line))
    today = SpendingToday(root)
    for number in range(50):
        spend(root, f"old {number}", NOON - 48 * HOUR, 1)
    spend(root, "one", NOON, 1)
    today.total(NOON)
    today.total(NOON)
    spend(root, "two", NOON, 1)
    assert today.total(NOON).jobs == 2
    assert [json.loads(line)["job_id"] for line in understood] == ["one", "two"]


def test_a_line_without_its_end_comes_later_and_a_torn_one_never(root: str) -> None:
    today = SpendingToday(root)
    spend(root, "whole", NOON, 1)
    (path,) = Path(root, "spend").iterdir()
    whole = path.read_bytes()
    torn = whole.replace(b"whole", b"later").rstrip(b"\n")
    with path.open("ab") as file:
        file.write(torn[:-9])
    assert today.total(NOON).jobs == 1
    with path.open("ab") as file:
        file.write(torn[-9:] + b"\n")
    assert today.total(NOON).jobs == 2
    with path.open("ab") as file:
        file.write(torn[:-9])
    spend(root, "last", NOON, 1)
    with path.open("ab") as file:
        file.write(b'\n{"at_ns": 9' + b"9" * 30 + b'}\n[1]\n"at_ns":' + str(NOON).encode() + b"\n")
    assert today.total(NOON).jobs == 3


def test_a_file_that_was_replaced_cut_or_removed_is_read_again(root: str) -> None:
    today = SpendingToday(root)
    for job_id in ("one", "two"):
        spend(root, job_id, NOON, 1)
    assert today.total(NOON).jobs == 2
    (path,) = Path(root, "spend").iterdir()
    lines = path.read_bytes()
    os.truncate(path, len(lines) // 2)
    assert today.total(NOON).jobs == 1
    path.rename(path.with_suffix(".old"))
    assert today.total(NOON).jobs == 0
    spend(root, "new", NOON, 4)
    assert (today.total(NOON).jobs, today.total(NOON).cost_usd) == (1, 4.0)


def test_a_ledger_that_cannot_be_read_now_is_an_error_and_read_later(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = SpendingToday(root)
    spend(root, "one", NOON, 1)
    assert today.total(NOON).jobs == 1
    spend(root, "two", NOON, 1)
    with monkeypatch.context() as patched:

        def fail(*_: object, **__: object) -> None:
            raise OSError(24, "Too many open files")

        patched.setattr("builtins.open", fail)
        with pytest.raises(SupervisorError) as raised:
            today.total(NOON)
        assert isinstance(raised.value, StateBusy)
    assert today.total(NOON).jobs == 2
