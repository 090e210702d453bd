"""Where an HTTP server listens: a port, or a UNIX socket that no other user reaches or replaces.

The first process that binds a port is given the tokens of those who connect to it. A UNIX socket stands in
a directory that only its owner may write to, and has the mode 0600; so it is the server's own, and its
callers are of the same user.
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

__all__ = ["Address", "let_go", "listen", "parse_address", "peer_may"]

_LONGEST_PATH: Final = 107  # of sockaddr_un, less the NUL at the end


@attrs.frozen(slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int = 0
    path: str | None = None
    """Of a UNIX socket; ``host`` is then the name by which its clients call it."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """Return it as it stands in a URL, or where the socket is."""
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
        if not os.path.isabs(path) or path.endswith("/") or len(os.fsencode(path)) > _LONGEST_PATH:
            message = f"--http is {text!r}; after unix: it accepts an absolute path of at most {_LONGEST_PATH} bytes"
            raise InvalidArguments(message, repair="See `supervisor mcp --help`.")
        return Address("localhost", path=path)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        message = (
            f"--http is {text!r}; it accepts HOST:PORT, as in 127.0.0.1:8765 (port 0: any that is free), or unix:PATH"
        )
        raise InvalidArguments(message, repair="See `supervisor mcp --help`.")
    return Address(host, int(port))


def listen(address: Address) -> socket.socket:
    """Return a socket that listens, bound here so that what the system says to that is told as it is.

    Raises:
        PermissionDenied: it cannot be bound.
        StateUnsafe: others could replace the UNIX socket, and so be given the tokens of its clients.
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
            umask = os.umask(0o177)  # from its first moment
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
    if found.st_mode & 0o022:  # sticky or not: there others can be first
        message = f"others could make the socket {path} before us: {above} can be written by other users"
        raise StateUnsafe(message, repair="Choose a directory that only you may write to, as in $XDG_RUNTIME_DIR.")


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that is no more.

    Raises:
        OSError: something else stands there, or another process listens.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        message = "there is something that is no socket"
        raise OSError(message)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    message = "a server listens there"
    raise OSError(message)


def let_go(address: Address) -> None:
    """Remove the UNIX socket of a server that ends."""
    if address.path is not None:
        with contextlib.suppress(OSError):
            os.unlink(address.path)


def peer_may(connection: socket.socket) -> bool:
    """Whether the process at the other end of a UNIX socket is of our user, or of root."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the mode of the socket has told
    held = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", held)[1] in {os.geteuid(), 0}
