"""Who may come in over HTTP: one file for each principal, named like it, that holds its token.

They stand in ``mcp-tokens`` under the state root, where nobody else can read. The first start makes
one, ``default``. A new file is a new principal, a removed or changed one locks out at the next
request: nothing has to be restarted. As long as nothing has changed no descriptor is needed to tell
that; what cannot be read now is neither a known token nor an unknown one.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from supervisor import log
from supervisor.errors import StateUnsafe
from supervisor.store import Layout
from supervisor.store.state_errors import state_error
from supervisor.system.file_systems import has_settled

__all__ = ["Tokens"]

_DEFAULT: Final = "default"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FEWEST_CHARACTERS: Final = 16


class Tokens:
    """The tokens of a state root.

    Raises:
        StateUnsafe, PermissionDenied, StateFull: they cannot be kept or made.
    """

    def __init__(self, state_dir: Path) -> None:
        """Find them; make the first if there is none."""
        self.directory = Path(Layout(state_dir).root, "mcp-tokens")
        self._known: dict[bytes, str] = {}
        self._names: list[str] = []
        self._shared: list[str] = []
        self._seen: object = None
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            if not os.listdir(self.directory):
                self._make(self.directory / _DEFAULT)
        except OSError as error:
            raise state_error(error, "cannot keep the tokens") from error
        self._read()
        if self._shared:
            message = f"these principals have the same token: {', '.join(self._shared)}"
            raise StateUnsafe(message, repair=f"Give each a token of its own, in {self.directory}.")

    @property
    def default(self) -> Path:
        """The file of the principal that is made by itself, or else of the first there is."""
        made = self.directory / _DEFAULT
        return made if made.exists() else min(self.directory.iterdir(), default=made)

    @staticmethod
    def _make(path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)
            file.write(f"{secrets.token_urlsafe(32)}\n")

    def principal(self, token: str) -> str | None:
        """Return whose token it is, ``None`` when it is no principal's.

        Raises:
            SupervisorError: that cannot be told now.
        """
        self._read()
        given = token.encode(errors="replace")
        found = None
        for held, name in self._known.items():  # all of them: how long it takes tells nothing
            if hmac.compare_digest(held, given):
                found = name
        return found

    def _look(self) -> tuple[object, bool]:
        """Return what would be another with any change to the files that were read, and whether it is sure to be."""
        found = [os.lstat(self.directory), *(os.lstat(self.directory / name) for name in self._names)]
        stamps = [(each.st_ino, each.st_ctime_ns, each.st_size, each.st_mode) for each in found]
        return stamps, all(map(has_settled, found))

    def _read(self) -> None:
        """Read the files again if anything about them has changed."""
        try:
            if self._seen is not None and self._look()[0] == self._seen:
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            raise state_error(error, "cannot look at the tokens") from error
        self._seen, self._known = None, {}
        try:
            self._names = sorted(os.listdir(self.directory))
            seen, settled = self._look()
            known = self._tokens()
        except FileNotFoundError:
            return
        except OSError as error:
            raise state_error(error, "cannot read the tokens") from error
        self._known = known
        self._seen = seen if settled else None

    def _tokens(self) -> dict[bytes, str]:
        """Return the tokens that may be used, and whose they are."""
        held: dict[bytes, list[str]] = {}
        for name in self._names:
            try:
                held.setdefault(self._token(name, os.lstat(self.directory / name)).encode(), []).append(name)
            except (ValueError, StateUnsafe) as error:
                log.warning("mcp_token_refused", file=str(self.directory / name), why=str(error))
        self._shared = [name for names in held.values() if len(names) > 1 for name in names]
        for names in held.values():
            for name in names if len(names) > 1 else ():
                why = f"it holds the same token as {', '.join(each for each in names if each != name)}"
                log.warning("mcp_token_refused", file=str(self.directory / name), why=why)
        return {token: names[0] for token, names in held.items() if len(names) == 1}

    def _token(self, name: str, found: os.stat_result) -> str:
        path = self.directory / name
        if not _NAME.fullmatch(name) or not stat.S_ISREG(found.st_mode):
            message = "its name is not that of a principal, or it is no file"
            raise StateUnsafe(message)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            message = f"others may read or write it: chmod 600 {path}"
            raise StateUnsafe(message)
        token = path.read_text(encoding="ascii").strip()
        if len(token) < _FEWEST_CHARACTERS or not token.isprintable() or " " in token:
            message = f"a token has at least {_FEWEST_CHARACTERS} printable characters and no space"
            raise StateUnsafe(message)
        return token
