"""The documented path of ``supervisor.text.redact``, for kinds that were written before it moved."""

from __future__ import annotations

from supervisor.text.redact import clean, excerpt, redact, redact_value, tail

__all__ = ["clean", "excerpt", "redact", "redact_value", "tail"]
