"""The state root: its directories, and the index over them.

``state_root`` has the directories, ``rows`` the rows of the index and the ``Job`` that a row describes, ``index`` the
SQLite index. The directories are the truth: the index can be rebuilt from them at any time.
"""

from __future__ import annotations

from supervisor.store.index import Index
from supervisor.store.rows import Row
from supervisor.store.state_root import Layout, is_job_id

__all__ = ["Index", "Layout", "Row", "is_job_id"]
