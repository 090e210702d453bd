"""All assumptions about the Claude Code command line program.

Observed with versions 2.1.x, ``claude -p --output-format json`` and ``stream-json``. When
the program changes, only this file changes. The rules that are easy to get wrong:

* An API error ends with ``subtype: "success"``; only ``is_error`` tells.
* SIGINT ends with exit status 0, with or without an envelope.
* SIGTERM and SIGHUP end with exit *codes* 143 and 129, and nothing on stdout.
* A run that hit a limit of turns or money has ``errors`` in place of ``result``.
* With ``--verbose`` the ``json`` format is an array of all messages; ``stream-json`` puts the
  same messages on lines. The ``result`` message is the envelope in all three.
* When agents worked in the background there are several ``result`` messages. ``usage``,
  ``num_turns`` and ``duration_ms`` are of the part that each of them ends; ``total_cost_usd`` and
  ``modelUsage`` are sums. Where only the last one was written, ``result_index`` tells.
* ``result`` is empty when the model's last text came before a tool call. That text is in the
  last ``assistant`` message of the main line, which only the array and the stream have.
* A limit is a field only in the array and the stream; otherwise it is wording with a clock time.

Fields decide the classification; wording does only where no field decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import attrs

from supervisor.text.json_lines import Reading, is_list, is_object, messages_backwards, number, read_all, text_of

__all__ = [
    "NAME",
    "TOKENS_OF_MODELS",
    "Envelope",
    "Hints",
    "agents_among",
    "code_of_stderr",
    "names_no_session",
    "read_envelope",
    "read_hints",
]

NAME: Final = "claude"

_TYPE: Final = "result"
_SUCCESS: Final = "success"

_CODE_OF_SUBTYPE: Final[Mapping[str, str]] = {
    "error_max_turns": "max_turns",
    "error_max_budget_usd": "budget_exceeded",
    "error_max_structured_output_retries": "invalid_output",
}
_CODE_OF_TERMINAL_REASON: Final[Mapping[str, str]] = {
    "max_turns": "max_turns",
    "budget_exhausted": "budget_exceeded",
    "prompt_too_long": "api_error",
    "model_error": "api_error",
}
# The `type` of the API's error object, and the `error` that the messages of a stream carry.
_CODE_OF_ERROR_TYPE: Final[Mapping[str, str]] = {
    "authentication_error": "api_key_invalid",
    "authentication_failed": "api_key_invalid",
    "oauth_org_not_allowed": "claude_permission_error",
    "permission_error": "claude_permission_error",
    "billing_error": "billing_error",
    "rate_limit_error": "rate_limited",
    "rate_limit": "rate_limited",
    "overloaded_error": "api_overloaded",
    "overloaded": "api_overloaded",
    "api_error": "api_error",
    "server_error": "api_error",
    "timeout_error": "api_error",
    "invalid_request_error": "api_error",
    "invalid_request": "api_error",
    "not_found_error": "api_error",
    "model_not_found": "api_error",
    "request_too_large": "api_error",
}
TOKENS_OF_MODELS: Final[Mapping[str, str]] = {
    "inputTokens": "input_tokens",
    "cacheCreationInputTokens": "cache_creation_input_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "outputTokens": "output_tokens",
}
"""What ``modelUsage`` counts, under the names that ``usage`` has; the last is what was written."""
_ERROR_TYPES_AT_REST: Final = frozenset({"server_error", "timeout_error"})
_CODE_OF_STATUS: Final[Mapping[int, str]] = {
    401: "api_key_invalid",
    402: "billing_error",
    403: "claude_permission_error",
    429: "rate_limited",
    529: "api_overloaded",
}
_STATUSES_AT_REST: Final = frozenset({408, 409, 425})
_SERVER_ERROR: Final = 500

# Where wording is more precise than the fields: a refused login and a refused key have the same fields, and so have an
# invalid request, a limit that passes, and an account without credit.
_REFINED: Final = frozenset(
    {
        ("api_key_invalid", "claude_auth_required"),
        ("api_error", "billing_error"),
        ("rate_limited", "billing_error"),
    }
)

# Wordings. The first that is found decides; all are looked for in a bounded piece of the text.
_NO_SESSION: Final = re.compile(
    r"\b(?:no|invalid|unknown) (?:such )?(?:conversation|session)s?\b"
    r"|\b(?:conversation|session)\b[^\n]{0,120}\b(?:not found|not exist|no longer)"
    r"|\b(?:find|resume|load) (?:the |that )?(?:conversation|session)\b"
    r"|\bvalid session (?:id|title)|\bmatch any session\b",
    re.IGNORECASE,
)
_CODE_OF_MESSAGE: Final = (
    (
        re.compile(r"not logged in|/login\b|oauth token (?:has )?(?:expired|been revoked)", re.IGNORECASE),
        "claude_auth_required",
    ),
    (
        re.compile(
            r"credit balance|out of (?:extra usage|credits?)|insufficient (?:credits?|balance|funds)|payment required"
            r"|(?:spend(?:ing)?|billing) limit",
            re.IGNORECASE,
        ),
        "billing_error",
    ),
    (_NO_SESSION, "session_not_found"),
    (re.compile(r"invalid (?:x-)?api[ -]key|invalid authentication", re.IGNORECASE), "api_key_invalid"),
    (re.compile(r"(?:usage|session|weekly|5-hour|rate|opus) limit|hit your limit", re.IGNORECASE), "rate_limited"),
    (re.compile(r"\boverloaded\b", re.IGNORECASE), "api_overloaded"),
    (re.compile(r"connection (?:error|failed|refused)|unable to connect|fetch failed", re.IGNORECASE), "api_error"),
    (re.compile(r"\bapi error\b", re.IGNORECASE), "api_error"),
)
_CODE_OF_STDERR: Final = (
    (_NO_SESSION, "session_not_found"),
    # The option parser: unknown option, refused value, excess argument, missing value.
    (
        re.compile(
            r"^error: (?:unknown (?:option|command)|option '|too many arguments|missing required)",
            re.IGNORECASE | re.MULTILINE,
        ),
        "cli_contract_changed",
    ),
    (
        re.compile(
            r"^error: .{0,400}(?:is invalid|not a valid|requires --|must be used with)", re.IGNORECASE | re.MULTILINE
        ),
        "cli_contract_changed",
    ),
    (re.compile(r"input must be provided|no prompt", re.IGNORECASE), "invalid_arguments"),
    (re.compile(r"cannot be used with root|permission denied|EACCES", re.IGNORECASE), "claude_permission_error"),
    (re.compile(r"claude['\"]?: (?:command )?not found|claude['\"]?: no such file", re.IGNORECASE), "claude_not_found"),
    (re.compile(r"not logged in|/login\b", re.IGNORECASE), "claude_auth_required"),
)
_STATUS_IN_MESSAGE: Final = re.compile(r"\A\s*API Error: ([45]\d\d)\b")
_READ_CHARACTERS: Final = 4096
_HINT_MESSAGES: Final = 200


@attrs.frozen(slots=True)
class Envelope:
    """The ``result`` message, seen through what is known about it; wrong types count as absent.

    Attributes:
        data: its fields; of several messages those of the last, with what is counted in parts added up.
        last_words: what the model said last, where ``result`` itself is empty and stdout has it elsewhere.
        followed: it is not the last thing on stdout, or says itself that more is to come.
    """

    data: Mapping[str, Any]
    last_words: str | None = None
    followed: bool = False

    @property
    def understood(self) -> bool:
        """Whether the two fields that decide are there, in the types that are known."""
        return isinstance(self.data.get("subtype"), str) and isinstance(self.data.get("is_error"), bool)

    @property
    def success(self) -> bool:
        """Whether the envelope itself says success: by both fields, neither is enough."""
        return self.data.get("subtype") == _SUCCESS and self.data.get("is_error") is False

    @property
    def text(self) -> str | None:
        """What the model said last."""
        result = self.data.get("result")
        return self.last_words or (result if isinstance(result, str) else None)

    @property
    def answered(self) -> bool:
        """Whether there is an answer at all: the program reports success for an empty one, too."""
        return text_of(self.text) is not None or self.structured_output is not None

    @property
    def structured_output(self) -> Any:
        """What was asked for with ``--json-schema``."""
        return self.data.get("structured_output")

    @property
    def cost_usd(self) -> float | None:
        """What was spent, in US dollars."""
        cost = number(self.data.get("total_cost_usd"))
        return cost if cost is not None else number(self.data.get("cost_usd"))

    @property
    def session_id(self) -> str | None:
        """The session, to be resumed."""
        return text_of(self.data.get("session_id"))

    @property
    def num_turns(self) -> int | None:
        """How many turns it took."""
        turns = number(self.data.get("num_turns"))
        return None if turns is None else int(turns)

    @property
    def duration_ms(self) -> int | None:
        """How long the program itself says it took."""
        duration = number(self.data.get("duration_ms"))
        return None if duration is None else int(duration)

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens of the whole run."""
        usage = self.data.get("usage")
        return usage if is_object(usage) else None

    @property
    def model_usage(self) -> dict[str, Any] | None:
        """Tokens and cost by model."""
        usage = self.data.get("modelUsage")
        return usage if is_object(usage) else None

    @property
    def own_tokens(self) -> int | None:
        """The tokens of the turns of this run: ``usage`` does not go on with the sums of a session."""
        return None if self.usage is None else _added(self.usage, TOKENS_OF_MODELS.values())

    @property
    def tokens(self) -> int | None:
        """All tokens, read and written by all models; of a session that was resumed perhaps since its begin."""
        counts = [] if self.own_tokens is None else [self.own_tokens]
        models = [entry for entry in (self.model_usage or {}).values() if is_object(entry)]
        if models:
            counts.append(sum(_added(entry, TOKENS_OF_MODELS) for entry in models))
        return max(counts, default=None)

    @property
    def model(self) -> str | None:
        """The model that cost most: small helper models take part in many runs."""
        usage = self.model_usage or {}

        def weight(name: str) -> tuple[float, float]:
            entry = usage[name]
            if not is_object(entry):
                return 0.0, 0.0
            return number(entry.get("costUSD")) or 0.0, number(entry.get("outputTokens")) or 0.0

        return max(usage, key=weight) if usage else None

    @property
    def permission_denials(self) -> list[dict[str, Any]]:
        """The tool calls that were not allowed."""
        denials = self.data.get("permission_denials")
        return [denial for denial in denials if is_object(denial)] if is_list(denials) else []

    @property
    def denied_tools(self) -> list[str]:
        """The names of the tools of ``permission_denials``, each once."""
        names = (text_of(denial.get("tool_name")) for denial in self.permission_denials)
        return list(dict.fromkeys(name for name in names if name))

    @property
    def message(self) -> str | None:
        """What the envelope says about its failure."""
        errors = self.data.get("errors")
        if is_list(errors):
            said = "; ".join(error for error in errors[:10] if isinstance(error, str) and error.strip())
            if said:
                return said
        return text_of(self.text) or text_of(self.data.get("error"))

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that say how the run ended, where they hold something."""
        names = (
            "subtype",
            "is_error",
            "terminal_reason",
            "stop_reason",
            "api_error_status",
            "api_error_type",
            "api_error",
        )
        found = ((name, self.data.get(name)) for name in names)
        return {name: value for name, value in found if isinstance(value, str | int | float)}

    def failure(self, hints: Hints) -> tuple[str, bool]:
        """Return the code of the failure, and whether it lies with the other side and may pass.

        Fields first - of the envelope, then of the messages before it - and wording last.
        """
        at_rest = self._at_rest(hints)
        code = self._code_of_fields(hints)
        said = (self.message or "")[:_READ_CHARACTERS]
        spoken = next((code for pattern, code in _CODE_OF_MESSAGE if pattern.search(said)), None)
        if code is None:
            return spoken or "job_failed", at_rest or (spoken == "api_error" and "connect" in said.lower())
        if spoken is not None and (code, spoken) in _REFINED:
            return spoken, False
        return code, at_rest and code != "billing_error"

    @property
    def _api_status(self) -> int | None:
        """The HTTP status of a failed request; before there was a field for it, the message began with it."""
        match = _STATUS_IN_MESSAGE.match((self.message or "")[:_READ_CHARACTERS])
        return _status(self.data.get("api_error_status")) or (int(match[1]) if match else None)

    def _code_of_fields(self, hints: Hints) -> str | None:
        data = self.data
        status = self._api_status
        found = (
            _CODE_OF_SUBTYPE.get(_key(data.get("subtype"))),
            _CODE_OF_STATUS.get(status or 0),
            _CODE_OF_ERROR_TYPE.get(_key(data.get("api_error_type"))),
            "api_error" if status is not None or text_of(data.get("api_error")) else None,
            _CODE_OF_TERMINAL_REASON.get(_key(data.get("terminal_reason"))),
            _CODE_OF_ERROR_TYPE.get(_key(hints.error)),
        )
        # "api_error" is what fields say that know no more than that it was one.
        return next((code for code in found if code not in {None, "api_error"}), "api_error" if any(found) else None)

    def _at_rest(self, hints: Hints) -> bool:
        status = self._api_status
        if status is not None:
            return status >= _SERVER_ERROR or status in _STATUSES_AT_REST
        # Without a status the connection failed before there was an answer.
        return text_of(self.data.get("api_error")) is not None or hints.error in _ERROR_TYPES_AT_REST


@attrs.frozen(slots=True, kw_only=True)
class Hints:
    """What the messages before the envelope say about a failure; nothing, when there are none.

    Attributes:
        error: the kind of error that the last message of the model carries.
        resets_at: when the limit that rejected the run ends, in seconds since the epoch.
        session_id: the session, for a run that was stopped before its envelope.
        limit: the name of the limit that rejected the run, such as ``five_hour``.
    """

    error: str | None = None
    resets_at: float | None = None
    session_id: str | None = None
    limit: str | None = None


def _key(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _status(value: Any) -> int | None:
    status = number(value)
    return int(status) if status else None


def read_envelope(stdout: bytes) -> tuple[Envelope | None, Reading]:
    """Return the envelope of the run on stdout, if there is one, and how the reading went."""
    reading = read_all(stdout, _TYPE)
    if not reading.messages:
        return None, reading
    data = _added_up(reading.messages)
    empty = data.get("subtype") == _SUCCESS and text_of(data.get("result")) is None
    followed = reading.followed or bool(number(data.get("queued_turn_count"))) or _agents_at_work(stdout)
    return Envelope(data, _last_words(stdout) if empty else None, followed), reading


def _agents_at_work(stdout: bytes) -> bool:
    for message in messages_backwards(stdout, b'"background_tasks_changed"'):
        if message.get("subtype") == "background_tasks_changed":
            return agents_among(message.get("tasks"))
    return False


def agents_among(tasks: Any) -> bool:
    """Say whether an agent is among background ``tasks``; the model is told of its end, and goes on then."""
    return is_list(tasks) and any(is_object(task) and task.get("task_type") == "local_agent" for task in tasks)


def _added_up(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the last ``result``, with what is counted for each part of the run added up."""
    last = results[-1]
    parts = [part for part in results if part.get("session_id") == last.get("session_id")]
    index = number(last.get("result_index"))
    if index is not None and index >= len(parts):  # the parts before it were not written: only sums are known
        return {**last, "usage": _usage_of_models(last.get("modelUsage")), "num_turns": None, "duration_ms": None}
    if len(parts) == 1:
        return last
    counted = {name: _sum([part.get(name) for part in parts]) for name in ("usage", "num_turns", "duration_ms")}
    denials: dict[str, Any] = {}
    for part in parts:
        for denial in Envelope(part).permission_denials:
            denials[str(denial.get("tool_use_id", len(denials)))] = denial
    return {**last, **counted, "permission_denials": list(denials.values())}


