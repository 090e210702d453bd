"""A machine that is short of resources, or a clock or a process that stands still: named errors, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

linux = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")


# ---------------------------------------------------------------- disk


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state root on a file system of one MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    root = tmp_path / "disk"
    root.mkdir(mode=0o700)
    options = "size=1m,nr_inodes=400,mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(root)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode()}")
    monkeypatch.setenv("SUPERVISOR_STATE_DIR", str(root))
    monkeypatch.setenv("SUPERVISOR_STOP_GRACE_SECONDS", "0.3")
    monkeypatch.chdir(tmp_path)
    try:
        yield root
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def fill(root: Path) -> Path:
    """Leave no room at all."""
    path = root / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


async def test_a_full_disk_refuses_new_jobs_and_loses_none(small_disk: Path) -> None:
    async with supervisor.open_supervisor() as sup:
        before = (await sup.run(["echo", "before"])).job.job_id
        running = await sup.start(
            ["sh", "-c", "read line < $FIFO; exit 7"], env={**os.environ, "FIFO": fifo(small_disk)}
        )
        cancelled = await sup.start(["sleep", "600"])
        late = await sup.start(["sleep", "600"], deadline_seconds=1)
        filler = fill(small_disk)
        with pytest.raises(supervisor.SupervisorError) as raised:
            await sup.start(["true"])
        assert (raised.value.code, raised.value.retryable) == ("state_full", True)
        assert "space" in raised.value.message
        assert (await sup.status(before)).status == "done"
        assert (await sup.result(before)).value == "before\n"
        with trio.fail_after(60):  # a full disk keeps no process alive
            assert (await sup.cancel(cancelled.job_id)).status == "cancelled"
            assert (await sup.wait(late.job_id)).status == "timeout"
        await trio.to_thread.run_sync(Path(fifo_of(small_disk)).write_text, "go\n")
        with trio.fail_after(60):
            ended = await sup.wait(running.job_id)
        assert (ended.status, ended.exit_code) == ("failed", 7)
        filler.unlink()
        assert (await sup.run(["echo", "after"])).value == "after\n"
    with Catalog(supervisor.Settings()) as catalog:  # every query has this answer from now on
        assert {catalog.status(job).status for job in (cancelled.job_id,)} == {"cancelled"}
        assert catalog.status(late.job_id).status == "timeout"
        assert catalog.status(running.job_id).exit_code == 7


def fifo_of(root: Path) -> str:
    return str(root.parent / "gate")


def fifo(root: Path) -> str:
    os.mkfifo(fifo_of(root), 0o600)
    return fifo_of(root)


def test_a_full_disk_under_a_keeper_alone(small_disk: Path) -> None:
    """The exit is recorded, at the latest when there is room for it."""
    gate = fifo(small_disk)
    argv = [sys.executable, "-m", "supervisor", "start", "--", "sh", "-c", 'read line < "$1"; exit 5', "sh", gate]
    started = subprocess.run(argv, capture_output=True, text=True, check=True)
    job_id = started.stdout.strip()
    with Catalog(supervisor.Settings()) as catalog:
        filler = fill(small_disk)
        Path(gate).write_text("go\n", encoding="ascii")
        row = catalog.index.get(job_id)
        assert row is not None
        process = records.read(catalog.directory(row), records.PROCESS)
        assert process is not None
        wait_until(lambda: processes.read_process(process["pid"]) is None)
        # The exit often fits beside the record's present content. If not, its keeper writes it later.
        now = catalog.status(job_id)
        assert (now.status, now.exit_code) in {("running", None), ("failed", 5)}
        filler.unlink()
        (job,) = catalog.wait([job_id], timeout=60)
    assert (job.status, job.exit_code) == ("failed", 5)


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.mark.usefixtures("small_disk")
async def test_a_job_that_fills_the_disk_sees_that_itself() -> None:
    async with supervisor.open_supervisor() as sup:
        with trio.fail_after(30):
            result = await sup.run(["dd", "if=/dev/zero", "bs=64k"])
            assert result.job.status == "failed"
            assert result.job.exit_code == 1
            await sup.forget(result.job.job_id)
            await sup.prune()
            assert (await sup.run(["echo", "room"])).value == "room\n"


NOBODY = 65534


def test_a_root_on_a_disk_that_can_only_be_read(small_disk: Path) -> None:
    program = [sys.executable, "-m", "supervisor"]
    done = subprocess.run([*program, "run", "--", "echo", "x"], capture_output=True, text=True, check=True)
    assert done.stdout == "x\n"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        refused = subprocess.run(
            [*program, "start", "--json", "--", "true"], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 125
        assert json.loads(refused.stdout)["error"]["code"] == "permission_denied"
        listed = subprocess.run([*program, "list", "--json"], capture_output=True, text=True, check=False)
        answer = json.loads(listed.stdout)
        # A read-only disk limits what SQLite can read; it causes no crash.
        assert (answer.get("error") or {"code": "permission_denied"})["code"] == "permission_denied", listed
        assert "Traceback" not in refused.stderr + listed.stderr
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    done = subprocess.run([*program, "run", "--", "echo", "y"], capture_output=True, text=True, check=True)
    assert done.stdout == "y\n"


# ---------------------------------------------------------------- processes, descriptors, memory


def run_program(program: str, *words: str, through: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    """Run a Trio program in a process of its own and return its output as JSON."""
    source = textwrap.dedent(program)
    done = subprocess.run(
        [*through, sys.executable, "-c", source, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        **options,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


PROBE = """
    import json, os, resource, sys, trio, supervisor

    async def main():
        settings = supervisor.Settings(state_dir=sys.argv[1], stop_grace_seconds=0.3)
        answer = {}
        async with supervisor.open_supervisor(settings) as sup:
            if sys.argv[2] == "early":
                first = None
            else:
                first = await sup.start(["sleep", "600"])
            limit(sup)
            ends = []
            for _ in range(3):
                try:
                    job = await sup.start(["/bin/true"])
                    job = await sup.wait(job.job_id)
                    ends.append([job.status, job.reason, job.detail])
                except supervisor.SupervisorError as error:
                    ends.append(["refused", error.code, error.message])
            answer["ends"] = ends
            unlimit(sup)
            if first is not None:
                answer["first"] = (await sup.cancel(first.job_id)).status
            answer["after"] = (await sup.run(["echo", "after"])).value
        print(json.dumps(answer))

