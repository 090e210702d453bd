"""The state root: its directories, and the index over them.

``state_root`` has the directories, ``rows`` the rows of the index, ``jobs_of_rows`` the ``Job`` that a row describes,
``index`` the SQLite index. The directories are the truth: the index can be rebuilt from them at any time.

``Index`` is imported when it is first used: it writes, so it brings the whole queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.store.rows import Row
from supervisor.store.state_root import Layout, is_job_id

if TYPE_CHECKING:
    from supervisor.store.index import Index

__all__ = ["Index", "Layout", "Row", "is_job_id"]


def __getattr__(name: str) -> object:
    if name != "Index":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from supervisor.store.index import Index

    globals()[name] = Index
    return Index
