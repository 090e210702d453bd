"""Control groups: where this process may make them, and what can be done with one.

A *place* is a directory below which this process may make control groups. Version 2 goes first. A controller that only
version 1 has is used there: then a job has a control group in several hierarchies, each of the same name.

One of them, the *tree*, holds every process of the job. It ends them, tells when none is left, and can freeze them.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

__all__ = ["CONTROLLERS", "JOB_PREFIX", "KEEPER_PREFIX", "Place", "Places", "TreeGroup", "find_places", "write"]

CONTROLLERS: Final = ("memory", "cpu", "pids")
KEEPER_PREFIX: Final = "supervisor."
"""What the name of a directory with the control groups of one keeper begins with."""
JOB_PREFIX: Final = "job-"
_PROCS: Final = "cgroup.procs"
_NO_DIRECTORY_IN_IT: Final = 2
"""The links to a directory: its name, and the one that it has in itself; each directory in it has one more."""
_CROWDED: Final = "processes itself, so that its controllers cannot be used below it"
_UNITS: Final = (".service", ".scope")


def read(path: str) -> str:
    """Return the text of a file of a control group.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts).decode("ascii", "surrogateescape")


def write(path: str, text: str) -> None:
    """Write a value into a file of a control group.

    Raises:
        OSError: the kernel does not take it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- places


class Place:
    """A directory for control groups.

    Attributes:
        directory: of a control group, below which others can be made.
        version: 1 or 2, of its hierarchy.
    """

    def __init__(self, directory: str, version: int) -> None:
        self.directory = directory
        self.version = version


class Places:
    """Where the control groups of jobs can be made.

    Attributes:
        tree: for the control group that holds the processes of a job; ``None`` where there is no such place.
        limits: for those that limit a job, by the name of the controller.
        missing: why there is no place, by the name of the controller, or ``"tree"``.
        crowded: whether a control group that this process may use has controllers, but processes as well.
    """

    def __init__(self) -> None:
        self.tree: Place | None = None
        self.limits: dict[str, Place] = {}
        self.missing: dict[str, str] = {}
        self.crowded = False


def find_places(*, spawns_into: bool, prepare: bool = True, mover: int = 0) -> Places:
    """Return the places of this process.

    ``spawns_into``: whether a process can be spawned into a group of version 2 as cheaply as elsewhere. If not,
    the tree is in a hierarchy of version 1 where there is one. ``prepare``: change what has to be changed for that.
    Then this process may move into a control group below its own. Without it the answer is what a keeper would find
    there, beside the processes that are there now: ``mover`` is its pid, 0 if it is still to be started.

    This is the one function that decides: a place that has to be asked for first (a scope of systemd) is added here.
    """
    found = Places()
    own = dict(_own_groups())
    unified = own.pop("", None)
    if unified is not None:
        _find_unified(unified, found, prepare=prepare, mover=mover)
    elif not own:
        found.missing = dict.fromkeys(("tree", *CONTROLLERS), "no hierarchy of control groups is mounted")
        return found
    for name in CONTROLLERS:
        if name not in found.limits and name in own:
            _find_old(name, own[name], found)
    if found.tree is None or not spawns_into:
        for name in ("freezer", "pids"):
            if name in own and _is_writable(own[name]):
                found.tree = Place(own[name], 1)
                break
    for name in CONTROLLERS:
        if name not in found.limits:
            found.missing.setdefault(name, f"the controller {name!r} is in no hierarchy that this process can use")
    if found.tree is not None:
        found.missing.pop("tree", None)
    return found


def _own_groups() -> Iterator[tuple[str, str]]:
    """Yield the directory of the own control group for each controller, and for ``""`` that of version 2."""
    mounts: dict[str, tuple[str, str]] = {}
    try:
        lines = read("/proc/self/mountinfo").splitlines()
        groups = read("/proc/self/cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind == "cgroup2":
            names = [""]
        elif kind == "cgroup":
            names = options.rpartition(" ")[2].split(",")
        else:
            continue
        fields = before.split(" ")
        for name in names:
            mounts.setdefault(name, (fields[3], fields[4].replace("\\040", " ")))
    for line in groups:
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name not in mounts:
                continue
            root, mount = mounts[name]
            if root != "/":
                if path != root and not path.startswith(f"{root}/"):
                    continue  # it is not below what is mounted here
                path = path[len(root) :]
            yield name, f"{mount}{path}".rstrip("/")


def _is_writable(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK) and os.access(f"{directory}/{_PROCS}", os.W_OK)


def _find_old(name: str, directory: str, found: Places) -> None:
    """Add the place of a controller in a hierarchy of version 1."""
    if _is_writable(directory):
        found.limits[name] = Place(directory, 1)
    else:
        found.missing[name] = f"{directory} is not writable for this user"


def _find_unified(own: str, found: Places, *, prepare: bool, mover: int) -> None:
    """Add the places in the hierarchy of version 2: the own control group, or one above it in the same unit."""
    if _is_writable(own):
        found.tree = Place(own, 2)
    else:
        found.missing["tree"] = f"{own} is not writable for this user"
    for directory in _within_unit(own):
        try:
            available = read(f"{directory}/cgroup.controllers").split()
        except OSError:
            break
        wanted = [name for name in CONTROLLERS if name in available and name not in found.limits]
        if not wanted:
            continue
        if not _is_writable(directory):
            why: str | None = f"{directory} is not writable for this user"
        else:
            why = _enable(directory, wanted, prepare=prepare, mover=mover)
            found.crowded |= why is not None and why.endswith(_CROWDED)
        for name in wanted:
            if why is None:
                found.limits[name] = Place(directory, 2)
                found.missing.pop(name, None)
            else:
                found.missing.setdefault(name, why)


def _within_unit(own: str) -> Iterator[str]:
    """Yield a control group and those above it, up to that of its unit, whose own processes may be in a part of it."""
    yield own
    directory = own
    while not directory.endswith(_UNITS):
        directory = os.path.dirname(directory)
        if directory.endswith(_UNITS) and not os.path.basename(directory).startswith("user@"):
            unit = directory
            directory = os.path.dirname(own)
            while len(directory) >= len(unit):
                yield directory
                directory = os.path.dirname(directory)
            return
        if directory in {"", "/"}:
            return


def _enable(directory: str, names: Sequence[str], *, prepare: bool, mover: int) -> str | None:
    """Have the control groups below a directory use these controllers; return why that is not possible, or ``None``.

    A control group whose members use controllers holds no processes itself. So this process moves down if it
    is the only one there.
    """
    control = f"{directory}/cgroup.subtree_control"
    wanted = " ".join(f"+{name}" for name in names)
    members: list[str] = []
    try:
        if set(read(control).split()) >= set(names):
            return None
        members = read(f"{directory}/{_PROCS}").split()
        if not prepare:
            # The root of all control groups is the only one without a type: it may hold processes as well.
            alone = members in ([], [str(mover)]) or not os.path.exists(f"{directory}/cgroup.type")
            return None if alone else _crowded(directory, members)
        if members == [str(os.getpid())]:
            below = f"{directory}/keeper-{os.getpid()}"
            try:  # noqa: SIM105  # contextlib would cost the keeper 2 ms
                os.mkdir(below)
            except FileExistsError:
                pass
            write(f"{below}/{_PROCS}", "0")
        write(control, wanted)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return _crowded(directory, members)
        return f"{directory}: its controllers cannot be used below it: {error.strerror}"
    return None


def _crowded(directory: str, members: Sequence[str]) -> str:
    return f"{directory} holds {len(members)} {_CROWDED}"


# ---------------------------------------------------------------- the tree of a job


class TreeGroup:
    """The control group that holds the processes of one job.

    Control groups of other keepers, which a process of the job has started, may be below it: their jobs are not part of
    this one.
    """

    def __init__(self, directory: str, version: int) -> None:
        self.directory = directory
        self.version = version

    @classmethod
    def of_record(cls, directory: object, job_id: str) -> TreeGroup | None:
        """Return the control group that a record names, if it provably is that of a job: it has the job's name.

        ``None`` if it is gone, too.
        """
        if not isinstance(directory, str) or directory.rpartition("/")[2] != f"{JOB_PREFIX}{job_id}":
            return None
        if "/../" in directory or not directory.startswith("/") or not os.path.exists(f"{directory}/{_PROCS}"):
            return None
        return cls(directory, 2 if os.path.exists(f"{directory}/cgroup.events") else 1)

    def pids(self) -> list[int]:
        """Return the processes in it, without those of other keepers.

        Raises:
            OSError: they cannot be read now.
        """
        found: list[int] = []
        for directory in self._directories():
            try:
                found += map(int, read(f"{directory}/{_PROCS}").split())
            except FileNotFoundError:
                continue
        return found

    def _directories(self) -> list[str]:
        found = [self.directory]
        for directory in found:  # it grows meanwhile
            try:
                if os.stat(directory).st_nlink == _NO_DIRECTORY_IN_IT:
                    continue
                with os.scandir(directory) as entries:
                    found += [
                        entry.path
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(KEEPER_PREFIX)
                    ]
            except FileNotFoundError:
                continue
        return found

    def has_keepers(self) -> bool:
        """Whether another keeper has its control groups below this one."""
        try:
            return any(name.startswith(KEEPER_PREFIX) for name in os.listdir(self.directory))
        except FileNotFoundError:
            return False

    def is_empty(self) -> bool:
        """Whether no process is in it, nor in a control group below it.

        Raises:
            OSError: that cannot be read now.
        """
        try:
            if self.version == 2:
                return "populated 0" in read(f"{self.directory}/cgroup.events")
            return not self.pids()
        except FileNotFoundError:
            return True

    def kill(self) -> bool:
        """End every process in it and below it at once; return whether the kernel can do that.

        Raises:
            OSError: that is not possible now.
        """
        try:
            write(f"{self.directory}/cgroup.kill", "1")
        except FileNotFoundError:  # version 1, a kernel before 5.14, or it is gone
            return False
        return True

    def freeze(self) -> bool:
        """Have its processes stand still, soon; return whether the kernel can do that.

        Raises:
            OSError: that is not possible now.
        """
        return self._set_frozen("1", "FROZEN")

    def thaw(self) -> bool:
        """Have its processes go on; return whether the kernel can do that.

        Raises:
            OSError: that is not possible now.
        """
        return self._set_frozen("0", "THAWED")

    def _set_frozen(self, new: str, old: str) -> bool:
        name, value = ("cgroup.freeze", new) if self.version == 2 else ("freezer.state", old)
        try:
            write(f"{self.directory}/{name}", value)
        except FileNotFoundError:
            return False
        return True

    @property
    def is_told_to_freeze(self) -> bool:
        """Whether it was told to freeze, and has version 2; one in a frozen control group need not be.

        Raises:
            OSError: that cannot be read now.
        """
        try:
            return read(f"{self.directory}/cgroup.freeze").strip() == "1"
        except FileNotFoundError:  # version 1, or it is gone
            return False

    @property
    def is_frozen(self) -> bool:
        """Whether all of its processes stand still.

        Raises:
            OSError: that cannot be read now.
        """
        try:
            if self.version == 2:
                return "frozen 1" in read(f"{self.directory}/cgroup.events")
            return read(f"{self.directory}/freezer.state").strip() == "FROZEN"
        except FileNotFoundError:
            return False
