"""A deprecated name works as before, and warns at the line of its caller."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
import warnings

import pytest

import supervisor
from supervisor.deprecation import SupervisorDeprecationWarning, deprecated, warn_deprecated

MODULE = __name__


@deprecated("0.9.0", instead="`sum`")
def added(one: int, other: int) -> int:
    """Return the sum."""
    return one + other


@deprecated("0.9.0", instead=None)
async def awaited() -> str:
    return "value"


def line_here() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_a_deprecated_function_works_and_warns_its_caller() -> None:
    with pytest.warns(SupervisorDeprecationWarning) as caught:
        assert (added(1, 2), here := line_here()) == (3, here)
    (found,) = caught
    assert str(found.message) == f"{MODULE}.added is deprecated since trio-supervisor 0.9.0; use `sum` instead"
    assert (found.filename, found.lineno) == (__file__, here)


async def test_a_deprecated_function_of_an_event_loop_warns_when_it_is_called() -> None:
    with pytest.warns(
        SupervisorDeprecationWarning, match=r"since trio-supervisor 0\.9\.0 with no replacement$"
    ) as caught:
        call, here = awaited(), line_here()
    assert (caught[0].filename, caught[0].lineno) == (__file__, here)
    assert await call == "value"


def test_the_docstring_says_it() -> None:
    assert added.__doc__ == "Return the sum.\n\n.. deprecated:: 0.9.0\n   Use `sum` instead.\n"
    assert awaited.__doc__ == ".. deprecated:: 0.9.0\n"
    assert (added.__name__, inspect.signature(added).parameters.keys()) == ("added", {"one", "other"})


def test_what_is_no_function_warns_too() -> None:
    def start(**options: object) -> None:
        if "old" in options:
            warn_deprecated("the argument old of start", "0.9.0", instead="new")

    with pytest.warns(SupervisorDeprecationWarning, match="the argument old of start is deprecated") as caught:
        start(old=1)
    assert caught[0].filename == __file__


def test_users_see_it_and_may_hide_it_or_make_it_an_error() -> None:
    assert supervisor.SupervisorDeprecationWarning is SupervisorDeprecationWarning
    with warnings.catch_warnings():
        warnings.simplefilter("error", SupervisorDeprecationWarning)
        with pytest.raises(SupervisorDeprecationWarning):
            added(1, 2)
    program = """
        from supervisor.deprecation import warn_deprecated
        def caller():
            warn_deprecated("x", "0.9.0", instead="y")
        caller()
    """
    for option, seen in ((), True), (("-W", "ignore::FutureWarning"), False):
        argv = [sys.executable, *option, "-c", textwrap.dedent(program)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
        assert ("SupervisorDeprecationWarning: x is deprecated" in done.stderr) is seen
