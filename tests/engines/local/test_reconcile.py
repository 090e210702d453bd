from __future__ import annotations

import errno
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.engines.interface import JobPhase, Observation
from supervisor.engines.local import reconcile
from supervisor.engines.local.evidence import Evidence, Leader, Origin
from supervisor.engines.local.reconcile import Decision, decide
from supervisor.jobdir import records, stops
from supervisor.system import processes

NOW = 1000
KEEPER = "keeper.10.20.0123456789ab.4026531836"
PROCESS = {"pid": 7, "start": 8, "boot": "b", "ns": "n", "keeper_pid": 10, "keeper_start": 20, "deadline_boot_ns": None}

# Every value that makes a difference, by the names that the table below uses.
VALUES: dict[str, dict[str, Any]] = {
    "place": {"here": Origin.HERE, "earlier": Origin.EARLIER_BOOT, "elsewhere": Origin.ELSEWHERE},
    "owner": {"lives": True, "gone": False},
    "claim": {"none": None, "nobody": records.NOBODY, "keeper": KEEPER, "unreadable": ""},
    "keeper": {"lives": True, "gone": False},
    "process": {
        "none": None,
        "damaged": {},
        "endless": PROCESS,
        "in time": {**PROCESS, "deadline_boot_ns": NOW + 1},
        "overdue": {**PROCESS, "deadline_boot_ns": NOW},
    },
    "stop": {
        "none": None,
        "damaged": {},
        "asked": {"why": "cancelled", "signalled_boot_ns": None, "gone": False},
        "begun": {"why": "cancelled", "signalled_boot_ns": 5, "gone": False},
        "done": {"why": "cancelled", "signalled_boot_ns": 5, "gone": True},
    },
    "exit": {"none": None, "damaged": {}, "there": {"exit_code": 0, "signal": None, "ended_ns": 1}},
    "leader": {"none": Leader.NONE, "alive": Leader.ALIVE, "zombie": Leader.ZOMBIE, "gone": Leader.GONE},
    "status": {"unknown": None, "known": 256},
}
KNOWN = "endless|in time|overdue"

# The first row that fits decides. What is not named does not matter.
TABLE: list[tuple[dict[str, str], Decision]] = [
    # An exit record is the end, unless a stop had begun and the rest of the tree is still to be ended.
    ({"exit": "there", "stop": "begun", "place": "here", "process": KNOWN, "keeper": "lives"}, Decision.WAIT_RUNNING),
    ({"exit": "there", "stop": "begun", "place": "here", "process": KNOWN, "keeper": "gone"}, Decision.STOP),
    ({"exit": "there"}, Decision.ENDED),
    # Without one, another host or namespace is out of reach.
    ({"place": "elsewhere"}, Decision.ELSEWHERE),
    # Never launched, as far as is known.
    ({"process": "none", "claim": "none", "owner": "lives"}, Decision.WAIT_QUEUED),
    ({"process": "none", "claim": "none", "owner": "gone"}, Decision.RULE_NEVER_LAUNCHED),
    ({"process": "none|damaged", "claim": "nobody"}, Decision.NOTE_NEVER_LAUNCHED),
    ({"process": "none|damaged", "place": "earlier"}, Decision.NOTE_UNKNOWN),
    ({"process": "none", "keeper": "lives", "exit": "none"}, Decision.WAIT_QUEUED),
    ({"process": "damaged", "keeper": "lives", "exit": "none"}, Decision.RESTORE),
    ({"process": "none|damaged"}, Decision.SEARCH_MARK),
    # Launched: nothing outlives its boot, and a keeper notes every end.
    ({"place": "earlier"}, Decision.NOTE_UNKNOWN),
    (
        {"keeper": "lives", "exit": "damaged", "leader": "gone", "stop": "none|damaged|asked|done"},
        Decision.NOTE_UNKNOWN,
    ),
    ({"keeper": "lives"}, Decision.WAIT_RUNNING),
    # Nobody watches it: whoever looks has to act.
    ({"leader": "alive", "stop": "asked|begun|done"}, Decision.STOP),
    ({"leader": "alive", "process": "overdue"}, Decision.STOP),
    ({"leader": "alive"}, Decision.WAIT_RUNNING),
    ({"stop": "begun"}, Decision.STOP),
    ({"status": "known"}, Decision.NOTE_ZOMBIE),
    ({}, Decision.NOTE_UNKNOWN),
]


