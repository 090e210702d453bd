"""Whose job is whose, when a server has more than one caller.

Over stdio, at the command line and with ``--no-token`` there is one caller, the owner of the state
root, who may see everything: its principal is ``None``. Over HTTP each token is a principal by
name; a job that it starts carries the name as a label, and other principals are told that there is
no such job. An idempotency key is kept apart by the same name, or one principal could be handed
the job of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from supervisor.model import Job

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

__all__ = ["PRINCIPAL_LABEL", "RESERVED_PREFIX", "TOOL_LABEL", "may_see", "principal_of", "scoped_key"]

RESERVED_PREFIX: Final = "mcp."
"""Labels that begin with it are ours to give; callers over MCP may look for them, and not set them."""

PRINCIPAL_LABEL: Final = "mcp.principal"
TOOL_LABEL: Final = "mcp.tool"


def principal_of(ctx: ServerRequestContext[Any, Any]) -> str | None:
    """Return who makes this request; ``None`` is the owner of the state root."""
    scope = getattr(ctx.request, "scope", None)
    user = None if scope is None else scope.get("user")
    return None if user is None else str(user.username)


def may_see(principal: str | None, job: Job) -> bool:
    """Whether a job may be shown to ``principal``, and touched by it."""
    return principal is None or job.labels.get(PRINCIPAL_LABEL) == principal


def scoped_key(principal: str | None, key: str | None) -> str | None:
    """Return the idempotency key under which a job of ``principal`` is kept."""
    return key if principal is None or key is None else f"mcp:{principal}/{key}"
