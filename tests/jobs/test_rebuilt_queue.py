"""What the directories say about waiting jobs: every combination of records, and an index that is made anew."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.admission import groups
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.places import hold, move, release
from supervisor.jobs.unlaunched import rule_out_end
from supervisor.retry import Retry
from supervisor.settings import Settings
from supervisor.store import Index, Row
from supervisor.store.clock import Clock
from supervisor.store.queue import ranks
from supervisor.store.rows import dump, row_of_record
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.store.tickets import Moment
from supervisor.system import processes

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")

WORKSPACE = "/some/repo"
KEY = workspace_key(WORKSPACE)
SECOND = 10**9
LIMITS = {"a": 1, "b": 2, "free": None, "slow": None}
RATES = {"slow": "1/s"}
POLICY = Retry(maximum_attempts=3, initial_interval=2, jitter=0, retry_on=("1",)).to_record()
HERE = {"host": processes.host_id(), "boot": processes.boot_id(), "ns": processes.pid_namespace()}


class Root:
    """A state root whose jobs this test launches and ends by writing their records, by a clock of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.catalog = Catalog(Settings(state_dir=path))
        self.owner = self.catalog.layout.owners.register()
        self.wall_ns = 1_790_000_000 * SECOND
        self.boot_ns = (
            processes.boottime_ns() + 1000 * SECOND
        )  # after the groups were made, by the clock of the machine
        for name, limit in LIMITS.items():
            groups.change_group(
                self.index,
                name,
                lambda group, most=limit: attrs.evolve(group, limit=most, rate=RATES.get(group.name)),
                create=True,
            )  # type: ignore[misc]

    @property
    def index(self) -> Index:
        return self.catalog.index

    def moment(self) -> Moment:
        return Moment(self.wall_ns, self.boot_ns, processes.boot_id()[:12])

    def directory(self, job_id: str) -> str:
        return self.catalog.layout.job(KEY, job_id)

    def start(self, *, owner: str | None = None, **options: Any) -> str:
        """Record a job as a supervisor does: with orders, unless it gets its slots at once."""
        self.wall_ns += 1
        self.boot_ns += 1
        record: dict[str, Any] = {"v": 1, "job_id": new_job_id(), "kind": "raw", "argv": ["x"], "workspace": WORKSPACE}
        record |= {"labels": {}, "created_ns": self.wall_ns, "deadline_seconds": None, "ttl_seconds": 10**9}
        record |= {"owner": self.owner if owner is None else owner, "engine": "local", "digest": "d"}
        record |= {
            "created_boot_ns": self.boot_ns,
            "weight": 1,
            "priority": 0,
            "idempotency_key": None,
            **HERE,
            **options,
        }
        if "retry" in record:
            record |= {"series_id": record["job_id"], "attempt": 1}
        text = dump(record)
        row = row_of_record(KEY, record, text)
        directory = self.catalog.layout.make_job(KEY, row.job_id, text.encode())

        def insert() -> None:
            assert self.index.insert(row)
            granted = {grant.job_id for grant in self.index.take_turn().grants}
            if row.job_id not in granted or row.may_be_retried:
                Path(directory, records.ORDERS).write_text("{}")

        self.index.write(insert)
        return row.job_id

    def launch(self, job_id: str) -> None:
        """Have a keeper claim and launch a job."""
        directory = self.directory(job_id)
        pid, start = processes.own_identity()
        holder = f"keeper.{pid}.{start}.{processes.boot_id()[:12]}.{processes.pid_namespace()}"
        assert records.take_claim(directory, holder)
        process: dict[str, object] = {"pid": pid, "start": start, "boot": HERE["boot"], "ns": HERE["ns"]}
        process |= {"keeper_pid": pid, "keeper_start": start, "started_ns": self.wall_ns}
        records.create(directory, records.PROCESS, process | {"started_boot_ns": processes.ticks_to_ns(start)})
        if not self.row(job_id).may_be_retried:
            Path(directory, records.ORDERS).unlink(missing_ok=True)

    def end(self, job_id: str, code: int) -> None:
        """Record the end of the command of a job."""
        directory = self.directory(job_id)
        process = records.read(directory, records.PROCESS) or {}
        Path(directory, records.STDOUT).touch()
        end: dict[str, object] = {name: process[name] for name in ("pid", "start", "boot")}
        end |= {"exit_code": code, "signal": None, "ended_ns": self.wall_ns}
        records.create(directory, records.EXIT, end)

    def turn(self) -> None:
        """Take turns, and carry out what they decide, until nothing is left to decide."""
        while ends := self.index.take_turns().ends:
            for end in ends:
                assert rule_out_end(self.directory(end.job_id), end)
                assert self.catalog.status(end.job_id).reason == end.why

    def row(self, job_id: str) -> Row:
        found = self.index.get(job_id)
        assert found is not None
        return found

    def rows(self) -> list[Row]:
        """Return the jobs that there are, in the order of their creation, with the attempts that followed others."""
        return sorted(self.index.page(limit=1000), key=lambda row: row.seq)

    def close(self) -> None:
        self.catalog.layout.owners.unregister(self.owner)
        self.catalog.close()


