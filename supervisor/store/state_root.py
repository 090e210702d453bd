"""Directories of the state root: where things stand, and who may use them.

::

    <state root>/                 0700, ours, local
      registry.db                 see ``index``
      lock                        flock: creating, migrating and rebuilding the registry
      .clock                      see ``clock``
      .owners/<supervisor>        one empty file for each open supervisor
      .keepers/<claim>            one empty file for each keeper, see ``engines.kin``
      .trash/<job id>.<time>      what is being deleted
      .spare/                     files that take the records which a full disk has no room for
      .tasks/<task id>/           an MCP task that is no job, see ``mcp_server.tasks.records``
      <slug>-<digest>/<job id>/   a job; digest = first 12 hex of sha256(real path of its workspace)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from supervisor.errors import PermissionDenied, StateBusy, StateFull, StateUnsafe, SupervisorError
from supervisor.jobdir import job_marks, records
from supervisor.store.clock import Clock
from supervisor.system import processes
from supervisor.system.file_systems import NETWORK, has_settled, network_of
from supervisor.system.observing import NotKnown, find, is_absent, is_there, not_known
from supervisor.system.trust import exposure_of

__all__ = [
    "TASKS",
    "Layout",
    "encodable",
    "is_job_id",
    "new_job_id",
    "remove_tree",
    "state_error",
    "unsafe_place",
    "workspace_key",
]

_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WORKSPACE_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,41}-[0-9a-f]{12}", re.ASCII)
_OWNERS: Final = ".owners"
_TRASH: Final = ".trash"
TASKS: Final = ".tasks"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FOR_GOOD: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EEXIST}
)
"""What a path is, or is not. Anything else may pass: descriptors, memory, a disk that does not answer."""
_MAX_WORKSPACES: Final = 64
_MAX_KNOWN_SOUND: Final = 1024


def is_job_id(text: str) -> bool:
    """Whether ``text`` has the form of a job id: 32 lowercase hex digits."""
    return _ID.fullmatch(text) is not None


def new_job_id() -> str:
    """Return an id that nobody can guess."""
    return os.urandom(16).hex()


def encodable(text: str) -> bool:
    """Whether the operating system can be given ``text``: half a surrogate pair, for one, it cannot."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=256)
def workspace_key(real_path: str) -> str:
    """Return the name of the directory that holds the jobs of a workspace: readable, and unique."""
    from hashlib import sha256  # 10 ms of imports, and most commands know the job's directory already

    digest = sha256(os.fsencode(real_path)).hexdigest()[:12]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(real_path)).strip("-.")[:28]
    return f"{slug or 'root'}-{digest}"


def state_error(error: OSError, what: str) -> SupervisorError:
    """Return the error of ours that says what the operating system refused, and what to do.

    What could not be seen is not known now, whatever the operating system says of it: that can be tried again.
    """
    where = f" ({error.filename})" if error.filename else ""
    message = f"{what}: {error.strerror or error}{where}"
    known = not isinstance(error, NotKnown)
    if known and error.errno in _NO_ROOM:
        return StateFull(message)
    if known and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return PermissionDenied(message)
    if known and error.errno in _FOR_GOOD:
        return SupervisorError(message)
    descriptors = error.errno in {errno.EMFILE, errno.ENFILE}
    more = "raise the limit of open files (`ulimit -n`)" if descriptors else "run `supervisor doctor`"
    return StateBusy(message, repair=f"Try again; if it stays so, {more}.")


def remove_tree(path: str) -> None:
    """Delete a directory and all in it, as far as that goes."""
    import shutil  # 10 ms of imports

    shutil.rmtree(path, ignore_errors=True)


def _remove_job(path: str) -> None:
    """Delete a job directory, and that in a shared directory to which it leads."""
    try:
        shared = os.readlink(f"{path}/{records.SHARED}")
    except OSError:
        shared = ""
    # It bears the job's id, whatever the trash has added to the name of ours: nothing else is ever followed.
    if is_job_id(os.path.basename(shared)) and os.path.basename(path).startswith(os.path.basename(shared)):
        remove_tree(shared)
    remove_tree(path)


