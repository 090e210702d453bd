"""The commands of chaos: each has a known outcome and leaves marks of its own.

A command appends ``begin PID JOB`` to its own file when it runs, and ``end exit N JOB`` or
``end signal N JOB`` right before it ends that way. These marks are evidence that is independent of the package.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

GRACE_SECONDS = 0.15

# A job inherits the limits of its caller, perhaps those of a scarce moment; the shell itself needs ten descriptors.
_LIMITS = "ulimit -S -n 256; ulimit -S -v unlimited; "
_BEGIN = _LIMITS + 'm="$CHAOS_MARKS/$CHAOS_TOKEN"; printf "begin %s %s\\n" "$$" "$SUPERVISOR_JOB_ID" >>"$m"; '
_DEAF = "trap '' TERM; "
_REST = "while :; do sleep 0.3; done"
# In a session of its own, without its parent, ignoring SIGTERM; and with the leader, all at once.
_ESCAPE = (
    "setsid sh -c 'trap \"\" TERM; while :; do sleep 0.3; done' & "
    '( ( setsid sh -c "while :; do sleep 0.3; done" & ) & ) ; '
    "( while :; do sleep 0.3; done ) & "
)


@dataclass
class Command:
    """A command, with its expected outcome.

    ``end`` is ``("exit", 3)``, ``("signal", 9)``, ``("launch", 127)`` for a command that cannot be launched, or
    ``None`` for one that never ends by itself. ``output`` is its whole stdout.
    """

    token: str
    kind: str
    argv: list[str]
    end: tuple[str, int] | None
    output: bytes = b""
    stdin: bytes | None = None
    deadline: float | None = None
    key: str | None = None
    marks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        shown = f"{self.kind} {self.token}, to end with {self.end}"
        return shown if self.deadline is None else f"{shown}, deadline {self.deadline} s"


def _shell(token: str, script: str) -> list[str]:
    return ["/bin/sh", "-c", _BEGIN + script, token]


def _finish(end: tuple[str, int]) -> str:
    how, number = end
    return f'printf "end {how} {number} %s\\n" "$SUPERVISOR_JOB_ID" >>"$m"; ' + (
        f"exit {number}" if how == "exit" else f"kill -{number} $$"
    )


def _pause(rng: random.Random) -> str:
    return f"sleep {rng.choice((0, 0, 0.02, 0.1, 0.25, 0.4))}; "


def make(rng: random.Random) -> Command:
    """Return a random command."""
    token = f"{rng.getrandbits(64):016x}"
    kind = rng.choices(
        ("exit", "signal", "output", "stdin", "sleeper", "deaf", "tree", "missing"),
        (6, 3, 4, 3, 3, 2, 4, 1),
    )[0]
    key = f"key-{token}" if rng.random() < 0.3 else None
    if kind == "missing":
        return Command(token, kind, ["/nonexistent/command", token], ("launch", 127), key=key)
    if kind in {"sleeper", "deaf", "tree"}:
        script = (_DEAF if kind == "deaf" else "") + (_ESCAPE if kind == "tree" else "") + _REST
        deadline = rng.choice((None, 0.2, 0.35, 0.5))
        return Command(token, kind, _shell(token, script), None, deadline=deadline, key=key)
    end = ("exit", rng.choice((0, 0, 0, 1, 7, 124, 137, 255)))
    if kind == "signal":
        end = ("signal", rng.choice((9, 15, 10, 1)))
    output, stdin, script = b"", None, _pause(rng)
    if kind == "output":
        half = rng.choice((1, 40, 400))
        line = f"{token} é\n"  # not only ASCII
        write = f"i=0; while [ $i -lt {half} ]; do echo '{line.strip()}'; i=$((i+1)); done; "
        script = write + script + write + "echo err >&2; "
        output = line.encode() * half * 2
    elif kind == "stdin":
        stdin = output = rng.randbytes(rng.choice((0, 1, 4096, 200_000)))
        script = "cat; " + script
    return Command(token, kind, _shell(token, script + _finish(end)), end, output, stdin, key=key)
