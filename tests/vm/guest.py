"""A guest: one boot of the image, in which root runs one script.

QEMU emulates its processors, so everything takes several times as long as here. The root file system is thrown away.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import attrs

__all__ = ["NO_STATUS", "TIMED_OUT", "Guest"]

NO_STATUS, TIMED_OUT = 125, 124
_ROOM = 256 << 20  # for what the guest gives back
# `mitigations=off` spares an emulated processor work that protects nothing here; with `panic=-1` and QEMU's
# `-no-reboot` a guest that panics is off.
_KERNEL_LINE = "root=/dev/disk/by-id/virtio-root rw console=ttyS0 panic=-1 mitigations=off quiet"


@attrs.frozen
class Guest:
    """A machine to boot.

    Attributes:
        image: the directory of ``image.build``.
        cpus: how many processors it has.
        memory: in MiB.
        console: a file for the kernel's messages.
        disks: images of further disks, which are ``virtio-disk0`` and so on there. What the guest has written to them
            or flushed is in the files, also if its power is cut.
        logged: the image of ``virtio-logged``, and the file in which QEMU logs what is written to it.
    """

    image: Path
    cpus: int = 1
    memory: int = 1024
    console: Path | None = None
    disks: tuple[Path, ...] = ()
    logged: tuple[Path, Path] | None = None

    @contextlib.contextmanager
    def booted(self, command: str, files: Path) -> Generator[subprocess.Popen[bytes]]:
        """Boot, run ``command`` as ``run`` does, and give QEMU, whose stdout is what the guest says.

        To kill QEMU is to cut the power of the guest.
        """
        with tempfile.TemporaryDirectory(prefix="vm-") as name:
            _pack(Path(name), command, files)
            with subprocess.Popen(self._argv(Path(name)), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
                try:
                    yield qemu
                finally:
                    qemu.kill()

    def run(self, command: str, files: Path, out: Path | None = None, timeout: float = 600) -> int:
        """Boot, run ``command`` with bash, and return its exit status; its output is written to ours.

        The guest has a copy of ``files`` in /srv/vm. ``out`` is a tar to make of what it leaves in /srv/vm/out. Returns
        ``NO_STATUS`` when the guest went down by itself, and ``TIMED_OUT`` after ``timeout`` seconds.
        """
        with tempfile.TemporaryDirectory(prefix="vm-") as name:
            folder = Path(name)
            _pack(folder, command, files)
            if out is not None:
                with open(folder / "out", "wb") as file:
                    file.truncate(_ROOM)
            is_off = self._boot(folder, time.monotonic() + timeout)
            if out is not None and is_off:
                (folder / "out").replace(out)
            return int((folder / "status").read_text(encoding="ascii") or NO_STATUS) if is_off else TIMED_OUT

    def _boot(self, folder: Path, until: float) -> bool:
        """Run QEMU and pass on what the guest says; whether it was off in time."""
        # Its stdin stays open and silent: at the end of that QEMU would take the port for unplugged.
        with subprocess.Popen(self._argv(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
            assert qemu.stdout is not None
            said = qemu.stdout.fileno()
            try:
                while select.select([said], [], [], max(0.0, until - time.monotonic()))[0]:
                    if not (data := os.read(said, 1 << 16)):
                        return True
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
            finally:
                qemu.kill()
        return False

    def _argv(self, folder: Path) -> list[str]:
        line = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"]
        line += ["-smp", str(self.cpus), "-m", str(self.memory)]
        line += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-device", "virtio-serial-pci"]
        line += ["-kernel", f"{self.image}/vmlinuz", "-initrd", f"{self.image}/initrd", "-append", _KERNEL_LINE]
        line += ["-serial", f"file:{self.console or os.devnull}"]
        for name, target in (("out", "stdio,signal=off"), ("status", f"file,path={folder}/status")):
            line += ["-chardev", f"{target},id={name}", "-device", f"virtserialport,chardev={name},name={name}"]
        drives = [("root", f"{self.image}/root.ext4", "raw,snapshot=on"), ("in", f"{folder}/in", "raw,readonly=on")]
        drives += [("out", f"{folder}/out", "raw")] if (folder / "out").exists() else []
        drives += [(f"disk{number}", str(disk), "raw,cache=writeback") for number, disk in enumerate(self.disks)]
        given = [(name, f"file={file},format={how}") for name, file, how in drives]
        if self.logged is not None:
            logging = "driver=blklogwrites,file.driver=file,file.filename={},log.driver=file,log.filename={}"
            given.append(("logged", f"{logging.format(*self.logged)},cache=writeback"))
        for name, how in given:
            line += ["-drive", f"if=none,id={name},{how}", "-device", f"virtio-blk-pci,drive={name},serial={name}"]
        return line


def _pack(folder: Path, command: str, files: Path) -> None:
    """Make the disk with what the guest is to run: a tar has whole sectors, as a disk must have."""
    with tarfile.open(folder / "in", "w") as tar:
        tar.add(files, ".")
        entry = tarfile.TarInfo("command")
        entry.size = len(command.encode())
        tar.addfile(entry, io.BytesIO(command.encode()))
