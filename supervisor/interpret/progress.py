"""The progress of a running agent, read from its stdout as it grows.

A reader gets chunks of bytes, cut anywhere, and maintains a small snapshot: turn, current
tool, tokens, cost so far. It skips and counts torn and foreign lines. Memory is bounded:
a line longer than ``MAX_LINE_BYTES`` is dropped while it is read, and only the latest
messages and tools are remembered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import attrs

from supervisor.interpret.claude_cli import TOKENS_OF_MODELS, agents_among
from supervisor.text.json_lines import is_list, is_object, messages_in, number, text_of
from supervisor.text.redact import excerpt

__all__ = ["MAX_LINE_BYTES", "ClaudeProgress", "CodexProgress", "Progress"]

MAX_LINE_BYTES: Final = 1024 * 1024
_REMEMBERED: Final = 64
_NAME_CHARACTERS: Final = 120

_CODEX_TOOLS: Final = {
    "command_execution": "command",
    "mcp_tool_call": "tool",
    "web_search": "query",
    "file_change": None,
    "patch_apply": None,
}


@attrs.frozen(slots=True, kw_only=True)
class Progress:
    """A snapshot.

    Attributes:
        turn: how many times the model has been asked so far.
        tool: the tool that runs now, or ``None``.
        input_tokens: read so far, cache included.
        output_tokens: written so far; while a message is being written this lags behind.
        cost_usd: spent so far, where the output says so before its end.
        note: what delays the run, such as a retry, or ``None``.
        skipped_lines: lines that were torn, foreign or too long.
        model: the model that was announced, or ``None``.
        finished: the output says that the run is over; the process may still be running.
        limit: what was last said about a usage limit of the account: ``status`` (``allowed``, ``allowed_warning``,
            ``rejected``), and where known its ``name``, its ``utilization`` from 0 to 1, and ``resets_at`` in seconds
            since the epoch. ``None`` if nothing was said.
        session_id: the session that was announced, or ``None``.
    """

    turn: int = 0
    tool: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    note: str | None = None
    skipped_lines: int = 0
    model: str | None = None
    finished: bool = False
    limit: dict[str, Any] | None = None
    session_id: str | None = None


class _Lines(ABC):
    """Cuts a stream into JSON lines; subclasses update the snapshot from them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._discarding = False
        self._progress = Progress()
        self._skipped = 0

    def feed(self, chunk: bytes) -> bool:
        """Read the next bytes of stdout; return whether the snapshot has changed."""
        before, skipped = self._progress, self._skipped
        start = 0
        while (newline := chunk.find(b"\n", start)) >= 0:
            self._extend(chunk, start, newline)
            self._end_of_line()
            start = newline + 1
        self._extend(chunk, start, len(chunk))
        return self._skipped != skipped or self._progress != before

    def close(self) -> bool:
        """Read the rest after the last newline as a line; return whether the snapshot has changed."""
        before, skipped = self._progress, self._skipped
        self._end_of_line()
        return self._skipped != skipped or self._progress != before

    @property
    def progress(self) -> Progress:
        """The progress so far."""
        return attrs.evolve(self._progress, skipped_lines=self._skipped)

    def snapshot(self) -> dict[str, Any]:
        """Return the progress so far, JSON-ready."""
        return attrs.asdict(self.progress)

    def _extend(self, chunk: bytes, start: int, end: int) -> None:
        if self._discarding:
            return
        if len(self._buffer) + end - start > MAX_LINE_BYTES:
            self._discarding = True
            self._buffer = bytearray()
            return
        self._buffer += memoryview(chunk)[start:end]

    def _end_of_line(self) -> None:
        too_long, self._discarding = self._discarding, False
        line, self._buffer = self._buffer.strip(), bytearray()
        if too_long:
            self._skipped += 1
        elif line:
            # An event is an object: without a brace there is no need to parse.
            events = messages_in(line.decode(errors="replace"))[0] if b"{" in line else []
            self._skipped += not events
            for event in events:
                self._event(event["type"], event)

    def _set(self, **changes: Any) -> None:
        self._progress = attrs.evolve(self._progress, **changes)

    @abstractmethod
    def _event(self, kind: str, event: dict[str, Any]) -> None:
        """Update the snapshot from one event; ignore unknown kinds."""


