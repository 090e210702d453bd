"""Looking at a job of an engine for many machines, and asking for its end, in a program without an event loop."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from supervisor.engines.cluster.interface import Desk, Standing, Word
from supervisor.engines.cluster.reconcile import SUBMISSION, resolve
from supervisor.engines.interface import Observation, Seen
from supervisor.engines.local import stopping
from supervisor.jobdir import records

__all__ = ["NOTHING_SAID", "REPEAT_WITHIN_SECONDS", "read_submission", "request_end", "resolve_now"]

REPEAT_WITHIN_SECONDS: Final = 240.0
"""How long after a submission an engine that does not know of it is taken to have lost it, not to have ended it."""

NOTHING_SAID: Final = Word(standing=Standing.UNREACHABLE)


def request_end(directory: str, why: str, by: str, *, engine: str) -> bool:
    """Put on record that a job is to end; ``True`` if it had not begun, and so never will.

    The request comes before the claim, so that whoever sees the claim knows why.

    Raises:
        OSError: it cannot be written.
    """
    stopping.request_stop(directory, why, by)
    if not records.take_claim(directory, records.NOBODY):
        return records.read_claim(directory) == records.NOBODY
    resolve(directory, NOTHING_SAID, owner_lives=False, engine=engine)
    return True


def resolve_now(directory: str, desk: Desk, engine: str, *, owner_lives: bool) -> Observation:
    """Look at the records of a job and, if they hold no end, ask its engine; blocks for as long as that takes.

    A job whose directory cannot be seen just now is where it last was: nothing follows from that.
    """
    key = os.path.basename(directory)
    try:
        seen = resolve(directory, NOTHING_SAID, owner_lives=owner_lives, engine=engine)
        if seen.ended is not None:
            return seen
        word = desk.observe([key]).get(key) or _absent(directory)
        return resolve(directory, word, owner_lives=owner_lives, engine=engine, collect=desk.collect)
    except FileNotFoundError:
        return Observation(seen=Seen.ELSEWHERE, damage="its shared directory cannot be seen from here")


def _absent(directory: str) -> Word:
    """Return what it means, at one look, that the engine does not know a job: of a young one, nothing yet."""
    submitted = read_submission(directory).get("submitted_ns")
    young = isinstance(submitted, int) and time.time_ns() - submitted < REPEAT_WITHIN_SECONDS * 1e9
    if young:
        return Word(standing=Standing.UNREACHABLE, reason="unknown so far")
    return Word(standing=Standing.ABSENT)


def read_submission(directory: str) -> dict[str, Any]:
    """Return what was recorded at the submission of a job, nothing without one."""
    return records.read(directory, SUBMISSION) or {}
