"""Budgets of groups: how much their jobs may spend in a window of time, and whether a job may be admitted.

Amounts are whole numbers, so that sums are exact: billionths of a dollar, tokens, milliseconds, starts. A job is
admitted if what was spent, what its running jobs may still spend, and what it asks for are at most the limit. What
a job asks for:

* money: what its command names (``--max-budget-usd``);
* a start: one;
* otherwise half more than the median of the last jobs of the group that had a figure, at most the limit;
* as long as there is no such figure: a tenth of the limit. Then the group runs one job at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

import attrs

from supervisor.store.windows import WINDOWS, span_of
from supervisor.text.durations import finite_seconds

__all__ = [
    "METRICS",
    "ON_EXCEED",
    "UNITS",
    "Budget",
    "BudgetSetting",
    "Budgets",
    "in_units",
    "merged",
    "own_ask",
    "shown_amount",
    "spent_so_far",
    "typical_of",
]

UNITS: Final[Mapping[str, int]] = {"usd": 10**9, "tokens": 1, "seconds": 1000, "starts": 1}
"""The metrics, each with how many of its whole numbers are one of what users see."""
METRICS: Final = tuple(UNITS)
ON_EXCEED: Final = ("hold", "stop")
_MOST: Final = {"usd": 10**6, "tokens": 10**14, "seconds": 10**10, "starts": 10**9}
_TEXT: Final = re.compile(r"([a-z]+)=([0-9a-z.]{1,40})/([a-z]+)", re.ASCII)
_NONE: Final = "none"
_FIRST_SHARE: Final = 10
_MAX_BUDGET: Final = "--max-budget-usd"


class BudgetSetting(NamedTuple):
    """One budget, as it was set.

    Attributes:
        metric: what is limited.
        limit: in the unit of the metric, see ``UNITS``.
        window: of time.
    """

    metric: str
    limit: int
    window: str

    @classmethod
    def parse(cls, text: Any) -> BudgetSetting:
        """Return the budget that a text such as ``usd=20/day`` describes.

        Raises:
            ValueError: it describes none.
        """
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None or found[1] not in UNITS or found[3] not in WINDOWS:
            raise ValueError
        return cls(found[1], _amount(found[1], found[2]), found[3])

    @property
    def text(self) -> str:
        """The text that describes it."""
        return f"{self.metric}={shown_amount(self.metric, self.limit)}/{self.window}"


def _amount(metric: str, text: str) -> int:
    try:
        number = Decimal(text)
    except ArithmeticError:
        if metric != "seconds":
            raise ValueError from None
        number = Decimal(str(finite_seconds(text)))
    if not (number.is_finite() and 0 <= number <= _MOST[metric]):
        raise ValueError
    amount = number * UNITS[metric]
    if amount != int(amount):
        raise ValueError
    return int(amount)


def shown_amount(metric: str, amount: int) -> str:
    """Return an amount in the unit that users see, without trailing zeros."""
    whole, rest = divmod(amount, UNITS[metric])
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(UNITS[metric])) - 1, '0').rstrip('0')}"


def in_units(metric: str, amount: int) -> float:
    """Return an amount in the unit that users see: a whole number where there are no parts of it."""
    return amount / UNITS[metric] if UNITS[metric] > 1 else amount


def merged(before: Sequence[str], given: Iterable[str]) -> tuple[str, ...]:
    """Return budgets as texts after a change: those ``given`` replace those of the same metric and window.

    ``none`` removes all, and a limit of ``none`` that one.

    Raises:
        ValueError: a text describes no budget; it is the argument.
    """
    now = {(each.metric, each.window): each.text for each in map(BudgetSetting.parse, before)}
    for text in given:
        if text == _NONE:
            now.clear()
            continue
        try:
            metric, _, rest = text.partition("=")
            limit, _, window = rest.partition("/")
            if limit == _NONE and metric in UNITS and window in WINDOWS:
                now.pop((metric, window), None)
                continue
            found = BudgetSetting.parse(text)
        except ValueError:
            raise ValueError(text) from None
        now[found.metric, found.window] = found.text
    return tuple(now.values())


def own_ask(argv: Sequence[str]) -> int | None:
    """Return how much money a command says that it spends at most; ``None`` for one that does not say it."""
    found = None
    for at, word in enumerate(argv):
        if word == "--":
            break
        name, given, value = word.partition("=")
        if name == _MAX_BUDGET:
            text = value if given else argv[at + 1] if at + 1 < len(argv) else ""
            try:
                found = _amount("usd", text)
            except ValueError:
                found = None
    return found


def spent_so_far(progress: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the money and the tokens that a running job has spent by its progress; ``None`` if it says nothing.

    Also ``None`` once its output is complete: it is about to end, and its end says more.
    """
    if progress.get("finished"):
        return None
    cost, *tokens = (progress.get(name) for name in ("cost_usd", "input_tokens", "output_tokens"))
    usd = round(cost * 1e9) if isinstance(cost, int | float) and 0 <= cost < 1e9 else 0
    total = sum(each for each in tokens if type(each) is int and each > 0)
    return (usd, total) if usd or total else None


