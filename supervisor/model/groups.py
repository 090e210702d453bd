"""The settings of a group, and what it looks like at one moment; ``supervisor.model`` has the names too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

import attrs

__all__ = ["GroupInfo", "GroupOptions", "PauseInfo"]


class GroupOptions(TypedDict, total=False):
    """The keyword arguments of ``set_group``.

    Attributes:
        limit: the weight that may run at a time; ``None`` is unlimited, 0 is closed.
        aging_seconds: the waiting time that equals one point of priority; ``None`` is strict priority.
        rate: how many jobs may start in a unit of time, such as ``10/min``; ``None`` for any number.
        fair_by: ``workspace``, ``principal`` or ``label:NAME``, among which it is shared fairly; ``None`` for none.
        pause_on_failure: how many failures in a row pause it; ``None`` for none.
        on_rate_limit: what a usage limit of a job does: ``wait`` or ``ignore``.
        on_reboot: what a reboot does to its waiting jobs: ``keep``, ``pause`` or ``fail``.
        budgets: what its jobs may spend, each as a text such as ``usd=20/day``, in place of all earlier ones.
        on_exceed: what is done once more was spent: ``hold`` (admit no more jobs) or ``stop`` (the running ones too).
        tz: the time zone in which the windows of its budgets begin, such as ``Europe/Berlin``; ``None`` is UTC.
        on_end: the command that gets the end of each of its jobs that names none itself; ``None`` for none.
        webhook: the URL to which the end of each of its jobs is sent that names none itself; ``None`` for none.
    """

    limit: int | None
    aging_seconds: float | None
    rate: str | None
    fair_by: str | None
    pause_on_failure: int | None
    on_rate_limit: str
    on_reboot: str
    budgets: Iterable[str]
    on_exceed: str
    tz: str | None
    on_end: str | Iterable[str] | None
    webhook: str | None


@attrs.frozen(slots=True, kw_only=True)
class PauseInfo:
    """Why a group admits no jobs.

    Attributes:
        by: ``user``, ``failures``, ``reboot``, or ``damage`` for a group whose file cannot be understood.
        until: when the pause ends; ``None`` for a pause that lasts until it is ended.
        detail: the reason that was given, or ``None``.
    """

    by: str
    until: datetime | None = None
    detail: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class GroupInfo:
    """A group at one moment.

    Attributes:
        name: of the group.
        limit: the weight that may run at a time; ``None`` is unlimited, 0 is closed.
        running: the weights of its jobs that have their slots, summed.
        waiting: how many of its jobs wait.
        oldest_wait_seconds: how long the oldest of them has waited; ``None`` if none waits.
        paused: why it admits no jobs; empty for a group that does.
        aging_seconds: the waiting time that equals one point of priority; ``None`` is strict priority.
        fair_by: among what it is shared fairly; ``None`` for the order of arrival.
        rate: how many jobs may start in a unit of time; ``None`` for any number.
        pause_on_failure: how many failures in a row pause it; ``None`` for none.
        on_rate_limit: what a usage limit of a job does.
        on_reboot: what a reboot does to its waiting jobs.
        budgets: what its jobs may spend, each with ``metric`` (``usd``, ``tokens``, ``seconds``, ``starts``),
            ``limit``, ``window`` (``hour``, ``day``, ``week``, ``total``), ``used`` (by ended jobs in the window),
            ``reserved`` (what running jobs have spent or may spend), ``resets_at`` (when the window ends, ``None``
            for never), and ``on_exceed``.
        tz: the time zone in which their windows begin.
        on_end: the command that gets the end of each of its jobs that names none itself; ``None`` for none.
        webhook: where the end of each of these is sent: scheme and host, as the rest of the URL may hold a secret.
    """

    name: str
    limit: int | None = None
    running: int = 0
    waiting: int = 0
    oldest_wait_seconds: float | None = None
    paused: tuple[PauseInfo, ...] = ()
    aging_seconds: float | None = None
    fair_by: str | None = None
    rate: str | None = None
    pause_on_failure: int | None = None
    on_rate_limit: str = "wait"
    on_reboot: str = "keep"
    budgets: tuple[Mapping[str, Any], ...] = ()
    tz: str = "UTC"
    on_end: tuple[str, ...] | None = None
    webhook: str | None = None
