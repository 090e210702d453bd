"""What is in a worktree that was not there when it was made: whether there is any work in it, its size, and its diff.

Nothing here writes to the worktree or to its index. git works with a copy of the index, and with no configuration of
the repository, which the command of the job may have changed.

"Work" is more than git calls a change. A worktree is unchanged only if all of this holds:

* its HEAD and its branch are where they began, and its HEAD was never at another commit;
* the index and the tracked files are as they began, and no file is hidden from that comparison (``assume-unchanged``,
  ``skip-worktree``);
* there is no untracked file, and no ignored file with a byte in it; empty directories do not count;
* no submodule was set up in it, and nothing keeps git from finding this out.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import attrs

from supervisor.system.git import Git
from supervisor.system.git_view import DIFF, IGNORE_SUBMODULES, Repository, View, worktree_view
from supervisor.system.observing import is_there
from supervisor.worktrees.record import Place

__all__ = ["Changes", "changes_in", "measure", "own_repository", "view_of", "work_in", "write_diff"]

_REFLOG: Final = re.compile(rb"^[0-9a-f]+ ([0-9a-f]+) ", re.MULTILINE)
_OTHERS: Final = ("ls-files", "--others", "--exclude-standard", "-z")
_MAX_NAMED: Final = 3
_MAX_REFLOG: Final = 1 << 24
_MAX_LISTED: Final = 1 << 30


@attrs.frozen
class Changes:
    """How much a worktree differs from how it began: files, lines, and commits on top of its base."""

    files: int = 0
    insertions: int = 0
    deletions: int = 0
    commits: int = 0


def own_repository(place: Place, record: Mapping[str, Any]) -> Repository:
    """Return where a worktree and its repository are, by the record: files in the tree may say anything."""
    common = Path(record["repository"])
    return Repository(Path(place.tree), common / "worktrees" / place.id, common)


def view_of(
    place: Place, record: Mapping[str, Any], *, own_index: bool = False
) -> contextlib.AbstractContextManager[View]:
    """Return the context of a view of a worktree, which raises ``NoRepository`` if that cannot be read."""
    return worktree_view(Path(place.view), own_repository(place, record), own_index=own_index)


def work_in(
    git: Git, place: Place, record: Mapping[str, Any], starts: Sequence[str], *, asked: bool = False
) -> str | None:
    """Return the first sign of work in a worktree, in words; ``None`` if it is as it began: at one of ``starts``.

    ``asked``: a user wants it removed. Then commits on its branch, which stays, and ignored files are no such sign.

    Raises:
        GitFailed, NoRepository, OSError: that cannot be found out.
    """
    own, base = own_repository(place, record).own, record["base"]
    with view_of(place, record) as view:

        def ask(*arguments: str, statuses: Sequence[int] = (0,)) -> bytes:
            return git.run(view.environment, *arguments, statuses=statuses, directory=place.tree, most=_MAX_LISTED)

        def differs(*arguments: str) -> bool:
            return bool(ask(*arguments, "--name-only", IGNORE_SUBMODULES, "--"))

        head = ask("rev-parse", "--verify", "HEAD").strip().decode()
        branch = ask("rev-parse", "--verify", "--quiet", f"refs/heads/{place.branch}", statuses=(0, 1)).strip().decode()
        if asked and head == branch:
            starts = (*starts, head) if head == base else (head,)
        elif head != base or branch not in {base, ""}:
            return "there are commits that are not on its branch" if asked else "there are commits"
        with open(own / "logs/HEAD", "rb") as file:
            if not asked and set(_REFLOG.findall(file.read(_MAX_REFLOG))) - {base.encode()}:
                return "other commits were checked out"
        if is_there(f"{own}/modules"):
            return "submodules were set up"
        flags = ask("ls-files", "-v", "-z")
        if any(line[:1] not in b"H" for line in flags.split(b"\0") if line):
            return "files are hidden from git, or in conflict"
        ask("update-index", "-q", "--refresh", statuses=(0, 1))
        if differs("diff-files") or all(differs("diff-index", "--cached", start) for start in starts):
            return "tracked files have changed"
        if (new := ask(*_OTHERS)) != b"":
            return f"there are new files: {_named(new)}"
        if asked:
            return None
        ignored = [name for name in ask(*_OTHERS, "--ignored").split(b"\0") if name and _has_bytes(place, name)]
        return f"there are ignored files: {_named(bytes(0).join([*ignored, b''])[:4096])}" if ignored else None


def _has_bytes(place: Place, name: bytes) -> bool:
    return os.lstat(os.path.join(os.fsencode(place.tree), name)).st_size > 0


def _named(names: bytes) -> str:
    listed = [os.fsdecode(name) for name in names.split(b"\0") if name]
    shown = ", ".join("".join(c if c.isprintable() else "?" for c in name)[:80] for name in listed[:_MAX_NAMED])
    return shown if len(listed) <= _MAX_NAMED else f"{shown} and more"


@contextlib.contextmanager
def _compared(git: Git, place: Place, record: Mapping[str, Any]) -> Generator[View]:
    """Make a view whose index has the new files, too, so that a diff has them."""
    with view_of(place, record) as view:
        # Without this a new repository below the worktree ends the command; and files may vanish meanwhile.
        git.run(
            view.environment, "add", "--intent-to-add", "--ignore-errors", "--", ".",
            statuses=(0, 1, 128), directory=place.tree,
        )  # fmt: skip
        yield view


def measure(git: Git, place: Place, record: Mapping[str, Any]) -> Changes:
    """Return how much a worktree differs from how it began; binary files count as files without lines.

    Raises:
        GitFailed, NoRepository, OSError: that cannot be found out.
    """
    with _compared(git, place, record) as view:
        listed = git.run(
            view.environment, *DIFF, "--no-renames", "--numstat", "-z", record["start"], "--", directory=place.tree
        )
        commits = git.run(view.environment, "rev-list", "--count", f"{record['base']}..HEAD", directory=place.tree)
    lines = [entry.split(b"\t", 2) for entry in listed.split(b"\0") if entry.count(b"\t") >= 2]
    return Changes(
        files=len(lines),
        insertions=sum(int(line[0]) for line in lines if line[0].isdigit()),
        deletions=sum(int(line[1]) for line in lines if line[1].isdigit()),
        commits=int(commits),
    )


def changes_in(record: Mapping[str, Any] | None) -> Changes | None:
    """Return what a record says about the changes; ``None`` if they are not known yet."""
    held = (record or {}).get("changes")
    if not isinstance(held, Mapping):
        return None
    counts: Mapping[str, Any] = held  # pyright: ignore[reportUnknownVariableType]  # JSON
    names = [field.name for field in attrs.fields(Changes)]
    return Changes(**{name: counts[name] for name in names if type(counts.get(name)) is int})


def write_diff(git: Git, place: Place, record: Mapping[str, Any], output: IO[bytes] | None, most: int) -> bytes:
    """Write the diff of a worktree to ``output``, or return the first ``most`` bytes of it.

    Of a removed one that is the diff of its branch, if that is there.

    Raises:
        GitFailed, NoRepository, OSError: there is none, or it cannot be made.
    """
    words = (*DIFF, "--binary") if output is not None else DIFF
    if is_there(place.tree):
        with _compared(git, place, record) as view:
            return git.run(
                view.environment, *words, record["start"], "--", directory=place.tree, output=output, most=most
            )
    common = Path(record["repository"])
    with worktree_view(Path(place.view), Repository(common, common, common), own_index=True) as view:
        found = git.run(
            view.environment, "rev-parse", "--verify", "--quiet", f"refs/heads/{place.branch}", statuses=(0, 1)
        )
        if not found.strip():
            return b""  # nothing was in it
        return git.run(view.environment, *words, record["base"], found.strip().decode(), "--", output=output, most=most)
