"""The options of a server; this module imports nothing of the SDK."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from supervisor.mcp_server.config.kinds import Kind
from supervisor.settings import Settings

__all__ = ["Options"]


@attrs.frozen(slots=True, kw_only=True)
class Options:
    """The options of a server.

    Attributes:
        settings: the state root and the defaults.
        kinds: the sorts of jobs that callers may start.
        allow_commands: patterns of commands that ``job_start`` may start; without one there is no ``job_start``.
        events: whether to offer the events extension, which is a draft.
    """

    settings: Settings
    kinds: Sequence[Kind] = ()
    allow_commands: Sequence[str] = ()
    events: bool = False
