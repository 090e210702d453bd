"""Answers the usual forms of ``status`` and ``list`` to a pipe or a file, without click: that is a third of their time.

``answer`` returns ``None`` for all else: another option, a terminal, an error, a job that has not ended. Then the
command itself answers, from the beginning; nothing was written by then. So each answer is the one that it would give.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from supervisor.cli import exits, streams
from supervisor.errors import SupervisorError
from supervisor.settings import Settings

__all__ = ["answer"]

_FLAGS: Final = {"status": {"--json"}, "list": {"--json", "--all"}}
_VALUES: Final = {"status": {"--state-dir"}, "list": {"--state-dir", "--limit"}}
_MAX_LIMIT: Final = 1000


class _Answer(NamedTuple):
    """The lines for stdout, and one for stderr."""

    lines: Sequence[str]
    remark: str | None = None


def answer(arguments: Sequence[str]) -> int | None:
    """Answer a command and return its exit status; ``None`` if this is not one that can be answered here."""
    name, *words = arguments or [""]
    if name not in _FLAGS or sys.stdout.isatty() or "_SUPERVISOR_COMPLETE" in os.environ:
        return None
    if (options := _parsed(name, words)) is None:
        return None
    try:
        given = options.get("--state-dir")
        settings = Settings() if given is None else Settings(state_dir=Path(given))
        found = (_status if name == "status" else _list)(settings, options)
    except SupervisorError:
        return None
    return None if found is None else _write(found, as_json="--json" in options)


def _parsed(name: str, words: Sequence[str]) -> Mapping[str, str] | None:
    """Return the options by their names, and the job by the name ``JOB``; ``None`` for other words than these."""
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if word in _FLAGS[name]:
            found[word] = ""
        elif option in _VALUES[name]:
            value = value if equals else next(rest, "")
            if not value or "\0" in value or option in found:
                return None
            found[option] = value
        elif name == "status" and "JOB" not in found and not word.startswith("-"):
            found["JOB"] = word
        else:
            return None
    return found


def _status(settings: Settings, options: Mapping[str, str]) -> _Answer | None:
    from supervisor.jobs.reading import Reading  # here and below: only a command that is answered here needs them

    job = Reading(settings).status(options.get("JOB", ""))
    if job is None:
        return None
    if "--json" in options:
        from supervisor.model.job_json import job_to_json

        return _document(job_to_json(job))
    from supervisor.cli.job_text import describe

    return _Answer(describe(job))


def _list(settings: Settings, options: Mapping[str, str]) -> _Answer | None:
    from supervisor.jobs.reading import Reading

    limit = options.get("--limit", "50")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= _MAX_LIMIT):
        return None
    where = None if "--all" in options else os.curdir
    found = Reading(settings).list(workspace=where, state=None, labels={}, limit=int(limit), cursor=None)
    if found is None:
        return None
    page, elsewhere = found
    if "--json" in options:
        from supervisor.model.job_json import page_to_json

        return _document(page_to_json(page) | ({} if where is None else {"jobs_in_other_workspaces": elsewhere}))
    if not page.jobs:  # it says more on stderr
        return None
    from supervisor.cli import job_columns, table

    names = job_columns.usual(page.jobs, on_terminal=False, with_workspace=where is None)
    rows = [job_columns.cells(job, names) for job in page.jobs]
    columns = [job_columns.COLUMNS[each].column for each in names]
    return _Answer(table.fitted(columns, rows, sys.maxsize, in_colour=False), job_columns.remark(page))


def _document(shape: Mapping[str, Any]) -> _Answer:
    return _Answer([json.dumps(shape, separators=(",", ":"))])


def _write(found: _Answer, *, as_json: bool) -> int:
    write: Callable[[str], object] = sys.stdout.write
    try:
        with streams.writing():
            write("\n".join(found.lines) + "\n")
            sys.stdout.flush()
        if found.remark is not None:
            streams.write_stderr(found.remark, has_style=False)
    except BrokenPipeError:  # the reader of stdout has closed it
        return exits.PIPE
    except SupervisorError as error:
        from supervisor.cli.front import report

        return report(error, as_json=as_json)
    finally:
        streams.finish()
    return exits.OK
