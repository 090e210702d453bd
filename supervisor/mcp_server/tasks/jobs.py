"""Job tasks: a job of the supervisor as a task. Its id is the job's id.

A job that failed is a *completed* task whose result is an error result: ``failed`` is only for tasks that
end with a JSON-RPC error.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from mcp_types import CallToolResult, TextContent

from supervisor.errors import StateCorrupt
from supervisor.jobs.queue_text import ahead, why_it_waits
from supervisor.mcp_server.tasks.functions import on_the_wire
from supervisor.mcp_server.tasks.state import Status, Task
from supervisor.model import Job, Result, error_to_json, to_json, to_ns
from supervisor.states import State

__all__ = ["Render", "handle", "render_result", "spoilt", "task_of"]

Render = Callable[[Result], CallToolResult]

_STATUS = {
    State.QUEUED: Status.WORKING,
    State.RUNNING: Status.WORKING,
    State.CANCELLED: Status.CANCELLED,
    State.DONE: Status.COMPLETED,
    State.FAILED: Status.COMPLETED,
    State.TIMEOUT: Status.COMPLETED,
}


def _status_of(job: Job) -> Status:
    """Return the status of the task; a state that only a newer version knows is one or the other."""
    return _STATUS.get(job.status, Status.COMPLETED if job.status.terminal else Status.WORKING)


def _ttl_ms(job: Job) -> int | None:
    """Return the time to live from the creation of a job; for a running job, its maximum; ``None`` if not known."""
    if job.expires_at is not None:
        return round((job.expires_at - job.created_at).total_seconds() * 1000)
    if job.deadline_seconds is None or job.queue_reason is not None:
        return None
    waited = 0 if job.started_at is None else int((job.started_at - job.created_at).total_seconds())
    return round((waited + job.deadline_seconds + job.ttl_seconds) * 1000)


def _message(job: Job) -> str | None:
    if job.stop_requested is not None:
        return f"Being stopped ({job.stop_requested})"
    if job.status.terminal:
        return job.detail or (None if job.reason is None else f"The job has ended: {job.reason.value}")
    if (why := why_it_waits(job)) is not None:
        return "; ".join(filter(None, (f"Waiting: {why}", ahead(job))))
    progress = dict(job.progress or {})
    words = [f"turn {progress['turn']}"] if progress.get("turn") else []
    words += [str(progress[name]) for name in ("tool", "note") if progress.get(name)]
    return ", ".join(words) or f"The job is {job.status.value}"


def task_of(job: Job, result: CallToolResult | None = None) -> Task:
    """Return a job as a task; ``result`` is the result of a completed one."""
    return Task(
        task_id=job.job_id,
        status=_status_of(job),
        message=_message(job),
        created_ns=to_ns(job.created_at),
        updated_ns=to_ns(job.completed_at or job.started_at or job.created_at),
        ttl_ms=_ttl_ms(job),
        poll_ms=job.poll_after_ms,
        result=None if result is None else on_the_wire(result),
        is_error=job.status.terminal and job.status not in {State.DONE, State.CANCELLED},
    )


def ends_with_result(job: Job) -> bool:
    """Whether a job has ended with a result."""
    return _status_of(job) is Status.COMPLETED


def _answer(shape: dict[str, object], *, is_error: bool) -> CallToolResult:
    text = json.dumps(shape, ensure_ascii=False)
    return CallToolResult(content=[TextContent(text=text)], structured_content=shape, is_error=is_error)


def handle(job: Job) -> CallToolResult:
    """Return the answer for a client that does not support tasks: the current job."""
    return _answer(to_json(job), is_error=False)


def render_result(result: Result) -> CallToolResult:
    """Return the result of a job as the result of its tool."""
    return _answer(to_json(result), is_error=not result.ok)


def spoilt(error: StateCorrupt, job: Job) -> CallToolResult:
    """Return the result of a job whose output is lost."""
    return _answer(error_to_json(error, job), is_error=True)
