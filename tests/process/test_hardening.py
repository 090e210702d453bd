"""What a keeper does against the harm that jobs may do to it, and against what a job may do to the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import supervisor
from supervisor import Settings, open_supervisor
from supervisor.jobdir import records

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has these settings")

SHOW = """
import json, re
status = open("/proc/self/status").read()
oom_score_adj = int(open("/proc/self/oom_score_adj").read())
print(json.dumps({"no_new_privs": int(re.search(r"NoNewPrivs:\\s*(\\d)", status)[1]), "oom": oom_score_adj}))
"""
COMMAND = [sys.executable, "-I", "-S", "-c", SHOW]


def _oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


def _keeper_of(root: Path, job_id: str) -> int:
    (directory,) = root.glob(f"*/{job_id}")
    keeper: int = (records.read(str(directory), records.PROCESS) or {})["keeper_pid"]
    return keeper


async def _seen(sup: supervisor.Supervisor, **options: object) -> dict[str, int]:
    seen: dict[str, int] = json.loads((await sup.run(COMMAND, **options)).value)
    return seen


async def test_a_job_gains_no_rights_if_it_is_asked_for(state_dir: Path) -> None:
    async with open_supervisor(Settings(state_dir=state_dir)) as sup:
        assert (await _seen(sup, no_new_privs=True))["no_new_privs"] == 1
        assert (await _seen(sup))["no_new_privs"] == 0  # neither the keeper nor its other jobs


async def test_a_waiting_job_gains_no_rights_either(state_dir: Path) -> None:
    async with open_supervisor(Settings(state_dir=state_dir)) as sup:
        job = await sup.start(COMMAND, hold=True, no_new_privs=True)
        await sup.release(job.job_id)
        await sup.wait(job.job_id)
        assert json.loads((await sup.result(job.job_id)).value)["no_new_privs"] == 1


async def test_the_next_attempt_of_a_job_gains_no_rights_either(state_dir: Path) -> None:
    command = ["sh", "-c", "grep NoNewPrivs /proc/self/status; exit 1"]
    retry = supervisor.Retry(maximum_attempts=2, initial_interval=0.01, retry_on=["job_failed"])
    async with open_supervisor(Settings(state_dir=state_dir)) as sup:
        last = await sup.wait((await sup.start(command, no_new_privs=True, retry=retry)).job_id)
        assert last.attempt == 2
        content, _ = await sup.read(last.job_id, "stdout")
        assert content == b"NoNewPrivs:\t1\n"


async def test_a_job_without_new_rights_that_cannot_be_launched_says_why(state_dir: Path) -> None:
    async with open_supervisor(Settings(state_dir=state_dir)) as sup:
        job = await sup.wait((await sup.start(["no-such-command"], no_new_privs=True)).job_id)
        assert (job.reason, "command not found" in str(job.detail)) == ("launch_failed", True)


async def test_no_new_privs_is_a_boolean(state_dir: Path) -> None:
    async with open_supervisor(Settings(state_dir=state_dir)) as sup:
        with pytest.raises(supervisor.InvalidArguments, match="no_new_privs is 'yes'"):
            await sup.start(COMMAND, no_new_privs="yes")  # type: ignore[arg-type]


async def test_the_kernel_ends_a_job_before_its_keeper(state_dir: Path) -> None:
    own = _oom_score_adj(os.getpid())
    async with open_supervisor(Settings(state_dir=state_dir)) as sup:
        assert (await _seen(sup))["oom"] == min(own + 100, 1000)
        job = await sup.start(["sleep", "60"])
        assert _oom_score_adj(_keeper_of(state_dir, job.job_id)) == own
        await sup.cancel(job.job_id)


def test_the_commandline_knows_no_new_privs(state_dir: Path) -> None:
    argv = [sys.executable, "-m", "supervisor", "run", "--state-dir", state_dir, "--no-new-privs", "--", *COMMAND]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["no_new_privs"] == 1


def test_a_process_can_hide_its_memory_from_its_own_user() -> None:
    script = (
        "import ctypes; from supervisor.keeper.spawn import set_dumpable\n"
        "for dumpable in (False, True):\n"
        "    set_dumpable(dumpable); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
