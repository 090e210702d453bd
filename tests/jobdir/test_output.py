"""The one reader of a job's output: to the end that is on record, over truncations, and never an error as nothing."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import supervisor
from supervisor.errors import OutputLost, StateCorrupt
from supervisor.jobdir.output import STREAMS, Output, read_output
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
