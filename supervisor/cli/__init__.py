"""The command line: ``supervisor run``, ``start``, ``status`` and the others of the contract.

==============  =============================================================================
``app``         the group of commands, loaded one by one as they are asked for; usage errors
``front``       what every command has: ``--json``, ``--state-dir``, errors, exit status, logging
``inherited``   what comes from the caller: closed descriptors, the environment
``streams``     writing to stdout and stderr, which may fail
``exits``       the exit statuses, and which of several is the worst
``arguments``   arguments and options that several commands share
``text``        durations, sizes, command lines and colours, for people
``request``     the options of ``run`` and ``start``, and the job that they ask for
==============  =============================================================================

Every other module is one command, or two that are two sides of the same thing.

Only ``run`` and ``start`` need an event loop. The others act through ``supervisor.jobs.catalog`` and
import neither Trio nor anything else that takes long, so that ``supervisor status`` is quick.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["main"]

_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_OBJECTS: Final = 100_000
"""After how many new objects rubbish is looked for: more than the modules of a command have, few for a server."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    ``arguments`` are those of the process when they are left out.
    """
    if arguments is not None:
        return _run(arguments)
    from supervisor.cli.inherited import restore_environment, take_descriptors

    take_descriptors()  # before anything of ours can be given the number of a standard stream
    restore_environment()
    # A short command mostly loads modules, of which nothing is rubbish: looking for it, meanwhile and once more when
    # the interpreter ends, would be a sixth of its time.
    gc.set_threshold(_OBJECTS, 10, 10)
    try:
        return _run(sys.argv[1:])
    finally:
        gc.freeze()


def _run(arguments: Sequence[str]) -> int:
    try:
        from supervisor.cli.app import app

        app.main(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in _SHORTAGES:
            raise
        return _tell_shortage(error, as_json="--json" in arguments)
    return 0


def _tell_shortage(error: OSError, *, as_json: bool) -> int:
    """Say that a module could not be loaded for want of something, without loading another one."""
    message = f"the command cannot be loaded now: {os.strerror(error.errno or 0)}"
    repair = "Try again; raise the limit of open files (`ulimit -n`) if it stays so."
    text = f"Error: {message}\n{repair}\n"
    if as_json:
        text = (
            f'{{"ok": false, "error": {{"code": "state_busy", "message": "{message}", "repair": "{repair}", '
            '"retryable": true, "retry_after_ms": null, "details": {}}}\n'
        )
    with contextlib.suppress(OSError):
        os.write(1 if as_json else 2, text.encode())
    return 125
