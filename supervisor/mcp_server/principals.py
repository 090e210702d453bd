"""The former path of ``supervisor.mcp_server.access.principals``, which is documented."""

from __future__ import annotations

from supervisor.mcp_server.access.principals import *  # noqa: F403  # the names are those of the module's __all__
