"""One span for each job, with a link to the caller's, whichever processes die in between."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio.testing

from supervisor import Settings, open_supervisor, open_supervisor_asyncio
from supervisor.runtime import tracing
from supervisor.testing import FakeEngine, Script

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir, stop_grace_seconds=1)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """Stand in for the provider that a host configures, which can be done once in a process."""
    made = TracerProvider()
    ours = made.get_tracer("supervisor")
    monkeypatch.setattr(tracing, "_tracer", lambda: ours)
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: made)
    yield made
    made.shutdown()


@pytest.fixture
def exported(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def callers(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("the caller's")


def jobs_in(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == "supervisor.job"]


async def test_no_span_is_made_where_nobody_collects_any(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> Tracer:
        raise AssertionError

    monkeypatch.setattr(tracing, "_tracer", made)
    warned: list[str] = []
    monkeypatch.setattr(tracing.log, "warning", lambda event, **_: warned.append(event))
    async with open_supervisor(settings, engine=FakeEngine(Script(exit_code=3))) as sup:
        await sup.run(["tool"])
    assert not warned


async def test_a_span_from_start_to_end(settings: Settings, exported: InMemorySpanExporter, callers: Tracer) -> None:
    async with open_supervisor(settings, engine=FakeEngine(Script(exit_code=3))) as sup:
        with callers.start_as_current_span("request") as request:
            job = (await sup.run(["tool", "secret"])).job
        caller = request.get_span_context()
    (span,) = jobs_in(exported)
    assert span.parent is None
    assert span.context is not None
    assert span.context.trace_id != caller.trace_id
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(caller.trace_id, caller.span_id)]
    assert (span.start_time, span.end_time) == (
        pytest.approx(job.created_at.timestamp() * 1e9, abs=1e5),
        pytest.approx((job.completed_at or job.created_at).timestamp() * 1e9, abs=1e5),
    )
    assert [event.name for event in span.events] == ["launched"]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "nonzero_exit")
    assert dict(span.attributes or {}) == {
        "supervisor.job.id": job.job_id,
        "supervisor.job.kind": "raw",
        "supervisor.job.state": "failed",
        "supervisor.job.reason": "nonzero_exit",
        "supervisor.job.workspace": job.workspace,
        "process.pid": job.pid,
        "process.exit.code": 3,
    }


async def test_a_job_that_went_well_outside_of_any_span(settings: Settings, exported: InMemorySpanExporter) -> None:
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        await sup.run(["tool"])
    (span,) = jobs_in(exported)
    assert (span.status.status_code, list(span.links)) == (StatusCode.UNSET, [])


async def test_the_link_outlives_the_supervisor(
    settings: Settings,
    exported: InMemorySpanExporter,
    callers: Tracer,
    mock_clock: trio.testing.MockClock,
) -> None:
    mock_clock.autojump_threshold = 0.01
    engine = FakeEngine(Script(seconds=100))
    with callers.start_as_current_span("request") as request:
        async with open_supervisor(settings, engine=engine) as sup:
            job = await sup.start(["tool"])
    assert jobs_in(exported) == []  # it has not ended
    async with open_supervisor(settings, engine=engine) as sup, open_supervisor(settings, engine=engine) as other:
        await sup.wait(job.job_id)
        await other.wait(job.job_id)
    (span,) = jobs_in(exported)
    assert span.links[0].context.span_id == request.get_span_context().span_id
    assert span.attributes is not None
    assert span.attributes["supervisor.job.id"] == job.job_id


def test_from_asyncio(settings: Settings, exported: InMemorySpanExporter, callers: Tracer) -> None:
    async def main() -> int:
        async with open_supervisor_asyncio(settings, engine=FakeEngine()) as sup:
            with callers.start_as_current_span("request") as request:
                await sup.run(["tool"])
            return request.get_span_context().span_id

    span_id = asyncio.run(main())
    assert [span.links[0].context.span_id for span in jobs_in(exported)] == [span_id]


async def test_a_broken_exporter_costs_no_job(
    settings: Settings,
    provider: TracerProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise LookupError(span.name)

    provider.add_span_processor(Broken())
    async with open_supervisor(settings, engine=FakeEngine()) as sup:
        assert (await sup.run(["tool"])).ok
        assert (await sup.run(["tool"])).ok
    assert [record.message for record in caplog.records] == ["span_failed", "span_failed"]


@pytest.mark.parametrize(
    ("installed", "named", "imported"), [(True, False, False), (True, True, True), (False, True, False)]
)
def test_it_is_imported_by_the_host_or_if_the_environment_names_a_provider(
    state_dir: Path,
    installed: bool,  # noqa: FBT001
    named: bool,  # noqa: FBT001
    imported: bool,  # noqa: FBT001
) -> None:
    program = f"""
        import json, sys
        if not {installed}:
            sys.modules["opentelemetry"] = None
        import supervisor
        from supervisor.testing import FakeEngine
        from supervisor.jobs.catalog import Catalog
        seen = ["opentelemetry.trace" in sys.modules]
        with supervisor.BlockingSupervisor(engine=FakeEngine()) as sup:
            seen.append("opentelemetry.trace" in sys.modules)
            assert sup.run(["tool"]).ok
        print(json.dumps(seen))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(tracing.__file__).parents[1],
        env={
            "SUPERVISOR_STATE_DIR": str(state_dir),
            **({"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"} if named else {}),
        },
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, imported]
