"""The threads that run the keeper's loop in turn: a step that blocks stops nothing else, and each result comes once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from supervisor.keeper import relay

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs sigwait and timers")

# In a process of its own: the last thread ends the process, and the timer's signal is blocked in all of its threads.
PROGRAM = """
import os, signal, sys, threading, time
from supervisor.keeper import relay

gate, opened = os.pipe()
returned, came = os.pipe()
todo = sys.argv[1:]
told = []

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def step(name):
    if name.startswith("hang"):
        os.read(gate, 1)
    elif name.startswith("slow"):
        time.sleep(relay.PATIENCE * (0.9 + int(name[4:]) % 5 / 20))
    say("did", name)

def loop():
    say("loop", threading.get_ident())
    while todo:
        name = todo.pop(0)
        if name == "open":  # what hangs goes on, and has come back
            os.write(opened, b"x")
            os.read(returned, 1)
        elif name == "rest":  # outside of any step that may block
            time.sleep(3 * relay.PATIENCE)
        elif name == "all":
            for _ in range(len(sys.argv) - 2 - len(told)):
                os.read(returned, 1)
        else:
            made.guard(step, name)
            told.append(name)
            say("told", name)
    say("blocked", made.blocked)

def came_back(name):
    say("back", name)
    os.write(came, b"x")

made = relay.Relay(loop, came_back, [signal.SIGCHLD])
made.run()
"""


def run(*steps: str) -> list[list[str]]:
    """Run these steps, and return what was said."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *steps], capture_output=True, text=True, check=True, timeout=60
    )
    return [line.split() for line in done.stdout.splitlines()]


def said(lines: list[list[str]], word: str) -> list[str]:
    return [line[1] for line in lines if line[0] == word]


def test_a_step_that_blocks_for_ever_stops_no_other() -> None:
    lines = run("a", "hang", "b", "c")
    assert said(lines, "told") == ["a", "b", "c"]
    assert said(lines, "back") == []
    assert len(set(said(lines, "loop"))) == len(said(lines, "loop")) == 2
    assert said(lines, "blocked") == ["1"]


def test_what_comes_back_is_handed_to_the_loop_once() -> None:
    lines = run("a", "hang", "b", "open", "c")
    assert said(lines, "did") == ["a", "b", "hang", "c"]
    assert said(lines, "told") == ["a", "b", "c"]
    assert said(lines, "back") == ["hang"]
    assert len(said(lines, "loop")) == 2
    assert said(lines, "blocked") == ["0"]


def test_the_loop_itself_is_never_relieved() -> None:
    lines = run("a", "rest", "b", "rest", "c")
    assert said(lines, "told") == ["a", "b", "c"]
    assert len(said(lines, "loop")) == 1


def test_several_may_block() -> None:
    lines = run("hang1", "a", "hang2", "hang3", "b", "open", "open", "open", "c")
    assert said(lines, "told") == ["a", "b", "c"]
    assert sorted(said(lines, "back")) == ["hang1", "hang2", "hang3"]
    assert said(lines, "blocked") == ["0"]


def test_a_step_that_takes_as_long_as_the_patience_is_told_of_once() -> None:
    """However the hand-over and the end of a step fall together."""
    steps = [f"slow{number}" for number in range(40)]
    lines = run(*steps, "all")
    assert Counter(said(lines, "told") + said(lines, "back")) == Counter(said(lines, "did")) == Counter(steps)
    assert len(said(lines, "blocked")) == 1


def test_without_threads_nothing_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(relay._thread, "start_new_thread", refuse)
    monkeypatch.setattr(relay.signal, "pthread_sigmask", lambda *_: set())
    done: list[str] = []
    made = relay.Relay(lambda: made.guard(done.append, "a"), lambda *_: None, [])
    made.run()
    assert done == ["a"]
    assert made.may_block
