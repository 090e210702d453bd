"""Generates the methods of the facades for asyncio and for threads from those of ``Supervisor``.

``python docs/generate_facades.py`` writes them into ``supervisor/embedding``; a test fails while they differ. Each
public coroutine becomes a method: its signature, its docstring in the terms of the facade, and a call through the
portal. Only maintainers need this program, so it is next to that of the picture of the states, outside the package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = {
    "Supervisor": ROOT / "supervisor/runtime/supervisor.py",
    "ControlMethods": ROOT / "supervisor/runtime/control_methods.py",
    "OutputMethods": ROOT / "supervisor/runtime/output_methods.py",
    "QueueMethods": ROOT / "supervisor/runtime/queue_methods.py",
    "ScheduleMethods": ROOT / "supervisor/runtime/schedule_methods.py",
}
"""The class ``Supervisor`` and its bases, and where they are."""

STREAMS: Final = {"AsyncGenerator[Subscription]": "JobEvent", "AsyncGenerator[Chunks]": "bytes"}
"""The item types of iterators that context managers return."""
AT_ONCE: Final = {"status": "glance"}
"""Methods of ``Supervisor`` that return without waiting, or return ``None``."""
REQUESTS: Final = {"run", "start"}
"""Calls that take the options of a job, which become one value at once: a wrong option is refused by the caller."""
_MOST_ON_A_LINE: Final = 5
"""With more keywords than these a call takes a line for each argument, as the formatter has it."""
SCOPED: Final = {"run"}
"""Calls that continue when their task is discarded: a cancellation would stop a job."""

MODULE: Final = '''"""The methods of ``{facade}``, made by docs/generate_facades.py from those of ``Supervisor``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, {imports}
from contextlib import {managers}
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar, Unpack, overload

from supervisor.jobs.validation import spec_of
from supervisor.metrics import Metrics
from supervisor.model import (
    Explanation,
    GroupInfo,
    GroupOptions,
    Job,
    JobEvent,
    JobOptions,
    JobPage,
    JobSpec,
    Result,
    SpendReport,
)

if TYPE_CHECKING:
    from supervisor.model.schedules import ScheduleInfo
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["{facade}Methods"]

_T = TypeVar("_T")


class {facade}Methods:
    """Makes the calls of ``Supervisor`` through the portal of ``{facade}``."""

    if TYPE_CHECKING:

        {define} _ask(
            self,
            ask: Callable[[Supervisor], Awaitable[_T]],
            at_once: Callable[[Supervisor], _T | None] | None = None,
            *,
            scoped: bool = False,
        ) -> _T: ...

        def _open(
            self,
            enter: Callable[[Supervisor], AbstractAsyncContextManager[AsyncIterator[_T]]],
        ) -> {manager}[{iterator}[_T]]: ...

'''


class World(NamedTuple):
    """The terms of each facade for Trio's terms, in code and docstrings."""

    facade: str
    imports: str
    managers: str
    define: str
    call: str
    manager: str
    iterator: str
    words: dict[str, str]


MODULES: Final = {
    "aio_methods.py": World(
        facade="AsyncioSupervisor",
        imports="Mapping, Sequence",
        managers="AbstractAsyncContextManager",
        define="async def",
        call="await self",
        manager="AbstractAsyncContextManager",
        iterator="AsyncIterator",
        words={"; its ``restarts`` counts that": ""},
    ),
    "thread_methods.py": World(
        facade="BlockingSupervisor",
        imports="Iterator, Mapping, Sequence",
        managers="AbstractAsyncContextManager, AbstractContextManager",
        define="def",
        call="self",
        manager="AbstractContextManager",
        iterator="Iterator",
        words={
            "; its ``restarts`` counts that": "",
            "an async iterator": "an iterator",
            "Cancellation\n": "Interruption\n",
            "is cancelled before": "is interrupted before",
            "is cancelled then": "is interrupted then",
            "Cancelling ": "Interrupting ",
        },
    ),
}


def _coroutines(source: str, name: str) -> Iterator[ast.AsyncFunctionDef]:
    """Yield the public coroutines of a class."""
    for found in ast.walk(ast.parse(source)):
        if isinstance(found, ast.ClassDef) and found.name == name:
            for node in found.body:
                if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
                    yield node


def _call(node: ast.AsyncFunctionDef, world: World, *, stream: bool) -> str:
    """Return the body of a method."""
    given = ", ".join(argument.arg for argument in node.args.args[1:])
    if stream:
        return f"        return self._open(lambda sup: sup.{node.name}({given}))\n"
    names = [f"{argument.arg}={argument.arg}" for argument in node.args.kwonlyargs]
    if node.args.kwarg is not None:
        if node.name in REQUESTS:
            given = f"spec_of({given}, {node.args.kwarg.arg})"
        else:
            names.append(f"**{node.args.kwarg.arg}")
    words = [*filter(None, given.split(", ")), *names] if len(names) > _MOST_ON_A_LINE else []
    given = ", ".join(filter(None, [given, *names]))
    if words:
        lines = "".join(f"                {word},\n" for word in words)
        call = f"            lambda sup: sup.{node.name}(\n{lines}            )\n"
        return f"        return {world.call}._ask(\n{call}        )\n"
    more = f", lambda sup: sup.{AT_ONCE[node.name]}({given})" if node.name in AT_ONCE else ""
    scoped = ", scoped=True" if node.name in SCOPED else ""
    return f"        return {world.call}._ask(lambda sup: sup.{node.name}({given}){more}{scoped})\n"


def _method(node: ast.AsyncFunctionDef, lines: list[str], world: World) -> str:
    """Return a method: the signature and docstring of ``Supervisor`` in the facade's terms, and the body."""
    returned = "" if node.returns is None else ast.unparse(node.returns)
    stream = returned in STREAMS
    first, last = node.body[0].lineno - 1, node.body[0].end_lineno
    overloads = "    @overload\n" if "overload" in map(ast.unparse, node.decorator_list) else ""
    head = "".join(lines[node.lineno - 1 : node.lineno if overloads else first])
    head = head.replace("async def", "def" if stream else world.define, 1)
    if stream:
        head = head.replace(returned, f"{world.manager}[{world.iterator}[{STREAMS[returned]}]]")
    if overloads:
        return overloads + head
    docstring = "".join(lines[first:last])
    for trio, other in world.words.items():
        docstring = docstring.replace(trio, other)
    return head + docstring + _call(node, world, stream=stream)


def generated(file: str) -> str:
    """Return the text of a module in ``supervisor/embedding``."""
    world = MODULES[file]
    methods: list[str] = []
    for name, path in SOURCES.items():
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        methods += [_method(node, lines, world) for node in _coroutines(source, name)]
    return MODULE.format(**world._asdict()) + "\n".join(methods)


if __name__ == "__main__":
    for name in MODULES:
        ROOT.joinpath("supervisor/embedding", name).write_text(generated(name), encoding="utf-8")
