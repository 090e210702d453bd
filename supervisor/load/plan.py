"""The plan of a load. Pure: the same mix and the same seed give the same plan on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from random import Random

import attrs

from supervisor.load.mix import Mix, Sort

__all__ = ["Order", "plan"]


@attrs.frozen(slots=True)
class Order:
    """A planned job.

    Attributes:
        number: its position in the plan, from 1 on.
        due: seconds from the begin of the load to its start.
        sort: its sort.
        seconds: how long it sleeps; for a job that is stopped, longer than it runs.
        before: bytes of stdout before it sleeps.
        after: bytes of stdout after it sleeps.
        stderr: bytes of stderr.
        cancel_after: seconds from the acknowledgement of its start to its cancellation; ``None`` for none.
        deadline: its deadline in seconds; ``None`` if it ends long before any deadline.
    """

    number: int
    due: float
    sort: Sort
    seconds: float
    before: int
    after: int
    stderr: int
    cancel_after: float | None
    deadline: float | None


def plan(mix: Mix) -> Iterator[Order]:
    """Yield the jobs of a mix in the order of their due times."""
    # Two generators, so that a change of the arrivals does not change the jobs, and the other way round.
    arrivals, shapes = Random(f"{mix.seed}/arrivals"), Random(f"{mix.seed}/shapes")  # noqa: S311  # to be repeatable
    shares = list(accumulate(sort.share for sort in mix.sorts))
    due = 0.0
    number = 0
    while mix.jobs is None or number < mix.jobs:
        if mix.arrivals == "poisson":
            due += arrivals.expovariate(mix.rate)
        else:
            due = number / mix.rate
        if due >= mix.for_seconds:
            return
        number += 1
        (sort,) = shapes.choices(mix.sorts, cum_weights=shares)
        yield _order(number, due, sort, shapes)


def _order(number: int, due: float, sort: Sort, random: Random) -> Order:
    written = int(sort.output_bytes.draw(random))
    return Order(
        number=number,
        due=due,
        sort=sort,
        seconds=round(sort.seconds.draw(random), 6),
        before=written // 2,
        after=written - written // 2,
        stderr=int(sort.stderr_bytes.draw(random)),
        cancel_after=None if sort.cancel_after_seconds is None else sort.cancel_after_seconds.draw(random),
        deadline=None if sort.deadline_seconds is None else round(sort.deadline_seconds.draw(random), 6),
    )
