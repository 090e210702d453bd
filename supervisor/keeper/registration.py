"""The registration of keepers: a keeper is known by its file in a state root, and not by its command line.

``.keepers`` in the state root holds an empty file for each keeper, named like its claim. The keeper of a single job has
claimed that job instead. Any process can have the command line of a keeper, but not the registration.
"""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR

from supervisor.jobdir import records
from supervisor.system import processes
from supervisor.system.observing import not_known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

__all__ = ["KEEPERS", "is_keeper", "is_registered", "register", "sweep", "unregister"]

KEEPERS: Final = ".keepers"

_NOT_THERE: Final = frozenset({ENOENT, ENOTDIR, EACCES, EINVAL, ELOOP, ENAMETOOLONG})


def register(root: str, claim: str) -> None:
    """Register this process, which holds ``claim`` as a keeper, in a state root, as far as possible."""
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


def unregister(root: str, claim: str) -> None:
    """Remove a registration."""
    try:  # noqa: SIM105  # contextlib would cost the keeper 2 ms
        os.unlink(f"{root}/{KEEPERS}/{claim}")
    except OSError:
        pass


def sweep(root: str, boot: str, namespace: str, lives: Callable[[int, int], bool]) -> None:
    """Remove the registrations of keepers of an earlier boot, and of those of this pid namespace that do not live.

    Raises:
        OSError: they cannot be read now.
    """
    for name in os.listdir(f"{root}/{KEEPERS}"):
        words = name.split(".")
        is_claim = len(words) == 5 and words[1].isdigit() and words[2].isdigit()
        may_live = is_claim and words[3] == boot[:12]
        if may_live and words[4] == namespace:
            may_live = lives(int(words[1]), int(words[2]))
        if not may_live:
            os.unlink(f"{root}/{KEEPERS}/{name}")


def is_keeper(pid: int, start: int, boot: str, namespace: str) -> bool:
    """Whether a process is a keeper that claims jobs by this identity.

    Raises:
        NotKnown: that cannot be read now.
    """
    words = processes.command_of(pid)
    words.append(b"/proc/%d/cwd" % pid)  # the state root, also after that was renamed
    try:
        return is_registered(words, records.keeper_claim(pid, start, boot, namespace))
    except OSError as error:
        raise not_known(error, f"/proc/{pid}/cmdline") from error


def is_registered(words: list[bytes], claim: str) -> bool:
    """Whether a command line names a place at which the keeper that holds ``claim`` is registered.

    That is a state root, or the directory of a job that the keeper of a single job has claimed.

    Raises:
        OSError: it cannot be read now.
    """
    wanted = claim.encode("ascii")
    return any(
        _find(os.lstat, b"%s/%s/%s" % (word, KEEPERS.encode(), wanted)) is not None
        or _find(os.readlink, word + b"/claim") == wanted
        for word in words[1:]
        if word.startswith(b"/")
    )


def _find(call: Callable[[bytes], object], path: bytes) -> object:
    try:
        return call(path)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None
