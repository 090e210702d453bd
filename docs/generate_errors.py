"""Generates the page of the error codes and of the exit statuses from the code: ``python docs/generate_errors.py``.

A test fails while ``docs/errors.md`` differs. The causes are the docstrings of the exceptions and the messages of
failed jobs; the repairs are those that callers get.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from supervisor import errors
from supervisor.cli import exits
from supervisor.errors import SupervisorError
from supervisor.http.problems import STATUSES
from supervisor.interpret.failures import FAILURES, Failure, at_rest
from supervisor.jobs.outcome import CODES, STOPS, TEXTS
from supervisor.states import Event, Reason, State, step

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = Path(__file__).parent / "errors.md"
AGENTS: Final = "Claude Code or Codex"
_KINDS: Final = ("A call", "A job", "An agent's job")

TEXT: Final = """\
<!-- `python docs/generate_errors.py` makes this page from the code; a change here is lost. -->
# Error codes and exit statuses

An error has a stable `code` for programs, a `message` and a `repair` for people, and `retryable`: whether the same call, or the same
request under a new key, may succeed later. `retry_after_ms` says when, if that is known. The shape is the same in Python
(`SupervisorError`, `Result.error`), in `--json`, over REST and over MCP. A program branches on `code`, never on `message`.
It should pass over a code that it does not know, as a newer version may have more.

Two kinds of errors share these codes. A *call* fails: nothing was done, or the message says what was. Or the call succeeds, and the
error is that of a *job* that has ended otherwise than `done`. The message and the repair of an occurrence can be more exact than
those below.

The command line prints the message and the repair of an error to stderr. With `--json` the error is a document on stdout, here that
of a job that is not there:

<!-- sh -->
```sh
supervisor status 0123456789abcdef0123456789abcdef --json > answer.json || echo "exit status $?"
python3 -c 'import json; print(json.load(open("answer.json"))["error"]["code"])'
```
<!-- prints -->
```text
exit status {no_such_job}
job_not_found
```

## All codes

| code | a call | a job | an agent's job | exit status | HTTP status |
|---|---|---|---|---|---|
{overview}

