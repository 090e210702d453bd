"""The orders of a job: what a process needs to launch it, as they stand on disk."""

from __future__ import annotations

import time

from supervisor.keeper import protocol

__all__ = ["Orders"]


class Orders(protocol.Fields):
    """What a keeper is to run. ``begun_ns`` is when its time began to run, if not with its start.

    ``settings`` are the umask, the niceness and the resource limits of the command, as ``protocol.Launch`` has them.

    On disk these are fields, each ended by a NUL, that begin with a letter for their kind: decoding JSON would take as
    long as the rest of the start.
    """

    job_id: str
    argv: list[bytes]
    workspace: bytes
    environment: dict[bytes, bytes]
    deadline: float | None
    grace: float
    limit: int
    begun_ns: int | None
    settings: tuple[int, int, dict[int, tuple[int, int]]] | None
    merge_stderr: bool = False
    no_new_privs: bool = False

    def encode(self) -> bytes:
        """Return the orders as they stand on disk."""
        fields = [b"i" + self.job_id.encode("ascii"), b"w" + self.workspace]
        fields += [b"a" + word for word in self.argv]
        fields += [b"e" + name + b"=" + value for name, value in self.environment.items()]
        numbers = ((b"d", self.deadline), (b"g", self.grace), (b"l", self.limit), (b"b", self.begun_ns))
        fields += [tag + repr(number).encode("ascii") for tag, number in numbers if number is not None]
        if self.settings is not None:
            umask, nice, limits = self.settings
            fields += [b"u%d" % umask, b"n%d" % nice, *(b"r%d %d %d" % (name, *both) for name, both in limits.items())]
        if self.merge_stderr:
            fields.append(b"m")
        fields += [b"p"] if self.no_new_privs else []
        return b"".join(field + b"\0" for field in fields)

    @classmethod
    def decode(cls, data: bytes) -> Orders:
        """Return the orders that ``encode`` has encoded.

        Raises:
            KeyError, ValueError: it has encoded no such data.
        """
        fields: dict[bytes, list[bytes]] = {}
        for field in data.split(b"\0")[:-1]:
            fields.setdefault(field[:1], []).append(field[1:])
        deadline, begun = fields.get(b"d"), fields.get(b"b")
        return cls(
            job_id=fields[b"i"][0].decode("ascii"),
            argv=fields[b"a"],
            workspace=fields[b"w"][0],
            environment=dict(entry.split(b"=", 1) for entry in fields.get(b"e", ())),
            deadline=float(deadline[0]) if deadline else None,
            grace=float(fields[b"g"][0]),
            limit=int(fields[b"l"][0]),
            begun_ns=int(begun[0]) if begun else None,
            settings=_settings_of(fields),
            merge_stderr=b"m" in fields,
            no_new_privs=b"p" in fields,
        )

    def seconds_left(self) -> float | None:
        """Return how long the command may run from now on."""
        if self.deadline is None or self.begun_ns is None:
            return self.deadline
        return self.deadline - (time.time_ns() - self.begun_ns) / 1e9


def _settings_of(fields: dict[bytes, list[bytes]]) -> tuple[int, int, dict[int, tuple[int, int]]] | None:
    if b"u" not in fields or b"n" not in fields:
        return None
    limits = [tuple(map(int, each.split())) for each in fields.get(b"r", ())]
    return int(fields[b"u"][0]), int(fields[b"n"][0]), {name: (soft, hard) for name, soft, hard in limits}
