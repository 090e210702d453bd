"""The engines by their names.

Importing this costs nothing: the modules of an engine are imported when the engine is used. A package adds an engine
with an entry point in the group ``supervisor.engines``, which refers to an ``EngineFactory``. Entry points are read
only for a name that is not built in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from supervisor.engines.interface import Client, Engine, EngineFactory
from supervisor.errors import InvalidArguments

__all__ = ["BUILT_IN", "LOCAL", "Clients", "engine_of", "factory", "make_engine", "names", "names_of"]

LOCAL: Final = "local"
BUILT_IN: Final = (LOCAL, "slurm")
_GROUP: Final = "supervisor.engines"


def factory(name: str) -> EngineFactory:
    """Return the factory of an engine.

    Raises:
        InvalidArguments: no engine has this name.
    """
    if name == LOCAL:
        from supervisor.engines.local.factory import FACTORY as LOCAL_FACTORY

        return LOCAL_FACTORY
    if name == "slurm":
        from supervisor.engines.cluster.slurm.factory import FACTORY as SLURM_FACTORY

        return SLURM_FACTORY
    from importlib.metadata import entry_points

    for entry_point in entry_points(group=_GROUP, name=name):
        made: EngineFactory = entry_point.load()
        return made
    message = f"engine is {name!r:.80}; it must be one of {', '.join(names())}"
    raise InvalidArguments(message)


def make_engine(name: str, root: str, python: str | os.PathLike[str] | None = None) -> Engine:
    """Return the engine of this name, to be served by the caller; for the arguments see ``EngineFactory.engine``.

    Raises:
        InvalidArguments: no engine has this name.
    """
    return factory(name).engine(root, python)


def names() -> tuple[str, ...]:
    """Return the names of all engines that are installed."""
    from importlib.metadata import entry_points

    installed = {each.name for each in entry_points(group=_GROUP)}
    return (*BUILT_IN, *sorted(installed.difference(BUILT_IN)))


def engine_of(record: Mapping[str, Any]) -> str:
    """Return the name of the engine that runs the job whose ``job.json`` this is.

    An engine of this machine, such as a fake one in tests, keeps its jobs where the local engine does: any program
    reads them as local jobs.
    """
    return str(record.get("engine")) if isinstance(record.get("directory"), str) else LOCAL


def names_of(engine: Engine) -> set[str]:
    """Return the names of the engines that ``engine`` takes the place of in its supervisor."""
    return {engine.name, LOCAL} if engine.on_this_machine else {engine.name}


class Clients:
    """The clients of all engines, each made when it is first used. For one thread at a time; close it.

    Args:
        own: an engine that answers for its jobs itself.
    """

    def __init__(self, own: Engine | None = None) -> None:
        self._clients: dict[str, Client] = {}
        if own is not None:
            self._clients = dict.fromkeys(names_of(own), own.client())

    def of(self, record: Mapping[str, Any]) -> Client:
        """Return the client for the job whose ``job.json`` this is."""
        name = engine_of(record)
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _client(name)
        return client

    def close(self) -> None:
        """Close every client."""
        while self._clients:
            self._clients.popitem()[1].close()


def _client(name: str) -> Client:
    try:
        return factory(name).client()
    except InvalidArguments as problem:
        from supervisor.engines.cluster.client import MissingClient

        return MissingClient(problem)
