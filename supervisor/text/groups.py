"""The exceptions inside exception groups."""

from __future__ import annotations

__all__ = ["leaves"]


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions that a group contains at any depth; an exception that is no group is its own leaf."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    held: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return [leaf for each in held for leaf in leaves(each)]