def fits(row: dict[str, str], case: dict[str, str]) -> bool:
    return all(case[name] in wanted.split("|") for name, wanted in row.items())


def test_decide_agrees_with_the_table_in_every_case() -> None:
    used = set()
    wrong = []
    cases = 0
    for chosen in itertools.product(*VALUES.values()):
        case = dict(zip(VALUES, chosen, strict=True))
        values = {name: VALUES[name][value] for name, value in case.items()}
        seen = Evidence(
            place=values["place"],
            owner_lives=values["owner"],
            claim=values["claim"],
            keeper_lives=values["keeper"],
            process=values["process"],
            stop=values["stop"],
            exit=values["exit"],
            leader=values["leader"],
            zombie_status=values["status"],
            now_boot_ns=NOW,
        )
        number, wanted = next((n, decision) for n, (row, decision) in enumerate(TABLE) if fits(row, case))
        used.add(number)
        cases += 1
        if decide(seen) is not wanted:
            wrong.append((case, decide(seen), wanted))
    assert not wrong, wrong[:3]
    assert used == set(range(len(TABLE)))
    assert cases == 28_800
    assert {decision for _, decision in TABLE} == set(Decision)


# ---------------------------------------------------------------- on real directories


@attrs.frozen
class Identity:
    pid: int
    start: int


def identity(process: subprocess.Popen[bytes]) -> Identity:
    found = processes.read_process(process.pid)
    assert found is not None
    return Identity(process.pid, found.start)


