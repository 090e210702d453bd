"""Generates the page of the limits and defaults from the code: ``python docs/generate_limits.py``.

A test fails while ``docs/limits.md`` differs. The words are here; the constants are read from their modules, so one
that is renamed or moved is an error of this program.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from supervisor.retry import Retry
from supervisor.settings import Settings

PAGE: Final = Path(__file__).parent / "limits.md"

TEXT: Final = """\
<!-- `python docs/generate_limits.py` makes this page from the code; a change here is lost. -->
# Limits and defaults

Every default that you can change, and the bounds that you cannot. A value beyond a bound of a request is refused with
[`invalid_arguments`](errors.md#invalid_arguments), unless the table says otherwise, and nothing is started or changed.
MiB and KiB are powers of 1024.

## Settings

A setting comes from the argument of `Settings`, else from its variable, else from
[the configuration file](command-line.md#the-configuration-file), else it has its default. An option holds for one job.
`supervisor doctor` says where each value is from.

| setting | variable | option of a job | default | accepts |
|---|---|---|---|---|
{settings}

{meanings}

Other variables are no settings. `SUPERVISOR_CONFIG_FILE` names the configuration file, `SUPERVISOR_CGROUPS=off` does without
[control groups](control.md), and `SUPERVISOR_DETACH_KEY` is the [key that detaches](control.md).

## A job

Deadline, output and time to live are [settings](#settings).

| what | bound | then |
|---|---|---|
| stdin | at most {b:jobs.validation.MAX_INPUT_BYTES} | let the command read a file instead |
| deadline, time to live, grace | at most 100 years; a deadline can be `none` | |
| labels | at most {n:model.MAX_LABELS} | |
| a label | at most {n:jobs.validation._MAX_LABEL_CHARACTERS} characters, name and value together | |
| an idempotency key | 1 to {n:jobs.validation._MAX_KEY_CHARACTERS} printable characters | |
| `--memory` | {b:model.limits._LEAST_MEMORY} to {b:model.limits._MOST_MEMORY}; none by default | |
| `--cpus` | {n:model.limits._LEAST_CPUS} to {n:model.limits._MOST_CPUS}; none by default | |
| `--pids` | 1 to {n:model.limits._MOST_PIDS}; none by default | |
| a message of `send` | at most {b:keeper.channels.MAX_MESSAGE} | send it in several messages |
| connections to the input and the terminals of the jobs of a keeper | {n:keeper.channels._MAX_CLIENTS} | the oldest one is closed, one without a terminal first |

## Waiting, groups and retries

See [queues](queues.md).

| what | bound | then |
|---|---|---|
| groups of a job | at most {n:jobs.validation.MAX_GROUPS}; none by default | |
| priority | -{n:jobs.validation.MAX_PRIORITY} to {n:jobs.validation.MAX_PRIORITY}; 0 by default | |
| weight | 1 to {n:jobs.validation.MAX_WEIGHT}; 1 by default | |
| jobs that a job waits for (`--after`) | at most {n:jobs.validation._MAX_DEPENDENCIES} | |
| a time that a job waits for, or may wait | at most {s:jobs.validation.MAX_DELAY_SECONDS} | |
| the limit of a group | 0 (closed) to {n:store.groups._MAX_LIMIT}; unlimited by default | |
| aging of a group | 0 to {s:store.groups._MAX_AGING_SECONDS}, or strict; {s:store.groups.DEFAULT_AGING_SECONDS} by default | |
| starts of the rate of a group | at most {n:store.groups._MAX_RATE} in its window; no rate by default | |
| failures in `--pause-on-failure` | 1 to {n:store.groups._MAX_FAILURES}; off by default | |
| attempts | 1 to {n:retry.MAX_ATTEMPTS}; 1 by default, {attempts} in `Retry` | |
| the first delay of a retry | 0 to {s:retry.MAX_INTERVAL_SECONDS}; {first} by default | |
| the factor of the delays | 1 to {n:retry._MAX_COEFFICIENT}; {factor} by default | |
| the longest delay | 0 to {s:retry.MAX_INTERVAL_SECONDS}; {n:retry._USUAL_INTERVALS} times the first by default | |
| names in `retry_on` and `never_retry_on` | at most {n:retry._MAX_NAMES} each | |
| usage limits that a job waits out | at most {n:retry.MAX_WAITS} | it then ends with the error of the last one |

## Schedules and deliveries

See [schedules](schedules.md) and [deliveries](deliveries.md).

| what | bound | then |
|---|---|---|
| a cron expression | at most {n:admission.cron._MAX_CHARACTERS} characters | |
| missed instants that `--catch-up all` starts | at most {n:admission.instants.MAX_CAUGHT_UP} | |
| the window in which missed instants are caught up | at most {s:jobs.validation.MAX_DELAY_SECONDS}; {s:jobs.schedules.DEFAULT_WINDOW_SECONDS} by default | |
| the URL of a webhook | at most {n:text.webhook_urls._MAX_CHARACTERS} characters | |
| the command of `--on-end` | {s:runtime.delivering._COMMAND_SECONDS} | the attempt has failed |
| an attempt of a webhook | {s:runtime.webhooks._SECONDS} in all, {s:runtime.webhooks._CONNECT_SECONDS} for a connection | the attempt has failed |
| between attempts | {s:runtime.delivering._FIRST_SECONDS}, doubled each time, up to {s:runtime.delivering._LONGEST_SECONDS} | |
| all attempts of a delivery | {s:runtime.delivering._DAY_SECONDS} of waits | the delivery is dead, and is kept and shown |
| deliveries under way | {n:runtime.delivering._MAX_TASKS}, {n:runtime.delivering._MAX_FOR_ONE} of them to one receiver | the others wait |

## Over HTTP: `serve` and `mcp --http`

Where the table says so, each caller has its own bound, so that others have room. See [serve](serve.md) and [MCP over HTTP](mcp.md#over-http).

| what | bound | then |
|---|---|---|
| the address of `serve` | `{t:cli.commands.serve._ADDRESS}` by default | |
| connections | half of the files that the process may open, at least {n:http.accepting._MIN_CONNECTIONS}, at most {n:http.accepting._MAX_CONNECTIONS} | the oldest one without a request is closed |
| concurrent requests of a caller | half of the connections that the others leave | 429, `too_many_requests` |
| from the connection, or the answer before, to a complete request | {s:http.accepting._REQUEST_SECONDS} | the connection may be closed |
| the body of a request | {b:web.operations._MAX_BODY_BYTES} | 413 |
| all bodies of a caller's requests | {b:http.guard._BODIES_BYTES} | 429, `too_many_requests` |
| all large answers of a caller | {b:http.guard._ANSWERS_BYTES} | the next one waits until the client has read others |
| a token | at least {n:http.tokens._MIN_TOKEN_CHARACTERS} characters | |
| the path of a UNIX socket | at most {n:http.listening._MAX_PATH_BYTES} bytes | |
| `wait` of REST | at most {s:web.jobs.MAX_WAIT_SECONDS} | |
| `limit` of `GET /v1/jobs` | 1 to {n:jobs.listing._MAX_PER_PAGE}; 50 by default | go on with the cursor |
| the output of a job whose result REST returns | {b:web.jobs._MAX_RESULT_BYTES} | read its logs |
| a part of the logs | at most {b:web.jobs._MAX_LOG_BYTES}; 64 KiB by default | go on with the offset |
| a quiet stream of events | a comment every {s:web.events._QUIET_SECONDS} | |
| a session of the page | {s:web.page.sessions.SESSION_SECONDS} | log in again |
| sessions, and unused links, of one token | {n:web.page.sessions.MAX_SESSIONS} each | a new one ends the oldest |
| a link to log in | {s:web.page.sessions.LINK_SECONDS} | `supervisor login` makes another one |
| groups in the metrics | {n:metrics.MAX_GROUPS} | others are left out |

## MCP

See [MCP](mcp.md).

| what | bound | then |
|---|---|---|
| a message over stdio | {b:mcp_server.transports.stdio._MAX_LINE_BYTES} | an error, and the server goes on |
| unanswered requests over stdio | {n:mcp_server.transports.stdio._MAX_OPEN}, with {b:mcp_server.transports.stdio._MAX_OPEN_BYTES} together | further ones wait for {s:mcp_server.transports.stdio._PATIENCE_SECONDS}, then they are refused |
| the body of a message over HTTP | {b:mcp_server.transports.http._MAX_BODY_BYTES} | it is refused |
| sessions of a principal over HTTP | {n:mcp_server.transports.sessions._MAX_SESSIONS} | the least recently used one ends |
| a session without a request | {s:mcp_server.transports.sessions.SESSION_IDLE_SECONDS} | it ends |
| subscriptions to resources | {n:mcp_server.tools.resources._MAX_WATCHES} in all, {n:mcp_server.tools.resources._MAX_OF_A_PRINCIPAL} of a principal | an error |
| streams of events of a principal | {n:mcp_server.events.extension._MAX_STREAMS} | an error |
| subscriptions to events by webhook | {n:mcp_server.events.subscribing._MAX_IN_ALL} in all, {n:mcp_server.events.subscribing._MAX_OF_A_PRINCIPAL} of a principal | an error |
| how long a subscription by webhook lasts | {s:mcp_server.events.subscribing._DEFAULT_SECONDS} by default, {s:mcp_server.events.subscribing._MIN_SECONDS} to {s:mcp_server.events.subscribing._MAX_SECONDS} | the client refreshes it |
| challenges to receivers of webhooks | {n:mcp_server.events.subscribing._MAX_CHALLENGES} of a principal at once, {n:mcp_server.events.subscribing._MAX_FOR_A_HOST} to one host in a minute | an error |
| task ids in one subscription | {n:mcp_server.tasks.listening._MAX_IDS} | |
| a wait of `job_wait` | {s:mcp_server.tools.jobs._WAIT_SECONDS} by default, at most {s:mcp_server.tools.jobs._MAX_WAIT_SECONDS} | the answer says that the job runs |
| a value in an answer | {n:mcp_server.tools.answers.MAX_CHARACTERS} characters by default, at most {n:mcp_server.tools.jobs._MAX_ANSWER_CHARACTERS} | it is cut, and the answer says so |
| a text parameter of a kind | {n:mcp_server.config.arguments.DEFAULT_MAX_LENGTH} characters, unless the kinds file says otherwise | |
| one word of the command of a kind | {n:mcp_server.config.templates._MAX_WORD_BYTES} bytes, as Linux has it | |
| the answer of the user to `confirm` | {s:mcp_server.tools.confirming._ANSWER_SECONDS} | [`not_confirmed`](errors.md#not_confirmed) |

## Reading

| what | bound | then |
|---|---|---|
| `supervisor list` | 1 to {n:jobs.listing._MAX_PER_PAGE} jobs; 50 by default | go on with the cursor |
| an abbreviated job id | at least {n:jobs.reading._MIN_PREFIX} characters | |
| stdout of the kinds `json`, `claude` and `codex` | {b:text.json_lines.MAX_DOCUMENT_BYTES} | `invalid_output` |
| a line of an agent's output that its progress counts | {b:interpret.progress.MAX_LINE_BYTES} | it is passed over |
| events that a subscriber of `sup.events()` has not read | {n:runtime.events._MAX_EVENTS} | the oldest one is dropped and counted |
| the configuration file | {b:settings.config_file._MAX_BYTES} | `invalid_settings` |
"""

_CONSTANT: Final = re.compile(r"\{(?P<unit>[nsbt]):(?P<path>[\w.]+)\}")
"""A constant in ``TEXT``, as ``{n:module.NAME}``: a number, ``s`` seconds, ``b`` bytes, ``t`` text."""
_UNITS: Final = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def _count(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


def _duration(seconds: float) -> str:
    for length, unit in _UNITS:
        if seconds % length == 0 and (seconds != 86400 or unit == "hour"):
            number = seconds // length
            return f"{number:,.0f} {unit}{'' if number == 1 else 's'}"
    return f"{seconds:g} seconds"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or count % 1024:
            return f"{count:,.0f} {unit}"
        count //= 1024
    return f"{count:,.0f} PiB"


_WRITERS: Final[dict[str, Callable[[Any], str]]] = {"n": _count, "s": _duration, "b": _size, "t": str}


def _constant(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"supervisor.{module}"), name)


def _read(match: re.Match[str]) -> str:
    return _WRITERS[match["unit"]](_constant(match["path"]))


def _settings() -> Iterator[str]:
    """Yield the rows of the settings."""
    options = {variable: f"`--{option}`" for option, variable in _constant("cli.defaults._VARIABLES").items()}
    for field in attrs.fields(Settings):
        source = field.metadata["source"]
        default = source.default
        if field.name.endswith("_bytes"):
            shown = _size(default)
        elif isinstance(default, str):
            shown = f"`{default}`" if default else "none"
        elif default is None:
            shown = "none"
        else:
            is_time = source.accepts.startswith("a number of seconds")
            shown = _duration(default) if is_time else _count(default)
        cells = f"`{field.name}`", f"`{source.variable}`", options.get(source.variable, ""), shown, source.accepts
        yield f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _meanings() -> Iterator[str]:
    """Yield what each setting means, by the docstring of ``Settings``, without variable and default."""
    text = (inspect.getdoc(Settings) or "").partition("Attributes:")[2].partition("Raises:")[0]
    for name, meaning in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", text, re.MULTILINE):
        words = re.sub(r"\s+", " ", re.sub(r"\s+\(``SUPERVISOR_[^)]*\)", "", meaning)).replace("``", "`")
        yield f"* `{name}`: {words.rstrip('.')}."


def generated() -> str:
    """Return the text of the page."""
    usual = Retry()
    rest = {
        "settings": "\n".join(_settings()),
        "meanings": "\n".join(_meanings()),
        "attempts": _count(usual.maximum_attempts),
        "first": _duration(usual.initial_interval),
        "factor": _count(usual.backoff_coefficient),
    }
    return _CONSTANT.sub(_read, TEXT).format(**rest)


if __name__ == "__main__":
    PAGE.write_text(generated(), encoding="utf-8")
