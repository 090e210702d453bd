"""What is on disk about a worktree, beside the worktree itself.

::

    <state root>/worktrees/
      <id>            the working tree; its branch is supervisor/<id>
      <id>.json       the record: written before the tree is made, and kept when the job is forgotten
      <id>.lock       flock: held while the tree is made, examined or removed, also by the git that does it
      <id>.view/      a ``git_view``, for the time of one such action

The id is that of the job that the worktree was made for; of a series, the id of its first attempt. ``job.json`` has it,
with the way in which the tree is made: so a worktree has a name before anything of it exists.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Generator, Mapping
from typing import Any, Final

from supervisor.jobdir import records
from supervisor.system.observing import is_there

__all__ = [
    "CHANGED",
    "DIRECTORY",
    "FROM",
    "IN_USE",
    "MAKING",
    "MEMBER",
    "MISSING",
    "REFUSED",
    "REMOVED",
    "REMOVING",
    "WAITING",
    "Busy",
    "Place",
    "fields_of",
    "is_id",
    "is_request",
    "launch_directory",
    "lock_reason",
    "root_of",
    "worktree_ids",
]

DIRECTORY: Final = "worktrees"
MEMBER: Final = "worktree"
"""In ``job.json``: ``id``, ``from`` (one of ``FROM``), and ``below``, the directory of the job in its repository."""
FROM: Final = ("fresh", "head", "dirty")

WAITING: Final = "waiting"
"""Not made yet. No record says this: there is none."""
MAKING: Final = "making"
"""Its job was not launched: what is in the tree, git has put there."""
IN_USE: Final = "in_use"
CHANGED: Final = "changed"
REMOVING: Final = "removing"
"""Nothing was in it, and its removal has begun."""
REMOVED: Final = "removed"
REFUSED: Final = "refused"
"""Nothing was seen in it, and it cannot be removed, or not be examined; ``detail`` says why."""
MISSING: Final = "missing"
"""Another program has removed it."""

_STATES: Final = frozenset({MAKING, IN_USE, CHANGED, REMOVING, REMOVED, REFUSED, MISSING})
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME: Final = re.compile(r"([0-9a-f]{32})\.(?:json|lock)", re.ASCII)


def is_id(name: str) -> bool:
    """Whether a name is the id of a worktree."""
    return _ID.fullmatch(name) is not None


def is_request(held: Any) -> bool:
    """Whether a member of ``job.json`` asks for a worktree in a way that this version writes."""
    if not isinstance(held, Mapping):
        return False
    name, origin, below = (held.get(member) for member in ("id", "from", "below"))  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not (isinstance(name, str) and _ID.fullmatch(name) and origin in FROM and isinstance(below, str)):
        return False
    return not below.startswith("/") and ".." not in below.split("/")


class Busy(Exception):
    """Another process works on the worktree now."""


class Place:
    """Where one worktree is.

    Args:
        root: the state root.
        worktree_id: the id of the worktree.
    """

    def __init__(self, root: str, worktree_id: str) -> None:
        self.directory = f"{root}/{DIRECTORY}"
        self.id = worktree_id
        self.tree = f"{self.directory}/{worktree_id}"
        self.view = f"{self.tree}.view"
        self.branch = f"supervisor/{worktree_id}"

    def read(self) -> dict[str, Any] | None:
        """Return the record; ``None`` without one, ``{}`` for one that no version writes.

        Raises:
            NotKnown: it cannot be read now.
        """
        record = records.read(self.directory, f"{self.id}.json")
        if not record:
            return record
        texts = ("state", "repository", "top", "base", "start")
        jobs = record.get("jobs")
        known = all(isinstance(record.get(name), str) for name in texts) and record["state"] in _STATES
        return record if known and isinstance(jobs, list) else {}

    def write(self, record: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """Write the record with these changes, and return it."""
        written = {name: value for name, value in {**record, **changes}.items() if name != "v"}
        records.replace(self.directory, f"{self.id}.json", written)
        return written

    def forget(self, *, goes_on: bool = False) -> None:
        """Delete the record, and last the lock; only the holder of the lock may.

        ``goes_on``: the holder goes on with the worktree. Then the lock stays: without its file it would exclude none.
        """
        for name in (f"{self.tree}.json",) if goes_on else (f"{self.tree}.json", f"{self.tree}.lock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    @contextlib.contextmanager
    def locked(self, *, wait: bool = True) -> Generator[int]:
        """Hold the lock for the block; yield its descriptor, which holds it in a child process too.

        A git that has outlived its caller holds it until its end.

        Raises:
            Busy: another process has it, and ``wait`` is not given.
            OSError: it cannot be taken.
        """
        if not is_there(self.directory):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory, 0o700)
                os.chmod(self.directory, 0o700)  # for any umask
        descriptor = self._open_locked(wait=wait)
        try:
            if is_there(self.view):  # of a process that was killed
                import shutil  # each command would load the compressors with it

                shutil.rmtree(self.view, ignore_errors=True)
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_locked(self, *, wait: bool) -> int:
        path = f"{self.tree}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if _is_file(descriptor, path):  # else it was deleted while this process waited
                    return descriptor
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    raise Busy(self.id) from None
                raise
            os.close(descriptor)


def _is_file(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def worktree_ids(root: str) -> list[str]:
    """Return the ids of all worktrees that have a record, or a lock.

    Raises:
        OSError: they cannot be listed now.
    """
    try:
        names = os.listdir(f"{root}/{DIRECTORY}")
    except FileNotFoundError:
        return []
    return sorted({match[1] for name in names if (match := _NAME.fullmatch(name)) is not None})


def lock_reason(worktree_id: str) -> str:
    """Return what ``git worktree list`` says about the lock of a worktree."""
    return f"supervisor job {worktree_id}: remove it with `supervisor worktree rm {worktree_id}`"


def root_of(directory: str) -> str:
    """Return the state root of a job directory in it."""
    return os.path.dirname(os.path.dirname(directory))


def launch_directory(root: str, request: Mapping[str, Any]) -> str:
    """Return the directory in which a job runs: its workspace, in its worktree if it has one."""
    asked = request.get(MEMBER)
    if asked is None:
        workspace: str = request["workspace"]
        return workspace
    tree = Place(root, asked["id"]).tree
    return f"{tree}/{asked['below']}" if asked["below"] else tree


def fields_of(root: str, request: Mapping[str, Any], *, ended: bool) -> dict[str, Any]:
    """Return the field ``worktree`` of a job: ``path``, ``branch``, ``base`` and ``state``.

    Raises:
        NotKnown: that cannot be read now.
    """
    place = Place(root, request[MEMBER]["id"])
    record = place.read()
    base, state = None, REMOVED if ended else WAITING  # an ended job without one was not launched, or is long over
    if record is not None:
        base, state = record.get("base"), record.get("state", REFUSED)
    return {"path": place.tree, "branch": place.branch, "base": base, "state": state}
