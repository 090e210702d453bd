"""Everything that is assumed about the Claude Code command line program, in one place.

Observed with versions 2.1.x, ``claude -p --output-format json`` and ``stream-json``. When
the program changes, this file changes, and nothing else. The rules that are easy to get wrong:

* An API error ends with ``subtype: "success"``; only ``is_error`` tells.
* SIGINT ends with exit status 0, with or without an envelope.
* SIGTERM and SIGHUP end with exit *codes* 143 and 129, and nothing on stdout.
* A run that hit a limit of turns or money has ``errors`` in place of ``result``.
* With ``--verbose`` the ``json`` format is an array of all messages; ``stream-json`` puts the
  same messages on lines. The ``result`` message is the envelope in all three.

Classification goes by fields; wording is consulted last, and only where no field tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.interpret.json_lines import (
    JsonProblem,
    Reading,
    is_list,
    is_object,
    lines_backwards,
    number,
    parse,
    read_last,
    text_of,
)

__all__ = [
    "EXIT_CODES_OF_SIGNALS",
    "NAME",
    "Envelope",
    "Hints",
    "code_of_stderr",
    "read_envelope",
    "read_hints",
]

NAME: Final = "claude"

EXIT_CODES_OF_SIGNALS: Final[Mapping[int, str]] = {129: "SIGHUP", 130: "SIGINT", 143: "SIGTERM"}
"""The exit statuses that the program chooses when one of these signals ends it."""

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
    "billing_error": "api_error",
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
_ERROR_TYPES_AT_REST: Final = frozenset({"server_error", "timeout_error"})
_CODE_OF_STATUS: Final[Mapping[int, str]] = {
    401: "api_key_invalid",
    403: "claude_permission_error",
    429: "rate_limited",
    529: "api_overloaded",
}
_STATUSES_AT_REST: Final = frozenset({408, 409, 425})
_SERVER_ERROR: Final = 500

# Wordings. The first that is found decides; all are looked for in a bounded piece of the text.
_CODE_OF_MESSAGE: Final = (
    (
        re.compile(r"not logged in|/login\b|oauth token (?:has )?(?:expired|been revoked)", re.IGNORECASE),
        "claude_auth_required",
    ),
    (re.compile(r"invalid (?:x-)?api[ -]key|invalid authentication", re.IGNORECASE), "api_key_invalid"),
    (re.compile(r"(?:usage|session|weekly|5-hour|rate|opus) limit|hit your limit", re.IGNORECASE), "rate_limited"),
    (re.compile(r"\boverloaded\b", re.IGNORECASE), "api_overloaded"),
    (re.compile(r"connection (?:error|failed|refused)|unable to connect|fetch failed", re.IGNORECASE), "api_error"),
    (re.compile(r"\bapi error\b", re.IGNORECASE), "api_error"),
)
_CODE_OF_STDERR: Final = (
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
    (re.compile(r"no conversation found|invalid session id", re.IGNORECASE), "invalid_arguments"),
    (re.compile(r"cannot be used with root|permission denied|EACCES", re.IGNORECASE), "claude_permission_error"),
    (re.compile(r"claude['\"]?: (?:command )?not found|claude['\"]?: no such file", re.IGNORECASE), "claude_not_found"),
    (re.compile(r"not logged in|/login\b", re.IGNORECASE), "claude_auth_required"),
)
_RESET_IN_MESSAGE: Final = re.compile(r"limit reached\|(\d{9,11})\b")
_READ_CHARACTERS: Final = 4096
_HINT_LINES: Final = 50
_HINT_BYTES: Final = 65536


@attrs.frozen(slots=True)
class Envelope:
    """The ``result`` message, seen through what is known about it; wrong types count as absent."""

    data: Mapping[str, Any]

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
        return result if isinstance(result, str) else None

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
        # A refused login and a refused key share their fields, and want different repairs.
        if code == "api_key_invalid" and spoken == "claude_auth_required":
            return spoken, False
        return code, at_rest

    def _code_of_fields(self, hints: Hints) -> str | None:
        data = self.data
        status = _status(data.get("api_error_status"))
        found = (
            _CODE_OF_SUBTYPE.get(_key(data.get("subtype"))),
            _CODE_OF_STATUS.get(status or 0),
            _CODE_OF_ERROR_TYPE.get(_key(data.get("api_error_type"))),
            "api_error" if status is not None or text_of(data.get("api_error")) else None,
            _CODE_OF_TERMINAL_REASON.get(_key(data.get("terminal_reason"))),
            _CODE_OF_ERROR_TYPE.get(_key(hints.error)),
        )
        return next((code for code in found if code is not None), None)

    def _at_rest(self, hints: Hints) -> bool:
        status = _status(self.data.get("api_error_status"))
        if status is not None:
            return status >= _SERVER_ERROR or status in _STATUSES_AT_REST
        # Without a status the connection failed before there was an answer.
        return text_of(self.data.get("api_error")) is not None or hints.error in _ERROR_TYPES_AT_REST

    @property
    def resets_at(self) -> int | None:
        """The moment, in seconds since the epoch, at which a usage limit ends, where the message names it."""
        match = _RESET_IN_MESSAGE.search((self.message or "")[:_READ_CHARACTERS])
        return int(match[1]) if match else None


@attrs.frozen(slots=True, kw_only=True)
class Hints:
    """What the messages before the envelope say about a failure; nothing, when there are none.

    Attributes:
        error: the kind of error that the last message of the model carries.
        resets_at: when the limit that rejected the run ends, in seconds since the epoch.
        session_id: the session, for a run that was stopped before its envelope.
    """

    error: str | None = None
    resets_at: int | None = None
    session_id: str | None = None


def _key(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _status(value: Any) -> int | None:
    status = number(value)
    return int(status) if status else None


def read_envelope(stdout: bytes) -> tuple[Envelope | None, Reading]:
    """Return the last envelope on stdout, if there is one, and how the reading went."""
    reading = read_last(stdout, lambda document: document.get("type") == _TYPE, mark=b'"result"')
    return (None if reading.document is None else Envelope(reading.document)), reading


def read_hints(stdout: bytes) -> Hints:
    """Look through the last messages of a stream for what classifies its failure.

    Bounded: a few lines, short ones only. For the ``json`` format there is nothing to find.
    """
    error: str | None = None
    resets_at: int | None = None
    session_id: str | None = None
    for seen, (start, end) in enumerate(lines_backwards(stdout)):
        if seen >= _HINT_LINES:
            break
        if end - start > _HINT_BYTES:
            continue
        try:
            message = parse(stdout[start:end].decode(errors="replace"))
        except JsonProblem:
            continue
        if not is_object(message) or message.get("type") == _TYPE:
            continue
        session_id = session_id or text_of(message.get("session_id"))
        if error is None and message.get("type") == "assistant":
            error = text_of(message.get("error"))
        limit = message.get("rate_limit_info")
        if resets_at is None and is_object(limit) and limit.get("status") == "rejected":
            error = error or "rate_limit"
            resets = number(limit.get("resetsAt"))
            resets_at = None if resets is None else int(resets)
    return Hints(error=error, resets_at=resets_at, session_id=session_id)


def code_of_stderr(stderr: str, exit_code: int | None) -> str | None:
    """Return the code for a run that wrote no envelope, by what it wrote on stderr."""
    if exit_code == 127:
        return "claude_not_found"
    return next((code for pattern, code in _CODE_OF_STDERR if pattern.search(stderr)), None)
