"""The admissions of one transaction: the file in the job directory that says so, and the poke of the supervisor.

``granted`` is for an index that is made anew before the job is launched: the job keeps its slots. It is written within
the transaction, so that no admitted job is without it. A transaction that fails takes its files back. If the process
is killed in between, a waiting job has such a file; a rebuild gives it slots only while its groups have room.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from supervisor.jobdir.records import GRANTED, JOB, RESERVED, replace
from supervisor.store.queue import Grant
from supervisor.store.state_errors import find_in_root, state_error
from supervisor.store.state_root import Layout

__all__ = ["Grants", "granted_ns", "take_back"]


class Grants:
    """The admissions of the transactions of one connection.

    Args:
        layout: the state root.
    """

    def __init__(self, layout: Layout) -> None:
        """Begin with none."""
        self._layout = layout
        self._made: list[str] = []
        self._owners: set[str] = set()

    def add(self, grants: Iterable[Grant]) -> None:
        """Write the files of admitted jobs, within the transaction.

        Raises:
            StateFull, PermissionDenied: a file cannot be written; the transaction must fail.
        """
        for grant in grants:
            directory = self._layout.job(grant.workspace_key, grant.job_id)
            self._owners.add(grant.owner)
            try:
                if grant.reserved:
                    record: dict[str, object] = {"at_ns": self._layout.clock.wall_ns(), "groups": grant.reserved}
                    replace(directory, RESERVED, record)
                _make(directory)
                self._made.append(directory)
            except FileExistsError:  # of a process that was killed before its commit
                with contextlib.suppress(OSError):
                    os.utime(f"{directory}/{GRANTED}")
            except FileNotFoundError:  # the job is being forgotten
                pass
            except OSError as error:
                raise state_error(error, "cannot admit a job") from error

    def take_back(self) -> None:
        """Delete the files of a transaction that has failed."""
        for directory in self._made:
            take_back(directory)
        self._made.clear()
        self._owners.clear()

    def committed(self) -> None:
        """Poke the supervisors of the jobs that were admitted."""
        if self._owners:
            self._layout.owners.poke(self._owners)
            self._made.clear()
            self._owners.clear()


def _make(directory: str) -> None:
    """Make the file that says since when a job has its slots: a second name of ``job.json``, whose time nothing reads.

    A new inode is the most expensive part of an admission: after many deletions ext4 looks for one for 0.6 ms.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be made.
    """
    path = f"{directory}/{GRANTED}"
    try:
        os.link(f"{directory}/{JOB}", path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_EXCL, 0o600))
    else:
        os.utime(path)


def take_back(directory: str) -> None:
    """Delete the file of a job that holds no slots."""
    with contextlib.suppress(OSError):
        os.unlink(f"{directory}/{GRANTED}")


def granted_ns(directory: str) -> int | None:
    """Return when a job was admitted, by the wall clock; ``None`` if it was not, or was launched.

    Raises:
        StateBusy: that cannot be observed now.
    """
    found = find_in_root(f"{directory}/{GRANTED}")
    return None if found is None else found.st_mtime_ns
