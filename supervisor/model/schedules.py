"""What a schedule looks like at one moment; ``supervisor.model`` has the name too."""

from __future__ import annotations

from datetime import datetime

import attrs

__all__ = ["ScheduleInfo"]


@attrs.frozen(slots=True, kw_only=True)
class ScheduleInfo:
    """A schedule at one moment.

    Attributes:
        name: of the schedule.
        cron: its expression, as it was given.
        tz: its time zone.
        overlap: ``skip``, ``buffer_one``, ``cancel_other`` or ``allow_all``.
        catch_up: ``latest``, ``none`` or ``all``.
        catch_up_window_seconds: how old a missed instant may be that is fired.
        jitter_seconds: the longest delay after an instant.
        paused: whether it fires nothing until it is resumed.
        next_at: when it fires next, with the jitter; ``None`` if it is paused or not understood.
        last_at: the instant that was decided last, whether or not it made a job.
        last_job_id: the last job, also one that was started out of turn.
        last_status: the status of that job; ``None`` if it is not kept any more.
        detail: why the last instant made no job, or why the schedule is not understood.
        kind: of its jobs.
        argv: of its jobs.
        workspace: of its jobs.
        groups: of its jobs.
    """

    name: str
    cron: str | None = None
    tz: str | None = None
    overlap: str = "skip"
    catch_up: str = "latest"
    catch_up_window_seconds: float = 3600
    jitter_seconds: float = 0
    paused: bool = False
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_job_id: str | None = None
    last_status: str | None = None
    detail: str | None = None
    kind: str = "raw"
    argv: tuple[str, ...] = ()
    workspace: str | None = None
    groups: tuple[str, ...] = ()
