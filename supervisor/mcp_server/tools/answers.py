"""Answers of tools: the JSON of the contract as structured content, and the same as text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mcp_types import CallToolResult, TextContent

from supervisor.errors import SupervisorError
from supervisor.model import Job, JobPage, Result, error_to_json, to_json

__all__ = ["MOST_CHARACTERS", "answer", "dump", "error_answer", "job_answer", "list_answer", "result_answer", "shorten"]

MOST_CHARACTERS: Final = 100_000
"""Of a text that is not asked for in another length: more than this few models have room for."""

_SURELY_SHALLOW: Final = 150
_MOST_DETAILS: Final = 16_000
_SHORT: Final = 40  # what is no longer is a name, a verdict or an id, and of use only whole
_CUT: Final = "\N{HORIZONTAL ELLIPSIS}"

_BRIEF: Final = (120, 24)
_AT_LENGTH: Final = (4000, 256)
"""Of ``argv`` and ``labels``: the characters of a word, and how many words."""

_REPAIRS: Final = {
    "job_not_found": "Call job_list for the ids of the jobs that are kept; give all 32 digits.",
    "job_running": "Call job_wait with this job_id, then job_result.",
    "state_corrupt": "Start the job again; job_logs shows what is left of its output.",
    "output_lost": "Start the job again; what is left of its output is not what the command wrote.",
    "state_full": "Call job_consume_result for jobs that are no longer needed, or have the user free some space.",
}
"""What to do about an error, where the library's own advice names commands of a shell."""


_LOGS: Final = re.compile(r"`supervisor logs ([0-9a-f]{32})( --stderr)?`")


def _for_tools(repair: str) -> str:
    """Return advice that names the tool that reads a job's output, in the place of the command that does."""
    return _LOGS.sub(
        lambda match: f"call job_logs with job_id {match[1]} and stream {'stderr' if match[2] else 'stdout'}", repair
    )


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
    if job is not None:
        shorten(shape["job"], _BRIEF)
    shape["error"]["repair"] = _REPAIRS.get(error.code) or _for_tools(error.repair)
    return answer(shape, is_error=True)


def result_answer(
    result: Result, *, most_characters: int | None = MOST_CHARACTERS, warnings: Sequence[str] = ()
) -> CallToolResult:
    """Return what a finished job gave; the end of one that went badly is an error.

    ``most_characters``: of the value, of its JSON where it is no text; ``None`` for all of it. A longer one
    is cut, and the answer says so and how to go on. What stands beside it is short whatever the job was.
    """
    shape = to_json(result)
    if result.error is not None:
        shape["error"]["repair"] = _for_tools(result.error.repair)
    shorten(shape["job"], _BRIEF)
    if "value" in shape:
        if _is_agents(shape["value"]):
            shape["value"] = _once(shape["value"])
        if most_characters is not None:
            shape |= _fitting(shape["value"], most_characters, result)
    elif len(dump(shape["error"]["details"])) > _MOST_DETAILS:
        shape["error"]["details"] = _cut_strings(shape["error"]["details"], _MOST_DETAILS) or {}
    if warnings:
        shape["warnings"] = list(warnings)
    made = answer(shape, is_error=not result.ok)
    if _too_deep(made):  # it goes as text: lost it must not be, least of all when the job is consumed
        return answer({**shape, "value": dump(shape["value"]), "encoding": "json"}, is_error=not result.ok)
    return made


def _is_agents(value: Any) -> bool:
    """Whether a value is an answer that says itself what was cut from it, as those of agents do."""
    return isinstance(value, dict) and "truncated" in value and isinstance(value.get("text"), str)  # pyright: ignore[reportUnknownMemberType]


def _once(value: dict[str, Any]) -> dict[str, Any]:
    """Return an agent's answer with its free text in one place, which is ``text``."""
    summary = value.get("summary")
    if isinstance(summary, str) and summary and value["text"].startswith(summary.removesuffix(" ...")):
        return {**value, "summary": None}
    return value


