"""In the guest: says what is left of the jobs on disks whose power was cut, then starts jobs until its own is.

The disks to check are one after the other on one.

Each line is JSON. ``started`` and ``ended`` are written after the call has returned that says so.
"""

from __future__ import annotations

import fcntl
import json
import sys
import threading
from pathlib import Path
from subprocess import CalledProcessError, run
from typing import Any

from supervisor import BlockingSupervisor, Settings, SupervisorError
from supervisor.jobs.catalog import Catalog

_FORGET_DEVICES = 0x50009405  # linux/btrfs.h: BTRFS_IOC_FORGET_DEV
_ATTEMPTS = 5
_THREADS = 3
_PLACE = Path("/mnt/disk")
_lock = threading.Lock()


def say(**facts: Any) -> None:
    """Tell the host."""
    with _lock:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


def mounted(disk: str, file_system: str, *options: str) -> Path:
    """Mount a disk and return its state root.

    Raises:
        CalledProcessError: it cannot be mounted.
    """
    _PLACE.mkdir(exist_ok=True)
    run(["modprobe", file_system], check=True)
    for left in reversed(range(_ATTEMPTS)):
        if file_system == "btrfs":  # copies of one file system have one name, by which the kernel takes them for one
            with open("/dev/btrfs-control", "wb") as control:
                fcntl.ioctl(control, _FORGET_DEVICES, bytearray(4096))
        mount = ["mount", "-t", file_system, *options, f"/dev/disk/by-id/virtio-{disk}", str(_PLACE)]
        if run(mount, check=not left).returncode == 0:
            break
        run(["udevadm", "settle"], check=True)  # which registers the copy before this one once more
    return _PLACE / "new/root"


def told(catalog: Catalog, job_id: str) -> list[Any]:
    """Return what is said about a job: status, exit code, and value or code of the error."""
    try:
        job = catalog.status(job_id)
        if job.status != "done":
            return [str(job.status), job.exit_code, None if job.reason is None else str(job.reason)]
        return [str(job.status), job.exit_code, catalog.result(job_id).value]
    except SupervisorError as error:
        return [error.code, None, None]


def wrong(said: list[Any], acknowledged: dict[str, Any]) -> str | None:
    """Return what is wrong with what is said about a job, after what its caller was told."""
    if said[0] == "job_not_found":
        return "unknown"
    if said[0] == "running" or (acknowledged["held"] and said[0] != "queued"):
        return "another state"
    if "ended" in acknowledged and said != acknowledged["ended"]:
        return "another end"
    if said[0] == "done" and said[1:] != [0, acknowledged["value"]]:
        return "a wrong result"
    return None


def check(number: int, plan: dict[str, Any], acknowledged: dict[str, Any]) -> None:
    """Say what is left of the jobs on a disk."""
    size = plan["disk_bytes"]
    found: dict[str, Any] = {}
    try:
        root = mounted("disk0", plan["file_system"], "-o", f"loop,offset={number * size},sizelimit={size}")
    except CalledProcessError:
        say(checked=number, started=len(acknowledged), wrong={"": ["cannot be mounted"]})
        return
    with Catalog(Settings(state_dir=root)) as catalog:
        for job_id, facts in acknowledged.items():
            said = told(catalog, job_id)
            if (why := wrong(said, facts)) is not None:
                found[job_id] = [why, said]
        jobs = catalog.index.count()
    ended = sum("ended" in facts for facts in acknowledged.values())
    say(checked=number, started=len(acknowledged), ended=ended, jobs=jobs, wrong=found)
    run(["umount", str(_PLACE)], check=True)


def work(supervisor: BlockingSupervisor, thread: int) -> None:
    """Start jobs and wait for them; every fifth is to wait for ever."""
    for number in range(1 << 30):
        value, held = f"result {thread} {number}\n" * (1 + 400 * (number % 3 == 1)), number % 5 == 4
        code = 7 if number % 7 == 6 else 0
        job = supervisor.start(["sh", "-c", 'printf %s "$1"; exit $2', "sh", value, str(code)], hold=held)
        say(started=job.job_id, value=value, held=held)
        if held:
            continue
        job = supervisor.wait(job.job_id)
        last = supervisor.result(job.job_id).value if job.status == "done" else str(job.reason)
        say(ended=job.job_id, told=[str(job.status), job.exit_code, last])


def main() -> None:
    """Check the disks of the plan, then begin with the last one."""
    plan = json.loads(Path("plan").read_text(encoding="ascii"))
    for number, acknowledged in enumerate(plan["acknowledged"]):
        check(number, plan, acknowledged)
    say(begins=True)
    if plan["is_last"]:
        return
    settings = Settings(state_dir=mounted("logged", plan["file_system"]), durability=plan["durability"])
    with BlockingSupervisor(settings) as supervisor:
        threads = [threading.Thread(target=work, args=(supervisor, number)) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
