"""Deprecates public names as Trio does: they work as before, and warn where they are used.

The policy is in ``docs/versions.md``. A deprecated name stays in the tests, which expect its warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["SupervisorDeprecationWarning", "deprecated", "warn_deprecated"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SupervisorDeprecationWarning(FutureWarning):
    """A name of this package is used that is to be removed; the message names its replacement.

    Before 1.0 it is no ``DeprecationWarning``: Python hides those from all but tests. The usual filters apply.
    """


def warn_deprecated(thing: str, version: str, *, instead: str | None, stacklevel: int = 2) -> None:
    """Warn that ``thing`` is used.

    Args:
        thing: the qualified name, or a phrase such as "the argument x of start".
        version: the first release in which it was deprecated.
        instead: what to use; ``None`` if there is no replacement.
        stacklevel: 2 is the caller of the function that calls this one, 3 is its caller.
    """
    instead_text = "with no replacement" if instead is None else f"use {instead} instead"
    separator = " " if instead is None else "; "
    message = f"{thing} is deprecated since trio-supervisor {version}{separator}{instead_text}"
    warnings.warn(SupervisorDeprecationWarning(message), stacklevel=stacklevel + 1)


def deprecated(version: str, *, instead: str | None) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Return a decorator for a deprecated function: each call warns, and the docstring says so.

    A function of an event loop warns when it is called, before it is awaited.

    Args:
        version: the first release in which it was deprecated.
        instead: what to use; ``None`` if there is no replacement.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        thing = f"{function.__module__}.{function.__qualname__}"

        @wraps(function)
        def warn_and_call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            warn_deprecated(thing, version, instead=instead)
            return function(*args, **kwargs)

        notice = f".. deprecated:: {version}" + ("" if instead is None else f"\n   Use {instead} instead.")
        warn_and_call.__doc__ = f"{(function.__doc__ or '').rstrip()}\n\n{notice}\n".lstrip()
        return warn_and_call

    return decorate