"""


@linux
def test_no_more_processes(tmp_path: Path) -> None:
    """RLIMIT_NPROC does not apply to root, so the program becomes another user first, with a user's own count."""
    if os.geteuid() != 0:
        pytest.skip("needs a user without other processes")
    root, user = tmp_path / "users", 54321
    root.mkdir(mode=0o700)
    os.chown(root, user, user)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(above.stat().st_mode | 0o011)

    # It may read what root may, since Python or this checkout can be in the home of another user.
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv (util-linux) to become another user that may read this checkout")
    user_id, reads = str(user), "-all,+dac_read_search"
    become = [setpriv, "--reuid", user_id, "--regid", user_id, "--clear-groups"]
    become += ["--inh-caps", reads, "--ambient-caps", reads, "--bounding-set", reads]

    program = (
        PROBE
        + """
    def keeper():
        for name in filter(str.isdecimal, os.listdir("/proc")):
            if int(name) == os.getpid():  # the words looked for stand in our own command line
                continue
            try:
                command = open(f"/proc/{name}/cmdline", "rb").read()
                if b"keeper/entry.py" in command and os.stat(f"/proc/{name}").st_uid == os.geteuid():
                    return int(name)
            except OSError:
                pass

    def limit(sup):
        resource.prlimit(keeper(), resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))

    def unlimit(sup):
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.prlimit(keeper(), resource.RLIMIT_NPROC, (hard, hard))

    trio.run(main)
    """
    )
    answer = run_program(program, str(root), "late", through=become, cwd="/")
    assert [end[:2] for end in answer["ends"]] == [["failed", "launch_failed"]] * 3
    assert "cannot spawn a process" in answer["ends"][0][2]
    assert (answer["first"], answer["after"]) == ("cancelled", "after\n")


@linux
def test_no_more_descriptors_in_the_supervisor(world: World) -> None:
    program = (
        PROBE
        + """
    held = []

    def limit(sup):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                return

    def unlimit(sup):
        while held:
            os.close(held.pop())

    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    trio.run(main)
    """
    )
    answer = run_program(program, str(world.root), "late")
    for end in answer["ends"]:
        assert end[0] in {"failed", "refused"}, end
        assert "Too many open files" in end[2], end
    assert (answer["first"], answer["after"]) == ("cancelled", "after\n")


@linux
def test_no_more_descriptors_in_the_keeper(world: World) -> None:
    host = world.host()
    first = host.start("sleep", "600")
    keeper = world.keeper(first)
    soft, hard = resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{keeper.pid}/fd")) + 1, hard))
    refused = host.call("run", ["true"])
    assert refused["job"]["reason"] == "launch_failed"
    assert "Too many open files" in refused["job"]["detail"]
    assert refused["error"]["retryable"]
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert host.call("run", ["echo", "after"])["value"] == "after\n"
    assert host.call("cancel", first)["status"] == "cancelled"


