"""Groups with many waiting jobs: what they cost others, each other, and a reader; how soon a freed slot is used."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

import attrs
import trio

import supervisor
from benchmarks.apart import apart, with_bytecode
from benchmarks.cases.throughput import TRUE, run_all
from benchmarks.figures import OURS, Figure, Goal, interleaved, median_us
from benchmarks.filling import FILES_ALONE, entering, files_alone, waiting_jobs
from benchmarks.plan import Plan
from supervisor.admission.groups import change_group
from supervisor.jobdir.records import EXIT
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.explaining import explain
from supervisor.keeper.helper_starts import OWNERS
from supervisor.keeper.registration import KEEPERS
from supervisor.model import Exit
from supervisor.states import Reason, State
from supervisor.store.rows import JobOutcome

__all__ = ["queueing"]

_T = TypeVar("_T")

_PATIENCE_SECONDS: Final = 60
_NONE: Final = "none waiting"
_FLIGHT: Final = 16
_GROUP: Final = "slots"
_ROW: Final = "a row by SQL"
_ITS_WRITES: Final = "two rows by SQL, and a file"
_BARE_GAP: Final = "waitpid() to posix_spawn()"


def queueing(plan: Plan) -> Iterator[Figure]:
    """Measure next to waiting jobs, few and many, then the entry of many, and the time from a freed slot on."""
    for count in plan.pick((100,), (1000,), (1000, 100_000)):
        with contextlib.ExitStack() as stack:
            roots = {name: stack.enter_context(_filled(plan, waiting)) for name, waiting in ((OURS, count), (_NONE, 0))}
            settings = {name: held for name, (held, _) in roots.items()}
            beside: dict[str, Any] = {"at": count, "along": "jobs waiting"}
            yield from _admissions(plan, settings, count, beside)
            yield from _looks(plan, *roots[OURS], count, beside)
            yield from _rates(plan, settings, count, beside)
    yield _entries(plan)
    yield from _launches(plan)


@contextlib.contextmanager
def _filled(plan: Plan, count: int) -> Generator[tuple[supervisor.Settings, str]]:
    """Give a state root with so many waiting jobs in a group with one slot, and the last of the jobs."""
    settings = plan.settings()
    with Catalog(settings) as catalog:
        change_group(catalog.index, _GROUP, lambda group: attrs.evolve(group, limit=1), create=True)
    with waiting_jobs(settings, count, _GROUP) as ids:
        yield settings, ids[-1] if ids else ""
    settings.state_dir.joinpath("registry.db").unlink()  # the run ends without a cancel of each


def _rates(plan: Plan, roots: dict[str, supervisor.Settings], count: int, beside: dict[str, Any]) -> Iterator[Figure]:
    jobs = plan.pick(20, 200, 1000)

    async def rate(sup: supervisor.Supervisor) -> float:
        begun = time.perf_counter()
        await run_all(sup, TRUE, jobs, _FLIGHT)
        return jobs / (time.perf_counter() - begun)

    def contender(settings: supervisor.Settings) -> Callable[[], float]:
        return lambda: plan.ours(rate, settings)

    values, _ = interleaved(plan.rounds + 2, {name: contender(settings) for name, settings in roots.items()})
    yield Figure(
        case="queueing",
        name=f"jobs in no group to a recorded exit, {count:,} waiting",
        unit="1/s",
        values=values,
        goals=[Goal(">=", 0.95, of=_NONE)],
        note=f"{_FLIGHT} in flight",
        **beside,
    )


def _admissions(
    plan: Plan, roots: dict[str, supervisor.Settings], count: int, beside: dict[str, Any]
) -> Iterator[Figure]:
    """Measure the transaction that gives a freed slot to the next job, after one more was entered."""
    times = plan.pick(3, 100, 500)

    def contender(settings: supervisor.Settings) -> Callable[[], float]:
        def measure() -> float:
            with Catalog(settings) as catalog:
                catalog.index.checkpoint()
                return _admission_us(catalog, times)

        return measure

    contenders = {name: contender(settings) for name, settings in roots.items()}
    contenders[_ITS_WRITES] = lambda: _bare_admission_us(plan.fresh("writes"), times)
    values, _ = interleaved(plan.rounds, contenders)
    yield Figure(
        case="queueing",
        name=f"admission of a job, {count:,} waiting",
        unit="us",
        values=values,
        goals=[Goal("<=", 100), Goal("<=", 2, of=_NONE)],
        note="the transaction, with the file that says so in the job directory",
        **beside,
    )


def _admission_us(catalog: Catalog, times: int) -> float:
    """Return the median of admissions after each of which a job ends and another is entered.

    One connection does all of that, as a supervisor does: so the number of waiting jobs stays, and SQLite keeps what it
    has read.
    """
    index, taken = catalog.index, list[float]()
    held: str | None = None
    with entering(catalog, _GROUP) as enter:
        for _ in range(times + 1):
            if held is not None:
                _end(catalog, held)
            enter(1)
            begun = time.perf_counter()
            turn = index.write(index.take_turn)
            taken.append(time.perf_counter() - begun)
            held = turn.grants[0].job_id
        if held is not None:
            _end(catalog, held)
    return median(taken[1:]) * 1e6


def _bare_admission_us(folder: Path, times: int) -> float:
    """Return the median of a transaction that moves a row from one table to another, and makes a file."""
    taken: list[float] = []
    with contextlib.closing(sqlite3.connect(folder / "writes.db", isolation_level=None)) as rows:
        rows.execute("PRAGMA journal_mode = WAL")
        rows.execute("PRAGMA synchronous = NORMAL")
        rows.execute("PRAGMA wal_autocheckpoint = 0")
        rows.execute("CREATE TABLE waiting (lane, rank, seq, PRIMARY KEY (lane, rank, seq)) WITHOUT ROWID")
        rows.execute("CREATE TABLE held (seq INTEGER PRIMARY KEY, lane)")
        rows.executemany("INSERT INTO waiting VALUES (1, ?, ?)", [(number, number) for number in range(times)])
        for number in range(times):
            begun = time.perf_counter()
            rows.execute("BEGIN IMMEDIATE")
            rows.execute("SELECT rank, seq FROM waiting WHERE lane = 1 ORDER BY rank, seq LIMIT 1").fetchone()
            rows.execute("DELETE FROM waiting WHERE lane = 1 AND rank = ? AND seq = ?", (number, number))
            rows.execute("INSERT INTO held VALUES (?, 1)", (number,))
            os.close(os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            rows.execute("COMMIT")
            taken.append(time.perf_counter() - begun)
            rows.execute("DELETE FROM held")  # as many rows as there are slots
    return median(taken) * 1e6


def _end(catalog: Catalog, job_id: str) -> None:
    row = catalog.row(job_id)
    outcome = JobOutcome(state=State.DONE, reason=Reason.EXITED, exit=Exit(exit_code=0, ended_ns=time.time_ns()))
    catalog.index.write(lambda: catalog.index.finish(row.with_outcome(outcome)))


def _looks(
    plan: Plan, settings: supervisor.Settings, last: str, count: int, beside: dict[str, Any]
) -> Iterator[Figure]:
    """Measure what an open catalog answers about the queue, next to the rows that it cannot do without."""
    times = plan.pick(2, 20, 100)
    with Catalog(settings) as catalog, contextlib.closing(sqlite3.connect(settings.state_dir / "registry.db")) as rows:

        def by_sql(statement: str, *given: object) -> Callable[[], object]:
            return lambda: rows.execute(statement, given).fetchall()

        row = by_sql("SELECT * FROM jobs WHERE job_id = ?", last)
        ten = by_sql("SELECT * FROM jobs WHERE state = 'queued' ORDER BY seq DESC LIMIT 10")
        ranks = by_sql("SELECT * FROM ranks")
        looks: dict[str, tuple[Callable[[], object], str, Callable[[], object]]] = {
            "the status, with the position, of the last job": (lambda: catalog.status(last), _ROW, row),
            "a page of ten queued jobs": (lambda: catalog.list(state="queued", limit=10), "ten rows by SQL", ten),
            "why the last job waits": (lambda: explain(catalog, last), _ROW, row),
            "the counts of the group": (
                lambda: catalog.index.read_queue(lambda queue: queue.counts(_GROUP)),
                "the counts that it keeps, by SQL",
                ranks,
            ),
        }
        for what, (look, limit, select) in looks.items():
            contenders = {name: partial(median_us, times, call) for name, call in ((OURS, look), (limit, select))}
            values, missing = interleaved(plan.rounds, contenders)
            yield Figure(
                case="queueing", name=f"{what}, {count:,} waiting", unit="us", values=values, missing=missing,
                goals=[Goal("<=", 1000)], **beside,
            )  # fmt: skip


def _entries(plan: Plan) -> Figure:
    """Measure ``start_many`` into a group that is paused, so that every job waits."""
    count = plan.pick(20, 2000, 10_000)

    async def rate(sup: supervisor.Supervisor) -> float:
        await sup.set_group(_GROUP, limit=1)
        await sup.pause_group(_GROUP)
        specs = [supervisor.JobSpec(argv=TRUE, groups=(_GROUP,)) for _ in range(count)]
        begun = time.perf_counter()
        await sup.start_many(specs)
        taken = time.perf_counter() - begun
        return count / taken

    contenders = {OURS: lambda: plan.ours(rate), FILES_ALONE: lambda: files_alone(plan.fresh("files"), count)}
    values, _ = interleaved(plan.rounds, contenders)
    return Figure(
        case="queueing",
        name=f"jobs that wait, by start_many, {count:,} at a time",
        unit="1/s",
        values=values,
        goals=[Goal(">=", 5000)],
    )


def _launches(plan: Plan) -> Iterator[Figure]:
    """Measure from the end of a job, by the clock of its keeper, to the spawn of the next one in its group."""
    times = plan.pick(3, 50, 200)

    async def gaps(sup: supervisor.Supervisor) -> float:
        await sup.set_group(_GROUP, limit=1)
        made = await sup.start_many([supervisor.JobSpec(argv=TRUE, groups=(_GROUP,)) for _ in range(times)])
        return _gap_ms([await sup.wait(job.job_id) for job in made])

    def bare() -> float:
        return _bare_gap_ms(times)

    values, _ = interleaved(plan.rounds, {OURS: lambda: plan.ours(gaps), _BARE_GAP: bare})
    yield Figure(
        case="queueing",
        name="a freed slot to the next launch, with a supervisor",
        unit="ms",
        values=values,
        goals=[Goal("<=", 3)],
        note="medians of a round",
    )

    environment = with_bytecode(plan.fresh("bytecode"))
    for what, is_killed, note in (
        ("a helper", False, "the process that has started the jobs has left"),
        ("keepers only", True, "the helper was killed, and a keeper starts another"),
    ):

        def alone(*, is_killed: bool = is_killed) -> float:
            return _gap_alone_ms(plan, environment, is_killed=is_killed)

        alone()  # compiles the imported modules
        values, _ = interleaved(plan.pick(1, 5, 15), {OURS: alone, _BARE_GAP: bare})
        yield Figure(
            case="queueing",
            name=f"a freed slot to the next launch, with {what}",
            unit="ms",
            values=values,
            goals=[Goal("<=", 150)],
            note=note,
        )


def _gap_alone_ms(plan: Plan, environment: Mapping[str, str], *, is_killed: bool) -> float:
    """Measure as ``_launches`` does where no supervisor is open; ``is_killed``: and the helper was killed."""
    settings, slot = plan.settings(), plan.fresh("slot") / "fifo"
    os.mkfifo(slot)
    ids = apart(_start_two, str(settings.state_dir), str(slot), environment=environment)
    with Catalog(settings) as catalog:
        owners = catalog.layout.owners
        _until(lambda: len(os.listdir(settings.state_dir / KEEPERS)) == 2)  # the second is that of the helper
        (helper,) = _until(lambda: [*filter(owners.is_alive, os.listdir(settings.state_dir / OWNERS))])
        if is_killed:
            os.kill(int(helper.partition(".")[0]), signal.SIGKILL)
            _until(lambda: not owners.is_alive(helper))
        last = Path(catalog.directory(catalog.row(ids[-1])))
    with open(slot, "wb"):  # the first job reads that to its end
        pass
    _until((last / EXIT).exists)  # a catalog that waits would take a turn itself
    with Catalog(settings) as catalog:
        return _gap_ms(catalog.wait(ids))


def _bare_gap_ms(times: int) -> float:
    """Return the median from the return of ``waitpid`` to that of the ``posix_spawn`` of the next command."""
    gaps: list[float] = []
    pid = os.posix_spawn(TRUE[0], [*TRUE], os.environ)
    for _ in range(times):
        os.waitpid(pid, 0)
        begun = time.perf_counter()
        pid = os.posix_spawn(TRUE[0], [*TRUE], os.environ)
        gaps.append((time.perf_counter() - begun) * 1e3)
    os.waitpid(pid, 0)
    return median(gaps)


def _until(look: Callable[[], _T]) -> _T:
    """Return what ``look`` returns once that is true: what other processes do has no event here."""
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while not (found := look()):
        if time.monotonic() > give_up:
            raise TimeoutError
        time.sleep(0.001)
    return found


def _start_two(root: str, slot: str) -> list[str]:
    """Start two jobs in a group with one slot, and leave them; the first ends when ``slot`` was written."""

    async def main() -> list[str]:
        async with supervisor.open_supervisor(supervisor.Settings(state_dir=Path(root))) as sup:
            await sup.set_group(_GROUP, limit=1)
            return [(await sup.start(argv, groups=[_GROUP])).job_id for argv in (("cat", slot), TRUE)]

    return trio.run(main)


def _gap_ms(jobs: Sequence[supervisor.Job]) -> float:
    in_order = sorted(jobs, key=lambda job: job.created_at)
    gaps: list[float] = []
    for one, other in pairwise(in_order):
        if one.completed_at is None or other.started_at is None:
            raise AssertionError(one, other)
        gaps.append((other.started_at - one.completed_at).total_seconds() * 1e3)
    return median(gaps)
