"""A load and its report as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from supervisor.cli import table, text
from supervisor.load.check import MEANINGS
from supervisor.load.generator import FIGURES
from supervisor.load.mix import Mix

__all__ = ["intention", "lines"]


def intention(mix: Mix, where: str) -> str:
    """Describe a load in a sentence; ``where`` names the state root or the endpoint."""
    about = "" if mix.arrivals == "constant" else "about "
    jobs = text.plural(round(mix.expected_jobs), "job")
    spaced = "at random" if mix.arrivals == "poisson" else "evenly spaced"
    return (
        f"{about}{jobs} for {where}: {mix.rate:g} a second for {text.duration(mix.for_seconds)}, {spaced}, "
        f"some {max(1, round(mix.expected_in_flight))} at once; seed {mix.seed}; Ctrl-C ends it"
    )


def lines(shape: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report, line by line."""
    jobs, rate, generator = shape["jobs"], shape["rate"], shape["generator"]
    summary = "nothing was lost, wrong or refused" if shape["ok"] else shape["error"]["message"]
    summary = summary if jobs["due"] else "no job was due"
    yield click.style(summary, fg="green" if shape["ok"] else "red", bold=True)
    yield ""
    states = ", ".join(f"{jobs[name]} {name}" for name in ("done", "failed", "cancelled", "timeout") if jobs[name])
    held = f", {jobs['held_back']} held back by the limit in flight" if jobs["held_back"] else ""
    left = len(shape["left_running"])
    yield from text.pairs(
        (
            ("Jobs", f"{jobs['due']} due, {jobs['acknowledged']} started, {jobs['refused']} refused{held}"),
            ("Ended", states or "none"),
            ("Rate", f"{rate['acknowledged']:g} started a second of {rate['asked']:g} asked, {rate['ended']:g} ended"),
            ("Time", f"{text.duration(shape['seconds'])}{', interrupted' if shape['interrupted'] else ''}"),
            ("At once", _at_once(shape)),
            ("Waited", _waited(shape)),
            ("Generator", _generator(generator)),
            ("Seed", f"{shape['mix']['seed']} ({shape['mix']['arrivals']} arrivals)"),
            (
                "Left",
                f"{text.plural(left, 'job')} running: `supervisor cancel --label bench={shape['run']}`"
                if left
                else None,
            ),
            ("Not forgotten", text.plural(unforgotten, "job") if (unforgotten := shape["not_forgotten"]) else None),
            ("Kept", f"`supervisor list --all --label bench={shape['run']}`" if shape["kept"] else None),
        )
    )
    yield ""
    head = ("milliseconds", "count", "p50", "p90", "p99", "max")
    rows = [
        (FIGURES[name], str(each["count"]), *(text.milliseconds(each[column]) for column in head[2:]))
        for name, each in shape["latency_ms"].items()
        if each["count"]
    ]
    yield from table.aligned([head, *rows], right=frozenset(range(1, 6)))
    yield from _problems(shape)


def _at_once(shape: Mapping[str, Any]) -> str | None:
    most, group = shape["most_at_once"], shape["target"].get("group")
    if most is None or group is None:
        return None
    limit = shape["target"]["limit"]
    return f"{most} jobs at most, in group {group} ({'unlimited' if limit is None else f'limit {limit}'})"


def _waited(shape: Mapping[str, Any]) -> str | None:
    waited = shape["waited_ms"]
    if shape["target"].get("group") is None or not waited["count"]:
        return None
    return ", ".join(f"{column} {text.duration(waited[column] / 1000)}" for column in ("p50", "p99", "max"))


def _generator(generator: Mapping[str, Any]) -> str:
    users = "of generator and supervisor" if generator["with_supervisor"] else "of generator and MCP client"
    return (
        f"{generator['cpu_seconds']:.2f} s of CPU time {users} ({generator['cpu_of_a_core']:.1%} of a core); "
        f"its own {generator['own_us_a_job']:.0f} us a job ({generator['own_of_a_core']:.2%})"
    )


def _problems(shape: Mapping[str, Any]) -> Iterator[str]:
    for title, counts in (("Errors", shape["errors"]), ("Wrong", shape["wrong"])):
        if counts:
            yield ""
            described = {name: f"{name}: {MEANINGS[name]}" if name in MEANINGS else name for name in counts}
            rows = [(title, "", "")] + [("", str(counts[name]), text.one_line(described[name])) for name in counts]
            yield from table.aligned(rows, right=frozenset({1}))
    for example in shape["examples"]:
        job = "" if example["job_id"] is None else f" job {example['job_id']}"
        yield text.one_line(f"  {example['code']}:{job} ({example['sort']}): {example['detail']}")
    if shape["found_again"]:
        were = "was" if shape["found_again"] == 1 else "were"
        yield f"{text.plural(shape['found_again'], 'job')} {were} found whose start had no answer"
    for each in shape["not_checked"]:
        yield text.one_line(f"not checked: {each}")
