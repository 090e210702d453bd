"""What jobs spend: charged once, whatever is killed, and the same in an index that is made anew."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.admission import groups
from supervisor.errors import InvalidArguments, StateFull
from supervisor.jobdir import factories, records
from supervisor.jobdir.facts import Launched
from supervisor.jobs import retention
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.spend import spend
from supervisor.model import Exit, Spend
from supervisor.settings import Settings
from supervisor.states import Reason, State
from supervisor.store import Row, ledger
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import processes

KEY = workspace_key("/some/repo")
SECOND = 10**9
DAY = 86400 * SECOND
BEGIN = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Clocks:
    """The two clocks of a machine."""

    def __init__(self) -> None:
        self.wall, self.boot = int(BEGIN.timestamp()) * SECOND, DAY

    def wall_ns(self) -> int:
        return self.wall

    def boot_ns(self) -> int:
        return self.boot

    def pass_time(self, seconds: float) -> None:
        self.wall += int(seconds * SECOND)
        self.boot += int(seconds * SECOND)


class World:
    """A state root whose jobs are made and ended by hand."""

    def __init__(self, state_dir: Path) -> None:
        self.settings = Settings(state_dir=state_dir)
        self.clocks = Clocks()
        self.catalog = self.opened()

    def opened(self) -> Catalog:
        catalog = Catalog(self.settings)
        catalog.layout.clock.source = self.clocks
        return catalog

    def group(self, *budgets: str, name: str = "g", **settings: Any) -> None:
        changes = {"budgets": budgets, **settings}
        groups.change_group(self.catalog.index, name, lambda group: attrs.evolve(group, **changes), create=True)

    def budget(self, name: str = "g") -> dict[str, Any]:
        (budget,) = groups.group_info(self.catalog.index, name).budgets
        return dict(budget)

    def used(self, name: str = "g") -> tuple[float, float]:
        budget = self.budget(name)
        return budget["used"], budget["reserved"]

    def job(self, *argv: str, group: str | None = "g", catalog: Catalog | None = None, **members: Any) -> Row:
        catalog = catalog or self.catalog
        born = {"host": processes.host_id(), "boot": processes.boot_id(), "ns": processes.pid_namespace()}
        record: dict[str, Any] = {"v": 1, "job_id": new_job_id(), "kind": "raw", "argv": ["tool", *argv]}
        record |= {"workspace": "/some/repo", "labels": {}, "created_ns": self.clocks.wall, "deadline_seconds": None}
        record |= {"ttl_seconds": 10**6, "digest": "d", "idempotency_key": None, "owner": "nobody", "engine": "local"}
        if group is not None:
            record |= {"priority": 0, "weight": 1, "groups": [group]}
        record |= born | members
        row = row_of_record(KEY, record, dump(record))
        catalog.layout.make_job(KEY, row.job_id, dump(record).encode())
        assert catalog.index.write(lambda: catalog.index.insert(row))
        return row

    def admit(self, catalog: Catalog | None = None) -> list[str]:
        return [grant.job_id for grant in (catalog or self.catalog).index.take_turns().grants]

    def launch(self, job_id: str) -> Row:
        """Have the records of a launch; the process is this one."""
        directory = self.catalog.layout.job(KEY, job_id)
        pid, start = processes.own_identity()
        records.take_claim(directory, "keeper.1.1.boot.ns")
        process: dict[str, Any] = {"pid": pid, "start": start, "boot": processes.boot_id()}
        process |= {"ns": processes.pid_namespace(), "keeper_pid": 1, "keeper_start": 1, "started_ns": self.clocks.wall}
        records.create(directory, records.PROCESS, process | {"started_boot_ns": processes.ticks_to_ns(start)})
        index = self.catalog.index
        index.write(lambda: index.set_launched(job_id, Launched(pid=pid, started_ns=self.clocks.wall)))
        return self.row(job_id)

    def start(self) -> list[Row]:
        """Admit jobs, and launch them."""
        return [self.launch(job_id) for job_id in self.admit()]

    def row(self, job_id: str) -> Row:
        found = self.catalog.index.get(job_id)
        assert found is not None
        return found

    def ended(self, row: Row, usd: float | None = None, **members: Any) -> Row:
        reason = members.pop("reason", Reason.EXITED)
        state = State.DONE if reason is Reason.EXITED else State.FAILED
        exit_ = Exit(exit_code=0, ended_ns=self.clocks.wall)
        return row.with_outcome(JobOutcome(state=state, reason=reason, exit=exit_, cost_usd=usd, **members))

    def end(self, row: Row, usd: float | None = None, **members: Any) -> None:
        ended = self.ended(row, usd, **members)
        if row.started_ns is not None:
            self.exit(row)
        assert self.catalog.index.write(lambda: self.catalog.index.finish(ended))

    def exit(self, row: Row) -> None:
        """Have the record of an exit, which no process has seen yet."""
        pid, start = processes.own_identity()
        record: dict[str, object] = {"pid": pid, "start": start, "boot": processes.boot_id(), "exit_code": 0}
        directory = self.catalog.layout.job(KEY, row.job_id)
        records.create(directory, records.EXIT, record | {"signal": None, "ended_ns": self.clocks.wall})

    def rebuild(self) -> None:
        self.catalog.close()
        Path(self.catalog.layout.index_path).write_bytes(b"rubbish" * 1000)
        self.catalog = self.opened()

    def state(self) -> list[Any]:
        """Return what the index has of the spending, whatever the numbers of the rows are."""
        db = self.catalog.index._db
        return [
            db.execute("SELECT * FROM spent ORDER BY 1, 2, 3").fetchall(),
            db.execute("SELECT * FROM sessions ORDER BY 1").fetchall(),
            db.execute(
                "SELECT name, job_id, at_ns, usd, tokens, seconds FROM reserved JOIN held USING (seq)"
                " JOIN jobs USING (seq) ORDER BY 1, 2"
            ).fetchall(),
            db.execute(
                "SELECT * FROM noticed WHERE what LIKE 'figures:%' OR what LIKE 'budget:%' ORDER BY 1"
            ).fetchall(),
        ]

    def total(self, **options: Any) -> Spend:
        return spend(self.catalog, **options).total


@pytest.fixture
def world(state_dir: Path) -> Iterator[World]:
    made = World(state_dir)
    yield made
    made.catalog.close()


def test_two_catalogs_and_one_dollar_left_admit_one_job(world: World) -> None:
    world.group("usd=2/day")
    world.job()
    (first,) = world.start()
    world.end(first, 1.0)
    other = world.opened()
    jobs = [world.job("--max-budget-usd", "1"), world.job("--max-budget-usd", "1", catalog=other)]
    assert [world.admit(other), world.admit()] == [[jobs[0].job_id], []]
    assert world.used() == (1.0, 1.0)
    assert other.index.standing(world.row(jobs[1].job_id)) == ("budget", 1)
    other.close()


def test_the_real_figure_replaces_what_was_reserved(world: World) -> None:
    world.group("usd=1/day")
    world.job("--max-budget-usd", "0.9")
    waits = world.job("--max-budget-usd", "0.5")
    (row,) = world.start()
    assert world.used() == (0, 0.9)
    world.end(row, 0.25)
    assert world.used() == (0.25, 0)
    assert world.admit() == [waits.job_id]
    assert world.used() == (0.25, 0.5)


def test_a_job_without_a_figure_is_charged_what_it_has_reserved(world: World) -> None:
    world.group("usd=10/day")
    world.job("--max-budget-usd", "3")
    world.job("--max-budget-usd", "1")
    first, second = world.start()
    world.end(first)
    assert world.used() == (3, 1)
    world.end(second, reason=Reason.LOST)
    assert world.used() == (4, 0)
    (row,) = spend(world.catalog).rows
    assert (row.key, row.jobs, row.cost_usd, row.estimated) == ("g", 2, 4.0, 2)


def test_a_job_that_was_never_launched_is_charged_nothing(world: World) -> None:
    world.group("usd=10/day")
    world.job()
    (job_id,) = world.admit()
    assert world.used() == (0, 1)
    world.end(world.row(job_id), reason=Reason.LAUNCH_FAILED)
    assert world.used() == (0, 0)
    assert world.total().jobs == 0


def test_a_job_whose_keeper_was_killed_in_the_launch_is_charged_what_its_output_says(world: World) -> None:
    world.group("usd=10/day")
    world.job()
    (job_id,) = world.admit()
    row = world.row(job_id)
    assert row.started_ns is None
    world.end(row, 0.75)
    assert world.used() == (0.75, 0)
    assert (world.total().jobs, world.total().cost_usd) == (1, 0.75)


def test_a_job_asks_for_half_more_than_the_median(world: World) -> None:
    world.group("usd=10/day")
    for cost in (1.0, 3.0, 2.0, 0.0):  # one that spent nothing says nothing
        world.job()
        (row,) = world.start()
        world.end(row, cost)
    world.job()
    assert len(world.start()) == 1
    assert world.used() == (6, 3)
    world.job()
    assert world.admit() == []


def test_as_long_as_nothing_is_known_one_job_runs_at_a_time(world: World) -> None:
    world.group("usd=10/day")
    jobs = [world.job() for _ in range(3)]
    (row,) = world.start()
    assert world.catalog.index.standing(world.row(jobs[1].job_id)) == ("budget", 1)
    world.end(row, 2.0)
    assert world.admit() == [jobs[1].job_id, jobs[2].job_id]


def test_a_new_window_admits_jobs_when_it_begins(world: World) -> None:
    world.group("usd=1/day", tz="Asia/Tokyo")
    world.job()
    (row,) = world.start()
    world.end(row, 1.0)
    waits = world.job("--max-budget-usd", "1")
    assert world.admit() == []
    assert world.budget()["resets_at"] == datetime(2026, 11, 28, 15, tzinfo=UTC)
    seconds = world.catalog.index.read_queue(lambda queue: queue.next_seconds(world.catalog.layout.clock.moment()))
    assert seconds == 3 * 3600
    world.clocks.pass_time(seconds - 1)
    assert world.admit() == []
    world.clocks.pass_time(1)
    assert world.admit() == [waits.job_id]
    assert world.used() == (0, 1)


def test_a_budget_in_total_never_resets_and_needs_no_process_to_wait(world: World) -> None:
    world.group("usd=1/total")
    world.job()
    (row,) = world.start()
    world.end(row, 1.0)
    world.job()
    assert world.budget()["resets_at"] is None
    assert world.admit() == []
    world.clocks.pass_time(400 * 86400)
    assert world.admit() == []
    assert not world.catalog.index.read_queue(lambda queue: queue.can_go_on())
    world.group("usd=2/total")
    assert world.used() == (1, 0), "the median with half more is above the rest"
    world.group("usd=2.5/total")
    assert world.used() == (1, 1.5)


def test_a_job_that_asks_for_more_than_the_limit_waits_and_needs_no_process(world: World) -> None:
    world.group("usd=1/day")
    row = world.job("--max-budget-usd", "1.5")
    assert world.admit() == []
    assert not world.catalog.index.read_queue(lambda queue: queue.can_go_on())
    assert world.catalog.index.standing(row) == ("budget", 1)


def test_a_list_says_for_each_job_by_what_it_asks_for_itself_why_it_waits(world: World) -> None:
    world.group("usd=1/day")
    rows = [world.job("--max-budget-usd", "1.5"), world.job("--max-budget-usd", "0.1"), world.job()]
    assert world.admit() == []
    expected = [("budget", 1), ("limit", 2), ("limit", 3)]
    assert [world.catalog.index.standing(row) for row in rows] == expected
    assert world.catalog.index.standings(rows) == expected
    assert world.catalog.index.standings(rows[::-1]) == expected[::-1]


@pytest.mark.parametrize(
    ("budget", "used"), [("tokens=100/day", (30, 0)), ("seconds=100/day", (20, 0)), ("starts=5/day", (1, 0))]
)
def test_other_metrics(world: World, budget: str, used: tuple[float, float]) -> None:
    world.group(budget)
    world.job()
    (row,) = world.start()
    world.clocks.pass_time(20)
    world.end(row, tokens=30)
    assert world.used() == used


def test_a_start_counts_when_the_job_is_launched_and_time_when_it_ends(world: World) -> None:
    world.group("starts=1/hour")
    world.job()
    (row,) = world.start()
    assert world.used() == (0, 1)
    second = world.job()
    assert world.admit() == []
    world.clocks.pass_time(3600)
    assert world.admit() == [second.job_id], "the first one was started in another hour"
    world.end(row)
    assert world.used() == (0, 1)


def test_running_jobs_that_take_longer_than_they_have_asked_for_are_charged(world: World) -> None:
    world.group("seconds=100/day")
    world.job()
    world.start()
    assert world.used() == (0, 10)
    world.clocks.pass_time(60)
    assert world.used() == (0, 60)


# ------------------------------------------------------------ the ledger


def test_an_index_that_is_made_anew_has_the_same_sums(world: World) -> None:
    world.group("usd=100/week", name="g")
    world.group("tokens=1000/day", name="h")
    for number in range(4):
        world.job(group="gh"[number % 2], labels={"a": "b"})
        (row,) = world.start()
        world.end(row, 0.1 * number or None, tokens=7 * number, own_tokens=7 * number, session_id=f"s{number % 2}")
        world.clocks.pass_time(7200)
    world.job(group=None)
    world.job("--max-budget-usd", "2")
    world.job("--max-budget-usd", "3", group="h")
    world.start()
    before = world.state(), world.used("g"), world.used("h"), spend(world.catalog)
    assert before[0][2], "something is reserved"
    world.rebuild()
    assert (world.state(), world.used("g"), world.used("h"), spend(world.catalog)) == before


def test_jobs_that_are_forgotten_still_count(world: World) -> None:
    world.group("usd=100/day")
    for _ in range(2):
        world.job()
        (row,) = world.start()
        world.end(row, 1.5)
        retention.remove(world.catalog, [world.row(row.job_id)])
    world.catalog.empty_trash(10)
    assert world.used() == (3, 0)
    world.rebuild()
    assert world.used() == (3, 0)
    assert world.total().cost_usd == 3


def test_a_kill_between_the_ledger_and_the_commit_charges_once(world: World) -> None:
    world.group("usd=100/day")
    world.job("--max-budget-usd", "2")
    (row,) = world.start()
    ended = world.ended(row, 1.5)

    class Killed(Exception):
        """The process is killed here."""

    def finish() -> None:
        assert world.catalog.index.finish(ended)
        raise Killed

    with pytest.raises(Killed):
        world.catalog.index.write(finish)
    assert world.used() == (0, 2), "nothing was committed"
    assert len(ledger.read_all(world.catalog.layout.root)) == 1
    world.exit(row)
    assert world.catalog.index.write(lambda: world.catalog.index.finish(ended))
    assert world.used() == (1.5, 0)
    (path,) = Path(world.catalog.layout.root, ledger.DIRECTORY).iterdir()
    assert len(path.read_text().split()) == 2
    assert world.total().cost_usd == 1.5
    world.rebuild()
    assert world.used() == (1.5, 0)


def test_an_end_that_was_only_in_the_ledger_is_not_charged_again_by_a_rebuild(world: World) -> None:
    world.group("usd=100/day")
    world.job("--max-budget-usd", "2")
    (row,) = world.start()
    world.exit(row)
    with pytest.raises(ZeroDivisionError):
        world.catalog.index.write(lambda: world.catalog.index.finish(world.ended(row, 1.5)) and 1 // 0)
    world.rebuild()
    assert world.used() == (1.5, 0)
    assert world.row(row.job_id).finished


def test_a_second_process_that_records_the_same_end_charges_nothing(world: World) -> None:
    world.group("usd=100/day")
    world.job()
    (row,) = world.start()
    other = world.opened()
    ended = world.ended(row, 1.5)
    assert other.index.write(lambda: other.index.finish(ended))
    assert not world.catalog.index.write(lambda: world.catalog.index.finish(ended))
    assert world.used() == (1.5, 0)
    assert len(ledger.read_all(world.catalog.layout.root)) == 1
    other.close()


def test_a_ledger_that_cannot_be_written_fails_the_transaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.group("usd=100/day")
    world.job()
    (row,) = world.start()
    world.exit(row)
    write, ended = os.write, world.ended(row, 1.5)

    def full(descriptor: int, data: bytes) -> int:
        if b'"job_id"' in bytes(data):
            write(descriptor, bytes(data)[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.os, "write", full)
        with pytest.raises(StateFull):
            world.catalog.index.write(lambda: world.catalog.index.finish(ended))
    assert not world.row(row.job_id).finished
    assert world.catalog.index.write(lambda: world.catalog.index.finish(ended))
    assert world.used() == (1.5, 0)
    assert [record["job_id"] for record in ledger.read_all(world.catalog.layout.root)] == [row.job_id]


def test_lines_that_cannot_be_understood_are_passed_over(world: World) -> None:
    world.group("usd=100/day")
    world.job()
    (row,) = world.start()
    world.end(row, 1.5)
    (path,) = Path(world.catalog.layout.root, ledger.DIRECTORY).iterdir()
    good = json.loads(path.read_text())
    bad = [
        *("{", "[]", "7", '{"job_id": 3}', "null", "[" * 100_000),
        *(
            json.dumps({**good, **each})
            for each in (
                {"usd": "1"},
                {"groups": 3},
                {"charged": {"g": 1}},
                {"groups": [["g"]]},
                {"at_ns": 2**70},
                {"usd": -5},
                {"charged": {"g": {"usd": "1"}}},
                {"charged": {"g": {"usd": None}}},
                {"at_ns": None},
            )
        ),
    ]
    with path.open("a") as file:
        file.write("\n".join(bad) + "\n" + '{"v": 1, "job_id"')
    world.rebuild()
    assert world.used() == (1.5, 0)
    world.job()
    (row,) = world.start()
    world.end(row, 1.0)  # behind a line that has no end
    assert world.total().cost_usd == 2.5


def test_jobs_in_no_group_are_in_the_ledger_if_they_said_what_they_spent(world: World) -> None:
    first, second = world.job(group=None), world.job(group=None)
    world.end(world.launch(first.job_id), 0.5)
    world.end(world.launch(second.job_id))
    (row,) = spend(world.catalog).rows
    assert (row.key, row.jobs, row.cost_usd) == (None, 1, 0.5)
    world.rebuild()
    assert world.total().cost_usd == 0.5


def test_an_index_of_the_version_before_gets_budgets_and_sums(world: World) -> None:
    world.group("usd=100/day")
    world.job()
    (row,) = world.start()
    world.end(row, 1.5)
    world.job("--max-budget-usd", "4")
    world.start()
    before = world.state()
    db = world.catalog.index._db
    version = db.execute("PRAGMA user_version").fetchone()[0]
    from supervisor.store.schema import SPENDING_VERSION  # only here

    world.catalog.close()
    with sqlite3.connect(world.catalog.layout.index_path) as raw:
        for table in ("reserved", "spent", "sessions"):
            raw.execute(f"DROP TABLE {table}")
        raw.execute("DELETE FROM noticed WHERE what LIKE 'budget:%' OR what LIKE 'figures:%'")
        raw.execute(f"PRAGMA user_version = {SPENDING_VERSION - 1}")
    raw.close()
    world.catalog = world.opened()
    assert world.catalog.index._db.execute("PRAGMA user_version").fetchone()[0] == version
    assert world.state() == before


# ------------------------------------------------------------ sessions


@pytest.mark.parametrize(
    ("runs", "charged"),
    [
        # Each run says what it has spent by itself.
        ([(1.0, 100, 100), (0.5, 60, 60)], 1.5),
        ([(1.0, 100, 100), (2.0, 300, 300)], 3.0),
        # A resumed run goes on with the sums of the session.
        ([(1.0, 110, 100), (1.5, 170, 60)], 1.5),
        ([(1.0, 110, 100), (1.0, 110, 0), (1.2, 150, 40)], 1.2),
        # A run that was killed in between has saved nothing.
        ([(1.0, 110, 100), (None, None, None), (1.5, 170, 60)], 2.5),
        # The second run says nothing about tokens.
        ([(1.0, 110, 100), (1.5, None, None)], 2.5),
    ],
)
def test_a_resumed_session_is_charged_once(
    world: World, runs: list[tuple[float | None, int | None, int | None]], charged: float
) -> None:
    world.group("usd=100/day")
    for usd, tokens, own in runs:
        world.job("--max-budget-usd", "1")
        (row,) = world.start()
        world.end(row, usd, tokens=tokens, own_tokens=own, session_id="s")
    assert world.used() == (charged, 0)
    assert world.total(by="session").cost_usd == charged
    world.rebuild()
    assert world.used() == (charged, 0)


# ------------------------------------------------------------ reports


def test_spend_by_group_day_label_and_session(world: World) -> None:
    world.group("usd=100/day", name="g")
    world.group(name="h")
    for group, label, cost in (("g", "x", 1.0), ("h", "y", 2.0), ("g", "y", 4.0)):
        world.job(group=group, labels={"who": label})
        (row,) = world.start()
        world.clocks.pass_time(5)
        world.end(row, cost, session_id=f"s{label}")
        world.clocks.pass_time(86400)
    found = {by: spend(world.catalog, by) for by in ("group", "day", "label:who", "session", "label:no")}
    rows = {by: {row.key: (row.jobs, row.cost_usd) for row in report.rows} for by, report in found.items()}
    assert rows["group"] == {"g": (2, 5.0), "h": (1, 2.0)}
    assert rows["label:who"] == {"x": (1, 1.0), "y": (2, 6.0)}
    assert rows["session"] == {"sx": (1, 1.0), "sy": (2, 6.0)}
    assert rows["label:no"] == {None: (3, 7.0)}
    assert [cost for _, cost in rows["day"].values()] == [1.0, 2.0, 4.0]
    assert all(report.total.cost_usd == 7 and report.total.seconds == 15 for report in found.values())
    since = datetime(2026, 11, 29, 12, tzinfo=UTC)
    assert world.total(since=since).cost_usd == 6
    (first, _) = found["label:who"].to_json()["spend"]
    assert (first["who"], first["key"]) == ("x", "x")
    with pytest.raises(InvalidArguments):
        spend(world.catalog, "colour")


@pytest.mark.parametrize("figure", ["jobs", "cost_usd", "key"])
def test_the_value_of_a_label_that_has_the_name_of_a_figure_is_not_lost(world: World, figure: str) -> None:
    world.group("usd=10/day")
    world.job(labels={figure: "search"})
    (row,) = world.start()
    world.end(row, 1.0)
    (shown,) = spend(world.catalog, f"label:{figure}").to_json()["spend"]
    assert (shown["key"], shown["jobs"], shown["cost_usd"]) == ("search", 1, 1.0)


def test_a_job_in_two_groups_counts_in_both_and_once_in_total(world: World) -> None:
    world.group("usd=10/day", name="g")
    world.group("usd=20/day", name="h")
    world.job(groups=["g", "h"])
    (row,) = world.start()
    assert world.used("g") == (0, 1)
    assert world.used("h") == (0, 2)
    world.end(row)
    assert world.used("g") == (1, 0)
    assert world.used("h") == (2, 0)
    report = spend(world.catalog)
    assert {each.key: each.cost_usd for each in report.rows} == {"g": 1.0, "h": 2.0}
    assert (report.total.jobs, report.total.cost_usd, report.total.estimated) == (1, 2.0, 1)


def test_money_is_added_up_exactly(world: World) -> None:
    world.group("usd=100/day")
    for _ in range(10):
        world.job("--max-budget-usd", "1")
        (row,) = world.start()
        world.end(row, 0.1)
    assert world.used() == (1.0, 0)
    assert world.total().cost_usd == 1.0


def test_a_stop_request_of_a_waiting_job_leaves_nothing_reserved(world: World) -> None:
    world.group("usd=1/day")
    world.job("--max-budget-usd", "1")
    waits = world.job("--max-budget-usd", "1")
    (row,) = world.start()
    records.create(
        world.catalog.layout.job(KEY, waits.job_id), records.STOP, factories.stop_request("cancelled", "test")
    )
    world.end(world.row(waits.job_id), reason=Reason.LAUNCH_FAILED)
    assert world.used() == (0, 1)
    world.end(row, 0.0)
    assert world.used() == (0, 0)
