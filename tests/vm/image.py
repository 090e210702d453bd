"""The image of the guest: a small Debian with systemd as PID 1, unified control groups and a user manager.

It is built once, by root, with mmdebstrap and mke2fs; no loop device is needed. It has the Python packages that the
tests need, but not this project, which comes with each boot: so a change of the project builds nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["FILES", "PACKAGES", "SUITES", "build"]

FILES = Path(__file__).parent / "in_guest"
PACKAGES = {"mmdebstrap": "mmdebstrap", "qemu-system-x86": "qemu-system-x86_64", "e2fsprogs": "mke2fs"}
"""What Debian calls the packages, and a program of each."""

SUITES = {"bookworm": "3.11", "trixie": "3.13"}
"""Releases of Debian, with their Python. The C library of the first cannot spawn into a control group of version 2."""

_SIZE = "2G"
_IN_GUEST = (
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "udev",
    "dbus-user-session",
    "libpam-systemd",
    "openssh-server",
    "openssh-client",
    "procps",
    "python3-venv",
)


def build(cache: Path, requirements: list[str], suite: str) -> None:
    """Put ``vmlinuz``, ``initrd`` and ``root.ext4`` into ``cache``, unless they are there and as they should be.

    ``requirements`` are the Python packages of the guest, ``suite`` is one of ``SUITES``. One process builds, others
    wait for it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = _stamp([suite, *requirements])
        kept = cache / "stamp"
        if kept.exists() and kept.read_text(encoding="ascii") == stamp:
            return
        kept.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as folder:
            _build(cache, Path(folder), requirements, suite)
        kept.write_text(stamp, encoding="ascii")


def _stamp(requirements: list[str]) -> str:
    parts = [Path(__file__).read_bytes(), *(path.read_bytes() for path in sorted(FILES.iterdir()))]
    return hashlib.sha256(b"\0".join([*parts, *(each.encode() for each in sorted(requirements))])).hexdigest()


def _build(cache: Path, folder: Path, requirements: list[str], suite: str) -> None:
    given, root = folder / "vm", folder / "root"
    shutil.copytree(FILES, given)
    # The wheels of the guest's Python, whichever runs this.
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--quiet", "--only-binary=:all:"]
    download += [f"--python-version={SUITES[suite]}", f"--dest={given / 'wheels'}"]
    subprocess.run([*download, *requirements], check=True)
    root.mkdir(mode=0o755)
    root.chmod(0o755)  # for any umask
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"),
            *(f"--dpkgopt=path-exclude=/usr/share/{unread}/*" for unread in ("doc", "man", "locale")),
            *(f"--include={','.join(_IN_GUEST)}", f'--customize-hook=cp -r "{given}" "$1/vm"'),
            *('--customize-hook=chroot "$1" bash /vm/set-up', suite, root),
        ],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "TMPDIR": str(folder)},
        check=True,
        umask=0o022,
    )
    for name in ("vmlinuz", "initrd"):
        (found,) = (path for path in (root / "boot").iterdir() if path.name.startswith(name))
        found.replace(cache / name)
    for path in (root / "boot").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    image = folder / "root.ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, image, _SIZE], check=True)  # with the owners kept
    image.replace(cache / image.name)
