from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli.job_columns import COLUMNS, SORT_KEYS
from tests.cli.conftest import Cli, on_terminal
from tests.cli.tmux import screen


def test_a_list_in_a_pipe_is_aligned_text(cli: Any) -> None:
    first = cli.start("--label", "n=1", "--", "echo", "one two")
    second = cli.start("--label", "n=2", "--", "sh", "-c", "exit 3")
    cli("wait", first, second)
    lines = cli("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", second, first]
    assert lines[0].index("COMMAND") == lines[2].index("echo 'one two'")
    assert "\t" not in "".join(lines)
    assert [job["job_id"] for job in cli.json("list", "--label", "n=1")["jobs"]] == [first]
    assert [job["job_id"] for job in cli.json("list", "--state", "failed")["jobs"]] == [second]
    page = cli.json("list", "--limit", "1")
    assert [job["job_id"] for job in page["jobs"]] == [second]
    rest = cli.json("list", "--limit", "1", "--cursor", page["next_cursor"])
    assert ([job["job_id"] for job in rest["jobs"]], rest["next_cursor"]) == ([first], None)


def test_a_list_on_a_terminal_is_cut_to_its_width(cli: Any) -> None:
    job_id = cli.start("--", "echo", "[bold]" + "x" * 200)
    cli("wait", job_id)
    status, shown = on_terminal("list", NO_COLOR="1")
    head, line = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert status == 0
    assert head.split()[:2] == ["ID", "STATUS"]
    assert line.split()[0] == job_id[:8]
    assert len(line.rstrip()) <= 60
    assert "[bold]" in line


