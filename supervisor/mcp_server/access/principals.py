"""Principals: the callers of a server, each of which may access only its own jobs.

Over stdio, at the command line and with ``--no-token``, the only caller is the owner of the state root,
whose principal is ``None`` and who may access every job. Over HTTP each token is a principal with a
name. The label of a job contains the name of its principal; for other principals the job does not exist.
Idempotency keys are prefixed with the name, so that a key never returns the job of another principal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from supervisor.model import Job

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

__all__ = [
    "PRINCIPAL_GROUP",
    "PRINCIPAL_LABEL",
    "RESERVED_PREFIX",
    "TOOL_LABEL",
    "may_see",
    "own_labels",
    "principal_of",
    "scoped_key",
]

RESERVED_PREFIX: Final = "mcp."
"""The prefix of the labels that the server sets. Callers over MCP may search for them, but not set them."""

PRINCIPAL_LABEL: Final = "mcp.principal"
PRINCIPAL_GROUP: Final = "principal."
"""What the name of the group that holds all jobs of a principal begins with, if the owner has made such a group."""
TOOL_LABEL: Final = "mcp.tool"


def principal_of(ctx: ServerRequestContext[Any, Any]) -> str | None:
    """Return the principal of a request; ``None`` is the owner of the state root."""
    scope = getattr(ctx.request, "scope", None)
    user = None if scope is None else scope.get("user")
    return None if user is None else str(user.username)


def may_see(principal: str | None, job: Job) -> bool:
    """Whether ``principal`` may access a job."""
    return principal is None or job.labels.get(PRINCIPAL_LABEL) == principal


def own_labels(principal: str | None) -> dict[str, str]:
    """Return the labels by which the jobs of ``principal`` are found; every job is one of the owner."""
    return {} if principal is None else {PRINCIPAL_LABEL: principal}


def scoped_key(principal: str | None, key: str | None) -> str | None:
    """Return the idempotency key of a job of ``principal``, distinct from those of other principals."""
    return key if principal is None or key is None else f"mcp:{principal}/{key}"
