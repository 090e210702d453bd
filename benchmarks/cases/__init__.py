"""The cases by name, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.cases.cold import cold
from benchmarks.cases.containing import containing
from benchmarks.cases.delivering import deliveries
from benchmarks.cases.draining import draining
from benchmarks.cases.durability import durability
from benchmarks.cases.embedding import embedding
from benchmarks.cases.growth import growth
from benchmarks.cases.interpreting import interpreting
from benchmarks.cases.latency import exits, lists, starts, statuses
from benchmarks.cases.many import deadlines, reopening, sleeping
from benchmarks.cases.mcp import mcp
from benchmarks.cases.queueing import queueing
from benchmarks.cases.serve import serve
from benchmarks.cases.stopping import stopping
from benchmarks.cases.streams import events, output
from benchmarks.cases.terminals import terminals
from benchmarks.cases.throughput import throughput
from benchmarks.cases.upgrading import stops, upgrade
from benchmarks.plan import Case

__all__ = ["CASES"]

CASES: Final[Mapping[str, Case]] = {
    "throughput": throughput,
    "starts": starts,
    "exits": exits,
    "statuses": statuses,
    "lists": lists,
    "growth": growth,
    "queueing": queueing,
    "draining": draining,
    "sleeping": sleeping,
    "deadlines": deadlines,
    "stopping": stopping,
    "stops": stops,
    "containing": containing,
    "output": output,
    "pty": terminals,
    "reopening": reopening,
    "upgrade": upgrade,
    "durability": durability,
    "cold": cold,
    "mcp": mcp,
    "events": events,
    "deliveries": deliveries,
    "embedding": embedding,
    "serve": serve,
    "interpret": interpreting,
}
