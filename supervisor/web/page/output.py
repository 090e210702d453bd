"""The output of a job on its page: its end, as it is written, and in pieces. All of it is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import attrs
import trio
from starlette.responses import Response, StreamingResponse

from supervisor.errors import InvalidArguments
from supervisor.jobdir.output import STREAMS
from supervisor.jobs import words
from supervisor.model import Job
from supervisor.runtime.supervisor import Supervisor
from supervisor.web.page.streaming import Emit
from supervisor.web.page.visiting import HEADERS

__all__ = ["PIECE_BYTES", "Piece", "check_stream", "download", "follow", "piece_at", "tail_of"]

PIECE_BYTES: Final = 1 << 16
_BACKLOG_BYTES: Final = 1 << 18
"""A page that is so far behind goes on at the end of the output."""
_PAUSE_SECONDS: Final = 0.05
"""Between two parts: at most 1.3 MB a second for each open page."""


@attrs.frozen(slots=True)
class Piece:
    """A part of the output of a job.

    Attributes:
        stream: ``stdout`` or ``stderr``.
        text: without control characters; what is no UTF-8 is replaced.
        begin: the offset of its first byte.
        end: the offset after its last byte.
        size: how much output there is.
    """

    stream: str
    text: str
    begin: int
    end: int
    size: int

    @property
    def before(self) -> int:
        """Where the piece before it begins."""
        return max(0, self.begin - PIECE_BYTES)


def check_stream(stream: str) -> str:
    """Return the name of a stream.

    Raises:
        InvalidArguments: there is no such stream.
    """
    if stream not in STREAMS:
        message = f"there is no stream {stream!r:.40}; it is stdout or stderr"
        raise InvalidArguments(message)
    return stream


async def piece_at(supervisor: Supervisor, job: Job, stream: str, offset: int) -> Piece:
    """Return a part of the output from a byte on."""
    data, after = await supervisor.read(job.job_id, stream, offset, PIECE_BYTES)
    size = max(after, int(getattr(job, f"{stream}_bytes")))
    return Piece(stream, text_of(data), max(0, after - len(data)), after, size)


async def tail_of(supervisor: Supervisor, job: Job, stream: str) -> Piece:
    """Return the end of the output so far, from the beginning of a line."""
    size = int(getattr(job, f"{stream}_bytes"))
    begin = max(0, size - PIECE_BYTES)
    data, after = await supervisor.read(job.job_id, stream, begin, PIECE_BYTES)
    begin = after - len(data)
    if begin > 0:
        line = data.find(b"\n") + 1
        data, begin = data[line:], begin + line
    return Piece(stream, text_of(data), begin, after, max(after, size))


def text_of(data: bytes) -> str:
    """Return output as text for a page."""
    return words.clean(data.decode(errors="replace"))


async def follow(
    supervisor: Supervisor, job_id: str, stream: str, offset: int, emit: Emit, marks: dict[str, int]
) -> None:
    """Emit the output of a job as it is written, until the job has ended and all was emitted.

    ``marks`` has the offsets after what was emitted: a browser that connects again goes on there.
    """
    held = b""
    while True:
        skip = False
        async with supervisor.follow(job_id, stream, offset) as chunks:
            async for chunk in chunks:
                offset += len(chunk)
                data = held + chunk
                whole = _whole(data)
                held = data[whole:]
                marks[stream] = offset - len(held)
                mark = ".".join(str(marks[each]) for each in STREAMS)
                await emit("output", {"stream": stream, "text": text_of(data[:whole]), "end": offset}, mark)
                await trio.sleep(_PAUSE_SECONDS)
                size = int(getattr(await supervisor.status(job_id), f"{stream}_bytes"))
                if size - offset > _BACKLOG_BYTES:
                    await emit("skip", {"stream": stream, "bytes": size - PIECE_BYTES - offset})
                    offset, held, skip = size - PIECE_BYTES, b"", True
                    break
        if not skip:
            return


def _whole(data: bytes) -> int:
    """Return the length of the part that does not end within a character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if needed > back else len(data)
    return len(data)


def download(supervisor: Supervisor, job: Job, stream: str) -> Response:
    """Return the whole output so far as a file."""
    size = int(getattr(job, f"{stream}_bytes"))

    async def parts() -> AsyncIterator[bytes]:
        offset = 0
        while offset < size:
            data, offset = await supervisor.read(job.job_id, stream, offset, min(1 << 18, size - offset))
            if not data:
                return
            yield data

    name = f"{job.job_id}.{stream}"
    headers = {**HEADERS, "content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(parts(), 200, headers, "text/plain; charset=utf-8")
