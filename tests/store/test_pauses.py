"""Pauses of groups by causes, what a reboot does, and files of groups that the index has missed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.admission import groups
from supervisor.errors import GroupNotFound, InvalidArguments, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.model import Exit, GroupInfo
from supervisor.settings import Settings
from supervisor.states import Reason, State
from supervisor.store import Index, Row, pauses
from supervisor.store import groups as files
from supervisor.store.groups import Group, Pause
from supervisor.store.rows import JobOutcome, dump, row_of_record
from supervisor.store.state_root import new_job_id
from supervisor.system import processes

NUMBERS = iter(range(1, 10**6))
STATES = {
    State.DONE: Reason.EXITED,
    State.FAILED: Reason.NONZERO_EXIT,
    State.TIMEOUT: Reason.DEADLINE,
    State.CANCELLED: Reason.CANCELLED,
}


@pytest.fixture(autouse=True)
def each_turn_looks_at_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.store.turns._FOLLOW_NS", -1)


@pytest.fixture
def catalog(state_dir: Path) -> Iterator[Catalog]:
    with Catalog(Settings(state_dir=state_dir)) as opened:
        yield opened


@pytest.fixture
def index(catalog: Catalog) -> Index:
    return catalog.index


def make(index: Index, name: str = "g", **settings: Any) -> GroupInfo:
    return groups.change_group(index, name, lambda group: attrs.evolve(group, **settings), create=True)


def enter(index: Index, *names: str, **more: Any) -> Row:
    record: dict[str, Any] = {"v": 1, "job_id": new_job_id(), "kind": "raw", "argv": ["a"], "workspace": "/w"}
    record |= {"labels": {}, "created_ns": next(NUMBERS), "deadline_seconds": None, "ttl_seconds": 60, "digest": ""}
    record |= {"idempotency_key": None, "owner": "me", "priority": 0, "weight": 1, "groups": list(names or ("g",))}
    text = dump(record | more)
    row = row_of_record("w-" + "0" * 12, record | more, text)
    index.layout.make_job(row.workspace_key, row.job_id, text.encode())
    assert index.write(lambda: index.insert(row))
    return row


def end(index: Index, row: Row, state: State) -> None:
    outcome = JobOutcome(state=state, reason=STATES[state], exit=Exit(ended_ns=row.created_ns))
    assert index.write(lambda: index.finish(row.with_outcome(outcome)))


def admitted(index: Index) -> list[str]:
    return [grant.job_id for grant in index.take_turns().grants]


def causes(index: Index, name: str = "g") -> list[str]:
    return [each.by for each in groups.group_info(index, name).paused]


def test_failures_in_a_row_pause_a_group_until_it_is_resumed(index: Index) -> None:
    make(index, pause_on_failure=3)
    for state in (State.FAILED, State.TIMEOUT, State.DONE, State.FAILED, State.CANCELLED, State.FAILED):
        end(index, enter(index), state)
        assert causes(index) == []
    last = enter(index)
    end(index, last, State.TIMEOUT)
    (pause,) = groups.group_info(index, "g").paused
    assert (pause.by, pause.until) == ("failures", None)
    assert last.job_id in (pause.detail or "")
    waiting = enter(index)
    assert admitted(index) == []
    assert index.standing(waiting) == ("paused", 1)
    groups.resume_group(index, "g")
    assert causes(index) == []
    assert index.standing(waiting) == ("launching", None)
    end(index, waiting, State.FAILED)
    assert causes(index) == [], "the count begins anew"


def test_failures_count_for_each_group_of_a_job(index: Index) -> None:
    make(index, "a", pause_on_failure=1)
    make(index, "b", pause_on_failure=2)
    make(index, "c")
    end(index, enter(index, "a", "b", "c"), State.FAILED)
    assert [causes(index, name) for name in "abc"] == [["failures"], [], []]


def test_a_job_that_another_process_has_ended_counts_once(index: Index) -> None:
    make(index, pause_on_failure=2)
    row = enter(index)
    end(index, row, State.FAILED)
    outcome = JobOutcome(state=State.FAILED, reason=Reason.NONZERO_EXIT, exit=Exit(ended_ns=1))
    assert not index.write(lambda: index.finish(row.with_outcome(outcome)))
    assert causes(index) == []


def test_each_pause_ends_by_itself(index: Index) -> None:
    make(index, pause_on_failure=1)
    end(index, enter(index), State.FAILED)
    groups.change_group(index, "g", groups.pause(None, "lunch"))
    assert causes(index) == ["user", "failures"]
    groups.resume_group(index, "g")
    assert causes(index) == ["failures"]
    enter(index)
    assert admitted(index) == []
    index.write(lambda: index.group_files.pause("g", Pause("reboot")))
    with pytest.raises(InvalidArguments, match="failures and by reboot"):
        groups.resume_group(index, "g")
    assert groups.resume_group(index, "g", every=True).paused == ()
    with pytest.raises(GroupNotFound):
        groups.resume_group(index, "h")


def test_setting_a_group_leaves_its_pauses(index: Index) -> None:
    make(index, pause_on_failure=1)
    end(index, enter(index), State.FAILED)
    make(index, limit=5)
    enter(index)
    assert admitted(index) == []
    assert causes(index) == ["failures"]


def test_pauses_survive_the_index(state_dir: Path) -> None:
    with Catalog(Settings(state_dir=state_dir)) as first:
        make(first.index, pause_on_failure=1)
        end(first.index, enter(first.index), State.FAILED)
    for path in state_dir.glob("registry.db*"):
        path.unlink()
    with Catalog(Settings(state_dir=state_dir)) as second:
        enter(second.index)
        assert admitted(second.index) == []
        assert causes(second.index) == ["failures"]


def test_a_damaged_pause_is_a_pause(index: Index) -> None:
    make(index)
    index.write(lambda: index.group_files.pause("g", Pause("failures", 1)))
    Path(index.layout.root, "pauses/g.failures").write_bytes(b"\x00{")
    assert causes(index) == ["failures"]
    Path(index.layout.root, "pauses/.12").write_bytes(b"aside")
    Path(index.layout.root, "pauses/no cause").write_bytes(b"?")
    assert list(pauses.load_all(index.layout.root)) == ["g"]
    groups.resume_group(index, "g")
    assert causes(index) == []


def test_pauses_that_cannot_be_read_or_written_now_are_not_taken_for_none(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(index)
    index.write(lambda: index.group_files.pause("g", Pause("failures")))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def pause() -> None:
        index.write(lambda: index.group_files.pause("g", Pause("failures")))

    asked = {"listdir": causes, "unlink": groups.resume_group}
    for name in ("listdir", "unlink", "rename", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(pauses.os, name, refuse)
            with pytest.raises(SupervisorError):
                asked[name](index, "g") if name in asked else pause()
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(SupervisorError):
            pauses.load(index.layout.root, "g")
    enter(index)
    assert admitted(index) == []
    assert causes(index) == ["failures"]


# ------------------------------------------------------------ a reboot


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Any:
    def now() -> None:
        monkeypatch.setattr(processes, "boot_id", lambda: "another-boot")

    return now


def test_a_reboot_keeps_or_fails_the_waiting_jobs_as_their_group_says(index: Index, reboot: Any) -> None:
    for name, what in (("kept", "keep"), ("failed", "fail"), ("idle", "pause")):
        make(index, name, limit=1, on_reboot=what)
    for name in ("kept", "failed"):
        running = enter(index, name)
        assert admitted(index) == [running.job_id]
    lost = {enter(index, "failed").job_id, enter(index, "failed", hold=True).job_id}
    waiting = enter(index, "kept")
    reboot()
    assert {end.job_id: (end.why, end.cause) for end in index.take_turns().ends} == dict.fromkeys(
        lost, ("cancelled", '{"group": "failed", "on_reboot": "fail"}')
    )
    assert [causes(index, name) for name in ("kept", "failed", "idle")] == [[], [], []]
    assert index.standing(waiting) == ("limit", 1)


def test_a_reboot_pauses_a_group_with_waiting_jobs_once(index: Index, reboot: Any) -> None:
    make(index, limit=1, on_reboot="pause")
    running, waiting = enter(index), enter(index)
    assert admitted(index) == [running.job_id]
    reboot()
    end(index, running, State.DONE)
    assert admitted(index) == []
    (pause,) = groups.group_info(index, "g").paused
    assert pause.by == "reboot"
    assert index.standing(waiting) == ("paused", 1)
    groups.resume_group(index, "g")
    assert index.standing(waiting) == ("launching", None)


# ------------------------------------------------------------ files that were changed by a process that was killed


def test_the_next_turn_follows_a_file_that_was_changed_before_a_kill(index: Index) -> None:
    make(index, limit=1)
    first, second = enter(index), enter(index)
    assert admitted(index) == [first.job_id]
    files.save(index.layout.root, Group(name="g", limit=2))
    assert admitted(index) == [second.job_id]


def test_a_file_that_is_gone_holds_its_jobs_until_the_group_is_made_again(index: Index) -> None:
    make(index, limit=1)
    first, second = enter(index), enter(index)
    assert admitted(index) == [first.job_id]
    files.remove(index.layout.root, "g")
    end(index, first, State.DONE)
    assert admitted(index) == []
    make(index, limit=1)
    assert index.standing(second) == ("launching", None)


def test_whether_a_job_can_go_on_is_read_from_the_files(index: Index) -> None:
    make(index, limit=1)
    groups.change_group(index, "g", groups.pause(None, None))
    enter(index)
    assert not index.read_queue(lambda queue: queue.can_go_on())
    files.save(index.layout.root, Group(name="g", limit=2))
    index.follow_files()
    assert index.read_queue(lambda queue: queue.can_go_on())


def test_files_that_stay_are_not_read_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    make(index, limit=1)
    enter(index)
    enter(index)
    for directory in ("groups", "pauses"):
        found = Path(index.layout.root, directory)
        found.mkdir(exist_ok=True)
        os.utime(found)
    monkeypatch.setattr("supervisor.store.group_files.has_settled", lambda _: True)
    index.write(index.take_turn)
    monkeypatch.setattr(files, "load_all", lambda _: pytest.fail("read again"))
    index.write(index.take_turn)
