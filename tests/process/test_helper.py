"""Who launches a waiting job when only keepers are left: the helper, which one of them starts."""

from __future__ import annotations

import contextlib
import io
import marshal
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import supervisor
from supervisor.admission import launch_helper
from supervisor.keeper import entry as keeper_entry
from supervisor.keeper import protocol
from supervisor.keeper.helper_starts import lock_name, take_lock
from supervisor.system import processes
from tests.process.conftest import PACKAGE
from tests.process.test_groups import command, held, make

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 60


def helpers(root: Path) -> list[int]:
    """Return the pids of the helpers of a state root, without the children that they have just forked."""
    found: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            entries = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            if b"launch-waiting" in words and b"SUPERVISOR_STATE_DIR=" + os.fsencode(root) in entries:
                process = processes.read_process(int(name))
                found[int(name)] = 0 if process is None else process.parent
    return [pid for pid, parent in found.items() if parent not in found]


def its_lock(root: Path) -> str:
    return str(root / lock_name())


def wait_for_no_helper(root: Path) -> None:
    give_up = time.monotonic() + PATIENCE
    while (descriptor := take_lock(its_lock(root))) is None:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.close(descriptor)


def kill_helpers(world: World) -> None:
    """Kill every helper, once the keeper of a killed supervisor has started it."""
    give_up = time.monotonic() + PATIENCE
    while not (found := helpers(world.root)):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    for pid in found:
        world.hold(pid).kill()
    assert not helpers(world.root)


def test_the_keeper_of_a_killed_supervisor_starts_the_helper(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "first"), groups=["g"])
    host.start(*held(gate, up, "second"), groups=["g"])
    assert up.line() == "first"
    host.kill()
    gate.open()
    assert up.line() == "second"
    assert not launch_helper.ensure(world.catalog.index), "there is a helper"
    gate.open()
    wait_for_no_helper(world.root)