def _sum(values: Sequence[Any], depth: int = 8) -> Any:
    """Add up numbers, and objects of numbers; of anything else the last value stands."""
    last = values[-1]
    if is_object(last) and depth:
        objects = [value for value in values if is_object(value)]
        names = dict.fromkeys(name for each in objects for name in each)
        return {name: _sum([each[name] for each in objects if name in each], depth - 1) for name in names}
    numbers = [value for value in values if number(value) is not None]
    return sum(numbers) if number(last) is not None else last


def _added(counts: Mapping[str, Any], names: Iterable[str]) -> int:
    return sum(int(number(counts.get(name)) or 0) for name in names)


def _usage_of_models(usage: Any) -> dict[str, int] | None:
    """Return the tokens of all models together, under the names that ``usage`` has for them."""
    models = [entry for entry in usage.values() if is_object(entry)] if is_object(usage) else []
    if not models:
        return None
    return {
        name: sum(int(number(entry.get(field)) or 0) for entry in models) for field, name in TOKENS_OF_MODELS.items()
    }


def _last_words(stdout: bytes) -> str | None:
    """Return the text of the last message of the main line that has some; agents that it asked do not count."""
    said: list[str] = []
    message_id: Any = None
    for event in messages_backwards(stdout, b'"assistant"'):
        message = event.get("message")
        if event["type"] != "assistant" or event.get("parent_tool_use_id") is not None or not is_object(message):
            continue
        if said and message.get("id") != message_id:
            break
        if text_of(event.get("error")) or event.get("is_api_error_message") is True:
            continue
        content = message.get("content")
        blocks = [block for block in content if is_object(block)] if is_list(content) else [{"text": content}]
        words = (text_of(block.get("text")) for block in blocks if block.get("type", "text") == "text")
        texts = [text for text in words if text is not None]
        if texts:
            message_id = message.get("id")
            said[:0] = texts
    return "\n".join(said) or None