@pytest.fixture
def spawn() -> Iterator[Callable[..., Identity]]:
    """Start a process and return who it is; ``zombie`` waits until it has ended, without reaping it."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str, zombie: bool = False, env: dict[str, str] | None = None) -> Identity:
        process = subprocess.Popen(command or ("sleep", "600"), env=env, start_new_session=True)
        started.append(process)
        who = identity(process)
        if zombie:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return who

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def gone() -> Identity:
    """Somebody who is no more."""
    with subprocess.Popen(["sleep", "600"]) as process:
        who = identity(process)
        process.kill()
    return who


@attrs.define
class Directory:
    """A job directory, record by record."""

    path: str

    def process(self, leader: Identity, keeper: Identity, **changes: Any) -> None:
        record: dict[str, object] = {"pid": leader.pid, "start": leader.start}
        record |= {"boot": processes.boot_id(), "ns": processes.pid_namespace()}
        record |= {"keeper_pid": keeper.pid, "keeper_start": keeper.start, "deadline_boot_ns": None}
        record |= {"started_ns": 11, "started_boot_ns": processes.ticks_to_ns(leader.start)}
        records.replace(self.path, records.PROCESS, {**record, **changes})

    def exit(self, leader: Identity, **changes: Any) -> None:
        record: dict[str, object] = {"pid": leader.pid, "start": leader.start, "boot": processes.boot_id()}
        records.replace(self.path, records.EXIT, {**record, "exit_code": 3, "signal": None, "ended_ns": 99, **changes})

    def stop(self, **changes: Any) -> None:
        record: dict[str, object] = {"why": "deadline", "signalled_boot_ns": None, "gone": False, **changes}
        records.replace(self.path, records.STOP, record)

    def raw(self, name: str, content: bytes) -> None:
        Path(self.path, name).write_bytes(content)

    def claim(self, keeper: Identity, *, boot: str | None = None, namespace: str | None = None) -> None:
        where = (boot or processes.boot_id(), namespace or processes.pid_namespace())
        assert records.take_claim(self.path, records.keeper_claim(keeper.pid, keeper.start, *where))

    def resolve(self, *, owner_lives: bool = False, **rest: Any) -> Observation:
        return reconcile.resolve(self.path, owner_lives=owner_lives, **rest)


@pytest.fixture
def job(tmp_path: Path) -> Directory:
    path = tmp_path / ("ab" * 16)
    path.mkdir()
    return Directory(str(path))


def how(seen: Observation) -> tuple[int | None, int | None, str | None]:
    assert seen.phase is JobPhase.ENDED
    assert seen.ended is not None
    return seen.ended.exit.exit_code, seen.ended.exit.signal, seen.ended.stopped


def test_an_exit_record_says_how_it_ended(job: Directory, gone: Identity) -> None:
    job.process(gone, gone)
    job.exit(gone, cpu_seconds=0.5, max_rss_bytes=4096)
    seen = job.resolve()
    assert how(seen) == (3, None, None)
    assert seen.ended is not None
    exit_ = seen.ended.exit
    assert (exit_.ended_ns, exit_.cpu_seconds, exit_.max_rss_bytes) == (99, 0.5, 4096)
    assert seen.launched is not None
    assert (seen.launched.pid, seen.launched.started_ns, seen.launched.deadline_boot_ns) == (gone.pid, 11, None)
    assert seen.damage is None


def test_a_running_job_with_a_keeper_is_waited_for(job: Directory, spawn: Callable[..., Identity]) -> None:
    job.process(spawn(), spawn(), deadline_boot_ns=1)
    seen = job.resolve()
    assert (seen.phase, seen.to_stop) == (JobPhase.RUNNING, None)


def test_an_ended_leader_is_left_to_a_keeper_that_lives(job: Directory, gone: Identity, spawn: Any) -> None:
    job.process(gone, spawn())
    assert job.resolve().phase is JobPhase.RUNNING
    assert records.read(job.path, records.EXIT) is None


@pytest.mark.parametrize(
    ("stop", "deadline", "to_stop"),
    [
        (None, None, None),
        (None, 1, "deadline"),
        (None, 1 << 62, None),
        ({"why": "cancelled"}, None, "cancelled"),
        ({"why": "cancelled"}, 1, "cancelled"),
    ],
)
def test_without_a_keeper_whoever_looks_stops_what_has_to_be_stopped(
    job: Directory,
    gone: Identity,
    spawn: Callable[..., Identity],
    stop: dict[str, Any] | None,
    deadline: int | None,
    to_stop: str | None,
) -> None:
    job.process(spawn(), gone, deadline_boot_ns=deadline)
    if stop is not None:
        job.stop(**stop)
    seen = job.resolve()
    assert (seen.phase, seen.to_stop) == (JobPhase.RUNNING, to_stop)


def test_a_record_need_not_name_a_deadline(job: Directory, gone: Identity, spawn: Callable[..., Identity]) -> None:
    job.process(spawn(), gone)
    record = records.read(job.path, records.PROCESS)
    assert record is not None
    del record["deadline_boot_ns"], record["v"]
    records.replace(job.path, records.PROCESS, record)
    seen = job.resolve()
    assert (seen.phase, seen.to_stop, seen.damage) == (JobPhase.RUNNING, None, None)


@pytest.mark.parametrize(("command", "end"), [("exit 5", (5, None)), ("kill -9 $$", (None, 9))])
def test_a_zombie_tells_its_status(
    job: Directory,
    gone: Identity,
    spawn: Callable[..., Identity],
    command: str,
    end: tuple[int | None, int | None],
) -> None:
    job.process(spawn("sh", "-c", command, zombie=True), gone)
    assert how(job.resolve()) == (*end, None)
    noted = records.read(job.path, records.EXIT)
    assert noted is not None
    assert noted["by"] == "zombie"


def test_a_pidfd_may_know_what_nobody_else_does(job: Directory, gone: Identity) -> None:
    job.process(gone, gone)
    assert how(job.resolve(reaped_status=lambda: 7 << 8)) == (7, None, None)


def test_what_nobody_knows_is_unknown(job: Directory, gone: Identity) -> None:
    job.process(gone, gone)
    before = time.time_ns()
    first = job.resolve()
    assert how(first) == (None, None, None)
    assert first.ended is not None
    assert before <= first.ended.exit.ended_ns <= time.time_ns()
    assert job.resolve() == first  # and from now on everybody says the same


def test_a_recycled_pid_is_somebody_else(job: Directory, gone: Identity, spawn: Callable[..., Identity]) -> None:
    leader = spawn()
    job.process(attrs.evolve(leader, start=leader.start - 1), gone)
    assert how(job.resolve()) == (None, None, None)


# ---------------------------------------------------------------- records that are torn or lie


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'{"v":0,"exit_code":0}', b'{"v":1}', b"\xff\xfe", b"[" * 100_000, bytes(4096)],
)
def test_a_torn_exit_record_is_none_and_is_replaced(job: Directory, gone: Identity, content: bytes) -> None:
    job.process(gone, gone)
    job.raw(records.EXIT, content)
    seen = job.resolve()
    assert how(seen) == (None, None, None)
    assert seen.damage == "exit.json cannot be read"
    assert job.resolve().ended == seen.ended


@pytest.mark.parametrize(
    "lie",
    [
        {"pid": 1},
        {"start": 1},
        {"boot": "0" * 32},
        {"exit_code": True},
        {"exit_code": "0"},
        {"exit_code": 0, "signal": 9},
        {"ended_ns": None},
        {"launch_error": "never"},
    ],
)
def test_a_lying_exit_record_is_not_believed(job: Directory, gone: Identity, lie: dict[str, Any]) -> None:
    job.process(gone, gone)
    job.exit(gone, **lie)
    assert how(job.resolve()) == (None, None, None)


def test_a_torn_exit_record_is_left_to_the_keeper(job: Directory, spawn: Callable[..., Identity]) -> None:
    job.process(spawn(), spawn())
    job.raw(records.EXIT, b"{")
    seen = job.resolve()
    assert (seen.phase, seen.damage) == (JobPhase.RUNNING, "exit.json cannot be read")
    assert Path(job.path, records.EXIT).read_bytes() == b"{"


@pytest.mark.parametrize(
    "lie",
    [
        {"pid": 1},
        {"pid": 0},
        {"pid": -1},
        {"pid": None},
        {"pid": True},
        {"start": "8"},
        {"keeper_pid": 1.5},
        {"boot": 5},
        {"pid": 2**31},
        {"start": 2**80},
        {"keeper_pid": -1},
        {"started_ns": 1e9},
        {"started_boot_ns": 12},
        {"deadline_boot_ns": "soon"},
    ],
)
def test_a_process_record_that_makes_no_sense_is_never_acted_on(job: Directory, gone: Identity, lie: Any) -> None:
    job.claim(gone)
    job.process(gone, gone, **lie)
    seen = job.resolve()
    assert how(seen) == (None, None, None)
    assert seen.damage == "process.json cannot be read"
    assert seen.launched is None


def test_a_torn_process_record_is_restored_from_the_mark(
    job: Directory,
    gone: Identity,
    spawn: Callable[..., Identity],
) -> None:
    leader = spawn(env={"SUPERVISOR_JOB_ID": "ab" * 16, "PATH": os.environ["PATH"]})
    job.claim(gone)
    job.raw(records.JOB, b'{"v":1,"deadline_seconds":null}')
    job.raw(records.PROCESS, b"{")
    seen = job.resolve()
    assert seen.phase is JobPhase.RUNNING
    assert seen.launched is not None
    assert seen.launched.pid == leader.pid
    assert abs(seen.launched.started_ns - time.time_ns()) < 60 * 10**9
    record = records.read(job.path, records.PROCESS)
    assert record is not None
    assert (record["pid"], record["start"], record["keeper_pid"]) == (leader.pid, leader.start, gone.pid)


def test_a_link_in_place_of_a_record_is_not_followed(job: Directory, gone: Identity, tmp_path: Path) -> None:
    job.process(gone, gone)
    job.exit(gone)
    os.rename(f"{job.path}/{records.EXIT}", tmp_path / "elsewhere.json")
    os.symlink(tmp_path / "elsewhere.json", f"{job.path}/{records.EXIT}")
    assert how(job.resolve()) == (None, None, None)


# ---------------------------------------------------------------- other boots, hosts, namespaces


def test_nothing_outlives_its_boot(job: Directory, spawn: Callable[..., Identity]) -> None:
    job.process(spawn(), spawn(), boot="0" * 32)
    born = {"host": processes.host_id(), "boot": "0" * 32, "ns": processes.pid_namespace()}
    assert how(job.resolve(born=born)) == (None, None, None)


@pytest.mark.parametrize(("changes", "host"), [({"boot": "0" * 32}, "another"), ({"ns": "1"}, None)])
def test_another_host_or_namespace_is_out_of_reach(
    job: Directory,
    gone: Identity,
    changes: dict[str, str],
    host: str | None,
) -> None:
    job.process(gone, gone, deadline_boot_ns=1, **changes)
    job.stop(why="cancelled")
    born = {"host": host or processes.host_id(), "boot": "0" * 32, "ns": "1"}
    seen = job.resolve(born=born)
    assert (seen.phase, seen.to_stop, seen.stop_requested) == (JobPhase.ELSEWHERE, None, "cancelled")
    assert sorted(os.listdir(job.path)) == ["process.json", "stop.json"]


def test_an_end_elsewhere_is_believed(job: Directory, gone: Identity) -> None:
    job.process(gone, gone, ns="1")
    job.exit(gone)
    assert how(job.resolve()) == (3, None, None)


@pytest.mark.parametrize("born", [{"boot": "0" * 32, "host": "another"}, {"ns": "1"}])
def test_a_job_that_is_queued_elsewhere_is_left_alone(job: Directory, born: dict[str, str]) -> None:
    here = {"host": processes.host_id(), "boot": processes.boot_id(), "ns": processes.pid_namespace()}
    assert job.resolve(born=here | born).phase is JobPhase.ELSEWHERE
    assert os.listdir(job.path) == []


# ---------------------------------------------------------------- claims


def test_nobody_claims_a_job_whose_owner_lives(job: Directory) -> None:
    assert job.resolve(owner_lives=True).phase is JobPhase.QUEUED
    assert records.read_claim(job.path) is None


def test_a_waiting_job_whose_owner_lives_needs_no_look_into_a_record(
    job: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.raw(records.JOB, b"")
    job.raw(records.ORDERS, b"")

    def read(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(records, "read", read)
    assert job.resolve(owner_lives=True) == Observation(phase=JobPhase.QUEUED)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_where_the_names_cannot_be_read_each_record_is_looked_for(
    job: Directory, gone: Identity, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def listdir(path: str) -> list[str]:
        raise OSError(error, os.strerror(error), path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", listdir)
        assert job.resolve(owner_lives=True) == Observation(phase=JobPhase.QUEUED)
        job.process(gone, gone)
        job.exit(gone)
        assert how(job.resolve(owner_lives=True)) == (3, None, None)


def test_a_job_that_is_gone_does_not_wait(job: Directory) -> None:
    os.rmdir(job.path)
    with pytest.raises(FileNotFoundError):
        job.resolve(owner_lives=True)


@pytest.mark.parametrize("claimed", [True, False])
def test_a_stop_that_was_asked_for_before_any_launch_is_a_cancel(job: Directory, claimed: bool) -> None:  # noqa: FBT001
    """Whoever asked for it may have been killed before the claim, or right after it."""
    job.stop(why="cancelled")
    if claimed:
        records.take_claim(job.path, records.NOBODY)
    seen = job.resolve()
    assert how(seen) == (None, None, "cancelled")
    assert seen.ended is not None
    assert (seen.ended.exit.launch_error, seen.ended.exit.never_launched) == (reconcile.CANCELLED_BEFORE, False)


def test_a_job_whose_owner_is_gone_was_never_launched(job: Directory) -> None:
    seen = job.resolve()
    assert seen.ended is not None
    exit_ = seen.ended.exit
    assert (exit_.never_launched, exit_.launch_status, exit_.launch_error) == (True, 125, reconcile.NEVER_LAUNCHED)
    assert records.read_claim(job.path) == records.NOBODY
    assert job.resolve(owner_lives=True) == seen


def test_a_ruling_that_was_not_noted_is_noted(job: Directory) -> None:
    records.take_claim(job.path, records.NOBODY)
    seen = job.resolve(owner_lives=True)
    assert seen.ended is not None
    assert seen.ended.exit.never_launched


def test_a_claim_of_a_keeper_that_lives_is_waited_for(job: Directory, spawn: Callable[..., Identity]) -> None:
    job.claim(spawn())
    assert job.resolve().phase is JobPhase.QUEUED


def test_a_claim_of_a_dead_keeper_without_a_process_is_lost(job: Directory, gone: Identity) -> None:
    job.claim(gone)
    seen = job.resolve()
    assert how(seen) == (None, None, None)
    assert seen.ended is not None
    assert not seen.ended.exit.never_launched  # it may have run, for all that is known


def test_what_a_dead_keeper_has_spawned_is_found_by_its_mark(
    job: Directory,
    gone: Identity,
    spawn: Callable[..., Identity],
) -> None:
    leader = spawn(env={"SUPERVISOR_JOB_ID": "ab" * 16, "PATH": os.environ["PATH"]})
    spawn(env={"SUPERVISOR_JOB_ID": "cd" * 16, "PATH": os.environ["PATH"]})
    job.claim(gone)
    job.raw(records.JOB, b'{"v":1,"deadline_seconds":30}')
    seen = job.resolve()
    assert seen.phase is JobPhase.RUNNING
    assert seen.launched is not None
    assert seen.launched.pid == leader.pid
    assert seen.launched.deadline_boot_ns is not None
    assert abs(seen.launched.deadline_boot_ns - processes.boottime_ns() - 30 * 10**9) < 20 * 10**9


@pytest.mark.parametrize(("boot", "namespace"), [("0" * 32, None), (None, "1")])
def test_a_claim_from_elsewhere_is_left_alone(
    job: Directory,
    gone: Identity,
    boot: str | None,
    namespace: str | None,
) -> None:
    job.claim(gone, boot=boot, namespace=namespace)
    assert job.resolve(born={"host": "another", "boot": "0" * 32, "ns": "1"}).phase is JobPhase.ELSEWHERE


def test_a_claim_that_cannot_be_read_is_taken_for_a_launch(job: Directory) -> None:
    job.raw(records.CLAIM, b"a file where a link should be")
    assert how(job.resolve(owner_lives=True)) == (None, None, None)


# ---------------------------------------------------------------- stops


def test_a_stop_that_reached_the_process_says_why(job: Directory, gone: Identity) -> None:
    job.process(gone, gone)
    job.exit(gone, exit_code=None, signal=15)
    job.stop(signalled_boot_ns=5, gone=True, survivors="41 42")
    seen = job.resolve()
    assert how(seen) == (None, 15, "deadline")
    assert seen.ended is not None
    assert seen.ended.survivors == (41, 42)


def test_a_stop_that_came_too_late_does_not_count(job: Directory, gone: Identity) -> None:
    job.process(gone, gone)
    job.exit(gone)
    job.stop()
    seen = job.resolve()
    assert how(seen) == (3, None, None)
    assert seen.stop_requested == "deadline"


def test_a_tree_is_ended_before_its_leader_counts_as_ended(job: Directory, gone: Identity) -> None:
    job.process(gone, gone)
    job.exit(gone)
    job.stop(signalled_boot_ns=5)
    seen = job.resolve()
    assert (seen.phase, seen.to_stop) == (JobPhase.RUNNING, "deadline")
    stops.mark_stop(job.path, gone=True)
    assert how(job.resolve()) == (3, None, "deadline")


def test_an_unknown_reason_to_stop_is_a_cancel(job: Directory, gone: Identity) -> None:
    job.process(gone, gone)
    job.exit(gone)
    job.stop(why="a word from the future", signalled_boot_ns=5, gone=True)
    assert how(job.resolve()) == (3, None, "cancelled")


def test_a_torn_stop_record_stops_nothing(job: Directory, gone: Identity, spawn: Callable[..., Identity]) -> None:
    job.process(spawn(), gone)
    job.raw(records.STOP, b"{")
    seen = job.resolve()
    assert (seen.phase, seen.to_stop, seen.damage) == (JobPhase.RUNNING, None, "stop.json cannot be read")


def test_a_launch_that_failed_is_an_end(job: Directory) -> None:
    record: dict[str, object] = {"launch_error": "no such file", "launch_status": 127, "ended_ns": 5}
    records.create(job.path, records.EXIT, record)
    seen = job.resolve()
    assert seen.ended is not None
    exit_ = seen.ended.exit
    assert (exit_.launch_error, exit_.launch_status, exit_.ended_ns, exit_.never_launched) == (
        "no such file",
        127,
        5,
        False,
    )
