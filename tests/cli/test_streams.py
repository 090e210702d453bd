"""Standard streams that are closed or full, or whose reader has closed them; in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMANDS = [
    ["run", "--", "true"],
    ["run", "--json", "--", "true"],
    ["start", "--", "true"],
    ["start", "--json", "--", "true"],
    ["list"],
    ["list", "--json"],
    ["status", "abcd"],
    ["logs", "-f", "abcd"],
    ["prune"],
    ["cancel", "--all"],
    ["doctor", "--json"],
    ["mcp"],
    ["nonsense"],
    [],
    ["--help"],
]


def jobs(cli: Any) -> list[Any]:
    found: list[Any] = cli.json("list", "--all")["jobs"]
    return found


def in_shell(redirections: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line with the redirections of a shell; capture the streams that are not redirected."""
    script = f'exec "$@" {redirections}'
    argv = ["sh", "-c", script, "sh", sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_descriptor_is_no_reason_to_break(cli: Any, words: list[str], closed: str) -> None:
    done = in_shell(closed, *words)
    assert b"Traceback" not in done.stderr
    expected = {"status": 3, "logs": 3, "nonsense": 2}.get(words[0] if words else "", 0)
    if words[:1] == ["mcp"] and closed != "2>&-":
        expected = 2
    if words[:1] == ["start"] and ">&-" in closed.replace("2>&-", ""):
        expected = 2
        assert jobs(cli) == []  # its id could not have been printed
    assert done.returncode == expected, done.stderr
    if closed == "<&-" and words[:1] == ["start"]:
        assert len(jobs(cli)) == 1
        assert done.stdout


@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_start_without_a_stdout_says_on_stderr_that_nothing_was_started(cli: Any, json_: list[str]) -> None:
    for redirection in (">&-", "1</dev/null"):
        done = in_shell(redirection, "start", *json_, "--", "true")
        assert done.returncode == 2
        assert b"nothing was started" in done.stderr
        assert b"Redirect stdout" in done.stderr
    assert jobs(cli) == []


@pytest.mark.usefixtures("cli")
def test_no_file_of_a_job_is_given_the_number_of_a_standard_stream(tmp_path: Path) -> None:
    """Otherwise text for stderr, from any library, would be written into that file."""
    script = (
        "import os, sys\n"
        "from supervisor.cli.inherited import take_descriptors\n"
        "take_descriptors()\n"
        "found = [os.stat(each).st_rdev == os.stat(os.devnull).st_rdev for each in (0, 1, 2)]\n"
        "kept = [os.get_inheritable(each) for each in (0, 1, 2)]\n"
        "print('heard'), print('heard', file=sys.stderr)\n"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(repr((found, kept, sys.stdin.read())))\n"
    )
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, script], check=False)
    assert done.returncode == 0
    assert (tmp_path / "seen").read_text() == repr(([True] * 3, [True] * 3, ""))


@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_an_id_that_cannot_be_written_is_said_on_stderr(cli: Any, json_: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = cli.run("start", *json_, "--", "true", stdout=full)
    (job,) = jobs(cli)
    assert done.returncode == 125
    assert job["job_id"].encode() in done.stderr
    assert b"No space left" in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as broken:
        done = cli.run("start", *json_, "--", "true", stdout=broken)
    assert done.returncode == 141
    assert jobs(cli)[0]["job_id"].encode() in done.stderr


@pytest.mark.parametrize(
    "words", [each for each in COMMANDS if each[:1] not in (["start"], ["prune"], ["mcp"])], ids=" ".join
)
@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_an_answer_that_cannot_be_written_is_an_error(cli: Any, words: list[str], json_: list[str]) -> None:
    if not words or words[0].startswith("-"):
        words = ["--help"]
    elif "--" in words:
        words = [words[0], *json_, "--", "echo", "hello"]
    else:
        words = [*words, *json_]
    cli("wait", cli.start("true"))
    with open("/dev/full", "wb") as full:
        done = cli.run(*words, stdout=full)
    expected = {"status": 3, "logs": 3, "nonsense": 2}.get(words[0], 125)
    if words == ["cancel", "--all"]:
        expected = 0  # it has nothing to write
    assert done.returncode == expected, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--help"], ["--version"], ["run", "--json", "true"]])
def test_a_reader_that_has_gone_gives_141_and_no_traceback(cli: Any, words: list[str]) -> None:
    cli.start("true")
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as broken:
        done = cli.run(*words, stdout=broken)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    if words[0] == "run":
        assert jobs(cli)[0]["job_id"].encode() in done.stderr


@pytest.mark.parametrize("words", [["status", "abcd"], ["nonsense"], ["run", "--", "sh", "-c", "echo no >&2; exit 3"]])
def test_a_stderr_that_cannot_be_written_changes_no_exit_status(cli: Any, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = cli.run(*words, stderr=full)
    assert done.returncode == (2 if words == ["nonsense"] else 3)


def test_errors_of_stdout_are_told_by_their_own_name(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the same number from elsewhere is not blamed on stdout."""

    def fail(*_: object, **__: object) -> Callable[[], None]:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("supervisor.jobs.catalog.Catalog.list", fail)
        done = cli("list", "--json")
    assert done.exit_code == 125
    assert "stdout" not in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize("words", [("status", "0" * 32), ("list", "--json")])
def test_a_command_that_cannot_be_loaded_now_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    source = (
        "import resource, sys; from supervisor import cli; import supervisor.cli.inherited\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); sys.exit(cli.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "SUPERVISOR_STATE_DIR": str(tmp_path / "state")}
    argv = [sys.executable, "-c", source, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 125
    assert "Traceback" not in done.stderr
    if "--json" in words:
        error = json.loads(done.stdout)["error"]
        assert (error["code"], error["retryable"]) == ("state_busy", True)
    else:
        assert "Too many open files" in done.stderr
