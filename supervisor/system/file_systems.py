"""Which file system holds a path: some cannot hold a state root, some can hang a process that touches them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from functools import cache
from typing import Final

__all__ = ["file_system_of", "has_settled", "may_hang", "network_of", "on_network"]

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def _types(*names: str) -> frozenset[str]:
    return frozenset(" ".join(names).split())


_SHARED_DISKS: Final = _types("acfs cvfs gfs2 gpfs ocfs2")
"""File systems of several hosts that may lie on a block device."""

NETWORK: Final = _SHARED_DISKS | _types(
    "nfs nfs4 cifs smb3 smbfs smb ncpfs davfs afs openafs coda ceph lustre lustre_lite beegfs fhgfs",
    "beegfs_nodev glusterfs orangefs pvfs2 panfs wekafs quobyte dvs moosefs juicefs",
    # The files of a guest's host. 9p has no shared memory that SQLite could rely on.
    "9p vboxsf vmhgfs prl_fs grpcfuse fakeowner",
    "fuse.sshfs fuse.s3fs fuse.glusterfs fuse.ceph fuse.ceph-fuse fuse.juicefs fuse.mfs fuse.moosefs fuse.rclone",
    "fuse.gcsfuse fuse.davfs fuse.curlftpfs fuse.smbnetfs",
)
"""File systems whose locks and renames another host takes part in; of those of FUSE only the best known."""

_LOCAL: Final = _types(
    "ext2 ext3 ext4 xfs btrfs zfs bcachefs f2fs jfs reiserfs nilfs2 ufs hfs hfsplus apfs ntfs ntfs3 vfat exfat",
    "ubifs jffs2 erofs squashfs tmpfs ramfs rootfs devtmpfs overlay overlayfs aufs unionfs shiftfs ecryptfs",
    "lxfs wslfs",  # the disk of Linux itself under WSL 1
    # Its files are the host's, but its locks and memory the guest's, whose processes alone share a root there.
    "virtiofs",
    # Most of what FUSE serves comes from afar. These show files of this machine.
    "fuseblk fuse.fuse-overlayfs fuse.gocryptfs fuse.encfs fuse.cryfs fuse.securefs fuse.mergerfs fuse.bindfs",
    "fuse.unionfs fuse.unionfs-fuse fuse.fuse2fs fuse.fuse-ext2",
)
"""File systems that can hold a state root, beside those that lie on a block device of one host."""


_SETTLED_NS: Final = 100_000_000
"""Ten ticks of the slowest clock that kernels take the times of files from."""
_SETTLED_COARSELY_NS: Final = 2_000_000_000
"""For file systems that count whole seconds, or two."""


def has_settled(directory: os.stat_result) -> bool:
    """Whether a directory's next change will give it another time, however coarsely its file system counts.

    If so, names that are found in it afterwards stay valid for as long as it has the same time (``st_ctime_ns``,
    which no process can set), since every name that comes or goes is a change.
    """
    changed_ns = directory.st_ctime_ns
    return time.time_ns() - changed_ns > (_SETTLED_NS if changed_ns % 1_000_000_000 else _SETTLED_COARSELY_NS)


def _table() -> str:
    """Return the table of mounts.

    Raises:
        OSError: there is none here.
    """
    descriptor = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while data := os.read(descriptor, 1 << 16):
            parts.append(data)
    finally:
        os.close(descriptor)
    return os.fsdecode(b"".join(parts))


def network_of(path: str, device: int) -> str:
    """Return the type of the file system that holds a real path on ``device`` unless it is known to be local.

    Empty for a local one, and without a table of mounts.
    """
    if os.major(device) and _SHARED_DISKS.isdisjoint(_registered()):  # a disk, and none that hosts share
        return ""
    if (path, device) in _known_local:
        return ""
    kind = file_system_of(path)
    if not kind:
        return ""
    if kind in _LOCAL or (kind not in NETWORK and _registered().get(kind) is True):
        _known_local.add((path, device))
        return ""
    return kind


_known_local: set[tuple[str, int]] = set()
"""Places that were local: reading the table takes a tenth of the time in which a process opens a state root again."""


@cache
def _registered() -> Mapping[str, bool]:
    """Return the types that the kernel knows, each with whether it lies on block devices."""
    try:
        with open("/proc/filesystems", encoding="ascii", errors="replace") as file:
            return {line.split()[-1]: not line.startswith("nodev") for line in file if line.split()}
    except OSError:
        return {}


def file_system_of(path: str) -> str:
    """Return the type of the file system that holds a real path; empty if it is unknown."""
    try:
        return _kind_in(_table(), path)
    except OSError:
        return ""


def _kind_in(table: str, path: str) -> str:
    best, mount = "", ""
    try:
        for line in table.splitlines():
            point = line.split(" ", 5)[4]
            if "\\" in point:
                point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), point)
            if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
                best, mount = point, line
    except IndexError:
        return ""
    return mount.partition(" - ")[2].partition(" ")[0]


def may_hang() -> bool:
    """Whether a mount here may make a path wait for another host, or for a daemon that has died."""
    try:
        for line in _table().splitlines():
            left, _, right = line.partition(" - ")
            kernels_own = left.split(" ")[4].startswith(("/proc", "/sys", "/dev"))
            if _waits(right.split(" ")[0]) and not kernels_own:
                return True
    except (OSError, IndexError):
        return True
    return False


def _waits(kind: str) -> bool:
    return kind in NETWORK or kind.startswith(("fuse", "autofs"))


def on_network(path: str) -> bool:
    """Whether touching ``path`` may wait for another host, or for a daemon that has died."""
    kind = file_system_of(path)
    if not kind:  # no mount table here
        return not os.path.exists("/proc/self/mountinfo")
    return _waits(kind)