class Budgets(NamedTuple):
    """The budgets of a group, as the index has them.

    Attributes:
        zone: by whose clock windows begin.
        on_exceed: what is done to running jobs once a limit is exceeded.
        settings: the budgets.
    """

    zone: str
    on_exceed: str
    settings: tuple[BudgetSetting, ...]

    @classmethod
    def decode(cls, text: str) -> Budgets:
        """Return what a row of the index holds."""
        zone, on_exceed, settings = json.loads(text)
        return cls(zone, on_exceed, tuple(BudgetSetting(*each) for each in settings))

    def encode(self) -> str:
        """Return the text of the row."""
        return json.dumps(self)

    def spans(self, now_ns: int) -> list[tuple[BudgetSetting, int, int | None]]:
        """Return each budget with the begin and the end of its window."""
        return [(each, *span_of(each.window, self.zone, now_ns)) for each in self.settings]


@attrs.define(slots=True)
class Budget:
    """A budget at one moment.

    Attributes:
        setting: the budget.
        on_exceed: what is done to running jobs once it is exceeded.
        begin_ns: when its window began.
        end_ns: when that ends; ``None`` for never.
        used: what ended jobs have spent in the window.
        reserved: what running jobs have spent or may spend.
        spent: what running jobs have spent so far, according to their output.
        typical: the median of the last figures; ``None`` as long as there is none.
        running: how many jobs have reserved something.
    """

    setting: BudgetSetting
    on_exceed: str
    begin_ns: int
    end_ns: int | None
    used: int
    reserved: int
    spent: int
    typical: int | None
    running: int

    def ask(self, own: int | None) -> int:
        """Return what a job asks for; ``own`` is what its command says about money."""
        match self.setting.metric:
            case "starts":
                return 1
            case "usd" if own is not None:
                return own
            case _ if self.typical is not None:
                return min(-(-3 * self.typical // 2), self.setting.limit)
            case _:
                return max(1, self.setting.limit // _FIRST_SHARE)

    def blocks(self, own: int | None) -> bool:
        """Whether a job may not be admitted now."""
        is_first = self.typical is None and self.setting.metric != "starts"
        if is_first and self.running and not (own is not None and self.setting.metric == "usd"):
            return True
        return self.used + self.reserved + self.ask(own) > self.setting.limit

    def is_hopeless(self, own: int | None) -> bool:
        """Whether a job is not admitted before the budget is changed."""
        used = self.used if self.end_ns is None else 0
        return used + self.ask(own) > self.setting.limit

    @property
    def is_exceeded(self) -> bool:
        """Whether more was spent than the limit."""
        return self.used + self.spent > self.setting.limit

    def reserve(self, own: int | None) -> int:
        """Reserve what a job asks for, and return that."""
        ask = self.ask(own)
        self.reserved += ask
        self.running += 1
        return ask


def typical_of(figures: Sequence[int]) -> int | None:
    """Return the median of figures, rounded up; ``None`` for none."""
    if not figures:
        return None
    ordered, middle = sorted(figures), len(figures) // 2  # `statistics` would be 5 ms in each command
    return ordered[middle] if len(figures) % 2 else -(-(ordered[middle - 1] + ordered[middle]) // 2)
