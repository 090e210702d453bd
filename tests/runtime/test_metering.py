"""The OpenTelemetry metrics of the groups."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor import Settings, open_supervisor
from supervisor.runtime import metering
from supervisor.testing import FakeEngine, Script

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir)


def forget() -> None:
    for made in (metering._made, metering._admissions, metering._slot_to_launch):
        made.cache_clear()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """Stand in for the provider that a host configures, which can be done once in a process."""
    made = InMemoryMetricReader()
    provider = MeterProvider([made])
    forget()
    monkeypatch.setattr("opentelemetry.metrics.get_meter", provider.get_meter)
    yield made
    provider.shutdown()
    forget()


def collected(reader: InMemoryMetricReader) -> dict[str, dict[str, Any]]:
    """Return the points by the name of the metric and of the group."""
    found: dict[str, dict[str, Any]] = {}
    data = reader.get_metrics_data()
    for metric in [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics:
        points = {str(point.attributes["supervisor.group"]): point for point in metric.data.data_points}
        found[metric.name.removeprefix("supervisor.group.")] = points
    return found


async def test_the_metrics_of_groups(settings: Settings, reader: InMemoryMetricReader) -> None:
    engine = FakeEngine(Script(seconds=None))
    async with open_supervisor(settings, engine=engine) as sup:
        await sup.set_group("one", limit=1)
        await sup.set_group("all")
        jobs = [await sup.start(["tool"], groups=["one", "all"]) for _ in range(3)]
        found = collected(reader)  # on the event loop, as a flush at the end of a program may be
        assert {name: {group: point.value for group, point in found[name].items()} for name in sorted(found)} == {
            "admissions": {"one": 1, "all": 1},
            "limit": {"one": 1},
            "oldest_wait": {"one": pytest.approx(0, abs=20), "all": pytest.approx(0, abs=20)},
            "running": {"one": 1, "all": 1},
            "waiting": {"one": 2, "all": 2},
        }
        assert found["running"]["one"].attributes["supervisor.state_dir"] == str(settings.state_dir)
        for job in jobs:
            command = await engine.next()
            assert command.job_id == job.job_id
            command.finish()
            await sup.wait(job.job_id)
        found = await trio.to_thread.run_sync(collected, reader)
        assert (found["admissions"]["one"].value, found["waiting"]["one"].value) == (3, 0)
        assert "oldest_wait" not in found
        assert (found["slot_to_launch"]["one"].count, found["slot_to_launch"]["all"].count) == (2, 2)
        async with open_supervisor(settings, engine=engine):
            assert collected(reader)["running"].keys() == {"one", "all"}
    assert collected(reader).keys() == {"admissions", "slot_to_launch"}, "no supervisor is open"


async def test_a_state_root_that_cannot_be_read_fails_no_exporter(
    settings: Settings, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(metering.log, "warning", lambda event, **_: warned.append(event))
    monkeypatch.setattr(metering, "Catalog", None)
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        await sup.set_group("one")
        assert collected(reader) == {}
    assert set(warned) == {"metrics_not_read"}


def test_a_program_without_metrics_does_not_import_them(state_dir: Path) -> None:
    program = """
        import json, sys
        from supervisor import BlockingSupervisor, Settings
        from supervisor.testing import FakeEngine
        with BlockingSupervisor(Settings(state_dir=sys.argv[1]), engine=FakeEngine()) as sup:
            sup.set_group("g", limit=1)
            assert sup.run(["tool"], groups="g").ok
        print(json.dumps([name for name in sys.modules if name.startswith("opentelemetry.metrics")]))
    """
    words = [sys.executable, "-c", textwrap.dedent(program), str(state_dir)]
    done = subprocess.run(words, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []
