"""A fleet of agents, each a process, that meets the usage limit of its account: it waits, and every job comes back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.engines.waiting import Change
from supervisor.store import usage_limits
from supervisor.system import processes
from supervisor.system.inotify import CHANGED, MODIFIED
from tests.process import fleet
from tests.process.conftest import PACKAGE
from tests.process.test_helper import wait_for_no_helper

if TYPE_CHECKING:
    from tests.process.conftest import Host, Proc, World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")

SIZE = 30
TASKS = fleet.prompts(SIZE)
PATIENCE = 60
OTHER_BOOT = ("unshare", "-m", "sh", "-c", 'mount --bind "$BOOT" /proc/sys/kernel/random/boot_id && exec "$@"', "sh")


class Fleet:
    """Thirty jobs in a group of four, and the processes that take part."""

    def __init__(self, world: World, account: fleet.Account) -> None:
        self.world = world
        self.account = account

    def host(self) -> Host:
        return self.world.host(package=Path(os.environ["PYTHONPATH"]))

    def run(self, *words: str, prefix: tuple[str, ...] = ()) -> str:
        argv = [*prefix, sys.executable, "-m", "supervisor", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode in {0, 1}, done.stderr
        return done.stdout

    def start(self, *hosts: Host) -> list[str]:
        hosts[0].call("set_group", fleet.GROUP, limit=4)
        taking_turns = zip(itertools.cycle(hosts), TASKS, strict=False)
        return [host.start(*fleet.command(task), kind="claude", groups=[fleet.GROUP]) for host, task in taking_turns]

    def wait_for_pause(self) -> Path:
        """Wait until the group is paused for the limit; return the file of the pause."""
        directory = self.world.root / "pauses"
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / f"{fleet.GROUP}.rate_limited"
        give_up = time.monotonic() + PATIENCE
        with Change([str(directory)], CHANGED) as change:
            while not path.exists():
                assert time.monotonic() < give_up
                change.wait(5)
        return path

    def wait_for_reason(self, job_id: str, reason: str) -> None:
        """Wait until a job waits for this: a pause is a file first, and then in the index."""
        give_up = time.monotonic() + PATIENCE
        with Change([str(self.world.root)], MODIFIED) as change:
            while self.world.catalog.status(job_id).queue_reason != reason:
                assert time.monotonic() < give_up
                change.wait(5)

    def ours(self) -> list[int]:
        """Return the processes of the package on this root: supervisors, keepers, and the helper."""
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                line = Path("/proc", name, "cmdline").read_bytes()
                environment = Path("/proc", name, "environ").read_bytes()
                known = (b"host.py", b"keeper/entry.py", b"launch-waiting")
                if any(word in line for word in known) and os.fsencode(self.world.root) in line + environment:
                    found.append(int(name))
        return found

    def leaders(self) -> list[Proc]:
        """Hold the agents that run."""
        found: list[Proc] = []
        for row in self.world.catalog.index.unfinished():
            if row.started_ns is not None:
                with contextlib.suppress(AssertionError, TypeError):  # it has just ended
                    found.append(self.world.leader(row.job_id))
        return found

    def kill_all(self) -> int:
        """Kill all processes of the package, also those that one starts before it is killed; return how many."""
        killed: set[int] = set()
        while found := self.ours():
            killed.update(found)
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return len(killed)

    def spent(self, prefix: tuple[str, ...] = ()) -> float:
        report = json.loads(self.run("spend", "--json", prefix=prefix))
        assert report["total"]["jobs"] == len(TASKS) + self.account.count("limited").total()
        cost: float = report["total"]["cost_usd"]
        return cost

    def jobs(self, prefix: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.run("list", "--limit", "500", "--json", prefix=prefix))["jobs"]
        return listed


@pytest.fixture
def agents(world: World, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    account = fleet.Account(world.directory / "account")
    boot = world.directory / "boot"
    boot.write_text("11111111-2222-3333-4444-555555555555\n", encoding="ascii")
    for name, value in [*account.environment(PACKAGE).items(), ("BOOT", str(boot))]:
        monkeypatch.setenv(name, value)
    for name in ("_MARGIN_NS", "_SPREAD_NS"):  # this process may record an end as well
        monkeypatch.setattr(usage_limits, name, fleet.HALF_A_SECOND_NS)
    return Fleet(world, account)


def test_every_job_of_a_fleet_comes_back_after_the_limit(agents: Fleet) -> None:
    """Two supervisors share the group."""
    host, other = agents.host(), agents.host()
    ids = agents.start(host, other)
    agents.wait_for_pause()
    assert host.call("wait", ids[-1], timeout=PATIENCE)["status"] == "done"
    for job_id in ids:
        assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
    assert agents.spent() == agents.account.said()
    assert 1 <= agents.account.count("limited").total() <= 4, "only what ran when the limit was met"
    fleet.judge(agents.account, agents.jobs(), TASKS)


@pytest.mark.parametrize("reboot", [False, True])
def test_every_job_comes_back_if_all_processes_of_ours_are_killed_while_it_waits(
    agents: Fleet, *, reboot: bool
) -> None:
    """The agents that run then go on; the next command of ours is all that is needed."""
    prefix: tuple[str, ...] = ()
    if reboot:
        prefix = OTHER_BOOT
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no other boot can be simulated here")
    ids = agents.start(agents.host())
    agents.wait_for_pause()
    leaders = agents.leaders()
    assert agents.kill_all() >= 2
    for leader in leaders:
        assert leader.ended()
    agents.run("list", prefix=prefix)
    agents.run("wait", *ids, prefix=prefix)
    fleet.judge(agents.account, agents.jobs(prefix), TASKS)
    assert agents.spent(prefix) == agents.account.said()
    wait_for_no_helper(agents.world.root)


SAYS = 'echo up > "$1"; read line < "$2"; cat "$3"; exec sleep 600'


def test_a_rejection_of_a_running_job_pauses_its_group_also_where_only_commands_are_used(agents: Fleet) -> None:
    """The process that launches waiting jobs reads the output of those that run; without a waiting job, none does."""
    up, gate, said = agents.world.fifo(), agents.world.fifo(), agents.world.directory / "said"
    agents.run("group", "set", fleet.GROUP, "--limit", "1")
    words = ("start", "--kind", "claude", "--group", fleet.GROUP, "--")
    first = agents.run(*words, "sh", "-c", SAYS, "sh", str(up), str(gate), str(said)).strip()
    assert up.line() == "up"
    waits = agents.run(*words, *fleet.command("later")).strip()
    info = {"status": "rejected", "resetsAt": int(time.time()) + 3600, "rateLimitType": "five_hour"}
    said.write_text(json.dumps({"type": "rate_limit_event", "rate_limit_info": info}) + "\n", encoding="ascii")
    gate.open()
    path = agents.wait_for_pause()
    assert first in path.read_text()
    assert [agents.world.catalog.status(job_id).status for job_id in (first, waits)] == ["running", "queued"]
    agents.wait_for_reason(waits, "rate_limited")
    agents.run("cancel", first, waits)
