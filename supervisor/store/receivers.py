"""The commands that get the ends of jobs, as requests and the files of groups name them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Final

from supervisor.errors import InvalidArguments
from supervisor.store.state_root import encodable

__all__ = ["command_of"]

_MAX_WORDS: Final = 1000


def command_of(words: Sequence[str], workspace: str) -> list[str]:
    """Return a command with the path of its program: the process that runs it may have another ``PATH``.

    Raises:
        InvalidArguments: there is no such program, or a word that no command can be given.
    """
    if len(words) > _MAX_WORDS or not all(type(word) is str and encodable(word) and "\0" not in word for word in words):
        message = f"on_end must be a command of at most {_MAX_WORDS} words, each of which a command can be given"
        raise InvalidArguments(message, details={"argument": "on_end"})
    program = words[0]
    found = shutil.which(os.path.join(workspace, program) if "/" in program else program)
    if found is None:
        message = f"on_end names the program {program!r:.200}, which is not found, or not executable"
        repair = "Give the path of the program; no shell reads the command."
        raise InvalidArguments(message, repair=repair, details={"argument": "on_end"})
    return [os.path.abspath(found), *words[1:]]
