"""What must hold after a round of ``queues.py``, judged from the marks of the commands and from what is on record."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import supervisor
from supervisor.jobs.catalog import Catalog

TABLES = ("waiting", "held", "later", "deps")
LEFT = ("orders", "stdin", "granted")
KNOWN = {"exited", "nonzero_exit", "cancelled", "launch_failed", "lost", "killed_by_signal"}
KNOWN |= {"dependency_failed", "start_expired"}


@dataclass
class Told:
    """What the programs have written down."""

    groups: dict[str, tuple[list[str], int]] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    cancelling: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Told:
        """Read the file, one JSON object or one plain job id a line; a line that a kill has cut is left out."""
        made = cls()
        for line in path.read_text().splitlines() if path.exists() else ():
            if not line.startswith("{"):
                made.ids |= {line} if len(line) == 32 else set()
            elif "cancelling" in (each := json.loads(line)):
                made.cancelling.add(each["cancelling"])
            else:
                made.ids.add(each["id"])
                made.groups[each["id"]] = each["groups"], each["weight"]
        return made


@dataclass
class Marks:
    """What the commands have written: each its begin and its end, in the order in which that happened."""

    lines: list[list[str]]
    begun: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Marks:
        """Read the file."""
        made = cls([line.split() for line in path.read_text().splitlines()] if path.exists() else [])
        for number, (what, job_id, *_) in enumerate(made.lines):
            if what == "end":
                made.ended.setdefault(job_id, number)
            elif job_id in made.begun:
                made.twice.add(job_id)
            else:
                made.begun[job_id] = number
        return made


@dataclass
class LimitChange:
    """A change of a limit: its time before the command began, and after it had ended well; ``None`` for not known."""

    limit: int
    begun: float
    done: float | None


@dataclass
class Groups:
    """What the groups of a round allow.

    Attributes:
        limits: at first.
        changes: of the limits of groups, in their order.
        rates: of groups: how many may start at once, and in a second.
        begun: when they were made.
    """

    limits: Mapping[str, int]
    changes: Mapping[str, list[LimitChange]]
    rates: Mapping[str, tuple[int, float]]
    begun: float

    def most(self, name: str, created: float, begun: float) -> float:
        """Return the highest limit of a group that may have held at a time between the creation and begin of a job.

        A job that is created after a change was admitted under the new limit, and so are all that were admitted later.
        """
        if name not in self.limits:
            return math.inf
        changes = [LimitChange(self.limits[name], 0.0, 0.0), *self.changes.get(name, ())]
        most = 0
        for number, change in enumerate(changes):
            left = min((each.done for each in changes[number + 1 :] if each.done is not None), default=math.inf)
            if change.begun <= begun and created <= left:
                most = max(most, change.limit)
        return most


@dataclass
class Round:
    """Everything about a round, after all of its jobs have ended."""

    root: Path
    groups: Groups
    told: Told
    marks: Marks
    reasons: Counter[str]
    jobs: dict[str, supervisor.Job] = field(default_factory=dict)
    requests: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def judge(self) -> list[str]:
        """Return what is wrong."""
        wrong: list[str] = []
        with Catalog(supervisor.Settings(state_dir=self.root)) as catalog:
            for row in catalog.index.page(limit=1000):
                self.jobs[row.job_id] = catalog.status(row.job_id)
                self.requests[row.job_id] = row.request
            for table in TABLES:
                count = catalog.index.read(lambda table=table: _rows_of(catalog, table))  # type: ignore[misc]
                if count:
                    wrong.append(f"the table {table} has {count} rows at the end")
        for name in LEFT:  # a start that was killed before its commit has left a directory, and no job
            left = (path.parent.name for path in self.root.glob(f"*-*/*/{name}"))
            wrong += [f"{job_id} left {name}" for job_id in left if job_id in self.jobs]
        self.reasons.update(str(job.reason) for job in self.jobs.values())
        judges = (self._lost, self._counts, self._limits, self._rates, self._verdicts)
        for check in (*judges, self._order, self._times, self._attempts):
            wrong += check()
        return wrong

    def _lost(self) -> Iterator[str]:
        for job_id in self.told.ids - self.jobs.keys():
            yield f"{job_id} is lost: there is no such job"
        for job_id in self.marks.begun.keys() - self.jobs.keys():
            yield f"{job_id} ran, and there is no such job"

    def _counts(self) -> Iterator[str]:
        for job_id in self.marks.twice:
            yield f"{job_id} began twice"

    def _of(self, job_id: str) -> tuple[list[str], int]:
        """Return the groups and the weight of a job, from the program that has started it if that is known."""
        request = self.requests.get(job_id, {})
        return self.told.groups.get(job_id) or (list(request.get("groups", ())), request.get("weight", 1))

    def _limits(self) -> Iterator[str]:
        alive: set[str] = set()
        for what, job_id, *_ in self.marks.lines:
            if what == "end":
                alive.discard(job_id)
                continue
            if job_id in self.marks.ended:  # one without was killed; when it ended is not known
                alive.add(job_id)
            for name in self._of(job_id)[0]:
                inside = [each for each in alive if name in self._of(each)[0]]
                weight = sum(self._of(each)[1] for each in inside)
                created = self.requests.get(job_id, {}).get("created_boot_ns", 0) / 1e9
                most = self.groups.most(name, created, self._begun(job_id))
                if weight > most:
                    yield f"group {name} ran {weight} at a time, of {most}: {sorted(inside)}"

    def _begun(self, job_id: str) -> float:
        """Return the latest time at which a job may have begun: its mark counts in hundredths of a second."""
        return float(self.marks.lines[self.marks.begun[job_id]][2]) + 0.011

    def _rates(self) -> Iterator[str]:
        """No more jobs began than tokens were there; how long each took from its token to its begin is not known."""
        for name, (burst, a_second) in self.groups.rates.items():
            times = sorted(self._begun(job_id) for job_id in self.marks.begun if name in self._of(job_id)[0])
            for number, begun in enumerate(times, 1):
                if number > burst + (begun - self.groups.begun) * a_second:
                    yield f"{number} jobs of group {name} began in {begun - self.groups.begun:.2f} s"

    def _verdicts(self) -> Iterator[str]:
        for job_id, job in self.jobs.items():
            begun = job_id in self.marks.begun
            reason = str(job.reason)
            if not job.status.terminal or reason not in KNOWN:
                yield f"{job_id} ended as {job.status}, {reason}: {job.detail}"
            if job.status == "done" and not begun:
                yield f"{job_id} is done and never began"
            if begun and reason in {"launch_failed", "dependency_failed", "start_expired"}:
                yield f"{job_id} was launched, and counts as {reason}"
            if begun and job.started_at is None and reason != "lost":
                yield f"{job_id} was launched, and its record does not say so: {reason}"
            if reason == "cancelled" and self.told.cancelling.isdisjoint(self._series(job_id)):
                yield f"{job_id} is cancelled, and no program has asked for that"

    def _order(self) -> Iterator[str]:
        for job_id, job in self.jobs.items():
            after = [(each["job_id"], each["when"]) for each in self.requests[job_id].get("after", ())]
            held = [(other, when, self._held(other, when)) for other, when in after]
            if job.reason == "dependency_failed" and all(held for _, _, held in held):
                yield f"{job_id} is ended for a dependency, and all hold: {after}"
            if job_id not in self.marks.begun:
                continue
            for other, when, holds in held:
                if not holds:
                    yield f"{job_id} ran after {when} of {other}, which is {self.jobs.get(other)}"
                other = self._series(other)[-1]  # noqa: PLW2901  # its last attempt
                ended, begun = self.marks.ended.get(other), self.marks.begun[job_id]
                if when != "start" and other in self.marks.begun and ended is not None and ended > begun:
                    yield f"{job_id} began before the end of {other}, after which it was to run ({when})"

    def _series(self, job_id: str) -> list[str]:
        """Return the attempts of the request of a job, in their order."""
        series_id = self.requests.get(job_id, {}).get("series_id")
        if series_id is None:
            return [job_id]
        found = [(each["attempt"], name) for name, each in self.requests.items() if each.get("series_id") == series_id]
        return [name for _, name in sorted(found)]

    def _attempts(self) -> Iterator[str]:
        """Each attempt follows the end of the one before, and there are no more than were asked for."""
        for job_id, request in self.requests.items():
            series = self._series(job_id)
            if request.get("attempt") != 1 or series[0] != job_id:
                continue
            numbers = [self.requests[each]["attempt"] for each in series]
            if numbers != list(range(1, len(series) + 1)) or len(series) > 3:
                yield f"{job_id} has the attempts {numbers}"
            for before, after in pairwise(series):
                ended, begun = self.marks.ended.get(before), self.marks.begun.get(after)
                if ended is not None and begun is not None and begun < ended:
                    yield f"{after} began before the end of {before}, the attempt before it"
            last = self.jobs[series[-1]]
            is_cancelled = not self.told.cancelling.isdisjoint(series)  # it may have failed before the signal
            if last.reason == "nonzero_exit" and last.exit_code == 1 and len(series) < 3 and not is_cancelled:
                yield f"{series[-1]} has failed, and there was no further attempt"

    def _held(self, other: str, when: str) -> bool:
        if when != "start":
            other = self._series(other)[-1]
        job = self.jobs.get(other)
        if job is None:
            return False
        if when == "start":
            return job.started_at is not None
        return when == "any" or (job.status == "done") is (when == "ok")

    def _times(self) -> Iterator[str]:
        for job_id, request in self.requests.items():
            number = self.marks.begun.get(job_id)
            delay_ns = request.get("delay_ns")
            if number is not None and delay_ns:
                begun = float(self.marks.lines[number][2])
                early = (request["created_boot_ns"] + delay_ns) / 1e9 - begun
                if early > 0.011:  # the mark counts in hundredths of a second
                    yield f"{job_id} began {early:.2f} s before the end of its delay"
            if self.jobs[job_id].reason == "start_expired" and not request.get("start_within_ns"):
                yield f"{job_id} has expired, and was not asked to"


def _rows_of(catalog: Catalog, table: str) -> int:
    count: int = catalog.index._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return count
