"""The description of a load: the rate, the duration, and sorts of jobs with their shares.

It comes from options (``simple``) or from a TOML file (``load``), in which each ``[job.NAME]`` is a sort.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs

from supervisor.errors import InvalidArguments
from supervisor.load import spread
from supervisor.load.spread import Spread, parse_bytes, parse_spread
from supervisor.text.toml_file import BOOLEAN, Parser, TomlFile, parser, real, whole

__all__ = ["ARRIVALS", "EXAMPLE", "Mix", "Sort", "load", "parse", "simple"]

ARRIVALS: Final = ("poisson", "constant")

HOLD_SECONDS: Final = 3600.0
"""The sleep of a job that is stopped, long enough that the stop is always first."""

_MAX_JOBS: Final = 10_000_000
_MAX_RATE: Final = 100_000
_NONE: Final = parse_spread(0)
_BYTES: Final = f"{spread.ACCEPTS}, of bytes, with the units k, M and G"

EXAMPLE: Final = """\
rate = 20                  # jobs a second
for_seconds = 10           # how long jobs are started
arrivals = "poisson"       # or "constant"

[job.quick]
share = 90                 # of the sum of all shares
seconds = "exp:0.2:2"      # its sleep: 0.2 s on average, 2 s at most
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
        name: its name in the report.
        share: its share of all jobs, in proportion to the sum of all shares.
        seconds: how long a job sleeps.
        output_bytes: the bytes of stdout, half of them before it sleeps.
        stderr_bytes: the bytes of stderr.
        exit_code: its exit status.
        cancel_after_seconds: the time from its acknowledged start to its cancellation; ``None`` for none.
        deadline_seconds: the deadline that it runs into; ``None`` for none.
        stubborn: whether it ignores SIGTERM.
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
    def stopped_after(self) -> Spread | None:
        """The time after which it is stopped; ``None`` if it ends by itself."""
        return self.cancel_after_seconds or self.deadline_seconds

    def to_json(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, by the keys of the file."""
        shape: dict[str, Any] = {}
        for each in attrs.fields(Sort):
            held = getattr(self, each.name)
            implied = each.name == "seconds" and self.stopped_after is not None
            if each.name == "share" or not (each.name == "name" or held == each.default or implied):
                shape[each.name] = held.text if isinstance(held, Spread) else held
        return shape


@attrs.frozen(slots=True, kw_only=True)
class Mix:
    """A load.

    Attributes:
        sorts: the sorts of jobs, at least one.
        rate: jobs per second.
        for_seconds: how long jobs are started.
        jobs: the maximum number of jobs; ``None`` for no limit.
        arrivals: ``poisson``, at random as from many callers, or ``constant``, evenly spaced.
        seed: the seed of all random values; by default a new one.
        max_in_flight: the maximum number of jobs at once. Latencies of jobs that wait count from their due time.
    """

    sorts: tuple[Sort, ...]
    rate: float = 20.0
    for_seconds: float = 10.0
    jobs: int | None = None
    arrivals: str = "poisson"
    seed: int = attrs.field(factory=_any_seed)
    max_in_flight: int = 1000

    def __attrs_post_init__(self) -> None:
        """Refuse a load with too many jobs."""
        if self.rate * self.for_seconds > _MAX_JOBS and (self.jobs is None or self.jobs > _MAX_JOBS):
            message = f"{self.rate:g} jobs a second for {self.for_seconds:g} s are more than {_MAX_JOBS} jobs"
            raise InvalidArguments(message, repair="Lower the rate or the time, or limit the number of jobs.")

    @property
    def expected_jobs(self) -> float:
        """The number of jobs, on average."""
        expected = self.rate * self.for_seconds
        return expected if self.jobs is None else min(expected, self.jobs)

    @property
    def expected_in_flight(self) -> float:
        """The number of jobs that sleep at once, on average, without any delays."""
        total = sum(sort.share for sort in self.sorts)
        asleep = sum((sort.stopped_after or sort.seconds).mean * sort.share for sort in self.sorts) / total
        return self.rate * min(asleep, self.for_seconds)

    @property
    def max_output_bytes(self) -> int:
        """The maximum number of bytes that a job writes to one of its streams."""
        return int(max(max(sort.output_bytes.maximum, sort.stderr_bytes.maximum) for sort in self.sorts))

    def to_json(self) -> dict[str, Any]:
        """Return the description with the keys of a file."""
        shape: dict[str, Any] = {name: getattr(self, name) for name in _MIX_KEYS}
        shape["job"] = {sort.name: sort.to_json() for sort in self.sorts}
        return shape


def simple(
    *, seconds: Spread, output_bytes: Spread, cancels: float, timeouts: float, failures: float, **rest: Any
) -> Mix:
    """Return the mix that a few options describe; ``rest`` are attributes of ``Mix``.

    Input
        seconds, output_bytes: the sleep and the output of jobs that end by themselves.
        cancels, timeouts, failures: the shares of jobs that are cancelled, that run into their deadline, and
            that exit with 3, each from 0 to 1.

    Raises:
        InvalidArguments: the sum of the shares is more than 1.
    """
    plain = round(1 - cancels - timeouts - failures, 9)
    if plain < 0:
        message = f"the sum of the shares of cancels, timeouts and failures is {1 - plain:g}, which is more than 1"
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
    """Read a file; ``given`` are attributes of ``Mix`` that override it.

    Raises:
        InvalidArguments: the file cannot be read, or has a mistake.
    """
    try:
        text = path.expanduser().read_bytes()
    except OSError as error:
        message = f"the mix {path} cannot be read: {error.strerror or error}"
        raise InvalidArguments(message, repair="Correct --mix; --print-example prints an example.") from error
    return parse(text, str(path), **given)


def parse(text: str | bytes, path: str, **given: Any) -> Mix:
    """Parse the text of a file; ``path`` is its name in messages, ``given`` overrides it.

    Raises:
        InvalidArguments: the file has a mistake.
    """
    file = TomlFile(text, path, InvalidArguments, "Correct the file; --print-example prints an example.")
    values = file.values((), file.document, _MIX_KEYS, {"job"})
    tables = file.document.get("job")
    if not isinstance(tables, dict) or not tables:
        file.refuse(("job",), "there are no jobs in it", "tables: [job.NAME]")
    sorts = tuple(_sort(file, name, table) for name, table in cast("dict[str, Any]", tables).items())
    return Mix(sorts=sorts, **(values | {name: each for name, each in given.items() if each is not None}))


def _sort(file: TomlFile, name: str, value: Any) -> Sort:
    where = ("job", name)
    if not name.isprintable() or not name.strip() or len(name) > 40:
        file.refuse(where, f"the name {name!r} cannot be that of a sort of job", "at most 40 printable characters")
    table = file.table(where, value, f"a table: [job.{name}]")
    made = Sort(name=name, **file.values(where, table, _SORT_KEYS))
    if made.cancel_after_seconds is not None and made.deadline_seconds is not None:
        message = "a job can be cancelled or run into its deadline, not both"
        file.refuse((*where, "deadline_seconds"), message, "one of cancel_after_seconds and deadline_seconds")
    if made.stopped_after is None:
        if made.stubborn:
            allowed = "it only with a cancellation or a deadline"
            file.refuse((*where, "stubborn"), "stubborn needs a job that is stopped", allowed)
        return made
    for key in ("seconds", "exit_code"):
        if key in table:
            allowed = "it only for jobs that end by themselves; this one runs until it is stopped"
            file.refuse((*where, key), f"{key} is not allowed here", allowed)
    return _held(made)


def _positive_spread(value: Any) -> Spread:
    made = parse_spread(value)
    if made.values[0] <= 0:
        raise ValueError(value)
    return made


def _bytes_spread(value: Any) -> Spread:
    return parse_spread(value, parse_bytes)


_POSITIVE: Final = real(lambda value: value > 0)

_MIX_KEYS: Final[Mapping[str, Parser]] = {
    "rate": (real(lambda value: 0 < value <= _MAX_RATE), f"a number of jobs a second, above 0 and at most {_MAX_RATE}"),
    "for_seconds": (_POSITIVE, "a number of seconds above 0"),
    "jobs": (whole(1), "a whole number of at least 1"),
    "arrivals": (parser(str, ARRIVALS.__contains__), " or ".join(f'"{name}"' for name in ARRIVALS)),
    "seed": (whole(), "a whole number of at least 0"),
    "max_in_flight": (whole(1), "a whole number of at least 1"),
}
_SORT_KEYS: Final[Mapping[str, Parser]] = {
    "share": (_POSITIVE, "a number above 0"),
    "seconds": (parse_spread, f"{spread.ACCEPTS}, of seconds"),
    "output_bytes": (_bytes_spread, _BYTES),
    "stderr_bytes": (_bytes_spread, _BYTES),
    "exit_code": (whole(0, 125), "a whole number from 0 to 125"),  # the others have a meaning for shells
    "cancel_after_seconds": (parse_spread, f"{spread.ACCEPTS}, of seconds"),
    "deadline_seconds": (_positive_spread, f"{spread.ACCEPTS}, of seconds above 0"),
    "stubborn": BOOLEAN,
}
