"""The program of every job: it writes, sleeps, writes again and exits, as its arguments say. And its marks.

It is a shell script: no other program on every machine starts faster, and all but the sleep are shell
builtins. Each line of its output begins with its own tag, which shows bytes of other jobs. It appends a
mark to a file when it begins, and another when it ends by itself, so that the audit can compare the
records of the supervisor with what ran. If a stop reaches the sleep before the shell, the shell exits.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

__all__ = ["Marks", "allow_pattern", "argv", "expected_output", "most_at_once", "processes_of", "read_marks", "tag_of"]

SHELL: Final = "/bin/sh"
NAME: Final = "bench"

SCRIPT: Final = r"""
say() {
  s=$t n=$1
  while [ ${#s} -lt "$n" ] && [ ${#s} -lt 65536 ]; do s=$s$s; done
  while [ "$n" -ge ${#s} ]; do printf %s "$s"; n=$((n - ${#s})); done
  [ "$n" -eq 0 ] || printf "%.${n}s" "$s"
}
t="$1
"
[ -z "$2" ] || echo "$1 + $$" >>"$2"
[ "$8" = 0 ] || trap '' TERM
say "$4"
say "$6" >&2
[ "$3" = 0 ] || sleep "$3" || exit 99
say "$5"
[ -z "$2" ] || echo "$1 - $$" >>"$2"
exit "$7"
"""


def argv(
    tag: str,
    *,
    marks: str = "",
    seconds: float = 0,
    before: int = 0,
    after: int = 0,
    stderr: int = 0,
    exit_code: int = 0,
    stubborn: bool = False,
) -> tuple[str, ...]:
    """Return the command of a job.

    Input
        tag: the name with which its lines and its marks begin.
        marks: the file for its marks; empty for none.
        seconds: how long it sleeps.
        before: bytes of stdout before it sleeps.
        after: bytes of stdout after it sleeps.
        stderr: bytes of stderr before it sleeps.
        exit_code: its exit status.
        stubborn: whether it and its sleep ignore SIGTERM.
    """
    arguments = (f"{seconds:.6f}".rstrip("0").rstrip(".") or "0", before, after, stderr, exit_code, int(stubborn))
    return (SHELL, "-c", SCRIPT, NAME, tag, marks, *map(str, arguments))


def tag_of(command: Iterable[str]) -> str | None:
    """Return the tag in a job's command; ``None`` if it does not run this program."""
    match tuple(command):
        case (_, "-c", _, "bench", tag, *_):
            return tag
        case _:
            return None


def allow_pattern() -> str:
    """Return the pattern for ``supervisor mcp --allow-command`` that allows only this program."""
    return shlex.join((SHELL, "-c", glob.escape(SCRIPT), NAME)) + " *"


def expected_output(tag: str, before: int, after: int) -> bytes:
    """Return the whole stdout of a job that ends by itself."""
    line = f"{tag}\n".encode("ascii")
    return b"".join((line * (count // len(line) + 1))[:count] for count in (before, after))


@attrs.frozen(slots=True)
class Marks:
    """The marks of jobs.

    Attributes:
        begun: how often the job with each tag began.
        ended: how often it ended by itself.
    """

    begun: Counter[str]
    ended: Counter[str]


def read_marks(path: str) -> Marks:
    """Read the file of the marks; a missing file has none."""
    marks = Marks(Counter(), Counter())
    for tag, sign in _entries(path):
        (marks.ended if sign == "-" else marks.begun)[tag] += 1
    return marks


def _entries(path: str) -> Iterator[tuple[str, str]]:
    """Yield each mark in a file as its tag and its sign; another line has no sign. Nothing without the file."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            match line.split():
                case [tag, "+" | "-" as sign, _]:
                    yield tag, sign
                case _:
                    yield line.strip(), ""  # no tag of a job, so the audit reports it as unknown


def most_at_once(path: str, marks: Marks) -> int:
    """Return the largest number of jobs that ran at once, according to the order of their marks; 0 without a file.

    It is never too high: a job begins before its first mark, and ends after its last. A job that was stopped leaves no
    last mark, and counts only when it begins.
    """
    most = running = 0
    for tag, sign in _entries(path):
        if sign == "+":
            most = max(most, running + 1)
            running += tag in marks.ended
        elif sign == "-":
            running -= 1
    return most


def processes_of(job_ids: frozenset[str]) -> dict[int, str]:
    """Return the processes on this machine that carry the mark of one of these jobs, by pid."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    environment = file.read()
            except OSError:  # it has ended, or belongs to another user
                continue
            _, mark, rest = environment.partition(b"SUPERVISOR_JOB_ID=")
            job_id = rest[:32].decode("ascii", "replace")
            if mark and job_id in job_ids:
                found[int(name)] = job_id
    return found
