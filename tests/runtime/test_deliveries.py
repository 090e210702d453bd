"""Deliveries: what is made at the end of a job, by which process, in which order, and what failures do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from supervisor import InvalidArguments, Job, JobSpec, Retry, Settings, Supervisor, open_supervisor
from supervisor.engines.interface import LaunchRequest
from supervisor.errors import FeatureUnavailable, InvalidSettings
from supervisor.jobdir import records
from supervisor.jobs import deliveries as stored
from supervisor.jobs.catalog import Catalog
from supervisor.keeper.helper_starts import is_locked, take_lock
from supervisor.runtime import delivering, webhooks
from supervisor.runtime.webhooks import Failed
from supervisor.store import outbox
from supervisor.testing import FakeEngine, Script
from tests.clock import jumping_clock

URL = "https://example.com/hook"
Clock = trio.testing.MockClock


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Jump only when nothing has happened for a moment."""
    return jumping_clock(monkeypatch, threshold=0.002)


@attrs.define
class Posts:
    """Stands for the network: what was posted, and what the receivers answer."""

    made: list[tuple[str, dict[str, Any]]] = attrs.Factory(list)
    failure: Callable[[int], str | None] = lambda _: None
    came: trio.Event = attrs.Factory(trio.Event)

    async def post(self, url: str, event_id: str, body: bytes, **_: Any) -> None:
        await trio.lowlevel.checkpoint()
        assert url == URL
        self.made.append((event_id, json.loads(body)))
        self.came.set()
        if (why := self.failure(len(self.made))) is not None:
            raise Failed(why)

    def jobs(self) -> list[str]:
        return [body["data"]["job_id"] for _, body in self.made]


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> Posts:
    made = Posts()
    monkeypatch.setattr(webhooks, "post", made.post)
    return made


def script(request: LaunchRequest) -> Script:
    return Script(exit_code=3 if request.argv[0] == b"fails" else 0, seconds=0.1)


@pytest.fixture
async def sup(settings: Settings) -> AsyncIterator[Supervisor]:
    async with open_supervisor(settings, engine=FakeEngine(script)) as made:
        yield made


def root_of(settings: Settings) -> str:
    return os.path.realpath(settings.state_dir)


async def until_empty(settings: Settings) -> None:
    with trio.fail_after(7200):
        while outbox.pending(root_of(settings)):  # noqa: ASYNC110  # it sets no event
            await trio.sleep(0.5)


# ---------------------------------------------------------------- defaults of groups


def asked(settings: Settings, job: Job) -> tuple[Any, Any]:
    """Return what the record of a job says about the delivery of its end."""
    (path,) = Path(root_of(settings)).rglob(f"{job.job_id}/job.json")
    record = json.loads(path.read_text())
    return record.get("on_end"), record.get("webhook")


async def test_the_jobs_of_a_group_have_its_deliveries(settings: Settings, sup: Supervisor) -> None:
    group = await sup.set_group("b", on_end="true 'one word'", webhook=f"{URL}?token=secret-word")
    assert (group.on_end, group.webhook) == ((shutil.which("true"), "one word"), "https://example.com")
    await sup.set_group("a", webhook="https://a.example.com/")
    command, url = [shutil.which("true"), "one word"], f"{URL}?token=secret-word"
    hold = {"hold": True, "groups": ["b"]}
    for options, expected in (
        (hold, (command, url)),
        ({**hold, "groups": ["b", "a"]}, (command, "https://a.example.com/")),  # the first by name
        ({**hold, "webhook": URL}, (command, URL)),
        ({**hold, "on_end": ["false"]}, ([shutil.which("false")], url)),
        ({**hold, "on_end": (), "webhook": ""}, (None, None)),
        ({"hold": True}, (None, None)),
    ):
        options: Any
        assert asked(settings, await sup.start(["tool"], **options)) == expected
        (job,) = await sup.start_many([JobSpec(argv=["tool"], **options)])
        assert asked(settings, job) == expected
    await sup.set_group("b", on_end=None, webhook="")
    assert asked(settings, await sup.start(["tool"], hold=True, groups=["b"])) == (None, None)


async def test_the_end_of_a_job_of_a_group_is_delivered(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
) -> None:
    await sup.set_group("g", limit=1, webhook=URL)
    jobs = await sup.start_many([JobSpec(argv=["tool"], groups=["g"]) for _ in range(3)])
    for job in jobs:
        await sup.wait(job.job_id)
    await until_empty(settings)
    assert sorted(posts.jobs()) == sorted(job.job_id for job in jobs)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"on_end": "no-such-program-here"}, "not found"),
        ({"on_end": "'"}, "split into words"),
        ({"on_end": ["a", 1]}, "strings"),
        ({"webhook": "http://example.com/secret-word"}, "must be https"),
        ({"webhook": "secret-word"}, "must begin with https"),
        ({"webhook": 1}, "must begin with https"),
    ],
)
async def test_a_group_cannot_deliver_to_what_is_not_there(sup: Supervisor, options: Any, why: str) -> None:
    with pytest.raises(InvalidArguments, match=why) as raised:
        await sup.set_group("g", **options)
    assert "secret-word" not in str(raised.value)
    assert await sup.groups() == ()


