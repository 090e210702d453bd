"""Server-sent events: each start and end once, for whom it is, also after a kill."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import attrs
import httpx2
import pytest
import trio

from supervisor import BlockingSupervisor, Settings
from supervisor.errors import StateBusy
from supervisor.http import accepting
from supervisor.store import journal
from supervisor.testing import Script
from supervisor.web.feed import Feed
from tests.web.conftest import PATIENCE, Serve, Start
from tests.web.event_stream import Stream, streaming
from tests.web.test_rest import refused, start


@attrs.frozen
class Event:
    id: str
    type: str
    data: dict[str, Any]

    @property
    def job(self) -> dict[str, Any]:
        held: dict[str, Any] = self.data["data"]
        return held


async def next_event(stream: Stream) -> Event:
    """Return the next event of a stream."""
    while fields := await stream.block():
        if "data" in fields:
            return Event(fields["id"], fields["event"], json.loads(fields["data"]))
    pytest.fail("the stream has ended")


@contextlib.asynccontextmanager
async def listening(client: httpx2.AsyncClient, last: str = "", **query: str) -> AsyncIterator[Stream]:
    """Listen with the token of a client."""
    port = client.base_url.port
    assert port is not None
    headers = {"Authorization": client.headers["Authorization"]} | ({"Last-Event-ID": last} if last else {})
    async with streaming(port, f"/v1/events{f'?{urlencode(query)}' if query else ''}", headers) as stream:
        assert "retry" in await stream.block()
        yield stream


async def test_the_start_and_the_end_of_a_job(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client, listening(client) as stream:
        here.script = Script(seconds=None)
        job = await start(client)
        started = await next_event(stream)
        assert (started.type, started.data["type"], started.job["job_id"]) == (
            "job.started",
            "job.started",
            job["job_id"],
        )
        here.engine.commands[0].finish()
        ended = await next_event(stream)
        assert (ended.type, ended.job["status"], ended.job["reason"]) == ("job.ended", "done", "exited")
        assert ended.data["timestamp"] == ended.job["completed_at"]
        assert ended.id != started.id


async def test_a_client_goes_on_where_it_stopped(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        async with listening(client) as stream:
            first = await start(client, wait=30)
            assert (await next_event(stream)).job["job_id"] == first["job_id"]
            last = (await next_event(stream)).id
        missed = [(await start(client, wait=30))["job_id"] for _ in range(3)]
        async with listening(client, last) as stream:
            seen = [await next_event(stream) for _ in range(6)]
        assert [(each.type, each.job["job_id"]) for each in seen] == [
            (type_, job_id) for job_id in missed for type_ in ("job.started", "job.ended")
        ]
        async with listening(client, seen[3].id, job_id=missed[2]) as stream:
            assert [(await next_event(stream)).id for _ in range(2)] == [seen[4].id, seen[5].id]


async def test_events_go_to_whom_they_concern(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as owner, here.client("alice") as alice, here.client("bob") as bob:
        async with listening(owner) as all_, listening(alice) as hers, listening(bob) as his:
            of_bob, of_alice, of_owner = [(await start(each, wait=30))["job_id"] for each in (bob, alice, owner)]
            again = (await start(bob, wait=30))["job_id"]
            assert {(await next_event(hers)).job["job_id"] for _ in range(2)} == {of_alice}
            assert [(await next_event(his)).job["job_id"] for _ in range(4)] == [of_bob] * 2 + [again] * 2
            everything = [(await next_event(all_)).job["job_id"] for _ in range(8)]
            assert set(everything) == {of_bob, of_alice, of_owner, again}
        await refused(await bob.get("/v1/events", params={"job_id": of_alice}), 404, "job_not_found")


async def test_an_event_of_a_forgotten_job_names_it(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client, here.client("alice") as alice:
        async with listening(client) as stream:
            begin = stream.last
        job_id = (await start(alice, wait=30))["job_id"]
        await client.delete(f"/v1/jobs/{job_id}")
    async with serve_here() as here, here.client() as client, here.client("alice") as alice:  # nothing is ready
        async with listening(client, begin) as stream:
            await next_event(stream)
            assert (await next_event(stream)).job == {"job_id": job_id, "status": "done"}
        other = (await start(alice, wait=30))["job_id"]
        async with listening(alice, begin) as stream:
            assert (await next_event(stream)).job["job_id"] == other


async def test_a_client_of_another_journal_is_told_to_read_again(
    serve_here: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_here() as here, here.client() as client:
        async with listening(client, "00000000-1") as stream:
            reset = await next_event(stream)
            assert reset.type == "reset"
            job = await start(client, wait=30)
            assert (await next_event(stream)).job["job_id"] == job["job_id"]
        monkeypatch.setattr(journal, "KEPT", 2)
        monkeypatch.setattr(journal, "_PRUNED_BY", "")
        for _ in range(3):
            await start(client, wait=30)
    async with serve_here() as here, here.client() as client, listening(client, reset.id) as stream:
        assert (await next_event(stream)).type == "reset"


async def test_what_is_no_id_is_refused(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        for wrong in ("x", "1", "00000000-", "00000000--1", "00000000-" + "9" * 30):
            await refused(await client.get("/v1/events", headers={"Last-Event-ID": wrong}), 400)


async def test_a_stream_without_events_says_that_it_lives(serve_here: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.web.events._QUIET_SECONDS", 0.05)
    async with serve_here() as here, here.client() as client, here.client("bob") as bob, listening(bob) as stream:
        begin = stream.last
        await start(client, wait=30)
        with trio.move_on_after(0.5):
            await next_event(stream)
        assert stream.last != begin  # it has passed what is not for him, and would go on after that


async def test_a_client_that_does_not_read_is_cut_off_and_can_go_on(
    serve_here: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "_SEND_SECONDS", 0.2)
    async with serve_here() as here, here.client() as client:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.connect(("127.0.0.1", int(here.url.rpartition(":")[2])))
            token = here.tokens["owner"]
            deaf.sendall(
                f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            while not here.feed.listening:  # noqa: ASYNC110  # no event tells this test
                await trio.sleep(0.01)
            large = {"kind": "say", "parameters": {"word": "x" * 100_000}}
            begin, jobs = await here.feed.end(), 0
            while here.feed.listening and jobs < 300:  # until it was cut off
                await start(client, large, wait=30)
                jobs += 1
            assert not here.feed.listening
        async with listening(client, str(begin)) as stream:
            seen = [await next_event(stream) for _ in range(2 * jobs)]
        assert len({each.id for each in seen}) == 2 * jobs


async def test_streams_end_with_the_server(serve_here: Serve) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with serve_here() as here:
            client = await stack.enter_async_context(here.client())
            stream = await stack.enter_async_context(listening(client))
        assert await stream.block() == {}


async def test_no_event_is_lost_when_the_server_is_killed(start: Start, state_dir: Any, tmp_path: Any) -> None:
    """A job of another process ends while no server runs; the next one knows, and repeats nothing."""
    first = start()
    async with (
        httpx2.AsyncClient(
            base_url=first.url, headers={"Authorization": f"Bearer {first.token}"}, timeout=PATIENCE
        ) as client,
        listening(client) as stream,
    ):
        with BlockingSupervisor(Settings(state_dir=state_dir)) as sup:
            seen = [sup.run(["true"], workspace=tmp_path).job.job_id]
            events = [await next_event(stream) for _ in range(2)]
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            missed = [sup.run(["true"], workspace=tmp_path).job.job_id for _ in range(3)]
    second = start()
    async with (
        httpx2.AsyncClient(
            base_url=second.url, headers={"Authorization": f"Bearer {second.token}"}, timeout=PATIENCE
        ) as client,
        listening(client, events[-1].id) as stream,
    ):
        events += [await next_event(stream) for _ in range(6)]
    assert [(each.type, each.job["job_id"]) for each in events] == [
        (type_, job_id) for job_id in [*seen, *missed] for type_ in ("job.started", "job.ended")
    ]
    assert len({each.id for each in events}) == len(events)


async def test_events_come_without_inotify(serve_here: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.system.inotify.Inotify.open", lambda: None)
    monkeypatch.setattr("supervisor.mcp_server.changes._AGAIN_SECONDS", 0.05)
    async with serve_here() as here, here.client() as client, listening(client) as stream:
        here.script = Script()
        with trio.move_on_after(0.2):  # nothing wakes it now
            await next_event(stream)
        job = await start(client, wait=30)
        assert (await next_event(stream)).job["job_id"] == job["job_id"]


async def test_a_defect_with_one_event_ends_neither_the_server_nor_the_stream(
    serve_here: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.web.feed._FIRST_PAUSE_SECONDS", 0.01)
    async with serve_here() as here, here.client() as client, listening(client) as stream:
        read, failures = Feed._read, [ZeroDivisionError(), StateBusy("of the test")]

        async def fail_twice(feed: Feed) -> int:
            if failures:
                raise failures.pop()
            return await read(feed)

        monkeypatch.setattr(Feed, "_read", fail_twice)
        job = await start(client, wait=30)
        assert [(await next_event(stream)).job["job_id"] for _ in range(2)] == [job["job_id"]] * 2
        assert not failures
