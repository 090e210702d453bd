"""What the handlers of one server share."""

from __future__ import annotations

import attrs

from supervisor.http.guard import Caller, Callers
from supervisor.mcp_server.access.jobs import visible
from supervisor.mcp_server.config.workspaces import WorkspacePolicy
from supervisor.mcp_server.lazy import LazySupervisor
from supervisor.mcp_server.options import Options
from supervisor.model import Job
from supervisor.runtime.supervisor import Supervisor
from supervisor.settings import Settings
from supervisor.web.feed import Feed

__all__ = ["Service"]


@attrs.frozen(slots=True, kw_only=True)
class Service:
    """What the handlers of one server share.

    Attributes:
        options: the settings, the kinds and the commands that callers may start.
        workspaces: chooses the workspaces of jobs.
        lazy: opens the supervisor, again after a failure.
        feed: the events for clients that listen.
        callers: finds callers by their tokens; ``None`` lets every request act for the owner.
    """

    options: Options
    workspaces: WorkspacePolicy
    lazy: LazySupervisor
    feed: Feed
    callers: Callers | None

    @property
    def settings(self) -> Settings:
        """The settings of the state root."""
        return self.options.settings

    async def supervisor(self) -> Supervisor:
        """Return the supervisor once it is open.

        Raises:
            SupervisorError: the state root cannot be used.
        """
        return await self.lazy.supervisor()

    async def job(self, caller: Caller, job_id: str) -> tuple[Supervisor, Job]:
        """Return the supervisor, and a job that the caller may see.

        Raises:
            JobNotFound: there is no such job for this caller.
        """
        return await visible(self.lazy, caller.principal, job_id)
