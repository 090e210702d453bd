"""Log events of the library: structlog over the standard logger ``supervisor``, never configured here.

A host decides about level, handlers and format through the standard ``logging`` module, as
for any library. structlog is imported at the first event that somebody wants to see.

``EVENTS`` is the whole vocabulary: what is logged anywhere in the package is one of these, at its
level and with its facts. Names and facts are read by programs: add to them, rename none.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, NamedTuple

__all__ = ["EVENTS", "Kind", "debug", "info", "warning"]

_standard = logging.getLogger("supervisor")


class Kind(NamedTuple):
    """An event that is logged: at which level, with which facts, and what it says."""

    level: Literal["debug", "info", "warning"]
    facts: tuple[str, ...]
    meaning: str


def _info(meaning: str, *facts: str) -> Kind:
    return Kind("info", facts, meaning)


def _warning(meaning: str, *facts: str) -> Kind:
    return Kind("warning", facts, meaning)


EVENTS: Final[Mapping[str, Kind]] = {
    "supervisor_opened": _info("A supervisor was opened on a state root.", "state_dir"),
    "supervisor_closed": _info("It was closed; `jobs` of those in its care run on.", "state_dir", "jobs"),
    "job_launched": _info("The command of a job was spawned.", "job_id", "pid"),
    "job_adopted": _info("A job of somebody else was taken into care.", "job_id"),
    "job_stopping": _info("A job is being stopped: `cancelled` or `deadline`.", "job_id", "why"),
    "job_ended": _info("A job has ended, which is on record.", "job_id", "state", "reason"),
    "job_recovered": _warning("A job was not in the registry; it was entered from its directory.", "job_id"),
    "job_actor_failed": _warning("A defect: the job is stopped and `failed`, the others go on.", "job_id", "error"),
    "job_not_stopped": _warning("A stop met an error; it is tried again while that makes sense.", "job_id", "error"),
    "job_not_looked_at": _warning("A job could not be looked at; it is tried again.", "job_id", "error"),
    "stop_not_recorded": _warning("A stop could not be written down; it is carried out.", "job_id", "error"),
    "progress_failed": _warning("The progress of a job is no longer followed; the job goes on.", "job_id", "error"),
    "no_progress": _info("A kind that reports progress could not be used for it.", "kind", "error"),
    "span_failed": _warning("No OpenTelemetry span could be made for a job.", "job_id", "error"),
    "commit_failed": _warning("What has happened could not be written to the registry.", "code", "error", "messages"),
    "registry_rebuilt": _warning(
        "The registry was damaged. It is kept as `kept_as`, and was rebuilt from `jobs` job directories.",
        "error",
        "kept_as",
        "jobs",
    ),
    "janitor_failed": _warning("Expiry or adoption met an error; it is tried again.", "code", "error"),
    "row_not_understood": _warning("A row of a newer version makes no sense here; it is left out.", "job_id", "error"),
    "keeper_started": Kind("debug", ("keeper_pid",), "A keeper was started."),
    "keeper_lost": _warning("A keeper has died; its `jobs` run on and are watched from here.", "keeper_pid", "jobs"),
    "engine_unreachable": _info("An engine cannot be asked for now; what it said before stands.", "engine", "error"),
    "submission_repeated": _warning("A submission was lost by its engine, and repeated.", "job_id", "engine"),
    "submission_not_noted": _warning("A submission could not be written down; it is known by name.", "job_id", "error"),
    "ruling_not_recorded": _warning("A job was ruled out, which could not be written down.", "job_id", "error"),
    "mcp_not_a_message": _warning("A line from the host was no message; it was passed over.", "error"),
    "mcp_line_too_long": _warning("A line from the host had more than `most` bytes; it was passed over.", "most"),
    "mcp_directory_exposes": _warning("The server's own directory leads to what no job should read.", "why"),
    "mcp_host_gone": _info("The host has closed its end of the line."),
    "mcp_background_failed": _warning("A defect behind the MCP server; it goes on.", "error"),
    "mcp_state_unusable": _warning("The state root cannot be used; every tool says so.", "error"),
    "mcp_no_roots": _info("The host would not tell its roots.", "error"),
    "mcp_tool_failed": _warning("A defect in a tool; its call has failed.", "tool", "error"),
    "mcp_session_ended": _info("A principal had more than `most` sessions: one was ended.", "principal", "most"),
    "mcp_token_refused": _warning("A token file is not used.", "file", "why"),
    "mcp_tokens_unreadable": _warning("The tokens cannot be read now; callers are told to try again.", "error"),
    "mcp_connection_not_accepted": _warning("A connection could not be accepted; it is tried again.", "error"),
    "mcp_connection_failed": _warning("A connection was ended by an error; all others go on.", "error"),
    "mcp_watch_ended": _info("A resource is no longer watched.", "job_id", "error"),
    "mcp_task_end_not_recorded": _warning(
        "The end of a task could not be written down; it is known while this server lives.", "task_id", "error"
    ),
    "mcp_tasks_not_swept": _warning("Old tasks could not be forgotten; it is tried again.", "error"),
    "mcp_function_failed": _warning("A tool raised something unexpected; its task has failed.", "tool", "error"),
    "supervisor_broke_down": _warning("A defect ended the supervisor behind a facade; jobs go on.", "error"),
    "unexpected_error": Kind("debug", ("exc_info",), "Where an error of the command line happened."),
}
"""Every event that the package logs, by its name."""


@cache
def _bound() -> Any:
    import structlog

    return structlog.wrap_logger(
        _standard,
        processors=[structlog.processors.format_exc_info, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _emit(level: int, event: str, facts: dict[str, Any]) -> None:
    """Log one event; never raise: what is worth a line in scarcity must not fail for the line's sake."""
    if not _standard.isEnabledFor(level):
        return
    try:
        getattr(_bound(), logging.getLevelName(level).lower())(event, **facts)
    except (OSError, ImportError, MemoryError):  # structlog cannot be imported just now: no free descriptor, say
        with contextlib.suppress(OSError, ImportError, MemoryError):
            _standard.log(level, event, exc_info=facts.pop("exc_info", None), extra=facts)


def debug(event: str, **facts: Any) -> None:
    """Log what only a maintainer wants to know."""
    _emit(logging.DEBUG, event, facts)


def info(event: str, **facts: Any) -> None:
    """Log a step in the life of a job."""
    _emit(logging.INFO, event, facts)


def warning(event: str, **facts: Any) -> None:
    """Log what should not have happened, and was dealt with."""
    _emit(logging.WARNING, event, facts)
