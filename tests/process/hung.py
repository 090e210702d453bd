"""A file system that does not answer, like one on a network whose server is down: FUSE without its daemon."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from pathlib import Path
from typing import Self

import pytest

_DETACH, _FORCE = 2, 1
_LOOKUP, _FORGET, _GETATTR, _OPEN, _INIT, _OPENDIR, _ACCESS, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 14, 26, 27, 34, 36, 42


class HungMount:
    """Mounted on a directory inside its block.

    With ``program`` it answers until that file, an executable, is opened: then looking the program up
    succeeds and exec hangs. Without ``program`` every access hangs.
    """

    def __init__(self, point: Path, program: str | None = None) -> None:
        self.point = point
        self._program = program
        self._thread: threading.Thread | None = None
        self.asked = threading.Event()
        """Whether a request has arrived that it does not answer."""

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            pytest.skip("needs root and /dev/fuse")
        self.point.mkdir(exist_ok=True)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if self._libc.mount(b"hung", os.fsencode(self.point), b"fuse", 0, options.encode()):
            os.close(self._device)
            pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")
        if self._program is not None:
            self._thread = threading.Thread(target=self._serve)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Forced: waiting processes get an error, and so does the device.
        self._libc.umount2(os.fsencode(self.point), _FORCE)
        self._libc.umount2(os.fsencode(self.point), _DETACH)
        if self._thread is not None:
            self._thread.join(20)
        os.close(self._device)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, 1 << 17)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.ENOENT, errno.EAGAIN}:
                    continue
                return
            _, what, unique, node = struct.unpack_from("IIQQ", request)
            if what == _INIT:
                self._reply(unique, struct.pack("IIIIHHI", 7, 31, 65536, 0, 8, 8, 65536).ljust(64, b"\0"))
            elif what == _LOOKUP:
                if request[40:].rstrip(b"\0").decode() == self._program:
                    self._reply(unique, struct.pack("QQQQII", 2, 0, 60, 60, 0, 0) + _attributes(2))
                else:
                    self._reply(unique, b"", errno.ENOENT)
            elif what == _GETATTR:
                self._reply(unique, struct.pack("QII", 60, 0, 0) + _attributes(node))
            elif what == _ACCESS:
                self._reply(unique, b"")
            elif what == _OPENDIR:
                self._reply(unique, bytes(16))
            elif what not in {_FORGET, _BATCH_FORGET, _INTERRUPT}:
                self.asked.set()

    def _reply(self, unique: int, body: bytes, error: int = 0) -> None:
        try:
            os.write(self._device, struct.pack("IiQ", 16 + len(body), -error, unique) + body)
        except OSError:
            return


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o755
    return struct.pack("QQQQQQIIIIIIIIII", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
