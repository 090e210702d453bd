"""The directories of the state root, and the checks that make it safe to use.

::

    <state root>/                 0700, of this user, on a local file system
      registry.db                 the index, see ``index``
      lock                        flock: to create, migrate and rebuild the index
      .clock                      see ``clock``
      .owners/<supervisor>        one empty file for each open supervisor, see ``owners``
      queue.<pid namespace>.lock  flock: held by the process that launches waiting jobs, see ``keeper.helper_starts``
      .keepers/<claim>            one empty file for each keeper, see ``keeper.registration``
      .trash/<job id>.<time>      a job that is being deleted
      .spare/                     files that become records when the disk is full
      .tasks/<task id>/           an MCP task that is not a job, see ``mcp_server.tasks.records``
      <slug>-<digest>/<job id>/   a job; digest = first 12 hex of sha256(real path of its workspace)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from _thread import get_ident
from collections.abc import Callable, Generator, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.errors import StateUnsafe
from supervisor.jobdir import records
from supervisor.jobdir.durability import sync_job
from supervisor.store.clock import Clock
from supervisor.store.state_errors import find_in_root, names_in, state_error
from supervisor.system.file_systems import NETWORK, has_settled, network_of
from supervisor.system.observing import is_there
from supervisor.system.syncing import sync_directory, sync_names
from supervisor.system.trust import exposure_of

if TYPE_CHECKING:
    from supervisor.store.owners import Owners

__all__ = [
    "TASKS",
    "Layout",
    "encodable",
    "is_job_id",
    "new_job_id",
    "remove_tree",
    "unsafe_place",
    "workspace_key",
]

_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WORKSPACE_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,41}-[0-9a-f]{12}", re.ASCII)
_TRASH: Final = ".trash"
_OWNERS: Final = ".owners"
"""As ``owners.DIRECTORY``."""
TASKS: Final = ".tasks"
_MAX_WORKSPACES: Final = 64
_MAX_KNOWN_SOUND: Final = 1024
"""With these bounds the memory of sound directories takes 8 MiB. It serves a page of 100 jobs in 10 us, not 600."""


def is_job_id(text: str) -> bool:
    """Whether ``text`` has the form of a job id: 32 lowercase hex digits."""
    return _ID.fullmatch(text) is not None


def new_job_id() -> str:
    """Return an id that cannot be guessed."""
    return os.urandom(16).hex()


def encodable(text: str) -> bool:
    """Whether the operating system accepts ``text``; it does not accept half a surrogate pair."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=256)  # a call takes 14 us without it, of a start of some 500 us
def workspace_key(real_path: str) -> str:
    """Return the name of the directory that holds the jobs of a workspace: readable, and unique."""
    from hashlib import sha256  # an import of 10 ms, and most commands need no key

    digest = sha256(os.fsencode(real_path)).hexdigest()[:12]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(real_path)).strip("-.")[:28]
    return f"{slug or 'root'}-{digest}"


def remove_tree(path: str) -> None:
    """Delete a directory and its content; ignore errors."""
    import shutil  # an import of 10 ms

    shutil.rmtree(path, ignore_errors=True)


def _remove_job(path: str) -> None:
    """Delete a job directory, and the one in a shared directory that it links to."""
    try:
        shared = os.readlink(f"{path}/{records.SHARED}")
    except OSError:
        shared = ""
    # Its name is the job's id, whatever the trash has appended to the name here. No other link is followed.
    if is_job_id(os.path.basename(shared)) and os.path.basename(path).startswith(os.path.basename(shared)):
        remove_tree(shared)
    remove_tree(path)


def _own_directory(directory: str) -> os.stat_result | None:
    found = find_in_root(directory)
    return found if found is not None and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() else None


