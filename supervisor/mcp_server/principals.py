"""The documented path of what is now in ``supervisor.mcp_server.access.principals``."""

from __future__ import annotations

from supervisor.mcp_server.access.principals import *  # noqa: F403  # the names are those of the module's __all__
