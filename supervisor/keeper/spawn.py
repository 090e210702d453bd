"""How the keeper starts a command: find its file, spawn it, and explain why it could not be started.

``os.posix_spawn`` holds the interpreter's lock until the program is loaded, and so stops every thread when a
file system does not answer. The same call through ``ctypes`` does not hold it, and can enter the workspace in the
child alone.

A process begins in a control group of version 2 by the same call where the C library has that (glibc 2.39). Elsewhere a
copy of the keeper is made there, see ``_fork_into``, which makes a start 1.7 times as long.
"""

from __future__ import annotations

import _thread
import errno
import os
import signal
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable
    from typing import Any, Final
else:
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi
        ctypes = None

__all__ = [
    "CAN_SHARE",
    "CAN_SPAWN_INTO",
    "NO_WORKSPACE",
    "RESET",
    "LaunchError",
    "find_executable",
    "set_dumpable",
    "spawn",
    "unprivileged",
    "why_not",
]

# Python ignores these two, and an ignored signal stays ignored across exec.
RESET: Final = [signal.SIGPIPE, *([signal.SIGXFSZ] if hasattr(signal, "SIGXFSZ") else [])]


NO_WORKSPACE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Errors of a directory that cannot be entered, now or later; other errors may pass."""


class LaunchError(Exception):
    """A command could not be started. ``status`` is that of a shell; ``final``: another attempt would fail as well."""

    def __init__(self, status: int, message: str, *, final: bool = False, repair: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.final = final
        self.repair = repair


def find_executable(name: bytes, environment: dict[bytes, bytes], workspace: int) -> bytes:
    """Return the file of the program ``name``, by the PATH of the job and from its workspace.

    May wait for a file system that does not answer.

    Raises:
        LaunchError: 127 when there is none, 126 when there is one that cannot be executed.
    """
    if b"/" in name:
        candidates = [name]
    else:
        path = environment.get(b"PATH", os.fsencode(os.defpath))
        candidates = [(directory or b".") + b"/" + name for directory in path.split(b":")]
    for candidate in candidates:
        if os.access(candidate, os.X_OK, dir_fd=workspace) and not _is_directory(candidate, workspace):
            return candidate
    shown = os.fsdecode(name)
    for candidate in candidates:  # only now: it would double the time of a search along PATH
        try:
            mode = os.stat(candidate, dir_fd=workspace).st_mode
        except (OSError, ValueError):
            continue
        why = "is a directory" if stat.S_ISDIR(mode) else "is not executable"
        raise LaunchError(126, f"{os.fsdecode(candidate)} {why}")
    if b"/" in name:
        raise LaunchError(127, f"{shown}: no such file")
    raise LaunchError(127, f"{shown}: command not found in its PATH")


def _is_directory(path: bytes, workspace: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=workspace).st_mode)
    except OSError:
        return False


def spawn(
    executable: bytes,
    argv: list[bytes],
    environment: list[bytes],
    workspace: int,
    standard: tuple[int, ...] | bytes,
    into: int | None = None,
) -> int:
    """Start a process in a session of its own and in ``workspace``, and return its pid.

    Returns when the program is loaded, which may wait for a file system that does not answer. ``environment``
    is of entries ``NAME=VALUE``; ``standard`` becomes the first descriptors. If it is the path of a terminal, that
    becomes all three, and the controlling terminal of the session.

    ``into`` is a descriptor of the directory of a control group of version 2, in which the process begins.
    """
    if into is not None and not CAN_SPAWN_INTO:
        return _fork_into(into, executable, argv, environment, workspace, standard)
    if _library is not None:
        return _spawn(executable, argv, environment, workspace, standard, into)
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(workspace)
        try:
            return _spawn_by_os(executable, argv, environment, standard)
        finally:
            os.fchdir(here)
    finally:
        os.close(here)


def _spawn(
    executable: bytes,
    argv: list[bytes],
    environment: list[bytes],
    workspace: int,
    standard: tuple[int, ...] | bytes,
    into: int | None,
) -> int:
    library: Any = _library
    attributes = _attributes
    if into is not None:
        attributes = ctypes.create_string_buffer(_attributes.raw)
        library.posix_spawnattr_setcgroup_np(attributes, into)
        library.posix_spawnattr_setflags(attributes, ctypes.c_short(_FLAGS | _SETCGROUP))
    words = (ctypes.c_char_p * (len(argv) + 1))(*argv)
    entries = (ctypes.c_char_p * (len(environment) + 1))(*environment)
    pid = ctypes.c_int()
    actions = ctypes.create_string_buffer(_ROOM)
    failed: int = library.posix_spawn_file_actions_init(actions)
    if not failed:
        failed += library.posix_spawn_file_actions_addfchdir_np(actions, workspace)
        if isinstance(standard, bytes):  # the first terminal that the leader of a session opens controls it
            failed = failed or library.posix_spawn_file_actions_addopen(actions, 0, standard, os.O_RDWR, 0)
            standard = (0, 0, 0)
        for number, descriptor in enumerate(standard):
            failed = failed or library.posix_spawn_file_actions_adddup2(actions, descriptor, number)
        failed = failed or library.posix_spawn(ctypes.byref(pid), executable, actions, attributes, words, entries)
        library.posix_spawn_file_actions_destroy(actions)
    if failed:
        raise OSError(failed, os.strerror(failed))
    return pid.value


def _fork_into(
    into: int,
    executable: bytes,
    argv: list[bytes],
    entries: list[bytes],
    workspace: int,
    standard: tuple[int, ...] | bytes,
) -> int:
    """Copy this process into a control group, and have the copy become the program.

    The kernel does that in one call, which no function of Python makes. So its C functions for a fork are called here.
    """
    environment = dict(entry.split(b"=", 1) for entry in entries if not entry.startswith(b"="))
    library, arguments = ctypes.PyDLL(None, use_errno=True), (ctypes.c_uint64 * 11)()
    arguments[0], arguments[4], arguments[10] = _INTO_CGROUP | _CLEAR_SIGHAND, signal.SIGCHLD, into
    size, reading, writing = ctypes.sizeof(arguments), *os.pipe()
    library.PyOS_BeforeFork()
    pid: int = library.syscall(ctypes.c_long(_CLONE3), arguments, ctypes.c_size_t(size))
    if pid:
        failed = ctypes.get_errno() if pid < 0 else 0
        library.PyOS_AfterFork_Parent()
        os.close(writing)
        said = b"" if failed else os.read(reading, 4)  # nothing once the program is loaded
        os.close(reading)
        if said:
            try:  # noqa: SIM105  # contextlib would cost the keeper 2 ms
                os.waitpid(pid, 0)
            except ChildProcessError:  # the thread that runs the loop has reaped it
                pass
        if failed := failed or int.from_bytes(said, "little"):
            raise OSError(failed, os.strerror(failed))
        return pid
    number = errno.EIO
    try:
        library.PyOS_AfterFork_Child()
        for ignored in RESET:
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        os.fchdir(workspace)
        if isinstance(standard, bytes):
            standard = (os.open(standard, os.O_RDWR),) * 3  # the terminal that controls the session
        for target, descriptor in enumerate(standard):
            os.dup2(descriptor, target)
        os.execve(executable, argv, environment)  # noqa: S606  # that is the job
    except OSError as error:
        number = error.errno or number
    finally:
        os.write(writing, number.to_bytes(4, "little"))
        os._exit(127)


def _spawn_by_os(executable: bytes, argv: list[bytes], entries: list[bytes], standard: tuple[int, ...] | bytes) -> int:
    # An entry without a name (`=C:=...`) cannot be given to these calls, and means nothing to any program here.
    environment = dict(entry.split(b"=", 1) for entry in entries if not entry.startswith(b"="))
    actions: list[tuple[Any, ...]] = []
    if isinstance(standard, bytes):
        actions, standard = [(os.POSIX_SPAWN_OPEN, 0, standard, os.O_RDWR, 0)], (0, 0, 0)
    actions += [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(standard)]
    try:
        return os.posix_spawn(
            executable,
            argv,
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=RESET,
        )
    except NotImplementedError:  # no POSIX_SPAWN_SETSID here
        if len(actions) > len(standard):
            message = "this Python cannot give a command a terminal"
            raise LaunchError(125, message) from None
        import subprocess

        process = subprocess.Popen(
            argv,
            executable=executable,
            env=environment,
            stdin=standard[0],
            stdout=standard[1],
            stderr=standard[2],
            start_new_session=True,
        )
        process.returncode = 0  # the keeper reaps it, not the destructor
        return process.pid


# The structures of glibc and musl are smaller.
_ROOM: Final = 512
_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80  # spawn.h of both
_SETCGROUP: Final = 0x100  # spawn.h of glibc 2.39
_FLAGS: Final = _SETSIGDEF | _SETSIGMASK | _SETSID
_CLONE3, _INTO_CGROUP, _CLEAR_SIGHAND = 435, 0x200000000, 0x100000000  # linux/sched.h


def _prepare() -> tuple[Any, Any]:
    """Return the C library and the attributes of every spawn; ``None`` where it has no such calls."""
    if not sys.platform.startswith("linux"):
        return None, None
    try:
        library = ctypes.CDLL(None)
        calls = [library.posix_spawn_file_actions_addfchdir_np, library.posix_spawn, library.posix_spawnattr_setflags]
        calls += [library.posix_spawn_file_actions_adddup2, library.posix_spawn_file_actions_destroy]
        calls += [library.posix_spawn_file_actions_addopen]
        calls += [library.posix_spawn_file_actions_init]
    except (OSError, AttributeError):  # glibc before 2.29; no such module
        return None, None
    del calls  # the library caches them
    attributes, signals = ctypes.create_string_buffer(2 * _ROOM), ctypes.create_string_buffer(_ROOM)
    library.posix_spawnattr_init(attributes)
    library.sigemptyset(signals)
    library.posix_spawnattr_setsigmask(attributes, signals)
    for number in RESET:
        library.sigaddset(signals, int(number))
    library.posix_spawnattr_setsigdefault(attributes, signals)
    library.posix_spawnattr_setflags(attributes, ctypes.c_short(_FLAGS))
    return library, attributes


_library, _attributes = _prepare()
CAN_SHARE: Final = _library is not None
"""Whether other threads go on while one waits in ``spawn``."""
CAN_SPAWN_INTO: Final = _library is not None and hasattr(_library, "posix_spawnattr_setcgroup_np")
"""Whether a process can begin in a control group of version 2 without a copy of this process."""


_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h


def unprivileged(step: Callable[..., int], *args: object) -> int:
    """Call ``step``, which spawns a process that gains no rights by an exec (``PR_SET_NO_NEW_PRIVS``).

    The flag belongs to a thread, is never taken back, and is inherited. So a thread that ends afterwards does the step.

    Raises:
        LaunchError: this system has no such flag.
    """
    done = _thread.allocate_lock()
    outcome: list[int | BaseException] = []

    def run() -> None:
        try:
            if _library is None or _library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
                raise LaunchError(125, "no_new_privs cannot be set on this system", final=True)
            outcome.append(step(*args))
        except BaseException as error:  # noqa: BLE001  # raised below
            outcome.append(error)
        finally:
            done.release()

    done.acquire()
    _thread.start_new_thread(run, ())
    done.acquire()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def set_dumpable(dumpable: bool) -> None:  # noqa: FBT001  # as of prctl
    """Let other processes of this user read the memory and the descriptors of this one, or not, as far as possible.

    Among these processes are the jobs. A spawned program is dumpable again: the exec sees to that.
    """
    if _library is not None and hasattr(_library, "prctl"):
        _library.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)


def _may_enter(workspace: int) -> bool:
    try:
        return os.access(b".", os.X_OK, dir_fd=workspace)
    except OSError:
        return False


def why_not(error: OSError, executable: bytes, workspace: int) -> LaunchError:
    """Explain an error of ``spawn``. May wait as ``find_executable`` may."""
    shown = os.fsdecode(executable)
    if error.errno in {errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN} and not _may_enter(workspace):
        final = error.errno in NO_WORKSPACE
        return LaunchError(125, f"cannot enter the workspace: {error.strerror}", final=final)
    if error.errno == errno.ENOENT:
        try:
            os.stat(executable, dir_fd=workspace)
        except OSError:
            return LaunchError(127, f"{shown}: no such file")
        return LaunchError(126, f"{shown}: the interpreter that its first line names does not exist")
    if error.errno == errno.ENOEXEC:
        return LaunchError(126, f"{shown}: neither a program nor a script with a #! line")
    if error.errno in {errno.EACCES, errno.EPERM, errno.E2BIG, errno.ETXTBSY, errno.ELOOP, errno.ENAMETOOLONG}:
        return LaunchError(126, f"{shown}: {error.strerror}")
    return LaunchError(125, f"cannot spawn a process: {error.strerror}")
