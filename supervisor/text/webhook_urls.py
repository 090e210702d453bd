"""The addresses of webhooks: which URLs are accepted, and to which IP addresses a webhook may be sent.

A webhook is a request that this machine sends on behalf of the one who started a job. So that it cannot reach services
that only this machine can reach, an address must be public, be loopback where the URL says so itself, or be in a
network that the user has allowed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

__all__ = [
    "ANYWHERE",
    "Address",
    "Network",
    "Url",
    "is_allowed",
    "parse_networks",
    "parse_public_url",
    "parse_url",
    "shown",
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANYWHERE: Final = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))
"""Allows every address, where only the text of a URL is to be checked."""
_MAX_CHARACTERS: Final = 2048
_PORTS: Final = {"https": 443, "http": 80}
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 addresses whose last 32 bits are an IPv4 address that a gateway sends to: on a network that has only IPv6, the
name server makes such an address for each host that has only IPv4."""
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""What is assigned to the public network. ``is_global`` of Python 3.11 has site-local addresses as well."""
_SPECIAL: Final = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "3fff::/20")))
"""Networks of the registry of special addresses that ``is_global`` of some versions of Python takes for public."""
_LOCAL: Final = "localhost"


class Url(NamedTuple):
    """A URL that a webhook can be sent to.

    Attributes:
        is_tls: whether it is https.
        host: a name in lower case, or an IP address without brackets.
        port: of the server.
        target: the path and the query.
        authority: the host and the port as the header ``Host`` has them.
        is_loopback: the host is loopback by what the URL says, without a name server.
    """

    is_tls: bool
    host: str
    port: int
    target: str
    authority: str
    is_loopback: bool

    def __str__(self) -> str:
        """Return scheme, host and port: the rest may hold a secret."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"


def parse_url(text: str, allowed: Iterable[Network] = ()) -> Url:
    """Return a URL.

    Raises:
        ValueError: no webhook can be sent to it. The message says why; it has nothing of the text that may be secret.
    """
    if len(text) > _MAX_CHARACTERS:
        message = f"it has more than {_MAX_CHARACTERS} characters"
        raise ValueError(message)
    if not text.isascii() or any(character <= " " or character == "\x7f" for character in text):
        message = "it has a space or another character that a URL must encode; write a host with others as xn--..."
        raise ValueError(message)
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        message = "its host or its port cannot be understood"
        raise ValueError(message) from error
    if parts.scheme not in _PORTS:
        message = "it must begin with https://"
        raise ValueError(message)
    if "@" in parts.netloc:
        message = "it has a user name or a password; have the receiver check the signature"
        raise ValueError(message)
    if not host or "\\" in parts.netloc:
        message = "it has no host"
        raise ValueError(message)
    if port == 0:
        message = "its port is 0"
        raise ValueError(message)
    if "#" in text:
        message = "it has a fragment, which is never sent"
        raise ValueError(message)
    address = _address(host)
    is_loopback = host == _LOCAL or (address is not None and _is_loopback(address))
    if parts.scheme == "http" and not is_loopback:
        message = "it is http and its host is not loopback; it must be https"
        raise ValueError(message)
    if address is not None and not is_loopback and not is_allowed(address, allowed):
        message = f"its address {address} is not public"
        raise ValueError(message)
    shown = f"[{host}]" if address is not None and address.version == 6 else host
    authority = shown if port in {None, _PORTS[parts.scheme]} else f"{shown}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(parts.scheme == "https", host, port or _PORTS[parts.scheme], target, authority, is_loopback)


def parse_public_url(text: str, allowed: Iterable[Network] = ()) -> Url:
    """Return a URL that a client over the network gives: https, and on this machine only if the user has allowed that.

    Raises:
        ValueError: as ``parse_url``.
    """
    allowed = tuple(allowed)
    url = parse_url(text, allowed)
    if not url.is_tls:
        message = "it must begin with https://"
        raise ValueError(message)
    address = _address(url.host)
    if address is not None and not is_allowed(address, allowed):
        message = f"its address {address} is not public"
        raise ValueError(message)
    return url._replace(is_loopback=False)


def shown(text: str) -> str:
    """Return scheme, host and port of a URL, as the rest may hold a secret; ``?`` for one that is none."""
    try:
        return str(parse_url(text, ANYWHERE))
    except ValueError:
        return "?"


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(address: Address) -> bool:
    """Whether it is loopback. An IPv4 address in one of IPv6 never is; ``is_loopback`` of Python 3.13 differs."""
    return address.is_loopback and (address.version == 4 or address.ipv4_mapped is None)


def _plain(address: Address) -> Address:
    """Return the address that packets to an address reach in the end, as far as it says so itself."""
    if address.version == 4:
        return address
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    found = address.ipv4_mapped or address.sixtofour
    if found is None and address.teredo is not None:
        found = address.teredo[1]
    return address if found is None else found


def is_allowed(address: Address, allowed: Iterable[Network] = (), *, loopback: bool = False) -> bool:
    """Whether a webhook may be sent to an address; ``loopback``: also to this machine, as the URL says so itself."""
    reached = {address, _plain(address)}
    if any(each in network for each in reached for network in allowed):
        return True
    if loopback:
        return _is_loopback(address)
    if address.version == 6 and address.scope_id is not None:
        return False
    return all(map(_is_public, reached - {address} if address in _TRANSLATED else reached))


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    is_unicast = address.version == 4 or address in _UNICAST
    return is_unicast and not any(address in each for each in _SPECIAL if each.version == address.version)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks in a text, which spaces or commas separate.

    Raises:
        ValueError: one is no network.
    """
    return tuple(ipaddress.ip_network(word) for word in text.replace(",", " ").split())
