"""The metrics, read by the parser of Prometheus's own client; and the files that use them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.jobs.catalog import Catalog
from supervisor.jobs.schedules import add_schedule, pause_schedule
from supervisor.model import JobSpec
from supervisor.testing import Script
from tests.web.conftest import Serve
from tests.web.test_rest import SAY, refused, start

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment"
NAME = re.compile(r"\bsupervisor_[a-z_]+\b")


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def text_of(serve_here: Serve) -> str:
    """Return what a server says that has run some jobs."""
    kinds = """
[kind.say]
description = "In a group."
command = ["echo", "{word}"]
group = "agents"
parameters.word = {}
"""
    async with serve_here(kinds) as here, here.client() as client, here.client("viewer") as viewer:
        await client.put("/v1/groups/agents", json={"limit": 1})
        await start(client, SAY, wait=30)
        here.script = Script(exit_code=1)
        await start(client, SAY, wait=30)
        here.script = Script(seconds=None)
        await start(client, SAY)
        await start(client, SAY)
        await client.post("/v1/groups/agents/pause", json={})
        answer = await viewer.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        return answer.text


def samples_of(text: str) -> Samples:
    """Return the samples of a scrape, read by a parser that is not ours."""
    families = list(text_string_to_metric_families(text))
    assert all(each.documentation and each.type != "unknown" for each in families)
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    assert len(samples) == sum(len(family.samples) for family in families)
    return samples


async def scraped(serve_here: Serve) -> Samples:
    """Return the samples of a server that has run some jobs."""
    return samples_of(await text_of(serve_here))


async def test_what_prometheus_reads(serve_here: Serve) -> None:
    samples = await scraped(serve_here)
    group = ("group", "agents")
    for name, labels, value in (
        ("supervisor_jobs", (("condition", "running"),), 1),
        ("supervisor_jobs", (("condition", "waiting"),), 1),
        ("supervisor_jobs", (("condition", "ended"),), 2),
        ("supervisor_ended_jobs_total", (("state", "done"),), 1),
        ("supervisor_ended_jobs_total", (("state", "failed"),), 1),
        ("supervisor_unread_failures", (), 1),
        ("supervisor_launches_total", (), 3),
        ("supervisor_launch_seconds_count", (), 3),
        ("supervisor_launch_seconds_bucket", (("le", "+Inf"),), 3),
        ("supervisor_group_limit_slots", (group,), 1),
        ("supervisor_group_used_slots", (group,), 1),
        ("supervisor_group_waiting_jobs", (group,), 1),
        ("supervisor_group_paused", (("cause", "user"), group), 1),
        ("supervisor_group_admissions_total", (group,), 3),
        ("supervisor_event_streams", (), 0),
    ):
        assert samples[name, labels] == value, name
    assert samples["supervisor_state_root_free_bytes", ()] > 0
    assert samples["supervisor_group_oldest_wait_seconds", (group,)] >= 0


async def test_no_label_names_a_job_or_a_workspace(serve_here: Serve) -> None:
    labels = {name for _, held in await scraped(serve_here) for name, _ in held}
    assert labels == {"version", "condition", "state", "group", "cause", "le"}


async def test_deliveries_and_schedules_are_counted(serve_here: Serve, tmp_path: Path) -> None:
    async with serve_here() as here, here.client() as client:
        root = here.settings.state_dir

        def schedule(catalog: Catalog) -> None:
            for name in ("nightly", "weekly"):
                spec = JobSpec(argv=["true"], workspace=tmp_path)
                add_schedule(catalog, name, spec, cron="0 3 * * *", zone="UTC")
            pause_schedule(catalog, "weekly")

        async def counted() -> dict[tuple[str, str], float]:
            samples = samples_of((await client.get("/metrics")).text)
            return {
                (name.removeprefix("supervisor_"), labels[0][1]): value
                for (name, labels), value in samples.items()
                if name in {"supervisor_deliveries", "supervisor_schedules"}
            }

        zeros = {("deliveries", each): 0 for each in ("waiting", "dead")}
        zeros |= {("schedules", each): 0 for each in ("active", "paused", "damaged")}
        assert await counted() == zeros
        sup = here.supervisors[-1]
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # and does not listen
            job = await sup.start(["true"], workspace=tmp_path, webhook=f"http://127.0.0.1:{closed.getsockname()[1]}/")
            await sup.wait(job.job_id)
            await sup.access.in_thread(schedule)
            (root / "schedules" / "broken.json").write_text("{")
            (root / "deliveries" / f"{job.job_id}.on_end.dead").touch()
            expected = dict.fromkeys(zeros, 1)
            assert await counted() == expected
        (root / "deliveries").rename(root / "elsewhere")
        (root / "deliveries").touch()  # a directory that cannot be read now
        del expected["deliveries", "waiting"], expected["deliveries", "dead"]
        assert await counted() == expected


async def test_a_principal_may_not_read_what_concerns_all(serve_here: Serve) -> None:
    async with serve_here() as here, here.client("alice") as alice:
        await refused(await alice.get("/metrics"), 403, "permission_denied")


def texts(value: Any) -> list[str]:
    """Return every expression of a dashboard."""
    match value:
        case dict():
            return [value["expr"]] if "expr" in value else [text for held in value.values() for text in texts(held)]
        case list():
            return [text for held in value for text in texts(held)]
        case _:
            return []


def expressions_of(file: str) -> list[str]:
    text = (DEPLOYMENT / file).read_text(encoding="utf-8")
    of_rules = re.findall(r"^\s+expr: (.*)$", text, re.MULTILINE)
    return texts(json.loads(text)) if file.endswith(".json") else of_rules


DASHBOARD, ALERTS = "grafana-dashboard.json", "prometheus-alerts.yml"


async def test_the_dashboard_and_the_alerts_use_metrics_that_exist(serve_here: Serve) -> None:
    known = {name for name, _ in await scraped(serve_here)}
    for file in (DASHBOARD, ALERTS):
        expressions = expressions_of(file)
        used = {name for each in expressions for name in NAME.findall(each)}
        assert len(expressions) >= 6
        assert used
        assert used <= known, file


def test_the_panels_of_the_dashboard_have_their_places() -> None:
    dashboard = json.loads((DEPLOYMENT / DASHBOARD).read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    source = {"type": "prometheus", "uid": f"${{{dashboard['templating']['list'][0]['name']}}}"}
    taken: set[tuple[int, int]] = set()
    for each in panels:
        assert each["datasource"] == source
        assert len({target["refId"] for target in each["targets"]}) == len(each["targets"]) > 0
        x, y, width, height = (each["gridPos"][name] for name in "xywh")
        cells = {(column, line) for column in range(x, x + width) for line in range(y, y + height)}
        assert x >= 0
        assert x + width <= 24
        assert not cells & taken, each["title"]
        taken |= cells


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
async def test_what_prometheus_itself_says(serve_here: Serve, tmp_path: Path) -> None:
    def promtool(*words: str, given: str = "") -> None:
        said = subprocess.run(["promtool", *words], input=given, capture_output=True, text=True, check=False)
        assert (said.returncode, said.stderr) == (0, ""), said.stdout + said.stderr

    promtool("check", "metrics", given=await text_of(serve_here))
    promtool("check", "rules", str(DEPLOYMENT / ALERTS))
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions_of(DASHBOARD))]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", str(file))
