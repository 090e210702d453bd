"""Log events of the library: structlog over the standard logger ``supervisor``, which this package never configures.

The host sets level, handlers and format through the standard ``logging`` module, as for any library. structlog is
imported at the first event whose level is enabled.

``EVENTS`` has every event of the package, with its level and its facts. Programs read names and facts: add to them,
rename none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    import logging

__all__ = ["EVENTS", "Kind", "debug", "info", "warning"]

_NUMBERS: Final = {"debug": 10, "info": 20, "warning": 30}
"""The levels of the standard logger."""
_SCARCE: Final = (OSError, ImportError, MemoryError)


class Kind(NamedTuple):
    """An event: its level, its facts, and its meaning."""

    level: Literal["debug", "info", "warning"]
    facts: tuple[str, ...]
    meaning: str


def _info(meaning: str, *facts: str) -> Kind:
    return Kind("info", facts, meaning)


def _warning(meaning: str, *facts: str) -> Kind:
    return Kind("warning", facts, meaning)


EVENTS: Final[Mapping[str, Kind]] = {
    "supervisor_opened": _info("A supervisor was opened on a state root.", "state_dir"),
    "supervisor_closed": _info("The supervisor was closed; its `jobs` unfinished jobs run on.", "state_dir", "jobs"),
    "job_launched": _info("The command of a job was launched.", "job_id", "pid"),
    "job_adopted": _info("A job of another supervisor was adopted.", "job_id"),
    "job_stopping": _info("A job is being stopped: `cancelled` or `deadline`.", "job_id", "why"),
    "job_ended": _info("The end of a job was committed.", "job_id", "state", "reason"),
    "job_recovered": _warning("A job was not in the index; it was inserted from its directory.", "job_id"),
    "job_actor_failed": _warning("A defect: the job is stopped and `failed`; other jobs run on.", "job_id", "error"),
    "job_not_stopped": _warning("A stop failed; it is retried unless the error is permanent.", "job_id", "error"),
    "job_not_looked_at": _warning("A job could not be observed; it is retried.", "job_id", "error"),
    "stop_not_recorded": _warning("A stop could not be recorded; it is carried out all the same.", "job_id", "error"),
    "progress_failed": _warning("The progress of a job is no longer read; the job runs on.", "job_id", "error"),
    "no_progress": _info("A kind could not report the progress of a job.", "kind", "error"),
    "metrics_not_read": _warning("The groups could not be read for OpenTelemetry metrics.", "error"),
    "span_failed": _warning("No OpenTelemetry span could be made for a job.", "job_id", "error"),
    "commit_failed": _warning("State changes could not be committed to the index.", "code", "error", "messages"),
    "registry_rebuilt": _warning(
        "The index was damaged. It is kept as `kept_as`, and was rebuilt from `jobs` job directories.",
        "error",
        "kept_as",
        "jobs",
    ),
    "installation_changed": _warning(
        "The package was replaced, moved or deleted under this process; it loads nothing more of it.", "package"
    ),
    "installation_loaded": Kind("debug", (), "All modules that this process may need later are loaded."),
    "not_all_loaded": _warning("What this process may need later could not be loaded beforehand.", "error"),
    "janitor_failed": _warning("Expiry or adoption failed; it is retried.", "code", "error"),
    "group_not_understood": _warning(
        "The file of a group is damaged or of a newer version; the group admits no jobs.", "group", "error"
    ),
    "worktree_not_settled": _warning(
        "A worktree was not removed, or its content is not known; it stays.", "worktree_id", "error"
    ),
    "retry_without_orders": _warning("The orders of an ended job are gone; it is not tried again.", "job_id"),
    "orders_damaged": _warning("The orders of a waiting job are damaged; it cannot be launched.", "job_id", "error"),
    "schedule_fired": _info("A job was started at an instant of a schedule.", "schedule", "job_id"),
    "schedule_not_fired": _warning(
        "An instant of a schedule got no job; a shortage is waited out, any other error passes the instant over.",
        "schedule",
        "error",
    ),
    "schedule_not_understood": _warning(
        "The file of a schedule is damaged or of a newer version; the schedule fires nothing.", "schedule", "error"
    ),
    "schedule_not_copied": _warning(
        "What a schedule has fired could not be copied; only an index that is made anew would need that.",
        "schedule",
        "error",
    ),
    "helper_not_started": _warning("The process that launches waiting jobs could not be started.", "error"),
    "row_not_understood": _warning("A row of a newer version cannot be read; it is left out.", "job_id", "error"),
    "delivered": _info("The end of a job was delivered.", "delivery_id", "job_id"),
    "delivery_failed": _info("An attempt of a delivery has failed; it is retried.", "delivery_id", "job_id", "error"),
    "delivery_dead": _warning("A delivery has failed for a day; it is not retried.", "delivery_id", "job_id", "error"),
    "deliveries_not_read": _warning("The deliveries could not be read or recorded; that is retried.", "error"),
    "keeper_started": Kind("debug", ("keeper_pid",), "A keeper was started."),
    "keeper_lost": _warning("A keeper has died; the supervisor watches its `jobs` running jobs.", "keeper_pid", "jobs"),
    "engine_unreachable": _info("An engine does not answer now; its last report is used.", "engine", "error"),
    "submission_repeated": _warning("An engine lost a submission; it was repeated.", "job_id", "engine"),
    "submission_not_noted": _warning("A submission id was not recorded; the name identifies it.", "job_id", "error"),
    "ruling_not_recorded": _warning("The ruling that a job never ran could not be recorded.", "job_id", "error"),
    "mcp_not_a_message": _warning("A line from the host was not a message; it was skipped.", "error"),
    "mcp_line_too_long": _warning("A line from the host had more than `most` bytes; it was skipped.", "most"),
    "mcp_directory_exposes": _warning("The server's own directory gives jobs access to private files.", "why"),
    "mcp_host_gone": _info("The host has closed the connection."),
    "mcp_first_answer_differs": _warning(
        "The server's answer to the opening request is not the recorded one (`sent`); the record was deleted.",
        "sent",
        "now",
    ),
    "mcp_recorded": Kind(
        "debug", (), "The first answers were recorded; the next server answers before it imports the SDK."
    ),
    "mcp_not_recorded": _info("The first answers could not be recorded, so the next server starts as slowly.", "error"),
    "mcp_background_failed": _warning("A defect in a background task; the MCP server goes on.", "error"),
    "mcp_state_unusable": _warning("The state root cannot be used; every tool returns that error.", "error"),
    "mcp_no_roots": _info("The host did not return its roots.", "error"),
    "mcp_tool_failed": _warning("A defect in a tool; the call has failed.", "tool", "error"),
    "mcp_session_ended": _info("A principal had more than `most` sessions; one was ended.", "principal", "most"),
    "mcp_token_refused": _warning("A token file is not used.", "file", "why"),
    "mcp_tokens_unreadable": _warning("The tokens cannot be read now; callers get a retryable error.", "error"),
    "mcp_connection_not_accepted": _warning("A connection could not be accepted; it is retried.", "error"),
    "mcp_connection_failed": _warning("An error ended a connection; the others go on.", "error"),
    "mcp_watch_ended": _info("A resource is no longer watched.", "job_id", "error"),
    "mcp_task_end_not_recorded": _warning(
        "The end of a task could not be recorded; only this server process knows it.", "task_id", "error"
    ),
    "mcp_tasks_not_swept": _warning("Expired tasks could not be forgotten; it is retried.", "error"),
    "mcp_function_failed": _warning("A tool raised an unexpected exception; its task has failed.", "tool", "error"),
    "subscribed": _info(
        "A principal has subscribed to events, or refreshed that.", "subscription_id", "principal", "to"
    ),
    "unsubscribed": _info("A principal has ended its subscription.", "subscription_id", "principal"),
    "subscription_refused": _info("A receiver has not answered its challenge.", "principal", "to", "reason"),
    "subscription_failed": _info("An event was not accepted; it is sent again.", "subscription_id", "error"),
    "subscription_event_dropped": _warning(
        "A receiver does not accept an event; it is not sent again.", "subscription_id", "message_id"
    ),
    "subscription_expired": _info(
        "A subscription was not refreshed in time; it is over.", "subscription_id", "principal"
    ),
    "subscription_terminated": _info(
        "The token of a principal was removed; its subscription is over.", "subscription_id", "principal"
    ),
    "subscription_not_served": _warning(
        "The events of a subscription cannot be read now; it is tried again.", "subscription_id", "error"
    ),
    "subscriptions_not_read": _warning("The subscriptions cannot be read now; it is tried again.", "error"),
    "overview_failed": _warning(
        "A defect in the live overview of the page or of `supervisor top`; it is tried again.", "error"
    ),
    "events_not_read": _warning("A defect while events were read for `GET /v1/events`; it is tried again.", "error"),
    "web_request_failed": _warning("A defect in a request of `supervisor serve`; it has failed.", "path", "error"),
    "supervisor_broke_down": _warning("A defect ended the supervisor behind a facade; jobs run on.", "error"),
    "unexpected_error": Kind("debug", ("exc_info",), "The traceback of an error of the command line."),
}
"""Every event that the package logs, by its name."""


@cache
def _standard() -> logging.Logger:
    import logging  # 5 ms, and a command that only reads logs nothing

    return logging.getLogger("supervisor")


@cache
def _bound() -> Any:
    import structlog

    return structlog.wrap_logger(
        _standard(),
        processors=[structlog.processors.format_exc_info, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _emit(level: Literal["debug", "info", "warning"], event: str, facts: dict[str, Any]) -> None:
    """Log one event; never raise: a lack of descriptors or memory is logged while it lasts."""
    number = _NUMBERS[level]
    with contextlib.suppress(*_SCARCE):
        if not _standard().isEnabledFor(number):
            return
        try:
            getattr(_bound(), level)(event, **facts)
        except _SCARCE:  # structlog cannot be imported now, for example without descriptors
            _standard().log(number, event, exc_info=facts.pop("exc_info", None), extra=facts)


def debug(event: str, **facts: Any) -> None:
    """Log a detail for maintainers."""
    _emit("debug", event, facts)


def info(event: str, **facts: Any) -> None:
    """Log a step in the life of a job."""
    _emit("info", event, facts)


def warning(event: str, **facts: Any) -> None:
    """Log a problem that was handled."""
    _emit("warning", event, facts)
