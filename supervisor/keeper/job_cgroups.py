"""The control groups that a keeper makes for its jobs: one leaf for each, with its limits.

The leaves of a keeper are in a directory that bears its claim, so that another keeper can tell when nothing uses them
any more. A job without limits costs no controller: on version 2 the leaves with limits are in a directory of their own.
"""

from __future__ import annotations

import os
import sys

from supervisor.jobdir import records
from supervisor.keeper import spawn
from supervisor.system import cgroups, processes
from supervisor.system.observing import NotKnown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    Limits = tuple[int | None, float | None, int | None, bool]
    """Bytes of memory, processors, processes, and whether the job must not run without them."""

__all__ = [
    "CGROUPS_VARIABLE",
    "MISSING_REPAIR",
    "JobCgroups",
    "Leaf",
    "memory_facts",
    "memory_of",
    "remove_of",
    "tree_of",
]

MISSING_REPAIR: Final = (
    "Start it with limits=best-effort (--limits best-effort), or where limits can be set: `supervisor doctor` says how."
)
CGROUPS_VARIABLE: Final = "SUPERVISOR_CGROUPS"
"""With the value ``off`` a keeper makes no control groups."""
_LIMITED: Final = "limited"
_SPARE: Final = "spare"
_CPU_PERIOD_US: Final = 100_000
_LEAST_CPU_US: Final = 1000
_TRIES: Final = 20

_exits: dict[str, int] = {}
"""Descriptors of the files by which a thread returns to a place, for as long as the keeper runs: to open one may fail
after a spawn, and a keeper in the control group of a job would stand still with it."""


