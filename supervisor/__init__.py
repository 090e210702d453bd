"""Durable background jobs for async Python: the supervisor is disposable, jobs are not.

The way of a job through the files, top down; each imports only from rows below it::

    cli/                what people type
    load/               the load generator of `supervisor bench`
    mcp_server/         what MCP hosts call, with the extra `mcp`
    embedding/          the same for asyncio and for threads, on a Trio thread behind a portal
    opening             open_supervisor: puts a supervisor together
    core                Supervisor: the front door in Trio
    launching  gate     from a request to a job in our care; open or closed
    follow  workspaces  reading what a job writes; where it runs
    actors/             registry (commits, wakes), job (one task each), janitor
    catalog             everything that needs no event loop: ask, settle, forget, cancel
    endings  listing    cancelling and waiting for many jobs at once; pages of jobs
    progress            how far a running job is, by what it has written so far
    settle              from how a command ended to what its job is
    outputs             reading what a job has written
    tracing             a span for each job, where OpenTelemetry is installed
    store/              directories, rows, the SQLite registry
    engines/            how a command is run: keeper, evidence, stopping, watching; batch engines, Slurm
    interpret/          what an output means, by kind
    log  mounts  trust  forking  signals  settings  model  metrics  states  paths  errors
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor._version import __version__

if TYPE_CHECKING:
    from supervisor.embedding.aio import AsyncioSupervisor, open_supervisor_asyncio
    from supervisor.embedding.threads import BlockingSupervisor
    from supervisor.errors import (
        IdempotencyConflict,
        InternalError,
        InvalidArguments,
        InvalidSettings,
        JobElsewhere,
        JobNotFound,
        JobRunning,
        LaunchFailed,
        OutputLost,
        PermissionDenied,
        StateBusy,
        StateCorrupt,
        StateFull,
        StateUnsafe,
        SupervisorClosed,
        SupervisorError,
    )
    from supervisor.metrics import Histogram, Metrics
    from supervisor.model import ErrorInfo, Exit, Job, JobEvent, JobPage, JobSpec, Result, to_json
    from supervisor.runtime.opening import open_supervisor
    from supervisor.runtime.supervisor import Supervisor
    from supervisor.settings import Settings
    from supervisor.states import Reason, State

__all__ = [
    "AsyncioSupervisor",
    "BlockingSupervisor",
    "ErrorInfo",
    "Exit",
    "Histogram",
    "IdempotencyConflict",
    "InternalError",
    "InvalidArguments",
    "InvalidSettings",
    "Job",
    "JobElsewhere",
    "JobEvent",
    "JobNotFound",
    "JobPage",
    "JobRunning",
    "JobSpec",
    "LaunchFailed",
    "Metrics",
    "OutputLost",
    "PermissionDenied",
    "Reason",
    "Result",
    "Settings",
    "State",
    "StateBusy",
    "StateCorrupt",
    "StateFull",
    "StateUnsafe",
    "Supervisor",
    "SupervisorClosed",
    "SupervisorError",
    "__version__",
    "open_supervisor",
    "open_supervisor_asyncio",
    "to_json",
]

# Each name is imported when it is first used, so that a command which only reads never pays for Trio.
_HOME = {
    "Supervisor": "supervisor.runtime.supervisor",
    "open_supervisor": "supervisor.runtime.opening",
    **dict.fromkeys(["AsyncioSupervisor", "open_supervisor_asyncio"], "supervisor.embedding.aio"),
    "BlockingSupervisor": "supervisor.embedding.threads",
    **dict.fromkeys(
        ["ErrorInfo", "Exit", "Job", "JobEvent", "JobPage", "JobSpec", "Result", "to_json"],
        "supervisor.model",
    ),
    **dict.fromkeys(["Histogram", "Metrics"], "supervisor.metrics"),
    "Settings": "supervisor.settings",
    **dict.fromkeys(["Reason", "State"], "supervisor.states"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    value: object = getattr(import_module(_HOME.get(name, "supervisor.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
