"""Worktrees of the jobs of a supervisor: what a request for one becomes, and what follows the end of its job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from supervisor import log
from supervisor.engines.interface import Engine, MakesWorktrees
from supervisor.errors import FeatureUnavailable, InvalidArguments, SupervisorError
from supervisor.jobs import worktrees
from supervisor.jobs.catalog import Catalog
from supervisor.model import JobSpec
from supervisor.runtime.entry import Entry
from supervisor.settings import Settings
from supervisor.system.git import Git
from supervisor.system.git_view import NoRepository, find_repository
from supervisor.system.stoppable import run_stoppable
from supervisor.worktrees.record import FROM, MEMBER, Place

__all__ = ["asked_worktree", "settle_worktree", "without_other_repositories"]

_SETTLE_SECONDS: Final = 10.0
"""How long the end of a job keeps its supervisor open. After that a later process settles the worktree."""

_OTHER_REPOSITORIES: Final = frozenset(
    {
        *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"),
        *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_IMPLICIT_WORK_TREE", "GIT_SHALLOW_FILE"),
    }
)
"""Variables that lead git elsewhere than to the directory that it runs in; a git hook has them, for example."""


async def asked_worktree(catalog: Catalog, engine: Engine, spec: JobSpec, job_id: str, real: str) -> dict[str, Any]:
    """Return what ``job.json`` says about the worktree that a request asks for.

    Raises:
        FeatureUnavailable: the engine makes none.
        InvalidArguments: the workspace is in no git repository, or the other job has no worktree.
    """
    if not isinstance(engine, MakesWorktrees):
        message = f"engine {engine.name} makes no worktrees"
        raise FeatureUnavailable(message, repair="Start the job without worktree, or without that engine.")
    asked = spec.worktree or ""
    below = await trio.to_thread.run_sync(_below, real)
    if asked in FROM:
        return {"id": job_id, "from": asked, "below": below}
    row = catalog.index.get(asked)
    if row is not None and MEMBER in row.request:
        return {**row.request[MEMBER], "below": below}
    record = Place(catalog.layout.root, asked).read()
    if not record:
        message = f"job {asked} has no worktree"
        raise InvalidArguments(message, repair="Start the job with a worktree of its own.", details={"job_id": asked})
    return {"id": asked, "from": record.get("from", "head"), "below": below}


def _below(real: str) -> str:
    """Return the directory of a workspace in its repository."""
    try:
        top = os.path.realpath(find_repository(Path(real)).top)
    except NoRepository as error:
        message = f"worktree is given, and {real} is in no git repository: {error}"
        repair = "Give a directory of a repository as the workspace, or start the job without worktree."
        raise InvalidArguments(message, repair=repair, details={"workspace": real}) from None
    below = os.path.relpath(real, top)
    return "" if below == os.curdir else below


def without_other_repositories(spec: JobSpec) -> JobSpec:
    """Return a request whose environment does not lead git elsewhere than to the worktree."""
    environment = os.environ if spec.env is None else spec.env
    if _OTHER_REPOSITORIES.isdisjoint(environment):
        return spec
    return attrs.evolve(
        spec, env={name: value for name, value in environment.items() if name not in _OTHER_REPOSITORIES}
    )


async def settle_worktree(entry: Entry, settings: Settings) -> None:
    """Settle the worktree of a job whose end is recorded; give up after some seconds, or if it fails."""
    await entry.finished.wait()
    git = Git(_SETTLE_SECONDS)

    def settle() -> None:
        try:
            with Catalog(settings, create=False) as own:
                worktrees.settle(own, entry.row.request[MEMBER]["id"], wait=False, git=git)
        except SupervisorError as error:
            log.warning("worktree_not_settled", worktree_id=entry.job_id, error=error.message)

    with trio.move_on_after(_SETTLE_SECONDS, shield=True) as bound:
        await run_stoppable(settle, git.stop)
    if bound.cancelled_caught:
        log.warning("worktree_not_settled", worktree_id=entry.job_id, error="it takes too long")
