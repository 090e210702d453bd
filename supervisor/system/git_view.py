"""A view of a git repository without its configuration, so that git runs no program that the repository names.

The configuration of a repository can name programs for git to run: filters, external diffs, text conversions,
monitors, hooks, pagers, and the programs of a remote from which a partial clone fetches. A list of all such keys
would be out of date with the next version of git. So git gets a temporary git directory. Its configuration has a
few copied values, each checked against its allowed values. Objects and references are links into the repository.
The index is a copy, so that the repository is not written. The configuration of the user and of the machine is
left out too, because the attributes of a repository select among the filters in it.

Submodules have a configuration of their own, and git runs in them to check whether they are dirty. So callers must
pass ``IGNORE_SUBMODULES``, which ``DIFF`` has.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

from supervisor.system.git import SAFE

__all__ = [
    "DIFF",
    "IGNORE_SUBMODULES",
    "NoRepository",
    "Repository",
    "View",
    "find_repository",
    "open_view",
    "worktree_view",
]

IGNORE_SUBMODULES: Final = "--ignore-submodules=dirty"
DIFF: Final = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", IGNORE_SUBMODULES)
"""``git diff`` that runs no program which a repository names."""

_MAX_READ: Final = 1 << 20
_MAX_INDEX_BYTES: Final = 1 << 30
_LINKED: Final = ("objects", "refs", "packed-refs", "logs", "shallow", "info", "reftable")
_LINKED_FOR_WORKTREES: Final = (*_LINKED, "worktrees", "modules")
_BOOLEAN: Final = re.compile(r"true|false|yes|no|on|off|0|1", re.IGNORECASE)
# git needs the repository's own values of these keys to read its files correctly.
_COPIED: Final[Mapping[str, re.Pattern[str]]] = {
    "core.filemode": _BOOLEAN,
    "core.ignorecase": _BOOLEAN,
    "core.symlinks": _BOOLEAN,
    "core.precomposeunicode": _BOOLEAN,
    "core.autocrlf": re.compile(rf"{_BOOLEAN.pattern}|input", re.IGNORECASE),
    "core.eol": re.compile(r"lf|crlf|native"),
    "extensions.objectformat": re.compile(r"sha1|sha256"),
    "extensions.refstorage": re.compile(r"files|reftable"),
}


class NoRepository(Exception):
    """There is no repository, or it cannot be read; the message says which."""


@attrs.frozen
class View:
    """A view of a repository.

    Attributes:
        environment: the environment for git, which names the view and the working tree.
        partial: whether it is a partial clone, in which objects may be missing; they are not fetched.
    """

    environment: Mapping[str, str]
    partial: bool


@contextlib.contextmanager
def _temporary_directory() -> Generator[str]:
    """Make a directory that goes away with the block, also if SIGTERM raises ``SystemExit`` while it does."""
    made = None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        made = tempfile.mkdtemp(prefix="supervisor-review-")
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield made
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if made is not None:
                shutil.rmtree(made)
        except SystemExit:  # git, which got the signal too, had ended before it was handled here
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            raise


@contextlib.contextmanager
def open_view() -> Generator[View]:
    """Make the view of the repository that the current directory is in; it goes away with the block.

    Raises:
        NoRepository: there is none, or it cannot be read.
    """
    found = find_repository(Path.cwd())
    top, own, common = found.top, found.own, found.common
    with _temporary_directory() as made:
        view = Path(made)
        environment = _without_settings(made) | {"GIT_DIR": made, "GIT_WORK_TREE": str(top)}
        with _reading():
            _link(view, own, common, _LINKED, with_excludes=True)
            _copy_index(own, view)
            for shared in own.glob("sharedindex.*"):
                (view / shared.name).symlink_to(shared)
        yield View(environment, any((common / "objects" / "pack").glob("*.promisor")))


@contextlib.contextmanager
def worktree_view(made: Path, repository: Repository, *, own_index: bool) -> Generator[View]:
    """Make a view of a linked working tree in ``made``; it goes away with the block.

    The working tree has its own git directory, with its HEAD and its index. What it shares with the repository is seen
    through the view, so that no configuration is read. ``own_index``: commands change the index of the working tree;
    without it they have a copy.

    Raises:
        NoRepository: it cannot be read.
    """
    shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
    made.mkdir(mode=0o700)
    try:
        environment = _without_settings(str(made)) | {
            "GIT_DIR": str(repository.own),
            "GIT_COMMON_DIR": str(made),
            "GIT_WORK_TREE": str(repository.top),
        }
        with _reading():
            _link(made, repository.common, repository.common, _LINKED_FOR_WORKTREES, with_excludes=not own_index)
            if not own_index:
                environment["GIT_INDEX_FILE"] = str(made / "index")
                _copy_index(repository.own, made)
        yield View(environment, any((repository.common / "objects" / "pack").glob("*.promisor")))
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _reading() -> Generator[None]:
    try:
        yield
    except OSError as error:
        message = f"the git repository cannot be read: {error.strerror} ({error.filename})"
        raise NoRepository(message) from None


def _without_settings(home: str) -> dict[str, str]:
    """Return this environment for git, with no settings but those of the repository; ``home`` has none."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return environment | {
        "HOME": home,
        "XDG_CONFIG_HOME": home,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **SAFE,
    }


