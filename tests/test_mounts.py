"""Which paths may keep a caller waiting, told from the mount table alone."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor import mounts

NO_DISK = os.makedev(0, 42)
ROOT = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    def mounted(*lines: str) -> None:
        text = ROOT + "".join(f"30 22 0:1 / {line} x rw\n" for line in lines)
        monkeypatch.setattr(mounts, "_table", lambda: text)

    return mounted


@pytest.mark.parametrize(
    ("lines", "hangs"),
    [
        ([], False),
        (["/home rw - ext4"], False),
        (["/mnt/far rw - nfs4"], True),
        (["/mnt/far rw - fuse.sshfs"], True),
        (["/net rw - autofs"], True),
        (["/proc/sys/fs/binfmt_misc rw - autofs", "/sys/fs/fuse/connections rw - fusectl"], False),
    ],
)
def test_may_hang(table: Any, lines: list[str], *, hangs: bool) -> None:
    table(*lines)
    assert mounts.may_hang() is hangs


def test_the_nearest_mount_decides(table: Any) -> None:
    table("/mnt rw - ext4", "/mnt/far rw - nfs4", "/mnt/far/near rw - xfs", "/mnt/with\\040space rw - nfs")
    assert mounts.file_system_of("/mnt/near") == "ext4"
    assert mounts.on_network("/mnt/far/away")
    assert not mounts.on_network("/mnt/far/near/by")
    assert not mounts.on_network("/mnt/farther")
    assert mounts.on_network("/mnt/with space/x")


def test_without_a_mount_table_everything_may_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(mounts, "_table", refuse)
    assert mounts.may_hang()
    assert (mounts.file_system_of("/"), mounts.network_of("/", NO_DISK)) == ("", "")


def test_the_network_file_system_that_holds_a_path(table: Any) -> None:
    table("/mnt/far rw - nfs4", "/mnt/far/near rw - xfs")
    places = ("/mnt/far/away", "/mnt/far/near/by", "/elsewhere")
    assert [mounts.network_of(path, NO_DISK) for path in places] == ["nfs4", "", ""]
    assert mounts.network_of("/mnt/far/away", os.makedev(254, 0)) == ""


def test_the_table_is_that_of_the_kernel() -> None:
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("there is none here")
    assert mounts._table() == Path("/proc/self/mountinfo").read_text(errors="surrogateescape")


@pytest.mark.parametrize(
    ("changed_ns", "ago_ns", "settled"),
    [
        (5_000_000_001, 99_000_000, False),
        (5_000_000_001, 101_000_000, True),
        (5_000_000_000, 1_999_000_000, False),  # it may count no more than seconds
        (5_000_000_000, 2_001_000_000, True),
        (5_000_000_001, -1_000_000_000, False),  # the clock was set back
    ],
)
def test_a_directory_settles_when_its_clock_has_moved_on(
    monkeypatch: pytest.MonkeyPatch, changed_ns: int, ago_ns: int, *, settled: bool
) -> None:
    class At:
        st_ctime_ns = changed_ns

    monkeypatch.setattr(time, "time_ns", lambda: changed_ns + ago_ns)
    found: Any = At()
    assert mounts.has_settled(found) is settled


def test_every_name_that_comes_or_goes_gives_a_settled_directory_another_time(tmp_path: Path) -> None:
    def stamp() -> int:
        while not mounts.has_settled(found := tmp_path.stat()):
            time.sleep(0.02)
        return found.st_ctime_ns

    stamps = [stamp()]
    (tmp_path / "a").touch()
    stamps.append(stamp())
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    stamps.append(stamp())
    (tmp_path / "b").rename(tmp_path / "c")
    stamps.append(stamp())
    (tmp_path / "c").unlink()
    stamps.append(stamp())
    (tmp_path / "a").write_text("written to in place")
    assert len(set(stamps)) == 5
    assert stamp() == stamps[-1]