async def test_a_default_that_cannot_work_any_more_is_an_error_of_the_start(sup: Supervisor, tmp_path: Path) -> None:
    program = tmp_path / "notify"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    await sup.set_group("g", on_end=[str(program)])
    await sup.set_group("metadata", webhook="https://169.254.169.254/")
    program.unlink()
    for group, why in (("g", "not found"), ("metadata", "is not public")):
        with pytest.raises(InvalidArguments, match=f"{why}.*default of a group of the job: {group}"):
            await sup.start(["tool"], groups=[group])
    assert (await sup.list()).jobs == ()


# ---------------------------------------------------------------- the event


async def test_the_end_of_a_job_is_delivered_once(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
) -> None:
    job = await sup.start(["tool"], webhook=URL, labels={"a": "b"})
    await sup.wait(job.job_id)
    await until_empty(settings)
    ((event_id, body),) = posts.made
    assert event_id == f"evt_{job.job_id}"
    assert body["type"] == "job.ended"
    assert body["timestamp"] == body["data"]["completed_at"]
    shown = json.loads(json.dumps(body["data"]))
    assert (shown["job_id"], shown["status"], shown["labels"], shown["exit_code"]) == (
        job.job_id,
        "done",
        {"a": "b"},
        0,
    )
    await trio.sleep(5)
    assert len(posts.made) == 1
    assert not is_locked(f"{root_of(settings)}/{outbox.LEASE}")


async def test_a_job_that_is_forgotten_at_once_is_delivered_all_the_same(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
) -> None:
    posts.failure = lambda number: "not now" if number < 3 else None
    job = await sup.start(["tool"], webhook=URL)
    await sup.wait(job.job_id)
    await sup.result(job.job_id, consume=True)
    await until_empty(settings)
    assert posts.jobs() == [job.job_id] * 3
    assert len({event_id for event_id, _ in posts.made}) == 1


async def test_a_job_without_receivers_leaves_nothing(clock: Clock, sup: Supervisor, settings: Settings) -> None:  # noqa: ARG001
    job = await sup.start(["tool"], webhook="", on_end=())
    await sup.wait(job.job_id)
    assert not (settings.state_dir / outbox.DIRECTORY).exists()
    assert not {"webhook", "on_end"} & json.loads(next(settings.state_dir.glob("*/*/job.json")).read_text()).keys()


async def test_the_attempts_of_a_series_are_delivered_in_their_order(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
) -> None:
    posts.failure = lambda number: "not now" if number < 4 else None
    job = await sup.start(["fails"], webhook=URL, retry=Retry(3, initial_interval=0.1, retry_on=["job_failed"]))
    await until_ended(sup, job.job_id)
    await until_empty(settings)
    assert [body["data"]["attempt"] for _, body in posts.made] == [1, 1, 1, 1, 2, 3]
    assert posts.made[3][1]["data"]["retried_by"] == posts.jobs()[4]


async def until_ended(sup: Supervisor, job_id: str) -> None:
    while (following := (await sup.wait(job_id)).retried_by) is not None:
        job_id = following


# ---------------------------------------------------------------- commands


async def test_a_command_gets_the_end_on_stdin_as_a_job_of_its_own(
    clock: Clock,  # noqa: ARG001
    settings: Settings,
) -> None:
    asked: list[LaunchRequest] = []

    def run(request: LaunchRequest) -> Script:
        asked.append(request)
        return Script(seconds=0.1, exit_code=7 if len(asked) == 2 else 0)

    async with open_supervisor(settings, engine=FakeEngine(run)) as sup:
        job = await sup.start(["tool"], on_end="/bin/true 'a b'", kind="raw")
        await sup.wait(job.job_id)
        await until_empty(settings)
        first, second = (await sup.list()).jobs[1::-1]
        assert len(asked) == 3
        assert [each.argv for each in (first, second)] == [("/bin/true", "a b")] * 2
        assert [each.status for each in (first, second)] == ["failed", "done"]
        for request in asked[1:]:
            assert json.loads(request.stdin or b"")["data"]["job_id"] == job.job_id
        assert first.labels == {"supervisor.delivery": f"{job.job_id}.on_end", "supervisor.job": job.job_id}
        assert first.deadline_seconds == 600
        assert asked[1].record["idempotency_key"] != asked[2].record["idempotency_key"]
        assert not {"webhook", "on_end"} & asked[1].record.keys()


