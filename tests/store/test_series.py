"""The transaction that ends an attempt inserts the next one: once, whatever was killed, and not after a cancel."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.admission import groups
from supervisor.errors import InvalidArguments, JobRunning, StateFull
from supervisor.jobdir import factories, records
from supervisor.jobdir.facts import Launched
from supervisor.jobs import retention
from supervisor.jobs.catalog import Catalog
from supervisor.model import ErrorInfo, Exit
from supervisor.retry import Retry, attempt_id
from supervisor.settings import Settings
from supervisor.states import Reason, State
from supervisor.store import Row
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.store.tickets import Moment
from supervisor.system import processes

KEY = workspace_key("/some/repo")
SECOND = 10**9
POLICY = Retry(retry_on=("job_failed",), jitter=0)


@attrs.define
class World:
    """A state root whose jobs are made and ended by hand."""

    catalog: Catalog

    @property
    def index(self) -> Any:
        return self.catalog.index

    def job(self, *, policy: Retry | None = POLICY, **members: Any) -> Row:
        clock = self.catalog.layout.clock
        born = {"host": processes.host_id(), "boot": processes.boot_id(), "ns": processes.pid_namespace()}
        record: dict[str, Any] = {
            "v": 1,
            "job_id": new_job_id(),
            "kind": "raw",
            "argv": ["tool"],
            "workspace": "/some/repo",
        }
        record |= {
            "labels": {},
            "created_ns": clock.wall_ns(),
            "deadline_seconds": None,
            "ttl_seconds": 100,
            "digest": "d",
        }
        record |= {"idempotency_key": None, "owner": "nobody", "engine": "local", "priority": 0, "weight": 1, **born}
        if policy is not None:
            record |= {"retry": policy.to_record(), "series_id": record["job_id"], "attempt": 1}
        record |= members
        row = row_of_record(KEY, record, dump(record))
        directory = self.catalog.layout.make_job(KEY, row.job_id, dump(record).encode())
        if policy is not None:
            Path(directory, records.ORDERS).write_bytes(b"SECRET")
            Path(directory, records.STDIN).write_bytes(b"input")
        assert self.index.write(lambda: self.index.insert(row))
        return self.row(row.job_id)

    def row(self, job_id: str) -> Row:
        found: Row = self.index.get(job_id)
        return found

    def directory(self, row: Row) -> Path:
        return Path(self.catalog.layout.job(KEY, row.job_id))

    def launch(self, row: Row) -> Row:
        """Have the records of a launch; the process is this one."""
        now = self.catalog.layout.clock.wall_ns()
        pid, start = processes.own_identity()
        records.take_claim(str(self.directory(row)), "keeper.1.1.boot.ns")
        process = {"pid": pid, "start": start, "boot": processes.boot_id(), "ns": processes.pid_namespace()}
        process |= {
            "keeper_pid": 1,
            "keeper_start": 1,
            "started_ns": now,
            "started_boot_ns": processes.ticks_to_ns(start),
        }
        records.create(str(self.directory(row)), records.PROCESS, process)
        self.index.write(lambda: self.index.set_launched(row.job_id, Launched(pid=pid, started_ns=now)))
        return self.row(row.job_id)

    def exit(self, row: Row, code: int) -> None:
        pid, start = processes.own_identity()
        end: dict[str, object] = {"pid": pid, "start": start, "boot": processes.boot_id(), "exit_code": code}
        now = self.catalog.layout.clock.wall_ns()
        records.create(str(self.directory(row)), records.EXIT, end | {"signal": None, "ended_ns": now})

    def ended(self, row: Row, code: int = 1, /, **error: Any) -> Row:
        now = self.catalog.layout.clock.wall_ns()
        given: dict[str, Any] = {"code": "job_failed", "message": "", "repair": "", **error}
        return row.with_outcome(
            JobOutcome(
                state=State.DONE if code == 0 else State.FAILED,
                reason=Reason.EXITED if code == 0 else Reason.NONZERO_EXIT,
                exit=Exit(exit_code=code, ended_ns=now),
                error=None if code == 0 else ErrorInfo(**given),
            )
        )

    def end(self, row: Row, code: int = 1, /, **error: Any) -> Row | None:
        """Record the end of a job; return the attempt that follows."""
        ended = self.ended(row, code, **error)
        assert self.index.write(lambda: self.index.finish(ended))
        following = self.row(row.job_id).retried_by
        return None if following is None else self.row(following)

    def names(self, row: Row) -> set[str]:
        return set(os.listdir(self.directory(row)))

    def rebuild(self) -> None:
        self.catalog.close()
        Path(self.catalog.layout.index_path).write_bytes(b"rubbish" * 1000)
        self.catalog = Catalog(self.catalog.settings)

    def attempts(self) -> list[tuple[str, int, str | None, str | None]]:
        rows = self.index._select("ORDER BY created_ns")
        return [(row.job_id, row.request["attempt"], row.request.get("retry_of"), row.retried_by) for row in rows]

    def dependencies(self) -> list[tuple[int, str]]:
        self.index.take_turns()
        statement = "SELECT on_seq, how FROM deps WHERE how <> 'met' ORDER BY how"
        found: list[tuple[int, str]] = self.index._db.execute(statement).fetchall()
        return found


@pytest.fixture
def world(state_dir: Path) -> Iterator[World]:
    made = World(Catalog(Settings(state_dir=state_dir)))
    yield made
    made.catalog.close()


def test_the_end_of_an_attempt_inserts_the_next_one_with_its_orders(world: World) -> None:
    first = world.job(labels={"a": "b"}, idempotency_key="k")
    following = world.end(first)
    assert following is not None
    assert following.job_id == attempt_id(first.job_id, 2)
    assert (following.state, following.idempotency_key, following.owner) == ("queued", None, "nobody")
    request = following.request
    assert (request["series_id"], request["attempt"], request["retry_of"]) == (first.job_id, 2, first.job_id)
    assert (request["labels"], request["argv"]) == ({"a": "b"}, ["tool"])
    assert json.loads((world.directory(following) / records.JOB).read_text()) == request
    assert world.names(first) == {records.JOB}
    assert world.names(following) == {records.JOB, records.ORDERS, records.STDIN}
    assert (world.directory(following) / records.ORDERS).read_bytes() == b"SECRET"
    assert world.index.with_key(KEY, "k").job_id == first.job_id
    standing = world.index.standing(following)
    assert standing == ("retry", None)
    job, then = world.catalog.job(world.row(first.job_id)), world.catalog.job(following)
    assert (job.attempt, job.maximum_attempts, job.series_id, job.retried_by) == (1, 3, first.job_id, following.job_id)
    assert (then.attempt, then.retry_of, then.retried_by, then.queue_reason) == (2, first.job_id, None, "retry")
    assert job.next_attempt_at == then.next_attempt_at is not None
    assert then.not_before is None


def test_a_series_ends_with_its_last_attempt_and_expires_with_it(world: World) -> None:
    first = world.job()
    second = world.end(first)
    assert second is not None
    assert world.row(first.job_id).expires_ns is None
    third = world.end(second)
    assert third is not None
    assert world.end(third) is None
    expiries = {world.row(row.job_id).expires_ns for row in (first, second, third)}
    assert len(expiries) == 1
    assert None not in expiries
    assert records.ORDERS not in world.names(third)
    assert not world.index.may_wait()


def test_what_is_done_is_not_tried_again(world: World) -> None:
    first = world.job()
    assert world.end(first, 0) is None
    assert world.names(first) == {records.JOB}


def test_an_end_is_recorded_once(world: World) -> None:
    first = world.job()
    ended = world.ended(first)
    assert world.end(first) is not None
    assert not world.index.write(lambda: world.index.finish(ended))
    assert len(world.attempts()) == 2


@pytest.mark.parametrize("why", ["cancelled", "budget", "deadline", "output_limit"])
def test_a_requested_stop_ends_the_series_unless_it_is_of_the_job(world: World, why: str) -> None:
    """The command ended by itself before the stop took effect, and the cancel was acknowledged or will be."""
    first = world.job()
    records.create(str(world.directory(first)), records.STOP, factories.stop_request(why, "test"))
    assert (world.end(first) is None) is (why in {"cancelled", "budget"})


def test_without_orders_there_is_no_next_attempt(world: World) -> None:
    first = world.job()
    (world.directory(first) / records.ORDERS).unlink()
    assert world.end(first) is None


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.mark.parametrize("at", ["mkdir", "replace", "rename stdin", "rename orders", "insert", "update"])
@pytest.mark.parametrize("then", ["again", "rebuild", "cancel"])
def test_a_kill_at_any_step_leaves_one_next_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch, at: str, then: str
) -> None:
    first = world.launch(world.job())
    world.exit(first, 1)
    ended = world.ended(first)
    index = world.index
    with monkeypatch.context() as patch:

        def kill_after(owner: Any, name: str, wanted: str = "") -> None:
            inner = getattr(owner, name)

            def outer(*args: Any, **named: Any) -> Any:
                result = inner(*args, **named)
                if wanted in str(args[-1:]):
                    raise Killed
                return result

            patch.setattr(owner, name, outer)

        match at.split():
            case ["mkdir"]:
                kill_after(os, "mkdir")
            case ["replace"]:
                kill_after(records, "replace")
            case ["rename", name]:
                kill_after(os, "rename", f"/{name}'")
            case ["insert"]:
                kill_after(type(index), "insert")
            case _:
                kill_after(type(index), "_record_end")
        with pytest.raises(Killed):
            index.write(lambda: index.finish(ended))
    second = attempt_id(first.job_id, 2)
    assert world.row(first.job_id).state == "running"
    assert index.get(second) is None
    assert world.catalog.recover(second) is None  # the end of the first one decides
    retention._sweep_unannounced(world.catalog, None)
    if then == "cancel":
        records.create(str(world.directory(first)), records.STOP, factories.stop_request("cancelled", "test"))
    if then == "rebuild":
        world.rebuild()
    assert world.catalog.status(first.job_id).status == "failed"
    if then == "cancel":
        assert [each[1:] for each in world.attempts()] == [(1, None, None)]
        assert not Path(world.catalog.layout.job(KEY, second)).exists()
        return
    assert world.attempts() == [(first.job_id, 1, None, second), (second, 2, first.job_id, None)]
    assert world.names(world.row(second)) == {records.JOB, records.ORDERS, records.STDIN}
    assert world.index.standing(world.row(second))[0] == "retry"


def test_no_room_for_the_next_attempt_leaves_the_end_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.launch(world.job())
    world.exit(first, 1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", full)
        ended = world.ended(first)
        with pytest.raises(StateFull):
            world.index.write(lambda: world.index.finish(ended))
        assert world.catalog.status(first.job_id).status == "running"
        assert world.catalog.wait([first.job_id], timeout=0.1)[0].status == "running"
    assert world.catalog.status(first.job_id).retried_by is not None


@pytest.mark.parametrize("end_known", [True, False])
def test_a_rebuild_in_the_middle_of_a_series_gives_the_same_series(world: World, *, end_known: bool) -> None:
    first = world.launch(world.job())
    world.exit(first, 1)
    world.catalog.status(first.job_id)
    second = world.launch(world.row(attempt_id(first.job_id, 2)))
    world.exit(second, 1)
    if end_known:
        world.catalog.status(second.job_id)
    world.rebuild()
    third = attempt_id(first.job_id, 3)
    assert [each[0] for each in world.attempts()] == [first.job_id, second.job_id, third]
    assert [each[3] for each in world.attempts()] == [second.job_id, third, None]
    assert world.index.standing(world.row(third))[0] == "retry"
    expiries = [world.row(each[0]).expires_ns for each in world.attempts()]
    assert expiries == [None, None, None]


def test_a_rebuild_does_not_repeat_an_attempt_that_was_removed(world: World) -> None:
    first = world.launch(world.job(policy=Retry(maximum_attempts=2, retry_on=("job_failed",))))
    world.exit(first, 1)
    world.catalog.status(first.job_id)
    second = world.launch(world.row(attempt_id(first.job_id, 2)))
    world.exit(second, 1)
    world.catalog.status(second.job_id)
    world.catalog.forget(second.job_id)
    world.rebuild()
    assert [each[1:] for each in world.attempts()] == [(1, None, None)]


def test_an_attempt_is_kept_while_its_series_goes_on(world: World) -> None:
    first = world.job(ttl_seconds=0)
    second = world.end(first)
    assert second is not None
    assert world.catalog.prune() == []
    assert world.index.write(lambda: world.index.evict(KEY, 0)) == []
    with pytest.raises(JobRunning):
        world.catalog.forget(first.job_id)
    world.end(second, 0)
    assert sorted(world.catalog.prune()) == sorted([first.job_id, second.job_id])


@pytest.mark.parametrize("how", ["ok", "any", "failed", "start"])
@pytest.mark.parametrize("launched", [True, False])
@pytest.mark.parametrize("entered", ["before", "afterwards"])
def test_a_dependency_on_a_series_is_one_on_its_last_attempt(
    world: World, how: str, *, launched: bool, entered: str
) -> None:
    first = world.job()
    if launched:
        first = world.launch(first)
    after = [{"job_id": first.job_id, "when": how}]
    waits = world.job(policy=None, after=after) if entered == "before" else None
    second = world.end(first)
    assert second is not None
    waits = waits or world.job(policy=None, after=after)
    if how == "start" and launched:
        assert world.dependencies() == []
    else:
        assert world.dependencies() == [(second.seq, how)]
        assert world.end(world.launch(second), 0) is None
        failed = how == "failed"
        assert world.dependencies() == ([(second.seq, "never")] if failed else [])
    turn = world.index.take_turns()
    assert [(end.job_id, end.why, json.loads(end.cause)["job_id"]) for end in turn.ends] == (
        [(waits.job_id, "dependency_failed", second.job_id)] if how == "failed" else []
    )


def test_the_back_off_counts_from_the_end_by_the_boot_clock(world: World) -> None:
    class Clock:
        wall, boot = 10**18, 10**12

        def wall_ns(self) -> int:
            return self.wall

        def boot_ns(self) -> int:
            return self.boot

    world.catalog.layout.clock.source = clock = Clock()
    first = world.job(policy=Retry(initial_interval=60, jitter=0, retry_on=("job_failed",)))
    ended = world.ended(first)
    clock.wall += 20 * SECOND  # no process was there
    clock.boot += 20 * SECOND
    assert world.index.write(lambda: world.index.finish(ended))
    second = world.row(attempt_id(first.job_id, 2))
    assert second.request["delay_ns"] == 40 * SECOND
    assert world.index.take_turns().grants == []
    clock.boot += 39 * SECOND
    clock.wall -= 86400 * SECOND
    assert world.index.take_turns().grants == []
    assert world.index.queue.next_seconds(Moment(clock.wall, clock.boot, processes.boot_id()[:12])) == 1
    clock.boot += SECOND
    assert [grant.job_id for grant in world.index.take_turns().grants] == [second.job_id]


def test_an_attempt_takes_no_slot_before_its_time_and_waits_for_one_then(world: World) -> None:
    index = world.index
    groups.change_group(index, "g", lambda group: attrs.evolve(group, limit=1), create=True)
    policy = Retry(initial_interval=0, retry_on=("job_failed",))
    first, other = world.job(policy=policy, groups=["g"]), world.job(policy=None, groups=["g"])
    assert [grant.job_id for grant in index.take_turns().grants] == [first.job_id]
    second = world.end(first)
    assert second is not None
    assert [grant.job_id for grant in index.take_turns().grants] == [other.job_id]
    assert index.queue.counts("g").running == 1
    assert index.standing(second) == ("limit", 1)


def test_what_the_first_attempt_has_waited_for_is_not_waited_for_again(world: World) -> None:
    first = world.job(policy=Retry(initial_interval=0, retry_on=("job_failed",)), hold=True, start_within_ns=SECOND)
    second = world.end(first)
    assert second is not None
    assert not {"hold", "after", "start_within_ns"} & second.request.keys()
    assert [grant.job_id for grant in world.index.take_turns().grants] == [second.job_id]


def test_a_priority_that_was_changed_is_that_of_the_next_attempt_and_its_hold_outlives_a_rebuild(world: World) -> None:
    first = world.job()
    world.index.write(lambda: world.index.change_waiting(first, {"priority": 7}))
    first = world.launch(first)
    world.exit(first, 1)
    world.catalog.status(first.job_id)
    second = world.row(attempt_id(first.job_id, 2))
    assert (second.request["priority"], "queue" in second.request) == (7, False)
    world.index.write(lambda: world.index.change_waiting(second, {"hold": True}))
    world.rebuild()
    assert world.index.standing(world.row(second.job_id))[0] == "held"


# ------------------------------------------------------------ usage limits

ONCE = Retry(maximum_attempts=1)


def limit_of(world: World, **more: Any) -> dict[str, Any]:
    """Return the error of a job that has met a limit, which ends in an hour."""
    ends = datetime.fromtimestamp(world.catalog.layout.clock.wall_ns() // SECOND + 3600, UTC)
    return {"code": "rate_limited", "details": {"resets_at": ends.isoformat(), "resets_at_source": "field"}, **more}


def agents(world: World, **settings: Any) -> None:
    groups.change_group(world.index, "agents", lambda group: attrs.evolve(group, **settings), create=True)


def never_launched(world: World, row: Row) -> Row | None:
    """Record that the processes were killed that were to launch a job; return the attempt that follows."""
    error = ErrorInfo(code="launch_failed", message="", repair="", retryable=True)
    exit_ = Exit(ended_ns=world.catalog.layout.clock.wall_ns(), launch_status=125, never_launched=True)
    outcome = JobOutcome(state=State.FAILED, reason=Reason.LAUNCH_FAILED, exit=exit_, error=error)
    assert world.index.write(lambda: world.index.finish(row.with_outcome(outcome)))
    following = world.row(row.job_id).retried_by
    return None if following is None else world.row(following)


def test_a_job_that_was_never_launched_comes_back_whatever_its_policy_says_of_failures(world: World) -> None:
    agents(world)
    first = world.job(policy=ONCE, groups=["agents"])
    second = never_launched(world, first)
    assert second is not None
    assert 0.8 <= second.request["delay_ns"] / SECOND <= 1
    assert world.names(second) >= {"orders", "stdin"}
    job, then = world.catalog.job(world.row(first.job_id)), world.catalog.job(second)
    assert (job.attempt, job.maximum_attempts, then.attempt, then.maximum_attempts) == (1, 2, 2, 2)
    assert world.end(world.launch(second)) is None, "a failure of its command is its last"
    assert never_launched(world, world.job(policy=None, groups=["agents"])) is None, "it has no orders to repeat"


def test_an_attempt_that_was_to_continue_a_session_and_was_never_launched_still_continues_it(world: World) -> None:
    agents(world)
    argv = ["claude", "-p", "x", "--output-format", "json"]
    first = world.job(policy=ONCE, groups=["agents"], kind="claude", argv=argv)
    limit = limit_of(world)
    limit["details"] |= {"session_id": "5e55", "usage": {"output_tokens": 9}}
    second = world.end(world.launch(first), **limit)
    assert second is not None
    third = never_launched(world, second)
    assert third is not None
    assert (second.request["session_id"], second.request["resumed"]) == ("5e55", True)
    assert (third.request["session_id"], third.request["resumed"]) == ("5e55", True)


def test_a_job_with_one_attempt_comes_back_after_the_limit_that_its_group_waits_out(world: World) -> None:
    agents(world)
    first = world.job(policy=ONCE, groups=["agents"])
    error = limit_of(world)
    second = world.end(first, **error)
    assert second is not None
    assert "delay_ns" not in second.request
    assert world.index.take_turns().grants == []
    job, then = world.catalog.job(world.row(first.job_id)), world.catalog.job(second)
    assert (job.attempt, job.maximum_attempts, then.attempt, then.maximum_attempts) == (1, 2, 2, 2)
    until = datetime.fromisoformat(error["details"]["resets_at"]) + timedelta(minutes=1)
    assert job.next_attempt_at == until
    groups.resume_group(world.index, "agents")
    assert world.index.queue.holds(second.job_id), "the pause of the group is all that it waits for"
    third = world.end(second, **limit_of(world))
    assert third is not None
    assert world.end(third) is None, "the one failure that it may have"
    assert world.catalog.job(world.row(third.job_id)).maximum_attempts == 3


def test_a_limit_that_no_group_waits_out_is_a_failure(world: World) -> None:
    agents(world, on_rate_limit="ignore")
    assert world.end(world.job(policy=ONCE, groups=["agents"]), **limit_of(world)) is None
    assert world.end(world.job(policy=ONCE), **limit_of(world)) is None
    agents(world, on_rate_limit="wait")
    never = Retry(maximum_attempts=1, never_retry_on=("rate_limited",))
    assert world.end(world.job(policy=never, groups=["agents"]), **limit_of(world)) is None
    groups.change_group(world.index, "other", lambda group: group, create=True)
    moved = world.job(policy=ONCE, groups=["agents"])
    groups.remove_group(world.index, "agents", to="other")
    assert world.end(moved, **limit_of(world)) is not None, "its groups are those that it was moved to"


@pytest.mark.parametrize("at", ["replace", "insert", "_record_end", "pause"])
def test_a_kill_while_a_limit_is_recorded_leaves_one_attempt_and_one_pause(
    world: World, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    agents(world)
    first = world.launch(world.job(policy=ONCE, groups=["agents"]))
    ended = world.ended(first, **limit_of(world))
    index = world.index
    owner: Any = {"replace": records, "pause": type(index.group_files)}.get(at, type(index))
    inner = getattr(owner, at)

    def killed(*args: Any, **named: Any) -> None:
        inner(*args, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, at, killed)
        with pytest.raises(Killed):
            index.write(lambda: index.finish(ended))
    assert world.row(first.job_id).state == "running"
    assert index.write(lambda: index.finish(ended))
    assert [each[1] for each in world.attempts()] == [1, 2]
    assert len(groups.group_info(index, "agents").paused) == 1
    assert index.take_turns().grants == []


def met_a_limit(world: World) -> Row:
    """Return an attempt that has met a limit, with its records; its end is not in the index."""
    first = world.launch(world.job(policy=ONCE, groups=["agents"], kind="claude", argv=["claude", "-p", "x"]))
    ends = world.catalog.layout.clock.wall_ns() // SECOND + 3600
    event = {"status": "rejected", "resetsAt": ends, "rateLimitType": "five_hour"}
    lines = [
        {"type": "rate_limit_event", "rate_limit_info": event},
        {"type": "result", "subtype": "success", "is_error": True, "api_error_status": 429, "result": "limit"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (world.directory(first) / "result.json").write_text(text)
    world.exit(first, 1)
    return first


def limited_agent(world: World) -> tuple[Row, Row]:
    """Return an attempt that has met a limit, and the one that follows."""
    first = met_a_limit(world)
    assert world.catalog.status(first.job_id).status == "failed"
    return world.row(first.job_id), world.row(attempt_id(first.job_id, 2))


def test_a_limit_that_no_index_has_recorded_pauses_the_group_as_one_is_made(world: World) -> None:
    agents(world)
    first = met_a_limit(world)
    world.rebuild()
    assert paused(world) == ["rate_limited"]
    assert world.index.standing(world.row(attempt_id(first.job_id, 2))) == ("rate_limited", 1)


def paused(world: World) -> list[str]:
    return [each.by for each in groups.group_info(world.index, "agents").paused]


def test_an_index_that_is_rebuilt_while_a_group_waits_out_a_limit_has_the_same_pause_and_attempts(
    world: World,
) -> None:
    agents(world)
    first, second = limited_agent(world)
    before = groups.group_info(world.index, "agents").paused
    world.rebuild()
    assert groups.group_info(world.index, "agents").paused == before != ()
    assert world.attempts() == [(first.job_id, 1, None, second.job_id), (second.job_id, 2, first.job_id, None)]
    assert world.index.standing(world.row(second.job_id)) == ("rate_limited", 1)
    assert world.index.take_turns().grants == []
    job = world.catalog.job(world.row(second.job_id))
    assert (job.attempt, job.maximum_attempts) == (2, 2)
    assert abs((job.next_attempt_at or before[0].until) - before[0].until) < timedelta(milliseconds=1)


def test_a_pause_that_was_ended_does_not_come_back_with_a_new_index(world: World) -> None:
    agents(world)
    _, second = limited_agent(world)
    groups.resume_group(world.index, "agents")
    assert world.index.queue.holds(second.job_id)
    world.rebuild()
    assert paused(world) == []
    assert world.index.queue.holds(second.job_id)


def test_a_group_that_waits_out_a_limit_is_removed_only_with_a_place_for_its_jobs(world: World) -> None:
    agents(world)
    _, second = limited_agent(world)
    with pytest.raises(InvalidArguments, match="1 jobs waiting"):
        groups.remove_group(world.index, "agents")
    assert paused(world) == ["rate_limited"]
    groups.change_group(world.index, "other", lambda group: group, create=True)
    groups.remove_group(world.index, "agents", to="other")
    assert world.index.queue.holds(second.job_id), "the other group knows of no limit"
    agents(world)
    assert paused(world) == [], "a new group of this name is not paused"
    world.rebuild()
    assert paused(world) == []
    assert [each.by for each in groups.group_info(world.index, "other").paused] == []
