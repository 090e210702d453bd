"""Tools and a prompt that ask in several rounds (``InputRequiredResult``), for the set of 2026-07-28."""

from __future__ import annotations

from typing import Any, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

__all__ = ["add_asking_tools"]

_STATE: Final = "asked-once"


def _form(message: str, name: str, kind: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=100))


def _ask(state: str | None = None, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def _given(ctx: Context, key: str, name: str, kind: type) -> Any:
    """Return what was accepted for a question if it is of the right type."""
    answer = (ctx.input_responses or {}).get(key)
    if not isinstance(answer, ElicitResult) or answer.action != "accept":
        return None
    value = (answer.content or {}).get(name)
    return value if isinstance(value, kind) else None


def add_asking_tools(server: MCPServer[Any]) -> None:
    """Give ``server`` what asks in rounds."""
    _add_single(server)
    _add_with_state(server)

    @server.prompt()
    def test_input_required_result_prompt(ctx: Context) -> list[Message] | InputRequiredResult:
        """Ask for a context first."""
        context = _given(ctx, "user_context", "context", str)
        if context is None:
            return _ask(user_context=_form("What context should the prompt use?", "context"))
        return [UserMessage(TextContent(text=f"Prompt with context: {context}"))]


def _add_single(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
        """Ask for a name."""
        name = _given(ctx, "user_name", "name", str)
        return _ask(user_name=_form("What is your name?", "name")) if name is None else f"Hello, {name}!"

    @server.tool()
    async def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
        """Ask for a name, on a request's own stream."""
        name = _given(ctx, "user_name", "name", str)
        return _ask(user_name=_form("What is your name?", "name")) if name is None else f"Hello, {name}!"

    @server.tool()
    async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
        """Ask the client's model."""
        answer = (ctx.input_responses or {}).get("capital_question")
        if not isinstance(answer, CreateMessageResult):
            return _ask(capital_question=_sample("What is the capital of France?"))
        return f"The model said: {getattr(answer.content, 'text', '')}"

    @server.tool()
    async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
        """Ask for the client's roots."""
        answer = (ctx.input_responses or {}).get("client_roots")
        if not isinstance(answer, ListRootsResult):
            return _ask(client_roots=ListRootsRequest())
        return "Roots: " + ", ".join(str(root.uri) for root in answer.roots)

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
        """Ask only what the client says it answers."""
        if ctx.input_responses:
            return f"Answered: {', '.join(sorted(ctx.input_responses))}"
        declared = ctx.client_capabilities
        requests: dict[str, InputRequest] = {}
        if declared is not None and declared.elicitation is not None:
            requests["user_name"] = _form("What is your name?", "name")
        if declared is not None and declared.sampling is not None:
            requests["greeting"] = _sample("Generate a greeting")
        return _ask(**requests) if requests else "There is nothing that could be asked"

    @server.tool()
    async def test_missing_capability(ctx: Context) -> str:
        """Refuse clients that do not sample."""
        declared = ctx.client_capabilities
        if declared is None or declared.sampling is None:
            data = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", data)
        return "The client samples"


def _add_with_state(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
        """Ask, and recognise the state that comes back."""
        if _given(ctx, "confirm", "ok", bool) is None or ctx.request_state != _STATE:
            return _ask(_STATE, confirm=_form("Please confirm", "ok", "boolean"))
        return "state-ok"

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
        """Ask; a state that was changed on the way does not get this far."""
        if _given(ctx, "confirm", "ok", bool) is None or ctx.request_state != _STATE:
            return _ask(_STATE, confirm=_form("Please confirm", "ok", "boolean"))
        return "state-ok"

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
        """Ask three things at once."""
        answers = ctx.input_responses or {}
        if {"user_name", "greeting", "client_roots"} <= set(answers) and ctx.request_state == _STATE:
            return "All three were answered"
        return _ask(
            _STATE,
            user_name=_form("What is your name?", "name"),
            greeting=_sample("Generate a greeting"),
            client_roots=ListRootsRequest(),
        )

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
        """Ask twice."""
        state = ctx.request_state or ""
        if state.startswith("round-2:"):
            colour = _given(ctx, "step2", "color", str)
            if colour is not None:
                return f"{state.removeprefix('round-2:')} likes {colour}"
        name = _given(ctx, "step1", "name", str) if state == "round-1" else None
        if name is None and not state.startswith("round-2:"):
            return _ask("round-1", step1=_form("Step 1: What is your name?", "name"))
        following = state if name is None else f"round-2:{name}"
        return _ask(following, step2=_form("Step 2: What is your favorite color?", "color"))