def _link(view: Path, own: Path, common: Path, names: Iterable[str], *, with_excludes: bool) -> None:
    """Fill a view: the HEAD in ``own``, links to what a repository has in common, and a configuration.

    ``with_excludes``: a command is to know which new files its user ignores.

    Raises:
        NoRepository, OSError: it is no repository, or cannot be read.
    """
    head = _read(own / "HEAD")
    if head is None:
        message = f"not a git repository: {own}"
        raise NoRepository(message)
    (view / "HEAD").write_bytes(head)
    for name in names:
        if (common / name).exists():
            (view / name).symlink_to(common / name)
    if not (common / "objects").is_dir():
        message = f"not a git repository: {common}"
        raise NoRepository(message)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    values = _copied(common / "config", environment)
    excludes = _users_excludes(environment) if with_excludes else os.devnull
    (view / "config").write_text(_configuration(values, excludes), encoding="utf-8")


def _copy_index(own: Path, view: Path) -> None:
    if _is_file(own / "index"):
        if (size := os.stat(own / "index").st_size) > _MAX_INDEX_BYTES:
            message = f"the index of the git repository has {size} bytes; at most {_MAX_INDEX_BYTES} are allowed"
            raise NoRepository(message)
        # With its time, with which git compares the times of files that changed in the same moment.
        shutil.copy2(own / "index", view / "index")


@attrs.frozen
class Repository:
    """Where a working tree and its repository are.

    Attributes:
        top: the top of the working tree.
        own: the git directory of the working tree.
        common: the git directory that all working trees of the repository share.
    """

    top: Path
    own: Path
    common: Path


def find_repository(start: Path) -> Repository:
    """Return the repository that a directory is in. A bare repository has no working tree, and is ignored.

    Raises:
        NoRepository: it is in none.
    """
    top, own = _find(start)
    return Repository(top, own, _below(own, own / "commondir") or own)


def _find(start: Path) -> tuple[Path, Path]:
    """Return the top of the working tree around ``start``, and its own git directory."""
    ceilings = {Path(each) for each in os.environ.get("GIT_CEILING_DIRECTORIES", "").split(os.pathsep) if each}
    for top in (start, *start.parents):
        if top != start and top in ceilings:
            break
        entry = top / ".git"
        if os.path.lexists(entry / "HEAD"):
            return top, entry
        if (elsewhere := _below(top, entry, prefix=b"gitdir: ")) is not None:
            return top, elsewhere
    message = "not a git repository (or any of the parent directories)"
    raise NoRepository(message)


def _below(base: Path, file: Path, prefix: bytes = b"") -> Path | None:
    """Return the directory that ``file`` names, relative to ``base``; ``None`` if it names none."""
    content = _read(file)
    if content is None or not content.startswith(prefix):
        return None
    return base / os.fsdecode(content.removeprefix(prefix).rstrip(b"\r\n"))


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _read(path: Path) -> bytes | None:
    """Return the contents of a small regular file; ``None`` for anything else, for instance a pipe."""
    if not _is_file(path):
        return None
    with path.open("rb") as file:
        return file.read(_MAX_READ)


def _git_config(environment: Mapping[str, str], *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "config", *words],  # noqa: S607  # the git that PATH has
            env=dict(environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        message = "git is not installed, or not in PATH"
        raise NoRepository(message) from None
    return os.fsdecode(done.stdout) if done.returncode == 0 else ""


def _users_excludes(environment: Mapping[str, str]) -> str:
    named = _git_config(environment, "--global", "--type=path", "--get", "core.excludesFile").strip("\n")
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME", "/"), ".config")
    return named or os.path.join(home, "git/ignore")


def _copied(config: Path, environment: Mapping[str, str]) -> dict[str, str]:
    if not _is_file(config):
        return {}
    found: dict[str, str] = {}
    for entry in _git_config(environment, "--file", str(config), "--no-includes", "--null", "--list").split("\0"):
        name, _, value = entry.partition("\n")
        pattern = _COPIED.get(name)
        if pattern is not None and pattern.fullmatch(value or "true"):
            found[name] = value or "true"
    return found


def _configuration(values: Mapping[str, str], excludes: str) -> str:
    quoted = excludes.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    lines = ["[core]", "repositoryformatversion = 1", "bare = false", f'excludesFile = "{quoted}"']
    for name, value in values.items():
        section, _, key = name.partition(".")
        lines += [f"[{section}]", f"{key} = {value}"]
    return "\n".join([*lines, ""])
