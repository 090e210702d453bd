from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.jobdir import records, stops

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True).filter(lambda name: name != "v"), VALUES))
def test_a_record_is_one_line_of_json(record: dict[str, Any]) -> None:
    data = records.encode(record)
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert data.isascii()
    assert json.loads(data) == {"v": records.VERSION, **record}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert records.create(directory, "a.json", {"n": 1})
    assert records.read(directory, "a.json") == {"v": 1, "n": 1}
    assert not records.create(directory, "a.json", {"n": 2})
    assert records.read(directory, "a.json") == {"v": 1, "n": 1}
    records.replace(directory, "a.json", {"n": 3})
    assert records.read(directory, "a.json") == {"v": 1, "n": 3}
    assert os.listdir(directory) == ["a.json"]
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"v":1,"n":1}', 1),
        (b'{"v":1,"n":1}\n', 1),
        (b'{"v":1,"n":1}\n\n{"v":1,"n":2}\n', 2),
        (b'{"v":1,"n":1}\n\n{"v":1,"n":2', 1),
        (b'{"v":1,"n":1}\n{"v":1,\n{"v":1,"n":3}\n', 3),
        (b'{"v":1,\n "n":4\n}\n', 4),
        (b'{"v":1,\n "n":5}', 5),
    ],
)
def test_the_last_whole_version_counts(tmp_path: Path, content: bytes, told: int) -> None:
    (tmp_path / records.STOP).write_bytes(content)
    assert records.read(str(tmp_path), records.STOP) == {"v": 1, "n": told}


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert records.read(str(tmp_path), "a.json") is None
    assert records.read(str(tmp_path / "nowhere"), "a.json") is None
    (tmp_path / "file").write_text("")
    assert records.read(str(tmp_path / "file"), "a.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"v"', b'{"n":1}', b'{"v":2}', b"\xff", b"[" * 200_000])
def test_what_is_no_record_is_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert records.read(str(tmp_path), "a.json") == {}


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_no_file_is_empty_and_nobody_waits_for_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "b.json").write_bytes(b'{"v":1}')
        path.symlink_to("b.json")
    else:
        os.mkfifo(path)
    assert records.read(str(tmp_path), "a.json") == {}


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records.create(str(tmp_path), "a.json", {"n": 1})

    def full(*_: object) -> int:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "write", full)
    for write in (records.create, records.replace):
        with pytest.raises(OSError, match="no space left"):
            write(str(tmp_path), "a.json", {"n": 2})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a.json"]
    assert records.read(str(tmp_path), "a.json") == {"v": 1, "n": 1}


def test_a_write_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    records.create(str(tmp_path), "a.json", {"text": "x" * 100})
    assert records.read(str(tmp_path), "a.json") == {"v": 1, "text": "x" * 100}


def test_one_of_many_takes_a_claim(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert records.read_claim(directory) is None
    told: dict[str, bool] = {}
    together = threading.Barrier(8)

    def take(holder: str) -> None:
        together.wait()
        told[holder] = records.take_claim(directory, holder)

    threads = [threading.Thread(target=take, args=(f"holder-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [holder for holder, won in told.items() if won]
    assert records.read_claim(directory) == winner
    assert not records.take_claim(directory, records.NOBODY)


def test_a_claim_that_is_no_link_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / records.CLAIM).write_text("keeper")
    assert records.read_claim(str(tmp_path)) == ""
    assert not records.take_claim(str(tmp_path), "holder")


def test_a_stop_is_marked_step_by_step(tmp_path: Path) -> None:
    directory = str(tmp_path)
    records.create(directory, records.STOP, {"why": "deadline", "by": "x", "signalled_boot_ns": None, "gone": False})
    stops.mark_stop(directory, signalled=5)
    stops.mark_stop(directory, signalled=6)
    stops.mark_stop(directory, gone=True, survivors="1 2")
    assert records.read(directory, records.STOP) == {
        "v": 1,
        "why": "deadline",
        "by": "x",
        "signalled_boot_ns": 5,
        "gone": True,
        "survivors": "1 2",
    }


@pytest.mark.parametrize("content", [None, b"{"])
def test_a_stop_without_a_request_is_a_cancel(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / records.STOP).write_bytes(content)
    stops.mark_stop(str(tmp_path), signalled=5)
    assert records.read(str(tmp_path), records.STOP) == {"v": 1, "why": "cancelled", "signalled_boot_ns": 5}
