"""What jobs have spent and may spend, in the index: sums of the ledger, and reservations of running jobs.

A job of a group with budgets **reserves** what it asks for in the transaction that admits it, so two jobs cannot both
get the last dollar. ``reserved.json`` in its directory says the same to an index that is made anew. The transaction
that records its end replaces the reservation by what it has spent, in the ledger and in the sums. A job whose output
has no figure is charged its reservation: unknown is not nothing. One that was never launched is charged nothing.

A resumed session of an agent may report what its earlier runs have spent, too. ``sessions`` has what each session has
reported last, so that this is not charged twice, see ``_own_share``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from operator import add
from typing import Any, Final

from supervisor.store import ledger
from supervisor.store.budgets import Budget, Budgets, BudgetSetting, own_ask, typical_of
from supervisor.store.pacing import Pacing
from supervisor.store.rows import Row
from supervisor.store.tickets import Moment

__all__ = ["SCHEMA", "Spending", "figures_of"]

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS reserved (
        name TEXT NOT NULL,
        seq INTEGER NOT NULL,
        at_ns INTEGER NOT NULL,
        usd INTEGER,
        tokens INTEGER,
        seconds INTEGER,
        usd_now INTEGER NOT NULL DEFAULT 0,
        tokens_now INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (name, seq)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS spent (
        name TEXT NOT NULL,
        size INTEGER NOT NULL,
        at INTEGER NOT NULL,
        usd INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        seconds INTEGER NOT NULL,
        starts INTEGER NOT NULL,
        PRIMARY KEY (name, size, at)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS sessions (
        session_id TEXT PRIMARY KEY,
        at_ns INTEGER NOT NULL,
        usd INTEGER NOT NULL,
        tokens INTEGER NOT NULL
    ) WITHOUT ROWID;
"""
# ``size`` is the length of a part of the time in nanoseconds, and ``at`` its number. Windows begin at a quarter of an
# hour in every zone; only the sum of all time is over days.
_QUARTER_NS: Final = 900 * 10**9
_DAY_NS: Final = 86400 * 10**9
_FAR: Final = 2**62
_FIGURES: Final = 32
"""Of how many jobs the median is what the next one asks for."""
_SWEEP: Final = 256
_MAX_AMOUNT: Final = {"usd": 10**14, "tokens": 10**12, "seconds": 10**12}
"""A higher figure, of a program that errs, must not make the sums inexact."""
_AMOUNTS: Final = ("usd", "tokens", "seconds")
_COLUMNS: Final = ("usd", "tokens", "seconds", "starts")
_SUMS: Final = ", ".join(f"total({name})" for name in _COLUMNS)
_LASTED: Final = "coalesce((:now - started_ns) / 1000000, 0)"
_RUNNING: Final = f"""
    SELECT count(*), total(max(coalesce(usd, 0), usd_now)), total(usd_now),
        total(max(coalesce(tokens, 0), tokens_now)), total(tokens_now),
        total(max(coalesce(seconds, 0), {_LASTED})), total(max(0, {_LASTED}))
    FROM reserved JOIN held USING (seq) JOIN jobs USING (seq) WHERE name = :name"""  # noqa: S608  # our own names
_STARTED: Final = "SELECT count(*) FROM reserved JOIN held USING (seq) WHERE name = ? AND at_ns >= ?"


