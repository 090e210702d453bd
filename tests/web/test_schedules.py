"""Schedules over REST: by whom, with what, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import Serve
from tests.web.test_rest import FORBIDDEN, refused

SAY = {"kind": "say", "parameters": {"word": "x"}}
YEARLY = {**SAY, "cron": "@yearly", "tz": "Europe/Berlin"}
PATH = "/v1/schedules/s"


async def test_a_schedule_from_its_addition_to_its_removal(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        made = (await client.put(PATH, json={**YEARLY, "overlap": "buffer_one", "jitter_seconds": 60})).json()
        assert (made["name"], made["tz"], made["overlap"], made["jitter_seconds"]) == (
            "s",
            "Europe/Berlin",
            "buffer_one",
            60,
        )
        assert made["next_at"] is not None
        assert (await client.put(PATH, json=YEARLY)).json()["overlap"] == "skip"  # replaced
        assert (await client.post(f"{PATH}/pause")).json()["next_at"] is None
        started = await client.post(f"{PATH}/run")
        assert started.status_code == 201
        job = started.json()
        assert (job["schedule"], job["argv"], started.headers["location"]) == (
            "s",
            made["argv"],
            f"/v1/jobs/{job['job_id']}",
        )
        assert (await client.post(f"{PATH}/resume")).json()["last_job_id"] == job["job_id"]
        (shown,) = (await client.get("/v1/schedules")).json()["schedules"]
        assert (shown["name"], shown["paused"], shown["argv"]) == ("s", False, made["argv"])
        assert (await client.delete(PATH)).json() == {"ok": True, "removed": "s"}
        assert (await client.get("/v1/schedules")).json() == {"ok": True, "schedules": []}
        for method, tail in (("POST", "/pause"), ("POST", "/resume"), ("POST", "/run"), ("DELETE", "")):
            await refused(await client.request(method, PATH + tail), 404, "schedule_not_found")


@pytest.mark.parametrize(
    "body",
    [
        SAY,
        {"cron": "@daily"},
        {**YEARLY, "cron": "0 0 31 2 *"},
        {**YEARLY, "cron": "x" * 201},
        {**YEARLY, "tz": "Mars"},
        {**YEARLY, "overlap": "never"},
        {**YEARLY, "jitter_seconds": -1},
        {**YEARLY, "jitter_seconds": 1e300},
        {**YEARLY, "hold": True},
        {**YEARLY, "workspace": "/"},
        {"cron": "@daily", "command": ["sh", "-c", "id"]},
        {**YEARLY, "kind": "unknown"},
        {**YEARLY, "on_end": ["id"]},
    ],
)
async def test_what_is_no_schedule(serve_here: Serve, body: dict[str, Any]) -> None:
    async with serve_here() as here, here.client() as client:
        await refused(await client.put(PATH, json=body), 400)
        await refused(await client.put("/v1/schedules/-s", json=YEARLY), 400)
        assert (await client.get("/v1/schedules")).json()["schedules"] == []


async def test_no_principal_sees_or_changes_schedules_and_the_viewer_only_sees_them(serve_here: Serve) -> None:
    async with (
        serve_here() as here,
        here.client() as owner,
        here.client("alice") as alice,
        here.client("viewer") as viewer,
    ):
        assert (await owner.put(PATH, json=YEARLY)).status_code == 200
        changes = [("PUT", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/run"), ("DELETE", "")]
        for client in (alice, viewer):
            for method, tail in changes:
                await refused(await client.request(method, PATH + tail), FORBIDDEN, "permission_denied")
        await refused(await alice.get("/v1/schedules"), FORBIDDEN, "permission_denied")
        assert len((await viewer.get("/v1/schedules")).json()["schedules"]) == 1
        assert not here.engine.commands
