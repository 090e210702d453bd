"""The description of a load: how often, for how long, and sorts of jobs with their shares.

It comes from options (``simple``) or from a TOML file (``load``) in which each ``[job.NAME]`` is a
sort of job. A mistake is reported with its line, its key and what is allowed there.
"""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import attrs

from supervisor.errors import InvalidArguments
from supervisor.load import spread
from supervisor.load.spread import Spread, parse_bytes, parse_spread

__all__ = ["ARRIVALS", "EXAMPLE", "Mix", "Sort", "load", "parse", "simple"]

ARRIVALS: Final = ("poisson", "constant")

HOLD_SECONDS: Final = 3600.0
"""How long a job sleeps that is to be stopped before: so long that it never ends first."""

_MOST_JOBS: Final = 10_000_000
_MOST_RATE: Final = 100_000
_NONE: Final = parse_spread(0)
_BYTES: Final = f"{spread.ACCEPTS}, of bytes, with k, M or G for more"

EXAMPLE: Final = """\
rate = 20                  # jobs a second
for_seconds = 10           # how long jobs are started
arrivals = "poisson"       # or "constant"

[job.quick]
share = 90                 # of the sum of all shares
seconds = "exp:0.2:2"      # what it sleeps: 0.2 s on average, 2 s at most
output_bytes = "lognormal:1k:64k"

[job.fails]
share = 4
exit_code = 3
stderr_bytes = 200

[job.cancelled]
share = 3
cancel_after_seconds = "uniform:0.1:1"

[job.late]
share = 3
deadline_seconds = 0.5
"""


def _any_seed() -> int:
    return random.getrandbits(32)


