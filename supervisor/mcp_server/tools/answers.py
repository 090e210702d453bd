"""The answers of tools: the public JSON as structured content, and the same JSON as text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mcp_types import CallToolResult, TextContent

from supervisor.errors import SupervisorError
from supervisor.jobs.queue_text import ahead, why_it_waits
from supervisor.model import Job, JobPage, Result, error_to_json, to_json

__all__ = ["MAX_CHARACTERS", "answer", "dump", "error_answer", "job_answer", "list_answer", "result_answer", "shorten"]

MAX_CHARACTERS: Final = 100_000
"""The default maximum length of a value; few models have room for more."""

_MAX_SAFE_BRACKETS: Final = 150
"""An answer with fewer brackets is not nested too deeply for pydantic."""
_MAX_DETAILS: Final = 16_000
_MIN_CUT: Final = 40  # a shorter string is a name, a verdict or an id, which is useless if it is cut
_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"

_BRIEF: Final = (120, 24)
_AT_LENGTH: Final = (4000, 256)
"""The maximum characters of a word, and the maximum number of words, in ``argv`` and ``labels``."""

_REPAIRS: Final = {
    "job_not_found": "Call job_list for the ids of existing jobs; give all 32 digits.",
    "job_running": "Call job_wait with this job_id, then job_result.",
    "state_corrupt": "Start the job again; job_logs shows the remaining output.",
    "output_lost": "Start the job again; the remaining output is not what the command wrote.",
    "state_full": "Call job_consume_result for jobs that are no longer needed, or ask the user to free some space.",
}
"""Advice for tools, for errors whose own advice names shell commands."""

_LOGS: Final = re.compile(r"`supervisor logs ([0-9a-f]{32})( --stderr)?`")


def _for_tools(repair: str) -> str:
    return _LOGS.sub(
        lambda match: f"call job_logs with job_id {match[1]} and stream {'stderr' if match[2] else 'stdout'}", repair
    )


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
        shorten(shape["job"], _BRIEF)
    shape["error"]["repair"] = _REPAIRS.get(error.code) or _for_tools(error.repair)
    return answer(shape, is_error=True)


def result_answer(
    result: Result, *, max_characters: int | None = MAX_CHARACTERS, warnings: Sequence[str] = ()
) -> CallToolResult:
    """Return the result of a finished job; that of a failed or stopped job is an error.

    ``max_characters`` is the maximum length of the value (of its JSON if it is no text); ``None`` for no
    limit. A longer value is cut, and the answer says how to read on. The other fields are always short.
    """
    shape = to_json(result)
    if result.error is not None:
        shape["error"]["repair"] = _for_tools(result.error.repair)
    shorten(shape["job"], _BRIEF)
    if "value" in shape:
        if _is_agents(shape["value"]):
            shape["value"] = _once(shape["value"])
        if max_characters is not None:
            shape |= _fitting(shape["value"], max_characters, result)
    elif len(dump(shape["error"]["details"])) > _MAX_DETAILS:
        shape["error"]["details"] = _cut_strings(shape["error"]["details"], _MAX_DETAILS) or {}
    if warnings:
        shape["warnings"] = list(warnings)
    made = answer(shape, is_error=not result.ok)
    if _too_deep(made):  # sent as text, because the result of a consumed job must not be lost
        return answer({**shape, "value": dump(shape["value"]), "encoding": "json"}, is_error=not result.ok)
    return made


def _is_agents(value: Any) -> bool:
    """Whether a value is an agent's answer, which names the parts that were cut."""
    return isinstance(value, dict) and "truncated" in value and isinstance(value.get("text"), str)  # pyright: ignore[reportUnknownMemberType]


def _once(value: dict[str, Any]) -> dict[str, Any]:
    """Return an agent's answer with its free text only in ``text``."""
    summary = value.get("summary")
    if isinstance(summary, str) and summary and value["text"].startswith(summary.removesuffix(" ...")):
        return {**value, "summary": None}
    return value


def _fitting(value: Any, most: int, result: Result) -> dict[str, Any]:
    """Return the fields that replace ``value`` if it has more than ``most`` characters."""
    text = value if isinstance(value, str) else dump(value)
    if len(text) <= most and (text is not value or _length(text) <= most):
        return {}
    of_all = f"of {len(text)} characters. For more, call job_logs with offset"
    larger = "or job_result with a larger max_characters."
    if isinstance(value, str):
        is_bytes = result.encoding == "base64"
        kept = text[: most - most % 4] if is_bytes else _beginning(text, most)
        offset = len(kept) // 4 * 3 if is_bytes else len(kept.encode(errors="replace")) if result.kind == "raw" else 0
        return {
            "value": kept,
            "truncated": True,
            "next": f"These are the first {len(kept)} {of_all} {offset}, {larger}",
        }
    if _is_agents(value) and (cut := _cut_strings(value, most)) is not None:
        following = (
            f"Texts in this answer are cut: it has {len(text)} characters. "
            "For more, call job_result with a larger max_characters."
        )
        return {"value": cut, "truncated": True, "next": following}
    kept = _beginning(text, most)
    following = f"This is the JSON of the value, its first {len(kept)} {of_all} 0, {larger}"
    return {"value": kept, "encoding": "json", "truncated": True, "next": following}


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
            return _word(value, longest)
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


def shorten(job: dict[str, Any], bounds: tuple[int, int]) -> bool:
    """Cut long words of a job's ``argv`` and ``labels`` in place; return whether any was cut.

    ``bounds``: the maximum characters of a word, and the maximum number of words. A cut word ends in an
    ellipsis, and ``argv_truncated`` or ``labels_truncated`` is set.
    """
    longest, most = bounds
    argv, labels = job["argv"], job["labels"]
    short_argv = [_word(each, longest) for each in argv[:most]]
    if len(argv) > most:
        short_argv.append(f"{_ELLIPSIS} {len(argv) - most} more")
    short_labels = {_word(name, longest): _word(labels[name], longest) for name in list(labels)[:most]}
    if short_argv != argv:
        job |= {"argv": short_argv, "argv_truncated": True}
    if short_labels != labels:
        job |= {"labels": short_labels, "labels_truncated": True}
    return "argv_truncated" in job or "labels_truncated" in job


def _word(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + _ELLIPSIS


def job_answer(job: Job, *, whole: bool = False, warnings: Sequence[str] = ()) -> CallToolResult:
    """Return a job and the name of the next call; ``whole`` keeps more of its long words."""
    shape = to_json(job)
    shorten(shape, _AT_LENGTH if whole else _BRIEF)
    if not job.status.terminal:
        waits = "; ".join(filter(None, (why_it_waits(job), ahead(job))))
        state = f"The job waits ({waits})." if waits else "The job runs in the background."
        shape["next"] = f"{state} Call job_wait with this job_id, then job_result."
    else:
        shape["next"] = "The job has ended. Call job_result with this job_id."
    shape["warnings"] += warnings
    return answer(shape)


def list_answer(page: JobPage) -> CallToolResult:
    """Return a page of jobs with short words, because command lines may contain prompts."""
    shape = to_json(page)
    if sum(shorten(job, _BRIEF) for job in shape["jobs"]):
        shape["next"] = "Long words are cut. Call job_status with a job_id for more of them."
    return answer(shape)
