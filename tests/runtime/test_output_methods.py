"""Reading output in Trio: a part at a time, and from another byte than the first."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor import InvalidArguments, JobNotFound, OutputLost, Settings, StateBusy, Supervisor, open_supervisor
from supervisor.testing import FakeEngine, Script


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(Script(seconds=None))


@pytest.fixture
async def sup(state_dir: Path, engine: FakeEngine) -> AsyncIterator[Supervisor]:
    async with open_supervisor(Settings(state_dir=state_dir), engine=engine) as opened:
        yield opened


def file_of(sup: Supervisor, job_id: str) -> Path:
    (found,) = sup.settings.state_dir.glob(f"*/{job_id}/result.json")
    return found


async def test_a_log_is_read_part_by_part_while_it_grows(sup: Supervisor, engine: FakeEngine) -> None:
    job_id = (await sup.start(["tool"])).job_id
    assert await sup.read(job_id) == (b"", 0)
    command = engine.command(job_id)
    command.write(b"one\xff\0")
    assert await sup.read(job_id) == (b"one\xff\0", 5)
    assert await sup.read(job_id, limit=2) == (b"on", 2)
    assert await sup.read(job_id, "stdout", 2, 2) == (b"e\xff", 4)
    assert await sup.read(job_id, offset=5) == (b"", 5)
    command.write("two")
    command.write("err", stream="stderr")
    assert await sup.read(job_id, offset=5) == (b"two", 8)
    assert await sup.read(job_id, "stderr", 1) == (b"rr", 3)
    command.finish()
    await sup.wait(job_id)
    with file_of(sup, job_id).open("ab") as file:
        file.write(b"of a leftover")
    assert await sup.read(job_id, offset=5) == (b"two", 8)
    assert await sup.read(job_id, offset=2**63 - 1) == (b"", 8)


async def test_a_truncated_log_is_read_from_its_beginning(sup: Supervisor, engine: FakeEngine) -> None:
    job_id = (await sup.start(["tool"])).job_id
    engine.command(job_id).write("a long line")
    _, offset = await sup.read(job_id)
    file_of(sup, job_id).write_bytes(b"short")
    assert await sup.read(job_id, offset=offset) == (b"short", 5)


async def test_no_byte_past_the_limit_is_read(sup: Supervisor, engine: FakeEngine) -> None:
    job_id = (await sup.start(["tool"], max_output_bytes=4)).job_id
    engine.command(job_id).write("12345678")
    assert (await sup.wait(job_id)).reason == "output_limit"
    assert await sup.read(job_id) == (b"1234", 4)
    async with sup.follow(job_id, offset=2) as chunks:
        assert [chunk async for chunk in chunks] == [b"34"]


async def test_lost_output_is_an_error_and_an_unreadable_one_is_not_lost(
    sup: Supervisor, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = (await sup.start(["tool"])).job_id
    engine.command(job_id).write("answer")
    engine.command(job_id).finish()
    await sup.wait(job_id)

    def fails(*_: Any) -> bytes:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as broken:
        broken.setattr("supervisor.jobdir.output.os.pread", fails)
        with pytest.raises(StateBusy, match="cannot read the output"):
            await sup.read(job_id)
    file_of(sup, job_id).write_bytes(b"")
    with pytest.raises(OutputLost):
        await sup.read(job_id)
    with pytest.raises(OutputLost):
        await sup.read(job_id, offset=6)


async def test_following_begins_at_the_given_byte(sup: Supervisor, engine: FakeEngine) -> None:
    job_id = (await sup.start(["tool"])).job_id
    command = engine.command(job_id)
    command.write("12345")
    with trio.fail_after(60):
        async with sup.follow(job_id, offset=3) as chunks, sup.follow(job_id, "stdout", 5) as later:
            assert await anext(chunks) == b"45"
            command.write("678")
            assert (await anext(chunks), await anext(later)) == (b"678", b"678")
            command.finish()
            assert [chunk async for chunk in chunks] == []
            assert (chunks.restarts, later.restarts) == (0, 0)
        async with sup.follow(job_id, offset=100) as chunks:
            assert [chunk async for chunk in chunks] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("stream", bad) for bad in ("stdin", "", None, 1)),
        *(("offset", bad) for bad in (-1, 1.0, True, None, "0", 2**63)),
        *(("limit", bad) for bad in (0, -1, 1.5, True, None, (1 << 30) + 1)),
    ],
)
async def test_bad_arguments_are_named(sup: Supervisor, name: str, value: Any) -> None:
    job_id = (await sup.start(["tool"])).job_id
    with pytest.raises(InvalidArguments, match=f"^{name} is "):
        await sup.read(job_id, **{name: value})
    if name != "limit":
        with pytest.raises(InvalidArguments, match=f"^{name} is "):
            async with sup.follow(job_id, **{name: value}):
                raise AssertionError


async def test_a_job_that_is_not_there_has_no_output(sup: Supervisor) -> None:
    with pytest.raises(JobNotFound):
        await sup.read("0" * 32)