def _look(path: str) -> os.stat_result | None:
    """Return what a name is, ``None`` where there is none.

    Raises:
        StateBusy: that cannot be seen now.
    """
    try:
        return find(path)
    except NotKnown as error:
        raise state_error(error, "cannot look into the state root") from error


def _names(path: str) -> list[str]:
    """Return what is in a directory; nothing when it is not there."""
    try:
        return os.listdir(path)
    except OSError as error:
        if is_absent(error, path):
            return []
        raise state_error(not_known(error, path), "cannot look into the state root") from error


def _if_ours(directory: str) -> os.stat_result | None:
    found = _look(directory)
    return found if found is not None and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() else None


def unsafe_place(root: str) -> StateUnsafe | None:
    """Return why a state root, made or not, cannot be where this path leads; ``None`` if it can.

    Raises:
        OSError: it cannot be told.
    """
    exposure = exposure_of(root)
    if exposure is not None:
        message = f"the state root {root} could be replaced: {exposure.place} {exposure.why}"
        return StateUnsafe(message, repair=exposure.repair, details={"directory": exposure.place})
    real = os.path.realpath(root)
    while True:
        try:
            device = os.stat(real).st_dev
            break
        except FileNotFoundError:  # it will lie where the nearest directory above it does
            real = os.path.dirname(real)
    kind = network_of(real, device)
    if not kind:
        return None
    sort = "a network file system" if kind in NETWORK else "a file system that is not known to be local"
    message = f"the state root {root} is on {sort} ({kind}), whose locks cannot be relied on"
    return StateUnsafe(message, details={"file_system": kind})


