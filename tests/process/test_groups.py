"""Jobs in groups, with real processes: no limit is exceeded, and no waiting job is lost, whatever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

import supervisor
from supervisor.admission import groups, launch_helper
from supervisor.errors import GroupClosed, GroupNotFound, InvalidArguments, StateBusy, SupervisorError
from supervisor.jobdir.records import ORDERS, STDIN
from supervisor.jobs.catalog import Catalog
from supervisor.runtime import launcher
from supervisor.store import Index
from supervisor.store.groups import Group
from supervisor.store.queue import Turn
from supervisor.store.tickets import Ticket
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import Fifo, World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")
PATIENCE = 60
HOLD = 'echo "$2" > "$1"; read line < "$0"; echo "$2"'


def make(world: World, name: str, limit: int | None) -> None:
    groups.change_group(world.catalog.index, name, lambda group: attrs.evolve(group, limit=limit), create=True)


def held(gate: Fifo, up: Fifo, name: str) -> tuple[str, ...]:
    """Return a command that says its name through ``up``, and ends when ``gate`` lets it."""
    return ("sh", "-c", HOLD, str(gate), str(up), name)


def command(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=world.environment, timeout=PATIENCE)


def counts(world: World, name: str) -> tuple[int, int]:
    found = world.catalog.index.queue.counts(name)
    return found.running, found.waiting


def test_a_limit_holds_and_each_end_begins_the_next_in_order(world: World) -> None:
    make(world, "g", 2)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    jobs = [host.call("start", list(held(gate, up, str(number))), groups=["g"]) for number in range(5)]
    assert [job["status"] for job in jobs] == ["running", "running", "queued", "queued", "queued"]
    assert {up.line(), up.line()} == {"0", "1"}
    assert up.silent
    assert [(job["queue_reason"], job["queue_position"]) for job in jobs[2:]] == [
        ("limit", 1),
        ("limit", 2),
        ("limit", 3),
    ]
    for expected in "234":
        gate.open()
        assert up.line() == expected
        assert counts(world, "g")[0] == 2
    gate.open(2)
    ended = [host.call("wait", job["job_id"], timeout=PATIENCE) for job in jobs]
    assert {job["status"] for job in ended} == {"done"}
    assert counts(world, "g") == (0, 0)


def test_a_waiting_job_has_orders_that_only_its_user_can_read_and_loses_them_at_its_launch(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "first"), groups=["g"])
    job_id = host.start("sh", "-c", 'echo "$SECRET"', groups=["g"], env={**os.environ, "SECRET": "s3"})
    orders = world.job(job_id) / ORDERS
    assert stat.S_IMODE(orders.stat().st_mode) == 0o600
    assert b"SECRET=s3" in orders.read_bytes()
    gate.open()
    assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
    assert host.call("result", job_id)["value"] == "s3\n"
    assert not orders.exists()


def test_a_job_that_need_not_wait_has_no_orders(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    job_id = host.start(*held(gate, up, "x"), groups=["g"])
    assert up.line() == "x"
    assert not (world.job(job_id) / ORDERS).exists()
    gate.open()


def test_another_supervisor_launches_the_waiting_jobs_of_one_that_was_killed(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    first, second = world.hosts(2)
    running = first.start(*held(gate, up, "first"), groups=["g"])
    waiting = [first.start(*held(gate, up, name), groups=["g"]) for name in ("second", "third")]
    assert up.line() == "first"
    first.kill()
    assert world.catalog.status(running).status == "running"
    assert [world.catalog.status(job_id).status for job_id in waiting] == ["queued", "queued"]
    for expected in ("second", "third"):
        gate.open()
        assert up.line() == expected
        assert up.silent
    gate.open()
    for job_id in (running, *waiting):
        assert second.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
    assert counts(world, "g") == (0, 0)


def test_jobs_that_a_command_has_started_are_launched_after_it(world: World) -> None:
    """No supervisor is open between the commands: the process that they start launches what waits, and ends."""
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    started = [command(world, "start", "--group", "g", "--", *held(gate, up, name)) for name in ("a", "b", "c")]
    assert [done.returncode for done in started] == [0, 0, 0]
    ids = [done.stdout.strip() for done in started]
    for expected in "abc":
        assert up.line() == expected
        assert up.silent
        gate.open()
    jobs = world.catalog.wait(ids, timeout=PATIENCE)
    assert [job.status for job in jobs] == ["done"] * 3
    assert not launch_helper.can_go_on(world.catalog.index)


def test_all_processes_are_killed_and_the_next_command_has_the_rest_launched(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    first = host.start(*held(gate, up, "first"), groups=["g"])
    second = host.start(*held(gate, up, "second"), groups=["g"])
    assert up.line() == "first"
    leader = world.leader(first)
    world.keeper(first).kill()
    host.kill()
    leader.kill()
    listed = command(world, "list", "--json")
    assert listed.returncode == 0
    assert up.line() == "second"
    gate.open()
    (job,) = world.catalog.wait([second], timeout=PATIENCE)
    assert job.status == "done"


def test_a_command_that_waits_for_a_job_has_it_launched(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "first"), groups=["g"])
    second = host.start("true", groups=["g"])
    assert up.line() == "first"
    host.kill()
    gate.open()
    assert command(world, "wait", second).returncode == 0


LOOP = """for number in $(seq 20); do
"$0" -m supervisor start --group g -- sh -c "$1" "$2" "$3" $number || exit 1
done
echo all > "$3"
sleep 600"""


def helpers(world: World) -> list[int]:
    """Return the processes that launch the waiting jobs of the state root."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"launch-waiting" in (path / "cmdline").read_bytes():
                found += [int(path.name)] * (str(world.root).encode() in (path / "environ").read_bytes())
    return found


