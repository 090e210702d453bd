from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.cli.conftest import on_terminal


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
