"""Durable MCP tasks for the tools of any server on the official SDK, under Trio.

``Tasks`` is an ``Extension`` of the SDK and a middleware. A *job task* is a job of the supervisor: it
outlives the server, and its id is the job's. A *function task* is an async tool function that goes
on after its call was answered: that it exists and how it ended are on record, and if its server
dies it is said to have failed. Both are asked about, cancelled and listened to in the same way, by
clients of the 2026-07-28 extension and of the 2025-11-25 core alike.

Each file imports only from rows below it::

    extension            Tasks: what the SDK calls, and what tools call
    legacy  listening    2025-11-25; notifications over subscriptions/listen
    apart                a call that goes on when its request has been answered
    runtime              all tasks of a server, with the check of who may see them
    session  jobs        what a function asks its client; a job as a task
    functions            a function that goes on
    records              what is on disk of function tasks
    calls  refusals      the call being served; errors and their codes
    state                what a task is, and its shape on the wire
"""

from __future__ import annotations

from supervisor.mcp_server.tasks.extension import Principal, Tasks
from supervisor.mcp_server.tasks.state import EXTENSION_ID

__all__ = ["EXTENSION_ID", "Principal", "Tasks"]
