"""What ``bench`` does while its load goes on: the jobs, what people see of them, and signals.

The first SIGINT or SIGTERM ends the load and goes on until everything was looked at; a second one
ends that as well. A signal that is ignored when the program starts stays ignored.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import attrs
import trio

from supervisor.cli import text
from supervisor.cli.bench.text import intention
from supervisor.cli.bench.view import Lines, Screen
from supervisor.cli.commands.mcp import check_installed
from supervisor.load.bench import Bench
from supervisor.load.driver import Driver
from supervisor.load.mix import Mix
from supervisor.settings import Settings
from supervisor.system.signals import heard

__all__ = ["Plan", "run_bench"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@attrs.frozen(slots=True, kw_only=True)
class Plan:
    """What was asked for.

    Attributes:
        mix: the load.
        settings: where jobs are kept, of the local root and of our own MCP server.
        url: of an MCP endpoint; ``None`` for none.
        token: the bearer token for it; ``None`` for none.
        server: the command of an MCP server over stdio, empty for our own; ``None`` for none.
        workspace: where the jobs of an MCP endpoint run; ``None`` leaves it to the server.
        keep: whether to leave the jobs.
        let_end: whether jobs that run end by themselves when the load is interrupted.
        patience_seconds: how long after its time a job may end.
    """

    mix: Mix
    settings: Settings
    url: str | None = None
    token: str | None = attrs.field(default=None, repr=False)
    server: Sequence[str] | None = None
    workspace: str | None = None
    keep: bool
    let_end: bool
    patience_seconds: float

    def open_driver(self, workspace: str) -> AbstractAsyncContextManager[Driver]:
        """Open whom the jobs are asked of.

        Raises:
            InvalidSettings: it is an MCP endpoint, and the extra is not installed.
        """
        if self.url is not None or self.server is not None:
            check_installed()
            from supervisor.load.over_mcp import Endpoint, mcp_driver

            endpoint = Endpoint(
                url=self.url,
                token=self.token,
                command=self.server or (),
                settings=self.settings,
                workspace=self.workspace,
                keep=self.keep,
            )
            return mcp_driver(endpoint, workspace)
        from supervisor.load.local import local_driver

        return local_driver(self.settings, workspace, self.mix.most_output_bytes)

    @property
    def where(self) -> str:
        """Whom the jobs are asked of, in words."""
        if self.url is not None:
            return self.url
        root = f"the state root {self.settings.state_dir}"
        if self.server is None:
            return root
        return f"`{text.command_line(self.server)}`" if self.server else f"`supervisor mcp` on {root}"


def run_bench(plan: Plan, *, quiet: bool) -> dict[str, Any] | None:
    """Run it, and return the report; ``None`` when it was ended before there was anything to report."""
    return trio.run(_main, plan, quiet)


async def _main(plan: Plan, quiet: bool) -> dict[str, Any] | None:  # noqa: FBT001  # trio.run's arguments
    bench = Bench(plan.mix, plan.open_driver, keep=plan.keep, patience_seconds=plan.patience_seconds)
    view = None if quiet else Screen(bench) if Screen.possible() else Lines(bench)
    shape: dict[str, Any] | None = None
    failure: Exception | None = None
    with heard(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, signals, bench, not plan.let_end, view, nursery.cancel_scope)
            if view is not None:
                view.say(intention(plan.mix, plan.where))
                nursery.start_soon(view.run)
            try:
                shape = await bench.run()
            except Exception as error:  # noqa: BLE001  # kept, so that it comes out bare and not in a group
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
    cancel: bool,  # noqa: FBT001  # of nursery.start_soon too
    view: Lines | None,
    everything: trio.CancelScope,
) -> None:
    async for _ in signals:
        if bench.load is None:
            everything.cancel()
        bench.interrupt(cancel=cancel)
        if view is not None:
            what = "cancelling those that run" if cancel else "those that run go on to their end"
            view.say(f"no more jobs; {what}; again to report at once")
