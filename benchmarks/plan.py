"""The request for a run: its size, its directory, and the peers that take part."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

import attrs
import trio

import supervisor
from benchmarks.figures import Figure
from benchmarks.peers import Peer, Session, brought_up
from supervisor.jobs.catalog import Catalog

__all__ = ["Case", "Plan", "Size", "percentile"]

_T = TypeVar("_T")
_PEER: Final = "peer"
Size = Literal["toy", "quick", "full"]


def _to_stderr(words: str) -> None:
    sys.stderr.write(f"{words}\n")


@attrs.define
class Plan:
    """The request to the cases.

    Attributes:
        folder: the directory of the cases. It is deleted after the last case and not between rounds: after
            many deletions a file system like ext4 makes new directories several times more slowly.
        size: how much is measured; ``toy`` only shows that a case works, and its figures mean nothing.
        peers: the peers that take part, by name.
        missing: why other peers do not.
        tell: writes a line of progress.
    """

    folder: Path
    size: Size = "quick"
    peers: Mapping[str, Peer] = attrs.field(factory=dict[str, Peer])
    missing: Mapping[str, str] = attrs.field(factory=dict[str, str])
    tell: Callable[[str], object] = _to_stderr
    _numbers: Iterator[int] = attrs.field(factory=itertools.count, init=False)

    def close(self) -> None:
        """Stop all jobs that still run: they outlive the processes that started them."""
        places = ("*", "*/state", "*/*/state")  # of these settings, of a server, of one of several servers
        for registry in [found for place in places for found in self.folder.glob(f"{place}/registry.db")]:
            with Catalog(supervisor.Settings(state_dir=registry.parent, stop_grace_seconds=0)) as catalog:
                catalog.cancel_all([row.job_id for row in catalog.index.unfinished()])

    def pick(self, toy: _T, quick: _T, full: _T) -> _T:
        """Return the value for this size."""
        return {"toy": toy, "quick": quick, "full": full}[self.size]

    @property
    def rounds(self) -> int:
        """The number of rounds."""
        return self.pick(2, 3, 5)

    def fresh(self, what: str) -> Path:
        """Return a new directory."""
        made = self.folder / f"{what}-{next(self._numbers)}"
        made.mkdir(mode=0o700)
        return made

    def peers_folders(self) -> list[Path]:
        """Return the directories of all peers so far."""
        return list(self.folder.glob(f"{_PEER}-*"))

    def sessions(self, stack: ExitStack, flight: int = 1, only: Collection[str] | None = None) -> dict[str, Session]:
        """Start the peers, or only the named ones; ``stack`` ends them."""
        return {
            name: stack.enter_context(brought_up(peer, self.fresh(_PEER), flight, self.tell))
            for name, peer in self.peers.items()
            if only is None or name in only
        }

    def settings(self, **others: object) -> supervisor.Settings:
        """Return settings with a new state root and no cap on kept jobs."""
        given = {"state_dir": self.fresh("ours"), "job_max_count": 10**6, **others}
        return supervisor.Settings(**given)  # type: ignore[arg-type]

    @asynccontextmanager
    async def opened(self, settings: supervisor.Settings | None = None) -> AsyncGenerator[supervisor.Supervisor]:
        """Open a supervisor on a new state root, and start its keeper."""
        async with supervisor.open_supervisor(settings or self.settings()) as sup:
            await sup.run(["true"])
            yield sup

    def ours(
        self,
        body: Callable[[supervisor.Supervisor], Awaitable[_T]],
        settings: supervisor.Settings | None = None,
    ) -> _T:
        """Run ``body`` with a supervisor and return its measurement."""

        async def main() -> _T:
            async with self.opened(settings) as sup:
                return await body(sup)

        return trio.run(main)


class Case(Protocol):
    """A case that can be measured."""

    def __call__(self, plan: Plan, /) -> Iterator[Figure]:
        """Measure it, and yield each figure as soon as it is complete."""


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which the share ``part`` of them lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
