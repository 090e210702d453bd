"""Durable background jobs for async Python: the supervisor is disposable, jobs are not.

The rooms, top down; a module imports only from its own room and from rooms below it::

    cli          the command line: one file for each command
    load         the load generator of `supervisor bench`
    web          the page, REST, metrics and health of `supervisor serve`, with the extra `serve`
    mcp_server   the MCP server, with the extra `mcp`
    http         the HTTP server of both: addresses, connections, tokens, limits
    embedding    the supervisor for asyncio and for threads
    testing      fakes for tests of code that uses the supervisor
    runtime      a supervisor in Trio: the public class, the registry actor, an actor for each job
    jobs         queries and changes of a state root that need no event loop
    admission    groups, orders of waiting jobs, and the process that launches them
    engines      running commands: on this machine or on a cluster
    store        the state root: directories, the SQLite index over them, and the queue in it
    worktrees    git worktrees of jobs: made, compared, removed
    keeper       the program that outlives the supervisor and is the parent of the jobs
    jobdir       the job directory: records, output, and their facts
    interpret    verdicts on the output of a command, by kind
    settings     the settings and their environment variables
    system       the operating system: processes, files, signals
    log          the log events
    text         redaction of secrets, JSON in text, TOML
    model        the arguments and results of the public functions
    retry        when a job is tried again
    metrics      the counts of a supervisor
    states       the states of a job and the transitions between them
    errors       all exceptions, each with a code and a repair
    deprecation  warnings for users of names that are to be removed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor._version import __version__

if TYPE_CHECKING:
    from supervisor.deprecation import SupervisorDeprecationWarning
    from supervisor.embedding.aio import AsyncioSupervisor, open_supervisor_asyncio
    from supervisor.embedding.threads import BlockingSupervisor
    from supervisor.errors import (
        FeatureUnavailable,
        GroupClosed,
        GroupNotFound,
        IdempotencyConflict,
        InputRefused,
        InternalError,
        InvalidArguments,
        InvalidSettings,
        JobElsewhere,
        JobNotFound,
        JobRunning,
        LaunchFailed,
        OutputLost,
        PermissionDenied,
        ScheduleNotFound,
        StateBusy,
        StateCorrupt,
        StateFull,
        StateUnsafe,
        SupervisorClosed,
        SupervisorError,
    )
    from supervisor.metrics import GroupMetrics, Histogram, Metrics
    from supervisor.model import (
        ErrorInfo,
        EvidenceInfo,
        Exit,
        Explanation,
        GroupInfo,
        GroupOptions,
        Job,
        JobEvent,
        JobOptions,
        JobPage,
        JobSpec,
        Limits,
        PauseInfo,
        Result,
        Spend,
        SpendReport,
        WaitInfo,
        to_json,
    )
    from supervisor.model.schedules import ScheduleInfo
    from supervisor.retry import Retry
    from supervisor.runtime.opening import open_supervisor
    from supervisor.runtime.supervisor import Supervisor
    from supervisor.settings import Settings
    from supervisor.states import Reason, State

__all__ = [
    "AsyncioSupervisor",
    "BlockingSupervisor",
    "ErrorInfo",
    "EvidenceInfo",
    "Exit",
    "Explanation",
    "FeatureUnavailable",
    "GroupClosed",
    "GroupInfo",
    "GroupMetrics",
    "GroupNotFound",
    "GroupOptions",
    "Histogram",
    "IdempotencyConflict",
    "InputRefused",
    "InternalError",
    "InvalidArguments",
    "InvalidSettings",
    "Job",
    "JobElsewhere",
    "JobEvent",
    "JobNotFound",
    "JobOptions",
    "JobPage",
    "JobRunning",
    "JobSpec",
    "LaunchFailed",
    "Limits",
    "Metrics",
    "OutputLost",
    "PauseInfo",
    "PermissionDenied",
    "Reason",
    "Result",
    "Retry",
    "ScheduleInfo",
    "ScheduleNotFound",
    "Settings",
    "Spend",
    "SpendReport",
    "State",
    "StateBusy",
    "StateCorrupt",
    "StateFull",
    "StateUnsafe",
    "Supervisor",
    "SupervisorClosed",
    "SupervisorDeprecationWarning",
    "SupervisorError",
    "WaitInfo",
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
        [
            "ErrorInfo",
            "EvidenceInfo",
            "Exit",
            "Explanation",
            "GroupInfo",
            "GroupOptions",
            "Job",
            "JobEvent",
            "JobOptions",
            "JobPage",
            "JobSpec",
            "Limits",
            "PauseInfo",
            "Result",
            "Spend",
            "SpendReport",
            "WaitInfo",
            "to_json",
        ],
        "supervisor.model",
    ),
    **dict.fromkeys(["GroupMetrics", "Histogram", "Metrics"], "supervisor.metrics"),
    "Retry": "supervisor.retry",
    "ScheduleInfo": "supervisor.model.schedules",
    "Settings": "supervisor.settings",
    "SupervisorDeprecationWarning": "supervisor.deprecation",
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
