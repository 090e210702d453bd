"""What a caller can read of the output of a job: a part of ``Supervisor``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import trio

from supervisor.errors import InvalidArguments
from supervisor.jobdir.output import STREAMS, Output, read_piece
from supervisor.jobs.catalog import Catalog
from supervisor.runtime.access import StoreAccess
from supervisor.runtime.entry import Entry
from supervisor.runtime.follow import Chunks
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.lookup import Lookup
from supervisor.store.state_errors import state_error
from supervisor.system.notifier import Notifier
from supervisor.system.observing import NotKnown

__all__ = ["OutputMethods"]

_LAST_OFFSET = 2**63 - 1


class OutputMethods:
    """The methods that read output; ``Supervisor`` has the attributes."""

    access: StoreAccess
    launcher: Launcher
    _catalog: Catalog
    _lookup: Lookup
    _notifier: Notifier
    _nursery: trio.Nursery

    async def read(self, job_id: str, stream: str = "stdout", offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of the output of a job, and the offset of the next part. It waits for no output.

        Input
            stream: ``"stdout"`` or ``"stderr"``.
            offset: of the first byte, at least 0.
            limit: the most bytes, from 1 to 1 GiB; by default 64 KiB.

        Output
            The bytes that are there, fewer at the end; none past the end, and none past the output limit of the job. If
            a running command has truncated its output below ``offset``, the part is from the beginning, and the
            next offset shows that.

        Raises:
            JobNotFound: there is no job of this id.
            InvalidArguments: an argument is none of these.
            OutputLost: the job has ended, and there are fewer bytes than its record says.
            StateBusy: it cannot be read now.
        """
        _check(stream, offset)
        _check_number("limit", limit, 1, 1 << 30)
        job = await self._lookup.status(job_id)
        row = await self._lookup.row(job_id)
        end = getattr(job, f"{stream}_bytes") if job.status.terminal else None
        output = Output(self._catalog.directory(row), stream, end=end, limit=row.output_limit)
        output.made = row.has_files
        try:
            piece = await trio.to_thread.run_sync(read_piece, output, offset, limit)
        except NotKnown as error:
            raise state_error(error, f"cannot read the output of job {job_id} now") from error
        return piece.data, piece.offset + len(piece.data)

    @contextlib.asynccontextmanager
    async def follow(
        self,
        job_id: str,
        stream: str = "stdout",
        offset: int = 0,
    ) -> AsyncGenerator[Chunks]:
        """Read the output of a job as it is written, from the beginning or from another byte.

        Gives an async iterator of ``bytes``, at most 64 KiB each, that ends when the job has ended
        and everything was read. If the command truncates its output, the bytes that were not read by then are lost, and
        the iterator goes on from the new beginning; its ``restarts`` counts that. Cancelling a wait for the next bytes
        loses none. Bytes past its output limit are left out.

        ``offset``: where to begin, as ``read`` returns it.

        Raises:
            JobNotFound: there is no job of this id.
            InvalidArguments: ``stream`` is neither ``"stdout"`` nor ``"stderr"``, or ``offset`` is below 0.
            OutputLost: (from the iterator) it has ended, and there are fewer bytes than its record says.
        """
        _check(stream, offset)
        entry = await self.launcher.supervised(job_id)
        if isinstance(entry, Entry):
            row, directory, finished = entry.row, entry.directory, entry.finished
        else:
            row = await self._lookup.row(job_id)
            directory, finished = self._catalog.directory(row), trio.Event()
            finished.set()

        def end() -> int | None:
            found = entry.row if isinstance(entry, Entry) else row
            return None if found.ended is None else int(found.ended[f"{stream}_bytes"])

        begin = offset if (ended := end()) is None else min(offset, ended)
        chunks = Chunks(directory, stream, finished, end, row.output_limit, made=row.has_files, offset=begin)
        # A nursery around the caller's block would wrap the exceptions of the block in a group.
        await self._nursery.start(_serve, chunks, self._notifier)
        try:
            yield chunks
        finally:
            chunks.close()


def _check(stream: str, offset: int) -> None:
    if stream not in STREAMS:
        message = f"stream is {stream!r:.80}; it must be stdout or stderr"
        raise InvalidArguments(message)
    _check_number("offset", offset, 0, _LAST_OFFSET)


def _check_number(name: str, number: int, low: int, high: int) -> None:
    if type(number) is not int or not low <= number <= high:  # the caller may use no type checker
        message = f"{name} is {number!r:.80}; it must be a whole number from {low} to {high}"
        raise InvalidArguments(message)


async def _serve(chunks: Chunks, notifier: Notifier, *, task_status: trio.TaskStatus[None]) -> None:
    """Serve one reader; a defect in here is raised where the bytes are read, and costs no other task."""
    try:
        await chunks.serve(notifier, task_status=task_status)
    except Exception as error:  # noqa: BLE001  # whatever it was, the reader gets it
        chunks.fail(error)