@attrs.frozen(slots=True, kw_only=True)
class Sort:
    """One sort of job.

    Attributes:
        name: what it is called in the report.
        share: how much of all jobs it makes, in proportion to the shares of the others.
        seconds: how long a job sleeps.
        output_bytes: what it writes to stdout, half of it before it sleeps.
        stderr_bytes: what it writes to stderr.
        exit_code: what it exits with.
        cancel_after_seconds: cancel it so long after its start was acknowledged; ``None`` for never.
        deadline_seconds: its deadline, which it runs into; ``None`` for none that it would.
        stubborn: it ignores SIGTERM.
    """

    name: str
    share: float = 1
    seconds: Spread = _NONE
    output_bytes: Spread = _NONE
    stderr_bytes: Spread = _NONE
    exit_code: int = 0
    cancel_after_seconds: Spread | None = None
    deadline_seconds: Spread | None = None
    stubborn: bool = False

    @property
    def stopped_by(self) -> Spread | None:
        """After how long it is stopped, if it is not to end by itself."""
        return self.cancel_after_seconds or self.deadline_seconds

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults, in the names of the file."""
        shape: dict[str, Any] = {}
        for each in attrs.fields(Sort):
            held = getattr(self, each.name)
            implied = each.name == "seconds" and self.stopped_by is not None
            if each.name == "share" or not (each.name == "name" or held == each.default or implied):
                shape[each.name] = held.text if isinstance(held, Spread) else held
        return shape


@attrs.frozen(slots=True, kw_only=True)
class Mix:
    """A load.

    Attributes:
        sorts: the sorts of jobs, at least one.
        rate: jobs a second.
        for_seconds: how long jobs are started.
        jobs: no more jobs than this; ``None`` for any number.
        arrivals: ``poisson``, at random as from many callers, or ``constant``, evenly spaced.
        seed: of everything that is left to chance; by default another one each time.
        max_in_flight: no more jobs than this at once; one that is due has to wait, and is timed from
            when it was due.
    """

    sorts: tuple[Sort, ...]
    rate: float = 20.0
    for_seconds: float = 10.0
    jobs: int | None = None
    arrivals: str = "poisson"
    seed: int = attrs.field(factory=_any_seed)
    max_in_flight: int = 1000

    def __attrs_post_init__(self) -> None:
        """Refuse what nobody can want."""
        if self.rate * self.for_seconds > _MOST_JOBS and (self.jobs is None or self.jobs > _MOST_JOBS):
            message = f"{self.rate:g} jobs a second for {self.for_seconds:g} s are more than {_MOST_JOBS} jobs"
            raise InvalidArguments(message, repair="Lower the rate or the time, or limit the number of jobs.")

    @property
    def expected_jobs(self) -> float:
        """How many jobs there will be, on average."""
        expected = self.rate * self.for_seconds
        return expected if self.jobs is None else min(expected, self.jobs)

    @property
    def expected_in_flight(self) -> float:
        """How many jobs will sleep at once, on average, if nothing takes any time."""
        total = sum(sort.share for sort in self.sorts)
        asleep = sum((sort.stopped_by or sort.seconds).mean * sort.share for sort in self.sorts) / total
        return self.rate * min(asleep, self.for_seconds)

    @property
    def most_output_bytes(self) -> int:
        """The most that any job writes to one of its streams."""
        return int(max(max(sort.output_bytes.most, sort.stderr_bytes.most) for sort in self.sorts))

    def to_json(self) -> dict[str, Any]:
        """Return the description as a file would have it."""
        shape: dict[str, Any] = {name: getattr(self, name) for name in _TOP}
        shape["job"] = {sort.name: sort.to_json() for sort in self.sorts}
        return shape


def simple(
    *,
    seconds: Spread,
    output_bytes: Spread,
    cancels: float,
    timeouts: float,
    failures: float,
    **rest: Any,
) -> Mix:
    """Return the mix that a few options describe; ``rest`` are attributes of ``Mix``.

    Input
        seconds, output_bytes: of jobs that end by themselves.
        cancels, timeouts, failures: the shares of jobs that are cancelled, that run into their deadline and
            that exit with 3, each from 0 to 1.

    Raises:
        InvalidArguments: the shares are more than 1.
    """
    plain = round(1 - cancels - timeouts - failures, 9)
    if plain < 0:
        message = f"the shares of cancels, timeouts and failures come to {1 - plain:g}, which is more than 1"
        raise InvalidArguments(message, repair="Lower --cancels, --timeouts or --failures.")
    soon = parse_spread("uniform:0.1:1")
    sorts = (
        Sort(name="plain", share=plain, seconds=seconds, output_bytes=output_bytes),
        Sort(name="failing", share=failures, seconds=seconds, output_bytes=output_bytes, exit_code=3),
        _held(Sort(name="cancelled", share=cancels, output_bytes=output_bytes, cancel_after_seconds=soon)),
        _held(Sort(name="late", share=timeouts, output_bytes=output_bytes, deadline_seconds=soon)),
    )
    return Mix(sorts=tuple(sort for sort in sorts if sort.share), **rest)


def _held(sort: Sort) -> Sort:
    return attrs.evolve(sort, seconds=Spread(f"{HOLD_SECONDS:g}", "fixed", (HOLD_SECONDS,), HOLD_SECONDS))


def load(path: Path, **given: Any) -> Mix:
    """Read a file; ``given`` are attributes of ``Mix`` that stand above it.

    Raises:
        InvalidArguments: it cannot be read, or has a mistake.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8"
        raise InvalidArguments(message, repair="Save the file as UTF-8.") from error
    except OSError as error:
        message = f"the mix {path} cannot be read: {error.strerror or error}"
        raise InvalidArguments(message, repair="Correct --mix; --print-example shows a file to begin with.") from error
    return parse(text, str(path), **given)