class _Tools:
    """The running tools, by the id of their call; the latest one is current."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def start(self, call: str, name: str) -> None:
        self._names[call] = excerpt(" ".join(name[:2000].split()), _NAME_CHARACTERS)
        if len(self._names) > _REMEMBERED:
            self._names.popitem(last=False)

    def end(self, call: str) -> None:
        self._names.pop(call, None)

    def clear(self) -> None:
        self._names.clear()

    @property
    def current(self) -> str | None:
        return next(reversed(self._names.values()), None)


def _count(value: Any) -> int:
    found = number(value)
    return 0 if found is None else int(min(found, 2**53))


def _name(value: Any) -> str | None:
    text = text_of(value)
    return None if text is None else excerpt(text, _NAME_CHARACTERS)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if is_object(entry)] if is_list(value) else []


class ClaudeProgress(_Lines):
    """Reads the messages of ``claude -p --output-format stream-json --verbose``.

    One answer of the model comes as several messages that share an id and repeat its usage,
    and the answers of subagents come in between, so usage is counted by id.
    """

    def __init__(self) -> None:
        """Begin before the first byte."""
        super().__init__()
        self._tools = _Tools()
        self._usage: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._settled = (0, 0)
        self._reported = (0, 0, 0)
        self._more = False

    def _event(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "system":
            self._system(event)
        elif kind == "assistant":
            message = event.get("message")
            self._assistant(message if is_object(message) else {}, main=event.get("parent_tool_use_id") is None)
        elif kind == "user":
            message = event.get("message")
            content = message.get("content") if is_object(message) else None
            for block in _dicts(content):
                if block.get("type") == "tool_result" and isinstance(call := block.get("tool_use_id"), str):
                    self._tools.end(call)
            self._set(tool=self._tools.current)
        elif kind == "result":
            self._result(event)
        elif kind == "rate_limit_event" and is_object(info := event.get("rate_limit_info")):
            self._limit(info)

    def _limit(self, info: dict[str, Any]) -> None:
        limit = {
            "status": _name(info.get("status")),
            "name": _name(info.get("rateLimitType")),
            "utilization": number(info.get("utilization")),
            "resets_at": number(info.get("resetsAt")),
        }
        if limit["status"] is not None:
            self._set(limit={member: value for member, value in limit.items() if value is not None})

    def _system(self, event: dict[str, Any]) -> None:
        subtype = event.get("subtype")
        if subtype == "init" and (model := text_of(event.get("model"))):
            self._set(model=excerpt(model, _NAME_CHARACTERS), finished=False, session_id=_name(event.get("session_id")))
        elif subtype == "background_tasks_changed":
            self._more = agents_among(event.get("tasks"))
        elif subtype == "api_retry":
            status = number(event.get("error_status"))
            why = f" after status {int(status)}" if status else ""
            self._set(note=f"retry {_count(event.get('attempt'))}/{_count(event.get('max_retries'))}{why}")

    def _assistant(self, message: dict[str, Any], *, main: bool) -> None:
        name = message.get("id")
        turn = self._progress.turn
        if isinstance(name, str):
            turn += main and name not in self._usage
            self._count_usage(name, message.get("usage"))
        for block in _dicts(message.get("content")):
            if block.get("type") == "tool_use" and isinstance(call := block.get("id"), str):
                self._tools.start(call, text_of(block.get("name")) or "?")
        tokens_in, tokens_out = (sum(column) for column in zip(self._settled, *self._usage.values(), strict=True))
        self._reach(turn, tokens_in, tokens_out, tool=self._tools.current, note=None, finished=False)

    def _reach(self, turn: int, tokens_in: int, tokens_out: int, **changes: Any) -> None:
        """Set the counts, which never decrease."""
        now = self._progress
        self._set(
            turn=max(now.turn, turn),
            input_tokens=max(now.input_tokens, tokens_in),
            output_tokens=max(now.output_tokens, tokens_out),
            **changes,
        )

    def _count_usage(self, name: str, usage: Any) -> None:
        before, now = self._usage.get(name, (0, 0)), _tokens(usage)
        self._usage[name] = max(before[0], now[0]), max(before[1], now[1])
        if len(self._usage) > _REMEMBERED:
            _, (tokens_in, tokens_out) = self._usage.popitem(last=False)
            self._settled = self._settled[0] + tokens_in, self._settled[1] + tokens_out

    def _result(self, event: dict[str, Any]) -> None:
        """Add the end of a part of the run: turns and usage are of that part, the cost and `modelUsage` are sums."""
        self._tools.clear()
        done, tokens_in, tokens_out = self._reported
        part_in, part_out = _tokens(event.get("usage"))
        self._reported = done + _count(event.get("num_turns")), tokens_in + part_in, tokens_out + part_out
        turns, tokens_in, tokens_out = self._reported
        models = event.get("modelUsage")
        sums = [_tokens(entry, TOKENS_OF_MODELS) for entry in models.values()] if is_object(models) else []
        tokens_in = max(tokens_in, sum(each[0] for each in sums))
        tokens_out = max(tokens_out, sum(each[1] for each in sums))
        costs = (self._progress.cost_usd, number(event.get("total_cost_usd")))
        cost = max((each for each in costs if each is not None), default=None)
        self._reach(
            turns,
            tokens_in,
            tokens_out,
            cost_usd=cost,
            tool=None,
            note=None,
            finished=not self._more and not _count(event.get("queued_turn_count")),
        )


def _tokens(usage: Any, names: Iterable[str] = TOKENS_OF_MODELS.values()) -> tuple[int, int]:
    """Return the tokens that were read and written; of ``names``, the last is that of the written ones."""
    *read, written = (_count(usage.get(name)) for name in names) if is_object(usage) else (0,)
    return sum(read), written


class CodexProgress(_Lines):
    """Reads the events of ``codex exec --json``; they have no cost."""

    def __init__(self) -> None:
        """Begin before the first byte."""
        super().__init__()
        self._tools = _Tools()

    def _event(self, kind: str, event: dict[str, Any]) -> None:
        progress = self._progress
        item = event.get("item")
        if kind == "thread.started":
            self._set(session_id=_name(event.get("thread_id")))
        elif kind == "turn.started":
            self._set(turn=progress.turn + 1, note=None, finished=False)
        elif kind in {"turn.completed", "turn.failed"}:
            self._tools.clear()
            usage = event.get("usage")
            usage = usage if is_object(usage) else {}
            self._set(
                tool=None,
                note=None,
                finished=True,
                input_tokens=progress.input_tokens + _count(usage.get("input_tokens")),
                output_tokens=progress.output_tokens + _count(usage.get("output_tokens")),
            )
        elif kind == "error" and (message := text_of(event.get("message"))):
            self._set(note=excerpt(message, _NAME_CHARACTERS))
        elif kind.startswith("item.") and is_object(item):
            self._item(kind, item)

    def _item(self, kind: str, item: dict[str, Any]) -> None:
        name, call = item.get("type"), item.get("id")
        if not isinstance(name, str) or name not in _CODEX_TOOLS or not isinstance(call, str):
            if name != "error":
                self._set(note=None)  # the retry has succeeded
            return
        if kind == "item.completed":
            self._tools.end(call)
        elif kind == "item.started":
            field = _CODEX_TOOLS[name]
            what = text_of(item.get(field)) if field else None
            self._tools.start(call, f"{name}: {what}" if what else name)
        self._set(tool=self._tools.current, note=None)