def read_hints(stdout: bytes) -> Hints:
    """Look through the last messages before the envelope for what classifies a failure."""
    error: str | None = None
    resets_at: float | None = None
    session_id: str | None = None
    name: str | None = None
    for message in islice(messages_backwards(stdout), _HINT_MESSAGES):
        if message["type"] == _TYPE:
            continue
        session_id = session_id or text_of(message.get("session_id"))
        if error is None and message["type"] == "assistant":
            error = text_of(message.get("error"))
        limit = message.get("rate_limit_info")
        if resets_at is None and is_object(limit) and limit.get("status") == "rejected":
            name = text_of(limit.get("rateLimitType"))
            error = error if error in _CODE_OF_ERROR_TYPE else "rate_limit"
            resets_at = number(limit.get("resetsAt"))
    return Hints(error=error, resets_at=resets_at, session_id=session_id, limit=name)


def code_of_stderr(stderr: str, exit_code: int | None) -> str | None:
    """Return the code for a run that wrote no envelope, by what it wrote on stderr."""
    if exit_code == 127:
        return "claude_not_found"
    return next((code for pattern, code in _CODE_OF_STDERR if pattern.search(stderr)), None)


def names_no_session(text: str) -> bool:
    """Say whether ``text`` says that the session to be resumed is not there."""
    return _NO_SESSION.search(text) is not None
