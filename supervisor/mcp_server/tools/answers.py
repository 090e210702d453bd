"""The answers of tools: the public JSON as structured content, and the same JSON as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import attrs
from mcp_types import CallToolResult, TextContent

from supervisor.errors import SupervisorError
from supervisor.jobs.queue_text import ahead, why_it_waits
from supervisor.mcp_server.tools.brief import AT_LENGTH, brief, for_tools, shorten, word
from supervisor.model import Job, JobPage, Result, error_to_json, to_json

__all__ = [
    "MAX_CHARACTERS",
    "answer",
    "dump",
    "error_answer",
    "is_cut",
    "job_answer",
    "list_answer",
    "result_answer",
    "started_answer",
]

MAX_CHARACTERS: Final = 40_000
"""The default maximum length of a value. Claude Code takes an answer of 50,000 characters."""

_MAX_SAFE_BRACKETS: Final = 150
"""An answer with fewer brackets is not nested too deeply for pydantic."""
_MAX_DETAILS: Final = 16_000
_MIN_CUT: Final = 40  # a shorter string is a name, a verdict or an id, which is useless if it is cut
_REPAIRS: Final = {
    "job_not_found": "Call job_list for the ids of existing jobs; give all 32 digits.",
    "job_running": "Call job_wait with this job_id, then job_result.",
    "state_corrupt": "Start the job again; job_logs shows the remaining output.",
    "output_lost": "Start the job again; the remaining output is not what the command wrote.",
    "state_full": "Call job_consume_result for jobs that are no longer needed, or ask the user to free some space.",
}
"""Advice for tools, for errors whose own advice names shell commands."""


def dump(shape: Any) -> str:
    """Return compact JSON."""
    try:
        return json.dumps(shape, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:  # the parser of a job's output allows as deep a value, with fewer frames on the stack
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
    except UnicodeEncodeError:  # half a surrogate pair, from bytes in argv or an escape in JSON output
        text = text.encode(errors="replace").decode()
        shape = json.loads(text)
    content = TextContent(type="text", text=text)
    return CallToolResult(content=[content], structured_content=dict(shape), is_error=is_error)


def error_answer(error: SupervisorError, job: Job | None = None) -> CallToolResult:
    """Return an error in the public shape, with advice that names tools instead of shell commands."""
    shape = error_to_json(error, job)
    if job is not None:
        shape["job"] = brief(job)
    shape["error"]["repair"] = _REPAIRS.get(error.code) or for_tools(error.repair)
    return answer(shape, is_error=True)


def result_answer(
    result: Result,
    *,
    max_characters: int | None = MAX_CHARACTERS,
    offset: int | None = None,
    warnings: Sequence[str] = (),
) -> CallToolResult:
    """Return the result of a finished job; that of a failed or stopped job is an error.

    Args:
        result: the result.
        max_characters: the maximum length of the value (of its JSON if it is no text); ``None`` for no limit.
            A longer value is cut, and the answer names the call that returns the rest. The other fields are
            always short.
        offset: where the value begins, in characters: of a text, of an agent's free text, or of the JSON of
            another value. ``None`` for the value as a whole.
        warnings: sentences for the caller.
    """
    shape = to_json(result)
    shape["job"] = brief(result.job)
    if result.error is not None:
        shape["error"]["repair"] = for_tools(result.error.repair)
    if "changes" in shape:
        max_characters = _fit_diff(shape["changes"], max_characters)
    if "value" in shape:
        if _is_agents(shape["value"]):
            shape["value"] = shape["value"]["text"] if offset is not None else _once(shape["value"])
        if offset is not None:
            shape |= _piece(shape["value"], offset, max_characters, is_bytes=result.encoding == "base64")
        elif max_characters is not None:
            shape |= _fitting(shape["value"], max_characters, is_bytes=result.encoding == "base64")
    elif len(dump(shape["error"]["details"])) > _MAX_DETAILS:
        shape["error"]["details"] = _cut_strings(shape["error"]["details"], _MAX_DETAILS) or {}
    if warnings:
        shape["warnings"] = list(warnings)
    made = answer(shape, is_error=not result.ok)
    if _too_deep(made):  # sent as text, because the result of a consumed job must not be lost
        return answer({**shape, "value": dump(shape["value"]), "encoding": "json"}, is_error=not result.ok)
    return made


def _fit_diff(changes: dict[str, Any], most: int | None) -> int | None:
    """Cut the diff of a result in place at half of what the answer may have; return what is left for its value."""
    diff = changes["diff"]
    if most is not None and (kept := _beginning(diff, most // 2)) != diff:
        changes |= {"diff": kept, "diff_truncated": True}
    if changes["diff_truncated"]:
        offset = len(changes["diff"].encode(errors="replace"))
        changes["next"] = f"For the rest of the diff, call job_logs with stream diff and offset {offset}."
    return None if most is None else max(_MIN_CUT, most - _length(changes["diff"]))


def is_cut(made: CallToolResult) -> bool:
    """Whether an answer lacks a part of its value."""
    return bool(made.structured_content and made.structured_content.get("truncated"))


def _is_agents(value: Any) -> bool:
    """Whether a value is an agent's answer, which names the parts that were cut."""
    return isinstance(value, dict) and "truncated" in value and isinstance(value.get("text"), str)  # pyright: ignore[reportUnknownMemberType]


