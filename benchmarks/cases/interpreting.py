"""The cost of interpreting an agent's output, next to a bare ``json.loads`` of the same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from benchmarks.figures import OURS, Figure, Goal, interleaved
from benchmarks.plan import Plan
from supervisor import interpret

__all__ = ["interpreting"]

_LOADS = "json.loads"


def big_envelope(size: int) -> bytes:
    """Return the envelope of a ``claude`` run with about ``size`` bytes of text, and a review at the end."""
    finding = {
        "severity": "major",
        "title": "A title of some length, as reviewers write them",
        "file": "package/module.py",
        "line": 12,
        "evidence": 'It says `if x == "y":` and a line below\n\t\u00e9t\u00e9 {"like": this}. ' * 8,
        "risk": "Something breaks when it is least expected. " * 6,
        "recommendation": "Do the other thing, and test it. " * 6,
    }
    review = json.dumps({"summary": "Much to do.", "verdict": "concerns", "findings": [finding] * 200})
    prose = 'He said "look", and there it was:\n\tif (x) { y(); }  // a path like C:\\temp, an \u00e9t\u00e9.\n'
    text = prose * ((size - len(json.dumps(review))) // len(json.dumps(prose)))
    envelope = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "num_turns": 3,
        "session_id": "s",
        "total_cost_usd": 1.25,
        "usage": {"input_tokens": 10, "output_tokens": 20},
        "permission_denials": [],
        "result": f"{text}```json\n{review}\n```\n",
    }
    return json.dumps(envelope).encode() + b"\n"


def long_stream(size: int, line: int) -> bytes:
    """Return about ``size`` bytes of ``stream-json``, in lines of about ``line`` bytes."""
    text = "words of an answer " * (line // 19)
    events = (
        {"type": "assistant", "message": {"id": f"m{number}", "content": [{"type": "text", "text": text}], "usage": {}}}
        for number in range(size // line)
    )
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def timed(action: Callable[[], object]) -> float:
    """Return the duration of an action, in milliseconds."""
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1e3


def interpreting(plan: Plan) -> Iterator[Figure]:
    """Measure a verdict, an answer, and the progress of a run."""
    size = plan.pick(100_000, 10_000_000, 10_000_000)
    claude = interpret.get_interpreter("claude")
    data = big_envelope(size)

    def outcome() -> interpret.Outcome:
        return interpret.Outcome(exit_code=0, read_stdout=lambda: data)

    def verdict() -> object:
        found = claude.verdict(outcome())
        if found.cost_usd != 1.25:
            raise AssertionError(found)
        return found

    def answer() -> object:
        seen = outcome()
        claude.verdict(seen)
        value = interpret.render(claude, seen).value
        if value["verdict"] != "concerns":
            raise AssertionError(value["verdict"])
        return value

    def bare() -> object:
        return json.loads(data)

    stream = long_stream(size, 2000)

    def follow() -> object:
        reader = interpret.read_progress(claude)
        if reader is None:
            raise AssertionError(claude)
        for start in range(0, len(stream), 65536):
            reader.feed(stream[start : start + 65536])
        return reader.snapshot()

    def lines() -> object:
        return [json.loads(line) for line in stream.splitlines()]

    for name, ours, limit, goals in (
        ("verdict on a 10 MB envelope", verdict, bare, [Goal("<=", 2, of=_LOADS)]),
        ("verdict and answer of it", answer, bare, [Goal("<=", 2, of=_LOADS)]),
        ("progress through a 10 MB stream", follow, lines, []),
    ):
        limit()
        contenders = {OURS: lambda ours=ours: timed(ours), _LOADS: lambda limit=limit: timed(limit)}
        values, missing = interleaved(plan.rounds * 2, contenders)
        yield Figure(case="interpret", name=name, unit="ms", values=values, missing=missing, goals=goals)