def test_with_keepers_only_the_end_of_a_job_has_the_next_launched(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    jobs = [host.start(*held(gate, up, name), groups=["g"]) for name in ("first", "second", "third")]
    assert up.line() == "first"
    host.kill()
    kill_helpers(world)
    gate.open()
    assert up.line() == "second"
    kill_helpers(world)  # its keeper starts another one
    gate.open()
    assert up.line() == "third"
    gate.open()
    assert [job.status for job in world.catalog.wait(jobs, timeout=PATIENCE)] == ["done"] * 3
    wait_for_no_helper(world.root)


def test_keepers_of_several_supervisors_start_one_helper(world: World) -> None:
    make(world, "g", 4)
    gate, up = world.fifo(), world.fifo()
    hosts = world.hosts(4)
    for number, host in enumerate(hosts):
        host.start(*held(gate, up, str(number)), groups=["g"])
    waiting = [hosts[0].start("true", groups=["g"]) for _ in range(4)]
    assert {up.line() for _ in hosts} == set("0123")
    seen: set[int] = set()
    for host in hosts:
        host.kill()
    gate.open(4)
    give_up = time.monotonic() + PATIENCE
    while any(world.catalog.index.get(job_id).completed_ns is None for job_id in waiting):  # type: ignore[union-attr]
        seen.update(helpers(world.root))
        assert time.monotonic() < give_up
    assert len(seen) == 1
    wait_for_no_helper(world.root)


def test_a_supervisor_that_leaves_in_order_has_no_helper_started_by_its_keeper(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    first = host.start(*held(gate, up, "first"), groups=["g"])
    assert up.line() == "first"
    keeper = world.keeper(first)
    assert host.call("run", ["true"])["job"]["status"] == "done"
    gate.open()
    assert host.call("wait", first, timeout=PATIENCE)["status"] == "done"
    assert host.leave() == 0
    assert keeper.ended()
    assert not os.path.exists(its_lock(world.root)), "a process was about to start a helper"


def test_a_second_helper_exits_at_once(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    started = [command(world, "start", "--group", "g", "--", *held(gate, up, name)) for name in ("a", "b")]
    assert [done.returncode for done in started] == [0, 0]
    assert up.line() == "a"
    give_up = time.monotonic() + PATIENCE
    while len(found := helpers(world.root)) != 1:
        assert time.monotonic() < give_up
    second = command(world, "launch-waiting")
    assert second.returncode == 0
    assert helpers(world.root) == found
    gate.open()
    assert up.line() == "b"
    gate.open()
    wait_for_no_helper(world.root)


def test_a_helper_whose_state_root_was_moved_makes_no_other_one(world: World) -> None:
    words = [sys.executable, "-P", "-m", "supervisor", "launch-waiting"]
    root = world.directory / "moved"
    environment = world.environment | {"SUPERVISOR_STATE_DIR": str(root)}
    assert subprocess.run(words, env=environment, check=False, timeout=PATIENCE).returncode == 0
    assert not root.exists()


def test_a_helper_gives_its_lock_to_no_job_and_to_no_keeper(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    for name in ("a", "b"):
        assert command(world, "start", "--group", "g", "--", *held(gate, up, name)).returncode == 0
    assert up.line() == "a"
    gate.open()
    assert up.line() == "b"  # launched by the helper
    (pid,) = helpers(world.root)
    process = world.hold(pid)
    process.send(signal.SIGKILL)
    assert process.ended()
    descriptor = take_lock(its_lock(world.root))
    if descriptor is not None:  # else its keeper has started another helper already
        os.close(descriptor)
    else:
        assert helpers(world.root) != [pid]
    gate.open()
    wait_for_no_helper(world.root)


def test_with_keepers_only_a_job_is_launched_after_one_that_is_in_no_queue(world: World) -> None:
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    first = host.start(*held(gate, up, "first"))
    assert up.line() == "first"
    host.kill()
    started = command(world, "start", "--after", first, "--", *held(gate, up, "second"))
    assert started.returncode == 0, started.stderr
    kill_helpers(world)
    gate.open()
    assert up.line() == "second"
    gate.open()
    wait_for_no_helper(world.root)


BEFORE = "e252917"
"""The last commit whose keepers start no helper."""


@pytest.fixture(scope="session")
def package_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    command_line = ["git", "-C", str(PACKAGE), "archive", BEFORE, "supervisor"]
    try:
        archive = subprocess.run(command_line, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the git history with {BEFORE}: {error}")
    package = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(package, filter="data")
    return package


@pytest.mark.usefixtures("world")
async def test_a_keeper_of_the_version_before_serves_this_one(
    package_before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_entry, "__file__", str(package_before / "supervisor" / "keeper" / "entry.py"))
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        with trio.fail_after(PATIENCE):
            first = await sup.start(["sleep", "600"], groups=["g"])
            second = await sup.start(["echo", "x"], groups=["g"])
            assert (await sup.cancel(first.job_id)).status == "cancelled"
            assert (await sup.wait(second.job_id)).status == "done"


@pytest.mark.parametrize("older", ["host", "heir"])
def test_waiting_jobs_pass_between_this_version_and_the_one_before(
    world: World, package_before: Path, older: str
) -> None:
    """The keeper of the first version has the running job, and the second version launches what waits."""
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    before, now = {"package": package_before}, {"package": PACKAGE}
    first, second = (before, now) if older == "host" else (now, before)
    host = world.host(**first)
    jobs = [host.start(*held(gate, up, name), groups=["g"]) for name in ("a", "b")]
    assert up.line() == "a"
    heir = world.host(**second)
    host.kill()
    gate.open()
    assert up.line() == "b"
    gate.open()
    assert [heir.call("wait", job_id, timeout=PATIENCE)["status"] for job_id in jobs] == ["done", "done"]


def test_a_supervisor_of_the_version_before_is_served_by_a_keeper_of_this_one(world: World) -> None:
    """As after an upgrade below a running program: its messages have no further members."""
    ours, theirs = socket.socketpair()
    with ours:
        words = [sys.executable, "-I", "-S", keeper_entry.__file__, str(world.root)]
        with theirs:
            assert subprocess.run(words, stdin=theirs, timeout=PATIENCE, check=False).returncode == 0
        directory = world.root / "w-1" / "j1"
        directory.mkdir(parents=True)
        launch = ("launch", 1, "./w-1/j1", [b"/bin/true"], 0, {}, None, 1.0, 1 << 20, False, 1)
        data = marshal.dumps([("env", 0, {}), launch])
        workspace = os.open("/", os.O_RDONLY)
        socket.send_fds(ours, [len(data).to_bytes(4, "little") + data], [workspace])
        os.close(workspace)
        frames, kinds = protocol.Frames(), list[str]()
        ours.settimeout(PATIENCE)
        while "exit" not in kinds:
            frames.add(ours.recv(1 << 16))
            kinds += [message.kind for message in frames.take()]
    assert kinds == ["hello", "launched", "exit"]