@linux
def test_no_more_memory_in_the_keeper(world: World) -> None:
    host = world.host()
    first = host.start("sleep", "600")
    leader, keeper = world.leader(first), world.keeper(first)
    unlimited = resource.prlimit(keeper.pid, resource.RLIMIT_AS)
    with open(f"/proc/{keeper.pid}/statm", encoding="ascii") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.prlimit(keeper.pid, resource.RLIMIT_AS, (held, unlimited[1]))
    ends = [host.call("run", ["echo", "x" * 120_000] * 4)["job"] for _ in range(2)]
    for end in ends:  # it may just have had enough, and if not, it reports that
        assert end["status"] in {"done", "failed"}
        assert end["status"] == "done" or end["reason"] in {"launch_failed", "nonzero_exit", "lost"}, end
    resource.prlimit(keeper.pid, resource.RLIMIT_AS, unlimited)
    assert host.call("run", ["echo", "after"])["value"] == "after\n"
    assert world.catalog.cancel(first).status == "cancelled"
    assert leader.ended()


# ---------------------------------------------------------------- clocks


@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_wall_clock_is_set_by_an_hour(world: World, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """Deadlines run on the boot clock, so a job neither ends early nor lives longer; only a TTL uses the wall clock."""
    async with supervisor.open_supervisor() as sup:
        long = await sup.start(["sleep", "600"], deadline_seconds=1800)
        short = await sup.start(["sleep", "600"], deadline_seconds=1.0)
        done = await sup.run(["echo", "x"])
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + hours * 3600 * 10**9)
        begun = time.monotonic()
        with trio.fail_after(60):
            assert (await sup.wait(short.job_id)).status == "timeout"
        assert 0.5 < time.monotonic() - begun < 10
        now = await sup.status(long.job_id)
        assert (now.status, now.stop_requested) == ("running", None)
        assert (await sup.result(done.job.job_id)).value == "x\n"
        adopted = await sup.run(["echo", "y"])
        assert adopted.job.elapsed_ms >= 0
    with Catalog(supervisor.Settings()) as catalog:
        assert catalog.status(long.job_id).status == "running"
        assert catalog.cancel(long.job_id).status == "cancelled"
    assert world.root.exists()


@pytest.mark.parametrize("seconds", [0, 365 * 86400])
def test_a_deadline_of_no_time_and_of_a_year(world: World, seconds: float) -> None:
    host = world.host()
    job_id = host.start("sleep", "600", deadline_seconds=seconds)
    if seconds:
        host.kill()
        job = world.catalog.status(job_id)
        assert job.status == "running"
        assert job.deadline_at is not None
        assert job.started_at is not None
        assert (job.deadline_at - job.started_at).total_seconds() == seconds
        assert world.catalog.cancel(job_id).status == "cancelled"
    else:
        assert host.call("wait", job_id, timeout=15)["status"] == "timeout"


# ---------------------------------------------------------------- standing still


def test_a_supervisor_that_was_stopped_and_goes_on(world: World) -> None:
    host, gate = world.host(), world.fifo()
    job_id = host.start("sh", "-c", 'read line < "$1"; exit 4', "sh", str(gate))
    late = host.start("sleep", "600", deadline_seconds=0.3)
    held = world.hold(host.pid)
    world.stop(held)
    gate.open()
    (ended, timed_out) = world.catalog.wait([job_id, late], timeout=60)  # the keeper handles both
    assert (ended.exit_code, timed_out.status) == (4, "timeout")
    world.resume(held)
    assert host.call("wait", job_id)["exit_code"] == 4
    assert host.call("wait", late)["status"] == "timeout"
    assert host.call("run", ["echo", "on"])["value"] == "on\n"


def test_a_keeper_that_was_stopped_and_goes_on(world: World) -> None:
    host, gate = world.host(), world.fifo()
    job_id = host.start("sh", "-c", 'read line < "$1"; exit 4', "sh", str(gate))
    leader, keeper = world.leader(job_id), world.keeper(job_id)
    world.stop(keeper)
    gate.open()
    assert leader.ended()
    assert host.call("status", job_id)["status"] == "running"  # a keeper that lives is awaited
    asked = host.ask("run", ["echo", "on"])
    assert world.catalog.list(state="queued").jobs or not host.answered(asked)
    world.resume(keeper)
    assert host.call("wait", job_id)["exit_code"] == 4
    assert host.answer(asked)["value"] == "on\n"


