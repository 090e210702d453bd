"""Short forms for models, which pay for each character: of jobs, and of advice that names shell commands. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.model import Job, to_json

__all__ = ["AT_LENGTH", "brief", "for_tools", "shorten", "word"]

AT_LENGTH: Final = (4000, 256)
"""The maximum characters of a word, and the maximum number of words, in ``argv`` and ``labels`` of a whole job."""

_BRIEF: Final = (60, 8)
_MAX_TEXT: Final = 300
_MAX_ARGV: Final = 120
_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"

_ALWAYS: Final = ("job_id", "kind", "status", "reason", "elapsed_ms")
_UNUSUAL: Final = (
    "argv",
    "labels",
    "argv_truncated",
    "labels_truncated",
    "exit_code",
    "signal",
    "detail",
    "warnings",
    "cost_usd",
    "stop_requested",
    "paused",
    "progress",
    "queue_reason",
    "queue_position",
    "groups",
    "after",
    "not_before",
    "next_attempt_at",
    "priority",
    "attempt",
    "maximum_attempts",
    "retry_of",
    "retried_by",
    "session_id",
    "worktree",
    "schedule",
    "engine",
)
"""The fields of a short job, each left out where it has its usual value; the other fields are in the whole job."""

_USUAL: Final[Mapping[str, Any]] = {
    **{each.name: each.default for each in attrs.fields(Job) if each.default is not attrs.NOTHING},
    "exit_code": 0,
}
_EMPTY: Final[tuple[Any, ...]] = (None, (), [], {}, False)

_COMMAND: Final = re.compile(r"`supervisor (?P<name>[a-z-]+)(?: (?P<job>[0-9a-f]{32}|JOB))?(?P<options>(?: [^`]*)?)`")
_TOOLS: Final = {
    "logs": "job_logs",
    "status": "job_status",
    "wait": "job_wait",
    "cancel": "job_cancel",
    "list": "job_list",
    "explain": "job_status",
}


def brief(job: Job) -> dict[str, Any]:
    """Return a job as its id, state, reason, kind and elapsed time, and each other field that is unusual.

    Long words, labels and texts are cut, and end in an ellipsis then.
    """
    shape = to_json(job)
    shorten(shape, _BRIEF)
    if _fit_argv(shape["argv"]):
        shape["argv_truncated"] = True
    found = {name: shape[name] for name in _ALWAYS}
    for name in _UNUSUAL:
        if name in shape and shape[name] not in _EMPTY and shape[name] != _USUAL.get(name, None):
            found[name] = shape[name]
    if "groups" in found and job.status.terminal:  # they say what a job waits for
        del found["groups"]
    if isinstance(found.get("detail"), str):
        found["detail"] = word(found["detail"], _MAX_TEXT)
    if "progress" in found:
        found["progress"] = {
            name: word(value, _BRIEF[0]) if isinstance(value, str) else value
            for name, value in found["progress"].items()
            if value not in _EMPTY and value != 0
        }
    return {"ok": True, **found}


def _fit_argv(words: list[str]) -> bool:
    """Cut a list of words in place at its maximum length; return whether any is gone."""
    length = 0
    for index, each in enumerate(words):
        length += len(each) + 1
        if index and length > _MAX_ARGV:
            gone = len(words) - index
            words[index:] = [f"{_ELLIPSIS} {gone} more"]
            return True
    return False


def shorten(job: dict[str, Any], bounds: tuple[int, int]) -> bool:
    """Cut long words of a job's ``argv`` and ``labels`` in place; return whether any was cut.

    ``bounds``: the maximum characters of a word, and the maximum number of words. A cut word ends in an
    ellipsis, and ``argv_truncated`` or ``labels_truncated`` is set.
    """
    longest, most = bounds
    argv, labels = job["argv"], job["labels"]
    short_argv = [word(each, longest) for each in argv[:most]]
    if len(argv) > most:
        short_argv.append(f"{_ELLIPSIS} {len(argv) - most} more")
    short_labels = {word(name, longest): word(labels[name], longest) for name in list(labels)[:most]}
    if short_argv != argv:
        job |= {"argv": short_argv, "argv_truncated": True}
    if short_labels != labels:
        job |= {"labels": short_labels, "labels_truncated": True}
    return "argv_truncated" in job or "labels_truncated" in job


def word(text: str, longest: int) -> str:
    """Return a text, cut after ``longest`` characters."""
    return text if len(text) <= longest else text[:longest] + _ELLIPSIS


def for_tools(advice: str) -> str:
    """Return advice with the tools in place of the shell commands; a command without a tool is one for the user."""
    return _COMMAND.sub(_named_for_tools, advice)


def _named_for_tools(match: re.Match[str]) -> str:
    tool = _TOOLS.get(match["name"])
    if tool is None:
        return f"`supervisor {match['name']}{' ' + match['job'] if match['job'] else ''}{match['options']}` in a shell"
    named = f" with job_id {match['job']}" if match["job"] and match["job"] != "JOB" else ""
    if tool == "job_logs":
        named += f"{' and' if named else ' with'} stream {'stderr' if '--stderr' in match['options'] else 'stdout'}"
    return f"{tool}{named}"
