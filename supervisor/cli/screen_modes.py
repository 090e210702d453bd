"""The modes of a terminal that a program has changed: to restore them when it is left, and to set them on another."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Modes"]

_SEQUENCE: Final = re.compile(
    rb"\x1b\[\?([0-9;]{1,40})([hl])|\x1b\[(>[0-9;]{0,8}|<[0-9]{0,3})u|\x1b\[>4(?:;([0-9]))?m|\x1bc"
)
_CURSOR: Final = b"25"
# The alternate screen, the mouse, focus, pasting in brackets, keys of the cursor: others do no harm.
_KNOWN: Final = frozenset(
    {_CURSOR, b"1", b"47", b"1000", b"1002", b"1003", b"1004", b"1006", b"1047", b"1049", b"2004", b"2026"}
)
_LONGEST: Final = 48


class Modes:
    """What the output of a program has set, as far as it was seen."""

    def __init__(self) -> None:
        self._on: dict[bytes, bool] = {}
        self._keyboards = 0  # how often the kitty protocol was pushed
        self._modified = b""
        self._rest = b""

    def see(self, data: bytes) -> None:
        """Take the next output."""
        data = self._rest + data
        end = 0
        for match in _SEQUENCE.finditer(data):
            end = match.end()
            names, flag, keyboard, modified = match.groups()
            if names is not None:
                self._on |= {name: flag == b"h" for name in names.split(b";") if name in _KNOWN}
            elif keyboard is not None:
                self._keyboards = self._keyboards + 1 if keyboard.startswith(b">") else max(0, self._keyboards - 1)
            elif match.group().endswith(b"m"):
                self._modified = b"" if modified in {None, b"0"} else modified
            else:
                self._on, self._keyboards, self._modified = {}, 0, b""
        self._rest = data[max(end, len(data) - _LONGEST) :]

    def redo(self) -> bytes:
        """Return what sets the modes on a terminal that has none of them."""
        sequences = [b"\x1b[?%s%s" % (name, b"h" if on else b"l") for name, on in self._changed()]
        return b"".join([*sequences, *([b"\x1b[>1u"] * self._keyboards), *self._key_sequence(self._modified)])

    def undo(self) -> bytes:
        """Return what restores the modes of a terminal on which the program was shown."""
        sequences = [b"\x1b[?%s%s" % (name, b"l" if on else b"h") for name, on in self._changed()]
        keyboards = [b"\x1b[<%du" % self._keyboards] if self._keyboards else []
        return b"".join([*keyboards, *self._key_sequence(b"0" if self._modified else b""), *sequences, b"\x1b[0m"])

    def _changed(self) -> list[tuple[bytes, bool]]:
        return [(name, on) for name, on in self._on.items() if on is not (name == _CURSOR)]

    @staticmethod
    def _key_sequence(value: bytes) -> list[bytes]:
        return [b"\x1b[>4;%sm" % value] if value else []
