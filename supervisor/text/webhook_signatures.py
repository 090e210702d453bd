"""Signatures of webhooks, as the specification Standard Webhooks has them: HMAC-SHA256 over id, timestamp and body."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["PREFIX", "new_secret", "parse_secrets", "sign"]

PREFIX: Final = "whsec_"
_LENGTHS: Final = range(24, 65)
"""How many bytes a key may have."""


def new_secret() -> str:
    """Return a new random secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def parse_secrets(text: str) -> list[bytes]:
    """Return the keys in one or two secrets that a space separates.

    Raises:
        ValueError: it has none, more than two, or one that is no secret. The message has nothing of the text.
    """
    words = text.split()
    if not 1 <= len(words) <= 2:
        message = f"it has {len(words)} secrets"
        raise ValueError(message)
    return [_key(word, number) for number, word in enumerate(words, 1)]


def _key(word: str, number: int) -> bytes:
    try:
        key = base64.b64decode(word.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not word.startswith(PREFIX) or len(key) not in _LENGTHS:
        message = f"secret {number} is not {PREFIX} and the base64 of {_LENGTHS[0]} to {_LENGTHS[-1]} bytes"
        raise ValueError(message)
    return key


def sign(keys: Iterable[bytes], event_id: str, timestamp: int, body: bytes) -> Sequence[tuple[str, str]]:
    """Return the headers of a webhook; ``timestamp`` is that of the attempt, in seconds since 1970."""
    signed = b"%s.%d.%s" % (event_id.encode("ascii"), timestamp, body)
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode("ascii") for key in keys]
    return (
        ("webhook-id", event_id),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", " ".join(f"v1,{each}" for each in signatures)),
    )
