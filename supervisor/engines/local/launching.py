"""What a keeper is sent to launch a job: the message, and the descriptors of the workspace and of the input."""

from __future__ import annotations

import os
from typing import Final

import trio

from supervisor.engines.interface import LaunchRequest
from supervisor.jobdir import job_marks
from supervisor.jobdir.durability import is_durable
from supervisor.jobdir.records import write_all
from supervisor.keeper import protocol
from supervisor.model import Limits
from supervisor.system.file_systems import on_network
from supervisor.system.hanging_calls import HangingCalls
from supervisor.system.unnamed_files import unnamed_file

__all__ = ["LaunchDescriptors", "close_all", "launch_message"]

_MAX_SLOW_WORKSPACES: Final = 1000


class LaunchDescriptors:
    """Opens the descriptors that travel to a keeper.

    Args:
        root: the state root, real path.
    """

    def __init__(self, root: str) -> None:
        """Know no workspace yet."""
        self._root = root
        self._slow_workspaces: dict[str, bool] = {}
        self._may_hang = HangingCalls()

    async def open(self, request: LaunchRequest) -> list[int]:
        """Return descriptors of the workspace of a job, and of its input if it has any.

        Raises:
            LaunchFailed, OSError: one cannot be opened; then none is open.
        """
        descriptors = [await self.open_workspace(request.workspace)]
        try:
            if request.stdin is not None:
                descriptors.append(_stdin_file(request.stdin, self._root))
        except BaseException:
            close_all(descriptors)
            raise
        return descriptors

    async def open_workspace(self, path: str) -> int:
        """Return a descriptor of a directory."""
        slow = self._slow_workspaces.get(path)
        if slow is None:
            slow = self._slow_workspaces[path] = await trio.to_thread.run_sync(on_network, path)
            if len(self._slow_workspaces) > _MAX_SLOW_WORKSPACES:
                self._slow_workspaces.clear()
        flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
        if slow:  # a hung mount must not stall the event loop, nor the keeper
            return await self._may_hang.run(path, os.open, path, flags)
        return os.open(path, flags)


def launch_message(
    request: LaunchRequest, *, token: int, directory: str, environment: int, descriptors: int
) -> protocol.Launch:
    """Return the message that launches a job, whose ``directory`` is named as the keeper names it."""
    mark = {job_marks.MARK: request.job_id.encode("ascii")}
    limits = Limits.of(request.record)
    return protocol.Launch(
        token=token,
        directory=directory,
        argv=list(request.argv),
        environment=environment,
        changes={**(request.env or {}), **request.changes, **mark},
        deadline_seconds=request.deadline_seconds,
        grace_seconds=request.grace_seconds,
        output_limit=request.output_limit,
        stop_leftovers=request.stop_leftovers,
        descriptors=descriptors,
        settings=request.settings,
        queued=request.queued,
        merge_stderr=request.merge_stderr,
        no_new_privs=request.record.get("no_new_privs", False),
        stdin_open=request.stdin_open,
        pty=request.pty,
        limits=None if limits is None else (limits.memory_bytes, limits.cpus, limits.pids, limits.required),
        durable=is_durable(request.record),
    )


def _stdin_file(content: bytes, root: str) -> int:
    """Return a descriptor from which ``content`` and then the end of file are read."""
    descriptor = unnamed_file("stdin", root)
    write_all(descriptor, memoryview(content))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that are not sent."""
    for descriptor in descriptors:
        os.close(descriptor)
