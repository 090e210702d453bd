"""Live progress: torn and foreign lines, huge lines, tools, retries."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.interpret import Outcome, get_interpreter, read_progress
from supervisor.interpret.progress import MAX_LINE_BYTES, ClaudeProgress, CodexProgress


def line(event: Any) -> bytes:
    return json.dumps(event).encode() + b"\n"


def assistant(name: str, *content: dict[str, Any], parent: str | None = None, **usage: int) -> bytes:
    message = {"id": name, "content": list(content), "usage": usage}
    return line({"type": "assistant", "message": message, "parent_tool_use_id": parent})


def tool(call: str, name: str = "Bash") -> dict[str, Any]:
    return {"type": "tool_use", "id": call, "name": name, "input": {}}


def tool_result(call: str) -> bytes:
    return line({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": call}]}})


def test_kinds_that_have_no_progress_say_so() -> None:
    assert read_progress(get_interpreter("raw")) is None
    assert read_progress(get_interpreter("json")) is None


def test_a_run_of_claude_as_it_goes(captured: Callable[..., Outcome]) -> None:
    reader = ClaudeProgress()
    seen = []
    for piece in captured("claude/stream").read_stdout().splitlines(keepends=True):
        reader.feed(piece)
        seen.append((reader.progress.turn, reader.progress.tool, reader.progress.cost_usd, reader.progress.finished))
    cost = 0.00036799999999999995
    assert seen == [
        (0, None, None, False),
        (1, "Bash", None, False),
        (1, None, None, False),
        (2, None, None, False),
        (2, None, cost, True),
    ]
    assert (reader.progress.input_tokens, reader.progress.output_tokens) == (22, 14)
    assert reader.progress.model == "claude-opus-5-5"


def test_a_run_of_codex_as_it_goes(captured: Callable[..., Outcome]) -> None:
    reader = CodexProgress()
    tools = []
    for piece in captured("codex/cmd").read_stdout().splitlines(keepends=True):
        reader.feed(piece)
        tools.append(reader.progress.tool)
    assert "command_execution: /bin/bash -lc 'echo hi; exit 3'" in tools
    assert tools[-1] is None
    assert reader.progress.turn == 1
    assert reader.progress.finished


def test_retries_are_noted_until_it_goes_on(captured: Callable[..., Outcome]) -> None:
    reader = CodexProgress()
    for piece in captured("codex/500").read_stdout().splitlines(keepends=True)[:6]:
        reader.feed(piece)
    assert (reader.progress.note or "").startswith("Reconnecting... 3/5")
    claude = ClaudeProgress()
    claude.feed(line({"type": "system", "subtype": "api_retry", "attempt": 2, "max_retries": 10, "error_status": 529}))
    assert claude.progress.note == "retry 2/10 after status 529"
    claude.feed(assistant("m"))
    assert claude.progress.note is None


def test_torn_and_foreign_lines_are_skipped_and_counted() -> None:
    for reader in (ClaudeProgress(), CodexProgress()):
        foreign = [b"npm notice\n", b'{"type": "assi\n', b"[1]\n", b'{"type": 7}\n', b"{}\n", b"\xff\xfe\n"]
        for piece in foreign:
            assert reader.feed(piece)
        assert not reader.feed(b"\n  \n")
        assert not reader.feed(line({"type": "something.new"}))
        assert reader.progress.skipped_lines == len(foreign)
        assert not reader.feed(b'{"torn')
        assert reader.close()
        assert reader.progress.skipped_lines == len(foreign) + 1


def test_messages_that_share_an_id_count_once_and_subagents_are_no_turns() -> None:
    reader = ClaudeProgress()
    reader.feed(assistant("a", input_tokens=10, output_tokens=1))
    reader.feed(assistant("sub", parent="t", input_tokens=5, output_tokens=1))
    reader.feed(assistant("a", tool("1"), input_tokens=10, output_tokens=3))
    assert reader.progress.turn == 1
    assert (reader.progress.input_tokens, reader.progress.output_tokens) == (15, 4)


def test_of_parallel_tools_the_latest_that_still_runs_is_shown() -> None:
    reader = ClaudeProgress()
    reader.feed(assistant("a", tool("1", "Read"), tool("2", "Bash")))
    assert reader.progress.tool == "Bash"
    reader.feed(tool_result("2"))
    assert reader.progress.tool == "Read"
    reader.feed(tool_result("1"))
    assert reader.progress.tool is None


def test_memory_is_bounded_for_huge_lines_and_endless_runs() -> None:
    reader = ClaudeProgress()
    chunk = b"x" * 65536
    tracemalloc.start()
    for _ in range(1600):  # 100 MiB without a newline
        reader.feed(chunk)
    reader.feed(b"\n")
    for number in range(3000):
        reader.feed(assistant(f"m{number}", tool(f"t{number}"), input_tokens=1, output_tokens=1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MAX_LINE_BYTES
    assert reader.progress.skipped_lines == 1
    assert (reader.progress.turn, reader.progress.input_tokens) == (3000, 3000)


def test_a_tool_name_cannot_bring_secrets_or_escapes() -> None:
    reader = ClaudeProgress()
    reader.feed(assistant("a", tool("1", "\x1b[31mghp_" + "aB3" * 10)))
    assert reader.progress.tool == "[redacted]"


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
event = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["system", "assistant", "user", "result", "item.started", "item.completed", "error", "turn.completed"]
        )
    },
    optional={
        "subtype": st.sampled_from(["init", "api_retry"]) | json_values,
        "message": json_values
        | st.fixed_dictionaries({"id": json_values, "content": json_values, "usage": json_values}),
        "item": json_values
        | st.fixed_dictionaries({"id": st.text(), "type": st.just("command_execution"), "command": json_values}),
        "usage": json_values,
        "num_turns": json_values,
        "total_cost_usd": json_values,
    },
)


@given(st.lists(event.map(line) | st.binary(max_size=20), max_size=10), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_any_bytes_in_any_pieces(pieces: list[bytes], size: int) -> None:
    stdout = b"".join(pieces)
    for reader in (ClaudeProgress(), CodexProgress()):
        whole = type(reader)()
        for start in range(0, len(stdout), size):
            reader.feed(stdout[start : start + size])
        whole.feed(stdout)
        assert reader.snapshot() == whole.snapshot()
        json.dumps(reader.snapshot(), allow_nan=False)
