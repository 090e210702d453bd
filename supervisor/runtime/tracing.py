"""One OpenTelemetry span for each job, in programs that use ``opentelemetry.trace``.

This module does not import that by itself: it takes 6 ms or more, and a program that has a provider has imported it.

A job may outlive the call, and the process, that started it. So its span is not a child of the caller's span, but the
root of a trace of its own, with a link to the caller's span. The job record has the link. The supervisor that commits
the end of the job makes the span, from the creation of the job to its end, so there is one span for a job, whichever
processes die in between. A job whose end is first observed outside a supervisor, by ``supervisor status`` for example,
has no span.

The host configures the provider and the exporter, as for any other library.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

from supervisor import log
from supervisor._version import __version__
from supervisor.states import State
from supervisor.store import Row
from supervisor.store.jobs_of_rows import job_of

if TYPE_CHECKING:
    from types import ModuleType

    from opentelemetry.trace import Link, Tracer

__all__ = ["caller", "end", "prepare"]

_SPAN: Final = "supervisor.job"
_TRACE: Final = "opentelemetry.trace"
_PROVIDER_VARIABLE: Final = "OTEL_PYTHON_TRACER_PROVIDER"
"""Names a provider that the API loads by itself."""


def _api() -> ModuleType | None:
    if sys.modules.get(_TRACE) is None:
        return None
    return importlib.import_module(_TRACE)  # waits for another thread that is importing it


@cache
def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("supervisor", __version__)


def prepare() -> None:
    """Import OpenTelemetry now if the environment names a provider, so that no call has to."""
    if _PROVIDER_VARIABLE in os.environ:
        with contextlib.suppress(ImportError):
            importlib.import_module(_TRACE)


def caller() -> str | None:
    """Return the current span of this task as a W3C ``traceparent``; ``None`` when there is none."""
    trace = _api()
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"


def _links(traceparent: object) -> list[Link]:
    from opentelemetry import trace

    if not isinstance(traceparent, str):
        return []
    _, trace_id, span_id, flags = traceparent.split("-")
    context = trace.SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(flags, 16)),
    )
    return [trace.Link(context)]


def end(row: Row, directory: str) -> None:
    """Make the span of a job whose end was just committed. Never raises: the job matters more."""
    api = _api()
    if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):  # no provider is configured
        return
    try:
        _end(row, directory)
    except Exception as error:  # noqa: BLE001  # from the host's sampler, processor or exporter, or a damaged record
        log.warning("span_failed", job_id=row.job_id, error=repr(error))


def _end(row: Row, directory: str) -> None:
    from opentelemetry import trace
    from opentelemetry.context import Context

    span = _tracer().start_span(
        _SPAN,
        context=Context(),
        attributes={"supervisor.job.id": row.job_id, "supervisor.job.kind": row.kind},
        links=_links(row.request.get("traceparent")),
        start_time=row.created_ns,
    )
    if span.is_recording():
        job = job_of(row, directory)
        facts = {
            "supervisor.job.state": job.status.value,
            "supervisor.job.reason": None if job.reason is None else job.reason.value,
            "supervisor.job.workspace": job.workspace,
            "supervisor.job.cost_usd": job.cost_usd,
            "supervisor.job.cpu_seconds": job.cpu_seconds,
            "process.pid": job.pid,
            "process.exit.code": job.exit_code,
            "process.exit.signal": job.signal,
        }
        span.set_attributes({name: value for name, value in facts.items() if value is not None})
        if row.started_ns is not None:
            span.add_event("launched", timestamp=row.started_ns)
        if job.status is not State.DONE:
            span.set_status(trace.Status(trace.StatusCode.ERROR, job.reason))
    span.end(end_time=row.completed_ns)
