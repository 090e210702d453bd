"""A tool of the server, and a call of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
from mcp_types import CallToolRequestParams, CallToolResult, InputRequiredResult, ToolAnnotations
from mcp_types import Tool as ToolDescription

from supervisor.mcp_server.access.principals import principal_of
from supervisor.mcp_server.config.arguments import Parameter, schema_of

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

__all__ = ["Call", "Tool"]


@attrs.frozen(slots=True)
class Call:
    """One call of a tool.

    Attributes:
        context: the context of the request.
        params: the request.
        values: the checked arguments with their defaults.
    """

    context: ServerRequestContext[Any, Any]
    params: CallToolRequestParams
    values: Mapping[str, Any]

    @property
    def principal(self) -> str | None:
        """The principal of the request."""
        return principal_of(self.context)


_LONG: Final = {"anthropic/maxResultSizeChars": 500_000}
"""Without it, Claude Code cuts an answer at 50,000 characters, also for a caller that has asked for more."""


@attrs.frozen(slots=True, kw_only=True)
class Tool:
    """One tool: its description for hosts, and the function that serves its calls.

    Attributes:
        name: its name.
        description: what it does, for models.
        parameters: its arguments.
        annotations: its effects, as far as they are not the defaults of the protocol.
        run: the function that serves a call.
        is_long: whether a caller may ask for a long answer.
    """

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    annotations: ToolAnnotations
    run: Callable[[Call], Awaitable[CallToolResult | InputRequiredResult]]
    is_long: bool = False

    def describe(self) -> ToolDescription:
        """Return the description in ``tools/list``.

        A host sends it to the model in every session, so it has only what a caller acts on: no bounds that the server
        checks anyway, and no output schema: an answer shows its own fields.
        """
        return ToolDescription(
            name=self.name,
            description=self.description,
            input_schema=schema_of(self.parameters),
            annotations=self.annotations,
            _meta=_LONG if self.is_long else None,
        )
