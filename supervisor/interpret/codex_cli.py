"""All assumptions about the Codex command line program.

Observed with version 0.169, ``codex exec --json``: JSON lines, a ``thread.started``, then for
each turn ``turn.started``, items, and ``turn.completed`` or ``turn.failed``. The rules that are
easy to get wrong:

* An ``error`` *item* is a remark; successful runs have them too.
* An ``error`` *line* may be a retry that succeeded ("Reconnecting..."). Only ``turn.failed``,
  or an ``error`` line after which no turn completes, is the failure.
* The message of an error can itself be a JSON document with the API's error in it.
* Two events may be on one line, without a newline between them.
* Every run writes remarks to stderr that say nothing about a failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.text.json_lines import MAX_DOCUMENT_BYTES, JsonProblem, is_object, messages_in, number, parse, text_of

__all__ = ["NAME", "ApiError", "Run", "code_of_stderr", "read_run", "without_noise"]

NAME: Final = "codex"

_CODE_OF_ERROR_TYPE: Final[Mapping[str, str]] = {
    "invalid_request_error": "api_error",
    "authentication_error": "api_key_invalid",
    "invalid_api_key": "api_key_invalid",
    "permission_error": "api_error",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "insufficient_quota": "billing_error",
    "billing_hard_limit_reached": "billing_error",
    "usage_limit_reached": "rate_limited",
    "overloaded_error": "api_overloaded",
    "server_is_overloaded": "api_overloaded",
    "slow_down": "api_overloaded",
    "server_error": "api_error",
    "api_error": "api_error",
    "context_length_exceeded": "api_error",
}
_ERROR_TYPES_AT_REST: Final = frozenset({"server_error"})
_CODE_OF_STATUS: Final[Mapping[int, str]] = {
    401: "api_key_invalid",
    402: "billing_error",
    429: "rate_limited",
    529: "api_overloaded",
}
_SERVER_ERROR: Final = 500

# Where wording is more precise than the fields.
_REFINED: Final = frozenset(
    {
        ("api_key_invalid", "codex_auth_required"),
        ("rate_limited", "billing_error"),
        ("api_error", "billing_error"),
    }
)
_NO_SESSION: Final = re.compile(
    r"\bno (?:saved |such )?(?:session|rollout|thread|conversation)\b[^\n]{0,80}\bfound"
    r"|\b(?:session|rollout|thread|conversation)\b[^\n]{0,80}\bnot found",
    re.IGNORECASE,
)
_STATUS_IN_MESSAGE: Final = re.compile(r"\bstatus:? (\d{3})\b")
_CODE_OF_MESSAGE: Final = (
    (
        re.compile(
            r"not logged in|codex login|sign in again|log ?in to|missing bearer|didn't provide an api key",
            re.IGNORECASE,
        ),
        "codex_auth_required",
        False,
    ),
    (
        re.compile(
            r"quota exceeded|exceeded your current quota|billing (?:details|hard limit)|out of credits?"
            r"|insufficient (?:credits?|balance|funds|quota)|payment required",
            re.IGNORECASE,
        ),
        "billing_error",
        False,
    ),
    (_NO_SESSION, "session_not_found", False),
    (re.compile(r"(?:usage|rate) limit|too many requests", re.IGNORECASE), "rate_limited", True),
    (re.compile(r"high demand|overloaded|at capacity", re.IGNORECASE), "api_overloaded", True),
    (re.compile(r"incorrect api key|invalid api key|401 unauthorized", re.IGNORECASE), "api_key_invalid", False),
    (re.compile(r"stream disconnected|connection|timed? ?out|error sending request", re.IGNORECASE), "api_error", True),
)
_CODE_OF_STDERR: Final = (
    (
        re.compile(
            r"^error: (?:unexpected argument|invalid value|unrecognized subcommand|the argument|a value)", re.MULTILINE
        ),
        "cli_contract_changed",
    ),
    (re.compile(r"^error: the following required arguments", re.MULTILINE), "invalid_arguments"),
    (re.compile(r"not inside a trusted directory|no prompt provided", re.IGNORECASE), "invalid_arguments"),
    (re.compile(r"not logged in|codex login|missing bearer", re.IGNORECASE), "codex_auth_required"),
    (_NO_SESSION, "session_not_found"),
    (re.compile(r"codex['\"]?: (?:command )?not found|codex['\"]?: no such file", re.IGNORECASE), "codex_not_found"),
)
_NOISE: Final = re.compile(
    r"^(?:WARNING: proceeding, even though .*|Reading additional input from stdin\.\.\.)\n?", re.MULTILINE
)
_READ_CHARACTERS: Final = 4096
_KEPT: Final = 50

_TOOL_ITEMS: Final = frozenset({"command_execution", "mcp_tool_call", "web_search", "file_change", "patch_apply"})


@attrs.frozen(slots=True, kw_only=True)
class ApiError:
    """An error message, taken apart.

    Attributes:
        text: what it says to people.
        type: the kind of error, where the message is a document that names it.
        status: the HTTP status, where it is named.
    """

    text: str
    type: str | None = None
    status: int | None = None

    def failure(self) -> tuple[str, bool]:
        """Return the code of the failure, and whether it lies with the other side and may pass."""
        said = self.text[:_READ_CHARACTERS]
        spoken = next(((code, rest) for pattern, code, rest in _CODE_OF_MESSAGE if pattern.search(said)), None)
        by_type = _CODE_OF_ERROR_TYPE.get(self.type or "")
        # A quota that is used up comes with the status of a rate limit, and waiting does not help.
        code = by_type if by_type == "billing_error" else _CODE_OF_STATUS.get(self.status or 0) or by_type
        at_rest = (self.status or 0) >= _SERVER_ERROR or self.type in _ERROR_TYPES_AT_REST
        if spoken is not None and (code, spoken[0]) in _REFINED:
            return spoken
        if code is not None:
            return code, at_rest
        if at_rest or self.status is not None:
            return "api_error", at_rest
        return spoken or ("job_failed", False)


@attrs.frozen(slots=True, kw_only=True)
class Run:
    """What the lines of a run add up to.

    Attributes:
        lines: how many lines were events.
        stray: how many were not.
        thread_id: the session, to be resumed.
        turns: how many turns completed.
        open: a turn has begun and has neither completed nor failed.
        followed: the end of the last turn is not the last thing on stdout.
        text: the last message of the agent.
        usage: tokens of all turns together.
        items: how many messages and tool calls of the agent there were.
        error: what failed, or ``None`` when the last turn completed.
        remarks: messages of ``error`` items, which do not fail a run.
        declined: commands and tools that were not permitted.
        too_large: there was more output than is read.
    """

    lines: int = 0
    stray: int = 0
    thread_id: str | None = None
    turns: int = 0
    open: bool = False
    followed: bool = False
    text: str | None = None
    usage: dict[str, int] | None = None
    items: int = 0
    error: ApiError | None = None
    remarks: list[str] = attrs.field(factory=list[str])
    declined: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    too_large: bool = False

    @property
    def tokens(self) -> int | None:
        """Tokens read and written; those read from a cache and those of reasoning are parts of the two."""
        if self.usage is None:
            return None
        return sum(self.usage.get(name, 0) for name in ("input_tokens", "output_tokens"))

    @property
    def success(self) -> bool:
        """Whether the output says that the run came to its end: a completed turn, and nothing after it."""
        return self.turns > 0 and self.error is None and not self.open

    @property
    def answered(self) -> bool:
        """Whether it also has a message of the agent."""
        return self.success and text_of(self.text) is not None


def read_run(stdout: bytes) -> Run:
    """Read the lines of a run; torn and foreign ones are counted."""
    if len(stdout) > MAX_DOCUMENT_BYTES:
        return Run(too_large=True)
    reader = _Reader()
    start = 0
    while start < len(stdout):
        newline = stdout.find(b"\n", start)
        end = len(stdout) if newline < 0 else newline
        line = stdout[start:end].strip()
        start = end + 1
        if line:
            reader.take(line.decode(errors="replace"))
    return reader.run()


class _Reader:
    def __init__(self) -> None:
        self._known: dict[str, Any] = {
            "lines": 0,
            "stray": 0,
            "turns": 0,
            "items": 0,
            "open": False,
            "followed": False,
            "remarks": [],
            "declined": [],
        }
        self._usage: dict[str, int] = {}

    def run(self) -> Run:
        return Run(**self._known, usage=self._usage or None)

    def take(self, line: str) -> None:
        events, rest = messages_in(line)
        for event in events:
            self._event(event["type"], event)
        if not events or "{" in rest:  # not a word of it, or a torn event behind another one
            self._known["stray"] += 1
            self._known["followed"] = self._known["followed"] or "{" in rest

    def _event(self, kind: str, event: dict[str, Any]) -> None:
        known = self._known
        known["lines"] += 1
        known["followed"] = kind != "turn.completed"
        if kind == "thread.started":
            known["thread_id"] = text_of(event.get("thread_id"))
        elif kind == "turn.started":
            known["open"], known["error"] = True, None
        elif kind == "turn.completed":
            known["turns"] += 1
            known["open"], known["error"] = False, None
            self._add(event.get("usage"))
        elif kind == "turn.failed":
            known["open"] = False
            error = event.get("error")
            known["error"] = _api_error(error.get("message") if is_object(error) else error)
        elif kind == "error":
            known["error"] = _api_error(event.get("message"))
        elif kind == "item.completed" and is_object(event.get("item")):
            self._item(event["item"])

    def _item(self, item: dict[str, Any]) -> None:
        known = self._known
        kind = item.get("type")
        known["items"] += kind == "agent_message" or (isinstance(kind, str) and kind in _TOOL_ITEMS)
        if kind == "agent_message":
            known["text"] = text_of(item.get("text")) or known.get("text")
        elif kind == "error" and (remark := text_of(item.get("message"))) and len(known["remarks"]) < _KEPT:
            known["remarks"].append(remark)
        elif (
            isinstance(kind, str)
            and kind in _TOOL_ITEMS
            and item.get("status") == "declined"
            and len(known["declined"]) < _KEPT
        ):
            asked = {name: item[name] for name in ("command", "server", "tool", "arguments", "changes") if name in item}
            known["declined"].append({"tool_name": kind, "tool_use_id": text_of(item.get("id")), "tool_input": asked})

    def _add(self, usage: Any) -> None:
        if not is_object(usage):
            return
        for name, value in usage.items():
            count = number(value)
            if count is not None:
                self._usage[name] = self._usage.get(name, 0) + int(count)


def _api_error(message: Any) -> ApiError:
    text = text_of(message) or "no message was given"
    kind: str | None = None
    status: int | None = None
    if text.lstrip().startswith("{"):
        try:
            document = parse(text)
        except JsonProblem:
            document = None
        if is_object(document):
            inner = document.get("error")
            inner = inner if is_object(inner) else document
            kind = (
                text_of(inner.get("code"))
                if text_of(inner.get("code")) in _CODE_OF_ERROR_TYPE
                else text_of(inner.get("type"))
            )
            found = number(document.get("status")) or number(inner.get("status"))
            status = int(found) if found else None
            text = text_of(inner.get("message")) or text
    if status is None and (match := _STATUS_IN_MESSAGE.search(text[:_READ_CHARACTERS])):
        status = int(match[1])
    return ApiError(text=text, type=kind, status=status)


def code_of_stderr(stderr: str, exit_code: int | None) -> str | None:
    """Return the code for a run that wrote no events, by what it wrote on stderr."""
    if exit_code == 127:
        return "codex_not_found"
    return next((code for pattern, code in _CODE_OF_STDERR if pattern.search(stderr)), None)


def without_noise(stderr: bytes) -> bytes:
    """Return stderr without the remarks that stand there on every run."""
    return _NOISE.sub("", stderr.decode(errors="replace")).encode(errors="replace")