def test_a_list_without_jobs_says_where_there_are_some(cli: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert cli("list").stderr == f"No jobs in {os.path.realpath('.')}.\n"
    job_id = cli.start("--workspace", str(other), "true")
    cli("wait", job_id)
    done = cli("list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "1 job in other workspaces" in done.stderr
    assert cli.json("list")["jobs_in_other_workspaces"] == 1
    assert job_id in cli("list", "--all").stdout
    assert job_id in cli("list", "--workspace", str(other)).stdout


def test_a_list_shows_what_jobs_wait_for(cli: Any) -> None:
    done = cli.start("--", "true")
    cli("wait", done)
    assert "WAITS" not in cli("list").stdout
    cli("group", "set", "g", "--limit", "1")
    cli("group", "pause", "g")
    ids = [cli.start("--group", "g", "--", "echo", str(number)) for number in range(2)]
    head, second, first, ended = cli("list").stdout.splitlines()
    column = head.index("WAITS")
    assert first[column:].startswith("its group is paused; next in line")
    assert second[column:].startswith("its group is paused; 1 job ahead")
    assert ended[column:].split()[0] == "-"
    assert [line.split()[0] for line in (second, first, ended)] == [*reversed(ids), done]
    _, shown = on_terminal("list", NO_COLOR="1", COLUMNS="100")
    assert "its group is paused; 1 job ahead" in shown
    status = cli("status", ids[1]).stdout
    assert "Waiting    its group is paused; 1 job ahead\n" in status
    cli("cancel", *ids)


@pytest.mark.parametrize("columns", [80, 300])  # the path of the tests is shown, however long it is
def test_a_list_fits_the_terminal_with_the_newest_last(cli: Cli, tmp_path: Path, columns: int) -> None:
    deep = tmp_path / "/".join(["somewhere deep down"] * 6) / "workspace of the job"
    deep.mkdir(parents=True)
    ids = [
        cli.start("--label", "team=blau", "--", "echo", "x" * 300),
        cli.start("--workspace", str(deep), "--", "echo", "日本語" * 100),
        cli.start("--", "sh", "-c", "exit 3", "\x1b[31mred\x07"),
    ]
    cli("wait", *ids)
    with screen(tmp_path, f"'{sys.executable}' -m supervisor list --all", columns=columns) as shown:
        head, *lines = shown.until_shown("ended with 0")[:4]
    spared = {"KIND", "AGE", "TIME"} if columns == 80 else set()
    needed = ["ID", "STATUS", "KIND", "AGE", "TIME", "LABELS", "WORKSPACE", "COMMAND"]
    assert [name for name in head.split() if name not in spared] == [name for name in needed if name not in spared]
    assert ("KIND" in head) == (columns == 300)
    assert [line.split()[0] for line in lines] == [job_id[:8] for job_id in ids]
    assert "team=blau" in lines[0]
    assert "…" in lines[1]
    assert "of the job  echo" in lines[1]
    assert [head.index("COMMAND")] * 2 == [lines[0].index("echo"), lines[2].index("sh -c")]
    assert "failed (exit 3)" in lines[2]


def test_a_list_in_columns_that_are_asked_for(cli: Cli) -> None:
    slow = cli.start("--label", "n=1", "--", "sh", "-c", "exit 3")
    fast = cli.start("--label", "n=2", "--", "true")
    cli("wait", slow, fast)
    lines = cli("list", "--columns", "exit,labels, ID", "--sort", "created").stdout.splitlines()
    assert [line.split() for line in lines] == [["EXIT", "LABELS", "ID"], ["3", "n=1", slow], ["0", "n=2", fast]]
    _, shown = on_terminal("list", "--columns", ",".join(COLUMNS), NO_COLOR="1", COLUMNS="20")
    assert all(len(line) <= 20 for line in shown.splitlines())
    assert len(cli("list", "--columns", ",".join(COLUMNS)).stdout.splitlines()[0].split()) == len(COLUMNS)
    assert "are id, status" in cli("list", "--columns", "id,pidd").stderr
    assert cli("list", "--columns", ",").exit_code == 2


@pytest.mark.parametrize("key", SORT_KEYS)
def test_a_list_is_sorted_either_way(cli: Cli, key: str) -> None:
    ids = [cli.start("--", *argv) for argv in (["sh", "-c", "exit 3"], ["echo", "x"])]
    cli("wait", *ids)
    up, down = ([job["job_id"] for job in cli.json("list", "--sort", each)["jobs"]] for each in (key, f"-{key}"))
    assert sorted(up) == sorted(down) == sorted(ids)
    if key in {"created", "status", "output", "command"}:
        assert (up, down) == ((ids, ids[::-1]) if key in {"created", "output"} else (ids[::-1], ids))


def test_a_list_since_a_time_names_no_further_page_of_older_jobs(cli: Cli) -> None:
    old = cli.start("--", "true")
    then = cli.json("status", old)["created_at"]
    new = [cli.start("--", "true") for _ in range(3)]
    cli("wait", old, *new)
    begin = cli.json("status", new[0])["created_at"]
    page = cli.json("list", "--since", begin, "--limit", "2")
    assert [job["job_id"] for job in page["jobs"]] == new[:0:-1]
    page = cli.json("list", "--since", begin, "--limit", "2", "--cursor", page["next_cursor"])
    assert ([job["job_id"] for job in page["jobs"]], page["next_cursor"]) == ([new[0]], None)
    assert len(cli.json("list", "--since", then)["jobs"]) == len(cli.json("list", "--since", "1h")["jobs"]) == 4
    assert "No matching jobs" in cli("list", "--since", "0").stderr
    for word in ("yesterday", "none", "-5", "", "9" * 30):
        assert "--since" in cli("list", "--since", word).stderr, word


@pytest.mark.parametrize(
    ("words", "environment", "coloured"),
    [
        ([], {}, True),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"TERM": "dumb"}, False),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {}, False),
    ],
)
def test_colours_of_a_list(cli: Cli, words: list[str], environment: dict[str, str], *, coloured: bool) -> None:
    job_id = cli.start("--", "true")
    cli("wait", job_id)
    _, shown = on_terminal("list", *words, **environment)
    assert ("\x1b[" in shown) == coloured
    assert job_id[:8] in shown
    through_a_pipe = cli.run("list", *words, env={**os.environ, **environment}).stdout
    assert (b"\x1b[" in through_a_pipe) == ("always" in words)
