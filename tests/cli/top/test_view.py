"""The live view, in a real terminal."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.tmux import PATIENCE_SECONDS, Screen, screen

TOP = f"'{sys.executable}' -m supervisor top"


@contextmanager
def top(directory: Path, *, columns: int = 80, lines: int = 24, command: str = TOP) -> Iterator[Screen]:
    pytest.importorskip("textual")
    with screen(directory, command, columns=columns, lines=lines) as shown:
        yield shown
        shown.type("q")
        shown.until_shown("ended with 0")


def with_pid(directory: Path) -> str:
    """Return a shell command that writes the pid of the view before it becomes that."""
    return f"sh -c 'echo $$ > {directory}/pid; exec {sys.executable} -m supervisor top'"


def row(shown: list[str], job_id: str) -> str:
    return next((line for line in shown if job_id[:8] in line), "")


@pytest.mark.parametrize("columns", [80, 200])
def test_jobs_of_other_processes_appear_and_end_without_a_key(
    cli: Cli, tmp_path: Path, columns: int, fifo: Callable[[], None]
) -> None:
    cli("group", "set", "few", "--limit", "1")
    with top(tmp_path, columns=columns) as shown:
        shown.until_shown("0 running, 0 waiting, 0 ended", "There are no jobs.")
        running = cli.run(
            "start", "--group", "few", "--label", "n=1", "--", "cat", str(tmp_path / "fifo")
        ).stdout.decode()
        waiting = cli.run("start", "--group", "few", "--", "echo", "日本語\x1b[31m").stdout.decode()
        lines = shown.until(lambda lines: "running" in row(lines, running) and "queued" in row(lines, waiting))
        head = next(line for line in lines if line.startswith("ID "))
        assert {"ID", "STATUS", "TIME", "LABELS", "COMMAND"} <= set(head.split())
        assert row(lines, running).index("n=1") == head.index("LABELS")
        assert all(len(line) <= columns for line in lines)
        assert any(re.fullmatch(r"few +1 +1 +1 .*", line) for line in lines), lines
        if columns == 200:
            assert "next in line" in row(lines, waiting)
        fifo()
        lines = shown.until(lambda lines: "done" in row(lines, running) and "done" in row(lines, waiting))
        assert "0 running, 0 waiting, 2 ended" in lines[0]
        assert "日本語" in row(lines, waiting)
        assert "[31m" not in "\n".join(lines)


def test_keys_cancel_hold_release_and_follow(cli: Cli, tmp_path: Path) -> None:
    cli("group", "set", "few", "--limit", "1")
    running = cli.start("--group", "few", "--", "sh", "-c", "echo $((6 * 7)) so far; exec sleep 60")
    waiting = cli.start("--group", "few", "--", "true")
    with top(tmp_path, columns=120) as shown:
        shown.until_shown(running[:8], waiting[:8])
        shown.type("f")
        shown.until_shown("42 so far")
        shown.type("C-c")
        shown.until_shown("Press Enter to return.")
        shown.type("Enter")
        shown.until_shown("1 running, 1 waiting")
        shown.type("Down", "h")
        shown.until(lambda lines: "on hold" in row(lines, waiting))
        shown.type("h")
        shown.until(lambda lines: "for room" in row(lines, waiting))
        shown.type("Up", "c")
        shown.until_shown(f"Stop job {running[:8]}", "[y] yes")
        shown.type("n")
        shown.until(lambda lines: not any("[y] yes" in line for line in lines))
        assert cli.json("status", running)["status"] == "running"
        shown.type("c")
        shown.until_shown("[y] yes")
        shown.type("y")
        shown.until(lambda lines: "cancelled" in row(lines, running) and "done" in row(lines, waiting))
        shown.type("End", "c")
        shown.until_shown("has ended")


def test_the_view_fits_a_terminal_that_is_resized(cli: Cli, tmp_path: Path) -> None:
    job_id = cli.start("--", "sh", "-c", ": " + "word " * 60)
    cli("wait", job_id)
    with top(tmp_path) as shown:
        for columns, lines in ((80, 24), (200, 50), (40, 10), (12, 5), (80, 24)):
            shown.resize(columns, lines)
            found = shown.until(
                lambda lines, most=columns: (
                    most - 4 < len(row(lines, job_id)) <= most or (most < 20 and row(lines, job_id))
                )
            )
            assert all(len(line) <= columns for line in found)


def flowing(lines: list[str]) -> str:
    """Return a message that is wrapped at any place: where depends on the length of a path in it."""
    return " ".join(" ".join(lines).split())


def test_a_registry_that_is_rebuilt_and_a_root_that_is_removed_and_made_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "new" / "root"
    monkeypatch.setenv("SUPERVISOR_STATE_DIR", str(root))
    with top(tmp_path) as shown:
        shown.until_shown("There are no jobs.")
        first = cli.run("start", "--", "true").stdout.decode().strip()
        cli("wait", first)
        shown.until(lambda lines: "done" in row(lines, first))
        for path in root.glob("registry.db*"):
            path.unlink()
        second = cli.run("start", "--", "true").stdout.decode().strip()
        cli("wait", second)
        shown.until(lambda lines: "done" in row(lines, first) and "done" in row(lines, second))
        root.rename(tmp_path / "new" / "away")
        shown.until_shown("There are no jobs.")
        root.mkdir(mode=0o755)
        shown.until(lambda lines: "to others (mode 0755)" in flowing(lines))
        root.rmdir()
        (tmp_path / "new" / "away").rename(root)
        shown.until(lambda lines: row(lines, second) and "to others (mode 0755)" not in flowing(lines))


def test_a_sigterm_ends_the_view_and_restores_the_terminal(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("textual")
    job_id = cli.start("--", "true")
    with screen(tmp_path, f"echo before; {with_pid(tmp_path)}") as shown:
        shown.until_shown(job_id[:8])
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        shown.until_shown("before", "ended with 0")


def test_the_view_ends_when_its_terminal_goes_away(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("textual")
    job_id = cli.start("--", "true")
    with screen(tmp_path, with_pid(tmp_path)) as shown:
        shown.until_shown(job_id[:8])
        process = os.pidfd_open(int((tmp_path / "pid").read_text()))
    assert select.select([process], [], [], PATIENCE_SECONDS)[0]
    os.close(process)


def test_one_picture_without_a_terminal(cli: Cli) -> None:
    cli("group", "set", "few", "--limit", "1")
    assert "BUDGET" not in cli("top").stdout
    cli("group", "set", "few", "--budget", "usd=20/day", "--budget", "starts=9/total")
    cli("group", "pause", "few")
    waiting = cli.start("--group", "few", "--label", "a=b", "--", "true")
    ended = cli.start("--", "sh", "-c", "exit 3")
    cli("wait", ended)
    lines = cli("top").stdout.splitlines()
    assert lines[0] == "0 running, 1 waiting, 1 ended"
    budgets = r"\$0\.00 of \$20\.00/day, 0 starts of 9 starts in total"
    assert any(re.fullmatch(rf"few +0 +1 +1 +\S+ +{budgets} +by user", line) for line in lines)
    assert cli("group", "list").stdout.startswith("few: limit 1, $0.00 of $20.00/day, 0 starts of 9 starts in total, ")
    assert "its group is paused; next in line" in row(lines, waiting)
    assert "failed (exit 3)" in row(lines, ended)
    assert "\x1b" not in "\n".join(lines)
    shape = cli.json("top", "--once")
    assert shape["counts"] == {"running": 0, "waiting": 1, "ended": 1, "failed": 1}
    assert [job["job_id"] for job in shape["failures"]] == [ended]
    assert [job["job_id"] for job in shape["waiting"] + shape["ended"]] == [waiting, ended]
    assert [group["name"] for group in shape["groups"]] == ["few"]
    assert all("ok" not in each for each in shape["waiting"] + shape["groups"])


def test_without_the_library_the_view_says_how_to_install_it(cli: Cli, tmp_path: Path) -> None:
    assert cli.state_dir
    hidden = tmp_path / "hidden.py"
    hidden.write_text(
        "import sys\nsys.modules['textual'] = None\nfrom supervisor.cli import main\nraise SystemExit(main(['top']))\n",
        encoding="ascii",
    )
    with screen(tmp_path, f"'{sys.executable}' '{hidden}'", columns=150) as shown:
        lines = shown.until_shown("ended with 125")
    assert "pip install 'trio-supervisor[top]'" in "\n".join(lines)
    assert json.loads(cli("top", "--json").stdout)["ok"]
