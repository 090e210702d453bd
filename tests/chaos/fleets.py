"""A fleet of agents under kill -9: ``python tests/chaos/fleets.py --rounds 20 [--minutes 20] [--seed 1]``.

In each round thirty stand-ins for agents (``tests/process/fleet``) run in a group of four. The eleventh launch meets a
usage limit of their account, and so do some later ones. Programs that start the jobs, keepers, and the processes that
launch waiting jobs are killed at random, one by one and all at once, also while the group waits for the reset; the
index is deleted or overwritten now and then. Then all is calm: a command looks at the root, and the round is judged:

* no task is finished twice, and each is finished, unless a keeper was killed in a launch: then its job may be ``lost``.
  One that certainly did not run came back;
* no attempt was launched twice, none is missing; neither a wait for a limit nor a launch that was killed is a failure;
* no more than four agents ever ran at a time;
* in some rounds the group has a budget of two dollars, until all is calm: no agent is launched once they are spent, and
  what is spent over it is no more than what the agents cost that ran then;
* in every other round each agent has a worktree: it has the work of its task, once, and none is left but those;
* the jobs cost together what the agents have said, and no orders are left on the disk.
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

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(REPOSITORY))

from tests.process import fleet  # noqa: E402  # found by the path above

SIZE = 30
LIMIT = 4
BUDGET_USD = 2.0
COST_USD = 3 * 0.0625
"""What a task costs at most, as its agent says it."""
PATIENCE = 180
SUPERVISOR = [sys.executable, "-m", "supervisor"]
PROGRAM = f"""
import os, sys, trio, supervisor
async def main():
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("{fleet.GROUP}", limit={LIMIT})
        for task in sys.argv[1:]:
            argv = ["claude", "-p", task, "--output-format", "stream-json", "--verbose"]
            while True:
                try:
                    await sup.start(argv, kind="claude", groups=["{fleet.GROUP}"], idempotency_key=task,
                                    worktree=os.environ.get("FLEET_WORKTREE"))
                    break
                except supervisor.SupervisorError as error:
                    if not error.retryable:
                        raise
                    await trio.sleep(0.05)
        print("started", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


class Round:
    """One fleet, from an empty state root to the verdict."""

    def __init__(self, base: Path, chance: random.Random) -> None:
        self.base = base
        self.chance = chance
        self.root = base / "root"
        self.root.mkdir(mode=0o700)
        again = sorted(chance.sample(range(15, 45), chance.choice([0, 1, 2])))
        seconds = chance.choice([0.02, 0.05, 0.1])
        self.workspace = base / "workspace"
        self.workspace.mkdir()
        self.has_worktrees = chance.random() < 0.5
        work = {"work": "work"} if self.has_worktrees else {}
        self.account = fleet.Account(base / "account", limit_at=[11, *again], turn_seconds=seconds, **work)
        package = Path(os.environ.get("PYTHONPATH", str(REPOSITORY)).split(os.pathsep)[0])
        self.environment = os.environ | self.account.environment(package) | {"SUPERVISOR_STATE_DIR": str(self.root)}
        if self.has_worktrees:
            self.environment["FLEET_WORKTREE"] = "head"
            self.git("init", "-q")
            self.git("-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-q", "--allow-empty", "-m", "one")
        self.tasks = fleet.prompts(SIZE)
        self.has_budget = chance.random() < 0.5
        self.said_within_budget: list[dict[str, Any]] = []
        self.programs: list[subprocess.Popen[bytes]] = []
        self.kills: Counter[str] = Counter()

    def git(self, *words: str) -> str:
        return subprocess.run(["git", *words], cwd=self.workspace, check=True, capture_output=True, text=True).stdout

    # ------------------------------------------------------------ processes

    def begin(self, tasks: list[str]) -> None:
        """Run a program that starts the jobs of these tasks."""
        with (self.base / "errors").open("ab") as errors:
            self.programs.append(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, *tasks],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=self.workspace,
                    start_new_session=True,
                )
            )

    def ours(self, word: bytes) -> list[int]:
        found: list[int] = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                line = Path("/proc", name, "cmdline").read_bytes()
                if word in line and os.fsencode(self.root) in line + Path("/proc", name, "environ").read_bytes():
                    found.append(int(name))
        return found

    def kill(self, what: str, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills[what] += 1

    def one(self, pids: list[int]) -> list[int]:
        return [self.chance.choice(pids)] if pids else []

    def keepers(self) -> list[int]:
        return self.ours(b"keeper/entry.py")

    def helpers(self) -> list[int]:
        return self.ours(b"launch-waiting")

    def living(self) -> list[int]:
        return [each.pid for each in self.programs if each.poll() is None]

    def kill_all(self) -> None:
        self.kill("program", self.living())
        self.kill("helper", self.helpers())
        self.kill("keeper", self.keepers())
        self.kills["(all at once)"] += 1

    def harm_index(self) -> None:
        self.kills["(index)"] += 1
        if self.chance.random() < 0.5:
            (self.root / "registry.db").write_bytes(b"damaged" * 500)
        else:
            for name in ("registry.db", "registry.db-wal", "registry.db-shm"):
                (self.root / name).unlink(missing_ok=True)

    def disturb(self) -> None:
        deeds = {
            lambda: self.kill("program", self.one(self.living())): 25,
            lambda: self.kill("keeper", self.one(self.keepers())): 20,
            lambda: self.kill("helper", self.one(self.helpers())): 20,
            self.kill_all: 8,
            self.harm_index: 7,
            lambda: self.begin(self.tasks): 20,
        }
        self.chance.choices(list(deeds), list(deeds.values()))[0]()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*SUPERVISOR, *words]
        return subprocess.run(
            argv, env=self.environment, cwd=self.base, capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    # ------------------------------------------------------------ a round

    def play(self) -> None:
        """Start the fleet, and disturb it."""
        if self.has_budget:
            made = self.command(
                "group", "set", fleet.GROUP, "--limit", str(LIMIT), "--budget", f"usd={BUDGET_USD}/total"
            )
            assert made.returncode == 0, made.stderr
        self.begin(self.tasks)
        if self.chance.random() < 0.5:
            self.begin(self.tasks)
        pause = self.root / "pauses" / f"{fleet.GROUP}.rate_limited"
        give_up = time.monotonic() + self.chance.choice([4, 10])
        while time.monotonic() < give_up:
            time.sleep(self.chance.uniform(0.05, 0.6))
            if pause.exists() and self.chance.random() < 0.2:
                self.kill_all()
                self.kills["(all, while it waits)"] += 1
            else:
                self.disturb()

    def finish(self) -> list[dict[str, Any]]:
        """Start what is not started yet, look at the root until all has ended, and return the jobs."""
        self.begin(self.tasks)
        program = self.programs[-1]
        assert program.stdout is not None
        started = program.stdout.readline()
        if started != b"started\n":
            message = f"the last program ended: {(self.base / 'errors').read_text()[-2000:]}"
            raise AssertionError(message)
        if self.has_budget:
            self.said_within_budget = self.account.log()
            raised = self.command("group", "set", fleet.GROUP, "--budget", "none")
            assert raised.returncode == 0, raised.stderr
        if self.chance.random() < 0.5:
            self.kill("program", self.living())
        left: list[dict[str, Any]] = []
        give_up, is_calm = time.monotonic() + PATIENCE, False
        while time.monotonic() < give_up:
            listed = self.command("list", "--all", "--limit", "1000", "--json")
            if listed.returncode == 0:
                jobs: list[dict[str, Any]] = json.loads(listed.stdout)["jobs"]
                ids = {job["job_id"] for job in jobs}
                left = [job for job in jobs if job["status"] in {"queued", "running"}]
                if is_calm and not left and all(job["retried_by"] in {None, *ids} for job in jobs):
                    return jobs
                is_calm = not left  # a list that records an end does not show the next attempt
            time.sleep(0.3)
        message = f"jobs are left: {[(job['job_id'], job['status'], job['queue_reason']) for job in left][:9]}"
        raise AssertionError(message)

    def judge(self, jobs: list[dict[str, Any]]) -> int:
        """Check what is on record; return how many jobs are lost."""
        done, limited = self.account.count("done"), self.account.count("limited")
        assert max(done.values()) == 1, f"finished twice: {done.most_common(3)}"
        lost = 0
        unlaunched = Counter(job["argv"][2] for job in jobs if job["reason"] == "launch_failed")
        for task in self.tasks:
            (last,) = [job for job in jobs if job["argv"][2] == task and job["retried_by"] is None]
            facts = {name: last[name] for name in ("job_id", "status", "reason", "detail", "attempt")}
            if last["reason"] == "lost":
                lost += 1
                assert self.kills["keeper"], facts
            else:
                assert last["status"] == "done", facts
                assert done[task] == 1, task
                apart = limited[task] + unlaunched[task]
                assert last["attempt"] == last["maximum_attempts"] == 1 + apart, (facts, apart)
        assert not unlaunched or self.kills["keeper"]
        begun = self.account.count("begin")
        launched = Counter(job["argv"][2] for job in jobs if job["reason"] != "launch_failed")
        assert not begun - launched, f"launched without a job: {begun - launched}"
        if not lost:
            assert done.total() == SIZE
            spent = json.loads(self.command("spend", "--json").stdout)["total"]["cost_usd"]
            said = self.account.said()
            assert sum(job["cost_usd"] or 0 for job in jobs) == spent == said, (spent, said)
            if self.has_worktrees:
                self._check_worktrees(jobs)
        self._check_limit()
        self._check_budget()
        self.command("prune", "--all")  # a start that was killed before its commit has left a directory
        left = [*self.root.glob("*/*/orders"), *self.root.glob("*/*/stdin")]
        assert not left, left
        return lost

    def _check_budget(self) -> None:
        spent = 0.0
        for line in self.said_within_budget:
            assert line["what"] != "begin" or spent < BUDGET_USD, line
            spent += line.get("cost", 0)
        assert spent <= BUDGET_USD + LIMIT * COST_USD, spent

    def _check_worktrees(self, jobs: list[dict[str, Any]]) -> None:
        task_of = {job["worktree"]["path"]: job["argv"][2] for job in jobs if job["status"] == "done"}
        assert len(task_of) == SIZE
        listed = json.loads(self.command("worktree", "list", "--json").stdout)["worktrees"]
        assert {each["path"]: each["state"] for each in listed} == dict.fromkeys(task_of, "changed")
        assert {path: Path(path, "work").read_text() for path in task_of} == {
            path: f"{task}\n" for path, task in task_of.items()
        }
        entries = self.git("worktree", "list", "--porcelain").splitlines()
        assert sum(line.startswith("worktree ") for line in entries) == SIZE + 1
        assert len(self.git("branch", "--list", "supervisor/*").split()) == 2 * SIZE  # "+" for each checkout

    def _check_limit(self) -> None:
        running: set[int] = set()
        for line in self.account.log():
            running.add(line["number"]) if line["what"] == "begin" else running.discard(line["number"])
            assert len(running) <= LIMIT, f"{len(running)} agents at a time"

    def close(self) -> None:
        for program in self.programs:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            program.wait()
            if program.stdout is not None:
                program.stdout.close()
        for _ in range(2):
            self.kill("", [*self.helpers(), *self.keepers()])


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Play rounds; return 1 if one of them is broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10**6)
    parser.add_argument("--minutes", type=float, default=10**6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    given = parser.parse_args()
    ends = time.monotonic() + 60 * given.minutes
    total: Counter[str] = Counter()
    for number in range(given.rounds) if given.only is None else (given.only,):
        if time.monotonic() > ends:
            break
        base = Path(tempfile.mkdtemp(prefix="fleet-"))
        chance = random.Random(f"{given.seed} {number}")
        played = Round(base, chance)
        begun = time.monotonic()
        try:
            played.play()
            lost = played.judge(jobs := played.finish())
        except Exception as broken:
            say(f"round {number} of seed {given.seed} is broken, in {base}: {broken!r}")
            say(f"  kills: {dict(played.kills)}")
            raise
        finally:
            played.close()
        limited = played.account.count("limited").total()
        total.update(played.kills)
        total.update(rounds=1, jobs=len(jobs), limited=limited, lost=lost, done=played.account.count("done").total())
        say(f"round {number}: {time.monotonic() - begun:.0f} s, {len(jobs)} jobs, {limited} limited, {lost} lost")
        shutil.rmtree(base)
    say(f"{dict(total)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
