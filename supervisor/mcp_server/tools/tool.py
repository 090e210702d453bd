"""A tool of the server, and a call of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

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


@attrs.frozen(slots=True, kw_only=True)
class Tool:
    """One tool: its description for hosts, and the function that serves its calls."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    output: Mapping[str, Any]
    annotations: ToolAnnotations
    run: Callable[[Call], Awaitable[CallToolResult | InputRequiredResult]]

    def describe(self) -> ToolDescription:
        """Return the description in ``tools/list``."""
        return ToolDescription(
            name=self.name,
            description=self.description,
            input_schema=schema_of(self.parameters),
            output_schema=dict(self.output),
            annotations=self.annotations,
        )
