"""The live overview: it survives defects and the supervisor of its server, and slow readers cost it nothing."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
import trio

from supervisor.jobs import watching
from supervisor.jobs.overview import Overview
from supervisor.testing import Script
from supervisor.web.page import live, output
from supervisor.web.page.live import Feed, Picture
from tests.web.conftest import PATIENCE, Here, Serve
from tests.web.event_stream import Stream, streaming
from tests.web.test_rest import start


@contextlib.asynccontextmanager
async def visiting(here: Here, caller: str = "owner") -> AsyncIterator[httpx2.AsyncClient]:
    """Log in, and yield a client with the cookie."""
    async with httpx2.AsyncClient(base_url=here.url, timeout=PATIENCE, trust_env=False) as client:
        answer = await client.post("/login", data={"token": here.tokens[caller]}, headers={"origin": here.url})
        assert answer.status_code == 303
        yield client


@contextlib.asynccontextmanager
async def looking(client: httpx2.AsyncClient, target: str = "/page/events", **options: Any) -> AsyncIterator[Stream]:
    """Have a page open whose stream has this address."""
    port = client.base_url.port
    assert port is not None
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    async with streaming(port, target, {"Cookie": cookies}, **options) as stream:
        yield stream


async def next_event(stream: Stream) -> tuple[str, Any]:
    """Return the next event of a page: name and data; the end is an empty name."""
    while fields := await stream.block():
        if "data" in fields:
            return fields["event"], json.loads(fields["data"])
    return "", None


async def test_a_defect_in_one_overview_is_shown_and_the_next_one_comes(
    serve_here: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, failures = live.picture_of, [ZeroDivisionError("of the test")] * 2

    def fail_twice(*arguments: Any) -> Picture:
        if failures:
            raise failures.pop()
        return take(*arguments)

    monkeypatch.setattr(live, "picture_of", fail_twice)
    monkeypatch.setattr(watching, "_LEAST_PAUSE", 0.01)
    async with serve_here() as here, visiting(here) as client, here.client() as rest, looking(client) as page:
        name, data = await next_event(page)
        assert name == "problem"
        assert "not known now" in data
        assert "of the test" in data
        name, data = await next_event(page)
        assert name == "sections"
        job = await start(rest, wait=30)
        while job["job_id"] not in data["sections"].get("ended", ""):
            _, data = await next_event(page)


async def test_a_page_that_was_not_up_to_date_is_told_when_it_is_again(
    serve_here: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, failing = live.picture_of, trio.Event()

    def fail_once(*arguments: Any) -> Picture:
        if failing.is_set():
            monkeypatch.setattr(live, "picture_of", take)
            raise ZeroDivisionError
        return take(*arguments)

    monkeypatch.setattr(live, "picture_of", fail_once)
    monkeypatch.setattr(watching, "_LEAST_PAUSE", 0.01)
    async with serve_here() as here, visiting(here) as client, looking(client) as page:
        assert (await next_event(page))[0] == "sections"
        failing.set()
        async with looking(client):  # has an overview taken
            assert (await next_event(page))[0] == "problem"
            name, data = await next_event(page)
            assert (name, data["sections"]) == ("sections", {})  # nothing has changed, and it is live again


async def test_the_thread_ends_with_the_last_page(serve_here: Serve) -> None:
    def threads() -> list[str]:
        return [each.name for each in threading.enumerate() if each.name == "supervisor-page"]

    async with serve_here() as here, visiting(here) as client:
        for _ in range(2):
            async with looking(client) as page, looking(client) as other:
                for each in (page, other):
                    assert (await next_event(each))[0] == "sections"
                assert threads() == ["supervisor-page"]
            with trio.fail_after(PATIENCE):
                while threads():  # noqa: ASYNC110  # no event tells this test
                    await trio.sleep(0.01)


async def test_the_pages_of_one_caller_leave_room_for_others(
    serve_here: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.http.guard.max_connections", lambda: 8)
    async with (
        serve_here() as here,
        visiting(here, "alice") as alice,
        visiting(here, "bob") as bob,
        here.client("alice") as rest,
        here.client() as owner,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(4):
            await stack.enter_async_context(looking(alice))
        for path in ("/", "/jobs", "/page/events"):
            answer = await alice.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert answer.headers["content-type"].startswith("text/html")
            assert "content-security-policy" in answer.headers
            assert "there are too many concurrent requests" in answer.text
        over_rest = await rest.get("/v1/jobs")  # REST and pages together
        assert (over_rest.status_code, over_rest.json()["error"]["code"]) == (429, "too_many_requests")
        for _ in range(2):
            await stack.enter_async_context(looking(bob))
        assert (await bob.get("/")).status_code == 429
        assert (await owner.get("/v1/jobs")).status_code == 200


async def test_a_slow_page_misses_the_pictures_between() -> None:
    feed = Feed()
    pictures = [Picture([], f"picture {number}", Overview(at=datetime.now(UTC))) for number in range(3)]
    for each in pictures:
        feed.put(each)
    assert await feed.next() is pictures[-1]
    with trio.move_on_after(0) as none_is_left:
        await feed.next()
    assert none_is_left.cancelled_caught


async def test_a_slow_reader_of_output_is_told_what_it_was_not_sent(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        here.script = Script(stdout="first\n", seconds=None)
        job_id = (await start(client))["job_id"]
        (command,) = here.engine.commands
        reads = [trio.Event() for _ in range(2)]
        reading, read = reads
        told: list[tuple[str, Any]] = []

        async def emit(name: str, data: Any, _: str | None = None) -> None:
            told.append((name, data))
            reading.set()
            await read.wait()

        async with trio.open_nursery() as nursery:
            marks = {"stdout": 0, "stderr": 0}
            nursery.start_soon(output.follow, here.supervisors[-1], job_id, "stdout", 0, emit, marks)
            await reading.wait()
            for _ in range(8):  # it takes nothing meanwhile
                command.write("x" * output.PIECE_BYTES)
            command.write("last\n")
            command.finish()
            await client.get(f"/v1/jobs/{job_id}", params={"wait": 30})
            read.set()
        size = len("first\n") + 8 * output.PIECE_BYTES + len("last\n")
        assert [name for name, _ in told[:2]] == ["output", "skip"]
        assert told[0][1]["text"] == "first\n"
        assert told[1][1] == {"stream": "stdout", "bytes": size - output.PIECE_BYTES - len("first\n")}
        rest = [data for name, data in told[2:] if name == "output"]
        assert len(rest) == len(told) - 2
        assert sum(len(each["text"]) for each in rest) == output.PIECE_BYTES
        assert rest[-1]["text"].endswith("last\n")
        assert marks["stdout"] == rest[-1]["end"] == size
