"""The ``stop.json`` of a job as its keeper writes it: now, or as soon as there is room for it."""

from __future__ import annotations

from supervisor.jobdir import records, stops
from supervisor.keeper import unwritten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["StopRecord", "read_stop"]


def read_stop(directory: str, reserve: unwritten.Reserve) -> dict[str, Any] | None:
    """Return the request on disk; nothing where there is no job directory (any more).

    Raises:
        OSError: it cannot be read now.
    """
    try:
        held: dict[str, Any] | None = reserve.use(stops.read_stop, directory)
    except OSError as error:
        if not unwritten.leads_nowhere(directory, error):
            raise
        return None
    return held


class StopRecord:
    """The request that counts for one job. A full disk must not keep a job alive: it may be what fills it."""

    def __init__(self, directory: str, held: dict[str, Any], later: unwritten.Unwritten) -> None:
        self.directory = directory
        self.held = held
        self._unwritten = later

    @classmethod
    def request(
        cls,
        directory: str,
        request: dict[str, Any],
        reserve: unwritten.Reserve,
        later: unwritten.Unwritten,
        *,
        asked: bool,
    ) -> StopRecord:
        """Record ``request`` unless the job has one; ``asked`` says that it has.

        Raises:
            OSError: the request on disk cannot be read now.
        """
        held = (read_stop(directory, reserve) or {}) if asked else {}
        if not held:
            try:
                first = reserve.use(records.create, directory, records.STOP, request)
            except OSError:
                first = True
                later.add(directory, records.STOP, request)
            held = request if first else (read_stop(directory, reserve) or {})
        if not held:  # the one on disk is damaged
            later.write(directory, records.STOP, request)
            held = request
        return cls(directory, held, later)

    def mark_signalled(self, boot_ns: int) -> None:
        """Record that the first signal is about to go out."""
        try:
            stops.mark_stop(self.directory, signalled=boot_ns, known=self.held)
        except OSError:
            self._write_later(signalled_boot_ns=boot_ns)
        self.held["signalled_boot_ns"] = boot_ns

    def mark_gone(self, signalled_boot_ns: int | None, survivors: list[int], sizes: dict[str, object]) -> None:
        """Record that no process of the tree is left but ``survivors``."""
        left = " ".join(map(str, survivors))
        try:
            stops.mark_stop(self.directory, gone=True, survivors=left, known=self.held, sizes=sizes)
        except OSError:
            signalled = self.held.get("signalled_boot_ns")
            signalled = signalled_boot_ns if signalled is None else signalled
            self._write_later(**sizes, gone=True, survivors=left, signalled_boot_ns=signalled)

    def take_back(self, refused: list[int]) -> None:
        """Record that no signal has reached the command of the job, maybe since ``refused`` may not be signalled."""
        pids = " ".join(map(str, refused))
        try:
            stops.take_back_stop(self.directory, pids, self.held)
        except OSError:
            self._write_later(signalled_boot_ns=None, **({"refused": pids} if pids else {}))

    def unmark_signalled(self) -> None:
        """Record that the command had ended by itself before the first signal went out."""
        self.held["signalled_boot_ns"] = None
        self.held.pop("v", None)
        self._unwritten.write(self.directory, records.STOP, self.held)

    def _write_later(self, **changes: object) -> None:
        """Write the record with the next ``flush``, in the version of that moment."""
        self.held.update(changes)
        self.held.pop("v", None)
        self._unwritten.add(self.directory, records.STOP, self.held)
