"""How much of a state root the live view shows."""

from __future__ import annotations

from typing import Final

from supervisor.jobs.catalog import Catalog
from supervisor.jobs.overview import Overview, overview_of

__all__ = ["take"]

_RUNNING: Final = 200
_WAITING: Final = 100
_ENDED: Final = 100


def take(catalog: Catalog) -> Overview:
    """Return an overview with as many jobs as a view shows.

    Raises:
        SupervisorError: the state root cannot be read now.
    """
    return overview_of(catalog, running=_RUNNING, waiting=_WAITING, ended=_ENDED)