def unsafe_place(root: str, found: tuple[str, int] | None = None) -> StateUnsafe | None:
    """Return why no state root can be at this path, whether one exists or not; ``None`` if one can.

    ``found``: its real path and its device, if one exists.

    Raises:
        OSError: that is not known now.
    """
    exposure = exposure_of(root)
    if exposure is not None:
        message = f"the state root {root} could be replaced: {exposure.place} {exposure.why}"
        return StateUnsafe(message, repair=exposure.repair, details={"directory": exposure.place})
    kind = network_of(*(found or _parent_of(root)))
    if not kind:
        return None
    sort = "a network file system" if kind in NETWORK else "a file system that is not known to be local"
    message = f"the state root {root} is on {sort} ({kind}), whose locks are not reliable"
    return StateUnsafe(message, details={"file_system": kind})


def _parent_of(root: str) -> tuple[str, int]:
    """Return the real path and the device of the nearest directory that exists, on whose file system it will be."""
    real = os.path.realpath(root)
    while True:
        try:
            return real, os.stat(real).st_dev
        except FileNotFoundError:
            real = os.path.dirname(real)


class Layout:
    """A state root that is safe to use.

    Args:
        root: its absolute path.
        create: whether to make the root if it does not exist. Otherwise a missing root has no jobs.
        durable: whether jobs are on the disk once they are made, and the index after each commit.

    Attributes:
        clock: the times for expiry and for admission.

    Raises:
        StateUnsafe: the root belongs to another user, other users may use or replace it, it is not a directory, or it
            is on a network file system.
        PermissionDenied, StateFull: the root cannot be created.
    """

    def __init__(self, root: Path, *, create: bool = True, durable: bool = False) -> None:
        """Check the root, and create it if ``create`` says so."""
        given = os.fspath(root)
        self.durable = durable
        self.root = os.path.realpath(given)
        self.create = create
        try:
            found: os.stat_result | None = None
            try:
                found = os.stat(self.root)
            except FileNotFoundError:
                if create:
                    found = self._make_root(given)
            if found is not None:
                self._check(given, found)
            self._identity = None if found is None else (found.st_dev, found.st_ino)
            for name in (_OWNERS, _TRASH):
                if not self._is_directory(name) and (create or is_there(f"{self.root}/{name}")):
                    self._make(f"{self.root}/{name}")
            self.clock = Clock(self.root)
        except OSError as error:
            raise state_error(error, f"cannot use the state root {self.root}") from error
        self._locked_by: int | None = None
        self._known_workspaces: set[str] = set()
        self._sound: dict[str, tuple[tuple[int, int], set[str]]] = {}

    def _make_root(self, given: str) -> os.stat_result:
        if (unsafe := unsafe_place(given)) is not None:
            raise unsafe
        missing = [self.root]
        while not os.path.lexists(above := os.path.dirname(missing[-1])):
            missing.append(above)
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
                os.chmod(directory, 0o700)  # a umask may have removed the owner's own permissions
            if self.durable:
                sync_directory(os.path.dirname(directory))
        return os.stat(self.root)

    def _check(self, given: str, found: os.stat_result) -> None:
        if not stat.S_ISDIR(found.st_mode):
            message = f"the state root {self.root} is not a directory"
            raise StateUnsafe(message)
        if found.st_uid != os.geteuid():
            message = f"the state root {self.root} belongs to user {found.st_uid}, not to you ({os.geteuid()})"
            raise StateUnsafe(message)
        if found.st_mode & 0o077:
            message = f"the state root {self.root} is open to others (mode {stat.S_IMODE(found.st_mode):04o})"
            raise StateUnsafe(message, repair=f"If its content was not tampered with: chmod 700 {self.root}")
        if (unsafe := unsafe_place(given, (self.root, found.st_dev))) is not None:
            raise unsafe

    @staticmethod
    def _make(path: str) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                message = f"{path} is not a directory"
                raise StateUnsafe(message) from None
        else:
            os.chmod(path, 0o700)

    @cached_property
    def owners(self) -> Owners:
        """The supervisors that are open on it."""
        from supervisor.store.owners import Owners  # it looks at processes, and ended jobs have none

        return Owners(self.root, self.clock)

    # ------------------------------------------------------------ jobs

    @property
    def index_path(self) -> str:
        """The path of the index."""
        return f"{self.root}/registry.db"

    def job(self, workspace: str, job_id: str) -> str:
        """Return the path of a job directory."""
        return f"{self.root}/{workspace}/{job_id}"

    def make_job(self, workspace: str, job_id: str, record: bytes) -> str:
        """Make a job directory with its ``job.json`` and return its path.

        The job exists once its row is committed. A crash before that leaves a directory whose id no caller knows.
        """
        path = self.job(workspace, job_id)
        known = workspace in self._known_workspaces
        try:
            self._make_job(workspace, path, record)
            if self.durable:
                sync_job(path)
                if known:
                    sync_directory(f"{self.root}/{workspace}")
                else:
                    sync_names(f"{self.root}/{workspace}", self.root)
        except OSError as error:
            with contextlib.suppress(OSError):
                remove_tree(path)
            if not known:
                self._known_workspaces.discard(workspace)
            self.check_in_place()
            raise state_error(error, "cannot make the job directory") from error
        return path

    def _make_job(self, workspace: str, path: str, record: bytes) -> None:
        if workspace not in self._known_workspaces:
            self.check_in_place()
            self._make(f"{self.root}/{workspace}")
            self._known_workspaces.add(workspace)
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            self.check_in_place()
            self._make(f"{self.root}/{workspace}")
            os.mkdir(path, 0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(f"{path}/job.json", flags, 0o600)
        except PermissionError:  # the umask has removed the owner's own permissions
            os.chmod(path, 0o700)
            descriptor = os.open(f"{path}/job.json", flags, 0o600)
        try:
            if os.fstat(descriptor).st_mode & 0o777 != 0o600:  # an odd umask
                os.fchmod(descriptor, 0o600)
                os.chmod(path, 0o700)
            records.write_all(descriptor, memoryview(record))
        finally:
            os.close(descriptor)

    def remove_job(self, workspace: str, job_id: str) -> None:
        """Delete the directory of a job whose id no caller knows."""
        _remove_job(self.job(workspace, job_id))

    def is_sound(self, workspace: str, job_id: str) -> bool:
        """Whether the job directory exists, belongs to this user and is reached through no symbolic link.

        Raises:
            StateBusy: that cannot be observed now.
        """
        return self.stat_job(workspace, job_id) is not None

    def stat_job(self, workspace: str, job_id: str) -> os.stat_result | None:
        """Return the status of the job directory if it is sound, else ``None``.

        Raises:
            StateBusy: that cannot be observed now.
            StateUnsafe: the state root has been moved away.
        """
        found = _own_directory(self.job(workspace, job_id)) if self._is_directory(workspace) else None
        if found is None:
            self.check_in_place()
        return found

    def check_in_place(self) -> None:
        """Check that the state root is the one that was opened: if it was moved away, a missing file means nothing.

        Raises:
            StateUnsafe: the state root was moved or replaced.
        """
        found = find_in_root(self.root) if self._identity is not None else None
        if self._identity is not None and (found is None or (found.st_dev, found.st_ino) != self._identity):
            message = f"the state root {self.root} was moved or replaced while it was open"
            raise StateUnsafe(message, repair="Open it at its new path (SUPERVISOR_STATE_DIR), or move it back.")

    def soundness(self) -> Callable[[str, str], bool]:
        """Return a function that answers as ``is_sound`` does, for many jobs at one moment.

        It observes each workspace once. While no name in a workspace changes, sound directories stay sound.

        Raises:
            StateBusy: as ``is_sound``.
        """
        above: dict[str, set[str] | None] = {}

        def is_sound(workspace: str, job_id: str) -> bool:
            if workspace not in above:
                above[workspace] = self._known_sound(workspace)
            known = above[workspace]
            if known is None:
                return False
            if job_id not in known:
                if _own_directory(self.job(workspace, job_id)) is None:
                    return False
                known.add(job_id)
            return True

        return is_sound

    def _known_sound(self, workspace: str) -> set[str] | None:
        """Return the set of jobs of a workspace that are known to be sound; ``None`` if the workspace is not."""
        found = find_in_root(f"{self.root}/{workspace}")
        if found is None or not stat.S_ISDIR(found.st_mode):
            return None
        stamp = found.st_ino, found.st_ctime_ns
        known = self._sound.get(workspace)
        if known is not None and known[0] == stamp and len(known[1]) < _MAX_KNOWN_SOUND:
            return known[1]
        fresh: set[str] = set()
        if has_settled(found):
            if len(self._sound) >= _MAX_WORKSPACES:
                self._sound.clear()
            self._sound[workspace] = stamp, fresh
        return fresh

    def _is_directory(self, name: str) -> bool:
        found = find_in_root(f"{self.root}/{name}")
        return found is not None and stat.S_ISDIR(found.st_mode)

    def find(self, job_id: str) -> str | None:
        """Return the key of the workspace that has a directory of this job, if there is one."""
        for workspace in self.workspaces():
            if _own_directory(self.job(workspace, job_id)) is not None and self._is_directory(workspace):
                return workspace
        self.check_in_place()
        return None

    def workspaces(self) -> list[str]:
        """Return the keys of all workspaces that have or had jobs."""
        return [name for name in names_in(self.root) if _WORKSPACE_KEY.fullmatch(name)]

    def jobs(self) -> Iterator[tuple[str, str]]:
        """Yield (workspace key, job id) of every job directory."""
        for workspace in self.workspaces():
            if not self._is_directory(workspace):
                continue
            for name in names_in(f"{self.root}/{workspace}"):
                if is_job_id(name) and self.is_sound(workspace, name):
                    yield workspace, name

    def discard(self, workspace: str, job_id: str) -> bool:
        """Move a job directory into the trash; ``False`` when it does not exist.

        This is the moment at which a job is forgotten, and only one caller gets ``True``.
        """
        if not (is_job_id(job_id) and (workspace == TASKS or _WORKSPACE_KEY.fullmatch(workspace))):
            return False  # from a damaged index: the path may lead anywhere
        try:
            self._discard(self.job(workspace, job_id), job_id)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise state_error(error, "cannot discard the job directory") from error
        return True

    def _discard(self, path: str, job_id: str) -> None:
        def move() -> None:
            os.rename(path, f"{self.root}/{_TRASH}/{job_id}.{time.time_ns()}")

        try:
            move()
        except FileNotFoundError:
            if self._is_directory(_TRASH):
                raise
            self._make(f"{self.root}/{_TRASH}")
            move()

    def discarded(self) -> list[str]:
        """Return the names in the trash: each begins with the id of a job and a dot."""
        return names_in(f"{self.root}/{_TRASH}")

    def free_trash(self) -> None:
        """Delete the output of discarded jobs only: on a full disk this makes room for the rest of their deletion."""
        for name in self.discarded():
            path = f"{self.root}/{_TRASH}/{name}"
            if os.path.isdir(path) and not os.path.islink(path):
                for stream in (records.STDOUT, records.STDERR):
                    with contextlib.suppress(OSError):
                        os.unlink(f"{path}/{stream}")

    def empty_trash(self, most: int, forget: Callable[[list[str]], object] | None = None) -> bool:
        """Delete up to ``most`` discarded jobs; ``True`` when more are left.

        ``forget`` gets their ids before that. The process that discarded them may have been killed before it deleted
        their rows, and then only the trash records that these jobs are forgotten.
        """
        trash = f"{self.root}/{_TRASH}"
        names = self.discarded()
        if forget is not None:
            forget([job_id for name in names[:most] if is_job_id(job_id := name.partition(".")[0])])
        for name in names[:most]:
            path = f"{trash}/{name}"
            if os.path.islink(path) or not os.path.isdir(path):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            else:
                _remove_job(path)
        return len(names) > most

    # ------------------------------------------------------------ the lock

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Hold the root's lock, to create, migrate, set aside or rebuild the index, and to change a group.

        A thread that holds it may ask for it again: a change of a group may find the index damaged.
        """
        if self._locked_by == get_ident():
            yield
            return
        try:
            descriptor = os.open(f"{self.root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self.check_in_place()
            raise state_error(error, "cannot open the lock") from error
        try:
            if os.fstat(descriptor).st_mode & 0o777 != 0o600:  # an odd umask
                os.fchmod(descriptor, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._locked_by = get_ident()
            try:
                yield
            finally:
                self._locked_by = None
        finally:
            os.close(descriptor)