def parse(text: str, path: str, **given: Any) -> Mix:
    """Read the text of a file; ``path`` is its name in messages, ``given`` stands above it.

    Raises:
        InvalidArguments: it has a mistake.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = f"{path}: this is not TOML: {error}"
        raise InvalidArguments(message, repair="Correct the file.") from error
    return _Reader(text, path).read(document, given)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _positive(value: Any) -> float:
    if (number := _real(value)) <= 0:
        raise ValueError(value)
    return number


def _rate(value: Any) -> float:
    if (number := _positive(value)) > _MOST_RATE:
        raise ValueError(value)
    return number


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _count(value: Any) -> int:
    if (number := _whole(value)) == 0:
        raise ValueError(value)
    return number


def _arrivals(value: Any) -> str:
    if value not in ARRIVALS:
        raise ValueError(value)
    return cast("str", value)


def _exit_code(value: Any) -> int:
    if (number := _whole(value)) > 125:  # above that a shell means something by it
        raise ValueError(value)
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _positive_spread(value: Any) -> Spread:
    made = parse_spread(value)
    if made.values[0] <= 0:
        raise ValueError(value)
    return made


def _bytes_spread(value: Any) -> Spread:
    return parse_spread(value, parse_bytes)


_Parse = tuple[Callable[[Any], Any], str]

_TOP: Final[Mapping[str, _Parse]] = {
    "rate": (_rate, f"a number of jobs a second, above 0 and at most {_MOST_RATE}"),
    "for_seconds": (_positive, "a number of seconds above 0"),
    "jobs": (_count, "a whole number of at least 1"),
    "arrivals": (_arrivals, " or ".join(f'"{name}"' for name in ARRIVALS)),
    "seed": (_whole, "a whole number of at least 0"),
    "max_in_flight": (_count, "a whole number of at least 1"),
}
_SORT: Final[Mapping[str, _Parse]] = {
    "share": (_positive, "a number above 0"),
    "seconds": (parse_spread, f"{spread.ACCEPTS}, of seconds"),
    "output_bytes": (_bytes_spread, _BYTES),
    "stderr_bytes": (_bytes_spread, _BYTES),
    "exit_code": (_exit_code, "a whole number from 0 to 125"),
    "cancel_after_seconds": (parse_spread, f"{spread.ACCEPTS}, of seconds"),
    "deadline_seconds": (_positive_spread, f"{spread.ACCEPTS}, of seconds above 0"),
    "stubborn": (_boolean, "true or false"),
}


class _Reader:
    """Reads a parsed document, and knows where everything stands."""

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path

    def read(self, document: Mapping[str, Any], given: Mapping[str, Any]) -> Mix:
        values = dict(self._values((), document, _TOP, also={"job"}))
        tables = document.get("job", {})
        if not isinstance(tables, dict) or not tables:
            self._refuse(("job",), "there are no jobs in it", "tables: [job.NAME]")
        sorts = tuple(self._sort(name, table) for name, table in cast("dict[str, Any]", tables).items())
        return Mix(sorts=sorts, **(values | {name: each for name, each in given.items() if each is not None}))

    def _sort(self, name: str, table: Any) -> Sort:
        where = ("job", name)
        if not name.isprintable() or not name.strip() or len(name) > 40:
            self._refuse(where, f"the name {name!r} cannot be that of a sort of job", "at most 40 printable characters")
        if not isinstance(table, dict):
            self._refuse(where, f"{name} is {table!r:.80}", f"a table: [job.{name}]")
        held = cast("dict[str, Any]", table)
        made = Sort(name=name, **dict(self._values(where, held, _SORT)))
        if made.cancel_after_seconds is not None and made.deadline_seconds is not None:
            message = "it is to be cancelled and to run into its deadline, and only one of them can come first"
            self._refuse((*where, "deadline_seconds"), message, "one of cancel_after_seconds and deadline_seconds")
        if made.stopped_by is None:
            if made.stubborn:
                self._refuse((*where, "stubborn"), "nobody stops this job", "it beside a cancel or a deadline only")
            return made
        for key in ("seconds", "exit_code"):
            if key in held:
                accepts = "it only for jobs that end by themselves; this one runs until it is stopped"
                self._refuse((*where, key), f"{key} has no meaning here", accepts)
        return _held(made)

    def _values(
        self,
        where: tuple[str, ...],
        table: Mapping[str, Any],
        known: Mapping[str, _Parse],
        also: Sequence[str] | set[str] = (),
    ) -> Iterator[tuple[str, Any]]:
        for key, value in table.items():
            if key in also:
                continue
            if key not in known:
                accepts = f"one of {', '.join(sorted({*known, *also}))}"
                self._refuse((*where, key), f"there is no key {key!r} here", accepts)
            parse, accepts = known[key]
            try:
                yield key, parse(value)
            except (ValueError, OverflowError):
                self._refuse((*where, key), f"{key} is {value!r:.80}", accepts)

    def _refuse(self, where: Sequence[str], what: str, accepts: str) -> NoReturn:
        from supervisor.text.toml_lines import complaint

        message, details = complaint(self._path, self._text, where, what, accepts)
        raise InvalidArguments(message, repair="Correct the file; --print-example shows one.", details=details)
