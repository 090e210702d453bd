"""The REST interface, on a fake machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx2
import pytest
import trio

from supervisor.jobs.catalog import Catalog
from supervisor.testing import Script
from tests.web.conftest import Serve

SAY: dict[str, Any] = {"kind": "say", "parameters": {"word": "hello"}}
FORBIDDEN = 403


async def start(client: httpx2.AsyncClient, body: dict[str, Any] | None = None, **query: Any) -> dict[str, Any]:
    answer = await client.post("/v1/jobs", json=body or SAY, params=query)
    assert answer.status_code == 201, answer.text
    shape: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{shape['job_id']}"
    return shape


async def refused(answer: httpx2.Response, status: int, code: str = "invalid_arguments") -> dict[str, Any]:
    shape: dict[str, Any] = answer.json()
    assert (answer.status_code, shape["error"]["code"]) == (status, code), shape
    assert (shape["ok"], shape["status"], shape["detail"]) == (False, status, shape["error"]["message"])
    assert answer.headers["content-type"] == "application/problem+json"
    error: dict[str, Any] = shape["error"]
    assert error["repair"]
    return error


async def test_a_job_from_its_start_to_its_deletion(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        here.script = Script(stdout="hello\n", seconds=None)
        job = await start(client, {**SAY, "labels": {"team": "a"}, "deadline_seconds": 60})
        path = f"/v1/jobs/{job['job_id']}"
        assert (job["status"], job["deadline_seconds"]) == ("running", 60)
        assert job["labels"] == {"team": "a", "mcp.tool": "say"}
        assert here.engine.commands[0].argv == ("echo", "hello")
        await refused(await client.get(f"{path}/result"), 409, "job_running")
        await refused(await client.delete(path), 409, "job_running")
        logs = (await client.get(f"{path}/logs", params={"offset": 2})).json()
        assert (logs["value"], logs["next_offset"], logs["ended"]) == ("llo\n", 6, False)
        here.engine.commands[0].finish()
        ended = (await client.get(path, params={"wait": 30})).json()
        assert (ended["status"], ended["reason"]) == ("done", "exited")
        result = (await client.get(f"{path}/result")).json()
        assert (result["ok"], result["value"], result["job"]["job_id"]) == (True, "hello\n", job["job_id"])
        explained = (await client.get(f"{path}/explain")).json()
        assert explained["status"] == "done"
        assert explained["evidence"]
        assert (await client.delete(path)).json() == {"ok": True, "job_id": job["job_id"]}
        for answer in (await client.get(path), await client.delete(path), await client.get(f"{path}/logs")):
            await refused(answer, 404, "job_not_found")


async def test_the_result_of_a_job_that_failed_is_the_failure(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        here.script = Script(stderr="no such word\n", exit_code=3)
        job = await start(client, wait=30)
        assert (job["status"], job["exit_code"]) == ("failed", 3)
        answer = await client.get(f"/v1/jobs/{job['job_id']}/result")
        assert answer.status_code == 200
        assert answer.json()["error"]["code"] == "job_failed"
        assert answer.json()["job"]["job_id"] == job["job_id"]


async def test_jobs_are_listed_by_state_label_and_group_a_page_at_a_time(serve_here: Serve) -> None:
    kinds = """
