"""The one reader of a job's output: to the end that is on record, over truncations, and never an error as nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import tracemalloc
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import supervisor
from supervisor.errors import OutputLost, StateCorrupt
from supervisor.jobdir import output as output_module
from supervisor.jobdir.output import STREAMS, Output, Piece, read_output, read_piece
from supervisor.system.observing import NotKnown


@pytest.fixture(params=sorted(STREAMS))
def stream(request: pytest.FixtureRequest) -> str:
    held: str = request.param
    return held


@pytest.fixture
def file(tmp_path: Path, stream: str) -> Path:
    return tmp_path / STREAMS[stream]


@pytest.fixture
def output(tmp_path: Path, stream: str) -> Iterator[Output]:
    made = Output(str(tmp_path), stream)
    yield made
    made.close()


def append(file: Path, data: bytes, mtime_ns: int) -> None:
    with file.open("ab") as handle:
        handle.write(data)
    os.utime(file, ns=(mtime_ns, mtime_ns))


def rewrite(file: Path, data: bytes, mtime_ns: int) -> None:
    with file.open("r+b") as handle:
        handle.truncate()
        handle.write(data)
    os.utime(file, ns=(mtime_ns, mtime_ns))


def test_it_is_read_on_where_it_was_left(output: Output, file: Path) -> None:
    assert (output.left(), output.read()) == (0, b"")
    append(file, b"one", 1)
    assert (output.left(), output.read(), output.left()) == (3, b"one", 0)
    append(file, b"two", 2)
    assert (output.read(2), output.read(), output.read()) == (b"tw", b"o", b"")
    output.seek(4)
    assert (output.left(), output.read()) == (2, b"wo")
    assert output.restarts == 0


@pytest.mark.parametrize("after", [b"", b"2\n", b"line 2\n", b"line 2\nline 3\n"], ids=len)
def test_after_a_truncation_it_starts_over(output: Output, file: Path, after: bytes) -> None:
    append(file, b"line 1\n", 1)
    assert output.read() == b"line 1\n"
    rewrite(file, after, 2)
    assert output.read() == after
    assert output.restarts == 1
    append(file, b"more", 3)
    assert output.read() == b"more"
    assert output.restarts == 1


def test_a_write_that_shows_its_time_before_its_size_is_no_truncation(output: Output, file: Path) -> None:
    append(file, b"line\n", 1)
    assert output.read() == b"line\n"
    append(file, b"", 2)
    assert output.read() == b""
    append(file, b"line\n", 2)
    assert output.read() == b"line\n"
    assert output.restarts == 0


def test_no_more_is_read_than_belongs_to_the_job(output: Output, file: Path, tmp_path: Path, stream: str) -> None:
    file.write_bytes(b"of the job, and more")
    output.end = 10
    assert output.size() == 10
    assert output.read() == b"of the job"
    assert (output.read(), output.left()) == (b"", 0)
    assert read_output(str(tmp_path), stream, size=10) == b"of the job"
    assert read_output(str(tmp_path), stream, size=10, last=3) == b"job"
    assert read_output(str(tmp_path), stream, size=0) == b""
    assert read_output(str(tmp_path), stream) == b"of the job, and more"


@pytest.mark.parametrize("found", [None, b"", b"abc"])
def test_fewer_bytes_than_are_on_record_are_an_error(
    output: Output, file: Path, tmp_path: Path, stream: str, found: bytes | None
) -> None:
    if found is not None:
        file.write_bytes(found)
    output.end = 4
    for read in (output.size, output.read, output.left, lambda: read_output(str(tmp_path), stream, size=4, last=2)):
        with pytest.raises(OutputLost) as caught:
            read()
        assert isinstance(caught.value, StateCorrupt)
        assert caught.value.code == "output_lost"
        details = {"stream": stream, "recorded_bytes": 4, "found_bytes": len(found or b"")}
        assert caught.value.details == {"job_id": tmp_path.name, **details}


def test_a_file_that_shrinks_after_it_was_read_has_lost_what_it_held(output: Output, file: Path) -> None:
    file.write_bytes(b"abcd")
    output.end = 4
    assert output.read() == b"abcd"
    file.write_bytes(b"ab")
    with pytest.raises(OutputLost):
        output.read()


def test_what_is_no_file_holds_nothing(output: Output, file: Path, tmp_path: Path, stream: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"somebody's")
    file.symlink_to(other)
    assert (output.size(), output.read()) == (0, b"")
    file.unlink()
    os.mkfifo(file)
    assert read_output(str(tmp_path), stream) == b""
    with pytest.raises(OutputLost):
        read_output(str(tmp_path), stream, size=1)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO, errno.ENOMEM, errno.ESTALE])
@pytest.mark.parametrize("call", ["open", "fstat", "pread"])
def test_an_error_while_it_is_read_says_nothing_about_it(
    tmp_path: Path, file: Path, stream: str, number: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(b"abc")

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"supervisor.jobdir.output.os.{call}", fails)
    with pytest.raises(NotKnown) as caught:
        read_output(str(tmp_path), stream, size=3)
    monkeypatch.undo()
    assert caught.value.errno == number
    assert read_output(str(tmp_path), stream, size=3) == b"abc"


def test_a_lack_of_memory_says_nothing_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result.json").write_bytes(b"abc")

    def fails(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("supervisor.jobdir.output.os.pread", fails)
    with pytest.raises(NotKnown):
        read_output(str(tmp_path), "stdout")


OTHERS = {
    "engines/obstacles.py": "compares it with the descriptor of a process",
    "jobdir/durability.py": "syncs it",
    "jobdir/measures.py": "its size at the end of the job, for the keeper",
    "jobs/results.py": "names it in an error",
    "keeper/launches.py": "creates it",
    "keeper/output_limit.py": "its size and time, for the keeper",
    "store/state_root.py": "deletes it",
    "testing/command.py": "writes it for a fake command",
}
"""The modules beside this reader that name the files of a job's output, and what for."""


