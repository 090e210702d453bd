"""What jobs have spent, by group, day, session or label: sums of the ledger, which has the forgotten jobs as well."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from supervisor.errors import InvalidArguments, SupervisorError
from supervisor.jobs.interface import Jobs
from supervisor.model import Spend, SpendReport, to_ns
from supervisor.store import ledger
from supervisor.store.budgets import UNITS, in_units
from supervisor.store.windows import local_zone, zone_of

__all__ = ["check_by", "spend", "sum_of"]

_LABEL: Final = "label:"
_BY: Final = ("group", "day", "session")
_AMOUNTS: Final = ("usd", "tokens", "seconds")
_MOST_RUNNING: Final = 10_000


def check_by(by: str) -> str:
    """Return what spending is summed by.

    Raises:
        InvalidArguments: it is nothing known.
    """
    if by in _BY or (by.startswith(_LABEL) and by != _LABEL):
        return by
    message = f"by is {by!r:.80}; it must be {', '.join(_BY)}, or label:NAME"
    raise InvalidArguments(message)


def spend(
    jobs: Jobs, by: str = "group", since: datetime | None = None, label: tuple[str, str] | None = None
) -> SpendReport:
    """Return what jobs have spent that have ended since a time; first record the ends of those that have just ended.

    ``label``: only of the jobs that have it.

    Raises:
        InvalidArguments: ``by`` is nothing known.
        StateBusy, PermissionDenied: the ledger cannot be read now.
    """
    check_by(by)
    if since is not None and since.tzinfo is None:
        message = f"since has no time zone: {since.isoformat()}"
        raise InvalidArguments(message, repair="Give an aware datetime, such as datetime.now(UTC) - timedelta(days=7).")
    for row in jobs.index.begun(_MOST_RUNNING):
        with contextlib.suppress(SupervisorError):
            jobs.refresh(row, drive=False)
    rows: dict[str | None, dict[str, int]] = {}
    total = _nothing()
    for record in ledger.read_all(jobs.layout.root, 0 if since is None else to_ns(since)):
        if label is not None and record["labels"].get(label[0]) != label[1]:
            continue
        _count(total, record, record["charged"].values())
        for key in _keys(by, record):
            charged = record["charged"]
            of_group = [charged[key]] if by == "group" and key in charged else charged.values()
            _count(rows.setdefault(key, _nothing()), record, of_group)
    keys = sorted(rows, key=lambda key: (key is None, key or ""))
    return SpendReport(
        by=by, since=since, rows=tuple(_shown(key, rows[key]) for key in keys), total=_shown(None, total)
    )


def sum_of(records: Iterable[Mapping[str, Any]]) -> Spend:
    """Return what some lines of the ledger are together, each job once."""
    total = _nothing()
    for record in records:
        _count(total, record, record["charged"].values())
    return _shown(None, total)


def _keys(by: str, record: Mapping[str, Any]) -> Iterable[str | None]:
    match by:
        case "group":
            return [str(name) for name in record["groups"]] or [None]
        case "day":
            moment = datetime.fromtimestamp(record["at_ns"] / 1e9, zone_of(local_zone()))
            return [moment.date().isoformat()]
        case "session":
            key = record.get("session_id")
        case _:
            key = record["labels"].get(by.removeprefix(_LABEL))
    return [None if key is None else str(key)]


def _nothing() -> dict[str, int]:
    return dict.fromkeys(("jobs", *UNITS, "estimated"), 0)


def _count(sums: dict[str, int], record: Mapping[str, Any], charged: Iterable[Mapping[str, Any]]) -> None:
    """Add a job; where its figure is not known, the highest of what its groups were charged."""
    estimates = list(charged)
    sums["jobs"] += 1
    sums["starts"] += record.get("starts") or 0
    sums["estimated"] += any(estimates)
    for metric in _AMOUNTS:
        amount = record.get(metric)
        known = [int(each[metric]) for each in estimates if type(each.get(metric)) is int]
        sums[metric] += max(known, default=0) if amount is None else amount


def _shown(key: str | None, sums: Mapping[str, int]) -> Spend:
    return Spend(
        key=key,
        jobs=sums["jobs"],
        cost_usd=in_units("usd", sums["usd"]),
        tokens=sums["tokens"],
        seconds=in_units("seconds", sums["seconds"]),
        starts=sums["starts"],
        estimated=sums["estimated"],
    )
