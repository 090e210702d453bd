"""Records what a job writes below one directory, in a supervisor and in its keeper, in one order.

Every call that changes a file or a name, and every sync, runs under a lock of the file system. After it the whole tree
is copied into the log. So each entry of the log is one moment of the page cache, and the output of a command, which no
call here makes, is in the entry after it.

Standard library only, and imported before the keeper takes the modules away that it does not need.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Callable, Generator
from typing import Any

SYNC = "fsync"
MARK = "mark"
COMMIT = "commit"
_LEFT_OUT = ("registry.db", "lock", "queue.", "keeper.log", ".clock", ".spare", ".owners", ".keepers", ".trash")
"""The index is recorded by its commits; the others have nothing that is told of a job after a reboot."""
_QUEUE = "queue.json"


def _is_left_out(name: str) -> bool:
    return name.startswith(_LEFT_OUT) and name != _QUEUE


class Recorder:
    """Writes the log of what happens below ``top``; ``failing`` is a file with the name whose sync fails, if any."""

    def __init__(self, top: str, log: str) -> None:
        self.top = os.path.realpath(top)
        self.log = log
        self._mine = threading.local()
        self._raw = {name: getattr(os, name) for name in (*_BY_PATH, *_BY_DESCRIPTOR, "open")}

    # ------------------------------------------------------------ what is recorded

    def install(self, put: Callable[[Any, str, Any], None] = setattr) -> None:
        """Put the recording calls into ``os``."""
        for name in _BY_PATH:
            put(os, name, self._by_path(name))
        for name in _BY_DESCRIPTOR:
            put(os, name, self._by_descriptor(name))
        put(os, "open", self._open)

    def mark(self, name: str, **facts: Any) -> None:
        """Note something that is no call of the operating system."""
        with self._locked():
            self._append({"op": MARK, "name": name, **facts})

    def commit(self, copy: str, *, full: bool) -> None:
        """Note a commit of the index, of which there is a copy; ``full``: it has waited for the disk."""
        with self._locked():
            self._append({"op": COMMIT, "copy": copy, "full": full})

    def _open(self, path: Any, flags: int, *args: Any, **named: Any) -> int:
        opened: int
        changes = flags & (os.O_CREAT | os.O_TRUNC) and not named.get("dir_fd")
        if not changes or not self._is_below(path) or flags & getattr(os, "O_TMPFILE", 0) == os.O_TMPFILE:
            opened = self._raw["open"](path, flags, *args, **named)
            return opened
        with self._locked():
            opened = self._raw["open"](path, flags, *args, **named)
            self._append({"op": "open", "path": os.path.abspath(os.fsdecode(path))})
        return opened

    def _by_path(self, name: str) -> Callable[..., Any]:
        raw = self._raw[name]

        def recorded(*args: Any, **named: Any) -> Any:
            if not self._is_below(args[_BY_PATH[name]]):
                return raw(*args, **named)
            with self._locked():
                done = raw(*args, **named)
                self._append({"op": name, "path": os.path.abspath(os.fsdecode(args[_BY_PATH[name]]))})
            return done

        return recorded

    def _by_descriptor(self, name: str) -> Callable[..., Any]:
        raw = self._raw[name]

        def recorded(descriptor: int, *args: Any) -> Any:
            path = ""
            if not getattr(self._mine, "held", False):
                with contextlib.suppress(OSError):
                    path = os.readlink(f"/proc/self/fd/{descriptor}")
            if not self._is_below(path):
                return raw(descriptor, *args)
            with self._locked():
                if name == SYNC:
                    self._fail(path)
                done = raw(descriptor, *args)
                found = os.fstat(descriptor)
                is_directory = stat.S_ISDIR(found.st_mode)
                self._append({"op": name, "path": path, "inode": found.st_ino, "directory": is_directory})
            return done

        return recorded

    def _fail(self, path: str) -> None:
        """Fail as the file beside the log says: the name of an error, and the end of a path."""
        with contextlib.suppress(FileNotFoundError), open(f"{self.log}.fail", encoding="ascii") as plan:
            name, _, end = plan.read().partition(" ")
            if path.endswith(end):
                number = getattr(errno, name)
                raise OSError(number, os.strerror(number))

    def _is_below(self, path: Any) -> bool:
        if getattr(self._mine, "held", False) or not isinstance(path, str | bytes | os.PathLike) or not path:
            return False
        where = os.path.abspath(os.fsdecode(path))
        if not f"{where}/".startswith(f"{self.top}/"):
            return False
        return not any(map(_is_left_out, where[len(self.top) + 1 :].split("/")))

    # ------------------------------------------------------------ the log

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        self._mine.held = True
        descriptor = self._raw["open"](f"{self.log}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
            self._mine.held = False

    def _append(self, entry: dict[str, Any]) -> None:
        with open(self.log, "a", encoding="ascii") as log:
            log.write(json.dumps({**entry, "tree": self._tree()}) + "\n")

    def _tree(self) -> dict[str, Any]:
        """Return the names in each directory, and the content of each file by its inode."""
        names: dict[str, dict[str, Any]] = {}
        content: dict[str, str] = {}
        left = [self.top]
        while left:
            directory = left.pop()
            held = names[directory] = {}
            for entry in os.scandir(directory):
                if _is_left_out(entry.name):
                    continue
                if entry.is_symlink():
                    held[entry.name] = ["link", os.readlink(entry.path)]
                elif entry.is_dir():
                    held[entry.name] = ["directory", entry.path]
                    left.append(entry.path)
                elif entry.is_file():
                    inode = str(entry.inode())
                    held[entry.name] = ["file", inode]
                    with open(entry.path, "rb") as file:
                        content[inode] = base64.b64encode(file.read()).decode("ascii")
        return {"names": names, "content": content}


_BY_PATH = {"mkdir": 0, "unlink": 0, "rmdir": 0, "symlink": 1, "link": 1, "rename": 1}
"""The calls that change names, and which of their arguments is the name that matters."""
_BY_DESCRIPTOR = ("write", "ftruncate", "fsync")
