"""The tokens for HTTP: each principal has a file with its name that contains its token.

The files are in ``mcp-tokens`` below the state root, where other users cannot read. The first start
creates one, ``default``. Changes apply from the next request on, without a restart: a new file is a new
principal, and a removed file locks its principal out. Checking for changes uses only ``lstat``, so it
works when no descriptor is free. If a file cannot be read, a token is neither known nor unknown.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from supervisor import log
from supervisor.errors import StateUnsafe
from supervisor.store import Layout
from supervisor.store.state_errors import state_error
from supervisor.system.file_systems import has_settled
from supervisor.system.observing import is_there

__all__ = ["Tokens"]

_PRINCIPALS: Final = "mcp-tokens"
_DEFAULT: Final = "default"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_MIN_TOKEN_CHARACTERS: Final = 16


class Tokens:
    """The tokens in one directory of a state root; the first ones are created if there is none.

    Args:
        state_dir: the state root.
        directory: the name of the directory in it.
        first: the names of the first tokens.

    Raises:
        StateUnsafe, PermissionDenied, StateFull: the tokens cannot be read or created.
    """

    def __init__(self, state_dir: Path, directory: str = _PRINCIPALS, first: Sequence[str] = (_DEFAULT,)) -> None:
        self.directory = Path(Layout(state_dir).root, directory)
        self._first = first[0]
        self._known: dict[bytes, str] = {}
        self._names: list[str] = []
        self._shared: list[str] = []
        self._stamp: object = None
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            if not os.listdir(self.directory):
                for name in first:
                    self._make(self.directory / name)
        except OSError as error:
            raise state_error(error, "cannot keep the tokens") from error
        self._read()
        if self._shared:
            message = f"these principals have the same token: {', '.join(self._shared)}"
            raise StateUnsafe(message, repair=f"Give each a token of its own, in {self.directory}.")

    @property
    def default(self) -> Path:
        """The first file that was created, or the first by its name if that was removed."""
        made = self.directory / self._first
        return made if made.exists() else min(self.directory.iterdir(), default=made)

    @staticmethod
    def _make(path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)
            file.write(f"{secrets.token_urlsafe(32)}\n")

    def token(self, name: str) -> str | None:
        """Return the token with this name; ``None`` if there is none.

        Raises:
            SupervisorError: a file cannot be read now.
        """
        self._read()
        return next((token.decode() for token, holder in self._known.items() if holder == name), None)

    def is_removed(self, name: str) -> bool:
        """Whether there is no file with this name: its principal was locked out, and not by a mistake in the file.

        Raises:
            NotKnown: that is not known now.
        """
        return not is_there(str(self.directory / name))

    def principal(self, token: str) -> str | None:
        """Return the principal with this token; ``None`` if there is none.

        Raises:
            SupervisorError: a file cannot be read now.
        """
        self._read()
        given = token.encode(errors="replace")
        found = None
        for known, name in self._known.items():  # all of them: the time does not depend on the token
            if hmac.compare_digest(known, given):
                found = name
        return found

    def _stamp_now(self) -> tuple[object, bool]:
        """Return a value that differs after a change of the files, and whether it is certain to differ."""
        found = [os.lstat(self.directory), *(os.lstat(self.directory / name) for name in self._names)]
        stamps = [(each.st_ino, each.st_ctime_ns, each.st_size, each.st_mode) for each in found]
        return stamps, all(map(has_settled, found))

    def _read(self) -> None:
        try:
            if self._stamp is not None and self._stamp_now()[0] == self._stamp:
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            raise state_error(error, "cannot check the tokens") from error
        self._stamp, self._known = None, {}
        try:
            self._names = sorted(os.listdir(self.directory))
            stamp, certain = self._stamp_now()
            known = self._tokens()
        except FileNotFoundError:
            return
        except OSError as error:
            raise state_error(error, "cannot read the tokens") from error
        self._known = known
        self._stamp = stamp if certain else None

    def _tokens(self) -> dict[bytes, str]:
        found: dict[bytes, list[str]] = {}
        for name in self._names:
            try:
                found.setdefault(self._token(name, os.lstat(self.directory / name)).encode(), []).append(name)
            except (ValueError, StateUnsafe) as error:
                log.warning("mcp_token_refused", file=str(self.directory / name), why=str(error))
        self._shared = [name for names in found.values() if len(names) > 1 for name in names]
        for names in found.values():
            for name in names if len(names) > 1 else ():
                why = f"it has the same token as {', '.join(each for each in names if each != name)}"
                log.warning("mcp_token_refused", file=str(self.directory / name), why=why)
        return {token: names[0] for token, names in found.items() if len(names) == 1}

    def _token(self, name: str, found: os.stat_result) -> str:
        path = self.directory / name
        if not _NAME.fullmatch(name) or not stat.S_ISREG(found.st_mode):
            message = "its name is not valid for a principal, or it is not a regular file"
            raise StateUnsafe(message)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            message = f"others may read or write it: chmod 600 {path}"
            raise StateUnsafe(message)
        token = path.read_text(encoding="ascii").strip()
        if len(token) < _MIN_TOKEN_CHARACTERS or not token.isprintable() or " " in token:
            message = f"a token has at least {_MIN_TOKEN_CHARACTERS} printable characters and no space"
            raise StateUnsafe(message)
        return token
