"""The report of a load, JSON-ready."""

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

__all__ = ["RunFacts", "report"]

_MAX_EXAMPLES: Final = 20


@attrs.define(slots=True, kw_only=True)
class RunFacts:
    """Facts of a run that the load did not measure itself.

    Attributes:
        run: the name of the run.
        target: the service that ran the jobs.
        loaded_seconds: the time from the start of the load to the end of the last job.
        cpu_seconds: the CPU time of this process in that time.
        shares_process: whether ``cpu_seconds`` includes the supervisor.
        own_cost: CPU seconds of the generator per job.
        same_clock: whether the times of the jobs are by the clock of this machine.
        not_checked: the checks that were impossible, as text.
        found_again: the number of existing jobs whose start had no answer.
        left_running: ids of jobs that run on.
        kept: whether the jobs are kept.
        not_forgotten: the number of jobs that could not be deleted.
        most_at_once: the largest number of jobs that ran at once; ``None`` if that cannot be seen.
        gave_up: whether a second interrupt ended the run.
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
    most_at_once: int | None = None
    gave_up: bool = False


def report(load: Load, faults: Sequence[Fault], facts: RunFacts) -> dict[str, Any]:
    """Return the report. ``ok``: no job was lost, wrong or refused; otherwise ``error`` has the counts."""
    codes = Counter(fault.code for fault in faults)
    figures = {name: series.to_json() for name, series in load.figures.items()}
    if not facts.same_clock:
        for name in ("exit_known", "deadline_overshoot"):
            figures[name] = {"count": 0, "p50": None, "p90": None, "p99": None, "max": None}
    refused = sum(count for call, count in load.errors.items() if call.startswith("start: "))
    shape: dict[str, Any] = {"ok": not faults and not refused}
    if not shape["ok"]:
        shape["error"] = to_json(_error(len(faults), refused, codes))
    starting = max(load.last_start - load.began, 1e-9)
    shape |= {
        "run": facts.run,
        "target": facts.target,
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
            "ended": _rate(sum(load.ended.values()), facts.loaded_seconds),
        },
        "most_at_once": facts.most_at_once,
        "waited_ms": load.waited.to_json(),
        "seconds": round(facts.loaded_seconds, 3),
        "latency_ms": figures,
        "errors": dict(load.errors),
        "wrong": dict(codes),
        "examples": [fault.to_json() for fault in faults[:_MAX_EXAMPLES]],
        "not_checked": facts.not_checked,
        "found_again": facts.found_again,
        "left_running": list(facts.left_running),
        "not_forgotten": facts.not_forgotten,
        "kept": facts.kept,
        "interrupted": load.interrupted,
        "gave_up": facts.gave_up,
        "generator": {
            "cpu_seconds": round(facts.cpu_seconds, 4),
            "cpu_of_a_core": round(facts.cpu_seconds / max(facts.loaded_seconds, 1e-9), 4),
            "with_supervisor": facts.shares_process,
            "own_us_a_job": round(facts.own_cost * 1e6, 1),
            "own_of_a_core": round(facts.own_cost * len(load.records) / max(facts.loaded_seconds, 1e-9), 5),
        },
        "machine": {
            "supervisor": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "cpus": usable_cpus(),
        },
    }
    return shape


def usable_cpus() -> int:
    """Return the number of processors that this process may use; of all, where the system knows no such set."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _rate(count: int, seconds: float) -> float:
    return round(count / max(seconds, 1e-9), 3)


def _error(faults: int, refused: int, codes: Counter[str]) -> ErrorInfo:
    counts = [f"{count} {code}" for code, count in codes.most_common()]
    if refused:
        counts.append(f"{refused} starts refused")
    return ErrorInfo(
        code="load_failed",
        message=f"the load had faults: {', '.join(counts)}",
        repair="See `examples` and `errors`; the same seed repeats the same jobs.",
        details={"faults": faults, "refused": refused},
    )