The exit status is that of a command that fails with this error; `run` and `wait` have [those of the job](#exit-statuses). The HTTP
status is that of the REST interface; a call that fails with a code without one gets 500, and a request without a valid token 401.
Over MCP an error is the result of the tool, with `isError`. [Kinds of your own](kinds.md) may add codes. The codes of a load test are
in [a table of their own](load.md).

The error of a job can be retryable where this page does not say so, for example if the command could not be launched for want of a
resource, or if the output of an agent says when a limit of its account ends. A job with the reason `lost` has `output_lost` if its
output was needed and is not whole, and `internal_error` if the supervisor itself failed while it watched the job.

{entries}

## Exit statuses

| exit status | meaning |
|---|---|
{statuses}

`run` and `attach` exit as the command did: with its exit status, or with 128 and the number of the signal that has ended it;
`attach` exits with 0 after a detach. If the command could not be launched, `run` and `start` exit as a shell does: 127 when it was not
found, 126 when it cannot be executed, 125 otherwise. A command that exits with 0, and whose output its kind refuses, gives {bad}.

`wait`, `cancel`, `rm` and other commands that take several jobs exit with the most severe status of all, in this order: {severity}.
"""


class Entry(NamedTuple):
    """A cause of a code: where it is from, what it means, and what to do about it."""

    origin: str
    cause: str
    repair: str
    retryable: bool


def classes() -> Iterator[type[SupervisorError]]:
    """Yield the exceptions of the package that a caller can get, those outside ``errors`` last."""
    known = [getattr(errors, name) for name in errors.__all__]
    yield from (each for each in known if each is not SupervisorError)
    names = "|".join(errors.__all__)
    for path in sorted((ROOT / "supervisor").rglob("*.py")):
        for name in re.findall(rf"^class (\w+)\((?:{names})\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if module != errors.__name__:
                yield getattr(importlib.import_module(module), name)


def _sentences(docstring: str) -> str:
    return re.sub(r"\s+", " ", docstring).replace("``", "`")


def _of_agent(text: str) -> str:
    """Return a text of a failure for each agent: ``{cli}`` is its name, and in code its program."""
    return re.sub(r"`\{cli\} ([^`]*)`", r"`claude \1` or `codex \1`", text).replace("{cli}", AGENTS)


def _state(reason: Reason) -> State:
    """Return the state in which a running job ends for this reason."""
    stops = {why: event for event, why in STOPS.values()}
    return step(State.RUNNING, {**stops, Reason.LOST: Event.LOST}.get(reason, Event.FAILED))


def _failures() -> Iterator[tuple[str, Failure]]:
    """Yield the code and the failure of each way in which an agent fails."""
    for name, failure in FAILURES.items():
        yield failure.code or name, failure
    yield "api_error", at_rest(FAILURES["api_error"])


def causes() -> dict[str, list[Entry]]:
    """Return the causes of each code."""
    found: defaultdict[str, list[Entry]] = defaultdict(list)
    for cls in classes():
        is_public = cls.__name__ in errors.__all__
        over_mcp = " over MCP" if cls.__module__.startswith("supervisor.mcp_server.") else ""
        origin = f"A call, `{cls.__name__}`" if is_public else f"A call{over_mcp}"
        found[cls.code].append(
            Entry(origin, _sentences(inspect.getdoc(cls) or ""), cls.default_repair, cls.default_retryable)
        )
    for reason, code in CODES.items():
        origin = f"A job, `{_state(reason)}`, reason `{reason}`"
        found[code].append(Entry(origin, *TEXTS[reason], retryable=False))
    for code, failure in _failures():
        texts = _of_agent(failure.message), _of_agent(failure.repair)
        found[code].append(Entry(_KINDS[2], *texts, retryable=failure.retryable))
    return dict(sorted(found.items()))


def _exits(code: str) -> str:
    """Return the exit statuses of a command that fails with this code; the command line raises public errors only."""
    found: list[str] = []
    for cls in classes():
        if cls.code == code and cls.__name__ in errors.__all__:
            usual, other = (exits.of_error(cls("", retryable=each)) for each in (cls.default_retryable, False))
            found += [str(usual), *([] if other == usual else [f"{other} if not retryable"])]
    return ", ".join(dict.fromkeys(found))


def _row(code: str, entries: list[Entry]) -> str:
    kinds = ["yes" if any(each.origin.startswith(kind) for each in entries) else "" for kind in _KINDS]
    cells = (f"[`{code}`](#{code})", *kinds, _exits(code), str(STATUSES[code].value) if code in STATUSES else "")
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _entry(code: str, entries: list[Entry]) -> str:
    lines = [f"### `{code}`", ""]
    for each in entries:
        retryable = ", retryable" if each.retryable else ""
        lines += [f"**{each.origin}{retryable}.** {each.cause} *Repair:* {each.repair}", ""]
    return "\n".join(lines).rstrip()


def _statuses() -> Iterator[str]:
    """Yield the rows of the exit statuses: the constants of ``exits``, and the texts below them."""
    body = ast.parse(inspect.getsource(exits)).body
    for node, below in pairwise(body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Constant)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            status, text = node.value.value, below.value.value
            yield f"| {status!r} | {_sentences(str(text))} |"


def generated() -> str:
    """Return the text of the page."""
    found = causes()
    return TEXT.format(
        no_such_job=exits.NO_SUCH_JOB,
        bad=exits.BAD,
        overview="\n".join(_row(*each) for each in found.items()),
        entries="\n\n".join(_entry(*each) for each in found.items()),
        statuses="\n".join(_statuses()),
        severity=", ".join(map(str, reversed(exits.BY_SEVERITY))),
    )


if __name__ == "__main__":
    PAGE.write_text(generated(), encoding="utf-8")
