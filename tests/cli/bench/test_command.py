"""``bench`` on a state root of its own, with real processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_terminal import on_a_terminal, unwanted

MIX = """
rate = 20
for_seconds = 1.5
arrivals = "constant"
seed = 11

[job.plain]
share = 4
seconds = "uniform:0:0.2"
output_bytes = "uniform:0:100k"
stderr_bytes = 20

[job.fails]
exit_code = 3
output_bytes = 10

[job.cancelled]
cancel_after_seconds = 0.2
output_bytes = 1000

[job.late]
deadline_seconds = 0.3
output_bytes = 1000

[job.stubborn]
deadline_seconds = 0.2
stubborn = true
"""
LONG = ("--rate", "30", "--for", "60", "--duration", "uniform:2:3", "--cancels", "0.2", "--arrivals", "constant")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def bench(cli: Any, *words: str, status: int = 0) -> Any:
    done = cli.run("bench", "--json", *words)
    assert done.returncode == status, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_a_mix_on_a_state_root(cli: Any, tmp_path: Path, state_dir: Path, scratch: Path) -> None:
    (tmp_path / "mix.toml").write_text(MIX, encoding="utf-8")
    others = cli.start("true")
    shape = bench(cli, "--mix", str(tmp_path / "mix.toml"))
    assert shape["ok"] is True
    jobs = shape["jobs"]
    assert jobs["due"] == jobs["acknowledged"] == 30
    assert jobs["done"] + jobs["failed"] + jobs["cancelled"] + jobs["timeout"] == 30
    assert set(jobs["by_sort"]) == {"plain", "fails", "cancelled", "late", "stubborn"}
    assert jobs["failed"] == jobs["by_sort"]["fails"]
    assert jobs["cancelled"] == jobs["by_sort"]["cancelled"]
    assert jobs["timeout"] == jobs["by_sort"]["late"] + jobs["by_sort"]["stubborn"]
    latency = shape["latency_ms"]
    assert latency["start_due"]["count"] == latency["start_call"]["count"] == latency["fetch"]["count"] == 30
    assert latency["exit_known"]["count"] == jobs["done"] + jobs["failed"]
    assert latency["cancel_ended"]["count"] == jobs["cancelled"]
    assert latency["deadline_overshoot"]["count"] == jobs["timeout"]
    assert latency["deadline_overshoot"]["max"] >= 200, "a stubborn job takes its grace"
    assert latency["start_due"]["p50"] >= latency["start_call"]["p50"] > 0
    assert shape["generator"]["cpu_seconds"] > shape["generator"]["own_us_a_job"] * 30 / 1e6 > 0
    assert (shape["wrong"], shape["errors"], shape["not_checked"], shape["mix"]["seed"]) == ({}, {}, [], 11)
    # None of its jobs is left, and no other job was touched.
    assert [job["job_id"] for job in cli.json("list", "--all")["jobs"]] == [others]
    assert list(scratch.iterdir()) == []
    assert len([each for each in state_dir.iterdir() if each.is_dir() and each.name[0] != "."]) == 1


@pytest.mark.parametrize("made", [False, True])
def test_a_load_through_a_group(cli: Any, tmp_path: Path, made: bool) -> None:  # noqa: FBT001
    (tmp_path / "mix.toml").write_text(MIX, encoding="utf-8")
    words = ["--mix", str(tmp_path / "mix.toml"), "--group", "load"]
    if made:
        cli.run("group", "set", "load", "--limit", "2")
    else:
        words += ["--limit", "2"]
    shape = bench(cli, *words)
    assert shape["ok"] is True, shape
    assert shape["jobs"]["acknowledged"] == 30
    assert (shape["target"]["group"], shape["target"]["limit"], shape["most_at_once"]) == ("load", 2, 2)
    assert shape["waited_ms"]["max"] > 300
    assert [group["name"] for group in cli.json("group", "list")["groups"]] == (["load"] if made else [])
    if made:
        assert "--limit" in bench(cli, *words, "--limit", "3", status=2)["error"]["message"]
    else:
        assert bench(cli, "--group", "load", status=125)["error"]["code"] == "group_not_found"


def test_what_people_read(cli: Any) -> None:
    done = cli.run("bench", "--rate", "20", "--for", "1.2", "--seed", "3")
    assert done.returncode == 0
    told, out = done.stderr.decode(), done.stdout.decode()
    assert re.match(r"about 24 jobs for the state root \S+: 20 a second for 1\.2 s, at random, .*seed 3", told)
    assert re.search(
        r"^1\.\d s of 1\.2 s, starting jobs, \d+ started \(.*/s of 20\), .* 0 wrong; start p50", told, re.MULTILINE
    )
    assert out.startswith("nothing was lost, wrong or refused\n")
    assert re.search(r"^Seed +3 \(poisson arrivals\)$", out, re.MULTILINE)
    assert re.search(r"^exit until its caller knew +\d+ +\d", out, re.MULTILINE)
    assert "\x1b" not in told + out
    quiet = cli.run("bench", "--rate", "20", "--for", "0.2", "--seed", "3", "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, b"")


def test_the_live_view_of_a_terminal(cli: Any) -> None:
    shown = on_a_terminal(cli, "bench", "--rate", "20", "--for", "1")
    assert unwanted(re.sub(r"\x1b\[\d*[AJKm]|\r", "", shown)) == []
    assert re.search(r"\x1b\[1m\d+ ms of 1\.0 s, starting jobs, ", shown)
    assert "\x1b[5A" in shown
    assert "\x1b[32m" in shown
    assert shown.rindex("\x1b[J") < shown.index("nothing was lost, wrong or refused"), "it was taken away"


def test_what_is_kept_can_be_looked_at(cli: Any) -> None:
    shape = bench(cli, "--rate", "20", "--for", "0.3", "--arrivals", "constant", "--keep")
    kept = cli.json("list", "--all", "--label", f"bench={shape['run']}")["jobs"]
    assert len(kept) == shape["jobs"]["due"] == 6
    assert {job["workspace"] for job in kept} == {shape["target"]["workspace"]}


def begun(process: subprocess.Popen[bytes]) -> None:
    """Wait until a run shows how many jobs it has started."""
    assert process.stderr is not None
    line = b""
    while b"started (" not in line:
        line = process.stderr.readline()
        assert line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_load_and_reports(cli: Any, number: signal.Signals) -> None:
    with cli.process("bench", "--json", *LONG) as process:
        begun(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    shape = json.loads(out)
    assert process.returncode == 0, (out, err)
    assert b"no more jobs; cancelling the running ones" in err
    assert (shape["ok"], shape["interrupted"], shape["gave_up"]) == (True, True, False)
    assert shape["jobs"]["cancelled"] > shape["jobs"]["by_sort"]["cancelled"]
    assert cli.json("list", "--all")["jobs"] == []


def test_an_interrupt_that_lets_the_jobs_end(cli: Any) -> None:
    with cli.process("bench", "--json", "--let-end", *LONG) as process:
        begun(process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    shape = json.loads(out)
    assert process.returncode == 0
    assert shape["jobs"]["cancelled"] == shape["jobs"]["by_sort"]["cancelled"]
    assert shape["jobs"]["done"] == shape["jobs"]["by_sort"]["plain"] > 0


def test_a_second_interrupt_reports_at_once(cli: Any) -> None:
    with cli.process("bench", "--json", "--let-end", *LONG, "--duration", "60", "--cancels", "0") as process:
        begun(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"no more jobs" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    shape = json.loads(out)
    assert process.returncode == 130
    assert shape["gave_up"] is True
    assert len(shape["left_running"]) > 0
    cancelled = cli.json("cancel", "--label", f"bench={shape['run']}")["jobs"]
    assert {job["job_id"] for job in cancelled} >= set(shape["left_running"])


def test_an_output_beyond_the_limit_is_refused_before_it_begins(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_JOB_MAX_OUTPUT_BYTES", "1000")
    error = bench(cli, "--output", "1k", status=2)["error"]
    assert error["code"] == "invalid_arguments"
    assert "SUPERVISOR_JOB_MAX_OUTPUT_BYTES" in error["repair"]


@pytest.mark.parametrize(
    "words",
    [
        ("--duration", "soon"),
        ("--rate", "0"),
        ("--cancels", "2"),
        ("--cancels", "0.9", "--timeouts", "0.9"),
        ("--mix", "none.toml"),
        ("--mix", "none.toml", "--output", "1"),
        ("--url", "http://127.0.0.1:1/mcp", "--stdio"),
        ("--workspace", "."),
        ("some-server",),
        ("--limit", "3"),
        ("--group", "g", "--stdio"),
        ("--group", "g", "--limit", "0"),
        ("--url", "http://127.0.0.1:1/mcp", "--token-file", "none"),
    ],
)
def test_wrong_usage(cli: Any, words: tuple[str, ...]) -> None:
    assert cli.json("bench", *words, status=2)["error"]["code"] == "invalid_arguments"
    done = cli("bench", *words)
    assert (done.exit_code, done.stdout) == (2, "")


def test_an_endpoint_needs_the_extra(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mcp" else object())
    error = cli.json("bench", "--stdio", "--quiet", status=2)["error"]
    assert error["code"] == "invalid_settings"
    assert "trio-supervisor[mcp]" in error["repair"]


def test_the_example_is_a_mix(cli: Any, tmp_path: Path) -> None:
    shown = cli("bench", "--print-example").stdout
    assert shown == cli.json("bench", "--print-example")["value"]
    (tmp_path / "mix.toml").write_text(shown, encoding="utf-8")
    assert bench(cli, "--mix", str(tmp_path / "mix.toml"), "--jobs", "3")["jobs"]["due"] == 3


def test_its_help_needs_nothing_of_the_load() -> None:
    program = "import sys; from supervisor.cli import main; main(['bench', '--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=30)
    loaded = done.stdout.decode().splitlines()[-1]
    assert "'supervisor.cli.bench.command'" in loaded
    assert [name for name in ("'trio'", "'supervisor.load'", "'mcp'") if name in loaded] == []
