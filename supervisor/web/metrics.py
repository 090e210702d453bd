"""The operation ``GET /metrics``: what Prometheus scrapes, read at the moment of the scrape.

No label has the id of a job or a workspace, so the number of series is bounded: by the states, and by a hundred groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response

from supervisor._version import __version__
from supervisor.admission.groups import group_infos
from supervisor.admission.launchers import unattended
from supervisor.errors import StateCorrupt, SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.metrics import MAX_GROUPS, Histogram, Metrics
from supervisor.model import GroupInfo
from supervisor.store import outbox
from supervisor.store.schedule_files import load_all
from supervisor.web.operations import Call, Operation

__all__ = ["OPERATIONS"]

_DAY_NS: Final = 86_400 * 10**9


@attrs.frozen(slots=True, kw_only=True)
class _Root:
    """The state root at the moment of a scrape, of all processes."""

    counts: Mapping[str, int]
    unattended: int
    groups: tuple[GroupInfo, ...]
    free_bytes: int
    deliveries: Mapping[str, int]
    schedules: Mapping[str, int]


def _deliveries(root: str) -> Mapping[str, int]:
    """Return how many deliveries there are, by what becomes of them; nothing if that is not known now."""
    try:
        return {"waiting": len(outbox.pending(root)), "dead": len(outbox.dead(root))}
    except OSError:
        return {}


def _schedules(root: str) -> Mapping[str, int]:
    """Return how many schedules there are, by what they do; nothing if that is not known now."""
    counts = {"active": 0, "paused": 0, "damaged": 0}
    try:
        for _, schedule in load_all(root):
            if isinstance(schedule, StateCorrupt):
                counts["damaged"] += 1
            else:
                counts["paused" if schedule.paused else "active"] += 1
    except SupervisorError:
        return {}
    return counts


def _root(catalog: Catalog) -> _Root:
    disk = os.statvfs(catalog.layout.root)
    return _Root(
        counts=catalog.index.counts(catalog.layout.clock.now_ns() - _DAY_NS),
        unattended=unattended(catalog.index),
        groups=tuple(group_infos(catalog.index, most=MAX_GROUPS)),
        free_bytes=disk.f_bavail * disk.f_frsize,
        deliveries=_deliveries(catalog.layout.root),
        schedules=_schedules(catalog.layout.root),
    )


class _Scrape(Collector):
    """Gives the values of one scrape."""

    def __init__(self, root: _Root, own: Metrics, listening: int) -> None:
        self._root = root
        self._own = own
        self._listening = listening

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of the state root, then those of this process."""
        yield from self._of_root()
        yield from self._of_groups()
        yield from self._of_process()

    def _of_root(self) -> Iterable[Metric]:
        yield _labelled("supervisor_info", "The version of the server.", "version", {__version__: 1})
        counts = dict(self._root.counts)
        failed = counts.pop("failed", 0)
        yield _labelled("supervisor_jobs", "Jobs of the state root, by what they do.", "condition", counts)
        yield _gauge("supervisor_unread_failures", "Jobs that failed in the last day, without a reader.", failed)
        yield _gauge(
            "supervisor_unattended_jobs",
            "Jobs that wait although no process is there to launch them.",
            self._root.unattended,
        )
        yield _labelled(
            "supervisor_deliveries",
            "Events on their way to a webhook or a command: waiting, or dead after a day of attempts.",
            "condition",
            self._root.deliveries,
        )
        yield _labelled(
            "supervisor_schedules",
            "Schedules that fire, are paused, or have a file that cannot be understood.",
            "condition",
            self._root.schedules,
        )
        yield _gauge("supervisor_state_root_free_bytes", "Free space for the state root.", self._root.free_bytes)

    def _of_groups(self) -> Iterable[Metric]:
        groups = self._root.groups
        own = self._own.groups
        yield _labelled(
            "supervisor_group_limit_slots",
            "Slots of a group; an unlimited group has no limit.",
            "group",
            {each.name: each.limit for each in groups},
        )
        yield _labelled(
            "supervisor_group_used_slots", "Slots in use.", "group", {each.name: each.running for each in groups}
        )
        yield _labelled(
            "supervisor_group_waiting_jobs", "Jobs that wait.", "group", {each.name: each.waiting for each in groups}
        )
        yield _labelled(
            "supervisor_group_oldest_wait_seconds",
            "How long the oldest of them has waited.",
            "group",
            {each.name: each.oldest_wait_seconds for each in groups},
        )
        paused = GaugeMetricFamily(
            "supervisor_group_paused", "1 for each cause for which a group admits no jobs.", labels=["group", "cause"]
        )
        for each in groups:
            for pause in each.paused:
                paused.add_metric([each.name, pause.by], 1)
        yield paused
        admissions = CounterMetricFamily(
            "supervisor_group_admissions", "Jobs that this process has admitted to a group.", labels=["group"]
        )
        for name, counted in own.items():
            admissions.add_metric([name], counted.admissions)
        yield admissions
        yield _histogram(
            "supervisor_group_slot_to_launch_seconds",
            "From the end of a job to the launch of the next in its place.",
            {name: each.slot_to_launch_seconds for name, each in own.items()},
            "group",
        )

    def _of_process(self) -> Iterable[Metric]:
        own = self._own
        yield _gauge("supervisor_opened_timestamp_seconds", "When this process opened.", own.since.timestamp())
        live = {state.value: count for state, count in own.jobs.items() if not state.terminal}
        yield _labelled("supervisor_process_jobs", "Jobs in the care of this process.", "state", live)
        ended = CounterMetricFamily("supervisor_ended_jobs", "Jobs whose end this process recorded.", labels=["state"])
        for state, count in own.jobs.items():
            if state.terminal:
                ended.add_metric([state.value], count)
        yield ended
        for name, text, count in (
            ("supervisor_launches", "Commands that this process launched.", own.launches),
            ("supervisor_launch_failures", "Commands that could not be launched.", own.launch_failures),
            ("supervisor_adoptions", "Jobs of other processes that this one adopted.", own.adoptions),
        ):
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], count)
            yield counter
        yield _histogram("supervisor_launch_seconds", "From the creation of a job to its launch.", own.launch_seconds)
        yield _histogram("supervisor_stop_seconds", "From a stop to the end of the last process.", own.stop_seconds)
        yield _histogram(
            "supervisor_deadline_overshoot_seconds",
            "From a deadline to the end of the last process.",
            own.deadline_overshoot_seconds,
        )
        yield _gauge("supervisor_uncommitted_messages", "State changes that wait for the index.", own.uncommitted)
        yield _gauge(
            "supervisor_disk_waits", "Calls that wait for the thread that reads the disk.", own.waiting_for_disk
        )
        yield _gauge("supervisor_event_streams", "Clients of GET /v1/events.", self._listening)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for each, value in values.items():
        if value is not None:
            family.add_metric([each], value)
    return family


def _histogram(name: str, text: str, given: Histogram | Mapping[str, Histogram], label: str = "") -> Metric:
    family = HistogramMetricFamily(name, text, labels=[label] if label else [])
    for each, held in (("", given),) if isinstance(given, Histogram) else given.items():
        buckets: list[Any] = []
        total = 0
        for bound, count in zip((*map(str, held.bounds), "+Inf"), held.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric([each] if label else [], buckets, held.total_seconds)
    return family


async def _metrics(call: Call) -> Response:
    supervisor = await call.service.supervisor()
    own = await supervisor.metrics()
    root = await supervisor.access.in_thread(_root)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(root, own, call.service.feed.listening))
    return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/metrics",
        summary="Scrape the metrics of the state root and of this process.",
        run=_metrics,
        answer="Text",
        media="text/plain",
        sees_all=True,
    ),
)
