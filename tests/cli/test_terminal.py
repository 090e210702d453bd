"""No value of a job reaches a terminal as a control character; the output of a job is passed on unchanged."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

# A title, a cleared screen, a C1 introducer, a bell, an answerback, a new line's way back, reordered text.
NASTY = "\x1b]0;owned\x07\x1b[2Jx\x9b31my\x05z\rback\u202egnp\x7f\x00"
SPARED = NASTY.replace("\x00", "")  # what the operating system takes as an argument
# The control sequences of the command line itself: colours, and the status line of `run`, which clears its line.
OURS = re.compile(r"\x1b\[[0-9;]*m|\r[^\x00-\x1f]*\x1b\[K|\r\x1b\[K|\r\n")
UNWANTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def on_a_terminal(cli: Cli, *words: str, seconds: float = 30) -> str:
    """Return what a command writes to the terminal that is its stdout and stderr."""
    master, slave = pty.openpty()
    try:
        with cli.process(*words, stdin=slave, stdout=slave, stderr=slave) as process:
            os.close(slave)
            shown = b""
            give_up = time.monotonic() + seconds
            poll = select.poll()
            poll.register(master, select.POLLIN)
            while poll.poll(max(0, give_up - time.monotonic()) * 1000):
                try:
                    data = os.read(master, 65536)
                except OSError:  # the other end is closed
                    break
                if not data:
                    break
                shown += data
            process.wait(seconds)
    finally:
        os.close(master)
    return shown.decode(errors="replace")


def through_a_pipe(cli: Cli, *words: str) -> str:
    done = cli.run(*words, stderr=subprocess.STDOUT)
    return done.stdout.decode()


def unwanted(shown: str) -> list[str]:
    return UNWANTED.findall(OURS.sub("", shown))


shown_by = pytest.mark.parametrize("show", [on_a_terminal, through_a_pipe])


def start_nasty(cli: Cli) -> str:
    """Start a job that is nasty in all it is made of, and fails with a nasty reason."""
    script = 'printf "%s\\n" "$1" >&2; exit 3'
    return cli.start(
        "--label",
        f"{SPARED}={SPARED}",
        "--key",
        "k",
        "--",
        "sh",
        "-c",
        script,
        f"sh{SPARED}",
        SPARED,
    )


@shown_by
def test_what_commands_say_of_a_nasty_job(cli: Cli, show: Callable[..., str]) -> None:
    job_id = start_nasty(cli)
    cli("wait", job_id)
    for words in (
        ("status", job_id),
        ("list",),
        ("list", "--all"),
        ("wait", job_id),
        ("result", job_id),
        ("cancel", job_id),
        ("status", job_id, "--json"),
        ("list", "--json"),
        ("result", job_id, "--json"),
        ("logs", job_id, "--stderr", "--json"),
        ("rm", job_id),
    ):
        shown = show(cli, *words)
        assert shown, words
        assert unwanted(shown) == [], (words, shown)


@shown_by
@pytest.mark.parametrize(
    "words",
    [
        ("status", SPARED),
        ("result", SPARED + "a"),
        ("cancel", SPARED),
        ("list", "--workspace", SPARED),
        ("list", "--state", SPARED),
        ("list", "--label", SPARED),
        ("start", "--workspace", f"/{SPARED}", "--", "true"),
        ("start", "--kind", SPARED, "--", "true"),
        ("start", "--key", SPARED, "--", "true"),
        ("start", "--deadline", SPARED, "--", "true"),
        ("start", "--env", f"{SPARED}=1", "--", "/nowhere"),
        ("start", "--", f"/nowhere/{SPARED}"),
        ("run", "--", f"/nowhere/{SPARED}"),
        ("run", "--stdin", f"/nowhere/{SPARED}", "--", "cat"),
        ("run", "--", "sh", "-c", "sleep 1.5", SPARED),  # long enough for its status line
        (SPARED,),
        (f"--{SPARED}",),
    ],
    ids=lambda words: " ".join(words).encode("unicode_escape").decode()[:30],
)
def test_what_commands_say_of_nasty_words(cli: Cli, show: Callable[..., str], words: tuple[str, ...]) -> None:
    assert unwanted(show(cli, *words)) == []


@shown_by
def test_a_workspace_with_a_nasty_name(cli: Cli, show: Callable[..., str], tmp_path: Path) -> None:
    workspace = tmp_path / SPARED
    workspace.mkdir()
    job_id = cli.start("--workspace", str(workspace), "--", "true")
    for words in (("status", job_id), ("list", "--all"), ("list", "--workspace", str(workspace)), ("doctor",)):
        shown = show(cli, *words)
        assert unwanted(shown) == [], (words, shown)


def test_what_a_job_writes_passes_as_it_is(cli: Cli) -> None:
    argv = ("--", "sh", "-c", 'printf "%b" "$1"; printf "%b" "$1" >&2; exit 0', "sh", r"\033[2J\0\0377\n")
    wanted = b"\x1b[2J\x00\xff\n"
    done = cli.run("run", *argv)
    assert (done.stdout, done.stderr, done.returncode) == (wanted, wanted, 0)
    job_id = cli.start(*argv)
    cli("wait", job_id)
    assert cli.run("logs", job_id).stdout == wanted
    assert cli.run("logs", job_id, "--stderr").stdout == wanted
    assert cli.run("result", job_id).stdout == wanted