class Layout:
    """A state root that was found safe to use.

    Args:
        root: its absolute path.
        create: whether it is made if it is missing. Without that nothing is made, and a missing root holds no jobs.

    Raises:
        StateUnsafe: it belongs to another user, other users may use or replace it, it is no directory, or it is on
            a network.
        PermissionDenied, StateFull: it cannot be created.
    """

    def __init__(self, root: Path, *, create: bool = True) -> None:
        """Check the root, and create it if that is wanted."""
        given = os.fspath(root)
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
        self._known_workspaces: set[str] = set()
        self._sound: dict[str, tuple[tuple[int, int], set[str]]] = {}

    def _make_root(self, given: str) -> os.stat_result:
        if (unsafe := unsafe_place(given)) is not None:
            raise unsafe
        missing = [self.root]
        while not os.path.lexists(above := os.path.dirname(missing[-1])):
            missing.append(above)
        for directory in reversed(missing):  # each private from the beginning, whatever the umask
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
                os.chmod(directory, 0o700)  # a umask may have taken away what we need ourselves
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
            raise StateUnsafe(message, repair=f"If nobody tampered with it: chmod 700 {self.root}")
        if (unsafe := unsafe_place(given)) is not None:
            raise unsafe

    @staticmethod
    def _make(path: str) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                message = f"{path} should be a directory, and is not"
                raise StateUnsafe(message) from None
        else:
            os.chmod(path, 0o700)

    # ------------------------------------------------------------ jobs

    @property
    def registry(self) -> str:
        """The path of the registry."""
        return f"{self.root}/registry.db"

    def job(self, workspace: str, job_id: str) -> str:
        """Return the path of a job directory."""
        return f"{self.root}/{workspace}/{job_id}"

    def make_job(self, workspace: str, job_id: str, record: bytes) -> str:
        """Make a job directory with its ``job.json`` and return its path.

        The job does not exist until its row is committed, so a crash in here leaves at most
        a directory that nobody was told of.
        """
        path = self.job(workspace, job_id)
        try:
            self._make_job(workspace, path, record)
        except OSError as error:
            with contextlib.suppress(OSError):
                remove_tree(path)
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
        except PermissionError:  # the umask has kept ourselves out
            os.chmod(path, 0o700)
            descriptor = os.open(f"{path}/job.json", flags, 0o600)
        try:
            if os.fstat(descriptor).st_mode & 0o777 != 0o600:  # an odd umask
                os.fchmod(descriptor, 0o600)
                os.chmod(path, 0o700)
            view = memoryview(record)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)

    def remove_job(self, workspace: str, job_id: str) -> None:
        """Delete a job that nobody was told of, wherever its directory is."""
        _remove_job(self.job(workspace, job_id))

    def is_sound(self, workspace: str, job_id: str) -> bool:
        """Whether the job directory is there, as a directory of ours and not through a symlink.

        Raises:
            StateBusy: that cannot be seen now.
        """
        return self.stat_job(workspace, job_id) is not None

    def stat_job(self, workspace: str, job_id: str) -> os.stat_result | None:
        """Return the job directory as it is now if it is sound, else ``None``.

        Raises:
            StateBusy: that cannot be seen now.
            StateUnsafe: it is not there, and neither is the state root.
        """
        found = _if_ours(self.job(workspace, job_id)) if self._is_directory(workspace) else None
        if found is None:
            self.check_in_place()
        return found

    def check_in_place(self) -> None:
        """Make sure that what is missing is missing from this state root: it may have been moved away as a whole.

        Raises:
            StateUnsafe: it is not where it was when it was opened.
        """
        found = _look(self.root) if self._identity is not None else None
        if self._identity is not None and (found is None or (found.st_dev, found.st_ino) != self._identity):
            message = f"the state root {self.root} was moved or replaced while it was open"
            raise StateUnsafe(message, repair="Open it anew where it is now (SUPERVISOR_STATE_DIR), or move it back.")

    def soundness(self) -> Callable[[str, str], bool]:
        """Return what answers as ``is_sound`` does for many jobs at one moment: it looks at each workspace once.

        Of a workspace in which no name has come or gone, what was sound still is.

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
                if _if_ours(self.job(workspace, job_id)) is None:
                    return False
                known.add(job_id)
            return True

        return is_sound

    def _known_sound(self, workspace: str) -> set[str] | None:
        """Return the jobs of a workspace that are known to be sound, to be added to; ``None`` if none can be."""
        found = _look(f"{self.root}/{workspace}")
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
        found = _look(f"{self.root}/{name}")
        return found is not None and stat.S_ISDIR(found.st_mode)

    def find(self, job_id: str) -> str | None:
        """Return the workspace key under which a job directory stands, if there is one."""
        for workspace in self.workspaces():
            if _if_ours(self.job(workspace, job_id)) is not None and self._is_directory(workspace):
                return workspace
        self.check_in_place()
        return None

    def workspaces(self) -> list[str]:
        """Return the keys of all workspaces that have or had jobs."""
        return [name for name in _names(self.root) if _WORKSPACE_KEY.fullmatch(name)]

    def jobs(self) -> Iterator[tuple[str, str]]:
        """Yield (workspace key, job id) of every job directory."""
        for workspace in self.workspaces():
            if not self._is_directory(workspace):
                continue
            for name in _names(f"{self.root}/{workspace}"):
                if is_job_id(name) and self.is_sound(workspace, name):
                    yield workspace, name

    def discard(self, workspace: str, job_id: str) -> bool:
        """Move a job directory into the trash; ``False`` when it is not there (any more).

        This is the moment at which a job is forgotten, and only one caller gets ``True``.
        """
        if not (is_job_id(job_id) and (workspace == TASKS or _WORKSPACE_KEY.fullmatch(workspace))):
            return False  # out of a damaged registry: it leads nobody knows where
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
        """Return what is in the trash: names that begin with the id of a job and a dot."""
        return _names(f"{self.root}/{_TRASH}")

    def free_trash(self) -> None:
        """Delete what discarded jobs have written, and nothing else: on a full disk it makes room for all the rest."""
        for name in self.discarded():
            path = f"{self.root}/{_TRASH}/{name}"
            if os.path.isdir(path) and not os.path.islink(path):
                for stream in (records.STDOUT, records.STDERR):
                    with contextlib.suppress(OSError):
                        os.unlink(f"{path}/{stream}")

    def empty_trash(self, most: int, forget: Callable[[list[str]], object] | None = None) -> bool:
        """Delete up to ``most`` discarded jobs; ``True`` when more are left.

        ``forget`` is given their ids before that: whoever discarded them may have been killed before
        their rows were deleted, and then only what is in the trash tells that these jobs are forgotten.
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

    # ------------------------------------------------------------ locks and owners

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Hold the root's lock: creating, migrating, setting aside and rebuilding the registry."""
        try:
            descriptor = os.open(f"{self.root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self.check_in_place()
            raise state_error(error, "cannot open the lock") from error
        try:
            if os.fstat(descriptor).st_mode & 0o777 != 0o600:  # an odd umask
                os.fchmod(descriptor, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def register_owner(self) -> str:
        """Announce a supervisor and return its name, which jobs carry as their ``owner``."""
        self.clock.mark()
        try:
            pid, start = processes.own_identity()
            name = f"{pid}.{start}.{processes.boot_id()[:12]}.{processes.pid_namespace()}.{os.urandom(4).hex()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(f"{self.root}/{_OWNERS}/{name}", flags, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)
        except OSError as error:
            raise state_error(error, "cannot register the supervisor") from error
        with contextlib.suppress(OSError):
            records.make_spares(self.root)
        return name

    def unregister_owner(self, name: str) -> None:
        """Say that this supervisor will launch nothing more."""
        with contextlib.suppress(OSError):
            os.unlink(f"{self.root}/{_OWNERS}/{name}")

    def observe_owner(self, name: str) -> bool:
        """Whether the supervisor of that name may still launch what it has taken on.

        Raises:
            NotKnown: that cannot be seen now.
        """
        words = name.split(".")
        if len(words) != 5 or not (words[0].isdigit() and words[1].isdigit()):
            return False
        if words[3] != processes.pid_namespace() or processes.is_another_boot(words[2]):
            return False
        return is_there(f"{self.root}/{_OWNERS}/{name}") and processes.is_alive(int(words[0]), int(words[1]))

    def owner_lives(self, name: str) -> bool:
        """Return what ``observe_owner`` does, for callers outside the engines.

        Raises:
            StateBusy: that cannot be seen now.
        """
        try:
            return self.observe_owner(name)
        except NotKnown as error:
            raise state_error(error, "cannot tell whether a supervisor is still there") from error

    def owner_may_live(self, name: str) -> bool:
        """Whether the supervisor of that name lives, or announced itself where this process cannot see it."""
        if not _is_in_another_container(name):
            return self.owner_lives(name)
        return _look(f"{self.root}/{_OWNERS}/{name}") is not None

    def any_owner_may_live(self) -> bool:
        """Whether any supervisor may be open on the state root, which may be about to make a job."""
        return any(self.owner_may_live(name) for name in _names(f"{self.root}/{_OWNERS}"))

    def sweep_owners(self) -> None:
        """Forget supervisors and keepers that died without saying so."""
        with contextlib.suppress(OSError):
            job_marks.sweep(self.root, processes.boot_id(), processes.pid_namespace(), processes.is_alive)
        with contextlib.suppress(OSError, SupervisorError):
            for name in os.listdir(f"{self.root}/{_OWNERS}"):
                if not self.owner_may_live(name):
                    self.unregister_owner(name)


def _is_in_another_container(owner: str) -> bool:
    words = owner.split(".")
    try:
        return len(words) == 5 and words[3] != processes.pid_namespace() and not processes.is_another_boot(words[2])
    except NotKnown as error:
        raise state_error(error, "cannot tell whether a supervisor is still there") from error