[kind.say]
description = "Says something."
command = ["echo", "{word}"]
parameters.word = {}
[kind.grouped]
description = "In a group."
command = ["true"]
group = "agents"
"""
    async with serve_here(kinds) as here, here.client() as client:
        assert (await client.put("/v1/groups/agents", json={"limit": 1})).json()["limit"] == 1
        say = await start(client, {**SAY, "labels": {"team": "a", "n": "1"}}, wait=30)
        here.script = Script(seconds=None)
        grouped = await start(client, {"kind": "grouped"})
        waiting = await start(client, {"kind": "grouped", "labels": {"team": "a"}})
        assert waiting["queue_reason"] == "limit"

        async def listed(*query: tuple[str, str]) -> list[str]:
            shape = (await client.get("/v1/jobs", params=list(query))).json()
            return [job["job_id"] for job in shape["jobs"]]

        everything = [each["job_id"] for each in (waiting, grouped, say)]
        assert await listed() == everything
        assert await listed(("state", "done")) == [say["job_id"]]
        assert await listed(("group", "agents")) == everything[:2]
        assert await listed(("group", "agents"), ("label", "team=a")) == [waiting["job_id"]]
        assert await listed(("label", "team=a"), ("label", "n=1")) == [say["job_id"]]
        assert await listed(("group", "hello")) == []
        first = (await client.get("/v1/jobs", params={"limit": 2})).json()
        assert await listed(("cursor", first["next_cursor"])) == everything[2:]


async def test_a_key_starts_one_job(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client, here.client("alice") as alice:
        headers = {"Idempotency-Key": "the key"}
        first = await client.post("/v1/jobs", json=SAY, headers=headers)
        again = await client.post("/v1/jobs", json=SAY, headers=headers)
        assert first.json()["job_id"] == again.json()["job_id"]
        other = await client.post("/v1/jobs", json={"kind": "say", "parameters": {"word": "x"}}, headers=headers)
        await refused(other, 409, "idempotency_conflict")
        hers = await alice.post("/v1/jobs", json=SAY, headers=headers)
        assert hers.json()["job_id"] != first.json()["job_id"]
        assert len(here.engine.commands) == 2
        await refused(await client.post("/v1/jobs", json=SAY, headers={"Idempotency-Key": "k" * 151}), 400)


@pytest.mark.parametrize(
    ("body", "argument"),
    [
        ({}, "kind"),
        ({"kind": "nothing"}, "kind"),
        ({**SAY, "command": ["echo", "x"]}, "kind"),
        ({**SAY, "stdin": "x"}, "stdin"),
        ({**SAY, "parameters": {"word": 1}}, "word"),
        ({**SAY, "parameters": {"other": "x"}}, "other"),
        ({**SAY, "parameters": []}, "parameters"),
        ({**SAY, "unknown": 1}, "unknown"),
        ({**SAY, "deadline_seconds": "soon"}, "deadline_seconds"),
        ({**SAY, "labels": {"mcp.principal": "alice"}}, "labels"),
        ({**SAY, "workspace": "/"}, "workspace"),
        ({**SAY, "after": [{"job_id": 1}]}, "after"),
        ({**SAY, "after": [{"job_id": "x", "when": "soon"}]}, "after"),
        ({**SAY, "after": "x"}, "after"),
        ({"command": ["rm", "-rf", "/"]}, "command"),
        ({"command": ["echo", "-n", "x"]}, "command"),
        ({"command": ["echo", "x"], "parameters": {}}, "parameters"),
    ],
)
async def test_a_start_that_is_refused(serve_here: Serve, body: dict[str, Any], argument: str) -> None:
    async with serve_here(allow_commands=["echo *"]) as here, here.client() as client:
        error = await refused(await client.post("/v1/jobs", json=body), 400)
        assert error["details"]["argument"] == argument
        assert not here.engine.commands


async def test_only_kinds_and_allowed_commands_are_started(serve_here: Serve) -> None:
    async with serve_here(allow_commands=["echo *"]) as here, here.client() as client:
        job = await start(client, {"command": ["echo", "x"], "stdin": "in", "interpret": "raw"}, wait=30)
        assert job["argv"] == ["echo", "x"]
        assert here.engine.commands[0].request.stdin == b"in"
    async with serve_here() as here, here.client() as client:
        await refused(await client.post("/v1/jobs", json={"command": ["echo", "x"]}), 400)
        await refused(await client.post(f"/v1/jobs/{job['job_id']}/rerun"), 400)  # no pattern allows it any more


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'"x"', "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"kind": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"deadline_seconds": ' + b"9" * 10_000 + b"}", "application/json", 400),
        (json.dumps(SAY).encode(), "text/plain", 415),
        (json.dumps(SAY).encode(), "application/x-www-form-urlencoded", 415),
        (b" " * (5 << 20), "application/json", 413),
    ],
)
async def test_a_body_that_is_not_json(serve_here: Serve, content: bytes, content_type: str, status: int) -> None:
    async with serve_here() as here, here.client() as client:
        answer = await client.post("/v1/jobs", content=content, headers={"Content-Type": content_type})
        await refused(answer, status)
        assert (await client.get("/v1/jobs")).json()["jobs"] == []


async def test_a_body_without_a_length_is_bounded_too(serve_here: Serve) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 65536

    async with serve_here() as here, here.client() as client:
        answer = await client.post("/v1/jobs", content=endless(), headers={"Content-Type": "application/json"})
        await refused(answer, 413)


async def test_principals_see_and_change_only_their_jobs(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as owner, here.client("alice") as alice, here.client("bob") as bob:
        here.script = Script(seconds=None)
        job = await start(alice)
        assert job["labels"]["mcp.principal"] == "alice"
        path = f"/v1/jobs/{job['job_id']}"
        reads = ["", "/result", "/logs", "/explain"]
        actions = ["cancel", "hold", "release", "pause", "resume", "rerun"]
        absent = f"/v1/jobs/{'0' * 32}"
        for method, tail in [("GET", tail) for tail in reads] + [("POST", f"/{each}") for each in actions]:
            errors = [
                await refused(await bob.request(method, f"{each}{tail}"), 404, "job_not_found")
                for each in (path, absent)
            ]
            assert errors[0] == {**errors[1], "message": errors[0]["message"], "details": errors[0]["details"]}
        await refused(await bob.delete(path), 404, "job_not_found")
        await refused(
            await bob.post("/v1/jobs", json={**SAY, "after": [{"job_id": job["job_id"]}]}), 404, "job_not_found"
        )
        assert (await bob.get("/v1/jobs", params={"label": "mcp.principal=alice"})).json()["jobs"] == []
        assert (await alice.get(path)).json()["status"] == "running"
        assert (await owner.get(path)).json()["status"] == "running"
        assert (await alice.post(f"{path}/cancel")).json()["status"] == "cancelled"


async def test_what_was_spent_is_summed_for_the_owner_and_for_each_principal(serve_here: Serve) -> None:
    kinds = """
