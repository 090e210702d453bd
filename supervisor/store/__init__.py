"""The only code that touches the state root, the keeper's own records apart.

``layout`` knows directories and who may use them, ``rows`` what stands in a row and how it
becomes a ``Job``, ``index`` is the SQLite registry over the job directories. The directories
are the truth; the registry can be rebuilt from them at any time.
"""

from __future__ import annotations

from supervisor.store.index import Index
from supervisor.store.rows import Row
from supervisor.store.state_root import Layout, is_job_id

__all__ = ["Index", "Layout", "Row", "is_job_id"]
