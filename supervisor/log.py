"""Log events of the library: structlog over the standard logger ``supervisor``, never configured here.

A host decides about level, handlers and format through the standard ``logging`` module, as
for any library. structlog is imported at the first event that somebody wants to see.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

__all__ = ["debug", "info", "warning"]

_standard = logging.getLogger("supervisor")


@cache
def _bound() -> Any:
    import structlog

    return structlog.wrap_logger(
        _standard,
        processors=[structlog.processors.format_exc_info, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def debug(event: str, **facts: Any) -> None:
    """Log what only a maintainer wants to know."""
    if _standard.isEnabledFor(logging.DEBUG):
        _bound().debug(event, **facts)


def info(event: str, **facts: Any) -> None:
    """Log a step in the life of a job."""
    if _standard.isEnabledFor(logging.INFO):
        _bound().info(event, **facts)


def warning(event: str, **facts: Any) -> None:
    """Log what should not have happened, and was dealt with."""
    if _standard.isEnabledFor(logging.WARNING):
        _bound().warning(event, **facts)
