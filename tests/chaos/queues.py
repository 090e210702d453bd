"""Admission under kill -9: an outside oracle counts what runs at a time, and in which order, whatever is killed.

``python tests/chaos/queues.py --rounds 20 --seed 1 [--only ROUND] [--go-on]``. In each round several programs start
jobs: in groups that they share, after other jobs, with delays and priorities. Programs, commands, keepers and the
processes that launch waiting jobs are killed at random and at chosen moments, one by one and all at once. The index is
overwritten or deleted now and then, the wall clock of all is set back and forth by up to a day, and a limit is changed.
One group has a rate, and one is shared fairly among flows. Every job writes a line when it begins
and one when it ends. When all is calm, commands look at the root until all jobs have ended; then ``queue_oracle.py``
judges:

* no group ever ran more weight than its limit at that time, or started more jobs than its rate allows, no job began
  twice, and none that was not launched began;
* every job whose id a program was told has ended, none waits, and each has ended for a reason that is true;
* no job ran before what it was to wait for, and none was ended for a dependency that holds;
* no orders are left on the disk, and the tables of waiting jobs and of slots are empty.

What a round does follows from its seed; what comes of it depends on the timing of the machine as well.
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
import traceback
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trio
from queue_oracle import Groups, LimitChange, Marks, Round, Told

import supervisor

EVERYWHERE = Path(__file__).with_name("everywhere")
PACKAGE = Path(supervisor.__file__).parents[1]
PATIENCE = 120
PROGRAMS = 8
DAY_NS = 86400 * 10**9
LIMITS = {"one": 1, "two": 2, "three": 3}
SETTINGS: dict[str, dict[str, Any]] = {name: {"limit": limit} for name, limit in LIMITS.items()}
SETTINGS["two"]["fair_by"] = "label:flow"
SETTINGS["slow"] = {"rate": "1/s"}
SUPERVISOR = [sys.executable, "-m", "supervisor"]
JOB = """trap 'echo "end $SUPERVISOR_JOB_ID" >> "$0"; exit 143' TERM
read up rest < /proc/uptime
echo "begin $SUPERVISOR_JOB_ID $up" >> "$0"
sleep "$1" & wait
echo "end $SUPERVISOR_JOB_ID" >> "$0"
exit "$2"
"""
LOOP = """for each in {times}; do
{supervisor} start --group {group} -- sh -c "$JOB" {marks} {seconds} 0 >> {told}
done
"""

# ---------------------------------------------------------------- the programs, forked from the driver for speed


class Program:
    """Starts jobs, and notes the id of each."""

    def __init__(self, base: Path, seed: int) -> None:
        self.base = base
        self.chance = random.Random(seed)
        self.told = base / "told"

    def note(self, **facts: Any) -> None:
        descriptor = os.open(self.told, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, (json.dumps(facts) + "\n").encode())
        os.close(descriptor)

    def request(self) -> tuple[list[str], dict[str, Any]]:
        """Return the command and the options of a job."""
        chance = self.chance
        names = chance.sample(sorted(LIMITS), chance.choice([0, 1, 1, 1, 2, 2]))
        options: dict[str, Any] = {"groups": sorted(names), "priority": chance.randint(-1, 1)}
        if names and "one" not in names and chance.random() < 0.2:
            options["weight"] = 2
        if chance.random() < 0.1:
            options["groups"] = sorted([*names, "slow"])
        options["labels"] = {"flow": chance.choice("aab")}
        what = chance.random()
        if what < 0.3 and (there := sorted(Told.read(self.told).ids)):
            others = chance.sample(there, min(len(there), chance.choice([1, 1, 2])))
            options["after"] = [(chance.choice(["ok", "any", "any", "failed", "start"]), each) for each in others]
        elif what < 0.4:
            options["delay_seconds"] = chance.uniform(0, 2)
        elif what < 0.45:
            soon = time.time() + chance.uniform(0, 2)
            options["not_before"] = datetime.fromtimestamp(0, UTC) + timedelta(seconds=soon)
        elif what < 0.5:
            options["hold"] = True
        if chance.random() < 0.1:
            options["start_within_seconds"] = chance.uniform(0.3, 4)
        if chance.random() < 0.1:
            options["stdin"] = b"x" * 1000
        if chance.random() < 0.1:
            options["spool"] = "memory"
        elif chance.random() < 0.2:
            options["retry"] = supervisor.Retry(maximum_attempts=3, initial_interval=0.2, retry_on=("1",))
        code = 1 if chance.random() < 0.15 else 0
        return ["sh", "-c", JOB, str(self.base / "marks"), f"{chance.uniform(0.01, 0.2):.2f}", str(code)], options

    async def start_many(self, sup: supervisor.Supervisor) -> None:
        """Start several jobs at once."""
        asked = [self.request() for _ in range(self.chance.randint(2, 4))]
        specs = [supervisor.JobSpec(argv=argv, **options) for argv, options in asked]
        for job, spec in zip(await self._patiently(sup.start_many, specs), specs, strict=True):
            self.note(id=job.job_id, groups=list(spec.groups), weight=spec.weight)

    async def start(self, sup: supervisor.Supervisor) -> None:
        """Start a job, and now and then end, move or release one."""
        chance = self.chance
        argv, options = self.request()
        job = await self._patiently(sup.start, argv, **options)
        self.note(id=job.job_id, groups=options["groups"], weight=options.get("weight", 1))
        if chance.random() < 0.1:
            with contextlib.suppress(supervisor.JobRunning, supervisor.InvalidArguments):  # it waits no more
                await self._change_place(sup, chance.choice(sorted(Told.read(self.told).ids)))
        if chance.random() < 0.1:
            self.note(cancelling=job.job_id)
            await self._patiently(sup.cancel, job.job_id)
        elif options.get("hold") and chance.random() < 0.7:
            await trio.sleep(chance.uniform(0, 0.3))
            with contextlib.suppress(supervisor.JobRunning, supervisor.InvalidArguments):  # another one was faster
                await self._patiently(sup.release, job.job_id)
        if chance.random() < 0.05:
            name = chance.choice(sorted(LIMITS))
            await self._patiently(sup.pause_group, name)
            await trio.sleep(chance.uniform(0, 0.3))
            await self._patiently(sup.resume_group, name)

    async def _change_place(self, sup: supervisor.Supervisor, job_id: str) -> None:
        """Hold, release or move a job, which may be another program's."""
        what = self.chance.choice(["hold", "release", "first", "priority"])
        if what in {"hold", "release"}:
            await self._patiently(getattr(sup, what), job_id)
        else:
            await self._patiently(sup.move, job_id, **{what: True if what == "first" else 5})

    @staticmethod
    async def _patiently(ask: Any, *args: Any, **named: Any) -> Any:
        while True:
            try:
                return await ask(*args, **named)
            except supervisor.SupervisorError as error:
                keeper_killed = isinstance(error, supervisor.LaunchFailed)  # that was to hold the orders in memory
                if not (error.retryable or keeper_killed):
                    raise
                await trio.sleep(0.1)

    async def main(self, jobs: int) -> None:
        """Leave at once after the last start, or wait a little, as programs do."""
        chance = self.chance
        async with supervisor.open_supervisor() as sup:
            for _ in range(jobs):
                await (self.start if chance.random() < 0.9 else self.start_many)(sup)
                await trio.sleep(chance.uniform(0, 0.05))
            if chance.random() < 0.5:
                await trio.sleep(chance.uniform(0, 1))