@pytest.mark.slow  # twenty commands
def test_the_jobs_of_a_shell_that_was_killed_run_three_at_a_time_after_all_of_ours_was_killed(world: World) -> None:
    make(world, "g", 3)
    gate, up = world.fifo(), world.fifo()
    words = ["sh", "-c", LOOP, sys.executable, HOLD, str(gate), str(up)]
    shell = subprocess.Popen(words, env=world.environment, stdout=subprocess.PIPE, start_new_session=True)
    try:
        begun = [up.line(seconds=120) for _ in range(4)]
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        ids = shell.communicate()[0].decode().split()
    assert sorted(begun) == ["1", "2", "3", "all"]
    assert len(ids) == 20
    keepers = [world.keeper(job_id) for job_id in ids[:3]]
    for process in [*keepers, *map(world.hold, helpers(world))]:
        process.kill()
    gate.open(3)

    assert command(world, "list", "--json").returncode == 0
    rest = [up.line() for _ in range(3)]
    while len(rest) < 17:
        assert up.silent
        gate.open()
        rest.append(up.line())
    gate.open(3)
    assert sorted(map(int, rest)) == list(range(4, 21))
    ends = [job.status for job in world.catalog.wait(ids, timeout=PATIENCE)]
    assert ends[3:] == ["done"] * 17
    assert counts(world, "g") == (0, 0)


def test_another_process_cancels_a_waiting_job(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "first"), groups=["g"])
    job_id = host.start("echo", "never", groups=["g"], stdin=None)
    assert command(world, "cancel", job_id).returncode == 0
    job = world.catalog.status(job_id)
    assert (job.status, job.started_at, job.queue_position) == ("cancelled", None, None)
    assert counts(world, "g") == (1, 0)
    assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "cancelled"
    assert not (world.job(job_id) / ORDERS).exists()
    gate.open()


def test_its_supervisor_cancels_a_waiting_job_without_launching_it(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "first"), groups=["g"])
    job_id = host.start(*held(gate, up, "never"), groups=["g"])
    assert up.line() == "first"
    assert host.call("cancel", job_id)["status"] == "cancelled"
    gate.open(2)
    assert up.silent
    assert counts(world, "g")[1] == 0


