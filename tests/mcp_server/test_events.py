"""The events extension: the starts and ends of jobs by poll and push, and where a task has its events."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND

from supervisor.mcp_server.events import extension
from supervisor.mcp_server.events.extension import EXTENSION_ID
from supervisor.mcp_server.events.reading import FORBIDDEN, NOT_FOUND, RESOURCE_EXHAUSTED
from supervisor.mcp_server.tasks import EXTENSION_ID as TASKS
from supervisor.testing import Script
from tests.mcp_server.conftest import Servers
from tests.mcp_server.transports.test_held import modern
from tests.mcp_server.transports.test_limits import served
from tests.mcp_server.transports.test_stdio_flow import Host, connected

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
VERSION = "2026-07-28"


@attrs.define
class Client:
    """A host of 2026-07-28 that asks one thing after the other."""

    host: Host
    extensions: Mapping[str, Any] = {EXTENSION_ID: {}}
    numbers: Any = attrs.field(factory=lambda: itertools.count(1))

    async def send(self, method: str, /, **params: Any) -> int:
        meta = {
            "protocolVersion": VERSION,
            "clientInfo": {"name": "c", "version": "1"},
            "clientCapabilities": {"extensions": self.extensions},
        }
        whole = {**params, "_meta": {f"io.modelcontextprotocol/{name}": value for name, value in meta.items()}}
        number = next(self.numbers)
        await self.host.send({"jsonrpc": "2.0", "id": number, "method": method, "params": whole})
        return number

    async def __call__(self, method: str, /, **params: Any) -> dict[str, Any]:
        number = await self.send(method, **params)
        told = await self.host.read()
        assert told["id"] == number, told
        answer: dict[str, Any] = told["result"] if "result" in told else told["error"]
        return answer

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        return await self("tools/call", name=tool, arguments=arguments)

    async def ended(self, **arguments: Any) -> str:
        told = await self.call("count", upto=3, wait_seconds=30, **arguments)
        job_id: str = json.loads(json.dumps(told))["structuredContent"]["job_id"]
        return job_id

    async def note(self, what: str, number: int) -> dict[str, Any]:
        """Return the next message, a notification of the stream with this number."""
        told = await self.host.read()
        assert told.get("method") == f"notifications/events/{what}", told
        params: dict[str, Any] = told["params"]
        assert params.pop("_meta") == {SUBSCRIPTION: number}
        return params


async def test_without_the_switch_there_are_no_events(servers: Servers) -> None:
    async with connected(servers) as host:
        client = Client(host)
        assert EXTENSION_ID not in (await client("server/discover"))["capabilities"]["extensions"]
        for method in ("list", "poll", "stream", "subscribe", "unsubscribe"):
            assert (await client(f"events/{method}", name="job.ended"))["code"] == METHOD_NOT_FOUND


async def test_what_is_listed(servers: Servers) -> None:
    async with connected(servers, events=True) as host:
        client = Client(host)
        assert (await client("server/discover"))["capabilities"]["extensions"][EXTENSION_ID] == {}
        listed = await client("events/list")
        assert listed["resultType"] == "complete"
        assert [each["name"] for each in listed["events"]] == ["job.started", "job.ended"]
        for each in listed["events"]:
            assert each["delivery"] == ["poll", "push"]
            assert each["inputSchema"]["type"] == each["payloadSchema"]["type"] == "object"
        subscribed = await client(
            "events/subscribe", name="job.ended", delivery={"mode": "webhook", "url": "https://a"}
        )
        assert subscribed["code"] == FORBIDDEN  # the host has no token


async def test_events_of_an_older_version_of_the_protocol(servers: Servers) -> None:
    async with connected(servers, events=True) as host:
        await host.initialize()
        told = await host.ask({"jsonrpc": "2.0", "id": 1, "method": "events/list"})
        assert told["error"]["code"] == METHOD_NOT_FOUND


async def test_polling_goes_on_where_it_stopped_also_with_another_server(servers: Servers) -> None:
    async with connected(servers, events=True) as host:
        client = Client(host)
        before = await client.ended()
        begun = await client("events/poll", name="job.ended", cursor=None)
        assert (begun["events"], begun["truncated"], begun["hasMore"]) == ([], False, False)
        first = await client.ended()
    async with connected(servers, events=True) as host:
        client = Client(host)
        second = await client.ended()
        found = await client("events/poll", name="job.ended", cursor=begun["cursor"])
        assert [each["eventId"] for each in found["events"]] == [f"evt_{first}", f"evt_{second}"]
        assert found["events"][0]["data"]["status"] == "done"
        assert "cursor" not in found["events"][0]
        one = await client("events/poll", name="job.ended", cursor=begun["cursor"], maxEvents=1)
        assert (len(one["events"]), one["hasMore"]) == (1, True)
        rest = await client("events/poll", name="job.ended", cursor=one["cursor"], maxEvents=1)
        assert rest["events"][0]["data"]["job_id"] == second
        started = await client("events/poll", name="job.started", cursor=begun["cursor"], arguments={"job_id": first})
        assert [each["eventId"] for each in started["events"]] == [f"evt_{first}_started"]
        other = await client("events/poll", name="job.ended", cursor=begun["cursor"], arguments={"kind": "ask"})
        assert other["events"] == []
        assert (await client("events/poll", name="job.ended", cursor=found["cursor"]))["events"] == []
        assert before not in json.dumps(found)


async def test_a_gap_is_told_and_is_no_error(servers: Servers) -> None:
    async with connected(servers, events=True) as host:
        client = Client(host)
        begun = await client("events/poll", name="job.ended")
        await client.ended()
        late = await client("events/poll", name="job.ended", cursor=begun["cursor"], maxAgeMs=0)
        assert (late["events"], late["truncated"]) == ([], True)
        lost = await client("events/poll", name="job.ended", cursor="00000000-1")
        assert (lost["events"], lost["truncated"], lost["cursor"]) == ([], True, late["cursor"])


@pytest.mark.parametrize("method", ["events/poll", "events/stream"])
@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"name": "job.lost"}, NOT_FOUND),
        ({}, INVALID_PARAMS),
        ({"name": 7}, INVALID_PARAMS),
        ({"name": "job.ended", "arguments": {"from": "x"}}, INVALID_PARAMS),
        ({"name": "job.ended", "arguments": {"kind": 7}}, INVALID_PARAMS),
        ({"name": "job.ended", "arguments": []}, INVALID_PARAMS),
        ({"name": "job.ended", "cursor": "elsewhere"}, INVALID_PARAMS),
        ({"name": "job.ended", "cursor": 7}, INVALID_PARAMS),
        ({"name": "job.ended", "maxAgeMs": -1}, INVALID_PARAMS),
        ({"name": "job.ended", "maxAgeMs": 10**40}, INVALID_PARAMS),
        ({"name": "job.ended", "arguments": {"job_id": "0" * 32}}, FORBIDDEN),
        ({"name": "job.ended", "arguments": {"job_id": "../../etc"}}, FORBIDDEN),
    ],
)
async def test_what_cannot_be_subscribed_to(
    servers: Servers, method: str, params: Mapping[str, Any], code: int
) -> None:
    async with connected(servers, events=True) as host:
        assert (await Client(host)(method, **params))["code"] == code


async def test_a_stream_of_one_job_ends_with_it(servers: Servers) -> None:
    async with connected(servers, events=True) as host:
        client = Client(host)
        servers.script = Script(seconds=3000)
        told = await client.call("count", upto=3)
        job_id = told["structuredContent"]["job_id"]
        number = await client.send("events/stream", name="job.ended", arguments={"job_id": job_id})
        assert (await client.note("active", number))["truncated"] is False
        await client.send("tools/call", name="job_cancel", arguments={"job_id": job_id})
        seen = [await host.read() for _ in range(3)]  # the answer of the tool comes between
        event = next(each["params"] for each in seen if each.get("method") == "notifications/events/event")
        assert (event["data"]["job_id"], event["data"]["status"]) == (job_id, "cancelled")
        assert event["cursor"]
        last = next(each["result"] for each in seen if each.get("id") == number)
        assert (last["resultType"], last["_meta"][SUBSCRIPTION]) == ("complete", number)


async def test_a_stream_is_alive_until_it_is_cancelled(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "_HEARTBEAT_SECONDS", 0.01)
    async with connected(servers, events=True) as host:
        client = Client(host)
        number = await client.send("events/stream", name="job.ended", cursor="00000000-1")
        assert (await client.note("active", number))["truncated"] is True
        cursor = (await client.note("heartbeat", number))["cursor"]
        await host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})
        asked = await client.send("events/poll", name="job.ended", cursor=cursor)
        while (told := await host.read()).get("method") == "notifications/events/heartbeat":
            pass
        assert told["id"] == asked
        monkeypatch.setattr(extension, "_HEARTBEAT_SECONDS", 3000)
        monkeypatch.setattr(extension, "_MAX_STREAMS", 1)
        number = await client.send("events/stream", name="job.ended")
        await client.note("active", number)
        more = await client("events/stream", name="job.ended")
        assert (more["code"], more["data"]) == (RESOURCE_EXHAUSTED, {"limit": "subscriptions", "max": 1})


async def test_no_principal_gets_the_events_of_another(servers: Servers) -> None:
    async with served(servers, events=True) as server, server.requests() as hers, server.requests("bob") as his:

        async def ask(requests: Any, method: str, called: str, /, **params: Any) -> dict[str, Any]:
            body, headers = modern(method, called, **params)
            answer: dict[str, Any] = (await requests.post("/mcp", content=body, headers=headers)).json()
            return answer

        cursor = (await ask(his, "events/poll", "", name="job.ended"))["result"]["cursor"]
        made = await ask(hers, "tools/call", "count", name="count", arguments={"upto": 3, "wait_seconds": 30})
        job_id = made["result"]["structuredContent"]["job_id"]
        for requests, found in ((hers, [f"evt_{job_id}"]), (his, [])):
            told = (await ask(requests, "events/poll", "", name="job.ended", cursor=cursor))["result"]
            assert [each["eventId"] for each in told["events"]] == found
        refused = await ask(his, "events/poll", "", name="job.ended", arguments={"job_id": job_id})
        assert refused["error"]["code"] == FORBIDDEN


async def test_a_task_names_its_events(servers: Servers) -> None:
    async with connected(servers, events=True) as host:
        without = Client(host, {TASKS: {}})
        assert "eventSource" not in await without.call("count", upto=3)
        client = Client(host, {TASKS: {}, EXTENSION_ID: {}}, without.numbers)
        task = await client.call("count", upto=3)
        source = task["eventSource"]
        assert (source["name"], source["input"]) == ("job.ended", {"job_id": task["taskId"]})
        number = await client.send(
            "events/stream", name=source["name"], arguments=source["input"], cursor=source["initialCursor"]
        )
        assert (await client.note("active", number))["cursor"] == source["initialCursor"]
        assert (await client.note("event", number))["eventId"] == f"evt_{task['taskId']}"
        assert (await host.read())["id"] == number
