"""The session in which the command of a job works: begun under an id that is on record, or continued."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from supervisor.interpret import session_command
from supervisor.store.series import CONTINUE

__all__ = ["in_its_session"]


def in_its_session(
    record: Mapping[str, Any], argv: tuple[bytes, ...], stdin: bytes | None
) -> tuple[tuple[bytes, ...], bytes | None]:
    """Return the command and the input of a job as they are launched.

    Args:
        record: ``job.json`` of the job: ``session_id`` if the session is known, ``resumed`` if it is continued.
        argv: the command of the request.
        stdin: its input.
    """
    session_id = record.get("session_id")
    if session_id is None:
        return argv, stdin
    prompt = CONTINUE if record.get("resumed") else None
    found = session_command(record["kind"], record["argv"], session_id, prompt)
    if found is None:  # a kind that was installed when the job was started
        return argv, stdin
    return tuple(map(os.fsencode, found.argv)), stdin if found.stdin is None else found.stdin