def figures_of(ended: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the money and the tokens that the output of an ended job has reported, ``None`` for what it has not."""
    cost, tokens = ended["cost_usd"], ended.get("tokens")
    usd = None if cost is None else round(min(cost * 1e9, _MAX_AMOUNT["usd"]))
    return usd, min(tokens, _MAX_AMOUNT["tokens"]) if type(tokens) is int and tokens >= 0 else None


class Spending:
    """The spending in one index. Every method runs within a transaction of the caller.

    Args:
        connection: to the index.
    """

    __slots__ = ("_db", "_pacing")

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Work on this connection."""
        self._db = connection
        self._pacing = Pacing(connection)

    # ------------------------------------------------------------ admission

    def budgets_of(self, name: str, held: str, now: Moment) -> list[Budget]:
        """Return the budgets of a group as they are now; ``held`` is their row."""
        budgets = Budgets.decode(held)
        count, usd, usd_now, tokens, tokens_now, seconds, seconds_now = self._db.execute(
            _RUNNING, {"name": name, "now": now.wall_ns}
        ).fetchone()
        running = {"usd": (usd, usd_now), "tokens": (tokens, tokens_now), "seconds": (seconds, seconds_now)}
        figures = self._figures(name)
        found: list[Budget] = []
        for setting, begin_ns, end_ns in budgets.spans(now.wall_ns):
            metric = setting.metric
            reserved, so_far = running.get(metric) or self._db.execute(_STARTED, (name, begin_ns)).fetchone() * 2
            found.append(
                Budget(
                    setting=setting,
                    on_exceed=budgets.on_exceed,
                    begin_ns=begin_ns,
                    end_ns=end_ns,
                    used=self._used(name, begin_ns, end_ns)[_COLUMNS.index(metric)],
                    reserved=int(reserved),
                    spent=int(so_far),
                    typical=typical_of(figures.get(metric, ())),
                    running=count,
                )
            )
        return found

    def _used(self, name: str, begin_ns: int, end_ns: int | None) -> tuple[int, ...]:
        size = _DAY_NS if end_ns is None else _QUARTER_NS
        first, last = begin_ns // size, _FAR if end_ns is None else end_ns // size
        statement = f"SELECT {_SUMS} FROM spent WHERE name = ? AND size = ? AND at >= ? AND at < ?"  # noqa: S608  # our own names
        return tuple(map(int, self._db.execute(statement, (name, size, first, last)).fetchone()))

    def own_ask(self, seq: int) -> int | None:
        """Return how much money the command of a job says that it spends at most."""
        found = self._db.execute("SELECT spec FROM jobs WHERE seq = ?", (seq,)).fetchone()
        return None if found is None or "--max-budget-usd" not in found[0] else own_ask(json.loads(found[0])["argv"])

    def reserve(self, seq: int, name: str, budgets: Iterable[Budget], own: int | None, now: Moment) -> dict[str, int]:
        """Reserve in a group what a job that is admitted asks for, and return that."""
        asks: dict[str, int] = {}
        for budget in budgets:
            asks[budget.setting.metric] = max(asks.get(budget.setting.metric, 0), budget.reserve(own))
        self._db.execute("DELETE FROM reserved WHERE name = ? AND seq NOT IN (SELECT seq FROM held)", (name,))
        self._enter(seq, name, now.wall_ns, asks)
        return asks

    def _enter(self, seq: int, name: str, at_ns: int, asks: Mapping[str, int]) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO reserved (name, seq, at_ns, usd, tokens, seconds) VALUES (?, ?, ?, ?, ?, ?)",
            (name, seq, at_ns, *map(asks.get, _AMOUNTS)),
        )

    def restore(self, seq: int, record: Mapping[str, Any] | None) -> None:
        """Enter a reservation from ``reserved.json`` of a job that has its slots."""
        groups, at_ns = (record or {}).get("groups"), (record or {}).get("at_ns")
        if isinstance(groups, dict) and type(at_ns) is int:
            for name, asks in groups.items():  # pyright: ignore[reportUnknownVariableType]
                if isinstance(asks, dict) and set(map(type, asks.values())) <= {int}:  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
                    self._enter(seq, str(name), at_ns, asks)  # pyright: ignore[reportUnknownArgumentType]

    # ------------------------------------------------------------ running jobs

    def has_reserved(self, seq: int) -> bool:
        """Whether a job has reserved anything, so that it is charged while it runs."""
        return self._db.execute("SELECT 1 FROM reserved WHERE seq = ? LIMIT 1", (seq,)).fetchone() is not None

    def note(self, seq: int, usd: int, tokens: int) -> None:
        """Record what a running job has spent so far; that never decreases."""
        self._db.execute(
            "UPDATE reserved SET usd_now = max(usd_now, ?), tokens_now = max(tokens_now, ?) WHERE seq = ?",
            (min(usd, _MAX_AMOUNT["usd"]), min(tokens, _MAX_AMOUNT["tokens"]), seq),
        )

    def stops(self, now: Moment) -> tuple[list[tuple[str, BudgetSetting]], float | None]:
        """Return the groups that have spent more than a budget allows and stop their jobs then, each with that budget.

        Also return after how many seconds another group will, if its jobs run on; ``None`` for not by time alone.
        """
        exceeded: list[tuple[str, BudgetSetting]] = []
        seconds: list[float] = []
        for name, held in self._pacing.all_budgets():
            if Budgets.decode(held).on_exceed == "stop":
                for budget in self.budgets_of(name, held, now):
                    if budget.is_exceeded:
                        exceeded.append((name, budget.setting))
                        break
                    if budget.setting.metric == "seconds" and budget.running:
                        left_ms = budget.setting.limit - budget.used - budget.spent + 1
                        seconds.append(left_ms / budget.running / 1000)
        return exceeded, min(seconds, default=None)

    # ------------------------------------------------------------ ends

    def book(self, root: str, row: Row, seq: int, names: Iterable[str], started_ns: int | None, now: Moment) -> None:
        """Charge an ended job to its groups: what it has spent, or what it has reserved where that is not known.

        Nothing is recorded of a job that was never launched, nor of one without figures in groups without budgets.

        Raises:
            StateFull, StateBusy, PermissionDenied: it cannot be recorded; the transaction must fail.
        """
        ended, at_ns = row.ended or {}, row.completed_ns or 0
        is_lost = ended["reason"] == "lost"
        said = figures_of(ended)
        if started_ns is None and not is_lost and said == (None, None):
            return  # if the output has figures, its launch is only not on record
        held = {name: text for name in names if (text := self._pacing.budgets_of(name)) is not None}
        if said == (None, None) and not held:
            return
        session_id = ended.get("session_id")
        usd, tokens = self._own_share(session_id, said, ended.get("own_tokens"), at_ns)
        lasted = None if is_lost or started_ns is None else min(max(0, at_ns - started_ns) // 10**6, 10**12)
        figures = {"usd": usd, "tokens": tokens, "seconds": lasted}
        unknown = [metric for metric, figure in figures.items() if figure is None]
        request = row.request
        record = {
            "v": 1,
            "job_id": row.job_id,
            "at_ns": at_ns,
            "started_ns": started_ns,
            "kind": row.kind,
            "workspace": request["workspace"],
            "labels": dict(request["labels"]),
            "groups": list(names),
            **figures,
            "starts": 1,
            "charged": {name: self._unknown(name, text, seq, row, unknown, now) for name, text in held.items()},
            **({} if session_id is None else {"session_id": session_id, "said": said}),
        }
        ledger.append(root, record, durable=row.is_durable)
        self._add(record)
        if seq % _SWEEP == 0:
            self._db.execute("DELETE FROM sessions WHERE at_ns < ?", (at_ns - 60 * _DAY_NS,))

    def _unknown(self, name: str, held: str, seq: int, row: Row, unknown: Iterable[str], now: Moment) -> dict[str, int]:
        """Return what a job is charged for what is not known of it: its reservation, or what it would ask for now."""
        statement = "SELECT usd, tokens, seconds, usd_now, tokens_now FROM reserved WHERE name = ? AND seq = ?"
        usd, tokens, seconds, usd_now, tokens_now = self._db.execute(statement, (name, seq)).fetchone() or (None,) * 5
        reserved = {
            "usd": None if usd is None else max(usd, usd_now),
            "tokens": None if tokens is None else max(tokens, tokens_now),
            "seconds": seconds,
        }
        charged: dict[str, int] = {}
        budgets: list[Budget] | None = None
        for metric in unknown:
            amount = reserved[metric]
            if amount is None:  # it was admitted before the budget was set
                budgets = self.budgets_of(name, held, now) if budgets is None else budgets
                own = own_ask(row.request["argv"])
                asks = [each.ask(own) for each in budgets if each.setting.metric == metric]
                amount = max(asks, default=None)
            if amount is not None:
                charged[metric] = amount
        return charged

    def _own_share(
        self, session_id: str | None, said: tuple[int | None, int | None], own_tokens: int | None, at_ns: int
    ) -> tuple[int | None, int | None]:
        """Return what a run has spent by itself, of what it has reported.

        Some versions of an agent begin at nothing when they resume a session, and others go on with its sums. The
        tokens tell, as those of the turns of this run alone are reported, too: if the sums contain these and all that
        the session has reported before, they go on.
        """
        usd, tokens = said
        if session_id is None or tokens is None:
            return said
        before = self._db.execute("SELECT usd, tokens FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        self._note_session(session_id, at_ns, usd or 0, tokens)
        if before is None or own_tokens is None:
            return said
        usd_before, tokens_before = before
        if not 0 < tokens_before <= tokens - own_tokens or (usd or 0) < usd_before:
            return said
        return None if usd is None else usd - usd_before, tokens - tokens_before

    def _note_session(self, session_id: str, at_ns: int, usd: int, tokens: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)", (session_id, at_ns, usd, tokens))

    def _add(self, record: Mapping[str, Any]) -> None:
        """Add a line of the ledger to the sums and to the figures of its groups."""
        self._db.executemany(
            "INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name, size, at) DO UPDATE SET"
            " usd = usd + excluded.usd, tokens = tokens + excluded.tokens,"
            " seconds = seconds + excluded.seconds, starts = starts + excluded.starts",
            [(*part, *amounts) for part, amounts in _parts_of(record)],
        )
        for name in record["groups"]:
            known = self._figures(name)
            _note_figures(known, record)
            self._pacing.notice(f"figures:{name}", json.dumps(known))

    # ------------------------------------------------------------ what a job of a group usually spends

    def _figures(self, name: str) -> dict[str, list[int]]:
        found = self._db.execute("SELECT held FROM noticed WHERE what = 'figures:' || ?", (name,)).fetchone()
        return {} if found is None else json.loads(found[0])

    # ------------------------------------------------------------ a new index

    def clear(self) -> None:
        """Delete everything."""
        for table in ("reserved", "spent", "sessions"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # our own names
        self._db.execute("DELETE FROM noticed WHERE what LIKE 'figures:%'")

    def import_ledger(self, root: str) -> frozenset[str]:
        """Enter what the ledger says, in place of all that is entered, and return the jobs that are in it.

        Raises:
            StateBusy, PermissionDenied: it cannot be read now.
        """
        self.clear()
        found = ledger.read_all(root)
        sums: dict[tuple[str, int, int], list[int]] = {}
        figures: dict[str, dict[str, list[int]]] = {}
        for record in found:  # added up here: there may be a million
            for part, amounts in _parts_of(record):
                known = sums.setdefault(part, [0, 0, 0, 0])
                known[:] = map(add, known, amounts)
            for name in record["groups"]:
                _note_figures(figures.setdefault(name, {}), record)
            match record.get("session_id"), record.get("said"):
                case str(session_id), [int() | None as usd, int(tokens)]:
                    self._note_session(session_id, record["at_ns"], usd or 0, tokens)
                case _:
                    pass
        self._db.executemany(
            "INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?, ?)", [(*part, *amounts) for part, amounts in sums.items()]
        )
        for name, known_figures in figures.items():
            self._pacing.notice(f"figures:{name}", json.dumps(known_figures))
        return frozenset(record["job_id"] for record in found)


def _parts_of(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int, int], tuple[int, ...]]]:
    """Yield what a line of the ledger adds to the sums: each a group with a part of the time, and the amounts."""
    at_ns, started_ns = record["at_ns"], record.get("started_ns")
    starts_ns = at_ns if started_ns is None else started_ns
    for name in record["groups"]:
        charged = record["charged"].get(name, {})
        given = ((metric, record.get(metric)) for metric in _AMOUNTS)
        amounts = [charged.get(metric, 0) if each is None else each for metric, each in given]
        for size in (_QUARTER_NS, _DAY_NS):
            yield (name, size, at_ns // size), (*amounts, 0)
            yield (name, size, starts_ns // size), (0, 0, 0, record.get("starts") or 0)


def _note_figures(known: dict[str, list[int]], record: Mapping[str, Any]) -> None:
    """Remember the figures of a job; one that failed before it spent anything says nothing about others."""
    for metric in _AMOUNTS:
        if record.get(metric):
            known[metric] = [*known.get(metric, ()), record[metric]][-_FIGURES:]
