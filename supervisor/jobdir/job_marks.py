"""The mark and the tag of a job, which all of its processes inherit.

**The mark** is the job's id in the environment. A process can change its environment (``env -i``, ``setproctitle``).

**The tag** is a resource limit. A process inherits its limits over every ``fork``, ``exec`` and ``setsid``, and
``/proc`` shows them. ``RLIMIT_RTTIME`` (microseconds that a real-time process may run without sleeping) is
unlimited unless an administrator has set it. A keeper gives each of its commands a soft limit of more than a hundred
thousand years with the first 48 bits of the job's id in it, which limits nothing. Where the caller has set that limit,
or the system has none, there is no tag.
"""

from __future__ import annotations

import resource

from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["MARK", "drop_tag", "mark_of", "marks_by_ps", "put_tag", "tag_in", "tag_of", "tag_of_job"]

MARK: Final = b"SUPERVISOR_JOB_ID"

_LIMIT: Final[int | None] = getattr(resource, "RLIMIT_RTTIME", None)
_FIRST: Final = 1 << 62
_DIGITS: Final = 12
_NAME_IN_PROC: Final = b"Max realtime timeout"


def mark_of(pid: int) -> bytes:
    """Return the job id that a process carries in its environment, empty for none.

    Raises:
        NotKnown: that cannot be read now, or not by this user.
    """
    environment = b"\0" + processes.read_file_of(pid, "environ")
    found = environment.find(b"\0" + MARK + b"=")
    if found < 0:
        return b""
    begin = found + len(MARK) + 2
    return environment[begin : environment.find(b"\0", begin) if b"\0" in environment[begin:] else None]


def marks_by_ps() -> dict[int, bytes]:
    """Return the job ids that processes carry in their environments, by pid, where there is no ``/proc``.

    Raises:
        NotKnown: ``ps`` cannot be run now.
    """
    found: dict[int, bytes] = {}
    for line in processes.ask("ps", "-axEww", "-o", "pid=,command=").splitlines():
        pid, _, rest = line.strip().partition(" ")
        _, there, value = rest.rpartition(f" {MARK.decode()}=")
        if there and pid.isdigit():
            found[int(pid)] = value.split(" ", 1)[0].encode()
    return found


def tag_of_job(job_id: str) -> int:
    """Return the tag of a job, 0 for any other text."""
    try:
        return _FIRST + int(job_id[:_DIGITS], 16)
    except ValueError:
        return 0


def tag_of(pid: int) -> int:
    """Return the tag that a process has in its limits, 0 for none.

    Raises:
        NotKnown: that cannot be read now, or not by this user.
    """
    return tag_in(processes.read_file_of(pid, "limits"))


def tag_in(limits: bytes) -> int:
    """Return the tag in the text of ``/proc/PID/limits``, 0 for none."""
    begin = limits.find(_NAME_IN_PROC)
    words = limits[begin + len(_NAME_IN_PROC) :].split(None, 1) if begin >= 0 else []
    soft = int(words[0]) if words and words[0].isdigit() else 0
    return soft if soft >= _FIRST else 0


def drop_tag() -> bool:
    """Take an inherited tag from this process; ``False`` where children are not to be given one."""
    if _LIMIT is None or not hasattr(resource, "prlimit"):
        return False
    soft, hard = resource.getrlimit(_LIMIT)
    if hard != resource.RLIM_INFINITY or (soft != hard and soft < _FIRST):
        return False
    if soft != hard:
        resource.setrlimit(_LIMIT, (hard, hard))
    return True


def put_tag(pid: int, job_id: str) -> None:
    """Give a new child the tag of its job, as far as possible."""
    tag = tag_of_job(job_id)
    if tag and _LIMIT is not None and hasattr(resource, "prlimit"):
        try:  # noqa: SIM105  # contextlib would cost the keeper 2 ms
            resource.prlimit(pid, _LIMIT, (tag, resource.RLIM_INFINITY))
        except OSError:  # it has ended, or became another user at its exec
            pass
