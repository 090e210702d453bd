"""Logins to the page: links that work once, and the sessions that they begin.

A link and a session are files in ``page-sessions`` below the state root, where other users cannot read: so every
server on the root knows them, and a session survives a restart. The name of a file is a digest of the secret; its
content names the token for which the session acts. So what `serve-tokens` and `mcp-tokens` say holds for pages as
well: with the file of a token, its sessions are over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from supervisor.http.guard import Caller, Callers
from supervisor.store import Layout
from supervisor.store.state_errors import state_error

__all__ = ["LINK_SECONDS", "MAX_SESSIONS", "SESSION_SECONDS", "Sessions", "path_of"]

SESSION_SECONDS: Final = 7 * 86400
LINK_SECONDS: Final = 86400
_DIRECTORY: Final = "page-sessions"
_LINK: Final = "link"
_SESSION: Final = "session"
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_MAX_FILES: Final = 10_000
MAX_SESSIONS: Final = 100
"""Sessions, and links, of one token at a time: a new one ends the oldest."""


def path_of(secret: str) -> str:
    """Return the path and query of a link."""
    return f"/login?link={secret}"


class Sessions:
    """The links and sessions of a state root. Files are small, and are read on the event loop.

    Args:
        state_dir: the state root.
        callers: finds the caller of a token.
    """

    def __init__(self, state_dir: Path, callers: Callers) -> None:
        self._directory = f"{Layout(state_dir).root}/{_DIRECTORY}"
        self._callers = callers

    def link(self, token: str) -> str:
        """Return the secret of a link that works once, within a day, and begins a session of this token.

        Raises:
            StateFull, PermissionDenied, StateBusy: it cannot be recorded.
        """
        return self._add(_LINK, token, LINK_SECONDS)

    def begin_by_link(self, secret: str) -> str | None:
        """Return the secret of a new session; ``None`` if the link does not work, or has worked before.

        Raises:
            StateFull, PermissionDenied, StateBusy: it cannot be recorded. The link is used up.
        """
        held = self._read(_LINK, secret)
        if held is None:
            return None
        try:
            os.unlink(self._path(_LINK, secret))  # of several requests, one succeeds
        except FileNotFoundError:
            return None
        except OSError as error:
            raise state_error(error, "cannot use the link") from error
        return self.begin(str(held["token"]))

    def begin(self, token: str) -> str | None:
        """Return the secret of a new session of a token; ``None`` if there is no such token.

        Raises:
            StateFull, PermissionDenied, StateBusy: it cannot be recorded.
        """
        return None if self._callers.find(token) is None else self._add(_SESSION, token, SESSION_SECONDS)

    def caller(self, secret: str) -> Caller | None:
        """Return the caller of a session; ``None`` if it is over.

        Raises:
            SupervisorError: that is not known now.
        """
        held = self._read(_SESSION, secret)
        return None if held is None else self._callers.find(str(held["token"]))

    def end(self, secret: str) -> None:
        """End a session.

        Raises:
            PermissionDenied, StateBusy: its file cannot be deleted.
        """
        if _SECRET.fullmatch(secret):
            try:
                os.unlink(self._path(_SESSION, secret))
            except FileNotFoundError:
                pass
            except OSError as error:
                raise state_error(error, "cannot end the session") from error

    def _path(self, kind: str, secret: str) -> str:
        return f"{self._directory}/{kind}-{hashlib.sha256(secret.encode()).hexdigest()}"

    def _add(self, kind: str, token: str, seconds: int) -> str:
        secret = secrets.token_urlsafe(32)
        held = {"v": 1, "token": token, "until": time.time() + seconds}
        path = self._path(kind, secret)
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._make_room(kind, token)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(f"{path}.new", flags, 0o600), "w", encoding="ascii") as file:
                json.dump(held, file)
            os.rename(f"{path}.new", path)
        except OSError as error:
            raise state_error(error, "cannot record the session") from error
        return secret

    def _read(self, kind: str, secret: str) -> Mapping[str, Any] | None:
        if not _SECRET.fullmatch(secret):
            return None
        return self._held(self._path(kind, secret))

    @staticmethod
    def _held(path: str) -> Mapping[str, Any] | None:
        """Return what a file holds; ``None`` if it is over, damaged, or not there."""
        try:
            with open(path, "rb") as file:
                held: Any = json.loads(file.read(65536))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise state_error(error, "cannot read the session") from error
        except ValueError:
            return None
        match held:
            case {"v": 1, "token": str(), "until": int() | float() as until} if time.time() < until:
                return dict(held)
            case _:
                return None

    def _make_room(self, kind: str, token: str) -> None:
        """Delete what is over, and the oldest files of a token that has as many of this kind as it may have."""
        others: list[tuple[float, str]] = []
        for name in os.listdir(self._directory)[:_MAX_FILES]:
            path = f"{self._directory}/{name}"
            if name.endswith(".new"):
                continue
            held = self._held(path)
            if held is None:
                _delete(path)
            elif name.startswith(f"{kind}-") and held["token"] == token:
                others.append((held["until"], path))
        others.sort(reverse=True)
        for _, path in others[MAX_SESSIONS - 1 :]:
            _delete(path)


def _delete(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