def _once(value: dict[str, Any]) -> dict[str, Any]:
    """Return an agent's answer with its free text only in ``text``."""
    summary = value.get("summary")
    if isinstance(summary, str) and summary and value["text"].startswith(summary.removesuffix(" ...")):
        return {**value, "summary": None}
    return value


def _fitting(value: Any, most: int, *, is_bytes: bool) -> dict[str, Any]:
    """Return the fields that replace ``value`` if it has more than ``most`` characters."""
    text = value if isinstance(value, str) else dump(value)
    if len(text) <= most and (text is not value or _length(text) <= most):
        return {}
    cut: dict[str, Any] | None = _cut_strings(value, most) if _is_agents(value) else None
    if cut is None:
        return _piece(value, 0, most, is_bytes=is_bytes)
    following = f"Texts in this answer are cut: it has {len(text)} characters. "
    if cut["text"] != cast("dict[str, Any]", value)["text"]:
        kept = len(cut["text"]) - 1
        following += f"For the rest of `text`, call job_result with offset {kept}; for more of all, with "
    else:
        following += "For more, call job_result with "
    return {"value": cut, "truncated": True, "next": f"{following}a larger max_characters."}


def _piece(value: Any, offset: int, most: int | None, *, is_bytes: bool) -> dict[str, Any]:
    """Return the fields that replace ``value`` by a piece of it, or of its JSON, of at most ``most`` characters."""
    is_text = isinstance(value, str)
    text = value if is_text else dump(value)
    if is_bytes:  # whole groups of four characters, which can be decoded alone
        offset -= offset % 4
        kept = text[offset:] if most is None else text[offset : offset + max(4, most - most % 4)]
    else:
        kept = text[offset:] if most is None else _beginning(text[offset:], most)
    fields: dict[str, Any] = {"value": kept} if is_text else {"value": kept, "encoding": "json"}
    end = min(offset, len(text)) + len(kept)
    if offset:
        fields["offset"] = offset
    if end == len(text):
        return fields
    what = "This is" if is_text else "This is the JSON of the value,"
    part = f"its first {end}" if not offset and not is_text else f"characters {offset} to {end}"
    following = f"{what} {part} of {len(text)} characters. For the rest, call job_result with offset {end}."
    return {**fields, "truncated": True, "next_offset": end, "next": following}


def _length(text: str) -> int:
    return len(dump(text)) - 2


def _beginning(text: str, most: int) -> str:
    """Return the part of a text that takes ``most`` characters in JSON, where a character takes up to six."""
    kept = text[:most]
    while (length := _length(kept)) > most:
        kept = kept[: min(len(kept) * most // length, len(kept) - 1)]
    return kept


def _cut_strings(value: Any, most: int) -> Any:
    """Return a JSON value with its longest strings cut until its JSON fits; ``None`` if it cannot fit."""
    fits = None
    try:
        value = _cut(value, most)
        least, longest = _MIN_CUT, most
        while least <= longest:
            middle = (least + longest) // 2
            tried = _cut(value, middle)
            if len(dump(tried)) <= most:
                fits, least = tried, middle + 1
            else:
                longest = middle - 1
    except RecursionError:
        return None
    return fits


def _cut(value: Any, longest: int) -> Any:
    match value:
        case str():
            return word(value, longest)
        case dict():
            return {name: _cut(each, longest) for name, each in cast("dict[str, Any]", value).items()}
        case list():
            return [_cut(each, longest) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def _too_deep(made: CallToolResult) -> bool:
    (content,) = made.content
    text = content.text if isinstance(content, TextContent) else ""
    if text.count("[") + text.count("{") < _MAX_SAFE_BRACKETS:
        return False
    try:
        made.model_dump(mode="json")
    except ValueError:
        return True
    return False


def job_answer(job: Job, *, whole: bool = False) -> CallToolResult:
    """Return a job and the name of the next call; ``whole``: with all of its fields, and more of its long words."""
    return _with_next_call(_whole(job) if whole else brief(job), job)


def started_answer(job: Job, *, warnings: Sequence[str] = ()) -> CallToolResult:
    """Return a job that was just started, with what the server has chosen for it, and the name of the next call."""
    shape = brief(job)
    shape["workspace"] = job.workspace
    if job.groups:
        shape["groups"] = list(job.groups)
    if warnings:
        shape["warnings"] = [*shape.get("warnings", ()), *warnings]
    return _with_next_call(shape, job)


def _with_next_call(shape: dict[str, Any], job: Job) -> CallToolResult:
    if not job.status.terminal:
        waits = "; ".join(filter(None, (why_it_waits(job), ahead(job))))
        runs = "The job is paused." if job.paused else "The job runs in the background."
        state = f"The job waits ({waits})." if waits else runs
        shape["next"] = f"{state} Call job_wait with this job_id, then job_result."
    else:
        shape["next"] = "The job has ended. Call job_result with this job_id."
    return answer(shape)


def _whole(job: Job) -> dict[str, Any]:
    shape: dict[str, Any] = to_json(job)
    shorten(shape, AT_LENGTH)
    return shape


def list_answer(page: JobPage, *, whole: bool = False) -> CallToolResult:
    """Return a page of jobs, short or ``whole``."""
    shape = to_json(attrs.evolve(page, jobs=()))
    shape["jobs"] = [_whole(job) if whole else brief(job) for job in page.jobs]
    if page.jobs and not whole:
        for each in shape["jobs"]:
            del each["ok"]
        shape["next"] = "For all about a job, call job_status with its job_id and detail full."
    return answer(shape)
