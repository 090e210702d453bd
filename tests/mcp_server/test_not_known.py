"""A state that cannot be read now is a retryable error, not an internal error."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from mcp import MCPError

from supervisor.jobdir.output import Output
from supervisor.system.observing import NotKnown

if TYPE_CHECKING:
    from tests.mcp_server.conftest import Servers


def fails(*_: Any, **__: Any) -> Any:
    raise NotKnown(errno.EIO, os.strerror(errno.EIO), "somewhere")


@pytest.mark.parametrize("method", ["size", "read"])
async def test_output(servers: Servers, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    async with servers() as caller:
        job_id = (await caller("count", upto=3))["job_id"]
        monkeypatch.setattr(Output, method, fails)
        error = await caller.refused("job_logs", job_id=job_id)
        assert (error["code"], error["retryable"]) == ("state_busy", True)
        with pytest.raises(MCPError, match="cannot read the output of job") as caught:
            await caller.client.read_resource(f"job://{job_id}/stdout")
        assert caught.value.error.data is not None
        assert caught.value.error.data["code"] == "state_busy"


async def test_any_tool(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async with servers() as caller:
        job_id = (await caller("count", upto=3))["job_id"]
        monkeypatch.setattr("supervisor.runtime.supervisor.Supervisor.status", fails)
        error = await caller.refused("job_status", job_id=job_id)
        assert (error["code"], error["retryable"]) == ("state_busy", True)
