"""Starts the keeper of a supervisor when it is needed, again when it has died, and gives it the environment of jobs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import trio

from supervisor import log
from supervisor.engines.interpreter import helper_command, what_is_gone
from supervisor.engines.local.keeper_client import KeeperClient
from supervisor.errors import LaunchFailed
from supervisor.jobdir import records
from supervisor.keeper import protocol
from supervisor.system.backoff import Patience

__all__ = ["NO_ENVIRONMENT", "KeeperConnection"]

NO_ENVIRONMENT: Final = 0
"""The token of an environment without variables."""

_INSTALLATION: Final = "installation"
"""The detail of an error that says what of the installation is gone."""
_RESTART: Final = "Start this program again, with an installation that is whole."


class KeeperConnection:
    """Connects to a keeper.

    Args:
        root: the state root, real path.
        python: the interpreter that runs the keeper; found by itself without.
        tokens: numbers that no other message has.
        receive: gets the messages of the keeper.
        died: is called when a keeper has gone.

    Attributes:
        nursery: holds the tasks of the connection; ``None`` while the engine is not served.
        link: the connection, if there is one.
    """

    def __init__(
        self,
        root: str,
        python: str | os.PathLike[str] | None,
        tokens: Iterator[int],
        receive: Callable[[protocol.Message], None],
        died: Callable[[KeeperClient], None],
    ) -> None:
        self._root = root
        self._python = python
        self._tokens = tokens
        self._receive = receive
        self._died = died
        self._linking = trio.Lock()
        self._patient = trio.Lock()
        self._environment: Mapping[bytes, bytes] | None = None
        self._environment_token = NO_ENVIRONMENT
        self.nursery: trio.Nursery | None = None
        self.link: KeeperClient | None = None

    def close(self) -> None:
        """Leave the keeper."""
        self.nursery = None
        if self.link is not None:
            self.link.close()
            self.link = None

    def forget(self, link: KeeperClient) -> None:
        """Have the next call of ``connect`` start another keeper: this one has died."""
        if self.link is link:
            self.link = None

    async def connect(self) -> KeeperClient:
        """Return the connection to a keeper, which is started if none runs; it may have died meanwhile.

        Raises:
            LaunchFailed: none can be started.
        """
        link = self.link
        if link is not None and link.alive:
            return link
        async with self._linking:
            if self.link is not None and self.link.alive:
                return self.link
            if self.nursery is None:
                message = "the engine is not being served"
                raise LaunchFailed(message)
            link = KeeperClient(self._receive, self._died, self._python)
            try:
                await link.start(self._root, self.nursery)
            except LaunchFailed as error:
                gone = what_is_gone(self._python)
                if gone is None or error.retryable:
                    raise
                message = f"no keeper can be started: {gone}"
                details = {_INSTALLATION: error.message}
                raise LaunchFailed(message, repair=_RESTART, retryable=True, details=details) from error
            if not link.alive:
                return link
            link.send(protocol.SetEnvironment(token=NO_ENVIRONMENT, variables={}))
            self._environment = None
            self.environment_for(link)
            self.link = link
            log.debug("keeper_started", keeper_pid=link.pid)
            return link

    async def connect_for_waiting(self, directory: str) -> KeeperClient:
        """As ``connect``, for a job that has waited: it waits on while the installation is being replaced.

        If it is not put back, the next program that opens the state root launches the job.
        """
        patience = Patience(directory)
        try:
            return await self.connect()
        except LaunchFailed as error:
            failure = error
        async with self._patient:  # one job tries again, for all
            while _INSTALLATION in failure.details and records.read_claim(directory) is None:
                await trio.sleep(patience.seconds(failure))
                try:
                    return await self.connect()
                except LaunchFailed as error:
                    failure = error
        raise failure

    def environment_for(self, link: KeeperClient) -> int:
        """Return the token under which the keeper knows our environment as it is now."""
        current = _environment()
        if current != self._environment:
            if self._environment_token != NO_ENVIRONMENT and self._environment is not None:
                link.send(protocol.DropEnvironment(token=self._environment_token))
            self._environment = dict(current)
            self._environment_token = next(self._tokens)
            helper = None
            with contextlib.suppress(LaunchFailed):  # no Python has the package
                helper = list(map(os.fsencode, helper_command()))
            link.send(
                protocol.SetEnvironment(token=self._environment_token, variables=self._environment, helper=helper)
            )
        return self._environment_token


def _environment() -> Mapping[bytes, bytes]:
    # os.environb copies itself entry by entry, which is a tenth of a launch; what it wraps is a dict.
    held: Mapping[bytes, bytes] | None = getattr(os.environb, "_data", None)
    return dict(os.environb) if held is None else held
