"""Tools, resources, prompts and completions that the requirement sets call; none has to do with tasks."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp_types import (
    AudioContent,
    Completion,
    EmbeddedResource,
    ImageContent,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

__all__ = ["add_plain_tools"]

_PNG: Final = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082",
    ),
).decode()
_WAV: Final = base64.b64encode(
    b"RIFF" + (36).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    + b"\x01\x00\x01\x00" + (8000).to_bytes(4, "little") * 2 + b"\x01\x00\x08\x00data" + bytes(4),
).decode()  # fmt: skip


class Answer(BaseModel):
    username: str = Field(description="What the user is called")
    email: str = Field(description="Where the user can be written to")


class WithDefaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


_VALUES: Final = [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second"), 1)]


class WithChoices(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})  # noqa: N815
    titledSingle: str = Field(json_schema_extra={"oneOf": _VALUES})  # noqa: N815
    legacyEnum: str = Field(  # noqa: N815
        json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
    )
    untitledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
    )
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": _VALUES}})  # noqa: N815


async def _elicited(ctx: Context, message: str, schema: type[BaseModel], said: str) -> str:
    answer = await ctx.elicit(message, schema)
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"{said}: action={answer.action}, content={content}"


def _embedded(uri: str) -> EmbeddedResource:
    text = "This is an embedded resource content."
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type="text/plain", text=text))


def add_plain_tools(server: MCPServer[Any]) -> None:
    """Give ``server`` everything that is not about tasks or about asking in several rounds."""
    _add_tools(server)
    _add_tools_that_talk(server)
    _add_resources(server)
    _add_prompts(server)


def _add_tools(server: MCPServer[Any]) -> None:
    @server.tool()
    def test_simple_text() -> str:
        """Answer with text."""
        return "This is a simple text response for testing."

    @server.tool()
    def test_image_content() -> list[ImageContent]:
        """Answer with an image."""
        return [ImageContent(data=_PNG, mime_type="image/png")]

    @server.tool()
    def test_audio_content() -> list[AudioContent]:
        """Answer with a sound."""
        return [AudioContent(data=_WAV, mime_type="audio/wav")]

    @server.tool()
    def test_embedded_resource() -> list[EmbeddedResource]:
        """Answer with a resource."""
        return [_embedded("test://embedded-resource")]

    @server.tool()
    def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
        """Answer with several kinds of content."""
        return [
            TextContent(text="Multiple content types test:"),
            ImageContent(data=_PNG, mime_type="image/png"),
            _embedded("test://mixed-content-resource"),
        ]

    @server.tool()
    def test_error_handling() -> str:
        """Fail on purpose."""
        message = "This tool intentionally returns an error for testing"
        raise ToolError(message)


def _add_tools_that_talk(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_tool_with_logging(ctx: Context) -> str:
        """Log some lines on the way."""
        for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(line)  # type: ignore[deprecated]
        return "Done"

    @server.tool()
    async def test_logging_tool(ctx: Context) -> str:
        """Log a line, which reaches only a client that has asked for it."""
        await ctx.info("A line that nobody may have asked for")  # type: ignore[deprecated]
        return "Done"

    @server.tool()
    async def test_tool_with_progress(ctx: Context) -> str:
        """Report progress on the way."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100, f"Completed step {done} of 100")
        return "Done"

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context) -> str:
        """Ask the client's model."""
        message = SamplingMessage(role="user", content=TextContent(text=prompt))
        result = await ctx.session.create_message(messages=[message], max_tokens=100)  # type: ignore[deprecated]
        return f"LLM response: {getattr(result.content, 'text', 'none')}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context) -> str:
        """Ask the user."""
        return await _elicited(ctx, message, Answer, "User response")

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        """Ask the user, with answers suggested."""
        return await _elicited(ctx, "Please review your profile", WithDefaults, "Elicitation completed")

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        """Ask the user to choose."""
        return await _elicited(ctx, "Please choose", WithChoices, "Elicitation completed")

    @server.tool()
    async def test_trigger_tool_change(ctx: Context) -> str:
        """Say that the list of tools has changed."""
        await ctx.notify_tools_changed()
        return "Done"

    @server.tool()
    async def test_trigger_prompt_change(ctx: Context) -> str:
        """Say that the list of prompts has changed."""
        await ctx.notify_prompts_changed()
        return "Done"


def _add_resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """Text that does not change."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """Bytes that do not change."""
        return base64.b64decode(_PNG)

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        """Text that can be subscribed to."""
        return "Watched resource content"

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002  # the name in the suite's template
        """Data by id."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.completion()
    async def complete(ref: object, argument: object, context: object) -> Completion:
        del ref, argument, context
        return Completion(values=["paris", "park", "party"], total=3, has_more=False)


def _add_prompts(server: MCPServer[Any]) -> None:
    @server.prompt()
    def test_simple_prompt() -> list[Message]:
        """Say something."""
        return [UserMessage(TextContent(text="This is a simple prompt for testing."))]

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[Message]:
        """Say something with arguments."""
        return [UserMessage(TextContent(text=f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803  # as the suite calls it
        """Say something about a resource."""
        return [
            UserMessage(_embedded(resourceUri)),
            UserMessage(TextContent(text="Please process the embedded resource above.")),
        ]

    @server.prompt()
    def test_prompt_with_image() -> list[Message]:
        """Say something about an image."""
        return [
            UserMessage(ImageContent(data=_PNG, mime_type="image/png")),
            UserMessage(TextContent(text="Please analyze the image above.")),
        ]
