"""Failpoints: the instants at which a process may be killed or paused, or have its peer killed.

They are put around functions of the package from outside, in the processes of these tests only.
So they cost the package nothing, and the package itself has no way to arm one. Every
point names its seam; a seam that is missing fails ``install``, so a rename cannot disarm a point silently.

Standard library only: the keeper of these tests (``keeper/entry.py``) loads this file too.

A plan, in ``CHAOS_PLAN``, is a JSON list of ``{"point", "nth", "do", ...}``; ``do`` is ``self``, ``peer``
or ``both`` (SIGKILL, to the process that gets there, to the keeper of a supervisor or the supervisor
of a keeper, or to both) or ``pause`` (``seconds``). Every hit is a line in ``CHAOS_HITS`` before it acts.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# When ("before", "after" or "during" the call), whose, its name, and a condition on its arguments.
Seam = tuple[str, str, str, Callable[..., bool] | None]


def _is_launch(_client: Any, message: Any, *_: Any) -> bool:
    return bool(message.kind == "launch")


def _is(kind: str) -> Callable[..., bool]:
    return lambda _engine, message: message.kind == kind


def _record(name: str) -> Callable[..., bool]:
    return lambda _directory, record, *_: record == name


def _creates(_registry: Any, _index: Any, batch: list[Any]) -> bool:
    return any(type(message).__name__ == "Create" for message in batch)


def _gone(_directory: str, **named: Any) -> bool:
    return bool(named.get("gone"))


def _signalled(_directory: str, **named: Any) -> bool:
    return named.get("signalled") is not None


def _rules_out(_directory: str, holder: str) -> bool:
    return holder == "nobody"


def _by_keeper(_directory: str, holder: str, *_: object) -> bool:
    return holder != "nobody"


_REBUILDING = [False]
_HEALING = [False]


def _rebuilding(*_: Any, **__: Any) -> bool:
    return _REBUILDING[0]


def _healing(*_: Any, **__: Any) -> bool:
    return _HEALING[0]


SUPERVISOR: dict[str, Seam] = {
    "start.directory-made": ("after", "store.state_root:Layout", "make_job", None),
    "start.uncommitted": ("before", "runtime.registry_actor:Registry", "_commit", _creates),
    "start.committed": ("after", "runtime.registry_actor:Registry", "_commit", _creates),
    "launch.keeper-started": ("after", "trio:lowlevel", "open_process", None),
    "launch.before-send": ("before", "engines.local.keeper_client:KeeperClient", "send", _is_launch),
    "launch.sent": ("after", "engines.local.keeper_client:KeeperClient", "_send_frame", None),
    "launch.told": ("before", "engines.local.engine:LocalEngine", "_receive", _is("launched")),
    "exit.told": ("before", "engines.local.engine:LocalEngine", "_receive", _is("exit")),
    "launched.uncommitted": ("after", "store.index:Index", "set_launched", None),
    "settle.before": ("before", "store.index:Index", "finish", None),
    "settle.uncommitted": ("after", "store.index:Index", "finish", None),
    "write.committed": ("after", "store.index:Index", "write", None),
    "rule.claimed": ("after", "jobdir.records", "take_claim", _rules_out),
    "exit.noting": ("before", "engines.local.reconcile", "note", None),
    "exit.noted": ("after", "engines.local.reconcile", "note", None),
    "adopt.marked": ("after", "engines.local.reconcile", "adopt_marked", None),
    "stop.requested": ("after", "engines.local.stopping", "request_stop", None),
    "stop.nudged": ("after", "engines.local.stopping", "nudge_keeper", None),
    "stop.signalling": ("after", "jobdir.stops", "mark_stop", _signalled),
    "stop.termed": ("after", "keeper.tree_killer:TreeKiller", "_terminate", None),
    "stop.killed": ("after", "keeper.tree_killer", "_kill", None),
    "stop.unmarked": ("before", "jobdir.stops", "mark_stop", _gone),
    "stop.gone": ("after", "jobdir.stops", "mark_stop", _gone),
    "forget.trashed": ("after", "store.state_root:Layout", "discard", None),
    "forget.uncommitted": ("after", "store.index:Index", "delete", None),
    "trash.emptying": ("before", "store.state_root:Layout", "empty_trash", None),
    "trash.emptied": ("after", "store.state_root:Layout", "empty_trash", None),
    "migrate.opened": ("after", "store.index:Index", "_open", None),
    "migrate.migrated": ("after", "store.index:Index", "_migrate", None),
    "migrate.statement": ("during", "store.index:Index", "_migrate", None),  # at each of its statements
    "heal.set-aside": ("before", "store.index:Index", "_open", _healing),
    "heal.empty": ("before", "store.index:Index", "import_all", None),
    "heal.importing": ("after", "store.index:Index", "insert", _rebuilding),
    "heal.settling": ("after", "store.index:Index", "finish", _rebuilding),
    "heal.rebuilt": ("after", "store.index:Index", "import_all", None),
    "recover.found": ("after", "store.index:Index", "read_job", None),
}

KEEPER: dict[str, Seam] = {
    "keeper.hello": ("before", "keeper.loop:Keeper", "run", None),
    "keeper.launch-received": ("before", "keeper.loop:Keeper", "_launch", None),
    "keeper.claimed": ("after", "jobdir.records", "take_claim", _by_keeper),
    "keeper.spawned": ("after", "keeper.loop:Keeper", "_spawn", None),
    "keeper.process-recorded": ("after", "jobdir.records", "begin", None),
    "keeper.reaped": ("before", "keeper.loop:Keeper", "_ended", None),
    "keeper.exit-recorded": ("after", "jobdir.records", "end", None),
    "keeper.stop-recorded": ("after", "jobdir.records", "create", _record("stop.json")),
    "keeper.signalling": ("after", "jobdir.stops", "mark_stop", _signalled),
    "keeper.termed": ("after", "keeper.tree_killer:TreeKiller", "_terminate", None),
    "keeper.killed": ("after", "keeper.tree_killer", "_kill", None),
    "keeper.unmarked": ("before", "jobdir.stops", "mark_stop", _gone),
    "keeper.gone": ("after", "jobdir.stops", "mark_stop", _gone),
    "keeper.telling": ("after", "keeper.loop:Keeper", "_report_end", None),
}

# Reached only at the end of an attempt that is followed by another one; tests/process/test_retries.py kills there.
RETRIES: dict[str, Seam] = {
    "retry.described": ("after", "jobdir.records", "replace", _record("job.json")),
    "retry.moved": ("after", "store.series", "following", None),
    "retry.inserted": ("after", "store.index:Index", "insert", None),
    "retry.depending": ("after", "store.queue:Queue", "depend_on_next", None),
    **{name: SUPERVISOR[name] for name in ("settle.before", "settle.uncommitted", "write.committed")},
}

# Reached by a process that fires a schedule; tests/process/test_schedule_kills.py kills there.
SCHEDULES: dict[str, Seam] = {
    "fire.reading": ("before", "store.schedule_files", "read_stdin", None),
    "fire.undecided": ("before", "store.schedules:ScheduleRows", "decide", None),
    "fire.decided": ("after", "store.schedules:ScheduleRows", "decide", None),
    "fire.copied": ("after", "store.schedules", "replace_file", None),
    "fire.settled": ("after", "store.schedules:ScheduleRows", "settle", None),
    **{name: SUPERVISOR[name] for name in SUPERVISOR if name.startswith(("start.", "launch."))},
}

# Reached only by an index that has to be created; the driver damages it in those rounds.
HEALING = tuple(name for name in SUPERVISOR if name.startswith(("heal.", "recover.")))

# Reached only by a process that supervises jobs without a keeper; the driver kills keepers early in those rounds.
ORPHANS = tuple(name for name in SUPERVISOR if name.startswith(("stop.", "exit.")) and name != "stop.nudged")

# Reached only after a supervisor was killed at another point, together with its keeper.
PREPARED_BY = {"rule.claimed": "start.committed", "adopt.marked": "keeper.spawned"}


def keepers(root: str, parent: int | None = None) -> Iterator[int]:
    """Yield the pids of the keepers on a state root, of one supervisor or of all."""
    wanted = None if parent is None else b"CHAOS_PARENT=%d" % parent
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
            if len(words) > 4 and words[3].endswith(b"keeper/entry.py") and os.fsdecode(words[4]) == root:
                with open(f"/proc/{name}/environ", "rb") as environment:
                    if wanted is None or wanted in environment.read().split(b"\0"):
                        yield int(name)


class Plan:
    """The actions of this process, and at which hit of which point each happens."""

    def __init__(self, *, keeper: bool) -> None:
        self.keeper = keeper
        self.steps: list[dict[str, Any]] = json.loads(os.environ.get("CHAOS_PLAN", "[]"))
        self.counts: dict[str, int] = {}
        # opened before descriptors can run out
        self.hits = (
            os.open(os.environ["CHAOS_HITS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if self.steps else -1
        )

    def hit(self, point: str) -> None:
        self.counts[point] = self.counts.get(point, 0) + 1
        for step in self.steps:
            if step["point"] == point and step["nth"] == self.counts[point]:
                with contextlib.suppress(OSError):  # no descriptor to find a victim with: the moment passes
                    self.act(step)

    def act(self, step: dict[str, Any]) -> None:
        own, do = os.getpid(), step["do"]
        victims: list[tuple[str, int]] = []
        if do in {"peer", "both"}:
            if self.keeper:
                victims.append(("supervisor", int(os.environ["CHAOS_PARENT"])))
            else:
                victims += [("keeper", pid) for pid in keepers(os.environ["CHAOS_ROOT"], own)]
        if do in {"self", "both"}:
            victims.append(("keeper" if self.keeper else "supervisor", own))
        line = json.dumps({"point": step["point"], "pid": own, "do": do, "victims": victims}) + "\n"
        os.write(self.hits, line.encode())
        for _, pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if do == "pause":
            time.sleep(step["seconds"])


def _wrap(plan: Plan, point: str, seam: Seam, owner: Any) -> None:
    when, _, name, condition = seam
    held = inspect.getattr_static(owner, name)
    static = isinstance(held, staticmethod)
    inner = getattr(owner, name)
    if when == "during":
        _wrap_statements(plan, point, owner, name)
        return

    def wanted(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        return condition is None or condition(*args, **named)

    if inspect.iscoroutinefunction(inner):

        async def outer(*args: Any, **named: Any) -> Any:
            if when == "before" and wanted(args, named):
                plan.hit(point)
            result = await inner(*args, **named)
            if when == "after" and wanted(args, named):
                plan.hit(point)
            return result

    else:

        def outer(*args: Any, **named: Any) -> Any:
            if when == "before" and wanted(args, named):
                plan.hit(point)
            result = inner(*args, **named)
            if when == "after" and wanted(args, named):
                plan.hit(point)
            return result

    setattr(owner, name, staticmethod(outer) if static else outer)


def _wrap_statements(plan: Plan, point: str, owner: Any, name: str) -> None:
    inner = getattr(owner, name)

    def outer(index: Any) -> Any:
        index._db.set_trace_callback(lambda _: plan.hit(point))
        try:
            return inner(index)
        finally:
            index._db.set_trace_callback(None)

    setattr(owner, name, outer)


def _during(flag: list[bool], owner: Any, name: str) -> None:
    """Set ``flag`` while a method runs."""
    inner = getattr(owner, name)

    def outer(*args: Any, **named: Any) -> Any:
        flag[0] = True
        try:
            return inner(*args, **named)
        finally:
            flag[0] = False

    setattr(owner, name, outer)


def install(seams: dict[str, Seam], modules: Callable[[str], Any], *, keeper: bool) -> None:
    """Arm the points of the plan."""
    plan = Plan(keeper=keeper)
    names = {step["point"] for step in plan.steps}
    if not keeper:
        index = modules("store.index").Index
        _during(_REBUILDING, index, "import_all")
        _during(_HEALING, index, "_heal")
    for point in names & seams.keys():
        path, _, attribute = seams[point][1].partition(":")
        owner = modules(path)
        _wrap(plan, point, seams[point], getattr(owner, attribute) if attribute else owner)


def check() -> None:
    """Raise ``AttributeError`` for a seam that is missing."""
    from importlib import import_module

    for _, path, name, _ in (*SUPERVISOR.values(), *RETRIES.values(), *SCHEDULES.values(), *KEEPER.values()):
        module, _, attribute = path.partition(":")
        owner = import_module(module if module == "trio" else f"supervisor.{module}")
        inspect.getattr_static(getattr(owner, attribute) if attribute else owner, name)


def module_of_package(name: str) -> Any:
    from importlib import import_module

    return import_module(name if name == "trio" else f"supervisor.{name}")


def module_of_keeper(name: str) -> Any:
    return sys.modules[f"supervisor.{name}"]
