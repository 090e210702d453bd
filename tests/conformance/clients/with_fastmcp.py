"""Drive two jobs with FastMCP's client: ``python with_fastmcp.py URL``. One by its handle, one as an ordinary call."""

from __future__ import annotations

import asyncio
import json
import sys

import fastmcp  # type: ignore[import-not-found]  # installed by its own session
from fastmcp_tasks import call_tool_task  # type: ignore[import-not-found]


async def main(url: str) -> None:
    """Print what the second job gave."""
    async with fastmcp.Client(url) as client:
        task = await call_tool_task(client, "run_command", {"argv": ["echo", "by its handle"]})
        result = await task.result()
        assert result.structured_content["value"] == "by its handle\n"
        assert result.structured_content["job_id"] == task.task_id
        result = await client.call_tool("run_command", {"argv": ["sh", "-c", "sleep 0.2; echo from FastMCP"]})
        print(json.dumps(result.structured_content))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
