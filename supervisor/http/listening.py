"""The address of an HTTP server: a port, or a UNIX socket that no other user can reach or replace.

The process that binds a port first receives the tokens of its clients. A UNIX socket is in a directory that
only its owner may write to, and has the mode 0600. So it belongs to this server, and its clients to the
same user.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
import struct
from typing import Final

import attrs

from supervisor.errors import InvalidArguments, PermissionDenied, StateUnsafe
from supervisor.system.trust import exposure_of

__all__ = ["Address", "listen", "parse_address", "peer_is_allowed", "remove_socket"]

_MAX_PATH_BYTES: Final = 107  # of sockaddr_un, less the NUL at the end


@attrs.frozen(slots=True)
class Address:
    """The address of a server.

    Attributes:
        host: the host; for a UNIX socket, the name in the Host header of its clients.
        port: the port.
        path: the path of a UNIX socket; ``None`` for a port.
    """

    host: str
    port: int = 0
    path: str | None = None

    @property
    def loopback(self) -> bool:
        """Whether only processes on this machine reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """Return the host and port as in a URL, or the path with ``unix:``."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that ``HOST:PORT`` or ``unix:PATH`` names.

    Raises:
        InvalidArguments: it names none.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not os.path.isabs(path) or path.endswith("/") or len(os.fsencode(path)) > _MAX_PATH_BYTES:
            message = f"--http is {text!r}; after unix: it accepts an absolute path of at most {_MAX_PATH_BYTES} bytes"
            raise InvalidArguments(message, repair="See `supervisor mcp --help`.")
        return Address("localhost", path=path)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        message = (
            f"--http is {text!r}; it accepts HOST:PORT, as in 127.0.0.1:8765 (port 0: any free port), or unix:PATH"
        )
        raise InvalidArguments(message, repair="See `supervisor mcp --help`.")
    return Address(host, int(port))


def listen(address: Address) -> socket.socket:
    """Return a listening socket. It is bound here and not by Hypercorn, to report the error of the system.

    Raises:
        PermissionDenied: the address cannot be bound.
        StateUnsafe: others could replace the UNIX socket, and receive the tokens of its clients.
    """
    if address.path is not None:
        return _listen_at(address.path)
    try:
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(where[:2], family=family)
    except OSError as error:
        message = f"cannot listen on {address}: {error.strerror or error}"
        raise PermissionDenied(message, repair="Choose another --http HOST:PORT.") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listener


def _listen_at(path: str) -> socket.socket:
    try:
        _check_place(path)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            umask = os.umask(0o177)  # private from its creation on
            try:
                listener.bind(path)
            finally:
                os.umask(umask)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except OSError as error:
        message = f"cannot listen on unix:{path}: {error.strerror or error}"
        raise PermissionDenied(message, repair="Choose another --http unix:PATH.") from error
    return listener


def _check_place(path: str) -> None:
    exposure = exposure_of(path)
    if exposure is not None:
        message = f"others could replace the socket {path}: {exposure.place} {exposure.why}"
        raise StateUnsafe(message, repair=exposure.repair)
    above = os.path.dirname(path)
    found = os.stat(above)
    if found.st_mode & 0o022:  # also with the sticky bit, others can create the socket first
        message = f"others could create the socket {path} first: {above} can be written by other users"
        raise StateUnsafe(message, repair="Choose a directory that only you may write to, as in $XDG_RUNTIME_DIR.")


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that has ended.

    Raises:
        OSError: the path is no socket, or another process listens on it.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        message = "the path exists and is no socket"
        raise OSError(message)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    message = "a server listens on it"
    raise OSError(message)


def remove_socket(address: Address) -> None:
    """Remove the UNIX socket of a server."""
    if address.path is not None:
        with contextlib.suppress(OSError):
            os.unlink(address.path)


def peer_is_allowed(connection: socket.socket) -> bool:
    """Whether the peer on a UNIX socket belongs to the same user, or to root."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the mode of the socket is the only check
    held = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", held)[1] in {os.geteuid(), 0}
