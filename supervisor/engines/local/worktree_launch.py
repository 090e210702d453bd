"""The worktree of a job, made in a thread before its launch; a cancelled launch kills the git that makes it."""

from __future__ import annotations

from functools import partial

from supervisor.engines.interface import LaunchRequest
from supervisor.system.git import Git
from supervisor.system.stoppable import run_stoppable
from supervisor.worktrees.making import make

__all__ = ["make_worktree"]


async def make_worktree(root: str, request: LaunchRequest) -> None:
    """Make the worktree of a job below the state root, unless it is there.

    Cancelling it deletes what was made so far.

    Raises:
        LaunchFailed: it cannot be made.
    """
    git = Git()
    await run_stoppable(partial(make, root, request.record, request.job_id, git), git.stop)
