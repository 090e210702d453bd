"""The facades keep step with ``Supervisor``: same methods, same arguments, same defaults, same types.

What a type checker makes of them is checked by ``tests/typing/embedding_cases.py``.
"""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import pytest

from supervisor import AsyncioSupervisor, BlockingSupervisor, Supervisor, open_supervisor, open_supervisor_asyncio

INSIDE = {"close", "glance"}  # for the package's own use
STREAMS = {"events", "follow"}
CALLS = sorted(
    name
    for name in dir(Supervisor)
    if not name.startswith("_") and name not in INSIDE and callable(getattr(Supervisor, name))
)


ROOT = Path(__file__).parents[2]
GENERATOR = runpy.run_path(str(ROOT / "docs/generate_facades.py"))


@pytest.mark.parametrize("name", GENERATOR["MODULES"])
def test_the_generated_modules_are_up_to_date(name: str) -> None:
    current = (ROOT / "supervisor/embedding" / name).read_text(encoding="utf-8")
    assert current == GENERATOR["generated"](name), "regenerate with `python docs/generate_facades.py`"


@pytest.mark.parametrize("name", GENERATOR["MODULES"])
def test_each_word_that_the_generator_exchanges_is_used(name: str) -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in GENERATOR["SOURCES"].values())
    assert [word for word in GENERATOR["MODULES"][name].words if word not in source] == []


def test_what_is_compared() -> None:
    assert {"start", "run", "status", "list", "wait", "result", "cancel", "forget", "prune"} | STREAMS <= set(CALLS)


@pytest.mark.parametrize("facade", [AsyncioSupervisor, BlockingSupervisor])
def test_the_facades_have_the_same_methods_and_no_others(facade: type) -> None:
    public = {name for name in dir(facade) if not name.startswith("_")}
    assert public == {*CALLS, "settings"}


@pytest.mark.parametrize("facade", [AsyncioSupervisor, BlockingSupervisor])
@pytest.mark.parametrize("name", CALLS)
def test_the_signatures_are_the_same(facade: type, name: str) -> None:
    theirs, ours = (inspect.signature(getattr(each, name)) for each in (Supervisor, facade))
    assert ours.parameters == theirs.parameters
    if name not in STREAMS:
        assert ours.return_annotation == theirs.return_annotation


@pytest.mark.parametrize("name", sorted(set(CALLS) - STREAMS))
def test_what_is_awaited_and_what_is_not(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(AsyncioSupervisor, name))
    assert not inspect.iscoroutinefunction(getattr(BlockingSupervisor, name))


@pytest.mark.parametrize("opener", [open_supervisor_asyncio, BlockingSupervisor])
def test_they_are_opened_alike(opener: object) -> None:
    assert callable(opener)
    assert inspect.signature(opener).parameters == inspect.signature(open_supervisor).parameters
