"""What a job survives: the loss of processes, or of power as well; and the steps that the latter needs.

A job of durability ``POWER`` says so in its ``job.json``, so every process that acts on it knows, whatever its own
settings are. Three rules hold for such a job:

* The directory, with ``job.json`` and the orders, is on the disk before the row is committed, and the claim before the
  command is spawned. So a start that was acknowledged is known afterwards, and no command is launched twice.
* The output is on the disk before the record of the end gets its name. So a record that survived has its output.
* A process that tells an end, from whatever evidence, syncs the directory before. So the evidence survives.
"""

from __future__ import annotations

import errno

from supervisor.jobdir import records
from supervisor.system.syncing import sync_directory, sync_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

__all__ = ["MEMBER", "POWER", "PROCESS", "is_durable", "sync_job", "sync_output"]

MEMBER: Final = "durability"
"""The member of ``job.json``; without it a job has durability ``PROCESS``."""
PROCESS: Final = "process"
POWER: Final = "power"

_OUTPUT: Final = (records.STDOUT, records.STDERR)
_RECORDS: Final = (
    *(records.JOB, records.PROCESS, records.STOP, records.EXIT, records.PAUSE, records.QUEUE, records.RESERVED),
    *(records.ORDERS, records.STDIN),
)


def is_durable(record: Mapping[str, Any]) -> bool:
    """Whether a job survives the loss of power, by its ``job.json``."""
    return record.get(MEMBER) == POWER


def sync_output(directory: str) -> None:
    """Wait until the output of a job is on the disk.

    Raises:
        OSError: it is not.
    """
    for name in _OUTPUT:
        sync_file(f"{directory}/{name}")


def sync_job(directory: str) -> None:
    """Wait until all of a job directory is on the disk, but for its own name. Nothing is done where there is none.

    Raises:
        OSError: it is not.
    """
    sync_output(directory)
    for name in _RECORDS:
        sync_file(f"{directory}/{name}")
    try:
        sync_directory(directory)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            raise
