"""Opening a state root: the parts of a supervisor, and the order in which they begin and end.

The nursery::

    caller's block
       |  start / cancel / wait
    job actors, one each -- messages --> registry (commits, then wakes waiters)
    janitor (expiry, adoption)
    engine (keeper, watching)

Leaving the block cancels the actors; the jobs run on.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final

import trio

from supervisor import log
from supervisor.admission import launch_helper
from supervisor.engines import registry as engines
from supervisor.engines.interface import Engine
from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.runtime import metering, tracing
from supervisor.runtime.exceeded import ExceededBudgets
from supervisor.runtime.janitor import Janitor
from supervisor.runtime.registry_actor import Registry
from supervisor.runtime.schedules import Schedules
from supervisor.runtime.supervisor import Supervisor
from supervisor.runtime.unlaunched import UnlaunchedJobs
from supervisor.settings import Settings
from supervisor.store import Row
from supervisor.store.clock import TimeSource
from supervisor.store.state_errors import state_error
from supervisor.system import installation
from supervisor.text.groups import leaves

__all__ = ["open_supervisor"]

_LOAD_SECONDS: Final = 0.5
"""How long a supervisor is open when it loads what it may need later: most commands have ended by then."""


@contextlib.asynccontextmanager
async def open_supervisor(
    settings: Settings | None = None,
    *,
    engine: Engine | None = None,
) -> AsyncGenerator[Supervisor]:
    """Open a state root: an async context manager that gives a ``Supervisor``.

    Input
        settings: ``None`` reads them from the environment.
        engine: runs the commands; ``None`` is the local engine.

    Jobs whose supervisor is gone are adopted in the background. Jobs run on when the block is left, also by an
    exception; any process on the state root can ask about them.

    After ``os.fork()`` every call in the child raises ``SupervisorClosed``. A child that is forked inside Trio must
    leave by ``os._exit`` or execute a program, as it shares the descriptors of Trio with its parent.

    Errors
        InvalidSettings: a setting does not parse.
        StateUnsafe, PermissionDenied, StateFull, StateBusy: the state root cannot be used.

    Cancellation
        Leaves the block, as any exception does.
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
        refused = leaves(group)
        if opened or len(refused) != 1:
            raise
        if isinstance(refused[0], SupervisorError):
            raise refused[0] from refused[0].__cause__
        if isinstance(refused[0], OSError):
            raise state_error(refused[0], "a supervisor cannot be opened") from refused[0]
        raise


def _is_only(error: BaseException, inside: BaseException) -> bool:
    """Whether ``inside`` is ``error``, within any number of groups; ``error`` may be a group itself."""
    wanted, found = leaves(error), leaves(inside)  # nurseries copy groups, and not the exceptions in them
    return len(wanted) == len(found) and all(map(operator.is_, wanted, found))


@contextlib.asynccontextmanager
async def _opened(settings: Settings, engine: Engine | None) -> AsyncGenerator[Supervisor]:
    tracing.prepare()
    async with contextlib.AsyncExitStack() as stack:
        catalog = stack.enter_context(Catalog(settings, wait_seconds=0))
        stack.enter_context(metering.observed(settings))
        running_on = engine or engines.make_engine(engines.LOCAL, catalog.layout.root, settings.python)

        if running_on.name == engines.LOCAL:
            stack.callback(launch_helper.ensure, catalog.index)
        catalog.clients = engines.Clients(running_on)
        foreign = stack.enter_context(Catalog(settings, any_thread=True, clients=engines.Clients(running_on)))
        if isinstance(running_on, TimeSource):
            catalog.layout.clock.source = foreign.layout.clock.source = running_on
        foreign.index.share_rows(catalog.index)  # two connections, one thread each, mostly the same rows
        registry = Registry(catalog)
        stack.callback(registry.release_waiters)
        catalog.unwritten = foreign.unwritten = registry.unwritten
        catalog.spared = foreign.spared = registry.protected

        around_services = await stack.enter_async_context(trio.open_nursery())
        services = await around_services.start(_sheltered)
        stack.callback(services.cancel_scope.cancel)  # the registry actor commits its last messages
        await services.start(running_on.serve)
        services.start_soon(registry.run)
        services.start_soon(registry.launches.serve)
        services.start_soon(_load_rest)
        stack.callback(registry.close)

        around_actors = await stack.enter_async_context(trio.open_nursery())
        actors = await around_actors.start(_sheltered)
        stack.callback(actors.cancel_scope.cancel)  # no other cancellation passes its shield
        supervisor = Supervisor(settings, catalog, foreign, registry, running_on, actors, services)
        launcher, remove = supervisor.launcher, foreign_remove(settings)
        schedules = Schedules(catalog, launcher, supervisor.status, supervisor.cancel, actors)

        def check(*, changed: bool) -> None:
            launcher.waiting.check(changed=changed)
            schedules.look(changed=changed)
            supervisor.deliveries.tick()

        janitor = Janitor(catalog, registry, remove, launcher.adopt, launcher.take_over, check)
        actors.start_soon(supervisor.deliveries.run)
        actors.start_soon(janitor.run)
        actors.start_soon(launcher.waiting.keep_time)
        actors.start_soon(schedules.keep_time)
        actors.start_soon(UnlaunchedJobs(catalog, registry, supervisor.access).serve)
        actors.start_soon(ExceededBudgets(catalog, registry, supervisor.access).serve)
        log.info("supervisor_opened", state_dir=str(settings.state_dir))
        stack.push_async_callback(supervisor.access.finish)
        stack.callback(supervisor.close)
        yield supervisor


async def _load_rest() -> None:
    """Load what may be needed later, as the package may be replaced or deleted until then."""
    await trio.sleep(_LOAD_SECONDS)
    steps = installation.steps()
    try:
        while await trio.to_thread.run_sync(next, steps, steps) is not steps:
            pass
    except Exception as error:  # noqa: BLE001  # a defect of another package, or no thread: the jobs run on
        log.warning("not_all_loaded", error=repr(error))


async def _sheltered(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Run a nursery that no cancellation around the caller's block reaches.

    Such a cancellation also cancels a ``run`` in that block, which needs the actors to stop its job. Leaving the block
    cancels the nursery itself.
    """
    await trio.lowlevel.checkpoint_if_cancelled()  # a cancellation behind the shield could not end this task
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


def foreign_remove(settings: Settings) -> Callable[[Iterable[Row]], None]:
    """Return a function that forgets finished jobs over a connection of its own, for a thread."""

    def remove(rows: Iterable[Row]) -> None:
        with Catalog(settings) as catalog:
            catalog.remove(rows)

    return remove