def _fitting(value: Any, most: int, result: Result) -> dict[str, Any]:
    """Return what takes the place of ``value`` in an answer that has room for ``most`` characters of it."""
    text = value if isinstance(value, str) else dump(value)
    if len(text) <= most and (text is not value or _length(text) <= most):
        return {}
    said = f"of {len(text)} characters. For more, call job_logs with offset"
    larger = "or job_result with a larger max_characters."
    if isinstance(value, str):
        is_bytes = result.encoding == "base64"
        kept = text[: most - most % 4] if is_bytes else _beginning(text, most)
        offset = len(kept) // 4 * 3 if is_bytes else len(kept.encode(errors="replace")) if result.kind == "raw" else 0
        return {
            "value": kept,
            "truncated": True,
            "next": f"These are the first {len(kept)} {said} {offset}, {larger}",
        }
    if _is_agents(value) and (cut := _cut_strings(value, most)) is not None:
        what = f"Texts of this answer are cut: it has {len(text)} characters."
        return {
            "value": cut,
            "truncated": True,
            "next": f"{what} For more, call job_result with a larger max_characters.",
        }
    kept = _beginning(text, most)
    what = f"This is the JSON of the value, and of it the first {len(kept)}"
    return {"value": kept, "encoding": "json", "truncated": True, "next": f"{what} {said} 0, {larger}"}


def _length(text: str) -> int:
    return len(dump(text)) - 2


def _beginning(text: str, most: int) -> str:
    """Return as much of a text as is ``most`` characters long in JSON, where some characters take up to six."""
    kept = text[:most]
    while (length := _length(kept)) > most:
        kept = kept[: min(len(kept) * most // length, len(kept) - 1)]
    return kept


def _cut_strings(value: Any, most: int) -> Any:
    """Return a JSON value with its longest strings cut so that its JSON fits; ``None`` when that is not enough."""
    fits = None
    try:
        value = _cut(value, most)
        least, longest = _SHORT, most
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
    if isinstance(value, str):
        return _word(value, longest)
    if isinstance(value, dict):
        return {name: _cut(each, longest) for name, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_cut(each, longest) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return value


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


def shorten(job: dict[str, Any], bounds: tuple[int, int]) -> bool:
    """Cut long words of a job's ``argv`` and ``labels``, in place; whether any was cut.

    ``bounds``: the characters of a word, and how many words there are at most. What was cut ends in an
    ellipsis, and ``argv_truncated`` or ``labels_truncated`` says so.
    """
    longest, most = bounds
    argv, labels = job["argv"], job["labels"]
    short_argv = [_word(each, longest) for each in argv[:most]]
    if len(argv) > most:
        short_argv.append(f"{_CUT} {len(argv) - most} more")
    short_labels = {_word(name, longest): _word(labels[name], longest) for name in list(labels)[:most]}
    if short_argv != argv:
        job |= {"argv": short_argv, "argv_truncated": True}
    if short_labels != labels:
        job |= {"labels": short_labels, "labels_truncated": True}
    return "argv_truncated" in job or "labels_truncated" in job


def _word(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + _CUT


def job_answer(job: Job, *, whole: bool = False, warnings: Sequence[str] = ()) -> CallToolResult:
    """Return a job, and which call comes next; ``whole``: with more of its long words."""
    shape = to_json(job)
    shorten(shape, _AT_LENGTH if whole else _BRIEF)
    if not job.status.terminal:
        shape["next"] = "It runs on by itself. Call job_wait with this job_id, then job_result."
    else:
        shape["next"] = "It has ended. Call job_result with this job_id."
    shape["warnings"] += warnings
    return answer(shape)


def list_answer(page: JobPage) -> CallToolResult:
    """Return a page of jobs, each without the most of its long words: prompts stand in command lines."""
    shape = to_json(page)
    if sum(shorten(job, _BRIEF) for job in shape["jobs"]):
        shape["next"] = "Long words are cut. Call job_status with a job_id for more of them."
    return answer(shape)
