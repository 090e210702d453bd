"""The commands of agents in sessions: begun under a known id, and continued."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.interpret import SessionCommand, new_session_id, session_command
from supervisor.interpret.command_words import Takes, sort_words

ID = "5ab1b2c3-0000-4000-8000-000000000001"
OTHER = "77777777-0000-4000-8000-000000000002"


def begin(kind: str, line: str) -> list[str] | None:
    found = session_command(kind, line.split(), ID, None)
    return None if found is None else [*found.argv, f"= {found.session_id}"]


def resume(kind: str, line: str | Sequence[str]) -> SessionCommand | None:
    return session_command(kind, line.split() if isinstance(line, str) else line, ID, "go on")


@given(job_id=st.from_regex(r"\A[0-9a-f]{32}\Z"))
def test_the_id_of_a_session_is_a_uuid_that_follows_from_the_job(job_id: str) -> None:
    found = uuid.UUID(new_session_id(job_id))
    assert (found.version, found.variant) == (4, uuid.RFC_4122)
    assert new_session_id(job_id) == str(found)


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("claude -p hello", f"claude --session-id {ID} -p hello"),
        ("/opt/bin/claude --print --model x hello", f"/opt/bin/claude --session-id {ID} --print --model x hello"),
        (f"claude -p --session-id {OTHER} hello", f"claude -p --session-id {OTHER} hello"),
        (f"claude -p --session-id={OTHER} hello", f"claude -p --session-id={OTHER} hello"),
        (f"claude -p --resume {OTHER} hello", f"claude -p --resume {OTHER} hello"),
    ],
)
def test_a_run_of_claude_begins_in_a_known_session(line: str, argv: str) -> None:
    session_id = OTHER if OTHER in line else ID
    assert begin("claude", line) == [*argv.split(), f"= {session_id}"]


@pytest.mark.parametrize(
    "line",
    [
        "claude hello",  # interactive
        "claude -p --continue hello",
        "claude -p --resume",
        f"claude -p --resume {OTHER} --fork-session hello",
        "claude -p --no-session-persistence hello",
        "claude -p --from-pr 7",
        "claude -p --option-of-a-later-version hello",
        "claude -pv hello",
        "my-wrapper -p hello",
    ],
)
def test_a_command_that_is_not_known_well_enough_is_left_alone(line: str) -> None:
    assert begin("claude", line) is None


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("claude -p hello", f"claude --resume {ID} -p"),
        ("claude -p --model x hello --verbose", f"claude --resume {ID} -p --model x --verbose"),
        (f"claude -p --session-id {OTHER} hello", f"claude --resume {ID} -p"),
        (f"claude -p -r {OTHER} --fork-session hello", f"claude --resume {ID} -p"),
        ("claude -p --continue hello", f"claude --resume {ID} -p"),
        ("claude -p hello --allowedTools Bash Read", f"claude --resume {ID} -p --allowedTools Bash Read"),
        ("claude -p --debug hello", f"claude --resume {ID} -p --debug hello"),  # its value, as the program reads it
        ("claude -p --output-format=json -- --strange", f"claude --resume {ID} -p --output-format=json"),
        ("claude -p --input-format text x", f"claude --resume {ID} -p --input-format text"),
    ],
)
def test_a_session_of_claude_is_continued_without_the_first_prompt(line: str, argv: str) -> None:
    assert resume("claude", line) == SessionCommand(tuple(argv.split()), ID, b"go on")


@pytest.mark.parametrize(
    "line",
    [
        "claude hello",
        "claude -p --input-format stream-json",
        "claude -p --no-session-persistence hello",
        "claude -p --unknown hello",
        "sh -c claude",
    ],
)
def test_a_session_that_cannot_be_continued_is_begun_anew(line: str) -> None:
    assert resume("claude", line) is None


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("codex exec --json hello", f"codex exec --json resume {ID} -"),
        ("codex --model x exec -C /w hello", f"codex exec --model x -C /w resume {ID} -"),
        (f"codex exec --json resume {OTHER} hello", f"codex exec --json resume {ID} -"),
        ("codex exec --json resume --last hello", f"codex exec --json resume {ID} -"),
        ("codex e -i a.png b.png --json hello", f"codex exec -i a.png b.png --json resume {ID} -"),
    ],
)
def test_a_session_of_codex_is_continued(line: str, argv: str) -> None:
    assert resume("codex", line) == SessionCommand(tuple(argv.split()), ID, b"go on")


def test_codex_makes_the_id_of_a_session_by_itself() -> None:
    assert begin("codex", "codex exec --json hello") is None
    line = f"codex exec --json resume {OTHER} more"
    assert begin("codex", line) == [*line.split(), f"= {OTHER}"]
    assert resume("codex", "codex exec --ephemeral hello") is None
    assert resume("codex", "codex hello") is None


def test_other_kinds_have_no_sessions() -> None:
    for kind in ("raw", "json", "a-kind-that-is-not-installed"):
        assert session_command(kind, ["claude", "-p"], ID, None) is None


words = st.lists(st.sampled_from(["-a", "--b", "--c", "-d", "x", "y", "--b=1", "--", "-", "-z"]), max_size=8)


@given(argv=words)
def test_no_word_is_lost_or_doubled(argv: list[str]) -> None:
    known = {"-a": Takes.NOTHING, "--b": Takes.ONE, "--c": Takes.MAYBE, "-d": Takes.MANY}
    found = sort_words(argv, known)
    if found is None:
        assert "-z" in argv
        return
    sorted_words = [word for _, group in found.options for word in group] + list(found.others)
    expected = list(argv)
    if len(sorted_words) < len(argv):
        expected.remove("--")
    assert sorted(sorted_words) == sorted(expected)
