"""The page: what needs attention, groups and jobs, for people.

The server renders it, and it works without scripts. With them, a stream of events replaces its parts as they change.
"""

from __future__ import annotations

from supervisor.web.page.routes import routes

__all__ = ["routes"]
