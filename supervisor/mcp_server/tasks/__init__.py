"""Durable MCP tasks for the tools of any server on the official SDK, under Trio.

``Tasks`` is an ``Extension`` of the SDK and a middleware. A *job task* is a job of the supervisor: it
outlives the server, and its id is the job's id. A *function task* is an async tool function that runs on
after its call was answered. Its creation and its end are recorded; if its server dies, it has failed. The
same requests read, cancel and follow both, in the 2026-07-28 extension and in the 2025-11-25 core.

Each file imports only from rows below it::

    extension            Tasks: the interface for the SDK and for tools
    legacy  listening    2025-11-25; notifications over subscriptions/listen
    apart                a call that runs on after its request has been answered
    runtime              all tasks of a server, with the access check
    session  jobs        the session of a function task; a job as a task
    functions            a function task
    records              the files of function tasks
    calls  refusals      the current call; errors and their codes
    state                the state of a task, and its JSON
"""

from __future__ import annotations

from supervisor.mcp_server.tasks.extension import Principal, Tasks
from supervisor.mcp_server.tasks.state import EXTENSION_ID

__all__ = ["EXTENSION_ID", "Principal", "Tasks"]
