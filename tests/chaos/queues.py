"""Groups under kill -9: an outside oracle counts what runs at a time, whatever is killed.

``python tests/chaos/queues.py --rounds 20 --seed 1``. In each round several programs start jobs in groups that they
share. Programs, keepers and the processes that launch waiting jobs are killed at random, and the index is overwritten
now and then. Every job writes a line when it begins and one when it ends. Then a last supervisor is opened, and:

* no group ever ran more weight than its limit;
* no job began twice, and none that was not launched began;
* every job whose id a program was told has ended, and none waits;
* the counters of every group are 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import trio

import supervisor
from supervisor.jobs.catalog import Catalog

PATIENCE = 90
LIMITS = {"one": 1, "two": 2, "three": 3}
JOB = 'echo "begin $SUPERVISOR_JOB_ID" >> "$0"; sleep "$1"; echo "end $SUPERVISOR_JOB_ID" >> "$0"'


async def program(seed: int, marks: str, told: str, jobs: int) -> None:
    """Start jobs and note the id of each; leave in the middle of it now and then."""
    chance = random.Random(seed)
    async with supervisor.open_supervisor() as sup:
        for _ in range(jobs):
            names = chance.sample(sorted(LIMITS), chance.choice([1, 1, 2]))
            weight = 2 if "one" not in names and chance.random() < 0.2 else 1
            argv = ["sh", "-c", JOB, marks, f"{chance.uniform(0.01, 0.2):.2f}"]
            job = await sup.start(argv, groups=names, weight=weight, priority=chance.randint(-1, 1))
            line = json.dumps({"id": job.job_id, "groups": sorted(names), "weight": weight}) + "\n"
            descriptor = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(descriptor, line.encode())
            os.close(descriptor)
            if chance.random() < 0.1:
                await sup.cancel(job.job_id)
            await trio.sleep(chance.uniform(0, 0.05))
        if chance.random() < 0.5:
            await trio.sleep(chance.uniform(0, 1))


def processes_of(root: str, *words: bytes) -> list[int]:
    """Return the processes whose command line or environment names the root, and whose command line has the words."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path("/proc", name, "cmdline").read_bytes()
            environment = Path("/proc", name, "environ").read_bytes()
            if root.encode() in command + environment and all(word in command for word in words):
                found.append(int(name))
    return found


def kill(pids: list[int], chance: random.Random, kills: Counter[str], what: str) -> None:
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(pids), signal.SIGKILL)
            kills[what] += 1


def disturb(root: Path, started: list[subprocess.Popen[bytes]], chance: random.Random, kills: Counter[str]) -> None:
    """Kill one of the processes, or damage the index."""
    what = chance.random()
    if what < 0.45:
        kill([each.pid for each in started if each.poll() is None], chance, kills, "supervisor")
    elif what < 0.75:
        kill(processes_of(str(root), b"keeper/entry.py"), chance, kills, "keeper")
    elif what < 0.93:
        kill(processes_of(str(root), b"launch-waiting"), chance, kills, "helper")
    elif (root / "registry.db").exists():
        (root / "registry.db").write_bytes(b"damaged" * 500)
        kills["index"] += 1


