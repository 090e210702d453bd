"""Files of records in the state root, each named after what it describes, ``<root>/<directory>/NAME.json``.

A file is read as a whole, and replaced as a whole by a rename. Names that are none are left alone: files that are
being written, and those of other programs.

A durable change is on the disk when its function returns, with the name of the file and of the directory, and before
that the disk has the file as it was.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from supervisor.errors import InvalidArguments, StateCorrupt
from supervisor.store.state_errors import state_error
from supervisor.system.syncing import sync_descriptor, sync_names

__all__ = ["NamedFiles", "replace_file"]

_T = TypeVar("_T")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_numbers = itertools.count()


class NamedFiles(Generic[_T]):
    """The records of one directory.

    Args:
        directory: below the state root.
        noun: of what a file describes, such as ``group``; its plural has an "s".
        decode: makes a record of its name and its JSON. It raises ``ValueError``, ``KeyError``, ``TypeError`` or
            ``InvalidArguments`` for what it does not understand.
        repair: what to do about a file that is not understood, with ``{path}`` and ``{name}``.
    """

    def __init__(self, directory: str, noun: str, decode: Callable[[str, Any], _T], repair: str) -> None:
        """Read and write these."""
        self._directory = directory
        self._noun = noun
        self._decode = decode
        self._repair = repair

    def check_name(self, name: Any) -> str:
        """Return the name of a record.

        Raises:
            InvalidArguments: it cannot be one.
        """
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            message = (
                f"{self._noun} is {name!r:.80}; it must be a letter or digit, then up to 63 letters, digits, '.', '_'"
                " or '-'"
            )
            raise InvalidArguments(message)
        return name

    def path(self, root: str, name: str) -> str:
        """Return the path of the file of a record."""
        return f"{root}/{self._directory}/{self.check_name(name)}.json"

    def load(self, root: str, name: str) -> _T | None:
        """Return a record, ``None`` if there is none of this name.

        Raises:
            StateCorrupt: its file is damaged, or a newer version has written it in another shape.
            StateBusy, PermissionDenied: it cannot be read now.
        """
        path = self.path(root, name)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            content = b""
        except OSError as error:
            raise state_error(error, f"cannot read {path}") from error
        try:
            return self._decode(name, json.loads(content))
        except (ValueError, KeyError, TypeError, InvalidArguments, RecursionError) as error:
            message = f"the file of {self._noun} {name} cannot be understood: {error}"
            raise StateCorrupt(message, repair=self._repair.format(path=path, name=name)) from error

    def load_all(self, root: str) -> Iterator[tuple[str, _T | StateCorrupt]]:
        """Yield every record by its name, or why its file cannot be understood.

        Raises:
            StateBusy, PermissionDenied: they cannot be read now.
        """
        try:
            file_names = os.listdir(f"{root}/{self._directory}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise state_error(error, f"cannot read the {self._noun}s") from error
        for file_name in sorted(file_names):
            name = file_name.removesuffix(".json")
            if name == file_name or _NAME.fullmatch(name) is None:
                continue
            try:
                record = self.load(root, name)
            except StateCorrupt as problem:
                yield name, problem
            else:
                if record is not None:
                    yield name, record

    def save(self, root: str, name: str, held: Any, *, durable: bool) -> None:
        """Write the file of a record as a whole; the caller holds the lock of the root.

        Raises:
            StateFull, StateBusy, PermissionDenied: it cannot be written.
        """
        path = self.path(root, name)
        try:
            replace_file(path, json.dumps(held).encode("ascii"), root if durable else None)
        except OSError as error:
            raise state_error(error, f"cannot write {path}") from error


def replace_file(path: str, content: bytes, durable_in: str | None = None) -> None:
    """Write a file that only its user can read, as a whole; its directory is made if it is not there.

    ``durable_in``: the state root, if it is to be on the disk when this returns.
    """
    directory, _, name = path.rpartition("/")
    aside = f"{directory}/.{name}.{os.getpid()}.{next(_numbers)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(aside, flags, 0o600)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)  # not the root: it may have been moved away
        descriptor = os.open(aside, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # for any umask
            file.write(content)
            if durable_in is not None:
                file.flush()
                sync_descriptor(descriptor)
        os.rename(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
    if durable_in is not None:
        sync_names(directory, durable_in)