@dataclass
class Child:
    """A process of the driver, which leads a process group."""

    pid: int
    kind: str
    ended: bool = False
    status: int | None = None

    def lives(self) -> bool:
        if not self.ended:
            pid, self.status = os.waitpid(self.pid, os.WNOHANG)
            self.ended = pid != 0
        return not self.ended

    def end(self) -> None:
        if self.lives():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.ended = True


def fork(base: Path, number: int, seed: int, jobs: int) -> Child:
    """Run a program in a process of its own."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        return Child(pid, "supervisor")
    status = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        errors = os.open(base / f"{number}.err", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(errors, 2)
        sys.path.append(str(EVERYWHERE))
        everywhere().take_part(str(base))
        trio.run(Program(base, seed).main, jobs)
        status = 0
    except BaseException:  # noqa: BLE001  # a forked child must never return into the driver
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def spawn(base: Path, kind: str, argv: list[str]) -> Child:
    """Run a command line."""
    with (base / f"{kind}.err").open("ab") as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, process_group=0
        )
    process.returncode = 0  # this module reaps it
    return Child(process.pid, kind)


def uptime() -> float:
    """Return the time of the marks: since boot, which no clock that is set changes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def everywhere() -> Any:
    """Return the module that is part of every process."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("everywhere", EVERYWHERE / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- the driver


def processes_of(root: str, word: bytes) -> list[int]:
    """Return the processes whose command line has the word, and whose command line or environment names the root."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path("/proc", name, "cmdline").read_bytes()
            if word in command and root.encode() in command + Path("/proc", name, "environ").read_bytes():
                found.append(int(name))
    return found