def test_a_launch_that_waits_for_a_keeper_that_is_stopped_can_be_cancelled(world: World) -> None:
    """It is not claimed yet, so it certainly never runs."""
    host, ran = world.host(), world.fifo()
    keeper = world.keeper(host.start("sleep", "600"))
    world.stop(keeper)
    asked = host.ask("start", ["sh", "-c", 'echo ran > "$1"', "sh", str(ran)])
    wait_until(lambda: [job for job in world.catalog.list(state="queued").jobs if job.argv[0] == "sh"])
    (job,) = [job for job in world.catalog.list(state="queued").jobs if job.argv[0] == "sh"]
    assert world.catalog.cancel(job.job_id).status == "cancelled"
    world.resume(keeper)
    assert host.answer(asked)["job_id"] == job.job_id
    assert host.call("run", ["echo", "on"])["value"] == "on\n"  # by now the keeper has read the other request
    assert ran.silent


# ---------------------------------------------------------------- large and odd


def test_an_argv_and_an_environment_of_a_mebibyte(world: World) -> None:
    part = "x" * (64 << 10)  # one string may have 128 KiB
    script = 'printf "%s" "$*" | wc -c; env | grep -c ^BIG_'
    env = {f"BIG_{number}": part for number in range(16)} | {"PATH": os.environ["PATH"]}
    result = world.host().call("run", ["sh", "-c", script, "sh", *[part] * 16], env=env, stdin=None)
    if result["job"]["reason"] == "launch_failed":  # a string that is too long for this system is reported
        assert "too long" in result["job"]["detail"]
    else:
        assert result["value"].split() == [str(16 * len(part) + 15), "16"]


def test_an_argument_that_is_too_long_for_the_system(world: World) -> None:
    job = world.host().call("run", ["echo", "x" * (1 << 20)])["job"]
    assert (job["status"], job["reason"]) == ("failed", "launch_failed")
    assert "too long" in job["detail"]


def test_a_million_lines_on_stderr(world: World) -> None:
    result = world.host().call("run", ["sh", "-c", "seq 1000000 >&2; echo last >&2; exit 3"])
    job = result["job"]
    assert (job["exit_code"], job["stdout_bytes"]) == (3, 0)
    assert job["stderr_bytes"] == sum(len(str(number)) + 1 for number in range(1, 1_000_001)) + 5
    assert job["detail"].endswith("last")
    assert len(job["detail"]) < 5000


ODD = "nul:\\0 high:\\0377\\0376 half:\\0355\\0240\\0200 over:\\0300\\0200 end"


@pytest.mark.parametrize("kind", ["raw", "json", "claude", "codex"])
def test_nul_and_invalid_utf_8_everywhere(world: World, kind: str) -> None:
    host = world.host()
    argv = ["sh", "-c", 'printf "%b" "$1"; printf "%b" "$1" >&2; exit 3', "sh", ODD]
    result = host.call("run", argv, kind=kind, labels={"\udcff": "x"} if kind == "none" else {"é\u202e": "\x00\x1b"})
    assert result["job"]["status"] == "failed"
    json.dumps(result, ensure_ascii=True)
    text = json.dumps(result["job"]["detail"])
    assert "\\u0000" not in text
    assert "\\ud" not in text
    job_id = result["job"]["job_id"]
    again = world.catalog.result(job_id)
    assert again.error is not None
    assert (world.job(job_id) / records.STDOUT).read_bytes().startswith(b"nul:\x00 high:\xff\xfe half:\xed\xa0\x80")


def test_a_workspace_that_is_no_utf_8(world: World) -> None:
    workspace = os.fsencode(world.directory) + b"/\xff\xfe\x01"
    os.mkdir(workspace)
    job = world.host().call("run", ["pwd"], workspace=os.fsdecode(workspace))["job"]
    assert job["status"] == "done"
    with Catalog(supervisor.Settings()) as catalog:
        (listed,) = catalog.list(workspace=os.fsdecode(workspace)).jobs
    assert os.fsencode(listed.workspace) == workspace


@pytest.mark.parametrize("number", [signal.SIGXFSZ, signal.SIGXCPU])
def test_a_job_that_meets_a_limit_of_its_own(world: World, number: signal.Signals) -> None:
    limit = (
        "ulimit -f 1; exec dd if=/dev/zero bs=64k" if number is signal.SIGXFSZ else "ulimit -t 1; while :; do :; done"
    )
    job = world.host().call("run", ["sh", "-c", limit])["job"]
    assert (job["status"], job["reason"]) == ("failed", "killed_by_signal")
    assert job["signal"] in {number, signal.SIGKILL}
