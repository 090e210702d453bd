"""Jobs for a cluster in groups: nothing is submitted before it is admitted, and then once, whatever is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from supervisor.admission import groups, launch_helper
from supervisor.jobdir import records
from supervisor.jobdir.records import GRANTED, ORDERS, STDIN
from supervisor.system import processes
from tests.engines import toy_cluster
from tests.process.conftest import PACKAGE, Fifo, Host, World
from tests.process.test_grants import OTHER_BOOT, lose_index, reboot

if TYPE_CHECKING:
    from tests.conftest import FakeSlurm

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 60
HOLD = 'echo "$2" > "$1"; read line < "$0"; echo "$2"; cat'


@attrs.frozen
class Site:
    """A cluster with a shared directory, and programs that use it."""

    world: World
    engine: str
    shared: Path
    slurm: FakeSlurm | None
    queue: Path
    package: Path

    @property
    def options(self) -> dict[str, Any]:
        return {"engine": self.engine, "engine_options": {"shared_dir": str(self.shared)}}

    def host(self) -> Host:
        return self.world.host(package=self.package)

    def start(self, host: Host, *argv: str, **named: Any) -> str:
        return host.start(*argv, groups=["g"], **self.options, **named)

    def submitted(self) -> list[str]:
        """Return the jobs that the cluster was given, a job once for each time."""
        if self.slurm is None:
            return sorted(os.listdir(self.queue))
        names = [next(word for word in call.split() if "--job-name=" in word) for call in self.slurm.calls("sbatch")]
        return [name.rpartition("supervisor-")[2] for name in names]

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "supervisor", *words]
        environment = os.environ | {"PYTHONPATH": str(self.package)}
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=PATIENCE)

    def counts(self) -> tuple[int, int]:
        found = self.world.catalog.index.queue.counts("g")
        return found.running, found.waiting

    def wait(self, *job_ids: str) -> list[str]:
        return [job.status.value for job in self.world.catalog.wait(job_ids, timeout=PATIENCE)]


def make_site(world: World, tmp_path: Path, engine: str, request: pytest.FixtureRequest) -> Site:
    package = PACKAGE
    if engine == "toy":
        monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        toy_cluster.install(tmp_path, monkeypatch)
        package = Path(f"{PACKAGE}{os.pathsep}{tmp_path / 'site'}")
    slurm = request.getfixturevalue("fake_slurm") if engine == "slurm" else None
    return Site(world, engine, tmp_path / "shared", slurm, tmp_path / "queue", package)


@pytest.fixture(params=["slurm", "toy"])
def site(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """A cluster of either kind, and a group of limit 1."""
    made = make_site(world, tmp_path, request.param, request)
    set_limit(world, 1)
    return made


@pytest.fixture
def slurm_site(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """An imitation of Slurm, which can be told to let jobs wait, and a group of limit 1."""
    made = make_site(world, tmp_path, "slurm", request)
    set_limit(world, 1)
    return made


def set_limit(world: World, limit: int) -> None:
    groups.change_group(world.catalog.index, "g", lambda group: attrs.evolve(group, limit=limit), create=True)


def held(gate: Fifo, up: Fifo, name: str) -> tuple[str, ...]:
    """Return a command that says its name through ``up``, and ends when ``gate`` lets it."""
    return ("sh", "-c", HOLD, str(gate), str(up), name)


def until(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)  # another program's doing, of which there is no event


def test_a_limit_counts_cluster_and_local_jobs_alike(site: Site) -> None:
    set_limit(site.world, 2)
    gate, up = site.world.fifo(), site.world.fifo()
    host = site.host()
    on_cluster = [True, False, True, False, True]
    jobs = [
        host.call("start", list(held(gate, up, str(number))), groups=["g"], **(site.options if there else {}))
        for number, there in enumerate(on_cluster)
    ]
    ids = [job["job_id"] for job in jobs]
    assert {up.line(), up.line()} == {"0", "1"}
    assert [(job["status"], job["queue_reason"], job["queue_position"]) for job in jobs[2:]] == [
        ("queued", "limit", 1),
        ("queued", "limit", 2),
        ("queued", "limit", 3),
    ]
    assert site.counts() == (2, 3)
    assert site.submitted() == [ids[0]]
    for expected in "234":
        gate.open()
        assert up.line() == expected
        assert site.counts()[0] == 2
    gate.open(2)
    assert site.wait(*ids) == ["done"] * 5
    assert sorted(site.submitted()) == sorted(ids[::2])
    assert site.counts() == (0, 0)


def test_a_waiting_job_is_submitted_by_the_next_supervisor_with_what_it_was_started_with(site: Site) -> None:
    gate, up = site.world.fifo(), site.world.fifo()
    first = site.host()
    running = site.start(first, *held(gate, up, "first"))
    assert up.line() == "first"
    environment = {**os.environ, "SECRET": "s3"}
    waiting = site.start(first, "sh", "-c", 'cat; echo "$SECRET"', env=environment)
    orders = site.shared / waiting / ORDERS
    assert orders.stat().st_mode & 0o777 == 0o600
    assert b"SECRET=s3" in orders.read_bytes()
    first.kill()
    status = site.world.catalog.status(waiting)
    assert (status.status, status.queue_reason, status.queue_position) == ("queued", "limit", 1)
    assert site.submitted() == [running]
    second = site.host()
    gate.open()
    assert second.call("wait", waiting, timeout=PATIENCE)["status"] == "done"
    assert second.call("result", waiting)["value"] == "s3\n"
    assert sorted(site.submitted()) == sorted([running, waiting])
    assert site.counts() == (0, 0)
    assert not {ORDERS, STDIN} & set(os.listdir(site.shared / waiting))
    assert not (site.world.job(waiting) / GRANTED).exists()


def test_jobs_that_a_command_has_started_are_submitted_after_it(site: Site) -> None:
    """No supervisor is open between the commands: the process that they start submits what waits, and ends."""
    gate, up = site.world.fifo(), site.world.fifo()
    words = ("start", "--group", "g", "--engine", site.engine, "--shared-dir", str(site.shared), "--")
    started = [site.cli(*words, *held(gate, up, name)) for name in ("a", "b", "c")]
    assert [done.returncode for done in started] == [0, 0, 0], started[0].stderr
    ids = [done.stdout.strip() for done in started]
    for number, expected in enumerate("abc", 1):
        assert up.line() == expected
        assert len(site.submitted()) == number
        gate.open()
    assert site.wait(*ids) == ["done"] * 3
    assert not launch_helper.can_go_on(site.world.catalog.index)


@pytest.mark.parametrize("way", ["its supervisor", "command line"])
def test_the_cancel_of_a_waiting_job_ends_it_unsubmitted(site: Site, way: str) -> None:
    gate, up = site.world.fifo(), site.world.fifo()
    host = site.host()
    running = site.start(host, *held(gate, up, "first"))
    waiting = site.start(host, "echo", "never")
    if way == "its supervisor":
        assert host.call("cancel", waiting)["status"] == "cancelled"
    else:
        assert site.cli("cancel", waiting).returncode == 0
    job = site.world.catalog.status(waiting)
    assert (job.status, job.reason, job.started_at, job.queue_position) == ("cancelled", "cancelled", None, None)
    assert host.call("wait", waiting, timeout=PATIENCE)["status"] == "cancelled"
    assert site.counts() == (1, 0)
    assert not (site.shared / waiting / ORDERS).exists()
    assert up.line() == "first"
    gate.open()
    assert site.wait(running) == ["done"]
    assert site.submitted() == [running]


def test_a_job_with_damaged_orders_fails_and_frees_its_slot(site: Site) -> None:
    gate, up = site.world.fifo(), site.world.fifo()
    first = site.host()
    site.start(first, *held(gate, up, "first"))
    assert up.line() == "first"
    damaged, whole = site.start(first, "true"), site.start(first, "true")
    first.kill()
    (site.shared / damaged / ORDERS).write_bytes(b"rubbish\0")
    site.host()
    gate.open()
    assert site.wait(damaged, whole) == ["failed", "done"]
    assert site.world.catalog.status(damaged).reason == "launch_failed"
    assert site.counts() == (0, 0)


def test_a_job_that_its_cluster_has_queued_holds_its_slot(slurm_site: Site) -> None:
    site, slurm = slurm_site, slurm_site.slurm
    assert slurm is not None
    slurm.arrange("hold")
    host = site.host()
    first, second = site.start(host, "true"), site.start(host, "true")
    until(lambda: host.call("status", first)["queue_reason"] == "Resources")
    status = site.world.catalog.status(first)
    assert (status.status, status.queue_reason, status.queue_position) == ("queued", "Resources", None)
    assert (site.shared / first / ORDERS).exists()  # its node needs them
    assert host.call("status", second)["queue_reason"] == "limit"
    assert (site.counts(), site.submitted()) == ((1, 1), [first])
    slurm.mend("hold")
    slurm.release()
    assert site.wait(first, second) == ["done", "done"]
    assert site.submitted() == [first, second]


def test_no_process_is_kept_for_what_the_cluster_has_queued(slurm_site: Site) -> None:
    """Unless a job waits behind it: no keeper of this machine notices the end of a job of a cluster."""
    site, slurm = slurm_site, slurm_site.slurm
    assert slurm is not None
    slurm.arrange("hold")
    words = ("start", "--group", "g", "--engine", "slurm", "--shared-dir", str(site.shared), "--", "true")
    first = site.cli(*words).stdout.strip()
    assert site.submitted() == [first]
    assert not launch_helper.can_go_on(site.world.catalog.index)
    second = site.cli(*words).stdout.strip()
    assert launch_helper.can_go_on(site.world.catalog.index)
    slurm.mend("hold")
    slurm.release()
    until(lambda: site.submitted() == [first, second])
    assert site.wait(first, second) == ["done", "done"]


@pytest.mark.parametrize("killed", [True, False])
def test_a_rebuilt_index_has_the_same_counts(slurm_site: Site, *, killed: bool) -> None:
    """Of a running job, of one that its cluster has queued, and of one that waits here."""
    site, slurm = slurm_site, slurm_site.slurm
    assert slurm is not None
    set_limit(site.world, 2)
    gate, up = site.world.fifo(), site.world.fifo()
    host = site.host()
    running = site.start(host, *held(gate, up, "first"))
    assert up.line() == "first"
    slurm.arrange("hold")
    queued, waiting = site.start(host, "true"), site.start(host, "true")
    until(lambda: queued in site.submitted())
    if killed:
        host.kill()
    set_limit(site.world, 1)  # which stops none
    (site.world.root / "registry.db").write_bytes(b"rubbish" * 1000)
    assert site.world.catalog.status(waiting).queue_position == 1
    assert site.counts() == (2, 1)
    if killed:
        site.host()
    slurm.mend("hold")
    slurm.release()
    gate.open()
    assert site.wait(running, queued, waiting) == ["done"] * 3
    assert sorted(site.submitted()) == sorted([running, queued, waiting])
    assert site.counts() == (0, 0)


@pytest.mark.parametrize("index", ["there", "lost"])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_job_in_the_queue_of_its_cluster_holds_its_slot_over_a_reboot_of_this_machine(
    slurm_site: Site, index: str, *, recorded: bool
) -> None:
    site, slurm = slurm_site, slurm_site.slurm
    assert slurm is not None
    slurm.arrange("hold")
    host = site.host()
    queued, waiting = site.start(host, "true"), site.start(host, "true")
    until((site.shared / queued / records.SUBMISSION).exists)
    host.kill()
    if not recorded:
        (site.shared / queued / records.SUBMISSION).unlink()
    for job_id in (queued, waiting):
        reboot(site.world, job_id)
    if index == "lost":
        lose_index(site.world)
    heir = site.host()
    assert heir.call("status", waiting)["queue_reason"] == "limit"
    until(lambda: site.world.catalog.row(queued).owner.split(".")[2] != OTHER_BOOT)
    assert site.counts() == (1, 1)
    slurm.mend("hold")
    slurm.release()
    assert site.wait(queued, waiting) == ["done", "done"]
    assert site.submitted() == [queued, waiting]


def test_a_submission_that_was_not_recorded_is_found_at_the_cluster(slurm_site: Site) -> None:
    """The submitter was killed between the answer of sbatch and its record."""
    site, slurm = slurm_site, slurm_site.slurm
    assert slurm is not None
    slurm.arrange("hold")
    host = site.host()
    job_id = site.start(host, "sh", "-c", "echo ran >> runs")
    host.kill()
    record = site.shared / job_id / records.SUBMISSION
    record.unlink()
    assert site.world.catalog.status(job_id).status == "queued"
    site.host()
    until(record.exists)
    slurm.mend("hold")
    slurm.release()
    assert site.wait(job_id) == ["done"]
    assert site.submitted() == [job_id]


def test_a_submitter_that_is_killed_while_sbatch_runs_leaves_a_job_that_is_submitted(slurm_site: Site) -> None:
    site, slurm = slurm_site, slurm_site.slurm
    assert slurm is not None
    slurm.arrange("tarry")
    host = site.host()
    host.ask("start", ["sh", "-c", "echo ran >> runs"], groups=["g"], **site.options)
    until(site.submitted)
    host.kill()
    slurm.mend("tarry")
    (job_id,) = set(site.submitted())
    assert site.counts() == (1, 0)
    site.host()
    assert site.wait(job_id) == ["done"]
    assert (site.world.directory / "runs").read_text() == "ran\n"
    assert site.counts() == (0, 0)


def test_two_directories_with_one_key_leave_it_to_the_one_that_ran(slurm_site: Site) -> None:
    """Its claim is in the shared directory."""
    site = slurm_site
    host = site.host()
    ran = site.start(host, "true", idempotency_key="k")
    assert site.wait(ran) == ["done"]
    other = site.start(host, "true")
    assert site.wait(other) == ["done"]
    host.kill()
    (site.shared / other / records.CLAIM).unlink()
    for directory in (site.world.job(other), site.shared / other):
        record = directory / records.JOB
        text = record.read_text()
        record.write_text(text.replace('"idempotency_key":null', '"idempotency_key":"k"'))
        assert record.read_text() != text
    (site.world.root / "registry.db").write_bytes(b"rubbish" * 1000)
    row = site.world.catalog.row(ran)
    assert row.idempotency_key == "k"
