"""The orders of a job that waits: what any process needs to launch it, in files that only their user can read.

They hold the environment, the input and the process settings of the job. The process that launches the job deletes
them. A job that is launched at once has none. A keeper may hold them in memory, under the same name.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from supervisor import log
from supervisor.admission.sessions import in_its_session
from supervisor.engines.interface import LaunchRequest
from supervisor.engines.staging import Inherited, orders_of, write_orders
from supervisor.jobdir import records
from supervisor.jobdir.durability import is_durable, sync_job
from supervisor.jobdir.records import ORDERS, STDIN
from supervisor.keeper.orders import Orders
from supervisor.store import Row
from supervisor.store.order_files import drop_orders
from supervisor.store.state_errors import state_error

__all__ = ["in_memory", "read", "spool"]


_IN_MEMORY: Final = b"m"
"""What orders in memory begin with. Then come the length of the orders in eight bytes, the orders, and the input."""


def spool(request: LaunchRequest, inherited: Inherited | None = None) -> None:
    """Write the orders of a job into its directory.

    ``inherited`` is given for one of many jobs that have just been made.

    Raises:
        StateFull, StateBusy, PermissionDenied: they cannot be written; the job must not be recorded then.
    """
    if inherited is None:
        drop_orders(request.directory)  # a commit that failed may have written them
    try:
        write_orders(request, inherited)
        if is_durable(request.record):
            sync_job(request.directory)
    except OSError as error:
        raise state_error(error, "cannot write the orders of the job") from error


def in_memory(request: LaunchRequest) -> bytes:
    """Return the orders of a job for a file in memory, with its input."""
    orders = orders_of(request).encode()
    return _IN_MEMORY + len(orders).to_bytes(8) + orders + (b"\1" + request.stdin if request.stdin is not None else b"")


def read(row: Row, directory: str, *, stop_leftovers: bool) -> LaunchRequest | None:
    """Return the launch request in the orders of a job; ``None`` if they are gone or damaged.

    No process can launch the job then, and the claim says so. It holds its slots no more.

    Raises:
        OSError: they cannot be read now, or the claim cannot be written.
    """
    stdin = None
    try:
        with open(f"{directory}/{ORDERS}", "rb") as file:
            content = file.read()
        if content.startswith(_IN_MEMORY):
            end = len(_IN_MEMORY) + 8 + int.from_bytes(content[len(_IN_MEMORY) : len(_IN_MEMORY) + 8])
            content, rest = content[len(_IN_MEMORY) + 8 : end], content[end:]
            stdin = rest[1:] if rest else None
        orders = Orders.decode(content)
        if orders.job_id != row.request.get(
            "series_id", row.job_id
        ):  # a link to the memory of a process that has ended, and whose pid is used again
            message = f"they are of job {orders.job_id}"
            raise ValueError(message)  # as of any other damage
    except FileNotFoundError:  # or another process has launched the job, and has claimed it before
        records.take_claim(directory, records.NOBODY)
        return None
    except (KeyError, ValueError) as error:
        log.warning("orders_damaged", job_id=row.job_id, error=repr(error))
        records.take_claim(directory, records.NOBODY)
        drop_orders(directory)
        return None
    with contextlib.suppress(FileNotFoundError), open(f"{directory}/{STDIN}", "rb") as file:
        stdin = file.read()
    argv, stdin = in_its_session(row.request, tuple(orders.argv), stdin)
    return LaunchRequest(
        directory=directory,
        record=row.request,
        argv=argv,
        workspace=os.fsdecode(orders.workspace),
        env=orders.environment,
        stdin=stdin,
        stop_leftovers=stop_leftovers,
        queued=True,
        may_be_launched=True,
        settings=orders.settings,
    )
