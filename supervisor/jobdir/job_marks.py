"""What a process cannot easily shed: by which its job and its keeper are known whatever it does to its environment.

Standard library only, no import from the package: the keeper runs this file too, in an
interpreter started with ``-I -S``.

**The tag of a job** is a resource limit. A process inherits its limits over every ``fork``, ``exec`` and ``setsid``,
also where it clears its environment or writes over it (``setproctitle``), and they can be read in ``/proc``. Among
them ``RLIMIT_RTTIME`` (microseconds that a real-time process may run without sleeping) is unlimited unless an
administrator has set it. A keeper gives each of its commands a soft limit of more than a hundred thousand years with
the first 48 bits of the job's id in it, which limits nothing. Where the caller has set that limit, or the system has
none, there is no tag.

**A keeper registers** in the state root that its command line names: ``.keepers`` holds an empty file under the text of
its claim, which says who it is. What has such a command line and no such file is no keeper.
"""

from __future__ import annotations

import os
import resource
from errno import EACCES, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

__all__ = ["KEEPERS", "drop_tag", "is_registered", "leave", "put_tag", "register", "sweep", "tag_in", "tag_of_job"]

KEEPERS: Final = ".keepers"

_LIMIT: Final[int | None] = getattr(resource, "RLIMIT_RTTIME", None)
_FIRST: Final = 1 << 62
_DIGITS: Final = 12
_NAME_IN_PROC: Final = b"Max realtime timeout"
_NOT_THERE: Final = frozenset({ENOENT, ENOTDIR, EACCES, EINVAL, ELOOP, ENAMETOOLONG})


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


def register(root: str, claim: str) -> None:
    """Register this process, which holds ``claim`` as a keeper, in a state root, as far as that can be done."""
    try:
        os.mkdir(f"{root}/{KEEPERS}", 0o700)
        os.chmod(f"{root}/{KEEPERS}", 0o700)  # whatever the umask, which is that of the jobs
    except OSError:
        pass
    try:
        descriptor = os.open(
            f"{root}/{KEEPERS}/{claim}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
    except OSError:
        pass


def leave(root: str, claim: str) -> None:
    """Take back a registration."""
    try:  # noqa: SIM105
        os.unlink(f"{root}/{KEEPERS}/{claim}")
    except OSError:
        pass


def sweep(root: str, boot: str, namespace: str, lives: Callable[[int, int], bool]) -> None:
    """Take back the registrations of keepers that are gone: of an earlier boot, or of this pid namespace and not alive.

    Raises:
        OSError: they cannot be looked at now.
    """
    for name in os.listdir(f"{root}/{KEEPERS}"):
        words = name.split(".")
        is_claim = len(words) == 5 and words[1].isdigit() and words[2].isdigit()
        may_live = is_claim and words[3] == boot[:12]
        if may_live and words[4] == namespace:
            may_live = lives(int(words[1]), int(words[2]))
        if not may_live:
            os.unlink(f"{root}/{KEEPERS}/{name}")


def is_registered(words: list[bytes], claim: str) -> bool:
    """Whether a command line names a place at which a process is registered as the keeper that holds ``claim``.

    That is a state root, or the directory of a job that a keeper of its own has claimed.

    Raises:
        OSError: it cannot be told now.
    """
    wanted = claim.encode("ascii")
    for word in words[1:]:
        if word.startswith(b"/"):
            try:
                os.lstat(b"%s/%s/%s" % (word, KEEPERS.encode(), wanted))
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
            else:
                return True
            try:
                if os.readlink(word + b"/claim") == wanted:
                    return True
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
    return False
