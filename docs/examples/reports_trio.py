"""The same service in Trio. This program runs Hypercorn.

    python reports_trio.py 127.0.0.1:8000

The command ``hypercorn --worker-class trio`` is no alternative. It runs its worker in a second process, which
goes on serving when the first one is killed, or (``--workers 0``) has no handler for SIGTERM.
"""

from __future__ import annotations

import signal
import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from reports import trio_app


async def main(bind: str) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    config = Config()
    config.bind = [bind]
    config.graceful_timeout = 1  # seconds that open streams are given
    stop = trio.Event()

    async def on_signal(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                stop.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(on_signal)
        await serve(trio_app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]  # Starlette's types are wider
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