@dataclass
class Stage:
    """A round while it is played."""

    base: Path
    chance: random.Random
    kills: Counter[str]
    children: list[Child] = field(default_factory=list)
    changes: list[LimitChange] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.base / "root"

    def keepers(self) -> list[int]:
        return processes_of(str(self.root), b"keeper/entry.py")

    def helpers(self) -> list[int]:
        return processes_of(str(self.root), b"launch-waiting")

    def living(self, kind: str | None = None) -> list[Child]:
        return [each for each in self.children if kind in {None, each.kind} and each.lives()]

    def kill(self, pids: list[int], what: str) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills[what] += 1

    def _some(self, pids: list[int]) -> list[int]:
        return [self.chance.choice(pids)] if pids else []

    def disturb(self) -> None:
        """Kill a process, or all; damage the index; set the clock."""
        deeds = {
            self._kill_child: 30,
            lambda: self.kill(self._some(self.keepers()), "keeper"): 18,
            lambda: self.kill(self._some(self.helpers()), "helper"): 18,
            self.kill_all: 4,
            self._harm_index: 8,
            self._set_clock: 12,
            self._change_limit: 8,
            self._look: 14,
        }
        self.chance.choices(list(deeds), list(deeds.values()))[0]()

    def _kill_child(self) -> None:
        if living := self.living():
            child = self.chance.choice(living)
            self.kills[child.kind] += 1
            child.end()

    def kill_all(self) -> None:
        """Kill every process of ours at once; the jobs run on."""
        for child in self.living():
            self.kills[child.kind] += 1
            child.end()
        self.kill(self.helpers(), "helper")
        self.kill(self.keepers(), "keeper")
        self.kills["(all at once)"] += 1

    def _harm_index(self) -> None:
        index = self.root / "registry.db"
        if self.chance.random() < 0.6:
            if index.exists():
                index.write_bytes(b"damaged" * 500)
                self.kills["(index damaged)"] += 1
        else:
            for name in self.chance.choice([[""], ["", "-wal", "-shm"]]):
                Path(f"{index}{name}").unlink(missing_ok=True)
            self.kills["(index deleted)"] += 1

    def _set_clock(self) -> None:
        everywhere().set_clock(str(self.base), self.chance.randint(-DAY_NS, DAY_NS))
        self.kills["(clock set)"] += 1

    def _change_limit(self) -> None:
        """Give a group another limit, with a command that is killed now and then."""
        limit, begun = self.chance.choice([2, 3, 4]), uptime()
        child = spawn(self.base, "group", [*SUPERVISOR, "group", "set", "three", "--limit", str(limit)])
        give_up = time.monotonic() + (self.chance.uniform(0, 1) if self.chance.random() < 0.3 else PATIENCE)
        while child.lives() and time.monotonic() < give_up:
            time.sleep(0.01)
        is_certain = child.ended and child.status == 0
        self.changes.append(LimitChange(limit, begun, uptime() if is_certain else None))
        if not child.ended:
            self.kills[child.kind] += 1
            child.end()

    def _look(self) -> None:
        self.children.append(spawn(self.base, "look", [*SUPERVISOR, "list", "--all", "--json"]))

    def play(self, seed: int) -> None:
        """Start the programs, and disturb them."""
        chance = self.chance
        for number in range(PROGRAMS - 1):
            self.children.append(fork(self.base, number, seed * 100 + number, chance.randint(3, 9)))
            time.sleep(chance.uniform(0, 0.15))
        words = {"times": "1 2 3 4 5", "supervisor": " ".join(SUPERVISOR), "group": chance.choice(sorted(LIMITS))}
        words |= {"marks": self.base / "marks", "seconds": "0.1", "told": self.base / "told"}
        self.children.append(spawn(self.base, "loop", ["sh", "-c", LOOP.format(**words)]))
        for _ in range(chance.randint(8, 20)):
            time.sleep(chance.uniform(0.02, 0.3))
            self.disturb()
        if chance.random() < 0.5:
            self.kill_all()
        for child in self.children:
            give_up = time.monotonic() + chance.uniform(0, 2)
            while child.lives() and time.monotonic() < give_up:
                time.sleep(0.01)
            child.end()
        (self.base / "calm").touch()
        everywhere().set_clock(str(self.base), 2 * DAY_NS)  # later than any time that a job may wait for

    def _command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*SUPERVISOR, *words], capture_output=True, check=False, timeout=PATIENCE)

    def finish(self) -> str | None:
        """Have commands look at the root now and then, as a person does, until all jobs have ended."""
        for name in SETTINGS:
            self._command("group", "resume", name)
        give_up = time.monotonic() + PATIENCE
        left: list[Any] = []
        is_calm = False
        while time.monotonic() < give_up:
            listed = self._command("list", "--all", "--limit", "1000", "--json")
            if listed.returncode == 0:
                jobs = json.loads(listed.stdout)["jobs"]
                left = [job for job in jobs if job["status"] in {"queued", "running"}]
                if not left and is_calm:
                    return None
                is_calm = not left  # a list that records an end does not show the next attempt
                if held := [job["job_id"] for job in left if job["queue_reason"] == "held"]:
                    self._command("release", *held)
            time.sleep(0.5)
        for pid in self.helpers():
            os.kill(pid, signal.SIGUSR2)
        time.sleep(1)  # it writes its stacks
        return f"{len(left)} jobs are left: {[(job['job_id'], job['status'], job['queue_reason']) for job in left][:5]}"

    def errors(self) -> list[str]:
        """Return what went wrong in the programs, by itself."""
        found = []
        for path in self.base.glob("*.err"):
            text = path.read_text(errors="replace")
            if "Traceback" in text:
                found.append(f"{path.name}: {text[-2000:]}")
        log = self.base / "log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        found += [line for line in lines if "job_actor_failed" in line or "Traceback" in line]
        return found

    def close(self) -> None:
        for child in self.children:
            child.end()
        for pid in [*self.helpers(), *self.keepers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def play(seed: int, kills: Counter[str], reasons: Counter[str]) -> list[str]:
    """Play one round; return what is wrong."""
    base = Path(tempfile.mkdtemp(prefix=f"queues-{seed}-"))
    (base / "clock").write_bytes(bytes(8))
    before = dict(os.environ)
    os.environ.update(
        SUPERVISOR_STATE_DIR=str(base / "root"),
        SUPERVISOR_STOP_GRACE_SECONDS="5",
        SUPERVISOR_JOB_TTL="10000000",
        JOB=JOB,
        PYTHONPATH=os.pathsep.join([str(EVERYWHERE), str(PACKAGE)]),
        QUEUES_SEED=str(seed),
    )
    os.chdir(base)
    stage = Stage(base, random.Random(seed), kills)

    async def prepare() -> None:
        async with supervisor.open_supervisor() as sup:
            for name, settings in SETTINGS.items():
                await sup.set_group(name, **settings)

    begun = uptime()
    trio.run(prepare)
    os.environ["QUEUES_BASE"] = str(base)
    try:
        stage.play(seed)
        left = stage.finish()
        groups = Groups(LIMITS, {"three": stage.changes}, {"slow": (1, 1.0)}, begun)
        judged = Round(stage.root, groups, Told.read(base / "told"), Marks.read(base / "marks"), reasons)
        wrong = [left] if left else judged.judge()
        wrong += stage.errors()
    finally:
        stage.close()
        os.chdir("/")
        os.environ.clear()
        os.environ.update(before)
    if (base / "kills").exists():
        kills.update((base / "kills").read_text().splitlines())
    if wrong:
        sys.stdout.write("\n  ".join([f"round {seed}: kept in {base}", *wrong]) + "\n")
        sys.stdout.flush()
    else:
        shutil.rmtree(base, ignore_errors=True)
    return wrong


def check() -> None:
    """Raise an error for a point that is missing."""
    module = everywhere()
    for path, name, _ in module.POINTS:
        owner, attribute = module.owner_of(path, name)
        getattr(owner, attribute)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, default=None, help="play this round of the seed only")
    parser.add_argument("--go-on", action="store_true", help="count broken rounds instead of ending at the first")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end the processes of the round
    check()
    kills: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    begun = time.monotonic()
    played = broken = 0
    try:
        for number in range(given.rounds) if given.only is None else [given.only]:
            played += 1
            broken += bool(play(given.seed * 1000 + number, kills, reasons))
            if broken and not given.go_on:
                break
    finally:
        took = time.monotonic() - begun
        killed = sum(number for what, number in kills.items() if not what.startswith("("))
        line = f"seed {given.seed}: {played} rounds in {took:.0f} s, {broken} broken; {killed} kills: {dict(kills)}"
        sys.stdout.write(f"{line}\nends of jobs: {dict(reasons)}\n")
    if reasons["exited"] < reasons.total() / 4:
        sys.stdout.write("too few jobs have run: these rounds show nothing\n")
        return 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
