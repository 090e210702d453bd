"""How far a running job is, read once from what it has written so far."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from supervisor.interpret import BUILT_IN
from supervisor.jobs import progress
from supervisor.jobs.progress import CHUNK_BYTES, read_so_far, reader_of


def turns(first: int, count: int, filling: str = "") -> bytes:
    events = (
        {"type": "assistant", "message": {"id": f"m{number}", "usage": {"output_tokens": 1}, "filling": filling}}
        for number in range(first, first + count)
    )
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


@pytest.fixture
def stdout(tmp_path: Path) -> Path:
    return tmp_path / "result.json"


def test_the_kinds_that_report_progress() -> None:
    assert {kind for kind in BUILT_IN if reader_of(kind) is not None} == {"claude", "codex"}
    assert reader_of("surely-no-such-kind") is None


def test_a_short_output_is_read_from_its_beginning(stdout: Path) -> None:
    stdout.write_bytes(turns(0, 20) + b'{"torn')
    said = read_so_far(str(stdout.parent), "claude", 1 << 20)
    assert said is not None
    assert (said["turn"], said["output_tokens"], said["partial"], said["skipped_lines"]) == (20, 20, False, 0)


@pytest.mark.parametrize("most", [CHUNK_BYTES, 4 * CHUNK_BYTES])
def test_of_a_long_output_the_last_part_is_read_and_that_is_said(stdout: Path, most: int) -> None:
    stdout.write_bytes(turns(0, 4000, "x" * 200))
    size = stdout.stat().st_size
    said = read_so_far(str(stdout.parent), "claude", most)
    assert said is not None
    assert (said["partial"], said["skipped_lines"]) == (True, 0)  # the line that the cut has torn does not count
    assert said["turn"] == said["output_tokens"]
    assert 0.98 * most / size < said["turn"] / 4000 < most / size


def test_one_endless_line_says_nothing_and_costs_little(stdout: Path) -> None:
    with stdout.open("wb") as file:
        file.truncate(1 << 30)
    said = read_so_far(str(stdout.parent), "codex", CHUNK_BYTES)
    assert said is not None
    assert (said["turn"], said["partial"]) == (0, True)


def test_what_is_not_there_or_not_a_file_says_nothing(stdout: Path) -> None:
    assert read_so_far(str(stdout.parent), "raw", CHUNK_BYTES) is None
    nothing = read_so_far(str(stdout.parent), "claude", CHUNK_BYTES)
    assert nothing is not None
    assert nothing["turn"] == 0
    other = stdout.with_name("other")
    other.write_bytes(turns(0, 3))
    stdout.symlink_to(other)
    assert read_so_far(str(stdout.parent), "claude", CHUNK_BYTES) == nothing
    stdout.unlink()
    os.mkfifo(stdout)
    assert read_so_far(str(stdout.parent), "claude", CHUNK_BYTES) == nothing


def test_a_reader_that_fails_costs_the_progress_and_nothing_else(stdout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def feed(self, chunk: bytes) -> bool:
            raise ZeroDivisionError(chunk)

    monkeypatch.setattr(progress, "reader_of", lambda _: Broken())
    stdout.write_bytes(b"x")
    assert read_so_far(str(stdout.parent), "mine", CHUNK_BYTES) is None
