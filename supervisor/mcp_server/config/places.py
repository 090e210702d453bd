"""The directory in which a job of a caller may run.

It comes from the argument, else from the host's roots, else it is the server's own directory, with
a warning in the answer: hosts start servers in odd places. It has to lie in (or below) one of those
that the kind allows; a kind that names none allows the server's own directory, and over stdio,
where the host is the user's own, the host's roots. Whoever comes in over HTTP can claim any
root, so there roots choose among what is allowed and never add to it. The root directory and what lies
in the state root are never allowed, as the server's own directory or as a root; what contains the state
root, as a home directory does, is not over HTTP, and over stdio it comes with a warning.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import attrs
import trio
from mcp import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CallToolRequestParams,
    ClientCapabilities,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    RootsCapability,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from supervisor import log
from supervisor.errors import InvalidArguments
from supervisor.jobs.catalog import real_workspace
from supervisor.mcp_server.access.guarded import exposed
from supervisor.system.paths import expanded

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

__all__ = ["Place", "Places"]

_ROOTS_SECONDS: Final = 5
_ROOTS: Final = "roots"
_ELSEWHERE: Final = "Name `workspaces` in the kinds file, or start the server in the directory of a project."


@attrs.frozen(slots=True)
class Place:
    """Where a job is to run, and what its caller should know about that."""

    workspace: str
    warnings: tuple[str, ...] = ()


class Places:
    """Chooses directories for jobs."""

    def __init__(self, *, trust_roots: bool, guarded: Mapping[str, str] | None = None) -> None:
        """``trust_roots``: whether the roots of a client widen what is allowed. ``guarded``: as ``exposed`` has it."""
        self._guarded = guarded or {}
        self._nowhere: InvalidArguments | None = None
        try:
            self._own: str | None = real_workspace(os.curdir)
        except InvalidArguments as error:  # raised by the calls that need it; others do not
            repair = "Start the server again in a directory that exists, or name `workspaces` in the kinds file."
            message = f"the server has no directory of its own: {error.message}"
            self._own, self._nowhere = None, InvalidArguments(message, repair=repair, details=error.details)
        self._trust_roots = trust_roots
        if self._own is not None and (why := exposed(self._own, self._guarded)) is not None:
            log.warning("mcp_directory_exposes", why=why)
            if self._is_refused(self._own):
                message = f"the server's own directory is not allowed: {why}, which a job there could read or change"
                self._nowhere = InvalidArguments(message, repair=_ELSEWHERE, details={"argument": "workspace"})
                self._own = None

    async def choose(
        self,
        ctx: ServerRequestContext[Any, Any],
        params: CallToolRequestParams,
        given: str | None,
        allowed: Sequence[str] | None,
    ) -> Place | InputRequiredResult:
        """Return where a job is to run, or what the client has to be asked first.

        Raises:
            InvalidArguments: it would be none of the allowed directories.
        """
        own = [] if self._own is None else [self._own]
        within = own if allowed is None else list(allowed)
        if given is not None:
            wanted = await trio.to_thread.run_sync(real_workspace, self._absolute(given), abandon_on_cancel=True)
            if _inside(wanted, within):
                return self._place(wanted)
            if allowed is None and self._trust_roots:
                roots = await _roots_of(ctx, params)
                if isinstance(roots, InputRequiredResult):
                    return roots
                within += [root for root in roots if not self._is_refused(root)]
            if not _inside(wanted, within):
                if not within and self._nowhere is not None:
                    raise self._nowhere
                raise _refused(given, within)
            return self._place(wanted)
        roots = await _roots_of(ctx, params)
        if isinstance(roots, InputRequiredResult):
            return roots
        if allowed is None and self._trust_roots:
            within += [root for root in roots if not self._is_refused(root)]
        return self._default(roots, within, allowed)

    def _is_refused(self, directory: str) -> bool:
        """Whether a directory that the kinds file does not name is none to run in, or below."""
        why = exposed(directory, self._guarded)
        if why is None or directory == "/":  # which would allow every directory there is
            return directory == "/"
        return not self._trust_roots or _inside(directory, list(self._guarded))

    def _place(self, workspace: str, *warnings: str) -> Place:
        why = exposed(workspace, self._guarded)
        if _inside(workspace, list(self._guarded)):
            message = f"workspace is {workspace!r:.200}, which is no place for jobs: {why}"
            raise InvalidArguments(message, repair=_ELSEWHERE, details={"argument": "workspace"})
        more = () if why is None else (f"{why}: a job that runs there can read and change it",)
        return Place(workspace, (*warnings, *more))

    def _default(self, roots: Sequence[str], within: Sequence[str], allowed: Sequence[str] | None) -> Place:
        fitting = [root for root in roots if _inside(root, within)]
        if fitting:
            others = f"workspace was not given: of the host's roots the first was taken, {fitting[0]}"
            return self._place(fitting[0], *([others] if len(roots) > 1 else []))
        own = self._own
        if own is not None and _inside(own, within):
            return self._place(own, f"workspace was not given: the server's own directory was taken, {own}")
        if allowed is not None and len(allowed) == 1:
            return Place(allowed[0], (f"workspace was not given: the only one allowed was taken, {allowed[0]}",))
        if self._nowhere is not None:
            raise self._nowhere
        message = "workspace is not given, and the server's own directory is not allowed here"
        raise InvalidArguments(message, repair=f"Give as workspace a directory in: {', '.join(within)}.")

    def _absolute(self, given: str) -> str:
        path = expanded(given)
        if not os.path.isabs(path) and self._nowhere is not None:
            raise self._nowhere
        return os.path.join(self._own or "/", path)


def _inside(path: str, directories: Sequence[str]) -> bool:
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in directories)


def _refused(given: str, within: Sequence[str]) -> InvalidArguments:
    message = f"workspace is {given!r:.200}, which is not in {' or '.join(within)}"
    return InvalidArguments(
        message,
        repair="Give a directory in one of these, or have the user add it to `workspaces` in the kinds file.",
        details={"argument": "workspace", "allowed": list(within)},
    )


async def _roots_of(
    ctx: ServerRequestContext[Any, Any],
    params: CallToolRequestParams,
) -> list[str] | InputRequiredResult:
    """Return the real paths of the client's roots, or what to ask it; none when it has none, or does not answer."""
    if not ctx.session.check_client_capability(ClientCapabilities(roots=RootsCapability())):
        return []
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:  # a server asks no questions there, it has the call repeated
        responses = params.input_responses or {}
        if _ROOTS not in responses:
            return InputRequiredResult(input_requests={_ROOTS: ListRootsRequest()})
        listed = responses[_ROOTS]
        return await _paths(listed) if isinstance(listed, ListRootsResult) else []
    try:
        with trio.fail_after(_ROOTS_SECONDS):
            related = ServerMessageMetadata(related_request_id=ctx.request_id)  # over HTTP: on this call's own stream
            return await _paths(await ctx.session.send_request(ListRootsRequest(), ListRootsResult, metadata=related))
    except (MCPError, trio.TooSlowError, ValueError) as error:
        log.info("mcp_no_roots", error=repr(error))
        return []


async def _paths(listed: ListRootsResult) -> list[str]:
    urls = [urlsplit(str(root.uri)) for root in listed.roots]
    paths = [unquote(url.path) for url in urls if url.scheme == "file" and url.netloc in {"", "localhost"}]

    def real() -> list[str]:
        return [os.path.realpath(path) for path in paths if os.path.isabs(path) and "\0" not in path]

    return await trio.to_thread.run_sync(real, abandon_on_cancel=True)
