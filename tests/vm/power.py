"""Cuts the power of a guest in which jobs run, and checks what is left: ``python -m tests.vm.power [OPTIONS]``.

The state root is on a disk of its own. The guest tells this host each id after ``start`` has returned, and each end
after ``wait`` and ``result`` have. At random moments QEMU is stopped and its disk is copied: a copy is what a cut at
that moment would leave. At last QEMU is killed. The next guest mounts the disk and its copies, and asks about each job
that was acknowledged by then. So each boot checks many cuts.

Prints a line for each cut, with what is wrong after it, and exits with 1 if anything is. Needs root and
``image.PACKAGES``, and for two of the file systems xfsprogs and btrfs-progs.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import attrs

from tests.vm import image
from tests.vm.__main__ import CHECKOUT, NOT_HERE, cache_of, requirements, why_not_here
from tests.vm.guest import Guest

MAKERS = {
    "ext4": ("mke2fs", "-q", "-t", "ext4"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
_DISK_BYTES = 320 << 20
_BOOT_SECONDS = 1800.0
# Each boot begins with the same image, and would take another name: jobs of another machine are not judged.
_COMMAND = (
    "echo 0123456789abcdef0123456789abcdef >/etc/machine-id && "
    "cd /srv/vm && exec env PYTHONPATH=/srv/vm python -P power_in_guest.py"
)

Acknowledged = dict[str, dict[str, Any]]
"""What callers were told, by job."""


@attrs.define
class Cut:
    """A disk after a cut, and what callers had been told by then."""

    disk: Path
    acknowledged: Acknowledged
    killed: bool


@attrs.define
class Listener:
    """Reads what a guest says; ``acknowledged`` is what it told so far."""

    qemu: subprocess.Popen[bytes]
    acknowledged: Acknowledged = attrs.field(factory=dict[str, dict[str, Any]])
    _rest: bytes = b""

    def lines(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Return the lines until none has come for so long, or the guest is off."""
        assert self.qemu.stdout is not None
        said = self.qemu.stdout.fileno()
        until = time.monotonic() + seconds
        while select.select([said], [], [], max(0.0, until - time.monotonic()))[0]:
            if not (data := os.read(said, 1 << 16)):
                return
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                yield self._note(line)

    def _note(self, line: bytes) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads(line)
        except ValueError:
            sys.stderr.write(f"guest: {line.decode(errors='replace')}\n")
            return {}
        if "started" in facts and "checked" not in facts:
            self.acknowledged[facts["started"]] = {"value": facts["value"], "held": facts["held"]}
        elif "told" in facts:
            self.acknowledged[facts["ended"]]["ended"] = facts["told"]
        return facts


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _stop(pid: int) -> None:
    """Stop a process, and wait until each of its threads stands still."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    while any((thread / "stat").read_text().rpartition(")")[2].split()[0] != "T" for thread in threads.iterdir()):
        time.sleep(0.001)


def _cuts(listener: Listener, disk: Path, folder: Path, copies: int, chance: random.Random) -> Iterator[Cut]:
    """Let jobs run, copy the disk now and then, and cut the power at last."""
    for number in range(copies + 1):
        for _ in listener.lines(chance.uniform(0.3, 2.0)):
            pass
        _stop(listener.qemu.pid)
        for _ in listener.lines(0):  # what was told before it stood still
            pass
        acknowledged = {job_id: dict(facts) for job_id, facts in listener.acknowledged.items()}
        if number == copies:
            listener.qemu.kill()
            yield Cut(disk, acknowledged, killed=True)
            return
        copy = folder / f"{disk.name}.{number}"
        subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
        os.kill(listener.qemu.pid, signal.SIGCONT)
        yield Cut(copy, acknowledged, killed=False)


def _files(folder: Path, plan: dict[str, Any]) -> Path:
    """Make what the guest gets: the package, compiled as far as its Python has the same format, and the plan."""
    if not folder.exists():
        shutil.copytree(CHECKOUT / "supervisor", folder / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        shutil.copy(Path(__file__).with_name("power_in_guest.py"), folder)
    (folder / "plan").write_text(json.dumps(plan), encoding="ascii")
    return folder


def _round(options: argparse.Namespace, folder: Path, number: int, before: list[Cut]) -> tuple[list[Cut], list[bool]]:
    """Boot once: check the cuts ``before``, and make new ones. Return these, and of each checked one if it has lost."""
    lost: list[bool] = []
    disk = folder / f"disk-{number}"
    if not options.last:
        with open(disk, "wb") as file:
            file.truncate(_DISK_BYTES)
        subprocess.run([*MAKERS[options.file_system], disk], check=True)
    disks = (*(cut.disk for cut in before), *(() if options.last else (disk,)))
    plan = {"acknowledged": [cut.acknowledged for cut in before], "file_system": options.file_system}
    plan |= {"durability": options.durability}
    cuts: list[Cut] = []
    guest = Guest(cache_of(options.suite), memory=512, disks=disks)
    with guest.booted(_COMMAND, _files(folder / "files", plan)) as qemu:
        listener = Listener(qemu)
        for facts in listener.lines(_BOOT_SECONDS):
            if "checked" in facts:
                number_of_cut: int = facts["checked"]
                cut = before[number_of_cut]
                how = "killed" if cut.killed else "copied"
                _say(file_system=options.file_system, cut=how, **facts)
                lost.append(bool(facts["wrong"]))
            if len(listener.acknowledged) >= 3 or ("begins" in facts and options.last):
                break
        if not options.last and listener.acknowledged:
            cuts = list(_cuts(listener, disk, folder, options.copies, random.Random(options.seed + number)))
    for cut in before:
        cut.disk.unlink()
    return cuts, lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file-system", choices=MAKERS, default="ext4")
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often the power is cut; one more boot checks the last"
    )
    parser.add_argument("--copies", type=int, default=9, help="cuts of a copy of the disk in each round")
    parser.add_argument("--durability", choices=("process", "power"), default="power")
    parser.add_argument("--suite", choices=image.SUITES, default="bookworm", help="the release of Debian")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(last=False)
    options = parser.parse_args()
    if (reason := why_not_here()) is not None or shutil.which(MAKERS[options.file_system][0]) is None:
        _say(no_guest=reason or f"there is no {MAKERS[options.file_system][0]}")
        return NOT_HERE
    image.build(cache_of(options.suite), requirements(), options.suite)
    cuts: list[Cut] = []
    total, lost = 0, list[bool]()
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # disks that sync at once
    with tempfile.TemporaryDirectory(prefix="power-", dir=in_memory) as folder:
        for number in range(options.rounds + 1):
            options.last = number == options.rounds
            total += len(cuts)
            cuts, found = _round(options, Path(folder), number, cuts)
            lost += found
    _say(file_system=options.file_system, cuts=total, checked=len(lost), cuts_with_losses=sum(lost))
    return int(any(lost) or not total or len(lost) < total)


if __name__ == "__main__":
    sys.exit(main())
