"""What the parts of a catalog need of it; they cannot import it, as it imports them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from supervisor import interpret
from supervisor.engines.interface import Client, Observation
from supervisor.jobdir.facts import Ended
from supervisor.jobs.outcome import view_of
from supervisor.model import Job
from supervisor.settings import Settings
from supervisor.store import Index, Layout, Row

__all__ = ["Jobs", "Look"]

Look = Callable[[Row, str, Ended], interpret.Outcome]
"""Returns what an interpreter is given about a job whose command has ended."""


class Jobs(Protocol):
    """The jobs of a state root: a ``Catalog``, which documents the methods."""

    settings: Settings
    layout: Layout
    index: Index
    unwritten: Mapping[str, Row]

    def client(self, row: Row) -> Client: ...  # noqa: D102  # here and below: see ``Catalog``

    def row(self, job_id: str) -> Row: ...  # noqa: D102

    def recover(self, job_id: str) -> Row | None: ...  # noqa: D102

    def directory(self, row: Row) -> str: ...  # noqa: D102

    def refresh(  # noqa: D102
        self, row: Row, *, drive: bool = True, look: Look = view_of
    ) -> tuple[Row, Observation | None]: ...

    def ensure_launcher(self) -> None: ...  # noqa: D102

    def check_kept(self, row: Row) -> None: ...  # noqa: D102

    def at_a_glance(self, row: Row) -> Job | None: ...  # noqa: D102

    def job(self, row: Row, observation: Observation | None = None, *, read: int = 0) -> Job: ...  # noqa: D102

    def resolve_prefix(self, prefix: str) -> str: ...  # noqa: D102

    def status(self, job_id: str, *, progress: bool = True) -> Job: ...  # noqa: D102

    def is_in_trash(self, job_id: str) -> bool: ...  # noqa: D102
