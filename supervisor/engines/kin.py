"""What a process cannot easily shed: by which its job and its keeper are known whatever it does to its environment.

Standard library only, no import from the package: the keeper runs this file too, in an
interpreter started with ``-I -S``.

**The tag of a job** is a resource limit. A process inherits its limits over every ``fork``, ``exec`` and ``setsid``,
also where it clears its environment or writes over it (``setproctitle``), and they can be read in ``/proc``. Among
them ``RLIMIT_RTTIME`` (microseconds that a real-time process may run without sleeping) is unlimited unless an
administrator has set it. A keeper gives each of its commands a soft limit of more than a hundred thousand years with
the first 48 bits of the job's id in it, which limits nothing. Where the caller has set that limit, or the system has
none, there is no tag.

**A keeper registers** in the state root that its command line names: ``.keepers/<pid>`` is a symbolic link with the
text of its claim, made by itself. What has such a command line and no such link is no keeper.
"""

from __future__ import annotations

import os
import resource
from errno import EINVAL, ELOOP, ENAMETOOLONG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["KEEPERS", "drop_tag", "is_registered", "leave", "put_tag", "register", "tag_in", "tag_of_job"]

KEEPERS: Final = ".keepers"

_LIMIT: Final[int | None] = getattr(resource, "RLIMIT_RTTIME", None)
_FIRST: Final = 1 << 62
_DIGITS: Final = 12
_NAME_IN_PROC: Final = b"Max realtime timeout"
_NO_LINK: Final = frozenset({EINVAL, ELOOP, ENAMETOOLONG})
_NOT_THERE: Final = (FileNotFoundError, NotADirectoryError, PermissionError)


# ---------------------------------------------------------------- the tag of a job


def tag_of_job(job_id: str) -> int:
    """Return the tag of a job, 0 for what is no job's id."""
    try:
        return _FIRST + int(job_id[:_DIGITS], 16)
    except ValueError:
        return 0


def drop_tag() -> bool:
    """Take a tag that was inherited from this process; ``False`` where children are not to be given one."""
    if _LIMIT is None or not hasattr(resource, "prlimit"):
        return False
    soft, hard = resource.getrlimit(_LIMIT)
    if hard != resource.RLIM_INFINITY or (soft != hard and soft < _FIRST):
        return False
    if soft != hard:
        resource.setrlimit(_LIMIT, (hard, hard))
    return True


def put_tag(pid: int, job_id: str) -> None:
    """Give a child that was spawned just now the tag of its job, as far as that can be done."""
    tag = tag_of_job(job_id)
    if tag and _LIMIT is not None:
        try:  # noqa: SIM105  # contextlib would cost the keeper 2 ms, here and below
            resource.prlimit(pid, _LIMIT, (tag, resource.RLIM_INFINITY))
        except OSError:  # it has ended, or became another user at its exec
            pass


def tag_in(limits: bytes) -> int:
    """Return the tag that ``/proc/PID/limits`` tells of, 0 for none."""
    begin = limits.find(_NAME_IN_PROC)
    words = limits[begin + len(_NAME_IN_PROC) :].split(None, 1) if begin >= 0 else []
    soft = int(words[0]) if words and words[0].isdigit() else 0
    return soft if soft >= _FIRST else 0


# ---------------------------------------------------------------- keepers


def register(root: str, pid: int, claim: str) -> None:
    """Register this process as a keeper of a state root, as far as that can be done."""
    path = f"{root}/{KEEPERS}/{pid}"
    try:
        os.mkdir(f"{root}/{KEEPERS}", 0o700)
        os.chmod(f"{root}/{KEEPERS}", 0o700)  # whatever the umask, which is that of the jobs
    except OSError:
        pass
    leave(root, pid)  # of an earlier process of that number
    try:  # noqa: SIM105
        os.symlink(claim, path)
    except OSError:
        pass


def leave(root: str, pid: int) -> None:
    """Take back a registration."""
    try:  # noqa: SIM105
        os.unlink(f"{root}/{KEEPERS}/{pid}")
    except OSError:
        pass


def is_registered(words: list[bytes], pid: int, start: int) -> bool:
    """Whether a command line names a place at which exactly this process is registered as a keeper.

    That is a state root, or the directory of a job that a keeper of its own has claimed.

    Raises:
        OSError: it cannot be told now.
    """
    wanted = b"keeper.%d.%d." % (pid, start)
    for word in words[1:]:
        if word.startswith(b"/"):
            for link in (b"%s/%s/%d" % (word, KEEPERS.encode(), pid), word + b"/claim"):
                try:
                    if os.readlink(link).startswith(wanted):
                        return True
                except _NOT_THERE:
                    continue
                except OSError as error:
                    if error.errno not in _NO_LINK:
                        raise
    return False
