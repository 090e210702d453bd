"""The driver of chaos: ``python driver.py --rounds 300 [--scarce] [--seed S] [--only ROUND] [--point NAME]``.

Each round has a state root of its own. On it several programs start, query, cancel, consume and prune jobs,
while the driver kills them, their keepers, or the jobs, at random moments and at failpoints
(``points.py``). Then two fresh processes report what is on record, and ``oracle.py`` compares that with the marks
that the commands left. The actions of a round follow from the seed alone; the result
also depends on the timing of the machine, which is the purpose.

With ``--scarce`` descriptors, memory and disk also run out, at random moments and for a while, in supervisors,
clients and keepers (``scarcity.py``). The same oracle judges.

The driver is a subreaper, so it is the parent of orphans of killed keepers, whether it reaps them at once or late.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = sys.argv[sys.argv.index("--package") + 1] if "--package" in sys.argv else str(Path(__file__).parents[2])
sys.path[:0] = [str(Path(__file__).parent), PACKAGE]  # tests the package of this checkout, installed or not

import commands  # noqa: E402  # found by the path above
import points  # noqa: E402  # found by the path above
import programs  # noqa: E402  # found by the path above
import scarcity  # noqa: E402  # found by the path above
from oracle import Broken, Facts, read_lines  # noqa: E402  # found by the path above

_TICK_SECONDS = 0.004
_PATIENCE_SECONDS = 15.0
_PR_SET_CHILD_SUBREAPER = 36
# Python's messages for a lack of memory, in its own code or for a thread's stack; its host may end from that.
_NO_MEMORY = (
    "MemoryError",
    "can't start new thread",
    "error return without exception set",
    "failed to map segment",
    "Cannot allocate memory",
)
THEMES = frozenset({"forget", "trash", "stop", "exit", "adopt", "rule"})


class Program:
    """A program of a round."""

    def __init__(self, name: str, pid: int, leave: int | None = None) -> None:
        self.name = name
        self.pid = pid
        self.leave = leave
        self.status: int | None = None
        self.tokens: list[str] = []
        self.then: Callable[[Program], None] | None = None

    @property
    def alive(self) -> bool:
        return self.status is None


class Round:
    """One round, from an empty state root to the verdict."""

    def __init__(self, seed: int, number: int, directory: Path, point: str | None, *, scarce: bool = False) -> None:
        self.rng = random.Random(f"{seed}.{number}")
        self.directory = directory
        self.root = directory / "state"
        self.marks = directory / "marks"
        self.marks.mkdir(parents=True)
        self.root.mkdir(mode=0o700)
        self.scarce = scarce
        self.disk = scarcity.SmallDisk(self.root) if scarce and self.rng.random() < 0.4 else None
        os.environ.update(
            CHAOS_MARKS=str(self.marks),
            CHAOS_ROOT=str(self.root),
            SUPERVISOR_STATE_DIR=str(self.root),
            SUPERVISOR_STOP_GRACE_SECONDS=str(commands.GRACE_SECONDS),
        )
        self.programs: list[Program] = []
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.kills: Counter[str] = Counter()
        self.begin = time.monotonic()
        self.leaders: dict[str, int] = {}
        self.lazy = self.rng.random() < 0.3
        # Each failpoint in turn, in an order from the seed, with purely random rounds between them.
        instants: list[str | None] = [*points.SUPERVISOR, *points.KEEPER]
        instants += [None] * (len(instants) // 4)
        random.Random(seed).shuffle(instants)
        self.point = point or instants[number % len(instants)]
        self.newer = self.rng.random() < 0.2 or (self.point or "").startswith("migrate.")
        knows = tuple(map(int, platform.release().split("-")[0].split(".")[:2])) >= (6, 15)
        self.facts = Facts(self.root, self.marks, {}, knows_statuses=knows)
        self.story: list[str] = []
        self.done = False

    # ------------------------------------------------------------ the plan

    def plan(self) -> None:
        """Decide the actions and their times."""
        rng = self.rng
        hosts = rng.choice((1, 2, 2))
        self.armed_share = rng.choice((0.5, 1.0))
        shared: list[commands.Command] = []
        for number in range(hosts):
            made = [self.make() for _ in range(rng.randint(2, 4))]
            shared += [command for command in made if command.key is not None]
            if number and shared and rng.random() < 0.5:
                made.append(rng.choice(shared))
            tasks = [
                (
                    command,
                    rng.uniform(0, 0.25),
                    rng.choice(("leave", "leave", "wait", "wait", "cancel", "consume")),
                    rng.choice((0, rng.uniform(0, 0.3))),
                )
                for command in made
            ]
            self.host_at(rng.choice((0.0, rng.uniform(0, 0.1))), f"host{number}", tasks)
        for number in range(rng.randint(1, 3)):
            command = rng.choice(shared) if shared and rng.random() < 0.4 else self.make()
            self.client_at(rng.uniform(0, 0.3), f"start{number}", command)
        theme = (self.point or "").partition(".")[0]
        whats = ("cancel", "cancel", "status", "result", "consume", "prune", "wait", "list")
        if theme in {"forget", "trash"}:
            whats = ("consume", "prune", "prune")
        elif theme in {"stop", "keeper"}:
            whats = ("cancel", "cancel", "cancel", "status")
        for number in range(rng.randint(2, 4) if theme in THEMES else rng.randint(1, 4)):
            what = rng.choice(whats)
            self.ask_at(rng.uniform(0.3 if theme in THEMES else 0.1, 0.6), f"{what}{number}", what)
        if self.point in points.ORPHANS:
            for _ in range(3):
                self.at(rng.uniform(0.1, 0.35), lambda: self.strike("keeper"))
        for _ in range(rng.choice((0, 1, 1, 2, 3) if self.point else (1, 2, 3))):
            victim = rng.choice(("supervisor", "supervisor", "client", "keeper", "keeper", "both", "pause", "job"))
            self.at(rng.uniform(0.02, 0.6), lambda victim=victim: self.strike(victim))
        for _ in range(rng.randint(3, 6) if self.scarce else 0):
            self.at(rng.uniform(0.02, 0.6), self.squeeze)
        if rng.random() < (1.0 if self.point in points.HEALING else 0.08):
            how = rng.choice(("zero", "truncate", "garbage", "gone", "header"))
            self.at(rng.uniform(0.1, 0.3), lambda: self.damage(how))
        if rng.random() < 0.4:
            self.host_at(rng.uniform(0.25, 0.5), "successor", [], adopts=True)
        self.until = rng.uniform(0.55, 0.8)

    def make(self) -> commands.Command:
        """Return a command; on a small disk one without output, which could be cut short there."""
        while True:
            command = commands.make(self.rng)
            if self.disk is None or not command.output:
                return command

    def at(self, when: float, action: Callable[[], None]) -> None:
        self.due.append((when, len(self.due), action))
        self.due.sort()

    def armed(self, number: int = 1) -> list[dict[str, Any]]:
        """Return the plan for a program or its keeper; the first host may have to prepare the point."""
        if number == 0 and self.point in points.PREPARED_BY:
            return [{"point": points.PREPARED_BY[self.point], "nth": self.rng.choice((1, 2)), "do": "both"}]
        if self.point is None or self.rng.random() > self.armed_share:
            return []
        do = self.rng.choice(("self", "self", "both", "peer", "pause"))
        nth = self.rng.choice((1, 2, 5, 8, 10) if self.point == "migrate.statement" else (1, 1, 1, 1, 2, 3))
        return [{"point": self.point, "nth": nth, "do": do, "seconds": self.rng.choice((0.02, 0.1, 0.3))}]

    def know(self, command: commands.Command) -> None:
        self.facts.commands[command.token] = command

    def host_at(self, when: float, name: str, tasks: list[Any], *, adopts: bool = False) -> None:
        plan = self.armed(0 if name == "host0" else 1)
        newer = self.newer and self.rng.random() < 0.5
        for task in tasks:
            self.know(task[0])

        def start() -> None:
            reading, writing = os.pipe()
            os.set_inheritable(reading, False)
            pid = self.fork(plan, name, programs.host(self.root, reading, tasks, adopts=adopts), newer=newer)
            os.close(reading)
            program = Program(name, pid, writing)
            program.tokens = [task[0].token for task in tasks]
            self.programs.append(program)

        self.at(when, start)

    def client_at(self, when: float, name: str, command: commands.Command) -> None:
        self.know(command)
        plan = self.armed()
        newer = self.newer and self.rng.random() < 0.5
        words = programs.starting(command, self.directory / f"{name}.stdin")

        def start() -> None:
            program = Program(name, self.fork(plan, name, programs.cli(*words), newer=newer))
            program.tokens = [command.token]
            program.then = self.started
            self.programs.append(program)

        self.at(when, start)

    def ask_at(self, when: float, name: str, what: str) -> None:
        plan = self.armed()
        pick = self.rng.random()

        def start() -> None:
            self.read_logs()
            acked = [ack["job_id"] for acks in self.facts.acked.values() for ack in acks]
            if not acked and what not in {"prune", "list"}:
                return
            endless = [
                ack["job_id"]
                for token, acks in self.facts.acked.items()
                for ack in acks
                if self.facts.commands[token].end is None and token not in self.facts.ended
            ]
            if what == "cancel" and endless:
                acked = endless
            job_id = acked[int(pick * len(acked))] if acked else ""
            if what == "cancel":
                self.facts.cancelled.add(job_id)
            elif what == "consume":
                self.facts.forgetting.add(job_id)
            elif what == "prune":
                self.facts.pruned = True
            words = {
                "cancel": ("cancel", "--json", job_id),
                "status": ("status", "--json", job_id),
                "result": ("result", "--json", job_id),
                "consume": ("result", "--json", "--consume", job_id),
                "prune": ("prune", "--all", "--json"),
                "wait": ("wait", "--json", "--timeout", "0.5", job_id),
                "list": ("list", "--all", "--json"),
            }[what]
            os.environ["SUPERVISOR_JOB_MAX_COUNT"] = "0" if what == "prune" else "1000"
            program = Program(name, self.fork(plan, name, programs.cli(*words)))
            os.environ["SUPERVISOR_JOB_MAX_COUNT"] = "1000"
            program.then = lambda ended: self.asked(ended, what, job_id)
            self.programs.append(program)

        self.at(when, start)

    def fork(
        self,
        plan: list[dict[str, Any]],
        name: str,
        body: Callable[[programs.Log], int],
        *,
        newer: bool = False,
    ) -> int:
        self.tell(f"{name} starts" + (f", armed with {plan}" if plan else "") + (", newer" if newer else ""))
        return programs.fork(plan, self.directory, name, body, newer=newer)

    def tell(self, text: str) -> None:
        self.story.append(f"{time.monotonic() - self.begin:6.3f} {text}")

    # ------------------------------------------------------------ what programs said

    def started(self, program: Program) -> None:
        """Take the id from the output of ``supervisor start``: from then on the job is acknowledged."""
        with contextlib.suppress(OSError, ValueError, KeyError):  # killed before it could print
            said = json.loads((self.directory / f"{program.name}.out").read_text())
            said = said.get("job", said)
            acks = self.facts.acked.setdefault(program.tokens[0], [])
            acks.append({"job_id": said["job_id"], "status": said["status"], "reason": said["reason"]})

    def asked(self, program: Program, what: str, job_id: str) -> None:
        if not program.status or not os.WIFSIGNALED(program.status):
            with contextlib.suppress(OSError, ValueError):
                said = json.loads((self.directory / f"{program.name}.out").read_text())
                event = {"job_id": job_id, "by": program.name}
                if what in {"cancel", "status"} and said.get("ok"):
                    event |= {"status": said["status"], "code": said["exit_code"], "signal": said["signal"]}
                    left = programs.processes_of(said["argv"][-1]) if what == "cancel" else []
                    self.facts.events.append({"event": "cancelled", "left": left, **event})
                elif what == "consume" and (said.get("ok") or said.get("error", {}).get("code", "").startswith("job_")):
                    code = said.get("error", {}).get("code")
                    if code not in {"job_not_found", "job_running"}:
                        self.facts.events.append({"event": "consumed", **event})

    def read_logs(self) -> None:
        """Read the reports of supervisors so far."""
        known = {(ack["job_id"], ack.get("by")) for acks in self.facts.acked.values() for ack in acks}
        for program in self.programs:
            for event in read_lines(self.directory / f"{program.name}.log"):
                if event["event"] == "acked" and (event["job_id"], program.name) not in known:
                    known.add((event["job_id"], program.name))
                    self.facts.acked.setdefault(event["token"], []).append({**event, "by": program.name})

    # ------------------------------------------------------------ what happens to them

    def kill(self, kind: str, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.facts.killed.add(pid)
            self.kills[kind] += 1
            self.tell(f"killed {kind} {pid}")

    def strike(self, victim: str) -> None:
        hosts = [program for program in self.programs if program.alive and program.leave is not None]
        clients = [program for program in self.programs if program.alive and program.leave is None]
        keepers = sorted(points.keepers(str(self.root)))
        if victim in {"supervisor", "both"} and hosts:
            host = self.rng.choice(hosts)
            if victim == "both":
                for pid in points.keepers(str(self.root), host.pid):
                    self.kill("keeper", pid)
            self.kill("supervisor", host.pid)
        elif victim == "client" and clients:
            self.kill("client", self.rng.choice(clients).pid)
        elif victim == "keeper" and keepers:
            self.kill("keeper", self.rng.choice(keepers))
        elif victim == "pause" and hosts + keepers:
            pid = self.rng.choice([*(program.pid for program in hosts + clients), *keepers])
            seconds = self.rng.choice((0.05, 0.2, 0.4))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self.facts.paused += seconds
                self.facts.held[pid] = self.facts.held.get(pid, 0) + seconds
                self.tell(f"paused {pid} for {seconds} s")
                self.kills["pause"] += 1
                self.at(time.monotonic() - self.begin + seconds, lambda: self.resume(pid))
        elif victim == "job" and self.leaders:
            token = self.rng.choice(sorted(self.leaders))
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.leaders[token], signal.SIGKILL)
                self.facts.shot.add(token)
                self.kills["job"] += 1
                self.tell(f"shot the leader of {token}")

    def squeeze(self) -> None:
        """Take descriptors, memory or disk away for a while."""
        what = self.rng.choice(("descriptors", "descriptors", "memory", "disk" if self.disk else "descriptors"))
        seconds = self.rng.choice((0.02, 0.1, 0.3, 0.6))
        if what == "disk" and self.disk:
            give_back = self.disk.fill(inodes=self.rng.random() < 0.3)
            who = "the state root"
        else:
            keepers = sorted(points.keepers(str(self.root)))
            logs = {program.pid: self.directory / f"{program.name}.log" for program in self.programs if program.alive}
            pids = [*(pid for pid, log in logs.items() if log.exists()), *keepers]  # those that are active
            if not pids:
                return
            pid = self.rng.choice(pids)
            who = f"{'keeper' if pid in keepers else 'program'} {pid}"
            self.facts.squeezed.add(pid)
            if what == "memory":
                self.facts.starved.add(pid)
            give_back = scarcity.squeeze(what, pid, spare=self.rng.choice((0, 0, 1, 3)))
        self.kills[f"{what} out"] += 1
        self.tell(f"no more {what} in {who} for {seconds} s")

        def ease() -> None:
            give_back()
            self.tell(f"{what} back in {who}")

        self.at(time.monotonic() - self.begin + seconds, ease)

    @staticmethod
    def resume(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def damage(self, how: str) -> None:
        path = self.root / "registry.db"
        if not path.exists():
            return
        self.tell(f"registry damaged: {how}")
        self.kills["registry"] += 1
        if how == "gone":
            path.unlink()
            return
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if how == "zero":
                file.write(bytes(size))
            elif how == "truncate":
                file.truncate(size // 2)
            elif how == "header":
                file.write(b"not a database at all")
            else:
                file.write(self.rng.randbytes(size))

    def pump(self) -> None:
        """Let a moment pass: start programs that are due, notice processes that have ended."""
        time.sleep(_TICK_SECONDS)
        now = time.monotonic()
        while self.due and self.due[0][0] <= now - self.begin:
            self.due.pop(0)[2]()
        for program in self.programs:
            if program.alive:
                with contextlib.suppress(ChildProcessError):
                    pid, status = os.waitpid(program.pid, os.WNOHANG)
                    if pid:
                        self.ended(program, status)
        if not self.lazy:
            self.reap_orphans()
        for token, command in self.facts.commands.items():
            if token not in self.facts.begun and command.end != ("launch", 127):
                self.look_for_begin(token)
        if self.leaders:
            self.look_for_ends()

    def ended(self, program: Program, status: int) -> None:
        program.status = status
        how = f"killed by {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        self.tell(f"{program.name} ({program.pid}) ended: {how}")
        if program.leave is not None:
            os.close(program.leave)
            for token in program.tokens:
                self.facts.lives[token] = max(self.facts.lives.get(token, 0.0), time.monotonic())
        if program.then is not None:
            program.then(program)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) == 70:
            text = (self.directory / f"{program.name}.err").read_text()[-6000:]
            if program.pid in self.facts.starved and (not text or any(each in text for each in _NO_MEMORY)):
                self.tell(f"{program.name} ended for want of memory")
                return
            message = f"{program.name} crashed:\n{text}"
            raise Broken(message)

    def reap_orphans(self) -> None:
        own = {program.pid for program in self.programs if program.alive}
        with contextlib.suppress(ChildProcessError):
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None or found.si_pid in own:
                    return  # a program, which ``pump`` awaits
                os.waitpid(found.si_pid, 0)

    def look_for_begin(self, token: str) -> None:
        try:
            line = (self.marks / token).read_text().partition("\n")
        except OSError:
            return
        if not line[1]:
            return
        self.facts.begun[token] = time.monotonic()
        try:
            self.leaders[token] = os.pidfd_open(int(line[0].split()[1]))
        except ProcessLookupError:
            self.facts.ended[token] = time.monotonic()

    def look_for_ends(self) -> None:
        poll = select.poll()
        tokens = {descriptor: token for token, descriptor in self.leaders.items()}
        for descriptor in tokens:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(0):
            token = tokens[descriptor]
            self.facts.ended[token] = time.monotonic()
            os.close(self.leaders.pop(token))

    def pump_until(self, condition: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > give_up:
                alive = [program.name for program in self.programs if program.alive]
                message = f"{what}; alive: {alive}"
                raise Broken(message)
            self.pump()

    # ------------------------------------------------------------ the whole

    def run(self) -> None:
        """Run the round; raises ``Broken``."""
        self.plan()
        self.pump_until(lambda: time.monotonic() - self.begin > self.until and not self.due, "the schedule hangs")
        for program in self.programs:
            if program.alive and program.leave is not None:
                if self.rng.random() < 0.3:
                    self.kill("supervisor", program.pid)
                else:
                    with contextlib.suppress(BrokenPipeError):  # it is being killed now
                        os.write(program.leave, b".")
        try:
            self.pump_until(lambda: not any(map(self.must_end, self.programs)), "they hang")
        except Broken:
            for program in filter(self.must_end, self.programs):
                os.kill(program.pid, signal.SIGUSR1)
            time.sleep(0.5)
            raise
        for program in self.programs:
            if program.alive:
                self.kill("standing still", program.pid)
        self.pump_until(lambda: not any(program.alive for program in self.programs), "the killed hang")
        self.read_logs()
        self.lazy = False
        for program in self.programs:
            self.facts.events += read_lines(self.directory / f"{program.name}.log")
        self.facts.events = [event for event in self.facts.events if event["event"] != "acked"]
        for line in read_lines(self.directory / "hits"):
            self.tell(f"hit {line}")
            self.kills[f"at {line['point']}"] += 1
            self.kills["paused at a point" if line["do"] == "pause" else "killed at a point"] += 1
            if line["do"] == "pause":
                self.facts.paused += 0.3
            self.facts.killed |= {pid for _, pid in line["victims"]}
        self.inquire()
        self.facts.check()

    def must_end(self, program: Program) -> bool:
        """Whether a program is to end by itself: without memory it may wait for a thread that could not start."""
        return program.alive and program.pid not in self.facts.starved

    def inquire(self) -> None:
        """Let fresh processes report what is on record, and check that no process is left."""
        facts = self.facts
        known = [ack["job_id"] for acks in facts.acked.values() for ack in acks]
        known += [(self.marks / token).read_text().split()[2] for token in facts.begun]
        endless = {token for token, each in facts.commands.items() if each.end is None and each.deadline is None}
        judge = Program("judge", self.fork([], "judge", programs.judge(self.root, known, endless)))
        self.programs.append(judge)
        self.pump_until(lambda: not judge.alive, "the judge hangs")
        facts.events += read_lines(self.directory / "judge.log")
        for event in facts.events:
            if event["event"] == "cancelling":
                facts.cancelled.add(event["job_id"])
            elif event["event"] == "consuming":
                facts.forgetting.add(event["job_id"])
        if judge.status:
            message = f"the judge ended with {judge.status}"
            raise Broken(message)
        words = [sys.executable, "-m", "supervisor", "list", "--all", "--limit", "1000", "--json"]
        environment = os.environ | {"PYTHONPATH": PACKAGE}
        said = subprocess.run(words, capture_output=True, env=environment, check=False, timeout=30)
        if said.returncode:
            message = f"list ended with {said.returncode}: {said.stderr.decode()}"
            raise Broken(message)
        facts.listed = {job["job_id"]: job["status"] for job in json.loads(said.stdout)["jobs"]}
        for path in self.root.glob("*-*/*/claim"):
            holder = os.readlink(path).split(".")
            facts.keepers[path.parent.name] = int(holder[1]) if holder[0] == "keeper" else None
        for token in facts.shot:  # the keeper stays while leftovers of such a leader may write
            for pid in programs.processes_of(token):
                self.kill("left behind", pid)
        self.pump_until(lambda: not list(points.keepers(str(self.root))), "a keeper is left")
        self.pump_until(lambda: len(facts.ended) == len(facts.begun), "a leader is left")
        for token in facts.commands:
            if token not in facts.shot and programs.processes_of(token):
                message = f"left: {programs.processes_of(token)} of {facts.commands[token].text}"
                raise Broken(message)

    def clean(self) -> list[int]:
        """End all remaining processes, and return them."""
        left = []
        for program in self.programs:
            if program.alive:
                os.kill(program.pid, signal.SIGKILL)
                os.waitpid(program.pid, 0)
        for pid in points.keepers(str(self.root)):
            left.append(pid)
            os.kill(pid, signal.SIGKILL)
        for token in self.facts.commands:
            for pid in programs.processes_of(token):
                left.append(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for descriptor in self.leaders.values():
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if self.disk:
            self.disk.unmount()
        return left


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def play(
    seed: int,
    number: int,
    directory: Path,
    point: str | None,
    *,
    scarce: bool,
) -> tuple[Round, str | None]:
    """Play one round; return it and its fault."""
    played = Round(seed, number, directory, point, scarce=scarce)
    broken: str | None = None
    try:
        played.run()
    except Broken as error:
        broken = str(error)
    except Exception:  # noqa: BLE001  # a defect of the driver is a fault of the round
        broken = f"the driver failed:\n{traceback.format_exc()}"
    finally:
        played.clean()
    return played, broken


def main() -> int:
    """Play rounds until one breaks or all are done."""
    parser = argparse.ArgumentParser(description="Kill at random, and look what is true afterwards.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, default=None, help="play this round of the seed only")
    parser.add_argument("--point", default=None, help="this failpoint in every round")
    parser.add_argument("--scarce", action="store_true", help="descriptors, memory and disk run out as well")
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--package", help="where the package is; beside the tests if left out")
    parser.add_argument("--go-on", action="store_true", help="count broken rounds instead of ending at the first")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    points.check()
    base = given.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    base.mkdir(exist_ok=True)
    kills: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    acknowledged = jobs = bad = 0
    begin = time.monotonic()
    numbers = range(given.rounds) if given.only is None else [given.only]
    for number in numbers:
        directory = base / f"{number}-{time.time_ns()}"
        played, broken = play(seed, number, directory, given.point, scarce=given.scarce)
        kills += played.kills
        outcomes += played.facts.outcomes
        jobs += len(played.facts.commands)
        acknowledged += sum(map(len, played.facts.acked.values()))
        if broken is None:
            shutil.rmtree(directory)
            continue
        bad += 1
        say(f"\nBROKEN in round {number} of seed {seed} (--seed {seed} --only {number}): {broken}")
        say("\n".join(played.story))
        say(f"everything is kept in {directory}")
        if not given.go_on:
            break
    if given.directory is None and not bad:
        base.rmdir()
    rounds = len(numbers) if given.go_on or not bad else number + 1
    took = time.monotonic() - begin
    say(f"seed {seed}: {rounds} rounds in {took:.0f} s, {bad} broken; {jobs} requests, {acknowledged} acknowledged")
    points_hit = {name: count for name, count in sorted(kills.items()) if name.startswith("at ")}
    say(f"kills: { ({name: count for name, count in sorted(kills.items()) if name not in points_hit}) }")
    say(f"instants: { ({name[3:]: count for name, count in points_hit.items()}) }")
    say(f"jobs by reason: {dict(outcomes.most_common())}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
