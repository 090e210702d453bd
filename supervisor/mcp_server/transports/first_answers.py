"""The answers to a host's first requests, recorded by an earlier server of the same code, kinds file and options.

The SDK's import takes most of the time before the first answer. ``opening`` answers the first requests from this
record meanwhile, so this module imports nothing of the SDK. A record is a file in the state root. Its name is a hash
of everything that the answers depend on; only a file that the user alone can write counts. A record that is
missing, damaged or of other code costs the time of the import and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from supervisor import _version
from supervisor.mcp_server.options import Options

__all__ = ["ANY_OTHER", "FirstAnswers", "forget", "key_of", "load", "save"]

ANY_OTHER: Final = ""
"""Stands for every protocol version that the server does not know."""

_FOLDER: Final = "first-answers"
_VERSION: Final = 1
_MAX_BYTES: Final = 1 << 22
_KEPT: Final = 8
_SDK: Final = frozenset({"mcp", "mcp_types", "pydantic", "pydantic_core", "anyio"})


@attrs.frozen(slots=True)
class FirstAnswers:
    """The JSON texts of results, by protocol version and method.

    Attributes:
        handshake: for clients that begin with ``initialize``, by the version that they ask for.
        modern: for clients whose requests have an envelope, by the version in it.
    """

    handshake: Mapping[str, Mapping[str, str]]
    modern: Mapping[str, Mapping[str, str]]


def key_of(options: Options) -> str:
    """Return the hash of what the answers depend on: the code, the SDK, the kinds, and the allowed commands.

    Raises:
        OSError: a file cannot be read.
    """
    found = hashlib.sha256(f"{_VERSION} {sys.version}".encode())
    for each in _stamps():
        found.update(each.encode(errors="surrogateescape") + b"\0")
    found.update(repr((options.kinds, options.allow_commands, options.events)).encode(errors="surrogateescape"))
    return found.hexdigest()


def _stamps() -> Iterator[str]:
    """Yield name, size and time of each module of this package, and the versions of what it serves with."""
    folders = [os.path.dirname(_version.__file__)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        folders.append(entry.path)
                elif entry.name.endswith(".py"):
                    found = entry.stat()
                    yield f"{entry.path} {found.st_size} {found.st_mtime_ns}"
    spec = importlib.util.find_spec("mcp")
    if spec is not None and spec.origin is not None:
        site = os.path.dirname(os.path.dirname(spec.origin))
        yield from sorted(
            name for name in os.listdir(site) if name.endswith(".dist-info") and name.partition("-")[0] in _SDK
        )


def load(state_dir: Path, key: str) -> FirstAnswers | None:
    """Return the record with this key; ``None`` if there is none that can be trusted."""
    try:
        descriptor = os.open(_path(state_dir, key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with contextlib.closing(os.fdopen(descriptor, "rb")) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return None
        try:
            shape = json.loads(file.read(_MAX_BYTES))
            if shape["v"] != _VERSION or shape["key"] != key:
                return None
            return FirstAnswers(_texts(shape["handshake"]), _texts(shape["modern"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None


def _texts(value: Any) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, dict[str, Any]] = {version: dict(texts) for version, texts in dict(value).items()}
    for texts in found.values():
        if not all(isinstance(each, str) and "\n" not in each for each in texts.values()):
            raise TypeError
    return found


def save(state_dir: Path, key: str, answers: FirstAnswers) -> None:
    """Write a record, and delete the oldest ones.

    Raises:
        OSError: it cannot be written.
    """
    path = _path(state_dir, key)
    folder = os.path.dirname(path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)  # not its parents: a server without a state root leaves none behind
    shape = {"v": _VERSION, "key": key, "handshake": answers.handshake, "modern": answers.modern}
    draft = f"{path}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(shape, file)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    with os.scandir(folder) as entries:
        by_age = sorted(entries, key=lambda each: each.stat(follow_symlinks=False).st_mtime_ns, reverse=True)
    for entry in by_age[_KEPT:]:
        os.unlink(entry.path)


def forget(state_dir: Path, key: str) -> None:
    """Delete a record, which has turned out to be wrong."""
    with contextlib.suppress(OSError):
        os.unlink(_path(state_dir, key))


def _path(state_dir: Path, key: str) -> str:
    return os.path.join(state_dir, _FOLDER, f"{key}.json")