async def test_an_attempt_that_a_kill_has_interrupted_is_not_run_again(
    clock: Clock,  # noqa: ARG001
    settings: Settings,
) -> None:
    asked: list[LaunchRequest] = []

    def run(request: LaunchRequest) -> Script:
        asked.append(request)
        return Script(seconds=0.1 if request.argv[0] == b"tool" else 60)

    engine = FakeEngine(run)
    async with open_supervisor(settings, engine=engine) as sup:
        job = await sup.start(["tool"], on_end=["/bin/true"])
        await sup.wait(job.job_id)
        while len(asked) < 2:  # noqa: ASYNC110  # it sets no event
            await trio.sleep(0.1)
    async with open_supervisor(settings, engine=engine):
        await until_empty(settings)
    assert len(asked) == 2


# ---------------------------------------------------------------- failures


def test_the_waits_between_attempts_take_a_day() -> None:
    waits: list[float] = []
    while (seconds := delivering.back_off_seconds(len(waits) + 1)) is not None:
        waits.append(seconds)
    assert waits[:3] == [5, 10, 20]
    assert waits[-1] == max(waits) == 3600
    assert 86400 <= sum(waits) < 86400 + 3600


async def test_a_failure_is_recorded_and_tried_again(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
) -> None:
    posts.failure = lambda number: f"answer {number}" if number < 3 else None
    began = trio.current_time()
    job = await sup.start(["tool"], webhook=URL)
    await posts.came.wait()
    await trio.sleep(1)
    (delivery,) = stored.deliveries(root_of(settings))
    assert (delivery.job_id, delivery.failures, delivery.error) == (job.job_id, 1, "answer 1")
    await until_empty(settings)
    assert 15 <= trio.current_time() - began < 20


async def test_a_delivery_that_fails_for_a_day_is_dead_until_it_is_retried(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivering, "_DAY_SECONDS", 15)
    posts.failure = lambda number: "closed" if number < 4 else None
    job = await sup.start(["tool"], webhook=URL)
    await sup.wait(job.job_id)
    await until_empty(settings)
    root = root_of(settings)
    (dead,) = stored.deliveries(root, only_dead=True)
    assert (dead.is_dead, dead.failures, dead.error) == (True, 3, "closed")
    assert outbox.dead(root) == [dead.delivery_id]
    await trio.sleep(60)
    assert len(posts.made) == 3
    revived = stored.retry(root, stored.resolve(root, job.job_id[:6]))
    assert revived is not None
    assert not revived.is_dead
    await until_empty(settings)
    assert len(posts.made) == 4
    assert stored.deliveries(root) == []


async def test_a_delivery_that_is_dropped_is_not_made(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
) -> None:
    posts.failure = lambda _: "closed"
    job = await sup.start(["tool"], webhook=URL)
    await sup.wait(job.job_id)
    await posts.came.wait()
    stored.drop(root_of(settings), f"{job.job_id}.webhook")
    await trio.sleep(60)
    assert len(posts.made) == 1
    assert os.listdir(settings.state_dir / outbox.DIRECTORY) == []


