"""What is taken down of a job's output at its end, and whether anything may write on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.jobdir import measures, records, stops, validation
from supervisor.jobdir.measures import sizes, sizes_and_writers

EXIT = {"v": 1, "exit_code": 0, "signal": None, "ended_ns": 1}

needs_leases = pytest.mark.skipif(not measures._CAN_LEASE, reason="needs leases")


def test_what_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert sizes(str(tmp_path)) == {"stdout_bytes": 0, "stderr_bytes": 0}
    (tmp_path / records.STDOUT).write_bytes(bytes(5))
    (tmp_path / records.STDERR).symlink_to("/etc/passwd")
    assert sizes(str(tmp_path)) == {"stdout_bytes": 5, "stderr_bytes": 0}


def test_what_cannot_be_seen_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(measures.os, "lstat", fails)
    assert sizes(str(tmp_path)) == {"stdout_bytes": None, "stderr_bytes": None}


@needs_leases
@pytest.mark.parametrize("name", [records.STDOUT, records.STDERR])
def test_a_writer_is_seen_for_as_long_as_there_is_one(tmp_path: Path, name: str) -> None:
    descriptors = {
        each: os.open(tmp_path / each, os.O_WRONLY | os.O_CREAT) for each in (records.STDOUT, records.STDERR)
    }
    os.write(descriptors[name], b"abc")
    kept = descriptors.pop(name)
    for descriptor in descriptors.values():
        os.close(descriptor)
    member = "stdout_bytes" if name == records.STDOUT else "stderr_bytes"
    found, _, writers = sizes_and_writers(str(tmp_path))
    assert (found[member], writers) == (3, True)
    os.close(kept)
    assert sizes_and_writers(str(tmp_path))[2] is False
    with (tmp_path / name).open("rb"):
        assert sizes_and_writers(str(tmp_path))[2] is False


def test_without_leases_it_is_not_known_and_the_sizes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / records.STDOUT).write_bytes(b"abc")
    (tmp_path / records.STDERR).write_bytes(b"")
    monkeypatch.setattr(measures, "_CAN_LEASE", False)
    found, changes, writers = sizes_and_writers(str(tmp_path))
    assert (found, writers) == ({"stdout_bytes": 3, "stderr_bytes": 0}, None)
    assert [change and change[0] for change in changes] == [3, 0]


def test_without_a_descriptor_the_sizes_are_known_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / records.STDOUT).write_bytes(b"abc")

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(measures.os, "open", fails)
    assert sizes_and_writers(str(tmp_path)) == ({"stdout_bytes": 3, "stderr_bytes": 0}, [None, None], None)


@pytest.mark.parametrize("stop", [None, {}, {"signalled_boot_ns": None, "gone": True, "stdout_bytes": 9}])
def test_sizes_are_those_of_the_exit(stop: dict[str, Any] | None) -> None:
    ended = validation.exit_of({**EXIT, "stdout_bytes": 3, "stderr_bytes": 4}, stop)
    assert (ended.stdout_bytes, ended.stderr_bytes, ended.may_grow, ended.truncated) == (3, 4, False, False)


def test_of_a_tree_that_was_ended_all_that_it_wrote_counts(tmp_path: Path) -> None:
    directory = str(tmp_path)
    records.replace(directory, records.STOP, {"why": "cancelled", "signalled_boot_ns": 1, "gone": False})
    for size in (5, 7):  # the first that says that it is gone counts
        stops.mark_stop(directory, gone=True, sizes={"stdout_bytes": size, "stderr_bytes": size})
    ended = validation.exit_of({**EXIT, "stdout_bytes": 3, "stderr_bytes": 4}, stops.read_stop(directory))
    assert (ended.stdout_bytes, ended.stderr_bytes) == (5, 5)


@pytest.mark.parametrize("size", [None, -1, "3", 3.0, True, 2**63])
def test_a_size_that_makes_no_sense_is_not_known(size: object) -> None:
    ended = validation.exit_of({**EXIT, "stdout_bytes": size})
    assert (ended.stdout_bytes, ended.stderr_bytes) == (None, None)
