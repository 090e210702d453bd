"""What jobs have spent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs

__all__ = ["Spend", "SpendReport"]


@attrs.frozen(slots=True, kw_only=True)
class Spend:
    """What some jobs have spent together.

    Attributes:
        key: what they have in common: the name of the group, the day, the session, or the value of the label; ``None``
            for the jobs without any.
        jobs: how many have ended.
        cost_usd: US dollars.
        tokens: read and written by models.
        seconds: for which the jobs ran.
        starts: how many were launched.
        estimated: of how many jobs some figure was not known: they count as what they had reserved.
    """

    key: str | None
    jobs: int = 0
    cost_usd: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    starts: int = 0
    estimated: int = 0


@attrs.frozen(slots=True, kw_only=True)
class SpendReport:
    """What jobs have spent.

    Attributes:
        by: what ``rows`` are by.
        since: the jobs have ended since then; ``None`` for all.
        rows: by their keys. A job in several groups counts in each of them.
        total: each job once.
    """

    by: str
    since: datetime | None
    rows: tuple[Spend, ...]
    total: Spend

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON: a row has its key as ``key``, and under the name in ``by`` if no figure has that name."""
        name = self.by.partition(":")[2] or self.by
        rows = [{name: each.key, "key": each.key, **_plain(each)} for each in self.rows]
        since = None if self.since is None else self.since.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return {"ok": True, "by": self.by, "since": since, "spend": rows, "total": _plain(self.total)}


def _plain(spend: Spend) -> dict[str, Any]:
    return {field.name: getattr(spend, field.name) for field in attrs.fields(Spend) if field.name != "key"}
