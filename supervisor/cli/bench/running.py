"""The loop of ``bench``: the load, its live view, and signals.

The first SIGINT or SIGTERM ends the load and finishes all checks; the second ends those too. A signal
that is ignored when the program starts stays ignored.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import trio

from supervisor.cli import terminal, text
from supervisor.cli.bench.text import intention
from supervisor.cli.bench.view import Lines, Screen
from supervisor.cli.commands.mcp import check_installed
from supervisor.load.bench import Bench
from supervisor.load.driver import Driver, Through
from supervisor.load.endpoint import Endpoint
from supervisor.load.mix import Mix
from supervisor.settings import Settings
from supervisor.system.signals import heard

__all__ = ["run_bench"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run_bench(
    mix: Mix,
    settings: Settings,
    endpoint: Endpoint | None,
    *,
    through: Through | None = None,
    keep: bool,
    let_end: bool,
    patience_seconds: float,
    quiet: bool,
) -> dict[str, Any] | None:
    """Run a load and return the report; ``None`` if a signal ended it before there was anything to report.

    Input
        settings: the state root of the jobs.
        endpoint: the MCP endpoint that starts the jobs; ``None`` starts them in this process.
        through: the group of the jobs, on a state root.
        keep: whether the jobs are kept.
        let_end: whether the first signal waits for running jobs instead of cancelling them.
        patience_seconds: how late a job may end, and how long a call may take.
        quiet: whether no progress is shown.

    Raises:
        InvalidSettings: there is an endpoint, and the extra ``mcp`` is not installed.
    """
    if endpoint is not None:
        check_installed()

    def open_driver(workspace: str) -> AbstractAsyncContextManager[Driver]:
        if endpoint is not None:
            from supervisor.load.over_mcp import mcp_driver

            return mcp_driver(endpoint, workspace)
        from supervisor.load.local import local_driver

        return local_driver(settings, workspace, mix.max_output_bytes, through)

    bench = Bench(mix, open_driver, keep=keep, patience_seconds=patience_seconds)
    view = None if quiet else Screen(bench) if terminal.can_redraw(sys.stderr) else Lines(bench)
    return trio.run(_main, bench, view, intention(mix, _target(settings, endpoint)), not let_end)


def _target(settings: Settings, endpoint: Endpoint | None) -> str:
    root = f"the state root {settings.state_dir}"
    if endpoint is None:
        return root
    if endpoint.url is not None:
        return endpoint.url
    return f"`{text.command_line(endpoint.command)}`" if endpoint.command else f"`supervisor mcp` on {root}"


async def _main(
    bench: Bench,
    view: Lines | None,
    headline: str,
    cancel: bool,  # noqa: FBT001  # for trio.run
) -> dict[str, Any] | None:
    shape: dict[str, Any] | None = None
    failure: Exception | None = None
    with heard(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, signals, bench, cancel, view, nursery.cancel_scope)
            if view is not None:
                view.note(headline)
                nursery.start_soon(view.run)
            try:
                shape = await bench.run()
            except Exception as error:  # noqa: BLE001  # raised below, outside of an exception group
                failure = error
            nursery.cancel_scope.cancel()
    if view is not None:
        view.erase()
    if failure is not None:
        raise failure
    return shape


async def _listen(
    signals: AsyncIterator[int],
    bench: Bench,
    cancel: bool,  # noqa: FBT001  # for nursery.start_soon
    view: Lines | None,
    everything: trio.CancelScope,
) -> None:
    async for _ in signals:
        if bench.load is None:
            everything.cancel()
        bench.interrupt(cancel=cancel)
        if view is not None:
            jobs = "cancelling the running ones" if cancel else "the running ones continue to their end"
            view.note(f"no more jobs; {jobs}; press Ctrl-C again to report at once")
