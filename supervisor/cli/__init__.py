"""The command line: ``supervisor run``, ``start``, ``status`` and the other commands.

===============  ============================================================================
``app``          the group of commands, which imports a command when it is called; usage errors
``commands/``    one file for each command; ``doctor/``, ``bench/`` and ``top/`` are commands with several
``plain``        the usual forms of ``status`` and ``list`` for a pipe, answered before the others are imported
``running``      the loop of ``run``: output, clock, signals
``several``      commands that take several jobs
``job_options``  the options of ``run``, ``start`` and ``rerun``; ``job_request``: the request that they describe
``defaults``     their defaults in the configuration file
``arguments``    arguments and options that several commands share
``completing``   what a shell offers for their values; ``shells``: the scripts, and their protocol
``front``        what every command shares: ``--json``, ``--state-dir``, errors, logging
``exits``        the exit statuses, and the worst of several
``inherited``    what the caller passes on: closed descriptors, the environment
``streams``      writing to stdout and stderr, which may fail
``terminal``     colours, width, redrawing
``table``        aligned columns that fit a terminal; ``job_columns``: those of jobs
``text``         durations, sizes, command lines and outcomes as text; ``job_text``: all about one job
===============  ============================================================================

Only ``run``, ``start``, ``mcp`` and ``bench`` need an event loop. The other commands use
``supervisor.jobs.catalog`` and do not import Trio, so that ``supervisor status`` is quick.
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
_GC_THRESHOLD: Final = 100_000
"""New objects before a garbage collection: more than the modules of a command create, few for a server."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; ``arguments`` are those of the process by default."""
    if arguments is not None:
        return _run(arguments)
    from supervisor.cli.inherited import restore_environment, take_descriptors

    take_descriptors()  # first: a file that this process opens could get the number of a standard stream
    restore_environment()
    # A short command mostly loads modules, which are no garbage. Collections, also the one when the interpreter
    # ends, would take a sixth of its time.
    gc.set_threshold(_GC_THRESHOLD, 10, 10)
    try:
        return _run(sys.argv[1:])
    finally:
        gc.freeze()


def _run(arguments: Sequence[str]) -> int:
    try:
        from supervisor.cli import plain

        if (status := plain.answer(arguments)) is not None:
            return status
        from supervisor.cli.app import app

        app.main(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in _SHORTAGES:
            raise
        message = f"the command cannot be loaded now: {os.strerror(error.errno or 0)}"
        repair = "Try again. If the error persists, raise the limit of open files (`ulimit -n`)."
        return _report("state_busy", message, repair, retryable=True, as_json="--json" in arguments)
    except ImportError:
        from supervisor.cli.supervisord import supervisord_version

        if supervisord_version() is None:
            raise
        message = "supervisord, which has a package of the same name, has overwritten files of trio-supervisor"
        repair = "Install trio-supervisor in an environment of its own."
        return _report("feature_unavailable", message, repair, retryable=False, as_json="--json" in arguments)
    return 0


def _report(code: str, message: str, repair: str, *, retryable: bool, as_json: bool) -> int:
    """Report why the command cannot be loaded. Imports nothing: there may be no descriptor left."""
    text = f"Error: {message}\n{repair}\n"
    if as_json:
        text = (
            f'{{"ok": false, "error": {{"code": "{code}", "message": "{message}", "repair": "{repair}", '
            f'"retryable": {str(retryable).lower()}, "retry_after_ms": null, "details": {{}}}}}}\n'
        )
    with contextlib.suppress(OSError):
        os.write(1 if as_json else 2, text.encode())
    return 125
