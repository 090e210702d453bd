"""Processes as ``ps`` tells of them, where there is no ``/proc``."""

from __future__ import annotations

import locale
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime

import pytest

from supervisor.system import processes
from supervisor.system.observing import NotKnown

PROGRAM = shutil.which("ps", path="/usr/bin:/bin")


@pytest.fixture(autouse=True)
def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "HAVE_PROC", False)


@pytest.mark.skipif(PROGRAM is None, reason="ps is not installed")
def test_a_process_is_found_with_its_start_and_is_gone_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time zone, the locale and the search path of this process change nothing."""
    for name, value in (("PATH", "/nowhere"), ("TZ", "Asia/Kathmandu"), ("LC_ALL", "de_DE.UTF-8")):
        monkeypatch.setenv(name, value)
    before = time.time()
    with subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, start_new_session=True) as child:
        found = processes.read_process(child.pid)
        assert found is not None
        assert (found.parent, found.group, found.session) == (os.getpid(), child.pid, child.pid)
        assert before - 60 < found.start < time.time() + 60, "ps of Linux may be a second off, and clocks are set"
    assert processes.read_process(child.pid) is None
    assert not processes.is_alive(child.pid, found.start)


LINE = "  41     1    41 Ss   Sun Nov  1 08:54:09 2026"


def listed(monkeypatch: pytest.MonkeyPatch, text: str) -> dict[int, processes.Process]:
    monkeypatch.setattr(processes, "ask", lambda *_: text)
    monkeypatch.setattr(os, "getsid", lambda pid: pid)
    return processes.list_by_ps()


def test_a_time_is_read_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    former = locale.setlocale(locale.LC_TIME)
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C"):
            try:
                locale.setlocale(locale.LC_TIME, name)
            except locale.Error:
                continue
            (found,) = listed(monkeypatch, LINE).values()
            assert found.start == datetime(2026, 11, 1, 8, 54, 9, tzinfo=UTC).timestamp()
    finally:
        locale.setlocale(locale.LC_TIME, former)


@pytest.mark.parametrize("wrong", ["Sun Okt  1 08:54:09 2026", "Sun Nov  1 8.54.09 2026", "Sun Nov 31 08:54:09 2026"])
def test_a_time_that_cannot_be_read_is_not_the_end_of_the_process(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    with pytest.raises(NotKnown):
        listed(monkeypatch, LINE.replace("Sun Nov  1 08:54:09 2026", wrong))


def test_a_process_whose_session_may_not_be_read_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise PermissionError

    def gone(_: int) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(processes, "ask", lambda *_: LINE)
    monkeypatch.setattr(os, "getsid", refuse)
    assert processes.list_by_ps()[41].session == 0
    monkeypatch.setattr(os, "getsid", gone)
    assert processes.list_by_ps() == {}


def test_a_program_that_cannot_be_run_says_nothing_about_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PLAIN", {"PATH": "/nowhere"})
    with pytest.raises(NotKnown):
        processes.read_process(os.getpid())