def test_the_index_is_rebuilt_with_its_queue(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    first = host.start(*held(gate, up, "first"), groups=["g"])
    waiting = [host.start(*held(gate, up, name), groups=["g"], weight=1) for name in ("second", "third")]
    assert up.line() == "first"
    (world.root / "registry.db").write_bytes(b"rubbish" * 1000)
    assert [world.catalog.status(job_id).status for job_id in waiting] == ["queued", "queued"]
    assert counts(world, "g") == (1, 2)
    assert [world.catalog.status(job_id).queue_position for job_id in waiting] == [1, 2]
    for expected in ("second", "third"):
        gate.open()
        assert up.line() == expected
    gate.open()
    for job_id in (first, *waiting):
        assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
    assert counts(world, "g") == (0, 0)


@pytest.mark.parametrize("words", [("set", "g", "--limit", "2"), ("pause", "g"), ("resume", "g"), ("rm", "g")])
def test_a_change_of_a_group_that_finds_the_index_damaged_rebuilds_it(world: World, words: tuple[str, ...]) -> None:
    with Catalog(supervisor.Settings(state_dir=world.root)) as catalog:
        groups.change_group(catalog.index, "g", lambda group: group, create=True)
    index = world.root / "registry.db"
    index.write_bytes(index.read_bytes()[:4096] + b"rubbish" * 20000)  # it can be opened
    assert command(world, "group", *words).returncode == 0
    assert len(list(world.root.glob("registry.db.damaged-*"))) == 1


def test_an_index_of_a_version_without_groups_gets_its_queue(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    host.start(*held(gate, up, "first"), groups=["g"])
    job_id = host.start(*held(gate, up, "second"), groups=["g"])
    assert up.line() == "first"
    host.kill()
    index = world.catalog.index

    def undo() -> None:
        # the triggers first, some of which are of the tables that stay
        for kind, name in index._db.execute(
            "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'trigger') AND name NOT LIKE 'labels%'"
            " AND name <> 'jobs' ORDER BY type DESC"
        ).fetchall():
            index._db.execute(f"DROP {kind} {name}")
        index._db.execute("PRAGMA user_version = 2")

    index.write(undo)
    assert counts_of_new_catalog(world) == (1, 1)
    gate.open()
    second = world.host()
    assert up.line() == "second"
    gate.open()
    assert second.call("wait", job_id, timeout=PATIENCE)["status"] == "done"


def counts_of_new_catalog(world: World) -> tuple[int, int]:
    with Catalog(supervisor.Settings(state_dir=world.root)) as catalog:
        found = catalog.index.queue.counts("g")
        return found.running, found.waiting


def test_raising_a_limit_or_resuming_a_group_from_outside_begins_what_waits(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    jobs = [host.start(*held(gate, up, str(number)), groups=["g"]) for number in range(4)]
    assert up.line() == "0"
    assert command(world, "group", "set", "g", "--limit", "2").returncode == 0
    assert up.line() == "1"
    assert command(world, "group", "pause", "g", "--reason", "lunch").returncode == 0
    gate.open(2)
    for job_id in jobs[:2]:
        assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"
    assert up.silent
    assert world.catalog.status(jobs[2]).queue_reason == "paused"
    shown = json.loads(command(world, "group", "show", "g", "--json").stdout)
    assert (shown["running"], shown["waiting"], shown["paused"]) == (
        0,
        2,
        [{"by": "user", "until": None, "detail": "lunch"}],
    )
    assert command(world, "group", "resume", "g").returncode == 0
    assert {up.line(), up.line()} == {"2", "3"}
    gate.open(2)


def test_a_pause_that_is_over_begins_what_waits(world: World) -> None:
    make(world, "g", 1)
    assert command(world, "group", "pause", "g", "--for", "1").returncode == 0
    host = world.host()
    job_id = host.start("echo", "x", groups=["g"])
    assert host.call("wait", job_id, timeout=PATIENCE)["status"] == "done"


@pytest.mark.usefixtures("world")
async def test_what_cannot_be_admitted_is_refused_and_makes_no_job() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("closed", limit=0)
        await sup.set_group("small", limit=2)
        refused: list[tuple[dict[str, Any], type[SupervisorError]]] = [
            ({"groups": ["unknown"]}, GroupNotFound),
            ({"groups": ["small", "unknown"]}, GroupNotFound),
            ({"groups": ["closed"]}, GroupClosed),
            ({"groups": ["small"], "weight": 3}, InvalidArguments),
            ({"groups": ["small"], "weight": 0}, InvalidArguments),
            ({"groups": ["small"], "priority": 1001}, InvalidArguments),
            ({"groups": ["a/b"]}, InvalidArguments),
            ({"weight": 2}, InvalidArguments),
        ]
        for options, error in refused:
            with pytest.raises(error):
                await sup.start(["true"], **options)
        assert (await sup.list()).jobs == ()
        with pytest.raises(GroupNotFound):
            await sup.pause_group("unknown")


@pytest.mark.usefixtures("world")
async def test_a_limit_below_the_weight_of_a_waiting_job_is_refused() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=3)
        first = await sup.start(["sleep", "60"], groups=["g"], weight=3)
        second = await sup.start(["sleep", "60"], groups=["g"], weight=3)
        with pytest.raises(InvalidArguments, match="could never run"):
            await sup.set_group("g", limit=2)
        with pytest.raises(InvalidArguments, match="waiting"):
            await sup.remove_group("g")
        for job in (second, first):
            assert (await sup.cancel(job.job_id)).status == "cancelled"
        await sup.remove_group("g")
        assert await sup.groups() == ()


@pytest.mark.usefixtures("world")
async def test_a_priority_goes_before_an_earlier_job() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1, aging_seconds=600)
        first = await sup.start(["sleep", "60"], groups=["g"])
        plain = await sup.start(["true"], groups=["g"])
        wanted = await sup.start(["true"], groups=["g"], priority=1)
        assert ((await sup.status(wanted.job_id)).queue_position, (await sup.status(plain.job_id)).queue_position) == (
            1,
            2,
        )
        await sup.cancel(first.job_id)
        with trio.fail_after(PATIENCE):
            ends = [(await sup.wait(job.job_id)).started_at for job in (wanted, plain)]
        assert all(ends)
        assert ends == sorted(ends)  # type: ignore[type-var]


@pytest.mark.usefixtures("world")
async def test_run_waits_for_its_turn_and_a_key_finds_the_waiting_job() -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        first = await sup.start(["sleep", "60"], groups=["g"])
        job = await sup.start(["echo", "x"], groups=["g"], idempotency_key="k")
        again = await sup.start(["echo", "x"], groups=["g"], idempotency_key="k")
        assert (again.job_id, again.status) == (job.job_id, "queued")
        async with trio.open_nursery() as nursery:

            async def free() -> None:
                await sup.cancel(first.job_id)

            nursery.start_soon(free)
            with trio.fail_after(PATIENCE):
                assert (await sup.run(["echo", "y"], groups=["g"])).value == "y\n"
        assert (await sup.wait(job.job_id)).status == "done"


async def test_two_supervisors_in_one_program_share_the_limit(world: World) -> None:
    marks = world.directory / "marks"
    script = 'echo begin >> "$0"; sleep 0.05; echo end >> "$0"'
    async with supervisor.open_supervisor() as one, supervisor.open_supervisor() as two:
        await one.set_group("g", limit=3)
        jobs = []
        for number in range(24):
            sup = (one, two)[number % 2]
            jobs.append(await sup.start(["sh", "-c", script, str(marks)], groups=["g"]))
        with trio.fail_after(PATIENCE):
            assert {(await one.wait(job.job_id)).status for job in jobs} == {"done"}
        assert (await two.groups())[0].running == 0
    running = most = 0
    for line in marks.read_text().split():
        running += 1 if line == "begin" else -1
        most = max(most, running)
    assert most == 3


async def test_input_of_a_waiting_job_survives_its_supervisor(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        first = await sup.start(["sleep", "60"], groups=["g"])
        job = await sup.start(["cat"], groups=["g"], stdin=b"given\n")
        assert (world.job(job.job_id) / STDIN).read_bytes() == b"given\n"
    async with supervisor.open_supervisor() as sup:
        await sup.cancel(first.job_id)
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(job.job_id)).status == "done"
        assert (await sup.result(job.job_id)).value == "given\n"
        assert not (world.job(job.job_id) / STDIN).exists()


def damage(world: World) -> Path:
    path = world.root / "groups" / "g.json"
    path.write_bytes(b"{")
    return path


def content(path: Path) -> bytes:
    return path.read_bytes()


async def test_a_damaged_group_admits_nothing_and_says_so(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        path = damage(world)
        with pytest.raises(SupervisorError) as raised:
            await sup.start(["true"], groups=["g"])
        assert (raised.value.code, str(path) in raised.value.repair) == ("state_corrupt", True)
        with pytest.raises(SupervisorError):
            await sup.set_group("g", limit=2)
        assert content(path) == b"{"
        (shown,) = await sup.groups()
        assert [each.by for each in shown.paused] == ["damage"]


def test_the_helper_is_not_started_where_it_is_of_no_use(world: World) -> None:
    index = world.catalog.index
    assert not launch_helper.ensure(index)
    make(world, "g", 1)
    host = world.host()
    gate, up = world.fifo(), world.fifo()
    first = host.start(*held(gate, up, "x"), groups=["g"])
    host.start("true", groups=["g"])
    assert launch_helper.can_go_on(index)
    assert not launch_helper.ensure(index), "a supervisor is open"
    groups.change_group(index, "g", groups.pause(None, None))
    gate.open()
    world.catalog.wait([first], timeout=PATIENCE)
    host.kill()
    assert not launch_helper.ensure(index), "the group is paused for ever"
    groups.change_group(index, "g", groups.resume)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("year", [1, 1969, 9999])
async def test_a_pause_that_no_clock_can_count_is_refused_and_harms_nothing(year: int) -> None:
    until = datetime(year, 6, 1, tzinfo=UTC)
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        with pytest.raises(InvalidArguments, match="1970 to 2262"):
            await sup.pause_group("g", until=until)
        assert (await sup.groups())[0].paused == ()


async def test_a_group_file_with_such_a_pause_or_that_is_a_directory_does_not_harm_the_index(world: World) -> None:
    path = world.root / "groups" / "g.json"
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
    held_by = json.loads(path.read_text())
    path.write_text(json.dumps({**held_by, "paused": [{"by": "user", "until_ns": 10**21}]}))
    (world.root / "groups" / "h.json").mkdir()
    (world.root / "registry.db").write_bytes(b"rubbish" * 1000)
    async with supervisor.open_supervisor() as sup:
        assert [[each.by for each in group.paused] for group in await sup.groups()] == [["damage"], ["damage"]]
        assert (await sup.run(["echo", "x"])).value == "x\n"


def test_damaged_orders_end_the_job_and_free_its_slots(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    first, second = world.hosts(2)
    first.start(*held(gate, up, "first"), groups=["g"])
    damaged = first.start("echo", "x", groups=["g"])
    last = first.start(*held(gate, up, "last"), groups=["g"])
    assert up.line() == "first"
    (world.job(damaged) / ORDERS).write_bytes(b"")
    first.kill()
    gate.open()
    assert up.line() == "last"
    gate.open()
    assert second.call("wait", last, timeout=PATIENCE)["status"] == "done"
    job = world.catalog.status(damaged)
    assert (job.status, job.reason) == ("failed", "launch_failed")


@pytest.mark.parametrize("change", ["removed", "lowered"])
async def test_a_group_that_changes_while_a_job_is_made_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    def check_and_change(index: Index, ticket: Ticket) -> list[Group]:
        found = groups.check_ticket(index, ticket)
        if change == "removed":
            groups.remove_group(index, "g")
        else:
            groups.change_group(index, "g", lambda group: attrs.evolve(group, limit=1))
        return found

    monkeypatch.setattr(launcher, "check_ticket", check_and_change)
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=2)
        with pytest.raises(GroupNotFound, match="at this moment"):
            await sup.start(["true"], groups=["g"], weight=2)
        assert (await sup.list()).jobs == ()
    assert not list(world.root.glob("*/*/job.json"))


@pytest.mark.usefixtures("world")
async def test_an_admission_that_finds_the_index_locked_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    take_due_turn = Index.take_due_turn
    locked = False
    admitted: list[str] = []

    def take_turn_unless_locked(self: Index, most: int = 64) -> Turn:
        if locked:
            message = "another process holds the lock"
            raise StateBusy(message)
        turn = take_due_turn(self, most)
        admitted.extend(grant.job_id for grant in turn.grants)
        return turn._replace(grants=[])

    monkeypatch.setattr(Index, "take_due_turn", take_turn_unless_locked)
    monkeypatch.setattr(Index, "try_turn", lambda *_: None)
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        first = await sup.start(["sleep", "60"], groups=["g"])
        job = await sup.start(["true"], groups=["g"])
        sup.launcher.waiting.check(changed=False)
        locked = True
        await sup.cancel(first.job_id)
        locked = False
        sup.launcher.waiting.check(changed=False)
        assert admitted == [job.job_id]
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(job.job_id)).status == "done"


async def test_a_job_that_is_not_recorded_yet_is_not_taken_for_a_forgotten_one(world: World) -> None:
    """It would be launched without its slots as soon as it is recorded."""
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        first = await sup.start(["sleep", "60"], groups=["g"])
        jobs: list[supervisor.Job] = []

        async def start() -> None:
            jobs.append(await sup.start(["true"], groups=["g"]))

        async with trio.open_nursery() as nursery:
            with contextlib.closing(sqlite3.connect(world.root / "registry.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                nursery.start_soon(start)
                await trio.testing.wait_all_tasks_blocked(0.05)  # a thread waits for the lock
                assert jobs == []
                sup.launcher.waiting.check(changed=True)
                await trio.testing.wait_all_tasks_blocked(0.05)
                other.execute("ROLLBACK")
        assert [job.status for job in jobs] == ["queued"]
        assert counts(world, "g") == (1, 1)
        await sup.cancel(first.job_id)
        with trio.fail_after(PATIENCE):
            assert (await sup.wait(jobs[0].job_id)).status == "done"


def test_a_rebuild_of_the_index_deletes_the_orders_of_a_job_that_has_ended(world: World) -> None:
    make(world, "g", 1)
    job_id = world.host().start("true", groups=["g"])
    world.catalog.wait([job_id], timeout=PATIENCE)
    orders = world.job(job_id) / ORDERS
    orders.write_bytes(b"its launcher was killed before it could delete them")
    for path in world.root.glob("registry.db*"):
        path.unlink()
    assert counts_of_new_catalog(world) == (0, 0)
    assert not orders.exists()


async def test_a_list_shows_the_place_of_an_own_job_beside_jobs_of_other_processes(world: World) -> None:
    async with supervisor.open_supervisor() as sup:
        await sup.set_group("g", limit=1)
        first = await sup.start(["sleep", "60"], groups=["g"])
        own = await sup.start(["true"], groups=["g"])
        other = world.host().start("true", groups=["g"])
        shown = {job.job_id: (job.queue_reason, job.queue_position) for job in (await sup.list()).jobs}
        assert (shown[own.job_id], shown[other]) == (("limit", 1), ("limit", 2))
        for job_id in (other, own.job_id, first.job_id):
            await sup.cancel(job_id)


def test_the_helper_ends_where_the_waiting_jobs_are_of_another_container(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    first = host.start(*held(gate, up, "first"), groups=["g"])
    job_id = host.start("true", groups=["g"])
    host.kill()
    gate.open()
    world.catalog.wait([first], timeout=PATIENCE)
    row = world.catalog.row(job_id)
    own, other = row.request["ns"], "4026000000"
    index = world.catalog.index
    statement = "UPDATE jobs SET spec = replace(spec, ?, ?), owner = replace(owner, ?, ?) WHERE job_id = ?"
    index.write(lambda: index._db.execute(statement, (own, other, own, other, job_id)))
    path = world.job(job_id) / "job.json"
    path.write_text(path.read_text().replace(own, other))
    assert launch_helper.can_go_on(index)
    assert command(world, "launch-waiting").returncode == 0
    assert index._db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,)).rowcount == 1


def test_the_helper_is_started_by_a_program_that_ignores_its_children(world: World) -> None:
    make(world, "g", 1)
    gate, up = world.fifo(), world.fifo()
    host = world.host()
    first = host.start(*held(gate, up, "first"), groups=["g"])
    job_id = host.start("true", groups=["g"])
    assert up.line() == "first"
    world.keeper(first).kill()  # which would start it, too
    host.kill()
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert launch_helper.ensure(world.catalog.index)
    finally:
        signal.signal(signal.SIGCHLD, before)
    gate.open()
    (job,) = world.catalog.wait([job_id], timeout=PATIENCE)
    assert job.status == "done"
