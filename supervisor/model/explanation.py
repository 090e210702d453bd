"""Why a job waits, or which evidence tells its state; ``supervisor.model`` has the names too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from supervisor.model.groups import GroupInfo
from supervisor.states import Reason, State

__all__ = ["EvidenceInfo", "Explanation", "WaitInfo"]


@attrs.frozen(slots=True, kw_only=True)
class WaitInfo:
    """One of the reasons why a job is not launched.

    Attributes:
        reason: as in ``queue_reason`` of a job.
        text: a sentence for people.
        since: since when, where that is known.
        until: until when, where that is known.
        jobs: for ``"dependency"``, up to 10 jobs, each with ``job_id``, ``when``, ``status`` and ``reason``.
        groups: for ``"paused"``, ``"rate_limited"``, ``"limit"`` and the like, the groups that keep it waiting.
    """

    reason: str
    text: str
    since: datetime | None = None
    until: datetime | None = None
    jobs: tuple[Mapping[str, Any], ...] = ()
    groups: tuple[GroupInfo, ...] = ()


@attrs.frozen(slots=True, kw_only=True)
class EvidenceInfo:
    """A record, or a fact of the kernel, that says something about a job.

    Attributes:
        source: ``claim``, ``process.json``, ``stop.json``, ``exit.json``, ``orders``, ``granted``, ``process``
            (the process table), ``owner`` (the supervisor that made the job), ``index``, or the name of an engine.
        text: what it says, for people.
        at: when it came about, where that is known.
    """

    source: str
    text: str
    at: datetime | None = None


@attrs.frozen(slots=True, kw_only=True)
class Explanation:
    """Why a job waits, or which evidence says that it runs or has ended.

    Attributes:
        job_id: of the job.
        status: its state.
        reason: why an ended job is in its state.
        summary: a sentence for people.
        queue_reason: the first of the reasons why it waits.
        queue_position: 1 is the next job among those in the same groups; ``None`` for a job that is not ready.
        priority: as it counts now.
        weight: how many slots of each group it takes.
        waits_for: all reasons why it waits, in the order in which ``queue_reason`` names them; empty for other jobs.
        evidence: from the launch to the end.
    """

    job_id: str
    status: State
    reason: Reason | None = None
    summary: str
    queue_reason: str | None = None
    queue_position: int | None = None
    priority: int = 0
    weight: int = 1
    waits_for: tuple[WaitInfo, ...] = ()
    evidence: tuple[EvidenceInfo, ...] = ()