def _exit(place: cgroups.Place) -> int:
    if place.directory not in _exits:
        _exits[place.directory] = os.open(f"{place.directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
    return _exits[place.directory]


def _quietly(call: Callable[..., object], *args: object) -> bool:
    """Make a call; return whether it raised no ``OSError``."""
    try:
        call(*args)
    except OSError:
        return False
    return True


class Leaf:
    """The control groups of one job.

    Attributes:
        tree: the one that holds its processes; ``None`` where there is none.
        ignored: the names of the limits that could not be set.
        directories: all of them.
    """

    def __init__(self, *, required: bool = False) -> None:
        """``required``: its process must not run without one of the limits."""
        self._required = required
        self.tree: cgroups.TreeGroup | None = None
        self.ignored: list[str] = []
        self.directories: list[str] = []
        self._entered: list[tuple[str, int]] = []  # of version 1: that of the job, and the way back (see `_exit`)
        self._unified: str | None = None
        self._memory: tuple[str, int] | None = None
        self._pids: str | None = None
        self._limited: dict[str, str] = {}  # the names of controllers, by directory
        self.alarm: int | None = None
        """A descriptor that is readable once the kernel ends a process for the limit, but not the rest: version 1."""

    def spawn(self, spawn_: Callable[..., int], *args: object) -> int:
        """Call ``spawn_``, which spawns a process, so that the process is in these control groups from its beginning.

        In a hierarchy of version 1 the calling thread is there meanwhile: a new process begins where that is.
        """
        entered: list[int] = []
        try:
            for own, back in self._entered:
                entered.append(back)
                try:
                    cgroups.write(f"{own}/tasks", "0")
                except OSError as error:
                    self._miss(own, error)
            if self._unified is None:
                return spawn_(*args)
            into = os.open(self._unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return spawn_(*args, into)
            finally:
                _quietly(os.close, into)
        finally:  # the process is there: no error may lose its pid
            for back in entered:
                for _ in range(_TRIES):
                    if _quietly(os.write, back, b"0"):
                        break
            if self._pids is not None and entered:  # the calling thread has left
                _quietly(cgroups.write, self._pids, "1")

    def _miss(self, directory: str, error: OSError) -> None:
        """Do without a control group that the process cannot enter.

        Raises:
            LaunchError: that has a limit without which it must not run.
        """
        if self._required and directory in self._limited:
            message = f"it cannot enter its control group {directory}: {error.strerror}"
            raise spawn.LaunchError(125, message, repair=MISSING_REPAIR) from None
        if self.tree is not None and self.tree.directory == directory:
            self.tree = None
        if directory in self._limited:
            self.ignored.append(self._limited[directory])

    def add(self, place: cgroups.Place, directory: str) -> None:
        """Add a control group that was made in ``place``."""
        if directory in self.directories:
            return
        if place.version == 1:
            self._entered.append((directory, _exit(place)))
        else:
            self._unified = directory
        self.directories.append(directory)

    def limit(self, name: str, place: cgroups.Place, directory: str, value: float) -> None:
        """Set a limit.

        Raises:
            OSError: the kernel does not take it.
        """
        old = place.version == 1
        self._limited[directory] = name
        if name == "memory":
            self._memory = directory, place.version
            cgroups.write(f"{directory}/{'memory.limit_in_bytes' if old else 'memory.max'}", str(int(value)))
            if not old:
                cgroups.write(f"{directory}/memory.oom.group", "1")
            # A page more: the kernel counts how often this limit is reached for memory alone only.
            both = str(int(value) + os.sysconf("SC_PAGE_SIZE"))
            swap = ("memory.memsw.limit_in_bytes", both) if old else ("memory.swap.max", "0")
            try:
                cgroups.write(f"{directory}/{swap[0]}", swap[1])
            except FileNotFoundError:  # the kernel counts no swap
                return
        elif name == "cpu":
            quota = max(_LEAST_CPU_US, int(value * _CPU_PERIOD_US))
            if old:
                cgroups.write(f"{directory}/cpu.cfs_quota_us", str(quota))
            else:
                cgroups.write(f"{directory}/cpu.max", f"{quota} {_CPU_PERIOD_US}")
        else:
            cgroups.write(f"{directory}/pids.max", str(int(value)))
            if old and value < 2:  # the thread that spawns the process counts, too
                cgroups.write(f"{directory}/pids.max", "2")
                self._pids = f"{directory}/pids.max"

    def set_alarm(self) -> int | None:
        """Return a descriptor that is readable once the kernel ends a process for the limit, but not the rest.

        Version 2 ends all of them. In version 1 the keeper does that.
        """
        if self._memory is None or self._memory[1] == 2 or not hasattr(os, "eventfd"):
            return None
        directory, _ = self._memory
        try:
            alarm: int = os.eventfd(0)  # like all descriptors, not inheritable
            os.set_blocking(alarm, False)
            try:
                control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    cgroups.write(f"{directory}/cgroup.event_control", f"{alarm} {control}")
                    if _counts(os.read(control, 1 << 12).decode("ascii")).get("oom_kill"):  # before that
                        os.write(alarm, (1).to_bytes(8, sys.byteorder))
                finally:
                    os.close(control)
            except (OSError, ValueError):
                os.close(alarm)
                raise
        except (OSError, ValueError):  # the end of the command tells, too
            return None
        self.alarm = alarm
        return alarm

    def close(self) -> None:
        """Close what it holds."""
        if self.alarm is not None:
            os.close(self.alarm)
            self.alarm = None

    def record(self) -> dict[str, object]:
        """Return the members of ``process.json`` about it."""
        found: dict[str, object] = {}
        if self.tree is not None:
            found[records.CGROUP] = self.tree.directory
        if self._memory is not None:
            found[records.MEMORY_CGROUP] = self._memory[0]
        if self.ignored:
            found[records.IGNORED_LIMITS] = " ".join(self.ignored)
        return found

    def memory_facts(self) -> tuple[int | None, bool]:
        """Return the most memory that it has used, and whether the kernel has ended a process for its limit."""
        if self._memory is None:
            return None, False
        directory, version = self._memory
        return memory_facts(directory, version)


def memory_facts(directory: str, version: int) -> tuple[int | None, bool]:
    """Return the most memory that a control group has used, and whether its limit has ended a process in it."""
    try:
        peak: int | None = int(
            cgroups.read(f"{directory}/{'memory.max_usage_in_bytes' if version == 1 else 'memory.peak'}")
        )
    except (OSError, ValueError):  # a kernel before 5.19
        peak = None
    try:
        if version == 1:
            reached = int(cgroups.read(f"{directory}/memory.failcnt"))
            counts = _counts(cgroups.read(f"{directory}/memory.oom_control"))
        else:
            counts = _counts(cgroups.read(f"{directory}/memory.events"))
            reached = counts.get("oom", 0)
    except (OSError, ValueError):
        return peak, False
    return peak, reached > 0 and counts.get("oom_kill", 0) > 0


def _counts(text: str) -> dict[str, int]:
    return {name: int(count) for name, count in (line.split(" ") for line in text.splitlines())}


class JobCgroups:
    """Makes the leaves of one keeper, and removes them.

    Args:
        claim: of the keeper.
    """

    def __init__(self, claim: str) -> None:
        self._name = cgroups.KEEPER_PREFIX + claim.partition(".")[2]
        self._places = cgroups.Places()
        self._made: list[str] = []
        self._bases: dict[tuple[str, bool], str] = {}
        self._old: list[Leaf] = []
        self._spares: dict[str, bool] = {}
        """By base of version 1: whether a control group is there that was made in advance."""
        self._every_job = False
        self.is_sure = True
        """Whether what is missing was observed, and not only not known when the keeper began."""

    @property
    def missing(self) -> dict[str, str]:
        """Why a job cannot be limited, by the name of the controller."""
        return self._places.missing

    def open(self) -> None:
        """Find the places, and remove what keepers that are gone have left there."""
        if os.environ.get(CGROUPS_VARIABLE) == "off":
            why = f"{CGROUPS_VARIABLE} is off"
            self._places.missing = dict.fromkeys(("tree", *cgroups.CONTROLLERS), why)
            return
        why, self.is_sure = _enter_scope()
        self._places = places = cgroups.find_places(spawns_into=spawn.CAN_SPAWN_INTO)
        if why:
            places.missing = {name: f"{reason}; {why}" for name, reason in places.missing.items()}
        # Without a call of the C library the keeper has to be copied (docs/decisions/0014): only for limits.
        self._every_job = places.tree is not None and (places.tree.version == 1 or spawn.CAN_SPAWN_INTO)
        for directory in {place.directory for place in (places.tree, *places.limits.values()) if place is not None}:
            _sweep(directory)

    def close(self) -> None:
        """Remove what is empty."""
        self._remove_old()
        for directory in reversed(self._made):
            remove(directory)

    def begin(self, job_id: str, limits: Limits | None) -> Leaf | None:
        """Make the control groups of a job; ``None`` if it gets none.

        Raises:
            LaunchError: the job must not run without a limit that cannot be set.
        """
        if limits is None and not self._every_job:
            return None
        leaf = Leaf(required=limits is not None and limits[3])
        try:
            limited = limits is not None
            tree = self._tree_for(limits)
            if tree is not None:
                directory = self._make(leaf, tree, job_id, limited=limited)
                if directory is not None:
                    leaf.tree = cgroups.TreeGroup(directory, tree.version)
            if limits is not None:
                for name, value in zip(cgroups.CONTROLLERS, limits, strict=False):
                    if value is not None:
                        self._limit(leaf, job_id, name, value, require=limits[3])
        except spawn.LaunchError:
            self.end(leaf)
            raise
        return leaf

    def _tree_for(self, limits: Limits | None) -> cgroups.Place | None:
        """Return the place for the tree of a job: in one hierarchy a process is in one control group."""
        if limits is not None:
            for name, value in zip(cgroups.CONTROLLERS, limits, strict=False):
                place = self._places.limits.get(name)
                if value is not None and place is not None and place.version == 2:
                    return place
        return self._places.tree

    def _limit(self, leaf: Leaf, job_id: str, name: str, value: float, *, require: bool) -> None:
        place = self._places.limits.get(name)
        why = self._places.missing.get(name, "there is no such controller")
        if place is not None:
            try:
                directory = self._make(leaf, place, job_id, limited=True, strict=True)
                assert directory is not None  # noqa: S101  # an error is raised then
                leaf.limit(name, place, directory, value)
            except OSError as error:
                why = f"{error.filename or place.directory}: {error.strerror}"
            else:
                return
        if require:
            message = f"its limit on {name} cannot be set: {why}"
            raise spawn.LaunchError(125, message, final=self.is_sure, repair=MISSING_REPAIR)
        leaf.ignored.append(name)

    def _make(
        self, leaf: Leaf, place: cgroups.Place, job_id: str, *, limited: bool, strict: bool = False
    ) -> str | None:
        """Make the control group of a job in a place, or return the one that it has there."""
        try:
            base = self._base(place, limited=limited)
            directory = f"{base}/{cgroups.JOB_PREFIX}{job_id}"
            if directory not in leaf.directories:
                if place.version == 2 or not self._take_spare(base, directory):
                    os.mkdir(directory)
                leaf.add(place, directory)
        except OSError:
            if strict:
                raise
            return None
        return directory

    def _take_spare(self, base: str, directory: str) -> bool:
        """Give a name to a control group that was made in advance; return whether there was one.

        Version 2 has no such call. In version 1 it takes a fifth of the time in which one is made.
        """
        is_there = self._spares.get(base, False)
        self._spares[base] = False
        return is_there and _quietly(os.rename, f"{base}/{_SPARE}", directory)

    def _base(self, place: cgroups.Place, *, limited: bool) -> str:
        """Return the directory of this keeper in a place."""
        limited = limited and place.version == 2
        base = self._bases.get((place.directory, limited))
        if base is None:
            base = f"{place.directory}/{self._name}"
            self._mkdir(base)
            if limited:
                names = [name for name, each in self._places.limits.items() if each.version == 2]
                wanted = " ".join(f"+{name}" for name in names)
                if wanted:
                    cgroups.write(f"{base}/cgroup.subtree_control", wanted)
                base += f"/{_LIMITED}"
                self._mkdir(base)
                if wanted:
                    cgroups.write(f"{base}/cgroup.subtree_control", wanted)
            self._bases[place.directory, limited] = base
        return base

    def _mkdir(self, directory: str) -> None:
        try:
            os.mkdir(directory)
        except FileExistsError:
            return
        self._made.append(directory)

    def end(self, leaf: Leaf) -> None:
        """Have the leaf of a job that has ended removed by the next ``flush``."""
        leaf.close()
        self._old.append(leaf)

    def flush(self) -> None:
        """Do what can wait: remove the leaves of jobs that have ended, and make control groups in advance."""
        self._remove_old()
        for base, is_there in self._spares.items():
            if not is_there:
                self._spares[base] = _quietly(os.mkdir, f"{base}/{_SPARE}")

    def _remove_old(self) -> None:
        """Remove the leaves of jobs that have ended; one that leftovers live in stays."""
        while self._old:
            for directory in self._old.pop().directories:
                remove(directory)


def _enter_scope() -> tuple[str, bool]:
    """Move into a scope of systemd if this control group is not delegated.

    Return why there is none, or ``""``, and whether that lasts.
    """
    if not os.path.isdir("/run/systemd/system"):
        return "", True
    from supervisor.system import scopes  # elsewhere it would only make the start longer

    try:
        scopes.enter()
    except scopes.ScopeError as error:
        return str(error), not error.may_pass
    return "", True


def remove(directory: str) -> bool:
    """Remove a control group and those in it, as far as no process is there; return whether it is gone.

    Those of another keeper that lives stay: it may be about to use one.
    """
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        try:
            with os.scandir(directory) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            for each in below:
                if not os.path.basename(each).startswith(cgroups.KEEPER_PREFIX) or _is_over(os.path.basename(each)):
                    remove(each)
            os.rmdir(directory)
        except OSError:
            return False
    return True


def _sweep(place: str) -> None:
    """Remove the control groups of keepers that are gone."""
    try:
        names = os.listdir(place)
    except OSError:
        return
    for name in names:
        if _is_over(name):
            remove(f"{place}/{name}")


def _is_over(name: str) -> bool:
    """Whether a directory is that of a keeper which provably does not live."""
    words = name.split(".")
    if not name.startswith(cgroups.KEEPER_PREFIX) or len(words) != 5 or not (words[1] + words[2]).isdigit():
        return False
    try:
        return words[4] == processes.pid_namespace() and not processes.is_alive(int(words[1]), int(words[2]))
    except NotKnown:
        return False


def tree_of(process: dict[str, object] | None, job_id: str) -> cgroups.TreeGroup | None:
    """Return the tree that ``process.json`` of a job names, if it provably is that of the job."""
    if not process or process.get("boot") != processes.boot_id():
        return None
    return cgroups.TreeGroup.of_record(process.get(records.CGROUP), job_id)


def memory_of(process: dict[str, object] | None, job_id: str) -> tuple[int | None, bool]:
    """Return what ``memory_facts`` returns for the control group that ``process.json`` of a job names."""
    found = cgroups.TreeGroup.of_record((process or {}).get(records.MEMORY_CGROUP), job_id)
    return (None, False) if found is None else memory_facts(found.directory, found.version)


def remove_of(process: dict[str, object] | None, job_id: str) -> None:
    """Remove the control groups that ``process.json`` of an ended job names, as far as they are empty.

    Its keeper is gone, so that none of the others in the same directory is about to be used.
    """
    for name in (records.CGROUP, records.MEMORY_CGROUP):
        found = cgroups.TreeGroup.of_record((process or {}).get(name), job_id)
        if found is not None:
            keeper = os.path.dirname(found.directory)
            remove(keeper if _is_over(os.path.basename(keeper)) else found.directory)
