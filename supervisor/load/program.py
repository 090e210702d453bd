"""The program that every job is: it writes, sleeps, writes again and exits, all as it was told. And its marks.

A shell, because nothing that is there everywhere starts faster, and everything in it but the sleep is
built in. What it writes begins each line with its own tag, so that bytes of another job are noticed. It
leaves a mark in a file when it begins and one when it comes to its end by itself: what the supervisor
says can be held against what has happened. Where a stop reaches its sleep before it reaches the shell,
the shell does not go on.
"""

from __future__ import annotations

import glob
import os
import shlex
from collections import Counter
from collections.abc import Iterable
from typing import Final

import attrs

__all__ = ["Marks", "allow_pattern", "argv", "expected_output", "processes_of", "read_marks", "tag_of"]

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
        tag: what begins each line of its output, and its marks.
        marks: the file for its marks; empty for none.
        seconds: how long it sleeps.
        before: bytes of stdout before it sleeps.
        after: bytes of stdout after that.
        stderr: bytes of stderr before it sleeps.
        exit_code: what it exits with.
        stubborn: whether SIGTERM leaves it, and its sleep, as they are.
    """
    told = (f"{seconds:.6f}".rstrip("0").rstrip(".") or "0", before, after, stderr, exit_code, int(stubborn))
    return (SHELL, "-c", SCRIPT, NAME, tag, marks, *map(str, told))


def tag_of(command: Iterable[str]) -> str | None:
    """Return the tag in a job's command; ``None`` when it is not one of ours."""
    match tuple(command):
        case (_, "-c", _, "bench", tag, *_):
            return tag
        case _:
            return None


def allow_pattern() -> str:
    """Return the pattern for ``supervisor mcp --allow-command`` that allows this program and nothing else."""
    return shlex.join((SHELL, "-c", glob.escape(SCRIPT), NAME)) + " *"


def expected_output(tag: str, before: int, after: int) -> bytes:
    """Return what a job writes to stdout that comes to its end."""
    line = f"{tag}\n".encode("ascii")
    return b"".join((line * (count // len(line) + 1))[:count] for count in (before, after))


@attrs.frozen(slots=True)
class Marks:
    """What jobs have left in the file for marks.

    Attributes:
        begun: how often each tag was begun.
        ended: how often each came to its end by itself.
    """

    begun: Counter[str]
    ended: Counter[str]


def read_marks(path: str) -> Marks:
    """Read the file for marks; one that is not there has none."""
    marks = Marks(Counter(), Counter())
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                match line.split():
                    case [tag, "+", _]:
                        marks.begun[tag] += 1
                    case [tag, "-", _]:
                        marks.ended[tag] += 1
                    case _:
                        marks.begun[line.strip()] += 1  # no tag of any job: it comes out as one that nobody asked for
    except FileNotFoundError:
        pass
    return marks


def processes_of(job_ids: frozenset[str]) -> dict[int, str]:
    """Return the processes on this machine that carry the mark of one of these jobs, by pid."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    environment = file.read()
            except OSError:  # ended meanwhile, or somebody else's
                continue
            _, mark, rest = environment.partition(b"SUPERVISOR_JOB_ID=")
            job_id = rest[:32].decode("ascii", "replace")
            if mark and job_id in job_ids:
                found[int(name)] = job_id
    return found
