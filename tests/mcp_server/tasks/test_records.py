"""The files of function tasks, also damaged ones."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.mcp_server.tasks.records import Made, TaskRecords
from supervisor.mcp_server.tasks.state import Status


@pytest.fixture
def records(state_dir: Path) -> Iterator[TaskRecords]:
    made = TaskRecords(state_dir)
    yield made
    made.close()


def folder(state_dir: Path, made: Made) -> Path:
    return state_dir / ".tasks" / made.task_id


def test_a_task_is_found_as_it_was_made(records: TaskRecords, state_dir: Path) -> None:
    made = records.make("tool", "ann", 60_000)
    again = TaskRecords(state_dir)
    assert again.find(made.task_id) == made
    assert again.observe(made).status is Status.WORKING
    assert list(again.all()) == [made]
    again.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_the_owner_may_read(records: TaskRecords, state_dir: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = records.make("tool", None, None)
        records.end(made, Status.COMPLETED, result={})
    finally:
        os.umask(before)
    directory = folder(state_dir, made)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_the_first_end_stands(records: TaskRecords) -> None:
    made = records.make("tool", None, None)
    first = records.end(made, Status.COMPLETED, result={"content": []})
    assert records.end(made, Status.CANCELLED) == first
    assert records.observe(made) == first


def test_whoever_finds_the_owner_gone_writes_the_end(state_dir: Path, records: TaskRecords) -> None:
    owner = TaskRecords(state_dir)
    made = owner.make("tool", None, None)
    owner.close()
    found = records.observe(made)
    assert found.status is Status.FAILED
    assert found.error is not None
    assert records.observe(made) == found  # and it stays


def test_an_error_result_is_known_for_one(records: TaskRecords) -> None:
    made = records.make("tool", None, None)
    assert records.end(made, Status.COMPLETED, result={"content": [], "isError": True}).is_error is True


def test_expired_tasks_are_not_there_and_are_forgotten(records: TaskRecords, state_dir: Path) -> None:
    made = records.make("tool", None, 0)
    assert records.find(made.task_id) is None
    assert folder(state_dir, made).exists()
    assert list(records.all()) == []
    assert not folder(state_dir, made).exists()


@pytest.mark.parametrize("name", ["..", "../x", "", "x", "A" * 32, "0" * 33, "\0" * 32, "0" * 31 + "/"])
def test_ids_that_are_none(records: TaskRecords, name: str) -> None:
    assert records.find(name) is None


def test_a_link_is_not_followed(records: TaskRecords, state_dir: Path) -> None:
    made = records.make("tool", None, None)
    link = "f" * 32
    (state_dir / ".tasks" / link).symlink_to(folder(state_dir, made))
    assert records.find(link) is None
    assert [each.task_id for each in records.all()] == [made.task_id]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"v":1}', '{"v":2,"tool":"t"}', '{"v":1,"tool":"t","principal":null,"created_ns":"x"}'],
)
def test_damage_to_what_was_made_is_no_task(records: TaskRecords, state_dir: Path, text: str) -> None:
    made = records.make("tool", None, None)
    (folder(state_dir, made) / "job.json").write_text(text)
    assert records.find(made.task_id) is None
    assert list(records.all()) == []


@pytest.mark.parametrize("text", ["", "{", '{"v":1}', '{"v":1,"status":"sings","updated_ns":1}'])
def test_damage_to_an_end_is_said(records: TaskRecords, state_dir: Path, text: str) -> None:
    made = records.make("tool", None, None)
    (folder(state_dir, made) / "end.json").write_text(text)
    found = records.observe(made)
    assert found.status is Status.FAILED
    assert found.error is not None
    assert "damaged" in found.error["message"]


def test_what_a_client_sent_goes_through_unharmed(records: TaskRecords) -> None:
    result = {"content": [{"type": "text", "text": 'quote " newline \n snowman ☃ \ud800'}], "structuredContent": None}
    made = records.make('a "tool"', "ann\n☃", 1)
    records.end(made, Status.COMPLETED, message="☃", result=result)
    assert json.dumps(records.observe(made).result) == json.dumps(result)


def test_the_jobs_of_the_root_are_left_alone(records: TaskRecords, state_dir: Path) -> None:
    from supervisor import Settings
    from supervisor.jobs.catalog import Catalog

    made = records.make("tool", None, None)
    with Catalog(Settings(state_dir=state_dir)) as catalog:
        assert catalog.list().jobs == ()
        catalog.prune()
    assert records.find(made.task_id) == made
