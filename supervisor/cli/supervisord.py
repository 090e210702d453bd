"""supervisord, whose distribution is named ``supervisor``, has a package of the same name as this one."""

from __future__ import annotations

__all__ = ["ADVICE", "supervisord_version"]

ADVICE = "Install trio-supervisor in an environment of its own: either has overwritten files of the other."


def supervisord_version() -> str | None:
    """Return the version of supervisord that is installed in this environment; ``None`` without it."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and few commands need it

    try:
        return version("supervisor")
    except PackageNotFoundError:
        return None
