"""What a caller sees of a job that waits for a usage limit of its agent's account."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from supervisor import BlockingSupervisor
from supervisor.testing import Script

KINDS = """
[kind.mend]
description = "Mend an issue."
command = ["claude", "-p", "{issue}"]
interpret = "claude"
group = "agents"
parameters.issue = { type = "string", description = "Which." }
"""


async def test_a_caller_sees_that_a_job_waits_for_a_limit_and_until_when(servers: Any) -> None:
    resets_at = int(time.time()) + 3600
    until = datetime.fromtimestamp(resets_at, UTC) + timedelta(minutes=1)
    info = {"status": "rejected", "resetsAt": resets_at, "rateLimitType": "five_hour"}
    messages = [
        {"type": "rate_limit_event", "rate_limit_info": info},
        {"type": "result", "subtype": "success", "is_error": True, "api_error_status": 429, "result": "limit"},
    ]
    with BlockingSupervisor(servers.settings) as sup:
        sup.set_group("agents", limit=1)
    servers.script = Script(stdout="".join(json.dumps(each) + "\n" for each in messages), exit_code=1)
    async with servers(KINDS) as call:
        first = await call("mend", issue="1")
        waits = await call("job_wait", job_id=first["job_id"], timeout_seconds=1)
        assert (waits["status"], waits["queue_reason"], waits["attempt"]) == ("queued", "rate_limited", 2)
        assert waits["retry_of"] == first["job_id"]
        second = await call("mend", issue="2")
        for each in (waits, second, await call("job_status", job_id=second["job_id"])):
            assert each["queue_reason"] == "rate_limited"
            shown = datetime.fromisoformat(each["next_attempt_at"])
            assert abs(shown - until) < timedelta(seconds=1)
