"""Cuts the power of a guest in which jobs run, and checks what is left: ``python -m tests.vm.power [OPTIONS]``.

The state root is on a disk of its own. The guest tells this host each id after ``start`` has returned, and each end
after ``wait`` and ``result`` have. After some seconds QEMU is killed. The next guest asks about each job that was
acknowledged by then, of these disks:

* ``killed``: the disk as QEMU left it, with all that the guest had written to it. One in each round.
* ``replayed``: made of the log of its writes (``write_log``), as a cut at a random one of them would leave it where the
  cache of the disk is lost: of the writes that no flush has followed about half are there. Several in each round.

Prints a line for each cut, with what is wrong after it, and exits with 1 if anything is. Needs root and
``image.PACKAGES``, and for two of the file systems xfsprogs and btrfs-progs.
"""

from __future__ import annotations

import argparse
import compileall
import json
import math
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import attrs

from tests.vm import image
from tests.vm.__main__ import CHECKOUT, NOT_HERE, cache_of, requirements, why_not_here
from tests.vm.guest import Guest
from tests.vm.write_log import WriteLog, copy_into

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

_DRAIN_SECONDS = 60.0

Acknowledged = dict[str, dict[str, Any]]
"""What callers were told, by job."""
Counts = Counter[tuple[str, bool]]
"""How many cuts there were of each kind, with losses or without."""


@attrs.define
class Cuts:
    """Disks after cuts, one after the other in one file, and of each what callers had been told by then."""

    disks: Path
    acknowledged: list[Acknowledged] = attrs.field(factory=list[Acknowledged])
    kinds: list[str] = attrs.field(factory=list[str])

    def add(self, kind: str, disk: Path, acknowledged: Acknowledged) -> None:
        with open(self.disks, "r+b" if self.kinds else "w+b") as file:
            file.truncate(_DISK_BYTES * (len(self.kinds) + 1))
            copy_into(file.fileno(), _DISK_BYTES * len(self.kinds), disk)
        self.acknowledged.append(acknowledged)
        self.kinds.append(kind)


@attrs.define
class Listener:
    """Reads what a guest says, and notes how long the log of its writes was by then."""

    qemu: subprocess.Popen[bytes]
    log: Path
    told: list[tuple[int, dict[str, Any]]] = attrs.field(factory=list[tuple[int, dict[str, Any]]])
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
        if "checked" not in facts and self.log.exists():
            self.told.append((self.log.stat().st_size, facts))
        return facts

    def acknowledged(self, end: float = math.inf) -> Acknowledged:
        """Return what callers were told while the log was not longer than this."""
        found: Acknowledged = {}
        for position, facts in self.told:
            if position <= end and "started" in facts:
                found[facts["started"]] = {"value": facts["value"], "held": facts["held"]}
            elif position <= end and "ended" in facts:
                found[facts["ended"]]["ended"] = facts["told"]
        return found


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _cut(listener: Listener, folder: Path, options: argparse.Namespace, chance: random.Random) -> Cuts:
    """Kill QEMU, and make the disks to check."""
    listener.qemu.kill()
    for _ in listener.lines(_DRAIN_SECONDS):  # what was told before
        pass
    cuts = Cuts(folder / "cuts")
    cuts.add("killed", folder / "disk", listener.acknowledged())
    log = WriteLog(folder / "log", folder / "before", _DISK_BYTES)
    begin = min(position for position, facts in listener.told if "started" in facts)
    late = [number for number, entry in enumerate(log.entries) if entry.end >= begin]
    places = sorted(chance.sample(late, min(options.replays, len(late))))
    for place, disk in zip(places, log.disks(places, folder, chance), strict=True):
        cuts.add("replayed", disk, listener.acknowledged(log.entries[place].end))
    return cuts


def _files(folder: Path, plan: dict[str, Any]) -> Path:
    """Make what the guest gets: the package, compiled as far as its Python has the same format, and the plan."""
    if not folder.exists():
        shutil.copytree(CHECKOUT / "supervisor", folder / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        shutil.copy(Path(__file__).with_name("power_in_guest.py"), folder)
    (folder / "plan").write_text(json.dumps(plan), encoding="ascii")
    return folder


def _round(options: argparse.Namespace, folder: Path, number: int, before: Cuts | None) -> tuple[Cuts | None, Counts]:
    """Boot once: check the cuts ``before``, and make new ones. Return these, and by kind how many have lost or not."""
    found = Counts()
    is_last, disk, log = number == options.rounds, folder / "disk", folder / "log"
    with open(disk, "wb") as file:
        file.truncate(_DISK_BYTES)
    subprocess.run([*MAKERS[options.file_system], disk], check=True)
    subprocess.run(["cp", "--sparse=always", disk, folder / "before"], check=True)
    log.write_bytes(b"")
    plan = {"acknowledged": [] if before is None else before.acknowledged, "file_system": options.file_system}
    plan |= {"durability": options.durability, "disk_bytes": _DISK_BYTES, "is_last": is_last}
    disks = () if before is None else (before.disks,)
    guest = Guest(cache_of(options.suite), memory=512, disks=disks, logged=(disk, log))
    chance = random.Random(options.seed + number)
    with guest.booted(_COMMAND, _files(folder / "files", plan)) as qemu:
        listener = Listener(qemu, log)
        for facts in listener.lines(_BOOT_SECONDS):
            if "checked" in facts and before is not None:
                number_of_cut: int = facts["checked"]
                kind = before.kinds[number_of_cut]
                _say(file_system=options.file_system, cut=kind, **facts)
                found[kind, bool(facts["wrong"])] += 1
            if "started" in facts and "checked" not in facts:
                break
        if is_last:
            return None, found
        if before is not None:
            before.disks.unlink()  # the guest has it open still
        until = time.monotonic() + chance.uniform(0.5, 1.5) * options.seconds
        while (left := until - time.monotonic()) > 0:
            for _ in listener.lines(left):
                if time.monotonic() > until:
                    break
        return _cut(listener, folder, options, chance), found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file-system", choices=MAKERS, default="ext4")
    parser.add_argument(
        "--rounds", type=int, default=4, help="how often the power is cut; one more boot checks the last"
    )
    parser.add_argument("--replays", type=int, default=9, help="cuts of the log of the writes in each round")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long jobs run in each round, on average")
    parser.add_argument("--durability", choices=("process", "power"), default="power")
    parser.add_argument("--suite", choices=image.SUITES, default="bookworm", help="the release of Debian")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if (reason := why_not_here()) is not None or shutil.which(MAKERS[options.file_system][0]) is None:
        _say(no_guest=reason or f"there is no {MAKERS[options.file_system][0]}")
        return NOT_HERE
    image.build(cache_of(options.suite), requirements(), options.suite)
    began, cuts, total, found = time.monotonic(), None, 0, Counts()
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # disks that sync at once
    with tempfile.TemporaryDirectory(prefix="power-", dir=in_memory) as folder:
        for number in range(options.rounds + 1):
            cuts, some = _round(options, Path(folder), number, cuts)
            total += 0 if cuts is None else len(cuts.kinds)
            found.update(some)
    lost = sum(count for (_, has_lost), count in found.items() if has_lost)
    kinds = {kind: found[kind, False] + found[kind, True] for kind in ("killed", "replayed")}
    seconds = round(time.monotonic() - began)
    _say(file_system=options.file_system, cuts=total, checked=kinds, cuts_with_losses=lost, seconds=seconds)
    return int(bool(lost) or not total or found.total() < total)


if __name__ == "__main__":
    sys.exit(main())
