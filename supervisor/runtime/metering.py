"""OpenTelemetry metrics of the groups, in programs that use ``opentelemetry.metrics``.

This module does not import that by itself: it takes 20 ms, and a program that collects metrics has imported it.

The gauges are read when the host collects them, in a thread of its exporter, over a connection of their own: a host may
collect while the event loop waits for that.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from supervisor import log
from supervisor._version import __version__
from supervisor.admission.groups import group_infos
from supervisor.jobs.catalog import Catalog
from supervisor.metrics import MAX_GROUPS
from supervisor.model import GroupInfo
from supervisor.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
    from opentelemetry.metrics import Counter as SumInstrument

__all__ = ["admitted", "launched", "observed"]

_GAUGES: Final[dict[str, tuple[str, str, Callable[[GroupInfo], float | None]]]] = {
    "limit": ("{slot}", "The slots of the group; none for an unlimited one.", lambda group: group.limit),
    "running": ("{slot}", "The slots in use.", lambda group: group.running),
    "waiting": ("{job}", "The jobs that wait.", lambda group: group.waiting),
    "oldest_wait": ("s", "The wait of the oldest of them.", lambda group: group.oldest_wait_seconds),
}

_open: Counter[Settings] = Counter()
"""The settings of the open supervisors. Instruments cannot be removed, so they are made once, for all."""


def _meter() -> Meter | None:
    return _made() if "opentelemetry.metrics" in sys.modules else None


@cache
def _made() -> Meter:
    from opentelemetry import metrics

    made = metrics.get_meter("supervisor", __version__)
    for name, (unit, description, value) in _GAUGES.items():
        made.create_observable_gauge(f"supervisor.group.{name}", [partial(_observe, value)], unit, description)
    return made


@cache
def _admissions() -> SumInstrument:
    return _made().create_counter("supervisor.group.admissions", "{job}", "The jobs that got their slots.")


@cache
def _slot_to_launch() -> Histogram:
    text = "From the end of a job to the launch of the next one in its place."
    return _made().create_histogram("supervisor.group.slot_to_launch", "s", text)


@contextlib.contextmanager
def observed(settings: Settings) -> Generator[None]:
    """Offer the gauges of a state root while a supervisor is open on it."""
    _meter()
    _open[settings] += 1
    try:
        yield
    finally:
        _open[settings] -= 1
        if not _open[settings]:
            del _open[settings]


def admitted(names: Iterable[str]) -> None:
    """Count a job that got its slots in these groups."""
    if _meter() is not None:
        for name in names:
            _admissions().add(1, {"supervisor.group": name})


def launched(names: Iterable[str], seconds: float) -> None:
    """Count how long slots of these groups were free before this launch."""
    if _meter() is not None:
        for name in names:
            _slot_to_launch().record(seconds, {"supervisor.group": name})


def _observe(value: Callable[[GroupInfo], float | None], _: CallbackOptions) -> Iterator[Observation]:
    from opentelemetry.metrics import Observation

    for settings in list(_open):
        where: dict[str, Any] = {"supervisor.state_dir": str(settings.state_dir)}
        try:
            with Catalog(settings, create=False, wait_seconds=1) as catalog:
                groups = group_infos(catalog.index, most=MAX_GROUPS)
        except Exception as error:  # noqa: BLE001  # an exporter must not fail because a state root cannot be read
            log.warning("metrics_not_read", error=repr(error))
            continue
        for group in groups:
            if (number := value(group)) is not None:
                yield Observation(number, {**where, "supervisor.group": group.name})
