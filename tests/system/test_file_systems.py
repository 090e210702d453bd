"""Which paths may keep a caller waiting, told from the mount table alone."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.system import file_systems

NO_DISK = os.makedev(0, 42)
ROOT = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    def mounted(*lines: str) -> None:
        text = ROOT + "".join(f"30 22 0:1 / {line} x rw\n" for line in lines)
        monkeypatch.setattr(file_systems, "_table", lambda: text)

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
    assert file_systems.may_hang() is hangs


def test_the_nearest_mount_decides(table: Any) -> None:
    table("/mnt rw - ext4", "/mnt/far rw - nfs4", "/mnt/far/near rw - xfs", "/mnt/with\\040space rw - nfs")
    assert file_systems.file_system_of("/mnt/near") == "ext4"
    assert file_systems.on_network("/mnt/far/away")
    assert not file_systems.on_network("/mnt/far/near/by")
    assert not file_systems.on_network("/mnt/farther")
    assert file_systems.on_network("/mnt/with space/x")


def test_without_a_mount_table_everything_may_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(file_systems, "_table", refuse)
    assert file_systems.may_hang()
    assert (file_systems.file_system_of("/"), file_systems.network_of("/", NO_DISK)) == ("", "")


def test_the_network_file_system_that_holds_a_path(table: Any) -> None:
    table("/mnt/far rw - nfs4", "/mnt/far/near rw - xfs")
    places = ("/mnt/far/away", "/mnt/far/near/by", "/elsewhere")
    assert [file_systems.network_of(path, NO_DISK) for path in places] == ["nfs4", "", ""]
    assert file_systems.network_of("/mnt/far/away", os.makedev(254, 0)) == ""


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "glusterfs", "ceph", "orangefs", "ocfs2", "gfs2"),
        *(
            "panfs",
            "wekafs",
            "afs",
            "9p",
            "vboxsf",
            "fuse",
            "fuse.sshfs",
            "fuse.s3fs",
            "fuse.glusterfs",
            "fuse.juicefs",
        ),
        *("fuse.mfs", "fuse.rclone", "fuse.not-known", "not-known"),
    ],
)
def test_what_is_not_known_to_be_local_is_not_taken_for_it(table: Any, kind: str) -> None:
    table(f"/mnt/far rw - {kind}")
    assert file_systems.network_of("/mnt/far/away", NO_DISK) == kind


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "ext4",
            "xfs",
            "btrfs",
            "zfs",
            "bcachefs",
            "f2fs",
            "tmpfs",
            "ramfs",
            "overlay",
            "aufs",
            "virtiofs",
            "fuseblk",
        ),
        *("ecryptfs", "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.mergerfs"),
    ],
)
def test_what_is_local(table: Any, kind: str) -> None:
    table(f"/mnt/near rw - {kind}")
    assert file_systems.network_of("/mnt/near/by", NO_DISK) == ""


def test_a_block_device_of_one_host_is_local_whatever_is_on_it(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.makedev(254, 0)
    table("/mnt/new rw - newfs", "/mnt/shared rw - ocfs2")
    monkeypatch.setattr(file_systems, "_registered", lambda: {"newfs": True, "ocfs2": True, "tmpfs": False})
    assert [file_systems.network_of(path, disk) for path in ("/mnt/new/x", "/mnt/shared/x")] == ["", "ocfs2"]
    assert file_systems.network_of("/mnt/new/x", NO_DISK) == ""


def test_points_of_mounts_may_have_any_name(table: Any) -> None:
    table("/mnt/a\\011b\\134c rw - nfs")
    assert file_systems.file_system_of("/mnt/a\tb\\c/d") == "nfs"


def test_the_table_is_that_of_the_kernel() -> None:
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("there is none here")
    assert file_systems._table() == Path("/proc/self/mountinfo").read_text(errors="surrogateescape")


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
    assert file_systems.has_settled(found) is settled


def test_every_name_that_comes_or_goes_gives_a_settled_directory_another_time(tmp_path: Path) -> None:
    def stamp() -> int:
        while not file_systems.has_settled(found := tmp_path.stat()):
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
