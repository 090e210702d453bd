"""The engines of a supervisor: its own, and those that requests name, each started by its first job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from supervisor.engines import registry
from supervisor.engines.cluster.shared_directory import check_shared_directory
from supervisor.engines.interface import Engine
from supervisor.model import JobSpec
from supervisor.settings import Settings
from supervisor.store import Row

__all__ = ["EnginesInUse"]


class EnginesInUse:
    """Finds the engine of a job.

    Args:
        settings: of the supervisor.
        root: the state root.
        engine: runs the jobs that name no other.
        services: holds the tasks of further engines.
    """

    def __init__(self, settings: Settings, root: str, engine: Engine, services: trio.Nursery) -> None:
        self._settings = settings
        self._root = root
        self._engine = engine
        self._services = services
        self._engines = dict.fromkeys(registry.names_of(engine), engine)
        self._shared: set[str] = set()

    async def for_request(self, spec: JobSpec) -> tuple[Engine, Mapping[str, Any] | None]:
        """Return the engine that a request names, and its checked options; ``None`` for an engine without any."""
        name = spec.engine
        if name is None:
            return self._engine, None
        engine = self._engines.get(name)
        if engine is not None and engine.on_this_machine:
            return engine, None
        given = {"shared_dir": self._settings.shared_dir, **spec.engine_options}
        options = registry.factory(name).check_options(given)
        engine = self._named(name)
        if not options:
            return engine, None
        shared = options["shared_dir"]
        if shared not in self._shared:
            await trio.to_thread.run_sync(check_shared_directory, shared)
            self._shared.add(shared)
        return engine, options

    def _named(self, name: str) -> Engine:
        """Return an engine by its name; the first call starts it."""
        if name not in self._engines:
            made = registry.make_engine(name, self._root, self._settings.python)
            self._engines[name] = made
            self._services.start_soon(made.serve)
        return self._engines[name]

    def of_job(self, row: Row) -> Engine:
        """Return the engine that a job was given to."""
        return self._named(registry.engine_of(row.request))
