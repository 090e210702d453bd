"""Answers of tools: the JSON of the contract as structured content, and the same as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp_types import CallToolResult, TextContent

from supervisor.errors import SupervisorError
from supervisor.model import Job, Result, error_to_json, to_json

__all__ = ["MOST_CHARACTERS", "answer", "dump", "error_answer", "job_answer", "result_answer"]

MOST_CHARACTERS: Final = 100_000
"""Of a text that is not asked for in another length: more than this few models have room for."""

_SURELY_SHALLOW: Final = 150

_REPAIRS: Final = {
    "job_not_found": "Call job_list for the ids of the jobs that are kept; give all 32 digits.",
    "job_running": "Call job_wait with this job_id, then job_result.",
    "state_corrupt": "Start the job again; job_logs shows what is left of its output.",
    "state_full": "Call job_consume_result for jobs that are no longer needed, or have the user free some space.",
}
"""What to do about an error, where the library's own advice names commands of a shell."""


def dump(shape: Any) -> str:
    """Return compact JSON."""
    try:
        return json.dumps(shape, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:  # as deep as the parser of a job's output allows, and called from deeper down
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + 10_000)
        try:
            return json.dumps(shape, ensure_ascii=False, separators=(",", ":"))
        finally:
            sys.setrecursionlimit(limit)


def answer(shape: Mapping[str, Any], *, is_error: bool = False) -> CallToolResult:
    """Return ``shape`` as the answer of a tool."""
    text = dump(shape)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, from bytes in argv or an escape in a JSON output
        text = text.encode(errors="replace").decode()
        shape = json.loads(text)
    content = TextContent(type="text", text=text)
    return CallToolResult(content=[content], structured_content=dict(shape), is_error=is_error)


def error_answer(error: SupervisorError, job: Job | None = None) -> CallToolResult:
    """Return the failure shape of the contract, with advice for somebody who has tools and no shell."""
    shape = error_to_json(error, job)
    if error.code in _REPAIRS:
        shape["error"]["repair"] = _REPAIRS[error.code]
    return answer(shape, is_error=True)


def result_answer(
    result: Result, *, most_characters: int | None = None, warnings: Sequence[str] = ()
) -> CallToolResult:
    """Return what a finished job gave; the end of one that went badly is an error.

    ``most_characters``: a longer text is cut, and the answer says so and how to go on.
    """
    shape = to_json(result)
    value = result.value
    if isinstance(value, str) and result.encoding is None and len(value) > (most_characters or len(value)):
        shape["value"] = value[:most_characters]
        shape["truncated"] = True
        shape["next"] = (
            f"These are the first {most_characters} of {len(value)} characters. For more, call job_logs with offset"
            f" {len(shape['value'].encode(errors='replace'))}, or job_result with a larger max_characters."
        )
    if warnings:
        shape["warnings"] = list(warnings)
    made = answer(shape, is_error=not result.ok)
    if _too_deep(made):  # it goes as text: lost it must not be, least of all when the job is consumed
        return answer({**shape, "value": dump(shape["value"]), "encoding": "json"}, is_error=not result.ok)
    return made


def _too_deep(made: CallToolResult) -> bool:
    """Whether an answer nests more deeply than pydantic serialises."""
    (content,) = made.content
    text = content.text if isinstance(content, TextContent) else ""
    if text.count("[") + text.count("{") < _SURELY_SHALLOW:
        return False
    try:
        made.model_dump(mode="json")
    except ValueError:
        return True
    return False


def job_answer(job: Job, *, warnings: Sequence[str] = ()) -> CallToolResult:
    """Return a job, and which call comes next."""
    shape = to_json(job)
    if not job.status.terminal:
        shape["next"] = "It runs on by itself. Call job_wait with this job_id, then job_result."
    else:
        shape["next"] = "It has ended. Call job_result with this job_id."
    if warnings:
        shape["warnings"] = list(warnings)
    return answer(shape)
