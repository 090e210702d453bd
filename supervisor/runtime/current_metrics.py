"""The value of ``metrics()``: the counters of a supervisor, its load and that of the groups."""

from __future__ import annotations

from supervisor.admission.groups import group_infos
from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.metrics import MAX_GROUPS, GroupMetrics, Metrics
from supervisor.model import from_ns
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.registry_actor import Registry
from supervisor.states import State, state_of

__all__ = ["current_metrics"]


async def current_metrics(registry: Registry, catalog: Catalog, access: StoreAccess, opened_ns: int) -> Metrics:
    """Return the metrics of a supervisor; ``catalog`` reads on the event loop, ``access`` in a thread."""
    groups = await _group_metrics(registry, catalog, access)
    counters = registry.counters
    jobs = {state_of(name, ended=True): count for name, count in counters.ended.items()}
    alive = [entry.row.started_ns is not None for entry in registry.entries.values()]
    return Metrics(
        since=from_ns(opened_ns),
        jobs={State.QUEUED: alive.count(False), State.RUNNING: alive.count(True), **jobs},
        launches=(launches := counters.launches.so_far()).count,
        launch_failures=counters.launch_failures,
        adoptions=counters.adoptions,
        launch_seconds=launches,
        stop_seconds=counters.stops.so_far(),
        deadline_overshoot_seconds=counters.overshoots.so_far(),
        uncommitted=registry.queue_length,
        unnoted_launches=len(registry.launches),
        waiting_for_disk=access.waiting,
        subscribers=len(registry.subscriptions),
        unread_events=sum(subscription.unread for subscription in registry.subscriptions),
        groups=groups,
    )


async def _group_metrics(registry: Registry, catalog: Catalog, access: StoreAccess) -> dict[str, GroupMetrics]:
    try:
        if not catalog.index.read_queue(lambda queue: queue.groups()):
            return {}
        infos = await access.in_thread(lambda patient: group_infos(patient.index, most=MAX_GROUPS))
    except SupervisorError:
        access.check_open()
        return {}
    groups: dict[str, GroupMetrics] = {}
    for info in infos:
        counted = registry.counters.group(info.name)
        groups[info.name] = GroupMetrics(
            limit=info.limit,
            running=info.running,
            waiting=info.waiting,
            oldest_wait_seconds=info.oldest_wait_seconds,
            admissions=counted.admissions,
            slot_to_launch_seconds=counted.slot_to_launch.so_far(),
        )
    return groups