def test_no_other_module_reads_the_output() -> None:
    root = Path(supervisor.__file__).parent
    named = re.compile(r"records\.STD(OUT|ERR)|\"(result\.json|stderr\.log)\"")
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if named.search(path.read_text("utf-8"))}
    assert found - {"jobdir/output.py", "jobdir/records.py"} == OTHERS.keys()


# ---------------------------------------------------------------- the last lines


def rest(output: Output) -> bytes:
    parts: list[bytes] = []
    while chunk := output.read():
        parts.append(chunk)
    return b"".join(parts)


@given(
    content=st.lists(st.sampled_from([b"\n", b"a", b"\0\xff", b"line\n", b"\r\n"])).map(b"".join),
    count=st.integers(0, 8),
    block=st.integers(1, 5),
)
def test_the_last_lines_are_those_of_tail(content: bytes, count: int, block: int) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        unittest.mock.patch.object(output_module, "_BLOCK_BYTES", block),
        contextlib.closing(Output(directory, "stdout")) as output,
    ):
        Path(directory, STREAMS["stdout"]).write_bytes(content)
        assert output.seek_last_lines(count) == len(content)
        lines = content.splitlines(keepends=True) if b"\r" not in content else re.findall(rb"[^\n]*\n|[^\n]+", content)
        assert rest(output) == b"".join(lines[len(lines) - count :] if count < len(lines) else lines)


def test_without_a_file_there_are_no_last_lines(output: Output, file: Path) -> None:
    assert output.seek_last_lines(3) == 0
    file.write_bytes(b"1\n2\n")
    assert rest(output) == b"1\n2\n"


def test_the_last_lines_are_those_of_the_job(output: Output, file: Path) -> None:
    file.write_bytes(b"1\n2\n3\nof a leftover\n")
    output.end = 6
    assert output.seek_last_lines(2) == 6
    assert rest(output) == b"2\n3\n"
    output.end = 100
    with pytest.raises(OutputLost):
        output.seek_last_lines(2)


def test_the_last_lines_are_those_before_the_limit(tmp_path: Path, file: Path, stream: str) -> None:
    file.write_bytes(b"1\n2\n3\nno more")
    with contextlib.closing(Output(str(tmp_path), stream, limit=5)) as output:
        assert output.seek_last_lines(2) == 5
        assert rest(output) == b"2\n3"
        assert output.is_cut


def test_a_long_last_line_takes_no_memory(output: Output, file: Path) -> None:
    with file.open("wb") as handle:
        handle.write(b"first\n")
        handle.truncate(100_000_000)
    tracemalloc.start()
    output.seek_last_lines(1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert output.offset == 6
    assert most < 2_000_000


def test_lines_that_are_cut_off_while_they_are_looked_for(
    output: Output, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cuts = os.pread, [b"1\n2\n3\n"]
    monkeypatch.setattr(output_module, "_BLOCK_BYTES", 4)
    file.write_bytes(b"x" * 100)

    def cut(descriptor: int, count: int, offset: int) -> bytes:
        if cuts and offset < 96:
            file.write_bytes(cuts.pop(0))
        return real(descriptor, count, offset)

    monkeypatch.setattr(output_module.os, "pread", cut)
    assert output.seek_last_lines(2) == 6
    assert rest(output) == b"2\n3\n"


def test_a_job_that_goes_on_truncating_its_output_holds_up_nothing(
    output: Output, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(b"x" * 10)
    monkeypatch.setattr(output_module.os, "pread", lambda *_: b"")
    assert output.seek_last_lines(2) == 10
    assert output.offset == 0


# ---------------------------------------------------------------- parts


def test_a_part_is_what_is_there(tmp_path: Path, file: Path, stream: str) -> None:
    def part(offset: int | None, most: int, end: int | None = None) -> Piece:
        return read_piece(Output(str(tmp_path), stream, end=end, limit=8), offset, most)

    assert part(0, 5) == (b"", 0, 0, False, False)
    file.write_bytes(b"\xff23456789")
    assert part(0, 5) == (b"\xff2345"[:5], 0, 8, False, True)
    assert part(5, 5) == (b"678", 5, 8, False, True)
    assert part(8, 5) == (b"", 8, 8, False, True)
    assert part(None, 2) == (b"78", 6, 8, False, True)
    assert part(9, 5) == (b"\xff2345"[:5], 0, 8, True, True)
    assert part(9, 5, end=4) == (b"", 4, 4, False, False)
    assert part(2, 5, end=4) == (b"34", 2, 4, False, False)
    with pytest.raises(OutputLost):
        part(0, 5, end=10)
