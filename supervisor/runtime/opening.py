"""Opening a state root: putting a supervisor together, and taking it apart again.

The nursery::

    caller's block
       |  start / cancel / wait
    job actors, one each -- messages --> registry (commits, then wakes waiters)
    janitor (expiry, adoption)
    engine (keeper, watching)

Leaving the block cancels the actors, which let go of their jobs: those run on.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

import trio

from supervisor import log
from supervisor.engines import registry as remote
from supervisor.engines.interface import Engine
from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.runtime import tracing
from supervisor.runtime.janitor import Janitor
from supervisor.runtime.registry_actor import Registry
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings
from supervisor.store import Row
from supervisor.store.state_errors import state_error

__all__ = ["open_supervisor"]


@contextlib.asynccontextmanager
async def open_supervisor(
    settings: Settings | None = None,
    *,
    engine: Engine | None = None,
) -> AsyncGenerator[Supervisor]:
    """Open a state root: an async context manager that gives a ``Supervisor``.

    Input
        settings: ``None`` reads them from the environment.
        engine: how commands are run; ``None`` is the local engine.

    Jobs whose supervisor is gone are adopted in the background. Leaving the block, also by an
    exception, lets running jobs go on; they can be asked about from anywhere.

    After ``os.fork()`` every call in the child raises ``SupervisorClosed``; a child that is forked off
    inside of Trio must leave by ``os._exit`` or by executing a program, as it shares Trio's own
    descriptors with its parent.

    Errors
        InvalidSettings: a setting does not parse.
        StateUnsafe, PermissionDenied, StateFull, StateBusy: the state root cannot be used.

    Cancellation
        Leaves the block as any exception does.
    """
    settings = Settings() if settings is None else settings
    raised: list[BaseException] = []
    opened = False
    try:
        async with _opened(settings, engine) as supervisor:
            opened = True
            try:
                yield supervisor
            except BaseException as error:
                raised.append(error)
                raise
    except BaseExceptionGroup as group:
        if raised and _is_only(raised[0], group):
            raise raised[0] from raised[0].__cause__
        refused = _leaves(group)
        if opened or len(refused) != 1:
            raise
        if isinstance(refused[0], SupervisorError):
            raise refused[0] from refused[0].__cause__
        if isinstance(refused[0], OSError):
            raise state_error(refused[0], "a supervisor cannot be opened") from refused[0]
        raise


def _is_only(error: BaseException, inside: BaseException) -> bool:
    """Whether ``inside`` holds nothing but ``error``, which may be a group itself, however deep."""
    wanted, found = _leaves(error), _leaves(inside)  # groups are copied on their way, what they hold is not
    return len(wanted) == len(found) and all(map(operator.is_, wanted, found))


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    held: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return [leaf for each in held for leaf in _leaves(each)]


@contextlib.asynccontextmanager
async def _opened(settings: Settings, engine: Engine | None) -> AsyncGenerator[Supervisor]:
    tracing.prepare()
    catalog = Catalog(settings, wait_seconds=0)
    try:
        if engine is None:
            from supervisor.engines.local.engine import LocalEngine

            engine = LocalEngine(catalog.layout.root, settings.python)
        running_on = engine

        def look(row: Row, directory: str) -> Any:
            if remote.made_elsewhere(row.request) not in {None, running_on.name}:
                return catalog.look(row, directory)
            owner_lives = catalog.layout.owners.is_alive(row.owner)
            return running_on.observe(directory, owner_lives=owner_lives, launched=row.started_ns is not None)

        foreign = Catalog(settings, any_thread=True, observe=look)
        foreign.index.share_rows(catalog.index)  # two connections, one thread each, mostly the same rows
        registry = Registry(catalog)
        catalog.unwritten = foreign.unwritten = registry.unwritten
        try:
            async with trio.open_nursery() as around_services:
                services = await around_services.start(_sheltered)
                try:
                    await services.start(engine.serve)
                    services.start_soon(registry.run)
                    services.start_soon(registry.note_launches)
                    async with trio.open_nursery() as around_actors:
                        actors = await around_actors.start(_sheltered)
                        try:
                            supervisor = Supervisor(settings, catalog, foreign, registry, engine, actors, services)
                            adopt, take_over = supervisor.launcher.adopt, supervisor.launcher.take_over
                            janitor = Janitor(catalog, registry, foreign_remove(settings), adopt, take_over)
                            actors.start_soon(janitor.run)
                            log.info("supervisor_opened", state_dir=str(settings.state_dir))
                            try:
                                yield supervisor
                            finally:
                                supervisor.close()
                                await supervisor.access.finish()
                        finally:
                            actors.cancel_scope.cancel()  # nothing else reaches it behind its shield
                    registry.close()
                finally:
                    services.cancel_scope.cancel()  # the registry commits what it still holds on its way out
        finally:
            registry.release_waiters()
            foreign.close()
    finally:
        catalog.close()


async def _sheltered(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Keep a nursery open that a cancellation around the caller's block does not reach.

    A ``run`` in that block is cancelled by it too, and needs everybody here to stop its job. Whoever
    leaves the block cancels the nursery itself.
    """
    await trio.lowlevel.checkpoint_if_cancelled()  # behind the shield it would be out of reach, and never handed over
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


def foreign_remove(settings: Settings) -> Callable[[Iterable[Row]], None]:
    """Return what forgets finished jobs over a connection of its own, for a thread."""

    def remove(rows: Iterable[Row]) -> None:
        with Catalog(settings) as catalog:
            catalog.remove(rows)

    return remove
