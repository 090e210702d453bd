"""The orders of a job that waits: what any process needs to launch it, in files that only their user can read.

A job that is launched at once has none. Orders hold the environment and the input of the job, so the process that
launches the job deletes them.
"""

from __future__ import annotations

import contextlib
import os

from supervisor import log
from supervisor.engines.interface import LaunchRequest
from supervisor.engines.staging import write_orders
from supervisor.jobdir import records
from supervisor.jobdir.records import ORDERS, STDIN
from supervisor.keeper.single_job import Orders
from supervisor.store import Row
from supervisor.store.state_errors import state_error
from supervisor.system.observing import is_there

__all__ = ["drop", "read", "spool", "waits"]


def spool(request: LaunchRequest) -> None:
    """Write the orders of a job into its directory.

    Raises:
        StateFull, StateBusy, PermissionDenied: they cannot be written; the job must not be recorded then.
    """
    drop(request.directory)  # a commit that failed may have written them
    try:
        write_orders(request)
    except OSError as error:
        raise state_error(error, "cannot write the orders of the job") from error


def waits(directory: str) -> bool:
    """Whether a job has orders.

    Raises:
        NotKnown: that cannot be observed now.
    """
    return is_there(f"{directory}/{ORDERS}")


def read(row: Row, directory: str, *, stop_leftovers: bool) -> LaunchRequest | None:
    """Return the launch request in the orders of a job; ``None`` if they are gone or damaged.

    No process can launch the job then, and the claim says so. It holds its slots no more.

    Raises:
        OSError: they cannot be read now, or the claim cannot be written.
    """
    try:
        with open(f"{directory}/{ORDERS}", "rb") as file:
            orders = Orders.decode(file.read())
    except FileNotFoundError:  # or another process has launched the job, and has claimed it before
        records.take_claim(directory, records.NOBODY)
        return None
    except (KeyError, ValueError) as error:
        log.warning("orders_damaged", job_id=row.job_id, error=repr(error))
        records.take_claim(directory, records.NOBODY)
        drop(directory)
        return None
    stdin = None
    with contextlib.suppress(FileNotFoundError), open(f"{directory}/{STDIN}", "rb") as file:
        stdin = file.read()
    return LaunchRequest(
        job_id=row.job_id,
        directory=directory,
        record=row.request,
        argv=tuple(orders.argv),
        workspace=os.fsdecode(orders.workspace),
        env=orders.environment,
        stdin=stdin,
        deadline_seconds=orders.deadline,
        grace_seconds=orders.grace,
        output_limit=orders.limit,
        stop_leftovers=stop_leftovers,
        options=row.request.get("engine_options") or {},
        may_be_launched=True,
    )


def drop(directory: str) -> None:
    """Delete the orders of a job that was launched, or never will be."""
    for name in (ORDERS, STDIN):
        with contextlib.suppress(OSError):
            os.unlink(f"{directory}/{name}")
