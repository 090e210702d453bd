"""A whole run against a driver in memory: correct jobs pass, and each kind of fault is found."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor.errors import EndpointFailed, StateFull
from supervisor.load import check, mix
from supervisor.load.bench import Bench, Phase
from supervisor.load.driver import Refused
from tests.load.liar import Liar

MIX = """
rate = 10
for_seconds = 2
arrivals = "constant"
seed = 1

[job.plain]
seconds = 1.5
output_bytes = 101
stderr_bytes = 7
"""
FAILS = MIX.replace("stderr_bytes = 7", "exit_code = 3")
CANCELLED = MIX.replace("seconds = 1.5", "cancel_after_seconds = 0.5").replace("stderr_bytes = 7", "")
LATE = MIX.replace("seconds = 1.5", "deadline_seconds = 0.5").replace("stderr_bytes = 7", "")


Clock = trio.testing.MockClock


@pytest.fixture
def clock(autojump_clock: Clock) -> Clock:
    return autojump_clock


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def bench(driver: Liar, text: str = MIX, **options: Any) -> Bench:
    @contextlib.asynccontextmanager
    async def open_driver(workspace: str) -> AsyncIterator[Liar]:
        assert await trio.Path(workspace).is_dir()
        yield driver

    return Bench(mix.parse(text, "mix.toml"), open_driver, **options)


@pytest.mark.parametrize("keeps_jobs", [True, False])
@pytest.mark.parametrize(
    ("text", "state"), [(MIX, "done"), (FAILS, "failed"), (CANCELLED, "cancelled"), (LATE, "timeout")]
)
async def test_an_honest_machine(clock: Clock, text: str, state: str, *, keeps_jobs: bool, scratch: Path) -> None:  # noqa: ARG001
    driver = Liar(keeps_jobs=keeps_jobs)
    run = bench(driver, text)
    shape = await run.run()
    assert shape["ok"] is True, shape
    assert "error" not in shape
    assert shape["jobs"][state] == shape["jobs"]["acknowledged"] == shape["jobs"]["due"] == 20
    assert (shape["wrong"], shape["errors"], shape["examples"]) == ({}, {}, [])
    assert shape["rate"]["asked"] == 10
    assert driver.jobs == {}
    assert os.listdir(scratch) == []
    assert run.phase is Phase.FORGETTING
    assert len({request.key for _, request in driver.requests}) == 21  # the trial job, and each of them once


async def test_what_is_kept(clock: Clock, scratch: Path) -> None:  # noqa: ARG001
    driver = Liar()
    shape = await bench(driver, keep=True).run()
    assert shape["kept"] is True
    assert len(driver.jobs) == 20
    (left,) = os.listdir(scratch)
    assert sorted(os.listdir(scratch / left)) == ["marks", "trial", "workspace"]


@pytest.mark.parametrize(
    ("lie", "code", "text"),
    [
        ("lost", "lost", MIX),
        ("forgets", "lost", MIX),
        ("not listed", "lost", MIX),
        ("hangs", "never_ended", MIX),
        ("changes", "changed", MIX),
        ("same id", "same_id", MIX),
        ("runs twice", "twice", MIX),
        ("never runs", "never_ran", MIX.replace("[job.plain]", "[job.plain]\nexit_code = 0")),
        ("cut short", "cut_short", MIX),
        ("refuse and run", "unasked", MIX),
        ("refuse and keep", "unknown", MIX),
        ("other state", "state", MIX),
        ("other state", "state", LATE),
        ("done", "state", CANCELLED),
        ("done", "state", LATE),
        ("done", "state", FAILS),
        ("other exit", "exit", FAILS),
        ("other exit", "exit", MIX),
        ("early", "early", MIX),
        ("early", "early", LATE),
        ("short output", "output", MIX),
        ("mixed output", "output", MIX),
        ("mixed output", "output", LATE),
        ("short stderr", "output", MIX),
    ],
)
async def test_a_lie_about_one_job_is_found(clock: Clock, lie: str, code: str, text: str) -> None:  # noqa: ARG001
    shape = await bench(Liar({7: lie}), text).run()
    assert shape["ok"] is False
    assert shape["error"]["code"] == "load_failed"
    assert code in shape["wrong"], shape["wrong"]
    # One job was falsified, and no other has a fault.
    number = {"same id": {"7", "1"}}.get(lie, {"7"})
    assert {each["tag"].rpartition("-")[2] for each in shape["examples"] if each["tag"]} <= number
    assert all(each["meaning"] == check.MEANINGS[each["code"]] for each in shape["examples"])


async def test_a_refused_start_is_no_fault_of_a_job_and_yet_not_fine(clock: Clock) -> None:  # noqa: ARG001
    shape = await bench(Liar({3: "refuse", 4: "refuse"})).run()
    assert shape["ok"] is False
    assert shape["errors"] == {"start: state_full": 2}
    assert (shape["wrong"], shape["jobs"]["refused"], shape["jobs"]["done"]) == ({}, 2, 18)


async def test_a_start_that_was_answered_by_nothing_may_have_made_a_job(clock: Clock) -> None:  # noqa: ARG001
    driver = Liar({3: "no answer"})
    shape = await bench(driver).run()
    assert shape["errors"] == {"start: connection": 1}
    assert (shape["wrong"], shape["found_again"]) == ({}, 1)
    assert driver.jobs == {}, "it is forgotten as the others are"


async def test_a_list_that_cannot_be_had(clock: Clock) -> None:  # noqa: ARG001
    shape = await bench(Liar({-1: "no list", 7: "runs twice"})).run()
    assert shape["wrong"] == {"call": 1, "twice": 1}
    assert shape["not_forgotten"] == 20
    assert any("list" in each for each in shape["not_checked"])


async def test_a_process_that_was_left_alive(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    def found(job_ids: frozenset[str]) -> dict[int, str]:
        assert len(job_ids) == 20
        return {4242: f"{8:032x}"}

    monkeypatch.setattr("supervisor.load.audit.processes_of", found)
    shape = await bench(Liar()).run()
    assert shape["wrong"] == {"alive": 1}
    assert shape["examples"][0]["detail"] == "process 4242"


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("other state", "ended failed"),
        ("short output", "39 other bytes"),
        ("hangs", "not ended"),
        ("refuse", "refused"),
    ],
)
async def test_a_trial_job_that_goes_wrong_ends_it_all(clock: Clock, lie: str, said: str) -> None:  # noqa: ARG001
    driver = Liar({0: lie})
    with pytest.raises(EndpointFailed, match=said):
        await bench(driver).run()
    assert len(driver.requests) == 1


async def test_an_error_of_the_library_in_the_trial_job_comes_out_as_itself(
    clock: Clock,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def start(self: Liar, request: object) -> None:
        del self, request
        await trio.lowlevel.checkpoint()
        message = "full"
        raise Refused(message, code="state_full") from StateFull("the disk is full")

    monkeypatch.setattr(Liar, "start", start)
    with pytest.raises(StateFull):
        await bench(Liar()).run()


async def test_marks_that_cannot_be_seen_from_here(clock: Clock) -> None:  # noqa: ARG001
    shape = await bench(Liar({0: "never runs", 7: "runs twice"})).run()
    assert shape["ok"] is True
    assert any("another machine" in each for each in shape["not_checked"])


# ---------------------------------------------------------------- interrupts


async def interrupted(driver: Liar, text: str, *, times: int, cancel: bool) -> dict[str, Any]:
    run = bench(driver, text)
    shape: dict[str, Any] = {}

    async def go() -> None:
        shape.update(await run.run())
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        await driver.enough.wait()
        for _ in range(times):
            run.interrupt(cancel=cancel)
            await trio.sleep(0.01)
    return shape


@pytest.mark.parametrize("text", [MIX, CANCELLED, LATE, FAILS])
async def test_an_interrupt_cancels_what_runs(clock: Clock, text: str) -> None:  # noqa: ARG001
    driver = Liar()
    shape = await interrupted(driver, text, times=1, cancel=True)
    assert (shape["ok"], shape["interrupted"], shape["gave_up"]) == (True, True, False)
    assert 8 <= shape["jobs"]["due"] <= 9
    assert shape["jobs"]["cancelled"] > 0
    assert driver.jobs == {}


@pytest.mark.parametrize(("text", "state"), [(MIX, "done"), (CANCELLED, "cancelled"), (LATE, "timeout")])
async def test_an_interrupt_that_lets_them_end(clock: Clock, text: str, state: str) -> None:  # noqa: ARG001
    shape = await interrupted(Liar(), text, times=1, cancel=False)
    assert shape["ok"] is True
    assert shape["jobs"][state] == shape["jobs"]["due"]
    assert shape["jobs"]["due"] <= 9


async def test_a_second_interrupt_reports_at_once_and_leaves_the_rest(clock: Clock) -> None:  # noqa: ARG001
    driver = Liar()
    shape = await interrupted(driver, MIX, times=2, cancel=True)
    assert (shape["ok"], shape["gave_up"]) == (True, True)
    assert shape["left_running"]
    assert set(shape["left_running"]) <= set(driver.jobs)


# ---------------------------------------------------------------- through a group


async def test_a_job_waits_for_its_turn_as_long_as_others_end(clock: Clock) -> None:  # noqa: ARG001
    shape = await bench(Liar(slots=2, limit=2), patience_seconds=2).run()
    assert shape["ok"] is True, shape
    assert shape["jobs"]["done"] == 20
    assert shape["seconds"] >= 15  # of which each job may be late by 2
    assert shape["waited_ms"]["max"] >= 10_000


async def test_a_job_that_waits_for_ever_is_found(clock: Clock) -> None:  # noqa: ARG001
    shape = await bench(Liar({3: "hangs", 5: "hangs"}, slots=2, limit=2), patience_seconds=2).run()
    assert shape["wrong"]["never_ended"] > 2
    assert shape["jobs"]["done"] + shape["wrong"]["never_ended"] == 20


MARKS = {
    "one after the other": (1, "a + a - b + b -"),
    "two at once": (2, "a + b + a - c + b - c -"),
    "three at once": (3, "a + b + c + b - a - c -"),
    "a stopped job counts when it begins": (2, "a + x + a - b + c + b - c -"),
    "two of them, one stopped": (2, "a + a - x + y + b + z + b -"),
}


@pytest.mark.parametrize(("most", "written"), MARKS.values(), ids=MARKS)
async def test_the_limit_is_checked_by_the_marks(
    clock: Clock,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    written: str,
) -> None:
    def mark(path: str, tag: str, signs: str) -> None:
        """Write the marks of the trial job as they are, and those of the case when the seventh job begins."""
        number = tag.rpartition("-")[2]
        words = written if number == "7" and "+" in signs else " ".join(f"x {sign}" for sign in signs * (number == "0"))
        words = words.replace("x ", f"{tag} ") if number == "0" else words
        with Path(path).open("a", encoding="ascii") as file:
            file.writelines(f"{each} 1\n" for each in re.findall(r"\S+ [+-]", words))

    monkeypatch.setattr(Liar, "_mark", staticmethod(mark))
    for limit in (most, most - 1):
        shape = await bench(Liar(limit=limit)).run()
        assert shape["most_at_once"] == most
        assert ("over_limit" in shape["wrong"]) is (limit < most)
