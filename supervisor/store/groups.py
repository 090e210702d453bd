"""The files of the groups, ``<root>/groups/NAME.json``: the truth about a group, of which the index has a copy.

Every file is one JSON object. Members that this version does not know are kept when the file is written again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from supervisor.errors import InvalidArguments, StateCorrupt
from supervisor.store.budgets import METRICS, ON_EXCEED, Budgets, BudgetSetting
from supervisor.store.named_files import NamedFiles
from supervisor.store.pacing import Settings
from supervisor.store.queue.flows import check_fair_by
from supervisor.store.queue.usage import FOR_EVER_NS
from supervisor.store.state_errors import delete_file
from supervisor.store.windows import WINDOWS, zone_of

__all__ = [
    "DEFAULT_AGING_SECONDS",
    "DIRECTORY",
    "Group",
    "Pause",
    "any_waits_out",
    "check_name",
    "end_of",
    "load",
    "load_all",
    "remove",
    "save",
]

DEFAULT_AGING_SECONDS: Final = 300.0
_STRICT_NS: Final = 10**15
"""The aging time that stands for strict priority: eleven and a half days a point."""
_MAX_AGING_SECONDS: Final = 86400.0
_MAX_LIMIT: Final = 10**9
_MAX_FAIR_BY: Final = 1030
_MAX_FAILURES: Final = 10**6
_MAX_RATE: Final = 10**6
_UNITS_NS: Final = {"s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_RATE: Final = re.compile(r"([1-9][0-9]{0,6})/(s|min|h|d)", re.ASCII)
_VERSION: Final = 1
DIRECTORY: Final = "groups"
_LATER_MEMBERS: Final = (
    *("rate", "fair_by", "pause_on_failure", "on_rate_limit", "on_reboot"),
    *("budgets", "on_exceed", "tz"),
    *("on_end", "webhook"),
)
"""The members that the first version of the file did not have."""


def _check_end(_: object, __: object, until_ns: Any) -> None:
    if until_ns is not None and not (type(until_ns) is int and 0 <= until_ns < FOR_EVER_NS):
        message = "the end of a pause is no time of the years 1970 to 2262"
        raise InvalidArguments(message, repair="Give another time, or none: the pause ends when the group is resumed.")


@attrs.frozen(slots=True)
class Pause:
    """Why a group admits no jobs.

    Attributes:
        by: ``user``, or a cause that a newer version has added.
        until_ns: when it ends, in nanoseconds of the wall clock; ``None`` for a pause until `resume`.
        detail: the reason that was given.
        more: what a cause other than the user records beside that.
    """

    by: str
    until_ns: int | None = attrs.field(default=None, validator=_check_end)
    detail: str | None = None
    more: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


def _check_limit(_: object, __: object, limit: Any) -> None:
    if limit is not None and not (type(limit) is int and 0 <= limit <= _MAX_LIMIT):
        message = f"the limit of a group is {limit!r:.80}; it must be a whole number from 0 (closed) to {_MAX_LIMIT}"
        raise InvalidArguments(message)


def _check_aging(_: object, __: object, seconds: Any) -> None:
    if seconds is not None and not (type(seconds) in {int, float} and 0 <= seconds <= _MAX_AGING_SECONDS):
        message = f"aging is {seconds!r:.80}; it must be from 0 to {_MAX_AGING_SECONDS:.0f} seconds, or strict"
        raise InvalidArguments(message)


def _check_rate(_: object, __: object, rate: Any) -> None:
    if rate is not None and (_parsed_rate(rate) is None or _parsed_rate(rate)[0] > _MAX_RATE):
        message = f"rate is {rate!r:.80}; it must be a number of starts and a unit, s, min, h or d, such as 10/min"
        raise InvalidArguments(message)


def _parsed_rate(rate: Any) -> Any:
    """Return the number and the unit in nanoseconds; ``None`` for no rate."""
    found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    return None if found is None else (int(found[1]), _UNITS_NS[found[2]])


def _check_fair_by(_: object, __: object, fair_by: Any) -> None:
    if fair_by is not None and not (
        isinstance(fair_by, str) and len(fair_by) <= _MAX_FAIR_BY and check_fair_by(fair_by)
    ):
        message = f"fair_by is {fair_by!r:.80}; it must be workspace, principal, or label:NAME"
        raise InvalidArguments(message)


def _one_of(*words: str) -> Any:
    def check(_: object, attribute: attrs.Attribute[str], word: Any) -> None:
        if word not in words:
            message = f"{attribute.name} is {word!r:.80}; it must be one of {', '.join(words)}"
            raise InvalidArguments(message)

    return check


def _check_failures(_: object, __: object, number: Any) -> None:
    if number is not None and not (type(number) is int and 1 <= number <= _MAX_FAILURES):
        message = f"pause_on_failure is {number!r:.80}; it must be a whole number from 1 to {_MAX_FAILURES}"
        raise InvalidArguments(message)


def _check_budgets(_: object, __: object, budgets: Any) -> None:
    windows: set[tuple[str, str]] = set()
    for text in budgets:
        try:
            found = BudgetSetting.parse(text)
        except ValueError:
            message = (
                f"budget is {text!r:.80}; it must be a metric ({', '.join(METRICS)}), =, a number, / and a window"
                f" ({', '.join(WINDOWS)}), such as usd=20/day"
            )
            raise InvalidArguments(message) from None
        if (found.metric, found.window) in windows:
            message = f"there are two budgets of {found.metric} for each {found.window}"
            raise InvalidArguments(message)
        windows.add((found.metric, found.window))


def _words(words: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if not words:
        return None
    from supervisor.model.request import command_words  # few groups need it

    return command_words(words) or None


def _url(url: str | None) -> str | None:
    return url or None


def _check_tz(_: object, __: object, tz: Any) -> None:
    if tz is not None:
        try:
            zone_of(tz if isinstance(tz, str) else "")
        except ValueError as error:
            message = f"tz is {tz!r:.80}: {error}"
            repair = "Name a zone such as Europe/Berlin, or UTC; `pip install tzdata` installs the zones."
            raise InvalidArguments(message, repair=repair) from None


def _check_on_end(_: object, __: object, words: Any) -> None:
    if words is not None and not all(isinstance(word, str) and "\0" not in word for word in words):
        message = "on_end must be a command, whose words are strings"
        raise InvalidArguments(message)


def _check_webhook(_: object, __: object, url: Any) -> None:
    if url is not None:
        from supervisor.text.webhook_urls import ANYWHERE, parse_url  # few groups need it

        try:  # in which there is no mistake; the start of a job checks whether webhooks may go there
            parse_url(url if isinstance(url, str) else "", ANYWHERE)
        except ValueError as error:
            message = f"no webhook can be sent to the URL that was given: {error}"
            raise InvalidArguments(message, repair="Give a URL such as https://example.com/hook.") from error


@attrs.frozen(slots=True, kw_only=True)
class Group:
    """The settings of a group.

    Attributes:
        name: 1 to 64 letters, digits, ``.``, ``_`` or ``-``.
        limit: the weight that may run at a time; ``None`` is unlimited, 0 is closed.
        aging_seconds: the waiting time that equals one point of priority; ``None`` is strict priority.
        rate: how many jobs may start in a unit of time, such as ``10/min``; ``None`` for any number.
        fair_by: among what it is shared fairly: ``workspace``, ``principal`` or ``label:NAME``; ``None`` for the order
            of arrival.
        pause_on_failure: how many failures in a row pause it; ``None`` for none.
        on_rate_limit: ``wait`` or ``ignore``.
        on_reboot: what a reboot does to its waiting jobs: ``keep``, ``pause`` or ``fail``.
        budgets: what its jobs may spend, each as a text such as ``usd=20/day``.
        on_exceed: what is done once more was spent: ``hold`` its waiting jobs, or ``stop`` the running ones as well.
        tz: the time zone in which the windows of its budgets begin; ``None`` is UTC.
        on_end: the command that gets the end of each of its jobs that names none itself, see ``JobSpec``.
        webhook: the URL to which the end of each of its jobs is sent that names none itself.
        pauses: while one of them lasts, the group admits no job.
        more: the members that this version does not know.
    """

    name: str
    limit: int | None = attrs.field(default=None, validator=_check_limit)
    aging_seconds: float | None = attrs.field(default=DEFAULT_AGING_SECONDS, validator=_check_aging)
    rate: str | None = attrs.field(default=None, validator=_check_rate)
    fair_by: str | None = attrs.field(default=None, validator=_check_fair_by)
    pause_on_failure: int | None = attrs.field(default=None, validator=_check_failures)
    on_rate_limit: str = attrs.field(default="wait", validator=_one_of("wait", "ignore"))
    on_reboot: str = attrs.field(default="keep", validator=_one_of("keep", "pause", "fail"))
    budgets: tuple[str, ...] = attrs.field(default=(), converter=tuple[str, ...], validator=_check_budgets)
    on_exceed: str = attrs.field(default="hold", validator=_one_of(*ON_EXCEED))
    tz: str | None = attrs.field(default=None, validator=_check_tz)
    on_end: tuple[str, ...] | None = attrs.field(default=None, converter=_words, validator=_check_on_end)
    webhook: str | None = attrs.field(default=None, converter=_url, validator=_check_webhook)
    pauses: tuple[Pause, ...] = ()
    more: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    @property
    def aging_ns(self) -> int:
        """The waiting time that equals one point of priority, in nanoseconds."""
        return _STRICT_NS if self.aging_seconds is None else int(self.aging_seconds * 1e9)

    @property
    def settings(self) -> Settings:
        """What the index has of its other settings."""
        number, unit_ns = _parsed_rate(self.rate) or (0, 0)
        interval_ns = unit_ns // number if number else 0
        return Settings(interval_ns, number, self.fair_by, self.pause_on_failure, self.on_reboot)

    @property
    def held_budgets(self) -> str | None:
        """What the index has of its budgets; ``None`` for none."""
        if not self.budgets:
            return None
        return Budgets(self.tz or "UTC", self.on_exceed, tuple(map(BudgetSetting.parse, self.budgets))).encode()


def end_of(pauses: Iterable[Pause]) -> int:
    """Return when the last of these pauses ends, 0 for none."""
    return max((FOR_EVER_NS if each.until_ns is None else each.until_ns for each in pauses), default=0)


def _decode(name: str, held: dict[str, Any]) -> Group:
    if held["v"] != _VERSION:
        message = f"it has version {held['v']!r}, and this version of the package knows {_VERSION}"
        raise ValueError(message)
    paused: Any = held.get("paused", ())
    if not all(type(each["by"]) is str for each in paused):
        message = "a pause has no cause"
        raise ValueError(message)
    pauses = tuple(Pause(each["by"], each.get("until_ns"), each.get("detail")) for each in paused)
    known = {"v", "name", "limit", "aging_seconds", "paused", *_LATER_MEMBERS}
    return Group(
        name=name,
        limit=held["limit"],
        aging_seconds=held["aging_seconds"],
        pauses=pauses,
        **{member: held[member] for member in _LATER_MEMBERS if member in held},
        more={key: value for key, value in held.items() if key not in known},
    )


_FILES: Final = NamedFiles(
    DIRECTORY, "group", _decode, "Correct or delete {path}, then run `supervisor group set {name}`."
)
check_name, load, load_all = _FILES.check_name, _FILES.load, _FILES.load_all


def save(root: str, group: Group, *, durable: bool = False) -> None:
    """Write the file of a group as a whole; the caller holds the lock of the root. ``durable``: see ``named_files``.

    Raises:
        StateFull, StateBusy, PermissionDenied: it cannot be written.
    """
    held = {
        **group.more,
        "v": _VERSION,
        "name": group.name,
        "limit": group.limit,
        "aging_seconds": group.aging_seconds,
        "paused": [{"by": each.by, "until_ns": each.until_ns, "detail": each.detail} for each in group.pauses],
        **{member: getattr(group, member) for member in _LATER_MEMBERS},
    }
    _FILES.save(root, group.name, held, durable=durable)


def remove(root: str, name: str, *, durable: bool = False) -> None:
    """Delete the file of a group.

    Raises:
        StateBusy, PermissionDenied: it cannot be deleted.
    """
    what = f"cannot delete the file of group {name}"
    delete_file(f"{root}/{DIRECTORY}/{name}.json", what, root if durable else None)


def any_waits_out(root: str, names: Iterable[str]) -> bool:
    """Whether one of these groups waits out the usage limits that its jobs meet.

    Raises:
        StateBusy, PermissionDenied: that is not known now.
    """
    for name in names:
        with contextlib.suppress(StateCorrupt):
            group = load(root, name)
            if group is not None and group.on_rate_limit == "wait":
                return True
    return False