def wait_for_all(root: Path) -> str | None:
    """Have a command look at the root now and then, as a person does, until no job of a group is left."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        listed = subprocess.run(
            [sys.executable, "-m", "supervisor", "list", "--all", "--limit", "1000", "--json"],
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        if listed.returncode == 0:
            jobs = json.loads(listed.stdout)["jobs"]
            if all(job["status"] not in {"queued", "running"} for job in jobs):
                return None
        time.sleep(0.5)
    with Catalog(supervisor.Settings(state_dir=root)) as catalog:
        left = [job for job in catalog.list(limit=1000).jobs if not job.status.terminal]
        return f"{len(left)} jobs are left: {[(job.job_id, job.status.value, job.queue_reason) for job in left][:5]}"


def was_stopped_before(job: supervisor.Job, other: supervisor.Job) -> bool:
    """Whether a job that writes no line at its end, since it was stopped, had ended when the other one began."""
    if job.status == "done" or job.completed_at is None or other.started_at is None:
        return False
    return job.completed_at <= other.started_at


def judge(root: Path, marks: Path, told: Path) -> list[str]:
    """Return what is wrong."""
    wrong: list[str] = []
    lines = told.read_text().splitlines() if told.exists() else []
    jobs: dict[str, Any] = {each["id"]: each for each in map(json.loads, lines)}
    with Catalog(supervisor.Settings(state_dir=root)) as catalog:
        ends = {}
        for row in catalog.index.page(limit=1000):
            ends[row.job_id] = catalog.status(row.job_id)
            held = catalog.index.get(row.job_id)
            assert held is not None
            known = {"groups": list(held.request["groups"]), "weight": held.request["weight"]}
            jobs.setdefault(row.job_id, {"id": row.job_id, **known})
        wrong += [f"{job_id} is lost: there is no such job" for job_id in jobs if job_id not in ends]
        for name in LIMITS:
            counts = catalog.index.read_queue(lambda queue, name=name: queue.counts(name))  # type: ignore[misc]
            if counts.running or counts.waiting:
                wrong.append(f"group {name} still counts {counts}")
    begun: Counter[str] = Counter()
    alive: set[str] = set()
    for line in marks.read_text().splitlines() if marks.exists() else ():
        what, job_id = line.split()
        if job_id not in ends:
            wrong.append(f"{job_id} ran, and there is no such job")
            continue
        if what == "end":
            alive.discard(job_id)
            continue
        begun[job_id] += 1
        alive -= {each for each in alive if was_stopped_before(ends[each], ends[job_id])}
        alive.add(job_id)
        for name, limit in LIMITS.items():
            weight = sum(jobs[each]["weight"] for each in alive if name in jobs[each]["groups"])
            if name in jobs[job_id]["groups"] and weight > limit:
                wrong.append(f"group {name} ran {weight} at a time, of {limit}: {sorted(alive)}")
    wrong += [f"{job_id} began {times} times" for job_id, times in begun.items() if times > 1]
    for job_id, end in ends.items():
        if end.status == "done" and not begun[job_id]:
            wrong.append(f"{job_id} is done and never began")
        if end.reason == "launch_failed" and begun[job_id]:
            wrong.append(f"{job_id} was launched, and counts as not launched")
    return wrong


def play(seed: int, kills: Counter[str]) -> list[str]:
    """Play one round; return what is wrong."""
    chance = random.Random(seed)
    base = Path(tempfile.mkdtemp(prefix="queues-"))
    root, marks, told = base / "root", base / "marks", base / "told"
    os.environ["SUPERVISOR_STATE_DIR"] = str(root)
    os.environ["SUPERVISOR_STOP_GRACE_SECONDS"] = "0.3"
    os.chdir(base)

    async def prepare() -> None:
        async with supervisor.open_supervisor() as sup:
            for name, limit in LIMITS.items():
                await sup.set_group(name, limit=limit)

    trio.run(prepare)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(chance.randint(2, 5)):
            words = ["--program", str(seed * 100 + number), str(marks), str(told), str(chance.randint(3, 10))]
            started.append(subprocess.Popen([sys.executable, __file__, *words], stderr=subprocess.DEVNULL))
            time.sleep(chance.uniform(0, 0.4))
            disturb(root, started, chance, kills)
        for _ in range(chance.randint(2, 8)):
            time.sleep(chance.uniform(0.05, 0.5))
            disturb(root, started, chance, kills)
        for each in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.wait(chance.uniform(0, 3))
            each.kill()
            each.wait()
        left = wait_for_all(root)
        wrong = [left] if left else judge(root, marks, told)
    finally:
        for each in started:
            each.kill()
        for pid in [*processes_of(str(root), b"launch-waiting"), *processes_of(str(root), b"keeper/entry.py")]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.chdir("/")
    if wrong:
        sys.stdout.write("\n  ".join([f"seed {seed}: kept in {base}", *wrong]) + "\n")
        sys.stdout.flush()
    else:
        shutil.rmtree(base, ignore_errors=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--program", nargs=4)
    given = parser.parse_args()
    if given.program:
        seed, marks, told, jobs = given.program
        trio.run(program, int(seed), marks, told, int(jobs))
        return 0
    kills: Counter[str] = Counter()
    begun = time.monotonic()
    broken = sum(bool(play(given.seed * 1000 + number, kills)) for number in range(given.rounds))
    took = time.monotonic() - begun
    summary = f"seed {given.seed}: {given.rounds} rounds in {took:.0f} s, {broken} broken; kills: {dict(kills)}"
    sys.stdout.write(summary + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
