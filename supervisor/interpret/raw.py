"""The ``raw`` kind: done on exit status 0, and stdout is the value as it stands."""

from __future__ import annotations

from base64 import b64encode

from supervisor.interpret import Outcome, Value, Verdict, exit_verdict

__all__ = ["Raw"]


class Raw:
    """Judges by the exit status alone."""

    name = "raw"

    def verdict(self, outcome: Outcome) -> Verdict:
        """Return ``exited`` for status 0."""
        return exit_verdict(outcome)

    def value(self, outcome: Outcome) -> Value:
        """Return stdout as text, or base64 of it where it is not UTF-8."""
        stdout = outcome.read_stdout()
        try:
            return Value(value=stdout.decode())
        except UnicodeDecodeError:
            return Value(value=b64encode(stdout).decode("ascii"), encoding="base64")
