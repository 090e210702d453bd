"""What came out of a load, as one JSON-ready shape."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import attrs

from supervisor._version import __version__
from supervisor.load.check import Fault
from supervisor.load.generator import Load
from supervisor.model import ErrorInfo, to_json
from supervisor.states import State

__all__ = ["Surroundings", "report"]

_EXAMPLES: Final = 20


@attrs.define(slots=True, kw_only=True)
class Surroundings:
    """What there is to say beside what the load measured itself.

    Attributes:
        run: the name of the run.
        target: whom the jobs were asked of.
        loaded_seconds: from the first moment at which a job was due until the last had ended.
        cpu_seconds: what this process used meanwhile.
        shares_process: whether the supervisor is in this process, and so in ``cpu_seconds``.
        own_cost: CPU seconds that the generator takes for a job.
        same_clock: whether the jobs' times are by the clock of this machine.
        not_checked: what could not be checked, in words.
        found_again: jobs whose start was answered by nothing, and that exist.
        left_running: ids of jobs that run on.
        kept: whether the jobs are kept.
        not_forgotten: jobs that should have been forgotten and were not.
        gave_up: whether the user did not want to wait for the end.
    """

    run: str
    target: dict[str, Any]
    loaded_seconds: float
    cpu_seconds: float
    shares_process: bool
    own_cost: float
    same_clock: bool = True
    not_checked: list[str] = attrs.field(factory=list[str])
    found_again: int = 0
    left_running: Sequence[str] = ()
    kept: bool = False
    not_forgotten: int = 0
    gave_up: bool = False


def report(load: Load, faults: Sequence[Fault], beside: Surroundings) -> dict[str, Any]:
    """Return the report. ``ok`` is whether nothing was lost, wrong or refused; if it is not, ``error`` says so."""
    codes = Counter(fault.code for fault in faults)
    figures = {name: series.to_json() for name, series in load.figures.items()}
    if not beside.same_clock:
        for name in ("exit_known", "deadline_overshoot"):
            figures[name] = {"count": 0, "p50": None, "p90": None, "p99": None, "max": None}
    refused = sum(count for call, count in load.errors.items() if call.startswith("start: "))
    shape: dict[str, Any] = {"ok": not faults and not refused}
    if not shape["ok"]:
        shape["error"] = to_json(_error(len(faults), refused, codes))
    starting = max(load.last_start - load.began, 1e-9)
    shape |= {
        "run": beside.run,
        "target": beside.target,
        "mix": load.mix.to_json(),
        "jobs": {
            "due": len(load.records),
            "acknowledged": load.acknowledged,
            "refused": refused,
            "held_back": load.held_back,
            **{state.value: load.ended[state] for state in State if state.terminal},
            "by_sort": dict(Counter(record.order.sort.name for record in load.records.values())),
        },
        "rate": {
            "asked": load.mix.rate,
            "acknowledged": _rate(load.acknowledged, starting),
            "ended": _rate(sum(load.ended.values()), beside.loaded_seconds),
        },
        "seconds": round(beside.loaded_seconds, 3),
        "latency_ms": figures,
        "errors": dict(load.errors),
        "wrong": dict(codes),
        "examples": [fault.to_json() for fault in faults[:_EXAMPLES]],
        "not_checked": beside.not_checked,
        "found_again": beside.found_again,
        "left_running": list(beside.left_running),
        "not_forgotten": beside.not_forgotten,
        "kept": beside.kept,
        "interrupted": load.interrupted,
        "gave_up": beside.gave_up,
        "generator": {
            "cpu_seconds": round(beside.cpu_seconds, 4),
            "cpu_of_a_core": round(beside.cpu_seconds / max(beside.loaded_seconds, 1e-9), 4),
            "with_supervisor": beside.shares_process,
            "own_us_a_job": round(beside.own_cost * 1e6, 1),
            "own_of_a_core": round(beside.own_cost * len(load.records) / max(beside.loaded_seconds, 1e-9), 5),
        },
        "machine": {
            "supervisor": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "cpus": len(os.sched_getaffinity(0)),
        },
    }
    return shape


def _rate(count: int, seconds: float) -> float:
    return round(count / max(seconds, 1e-9), 3)


def _error(faults: int, refused: int, codes: Counter[str]) -> ErrorInfo:
    said = [f"{count} {code}" for code, count in codes.most_common()]
    if refused:
        said.append(f"{refused} starts refused")
    return ErrorInfo(
        code="load_failed",
        message=f"not everything went as it had to: {', '.join(said)}",
        repair="See `examples` and `errors`; the same seed makes the same jobs again.",
        details={"faults": faults, "refused": refused},
    )