[kind.agent]
description = "An agent."
command = ["claude", "-p"]
interpret = "claude"
"""
    shape = {"type": "result", "subtype": "success", "is_error": False, "result": "x", "total_cost_usd": 0.5}
    async with serve_here(kinds) as here, here.client() as owner, here.client("alice") as alice:
        here.script = Script(stdout=json.dumps(shape))
        began = datetime.now(UTC)
        for client in (owner, alice):
            await start(client, {"kind": "agent"}, wait=30)
        for client, jobs in ((owner, 2), (alice, 1)):
            found = (await client.get("/v1/spend", params={"by": "label:mcp.principal"})).json()
            assert (found["ok"], found["by"], found["total"]["jobs"]) == (True, "label:mcp.principal", jobs)
            assert found["total"]["cost_usd"] == 0.5 * jobs
            assert {"mcp.principal": "alice", "jobs": 1}.items() <= found["spend"][0].items()
        since = (began - timedelta(days=1)).isoformat()
        assert (await owner.get("/v1/spend", params={"since": since})).json()["total"]["jobs"] == 2
        for query in (
            {"by": "colour"},
            {"by": "label:"},
            {"since": "yesterday"},
            {"since": "2026-01-01"},
            {"of": "me"},
        ):
            await refused(await owner.get("/v1/spend", params=query), 400)


async def test_who_may_change_groups_and_jobs(serve_here: Serve) -> None:
    async with (
        serve_here() as here,
        here.client() as owner,
        here.client("alice") as alice,
        here.client("viewer") as viewer,
    ):
        job = await start(owner, wait=30)
        assert (await owner.put("/v1/groups/g", json={"limit": 2})).status_code == 200
        for client in (alice, viewer):
            assert (await client.get("/v1/groups")).json()["groups"][0]["name"] == "g"
            for method, path in (
                ("PUT", "/v1/groups/g"),
                ("POST", "/v1/groups/g/pause"),
                ("POST", "/v1/groups/g/resume"),
            ):
                await refused(await client.request(method, path, json={}), FORBIDDEN, "permission_denied")
        path = f"/v1/jobs/{job['job_id']}"
        assert (await viewer.get(path)).status_code == 200
        await refused(await viewer.post("/v1/jobs", json=SAY), FORBIDDEN, "permission_denied")
        await refused(await viewer.delete(path), FORBIDDEN, "permission_denied")
        for action in ("cancel", "hold", "release", "pause", "resume", "rerun"):
            await refused(await viewer.post(f"{path}/{action}"), FORBIDDEN, "permission_denied")
        await refused(await viewer.post("/mcp", json={}), FORBIDDEN, "permission_denied")


async def test_groups(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        await refused(await client.post("/v1/groups/g/pause"), 404, "group_not_found")
        made = (await client.put("/v1/groups/g", json={"limit": 2, "fair_by": "principal", "rate": "10/min"})).json()
        assert (made["ok"], made["limit"], made["fair_by"]) == (True, 2, "principal")
        changed = (await client.put("/v1/groups/g", json={"limit": None})).json()
        assert (changed["limit"], changed["fair_by"]) == (None, "principal")
        assert (await client.put("/v1/groups/g", json={"budgets": ["usd=20/day"]})).json()["budgets"]
        assert (await client.put("/v1/groups/g", json={"budgets": None})).json()["budgets"] == []
        paused = (
            await client.post("/v1/groups/g/pause", json={"until": "2099-01-31T12:00:00Z", "reason": "maintenance"})
        ).json()
        assert paused["paused"] == [{"by": "user", "until": "2099-01-31T12:00:00.000Z", "detail": "maintenance"}]
        assert (await client.post("/v1/groups/g/resume")).json()["paused"] == []
        for body in (
            {"limit": "x"},
            {"limit": -1},
            {"limit": 1.5},
            {"rate": "often"},
            {"on_reboot": None},
            {"other": 1},
        ):
            await refused(await client.put("/v1/groups/g", json=body), 400)
        await refused(await client.put("/v1/groups/-g", json={}), 400)
        for until in ("soon", "2099-01-31", "2099-01-31T12:00:00"):
            await refused(await client.post("/v1/groups/g/pause", json={"until": until}), 400)


async def test_actions_on_waiting_and_running_jobs(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        here.script = Script(seconds=None)
        held = await start(client, {**SAY, "hold": True})
        assert (held["status"], held["queue_reason"]) == ("queued", "held")
        path = f"/v1/jobs/{held['job_id']}"
        await refused(await client.post(f"{path}/pause"), 400)
        assert (await client.post(f"{path}/hold")).json()["queue_reason"] == "held"
        released = (await client.post(f"{path}/release")).json()
        assert released["queue_reason"] != "held"
        after = await start(client, {**SAY, "after": [{"job_id": held["job_id"], "when": "failed"}]})
        assert after["queue_reason"] == "dependency"
        while (await client.get(path)).json()["status"] != "running":  # noqa: ASYNC110  # no event tells this client
            await trio.sleep(0.01)
        paused = (await client.post(f"{path}/pause", json={"hold_deadline": True})).json()
        assert paused["paused"] is True
        assert (await client.post(f"{path}/resume")).json()["paused"] is False
        assert (await client.post(f"{path}/cancel")).json()["status"] == "cancelled"
        again = await client.post(f"{path}/rerun", headers={"Idempotency-Key": "again"})
        assert again.status_code == 201
        assert again.json()["argv"] == held["argv"]
        assert b"HOME" in (here.engine.commands[-1].request.env or {})
        assert b"SUPERVISOR_STATE_DIR" not in (here.engine.commands[-1].request.env or {})
        twice = await client.post(f"{path}/rerun", headers={"Idempotency-Key": "again"})
        assert twice.json()["job_id"] == again.json()["job_id"]


async def test_the_etag_of_a_job_changes_with_the_job(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        here.script = Script(seconds=None)
        path = f"/v1/jobs/{(await start(client))['job_id']}"
        answer = await client.get(path)
        tag = answer.headers["etag"]
        for known in (tag, f'"other", {tag}', "*"):
            same = await client.get(path, headers={"If-None-Match": known})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        here.engine.commands[0].write("x")
        here.engine.commands[0].finish()
        changed = await client.get(path, headers={"If-None-Match": tag}, params={"wait": 30})
        assert (changed.status_code, changed.json()["status"]) == (200, "done")
        assert changed.headers["etag"] != tag


async def test_a_wait_ends_with_its_time_and_with_its_client(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        here.script = Script(seconds=None)
        job_id = (await start(client))["job_id"]
        path = f"/v1/jobs/{job_id}"
        assert (await client.get(path, params={"wait": 0.05})).json()["status"] == "running"
        for wrong in ("-1", "301", "x", "nan", "inf"):
            await refused(await client.get(path, params={"wait": wrong}), 400)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.get, path, params={"wait": 300}))
            while not here.waiters(job_id):  # noqa: ASYNC110  # no event tells this test
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        while here.waiters(job_id):  # noqa: ASYNC110  # as above
            await trio.sleep(0.01)


async def test_output_that_is_long_or_no_text(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        here.script = Script(stdout=b"\xff" * 10)
        path = f"/v1/jobs/{(await start(client, wait=30))['job_id']}"
        logs = (await client.get(f"{path}/logs")).json()
        assert (logs["encoding"], logs["next_offset"]) == ("base64", 10)
        assert (await client.get(f"{path}/result")).json()["encoding"] == "base64"
        here.script = Script(stdout=b"x" * (9 << 20))
        path = f"/v1/jobs/{(await start(client, wait=30))['job_id']}"
        error = await refused(await client.get(f"{path}/result"), 400)
        assert f"{path}/logs" in error["repair"]
        last = (await client.get(f"{path}/logs")).json()
        assert (len(last["value"]), last["offset"], last["size"]) == (65536, (9 << 20) - 65536, 9 << 20)
        for wrong in ({"limit": 1 << 21}, {"offset": -1}, {"offset": 1 << 70}, {"stream": "stdin"}, {"stream": "diff"}):
            await refused(await client.get(f"{path}/logs", params=wrong), 400)


async def test_mcp_is_on_the_same_port(serve_here: Serve) -> None:
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async with serve_here() as here, here.client("alice") as requests:
        async with Client(streamable_http_client(f"{here.url}/mcp", http_client=requests)) as client:
            started = (await client.call_tool("say", {"word": "x", "wait_seconds": 30})).structured_content
        job = (await requests.get("/v1/jobs")).json()["jobs"][0]
        assert started is not None
        assert (job["status"], job["labels"]["mcp.principal"]) == ("done", "alice")


async def test_the_jobs_of_a_principal_are_in_its_group_once_there_is_one(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as owner, here.client("alice") as alice, here.client("bob") as bob:
        here.script = Script(seconds=None)
        assert (await start(alice))["groups"] == []
        (supervisor,) = here.supervisors
        await supervisor.set_group("principal.alice", budgets=["starts=1/day"])
        running, waiting = await start(alice), await start(alice)
        assert running["groups"] == waiting["groups"] == ["principal.alice"]
        assert (running["queue_reason"], waiting["queue_reason"]) == (None, "budget")
        assert (await start(bob))["groups"] == (await start(owner))["groups"] == []
        answer = await alice.post("/v1/groups/principal.alice/pause")
        assert answer.status_code == FORBIDDEN
        for each in (await owner.get("/v1/jobs")).json()["jobs"]:
            await owner.post(f"/v1/jobs/{each['job_id']}/cancel")


LIMITED = """
[kind.say]
description = "Says something."
command = ["echo", "{word}"]
start_within_seconds = 60
confirm = true
group = "few"
deadline_seconds = 30
parameters.word = {}
"""


async def test_a_principal_escapes_no_limit_that_its_kind_has_now(serve_here: Serve) -> None:
    async with serve_here() as here, here.client("alice") as alice, here.client() as owner:
        first, mine = await start(alice), await start(owner)
        await here.supervisors[0].set_group("few", limit=1)
        await here.supervisors[0].set_group("principal.alice", limit=1)
    async with serve_here(LIMITED) as here, here.client("alice") as alice, here.client() as owner:
        for answer in (await alice.post("/v1/jobs", json=SAY), await alice.post(f"/v1/jobs/{first['job_id']}/rerun")):
            error = await refused(answer, 409, "feature_unavailable")
            assert "asks the user" in error["message"]
        again = (await owner.post(f"/v1/jobs/{mine['job_id']}/rerun")).json()
        assert (again["groups"], again["deadline_seconds"]) == (["few"], 30)
        again = (await owner.post(f"/v1/jobs/{first['job_id']}/rerun")).json()  # it stays the principal's
        assert (again["groups"], again["labels"]["mcp.principal"]) == (["few", "principal.alice"], "alice")
        for seconds, counts in ((5, 5e9), (6000, 60e9), (None, 60e9)):
            job = await start(owner, {**SAY, "start_within_seconds": seconds, "hold": True})
            with Catalog(here.supervisors[0].settings) as catalog:
                assert catalog.row(job["job_id"]).request["start_within_ns"] == counts