def review(index: Index) -> None:
    """Look at all jobs that are due, without admitting any."""
    while index.write(lambda: index.queue._later.review(index.layout.clock.moment(), 1000)):
        pass


def tables(index: Index) -> dict[str, Any]:
    """Return what the queue says of each unfinished job, without the numbers of rows and lanes."""
    ids = dict(index._db.execute("SELECT seq, job_id FROM jobs").fetchall())
    lanes = {lane: tuple(json.loads(names)) for lane, names in index._db.execute("SELECT * FROM lanes")}
    depends: dict[str, list[tuple[str, str]]] = {}
    for seq, how, on in index._db.execute("SELECT seq, how, cause FROM deps"):
        depends.setdefault(ids[seq], []).append((on, how))
    found: dict[str, Any] = {}
    for seq, lane, rank, weight in index._db.execute("SELECT seq, lane, rank, weight FROM waiting"):
        found[ids[seq]] = ("waiting", lanes[lane], rank, weight, sorted(depends.pop(ids[seq], [])))
    for seq, lane, weight in index._db.execute("SELECT seq, lane, weight FROM held"):
        found[ids[seq]] = ("held", lanes[lane], weight)
    for seq, lane, rank, weight, held, why in index._db.execute("SELECT seq, lane, rank, weight, held, why FROM later"):
        assert ids[seq] not in found
        found[ids[seq]] = ("later", lanes[lane], rank, weight, held, why, sorted(depends.pop(ids[seq], [])))
    assert not depends
    return found