async def test_a_receiver_that_does_not_answer_leaves_room_for_the_others(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    async def post(url: str, *_: Any, **__: Any) -> None:
        made.append(url)
        if "hangs" in url:
            await trio.sleep_forever()

    monkeypatch.setattr(webhooks, "post", post)
    for _ in range(6):
        await sup.start(["tool"], webhook="https://hangs.example/")
    await sup.start(["tool"], webhook=URL)
    with trio.fail_after(60):
        while URL not in made:  # noqa: ASYNC110  # it sets no event
            await trio.sleep(0.5)
    assert made.count("https://hangs.example/") == 4
    assert len(outbox.pending(root_of(settings))) == 6


# ---------------------------------------------------------------- which process


async def test_one_process_delivers_at_a_time_and_the_next_takes_over(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
) -> None:
    lock = take_lock(f"{root_of(settings)}/{outbox.LEASE}")
    assert lock is not None
    job = await sup.start(["tool"], webhook=URL)
    await sup.wait(job.job_id)
    await trio.sleep(10)
    assert posts.made == []
    os.close(lock)
    await until_empty(settings)
    assert posts.jobs() == [job.job_id]


async def test_a_supervisor_delivers_what_other_processes_have_left(
    clock: Clock,  # noqa: ARG001
    settings: Settings,
    posts: Posts,
) -> None:
    posts.failure = lambda number: "not now" if number == 1 else None
    engine = FakeEngine(script)
    async with open_supervisor(settings, engine=engine) as first:
        job = await first.start(["tool"], webhook=URL)
        await posts.came.wait()
        await trio.sleep(1)
    async with open_supervisor(settings, engine=engine):
        await until_empty(settings)
    assert posts.jobs() == [job.job_id] * 2


def test_a_rebuilt_index_announces_no_end_twice(
    settings: Settings, posts: Posts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with open_supervisor(settings, engine=FakeEngine(script)) as sup:
            job = await sup.start(["tool"], webhook=URL)
            await sup.wait(job.job_id)
            await until_empty(settings)

    trio.run(main, clock=jumping_clock(monkeypatch, threshold=0.002))
    os.unlink(settings.state_dir / "registry.db")
    with Catalog(settings) as catalog:
        (row,) = catalog.index.page()
        assert row.finished
        assert outbox.pending(catalog.layout.root) == []
        os.unlink(f"{catalog.directory(row)}/{records.ANNOUNCED}")  # killed before that
    os.unlink(settings.state_dir / "registry.db")
    with Catalog(settings) as catalog:
        assert outbox.pending(catalog.layout.root) == [f"{row.job_id}.webhook"]
    assert len(posts.made) == 1


async def test_an_end_is_not_recorded_before_its_deliveries_are(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    settings: Settings,
    posts: Posts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add = outbox.add

    def fails(*_: Any) -> None:
        raise BlockingIOError

    monkeypatch.setattr(outbox, "add", fails)
    job = await sup.start(["tool"], webhook=URL)
    await sup.wait(job.job_id)
    with Catalog(settings) as catalog:
        row = catalog.index.get(job.job_id)
        assert row is not None
        assert not row.finished
    monkeypatch.setattr(outbox, "add", add)
    await posts.came.wait()
    with Catalog(settings) as catalog:
        row = catalog.index.get(job.job_id)
        assert row is not None
        assert row.finished


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "options",
    [
        {"webhook": "https://169.254.169.254/latest/meta-data"},
        {"webhook": "https://user:secret-word@example.com/"},
        {"webhook": "https:///secret-word"},
        {"webhook": "http://example.com/secret-word"},
        {"webhook": 7},
        {"on_end": "no-such-program-anywhere"},
        {"on_end": "/etc/passwd"},
        {"on_end": "'unclosed"},
        {"on_end": ["/bin/true", "\0"]},
        {"on_end": ["/bin/true", 7]},
    ],
)
async def test_what_cannot_be_delivered_to_is_refused_at_the_start(
    clock: Clock,  # noqa: ARG001
    sup: Supervisor,
    options: dict[str, Any],
) -> None:
    with pytest.raises(InvalidArguments) as raised:
        await sup.start(["tool"], **options)
    assert "secret-word" not in str(raised.value.message) + str(raised.value.details)
    assert (await sup.list()).jobs == ()


async def test_a_secret_that_cannot_sign_is_an_error_that_does_not_show_it(clock: Clock, state_dir: Path) -> None:  # noqa: ARG001
    settings = Settings(state_dir=state_dir, webhook_secret="whsec_secret-word")
    assert "secret-word" not in repr(settings)
    async with open_supervisor(settings, engine=FakeEngine(script)) as sup:
        with pytest.raises(InvalidSettings) as raised:
            await sup.start(["tool"], webhook=URL)
    assert "secret-word" not in str(raised.value.message) + str(raised.value.details)


async def test_webhooks_need_their_extra(clock: Clock, sup: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr(stored, "find_spec", lambda _: None)
    with pytest.raises(FeatureUnavailable, match="h11"):
        await sup.start(["tool"], webhook=URL)


def test_the_secret_is_made_once_and_is_private(settings: Settings, state_dir: Path) -> None:
    root = root_of(settings)
    keys = stored.webhook_keys(settings, root)
    assert stored.webhook_keys(settings, root) == keys
    assert (state_dir / stored.SECRET_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in state_dir.iterdir()] == [stored.SECRET_FILE]
    another = Settings(state_dir=state_dir, webhook_secret="whsec_" + "A" * 32)
    assert stored.webhook_keys(another, root) == [bytes(24)]


async def test_a_rerun_keeps_its_receivers(clock: Clock, sup: Supervisor, settings: Settings, posts: Posts) -> None:  # noqa: ARG001
    job = await sup.start(["tool"], webhook=URL)
    await sup.wait(job.job_id)
    again = await sup.rerun(job.job_id)
    await sup.wait(again.job_id)
    without = await sup.rerun(job.job_id, webhook="")
    await sup.wait(without.job_id)
    await until_empty(settings)
    assert posts.jobs() == [job.job_id, again.job_id]
