"""The resources that run out in a scarce round: descriptors and memory of one process, the disk of the state root.

Limits are those of the kernel (``prlimit``) and are lowered and raised while the process runs; a small disk is a tmpfs
of the round. Each function returns the action that restores the resource.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

_FULL: dict[tuple[str, int], tuple[int, int]] = {}  # the limits of a process before they were lowered
_DISK = "size=4m,nr_inodes=2000,mode=0700"


def squeeze(what: str, pid: int, *, spare: int) -> Callable[[], None]:
    """Leave a process ``spare`` descriptors, or so many times 256 KiB; ignore one that has ended."""
    number = resource.RLIMIT_NOFILE if what == "descriptors" else resource.RLIMIT_AS
    try:
        if what == "descriptors":
            least = len(os.listdir(f"/proc/{pid}/fd")) + spare
        else:
            pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
            least = pages * resource.getpagesize() + (spare << 18)
        full = _FULL.setdefault((what, pid), resource.prlimit(pid, number))
        resource.prlimit(pid, number, (least, full[1]))
    except (OSError, IndexError, ValueError):  # it has ended
        return lambda: None

    def give_back() -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, number, full)

    return give_back


class SmallDisk:
    """A file system of 4 MiB below the state root, if one can be mounted; otherwise the disk does not fill up."""

    def __init__(self, root: Path) -> None:
        self._root = root
        words = ["mount", "-t", "tmpfs", "-o", _DISK, "tmpfs", str(root)]
        self._mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0

    def fill(self, *, inodes: bool) -> Callable[[], None]:
        """Leave no room for one more block, or for one more file."""
        if not self._mounted:
            return lambda: None
        made: list[Path] = []
        with contextlib.suppress(OSError):
            while inodes:
                made.append(self._root / f"filler-{os.urandom(8).hex()}")
                made[-1].touch()
        if not inodes:
            made.append(self._root / f"filler-{os.urandom(8).hex()}")
            with contextlib.suppress(OSError), made[-1].open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        def give_back() -> None:
            for path in made:
                path.unlink(missing_ok=True)

        return give_back

    def unmount(self) -> None:
        """Remove it with all files on it."""
        if self._mounted:
            subprocess.run(["umount", "-l", str(self._root)], check=True)
