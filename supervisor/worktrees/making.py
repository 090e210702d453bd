"""Makes the worktree of a job, right before its launch.

Step by step, each after the one before is on disk; the lock of the worktree is held throughout:

1. ``job.json`` has the id (when the job was started);
2. the record: repository, branch, base, state ``making``;
3. ``git worktree add --no-checkout``, ``git worktree lock``;
4. the files, in a view of the repository, so that no filter runs;
5. the record: state ``in_use``. Only after that the command can be launched.

So what a killed process leaves in state ``making`` is git's alone, and has a name. The launcher of the job discards it
and begins anew; if the job has ended without a launch, the next sweep discards it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from supervisor.errors import LaunchFailed
from supervisor.system.git import NO_PROGRAMS, Git, GitFailed, plain_environment
from supervisor.system.git_view import NoRepository, Repository, find_repository, worktree_view
from supervisor.system.observing import is_there
from supervisor.worktrees.changes import view_of
from supervisor.worktrees.moved import followed
from supervisor.worktrees.record import IN_USE, MAKING, MEMBER, REMOVED, REMOVING, Place, lock_reason
from supervisor.worktrees.registering import registering
from supervisor.worktrees.removing import discard_half_made, restore

__all__ = ["make"]

_DEFAULT_BRANCHES: Final = ("refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/remotes/origin/master")
_START: Final = "refs/worktree/supervisor-start"
"""Keeps the commit with the tracked changes of a ``dirty`` worktree; it is a reference of that worktree alone."""
_IDENTITY: Final = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "supervisor"), ("EMAIL", "supervisor@localhost"), ("DATE", "@0 +0000"))
}


def make(root: str, request: Mapping[str, Any], job_id: str, git: Git) -> None:
    """Make the worktree of a job, unless an earlier attempt, or the job that it continues, has made it.

    It may take as long as git takes to write all files.

    Raises:
        LaunchFailed: it cannot be made.
    """
    asked = request[MEMBER]
    place = Place(root, asked["id"])
    try:
        with place.locked() as lock:
            git.inherits = (lock,)
            _make(place, asked["from"], request["workspace"], job_id, git)
    except NoRepository as error:
        message = f"no worktree can be made of {request['workspace']}: {error}"
        repair = "Start the job in a git repository, or without a worktree."
        raise LaunchFailed(message, repair=repair) from error
    except GitFailed as error:
        message = f"no worktree can be made: {error}"
        repair = "Have git do what it says, in the repository of the job, or start the job without a worktree."
        raise LaunchFailed(message, repair=repair) from error
    except OSError as error:
        message = f"no worktree can be made: {error.strerror} ({error.filename})"
        raise LaunchFailed(message, repair="Free the disk, or start the job without a worktree.") from error


def _make(place: Place, origin: str, workspace: str, job_id: str, git: Git) -> None:
    record = place.read()
    if record == {}:
        message = f"the record of worktree {place.id} cannot be read: {place.tree}.json"
        raise GitFailed(message)
    if record is not None and record["state"] == REMOVING:
        record = restore(git, place, record)
    if record is not None and record["state"] not in {MAKING, REMOVED}:
        if not is_there(f"{place.tree}/.git"):
            message = f"the worktree {place.tree} is not there any more, or is no worktree now"
            raise GitFailed(message)
        record = followed(place, record)
        place.write(record, state=IN_USE, jobs=_with(record["jobs"], job_id), detail=None)
        return
    repository = find_repository(Path(workspace))
    if record is not None and record["state"] == MAKING:
        discard_half_made(git, place, record, goes_on=True)
        record = place.read()
    if record is None:
        base = _base(git, repository, origin)
        made: dict[str, Any] = {
            "repository": os.path.realpath(repository.common),
            "top": str(repository.top),
            "from": origin,
            "base": base,
            "start": base,
            "jobs": [],
        }
        record = place.write(made, state=MAKING)
        if origin == "dirty":
            record["start"] = _with_tracked_changes(git, place, repository, base)
    record = place.write(record, state=MAKING)
    try:
        _add(git, place, record)
    except (GitFailed, NoRepository, OSError):
        discard_half_made(git, place, record)
        raise
    place.write(record, state=IN_USE, jobs=_with(record["jobs"], job_id), changes=None, detail=None)


def _with(jobs: list[str], job_id: str) -> list[str]:
    return jobs if job_id in jobs else [*jobs, job_id]


def _base(git: Git, repository: Repository, origin: str) -> str:
    """Return the commit with which a worktree begins."""
    for name in _DEFAULT_BRANCHES if origin == "fresh" else ("HEAD",):
        words = (*NO_PROGRAMS, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        found = git.run(plain_environment(), *words, statuses=(0, 1, 128), directory=str(repository.top)).strip()
        if found:
            return found.decode()
    if origin == "fresh":
        message = f"the default branch of origin is not known in {repository.top}: `git fetch origin` and "
        raise GitFailed(message + "`git remote set-head origin --auto` make it known")
    git.run(plain_environment(), *NO_PROGRAMS, "rev-parse", "--git-dir", directory=str(repository.top))
    message = f"{repository.top} has no commit yet"
    raise GitFailed(message)


def _with_tracked_changes(git: Git, place: Place, repository: Repository, base: str) -> str:
    """Return a commit on top of ``base`` with the tracked changes of the working tree; ``base`` if there are none.

    The index and the files of that working tree are only read.
    """
    top = str(repository.top)
    with worktree_view(Path(place.view), repository, own_index=False) as view:
        environment = {**view.environment, **_IDENTITY}
        git.run(environment, "update-index", "-q", "--refresh", statuses=(0, 1), directory=top)
        names = git.run(
            environment, "diff-files", "-z", "--name-only", "--ignore-submodules=all", most=1 << 30, directory=top
        )
        git.run(environment, "update-index", "--add", "--remove", "-z", "--stdin", given=names, directory=top)
        tree = git.run(environment, "write-tree", directory=top).strip().decode()
        if tree == git.run(environment, "rev-parse", f"{base}^{{tree}}", directory=top).strip().decode():
            return base
        message = f"Tracked changes with which the worktree of job {place.id} began"
        return git.run(environment, "commit-tree", "-p", base, "-m", message, tree, directory=top).strip().decode()


def _add(git: Git, place: Place, record: Mapping[str, Any]) -> None:
    environment, top = plain_environment(), record["top"]
    branch = f"refs/heads/{place.branch}"
    known = git.run(
        environment, *NO_PROGRAMS, "rev-parse", "--verify", "--quiet", branch, statuses=(0, 1), directory=top
    )
    # One that was removed, and is needed again, goes on with its branch.
    words = (place.tree, place.branch) if known else ("--no-track", "-b", place.branch, place.tree, record["base"])
    lock = ("worktree", "lock", "--reason", lock_reason(place.id), place.tree)
    with registering(git, place, record):
        git.run(environment, *NO_PROGRAMS, "worktree", "add", "--quiet", "--no-checkout", *words, directory=top)
        git.run(environment, *NO_PROGRAMS, *lock, directory=top)
    with view_of(place, record, own_index=True) as view:
        begun = "HEAD" if known else record["start"]
        if begun not in {"HEAD", record["base"]}:
            git.run(view.environment, "update-ref", _START, begun, directory=place.tree)
        git.run(view.environment, "read-tree", "-m", "-u", begun, directory=place.tree)