def rebuilt(root: Root) -> dict[str, Any]:
    """Return the tables of an index that is made from a copy of the directories."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, "root")
        shutil.copytree(root.path, copy, symlinks=True, ignore=shutil.ignore_patterns("registry.db*"))
        with Catalog(Settings(state_dir=copy)) as catalog:
            review(catalog.index)
            return tables(catalog.index)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Root]:
    made = Root(tmp_path / "root")
    monkeypatch.setattr(Clock, "moment", lambda _: made.moment())
    yield made
    made.close()


# ---------------------------------------------------------------- every combination of records

STOP: dict[str, object] = {
    "why": "cancelled",
    "by": "test",
    "requested_ns": 1,
    "signalled_boot_ns": None,
    "gone": False,
}
DEAD = "keeper.4194305.1.{boot}.{ns}"


@attrs.frozen
class Case:
    """What is in the directory of a job whose supervisor is gone, and what follows.

    ``place`` is the table in which the job is then, ``left`` the files of its orders.
    """

    files: str
    status: str
    reason: str | None
    queue_reason: str | None
    place: str | None
    left: str = ""


READY = [  # of a job in a group that has room
    Case("", "failed", "launch_failed", None, None),
    Case("orders", "queued", None, "limit", "waiting", "orders"),
    Case("granted", "failed", "launch_failed", None, None),
    Case("orders granted", "queued", None, "no_launcher", "held", "granted orders"),
    Case("nobody", "failed", "launch_failed", None, None),
    Case("orders nobody", "failed", "launch_failed", None, None),
    Case("orders granted nobody", "failed", "launch_failed", None, None),
    Case("orders stop", "cancelled", "cancelled", None, None),
    Case("orders granted stop", "cancelled", "cancelled", None, None),
    Case("orders stop nobody", "cancelled", "cancelled", None, None),
    Case("orders granted stop nobody", "cancelled", "cancelled", None, None),
    Case("dead", "failed", "lost", None, None),
    Case("orders granted dead", "failed", "lost", None, None),
    Case("orders granted process", "running", None, None, "held", "granted orders"),
    Case("granted process", "running", None, None, "held", "granted"),
    Case("process", "running", None, None, "held"),
    Case("orders granted process exit", "done", "exited", None, None),
    Case("process exit", "done", "exited", None, None),
]
WAITS = {"hold": "held", "delay": "not_before", "after": "dependency"}
"""What a job waits for in ``later`` where one that only needs room is in ``waiting``, and its ``queue_reason``."""


def prepare(root: Root, kind: str, files: str) -> str:
    """Make a job of a supervisor that is gone, with these records."""
    other = root.start(hold=True)
    options: dict[str, Any] = {
        "group": {"groups": ["a"]},
        "hold": {"hold": True},
        "delay": {"delay_ns": 10 * SECOND, "groups": ["a"]},
        "after": {"after": [{"job_id": other, "when": "ok"}], "groups": ["a"]},
        "retry": {"retry": POLICY, "groups": ["a"]},
    }[kind]
    root.start(groups=["a"])  # so that it waits
    job_id = root.start(owner="gone", **options)
    directory = Path(root.directory(job_id))
    (directory / records.ORDERS).unlink()
    for name in files.split():
        if name == "nobody":
            records.take_claim(str(directory), records.NOBODY)
        elif name == "dead":
            records.take_claim(str(directory), DEAD)
        elif name == "stop":
            records.create(str(directory), records.STOP, STOP)
        elif name == "process":
            root.launch(job_id)
            if records.ORDERS in files:  # not deleted yet
                (directory / records.ORDERS).touch()
        elif name == "exit":
            root.end(job_id, 0)
        else:
            (directory / name).write_text("{}")
    return job_id


@pytest.mark.parametrize("kind", ["group", "retry", *WAITS])
@pytest.mark.parametrize("case", READY, ids=lambda case: case.files.replace(" ", "-") or "nothing")
@pytest.mark.parametrize("index", ["kept", "lost"])
def test_every_combination_of_records(root: Root, kind: str, case: Case, index: str) -> None:
    job_id = prepare(root, kind, case.files)
    if index == "lost":
        root.catalog.index.close()
        for path in root.path.glob("registry.db*"):
            path.unlink()
    elif {"granted", "process"} & set(case.files.split()):  # a transaction has recorded that it was admitted
        root.index.write(lambda: root.index.queue.hold(root.row(job_id).seq))
    root.catalog.layout.owners.unregister(root.owner)
    with Catalog(Settings(state_dir=root.path)) as catalog:
        review(catalog.index)
        for _ in range(2):
            job = catalog.status(job_id)
            assert (job.status, job.reason) == (case.status, case.reason)
            reason = WAITS[kind] if case.place == "waiting" and kind in WAITS else case.queue_reason
            assert job.queue_reason == reason
        place = tables(catalog.index).get(job_id, (None,))[0]
        assert place == ("later" if case.place == "waiting" and kind in WAITS else case.place)
        names = {records.ORDERS, records.GRANTED, records.STDIN}
        assert " ".join(sorted(names & {path.name for path in Path(root.directory(job_id)).iterdir()})) == case.left


def test_a_job_that_was_admitted_before_a_reboot_does_not_wait_again_for_a_job_that_is_gone(root: Root) -> None:
    first = root.start()
    root.launch(first)
    root.end(first, 0)
    assert root.catalog.status(first).status == "done"
    job_id = root.start(owner="1.1.ffffffffffff.1.1", after=[{"job_id": first, "when": "ok"}], groups=["a"])
    directory = Path(root.directory(job_id))
    assert (directory / records.GRANTED).exists()
    (directory / records.ORDERS).write_text("{}")
    root.catalog.forget(first)
    assert rebuilt(root)[job_id][0] == "waiting"


# ---------------------------------------------------------------- walks

pick = st.integers(0, 20)
conditions = st.one_of(
    st.just({}),
    st.tuples(st.sampled_from(["ok", "any", "failed", "start"]), pick).map(lambda pair: {"after": [pair]}),
    st.tuples(st.sampled_from(["ok", "any"]), pick, pick).map(lambda t: {"after": [(t[0], t[1]), ("any", t[2])]}),
    st.just({"hold": True}),
    st.just({"retry": POLICY}),
    st.sampled_from([{"delay_ns": 5 * SECOND}, {"not_before": 5}, {"start_within_ns": 7 * SECOND}]),
)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("start"),
            st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("free",), ("slow",), ("a", "slow")]),
            st.integers(-1, 1),
            conditions,
        ),
        st.tuples(st.just("launch"), pick),
        st.tuples(st.just("end"), pick, st.sampled_from([0, 1])),
        st.tuples(st.just("cancel"), pick),
        st.tuples(st.just("forget"), pick),
        st.tuples(st.just("move"), pick, st.sampled_from(["hold", "release", "first", "priority"])),
        st.tuples(st.just("pass"), st.sampled_from([1, 6])),
        st.tuples(st.just("set"), st.just(10)),  # one that is set back may have to come to a time once more
        st.tuples(st.just("pause"), st.sampled_from(sorted(LIMITS))),
        st.tuples(st.just("resume"), st.sampled_from(sorted(LIMITS))),
    ),
    min_size=12,
    max_size=20,
)


@given(steps)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_index_that_is_made_anew_has_the_same_queue(walk: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        root = Root(Path(name, "root"))
        patched.setattr(Clock, "moment", lambda _: root.moment())
        try:
            for step in walk:
                take(root, *step)
                root.turn()
                review(root.index)
                assert rebuilt(root) == tables(root.index), step
                check_limits(root)
                check_counts(root.index)
        finally:
            root.close()


def take(root: Root, step: str, *arguments: Any) -> None:
    if step == "start":
        names, priority, condition = arguments
        options: dict[str, Any] = {**condition, "groups": list(names), "priority": priority}
        if "after" in options:
            kept = [row.job_id for row in root.rows()]
            after = [{"job_id": kept[n % len(kept)], "when": how} for how, n in options.pop("after") if kept]
            options["after"] = after
        if "not_before" in options:
            options["not_before_ns"] = root.wall_ns + options.pop("not_before") * SECOND
        root.start(**options)
    elif step in {"pause", "resume"}:
        groups.change_group(root.index, arguments[0], groups.pause(None, None) if step == "pause" else groups.resume)
    elif step in {"pass", "set"}:
        root.wall_ns += arguments[0] * SECOND
        root.boot_ns += arguments[0] * SECOND if step == "pass" else 0
    else:
        act(root, step, *arguments)


def act(root: Root, step: str, number: int, how: Any = None) -> None:
    """Do something about one of the jobs that it can be done about."""
    places = {job_id: place for job_id, (place, *_) in tables(root.index).items()}
    unlaunched = [row for row in root.rows() if row.started_ns is None and not row.finished]
    awaited = {each["job_id"] for row in unlaunched for each in row.request.get("after", ())}

    def fits(row: Row) -> bool:
        launched = row.started_ns is not None
        if step == "launch":
            return not launched and not row.finished and places.get(row.job_id, "held") == "held"
        if step == "forget":
            return row.finished and row.job_id not in awaited and not row.may_be_retried
        if step == "move":
            return places.get(row.job_id, "held") != "held"
        return not row.finished and launched is (step == "end")

    jobs = [row.job_id for row in root.rows() if fits(row)]
    if not jobs:
        return
    job_id = jobs[number % len(jobs)]
    if step == "launch":
        root.launch(job_id)
        root.catalog.status(job_id)
    elif step == "end":
        root.end(job_id, how)
        root.catalog.status(job_id)
    elif step == "cancel":
        root.catalog.cancel(job_id)
    elif step == "move":
        change = {"first": partial(move, first=True), "priority": partial(move, priority=7)}
        {"hold": hold, "release": release, **change}[how](root.catalog, job_id)
    else:
        root.catalog.forget(job_id)


def check_limits(root: Root) -> None:
    held = [(names, weight) for place, names, *_, weight in tables(root.index).values() if place == "held"]
    for name, limit in LIMITS.items():
        assert limit is None or sum(weight for names, weight in held if name in names) <= limit


def check_counts(index: Index) -> None:
    """The positions that are counted by ranges are those in the order of the ranks."""
    for lane, _ in index._db.execute("SELECT * FROM lanes").fetchall():
        in_order = index._db.execute("SELECT rank, seq FROM waiting WHERE lane = ? ORDER BY rank, seq", (lane,))
        places = in_order.fetchall()
        assert [ranks.ahead(index._db, lane, *place) for place in places] == list(range(len(places)))
        assert ranks.count(index._db, lane) == len(places)
