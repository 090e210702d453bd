"""Jobs as resources in both protocol versions, and notifications of changes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import trio
from mcp import MCPError

from supervisor.testing import Script

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")  # the older era's own
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])


@ERAS
async def test_a_job_and_its_output_are_resources(servers: Any, era: str) -> None:
    servers.script = Script(stdout="1\n", stderr=b"\xff\xfe")
    async with servers(era=era) as call:
        job_id = (await call("count", upto=1))["job_id"]
        job = await call("job_wait", job_id=job_id)
        (listed,) = (await call.client.list_resources()).resources
        assert str(listed.uri) == f"job://{job_id}"
        assert listed.name == "count (done)"
        templates = (await call.client.list_resource_templates()).resource_templates
        assert [each.uri_template for each in templates] == [
            "job://{job_id}",
            "job://{job_id}/stdout",
            "job://{job_id}/stderr",
        ]
        (shown,) = (await call.client.read_resource(f"job://{job_id}")).contents
        whole = await call("job_status", job_id=job_id, detail="full")
        assert {**json.loads(shown.text), "next": job["next"]} == whole
        (text,) = (await call.client.read_resource(f"job://{job_id}/stdout")).contents
        assert (text.text, text.mime_type) == ("1\n", "text/plain")
        (blob,) = (await call.client.read_resource(f"job://{job_id}/stderr")).contents
        assert base64.b64decode(blob.blob) == b"\xff\xfe"


@ERAS
@pytest.mark.parametrize("uri", [f"job://{'0' * 32}", "job://abc", "file:///etc/passwd", f"job://{'0' * 32}/stdin"])
async def test_resources_that_are_not_there(servers: Any, era: str, uri: str) -> None:
    async with servers(era=era) as call:
        with pytest.raises(MCPError) as caught:
            await call.client.read_resource(uri)
        assert caught.value.error.code == -32602
        assert caught.value.error.data["uri"] == uri


class Told:
    """Collects the notifications for a client, and waits for them."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[str](100)

    async def __call__(self, message: Any) -> None:
        if getattr(message, "method", None) == "notifications/resources/updated":
            await self._send.send(str(message.params.uri))

    async def next(self) -> str:
        with trio.fail_after(60):
            return await self._receive.receive()

    def nothing(self) -> bool:
        return self._receive.statistics().current_buffer_used == 0


async def test_a_session_that_has_subscribed_is_told_until_it_unsubscribes(servers: Any) -> None:
    servers.script = Script(seconds=None)
    told = Told()
    async with servers(message_handler=told) as call:
        one, two = [(await call("count", upto=1))["job_id"] for _ in range(2)]
        for uri in (f"job://{one}", f"job://{one}", f"job://{one}/stdout", f"job://{two}"):
            await call.client.subscribe_resource(uri)
        await call.client.unsubscribe_resource(f"job://{two}")
        servers.engine.command(one).write("x")
        assert await told.next() == f"job://{one}/stdout"
        servers.engine.command(two).finish()
        await call("job_wait", job_id=two)
        servers.engine.command(one).finish()
        assert {await told.next(), await told.next()} == {f"job://{one}", f"job://{one}/stdout"}
        assert told.nothing()


async def test_a_stream_is_told_and_ends_with_the_client(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers(era="auto") as call:
        job_id = (await call("count", upto=1))["job_id"]
        uris = [f"job://{job_id}", f"job://{job_id}/stdout"]
        async with (
            call.client.listen(resource_subscriptions=uris) as first,
            call.client.listen(resource_subscriptions=uris[:1]) as second,
        ):
            servers.engine.command(job_id).finish()
            with trio.fail_after(60):
                assert {(await anext(first)).uri, (await anext(first)).uri} == set(uris)
                assert (await anext(second)).uri == uris[0]


async def test_no_client_listens_to_a_missing_job(servers: Any) -> None:
    async with servers(era="auto") as call:
        with pytest.raises(MCPError, match="there is no job"):
            async with call.client.listen(resource_subscriptions=[f"job://{'0' * 32}"]):
                raise AssertionError
    async with servers() as call:
        with pytest.raises(MCPError, match="there is no job"):
            await call.client.subscribe_resource(f"job://{'0' * 32}")
