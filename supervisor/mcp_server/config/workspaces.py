"""The workspace of a caller's job.

It comes from the argument, otherwise from the host's roots, otherwise it is the server's own directory. The last
two add a warning to the answer, because hosts start servers in arbitrary directories. It must be (below) one of the
directories that the kind allows. A kind without ``workspaces`` allows the server's own directory, and over stdio also
the host's roots, because the host belongs to the user. A client over HTTP can claim any root, so there the roots only
select an allowed directory. ``/`` and directories in the state root are never allowed as the server's own directory or
as a root. A directory that contains the state root, a home directory for instance, is forbidden over HTTP, and gives a
warning over stdio.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import attrs
import trio

from supervisor import log
from supervisor.errors import InvalidArguments
from supervisor.jobs.scope import real_workspace
from supervisor.mcp_server.access.guarded import exposed, is_inside
from supervisor.system.paths import expanded

__all__ = ["ChosenWorkspace", "WorkspacePolicy"]

_REPAIR: Final = "Set `workspaces` in the kinds file, or start the server in the directory of a project."


async def _no_roots() -> Sequence[str]:
    return ()


@attrs.frozen(slots=True)
class ChosenWorkspace:
    """The workspace of a job, and warnings for its caller."""

    workspace: str
    warnings: tuple[str, ...] = ()


class WorkspacePolicy:
    """Chooses the workspaces of jobs.

    Args:
        trust_roots: whether the roots of a client are allowed directories.
        guarded: the guarded paths, see ``exposed``.
    """

    def __init__(self, *, trust_roots: bool, guarded: Mapping[str, str] | None = None) -> None:
        self._guarded = guarded or {}
        self._no_own: InvalidArguments | None = None
        try:
            self._own: str | None = real_workspace(os.curdir)
        except InvalidArguments as error:  # raised by the calls that need the directory
            repair = "Start the server again in a directory that exists, or set `workspaces` in the kinds file."
            message = f"the server has no directory of its own: {error.message}"
            self._own, self._no_own = None, InvalidArguments(message, repair=repair, details=error.details)
        self._trust_roots = trust_roots
        if self._own is not None and (why := exposed(self._own, self._guarded)) is not None:
            log.warning("mcp_directory_exposes", why=why)
            if self._is_refused(self._own):
                message = f"the server's own directory is not allowed: {why}, which a job there could read or change"
                self._no_own = InvalidArguments(message, repair=_REPAIR, details={"argument": "workspace"})
                self._own = None

    async def choose(
        self,
        given: str | None,
        allowed: Sequence[str] | None,
        ask_roots: Callable[[], Awaitable[Sequence[str]]] = _no_roots,
    ) -> ChosenWorkspace:
        """Return the workspace of a job.

        Input
            given: the workspace that the caller names.
            allowed: the directories that its kind allows; ``None`` if the kind names none.
            ask_roots: returns the roots of a client; what it raises is raised here.

        Raises:
            InvalidArguments: the workspace is not allowed.
        """
        own = [] if self._own is None else [self._own]
        within = own if allowed is None else list(allowed)
        if given is not None:
            wanted = await trio.to_thread.run_sync(real_workspace, self._absolute(given), abandon_on_cancel=True)
            if is_inside(wanted, within):
                return self._chosen(wanted)
            if allowed is None and self._trust_roots:
                within += [root for root in await ask_roots() if not self._is_refused(root)]
            if not is_inside(wanted, within):
                if not within and self._no_own is not None:
                    raise self._no_own
                raise _refused(given, within)
            return self._chosen(wanted)
        roots = await ask_roots()
        if allowed is None and self._trust_roots:
            within += [root for root in roots if not self._is_refused(root)]
        return self._default(roots, within, allowed)

    def _is_refused(self, directory: str) -> bool:
        """Whether a directory that the kinds file does not name is forbidden as a workspace, with those below it."""
        if directory == "/":  # it contains every directory
            return True
        if exposed(directory, self._guarded) is None:
            return False
        return not self._trust_roots or is_inside(directory, self._guarded)

    def _chosen(self, workspace: str, *warnings: str) -> ChosenWorkspace:
        why = exposed(workspace, self._guarded)
        if is_inside(workspace, self._guarded):
            message = f"workspace is {workspace!r:.200}, where no job may run: {why}"
            raise InvalidArguments(message, repair=_REPAIR, details={"argument": "workspace"})
        more = () if why is None else (f"{why}: a job that runs there can read and change it",)
        return ChosenWorkspace(workspace, (*warnings, *more))

    def _default(self, roots: Sequence[str], within: Sequence[str], allowed: Sequence[str] | None) -> ChosenWorkspace:
        fitting = [root for root in roots if is_inside(root, within)]
        if fitting:
            warning = f"workspace was not given: the job runs in the first of the host's roots, {fitting[0]}"
            return self._chosen(fitting[0], *([warning] if len(roots) > 1 else []))
        own = self._own
        if own is not None and is_inside(own, within):
            return self._chosen(own, f"workspace was not given: the job runs in the server's own directory, {own}")
        if allowed is not None and len(allowed) == 1:
            warning = f"workspace was not given: the job runs in the only allowed one, {allowed[0]}"
            return ChosenWorkspace(allowed[0], (warning,))
        if self._no_own is not None:
            raise self._no_own
        message = "workspace is not given, and the server's own directory is not allowed here"
        raise InvalidArguments(message, repair=f"Give a workspace in one of: {', '.join(within)}.")

    def _absolute(self, given: str) -> str:
        path = expanded(given)
        if not os.path.isabs(path) and self._no_own is not None:
            raise self._no_own
        return os.path.join(self._own or "/", path)


def _refused(given: str, within: Sequence[str]) -> InvalidArguments:
    message = f"workspace is {given!r:.200}, which is not in {' or '.join(within)}"
    return InvalidArguments(
        message,
        repair="Give a directory in one of these, or ask the user to add it to `workspaces` in the kinds file.",
        details={"argument": "workspace", "allowed": list(within)},
    )
