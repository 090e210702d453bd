"""The tools that start jobs, in memory: commands, workspaces, environments, and answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
import trio.testing
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp_types import CallToolResult, ListRootsResult, Result, Root
from trio.testing import MockClock

from supervisor import open_supervisor
from supervisor.errors import InvalidArguments
from supervisor.mcp_server.config.patterns import allows, check_pattern
from supervisor.mcp_server.tasks.state import EXTENSION_ID
from supervisor.testing import Script

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")  # roots, by the SDK
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])


async def test_what_is_run(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("RETRIES", "99")
    async with servers() as call:
        job = await call("ask", prompt="why?", model="opus", labels={"for": "me"}, deadline_seconds=60)
        (command,) = servers.engine.commands
        assert command.argv == ("claude", "-p", "--model=opus")
        assert command.request.stdin == b"Please: why?"
        environment = {os.fsdecode(name): os.fsdecode(value) for name, value in command.request.env.items()}
        assert environment["ANTHROPIC_API_KEY"] == "key"
        assert environment["RETRIES"] == "3"
        assert not set(environment) & {"AWS_SECRET_ACCESS_KEY", "TRIO_SUPERVISOR_TEST_SESSION", "SUPERVISOR_STATE_DIR"}
        assert command.request.deadline_seconds == 60
        assert job["labels"] == {"for": "me", "mcp.tool": "ask"}
        await call("ask", prompt="and?")
        assert servers.engine.commands[1].argv == ("claude", "-p")
        assert servers.engine.commands[1].request.deadline_seconds == 600


@ERAS
async def test_the_result_is_given_if_it_is_ready_in_time(servers: Any, era: str) -> None:
    servers.script = Script(stdout="1\n2\n", seconds=0.05)
    async with servers(era=era) as call:
        result = await call("count", upto=2, wait_seconds=20)
        assert (result["ok"], result["value"], result["job"]["status"]) == (True, "1\n2\n", "done")


async def test_else_the_handle_is(servers: Any, mock_clock: MockClock) -> None:
    """The test moves the clock, because the server checks workspaces in threads, which autojump does not wait for."""
    servers.script = Script(seconds=100)
    answers: list[dict[str, Any]] = []
    async with servers() as call, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await call("count", upto=2, wait_seconds=20))

        nursery.start_soon(ask)
        while not servers.engine.commands:
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked(0.05)
        mock_clock.jump(19.9)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert answers == []
        mock_clock.jump(0.2)
        while not answers:
            await trio.testing.wait_all_tasks_blocked()
    (job,) = answers
    assert job["status"] == "running"
    assert "job_wait" in job["next"]


async def test_a_failure_within_the_wait_is_an_error(servers: Any) -> None:
    servers.script = Script(exit_code=3)
    async with servers() as call:
        error = await call.refused("count", upto=2, wait_seconds=20)
        assert error["code"] == "job_failed"


async def test_a_command_that_cannot_be_started_is_told_at_once(servers: Any) -> None:
    servers.script = Script(launch_error="seq: command not found")
    async with servers() as call:
        answer = await call.client.call_tool("count", {"upto": 2})
        assert answer.is_error
        assert answer.structured_content["error"]["code"] == "launch_failed"
        assert answer.structured_content["job"]["status"] == "failed"


async def test_a_key_starts_once(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers() as call:
        first = await call("count", upto=2, idempotency_key="k")
        assert (await call("count", upto=2, idempotency_key="k"))["job_id"] == first["job_id"]
        assert len(servers.engine.commands) == 1
        error = await call.refused("count", upto=3, idempotency_key="k")
        assert error["code"] == "idempotency_conflict"


async def test_a_call_that_is_cancelled_leaves_its_job_alone(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers() as call:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: call("count", upto=2, wait_seconds=3600))
            command = await servers.engine.next()
            nursery.cancel_scope.cancel()
        assert (await call("job_status", job_id=command.job_id))["status"] == "running"


# ---------------------------------------------------------------- where it runs


def roots(*paths: Path | str) -> Any:
    async def list_roots(_: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=f"file://{path}") for path in paths])

    return list_roots


async def test_without_roots_it_is_the_servers_directory_with_a_warning(servers: Any, tmp_path: Path) -> None:
    async with servers() as call:
        job = await call("count", upto=2)
        assert job["workspace"] == str(tmp_path / "workspace")
        assert job["warnings"] == [
            f"workspace was not given: the job runs in the server's own directory, {tmp_path / 'workspace'}"
        ]
        assert "warnings" not in (await call("count", upto=2, workspace="."))
        waited = await call("count", upto=2, wait_seconds=5)
        assert len(waited["warnings"]) == 1


@ERAS
async def test_roots_come_before_that(servers: Any, tmp_path: Path, era: str) -> None:
    project, other = tmp_path / "pro ject", tmp_path / "other"
    for path in (project, other):
        path.mkdir()
    async with servers(era=era, list_roots_callback=roots(str(project).replace(" ", "%20"))) as call:
        job = await call("count", upto=2)
        assert job["workspace"] == str(project)
        assert "warnings" not in job
        below = project / "below"
        below.mkdir()
        assert (await call("count", upto=2, workspace=str(below)))["workspace"] == str(below)
        assert "it accepts" not in (await call.refused("count", upto=2, workspace=str(other)))["message"]
    async with servers(era=era, list_roots_callback=roots(other, tmp_path)) as call:
        job = await call("count", upto=2)
        assert job["workspace"] == str(other)
        assert "the first of the host's roots" in job["warnings"][0]


@ERAS
async def test_an_empty_list_of_roots_is_none(servers: Any, tmp_path: Path, era: str) -> None:
    async with servers(era=era, list_roots_callback=roots()) as call:  # as Codex answers
        assert (await call("count", upto=2))["workspace"] == str(tmp_path / "workspace")


@ERAS
async def test_over_http_roots_allow_nothing(servers: Any, tmp_path: Path, era: str) -> None:
    (tmp_path / "workspace" / "below").mkdir()
    async with servers(era=era, trust_roots=False, list_roots_callback=roots("/", tmp_path)) as call:
        assert (await call("count", upto=2))["workspace"] == str(tmp_path / "workspace")
        error = await call.refused("count", upto=2, workspace=str(tmp_path))
        assert error["details"]["allowed"] == [str(tmp_path / "workspace")]
    async with servers(era=era, trust_roots=False, list_roots_callback=roots(tmp_path / "workspace/below")) as call:
        assert (await call("count", upto=2))["workspace"] == str(tmp_path / "workspace" / "below")


async def test_a_kind_says_where_it_may_run(servers: Any, tmp_path: Path) -> None:
    allowed, elsewhere = tmp_path / "allowed", tmp_path / "allowed-not"
    for path in (allowed, elsewhere):
        path.mkdir()
    (allowed / "link").symlink_to(elsewhere)
    text = f"""
        [kind.k]
        description = "K."
        command = ["k"]
        workspaces = ["{allowed}"]
    """
    async with servers(text, list_roots_callback=roots(elsewhere)) as call:
        job = await call("k")
        assert job["workspace"] == str(allowed)
        assert "the only allowed one" in job["warnings"][0]
        for wrong in (elsewhere, allowed / "..", allowed / "link", "/", "~"):
            error = await call.refused("k", workspace=str(wrong))
            assert error["code"] == "invalid_arguments"
            assert str(allowed) in error["details"]["allowed"]


@pytest.mark.parametrize(
    ("where", "trust"),
    [("/", True), ("state", True), ("below", True), ("/", False), ("above", False), ("state", False)],
)
async def test_no_job_runs_where_it_could_read_the_tokens(
    servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, *, trust: bool
) -> None:
    """Whatever allows it: the server's own directory, a root, the caller."""
    state = tmp_path / "state"
    (state / "mcp-tokens").mkdir()
    place = {"/": Path("/"), "above": tmp_path, "state": state, "below": state / "mcp-tokens"}[where]
    fine = tmp_path / "workspace" / "below"
    fine.mkdir()
    monkeypatch.chdir(place)
    for listed in ([], [place]):
        async with servers(trust_roots=trust, list_roots_callback=roots(*listed)) as call:
            for given in ({}, {"workspace": str(place)}, {"workspace": str(fine)}):
                error = await call.refused("count", upto=1, **given)
                assert (error["code"], "the state root" in error["message"]) == ("invalid_arguments", True), given
                assert "`workspaces`" in error["repair"]
    if trust:
        async with servers(list_roots_callback=roots(place, fine)) as call:
            assert (await call("count", upto=1, workspace=str(fine)))["workspace"] == str(fine)
    assert len(servers.engine.commands) == trust


async def test_the_owner_is_warned_of_a_directory_above_the_state_root(
    servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = tmp_path / "workspace"
    async with servers(list_roots_callback=roots(tmp_path)) as call:
        assert "contains the state root" in (await call("count", upto=1))["warnings"][0]
        assert "warnings" not in (await call("count", upto=1, workspace=str(fine)))
    monkeypatch.chdir(tmp_path)
    async with servers() as call:
        assert "contains the state root" in (await call("count", upto=1))["warnings"][1]
        for inside in ("state", "state/mcp-tokens"):
            (tmp_path / inside).mkdir(exist_ok=True)
            assert "the state root" in (await call.refused("count", upto=1, workspace=inside))["message"]
        assert "warnings" not in (await call("count", upto=1, workspace=str(fine)))


# ---------------------------------------------------------------- job_start


@pytest.mark.parametrize(
    ("pattern", "command", "allowed"),
    [
        ("make test", ["make", "test"], True),
        ("make test", ["make", "test", "x"], False),
        ("make test", ["make"], False),
        ("make *", ["make"], True),
        ("make *", ["make", "a", "b=c"], True),
        ("make *", ["make-evil"], False),
        ("make *", ["/tmp/make", "x"], False),
        ("git log --format=* *", ["git", "log", "--format=%h"], True),
        ("git log *", ["git", "-c", "core.pager=x", "log"], False),
        ("pytest tests/*", ["pytest", "tests/a b.py"], True),
        ("pytest tests/* -q", ["pytest", "tests/a", "-q"], True),
        ("pytest tests/* -q", ["pytest", "tests/a", "-x", "-q"], False),
        ("'a b' c", ["a b", "c"], True),
        ("*", ["anything", "at", "all"], True),
        ("*", ["anything", "-x"], False),
        ("git log --oneline *", ["git", "log", "--oneline", "HEAD~3", "a.py"], True),
        ("git log --oneline *", ["git", "log", "--oneline", "--output=/tmp/x"], False),
        ("git log --oneline *", ["git", "log", "--oneline", "HEAD", "--output", "/tmp/x"], False),
        ("git log --oneline *", ["git", "log", "--oneline", "--", "-o"], False),
        ("git log --oneline *", ["git", "log", "--oneline", "--"], False),
        ("git log --oneline *", ["git", "log", "--oneline", "-o"], False),
        ("git log --oneline -- *", ["git", "log", "--oneline", "--", "a.py"], True),
        ("sort * a", ["sort", "-ofile", "a"], False),
        ("sort ?o a", ["sort", "-o", "a"], False),
        ("sort [!a]o a", ["sort", "-o", "a"], False),
        ("sort *file* a", ["sort", "-ofile", "a"], False),
        ("sort *file* a", ["sort", "my file", "a"], True),
        ("sort -k * a", ["sort", "-k", "2", "a"], True),
        ("sort -k * a", ["sort", "-k", "-o", "a"], False),
        ("git log --max-count=* *", ["git", "log", "--max-count=3", "x"], True),
        ("git log --max-count=* *", ["git", "log", "--max-counted=3", "x"], False),
        ("* test", ["-c", "test"], False),
    ],
)
def test_patterns_of_commands(pattern: str, command: list[str], *, allowed: bool) -> None:
    assert allows(pattern, command) is allowed


@pytest.mark.parametrize(
    "pattern",
    ["git log -*", "git log --o*=x", "sort -o?", "sort -[a-z]", "tar -x* f", "'-*'", "a 'b", "", " "],
)
def test_patterns_that_would_let_a_caller_choose_an_option(pattern: str) -> None:
    with pytest.raises(InvalidArguments, match="--allow-command is"):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["make", "make *", "git log --format=* *", "x -[*] *", "x -c '[[]*' *", "*"])
def test_patterns_that_would_not(pattern: str) -> None:
    check_pattern(pattern)


async def test_commands_that_are_allowed(servers: Any) -> None:
    async with servers("", allow_commands=["make *", "true"]) as call:
        job = await call("job_start", command=["make", "a b", "$(id)"], stdin="in", interpret="json")
        assert servers.engine.commands[0].argv == ("make", "a b", "$(id)")
        assert servers.engine.commands[0].request.stdin == b"in"
        assert (job["kind"], job["labels"]) == ("json", {"mcp.tool": "job_start"})
        error = await call.refused("job_start", command=["rm", "-rf", "/"])
        assert error["message"] == "the command 'rm -rf /' is not allowed here; allowed are: make *, true"
        for wrong in ([], "make test", ["make", 5]):
            assert "a list of at least one string" in (await call.refused("job_start", command=wrong))["message"]
        assert len(servers.engine.commands) == 1


# ---------------------------------------------------------------- tasks


class Created(Result):
    result_type: Literal["task"] = "task"
    task_id: str


class WantsTasks(ClientExtension):
    """Declares the extension, and takes a task that it is given for an answer that names it."""

    identifier = EXTENSION_ID

    def claims(self) -> Sequence[ResultClaim[Any]]:
        async def resolve(created: Created, _: ClaimContext) -> CallToolResult:
            return CallToolResult(content=[], structured_content={"ok": True, "task": created.task_id})

        return [ResultClaim(result_type="task", model=Created, resolve=resolve)]


async def test_a_kind_becomes_a_task_for_a_client_of_2026_that_can(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with servers(era="auto", extensions=[WantsTasks()]) as call:
        made = await call("count", upto=2, wait_seconds=60)
        (command,) = servers.engine.commands
        assert made == {"ok": True, "task": command.job_id}  # a task's id is the job's
        assert (await call("job_status", job_id=made["task"]))["status"] == "running"
        error = await call.refused("count", upto=0)  # and bad arguments never become one
        assert error["code"] == "invalid_arguments"
    async with servers(era="auto") as call:
        assert EXTENSION_ID in call.client.server_capabilities.extensions
        assert (await call("count", upto=2))["status"] == "running"  # to others it is the handle


async def test_a_kind_can_be_a_task_for_a_client_of_2025(servers: Any) -> None:
    async with servers() as call:
        listed = {tool.name: tool for tool in (await call.client.list_tools()).tools}
        assert listed["count"].execution.task_support == "optional"
        assert listed["job_status"].execution is None


async def test_without_kinds_nothing_is_said_of_tasks(servers: Any) -> None:
    async with servers("", era="auto") as call:
        assert not call.client.server_capabilities.extensions


# ---------------------------------------------------------------- groups

ADMITTED = """
[kind.slow]
description = "One after the other."
command = ["sleep", "1"]
group = ["agents", "all"]
priority = 7
start_within_seconds = 100
"""


async def test_a_kind_names_who_gets_the_end_of_its_jobs(servers: Any, tmp_path: Path) -> None:
    program = tmp_path / "notify"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    told = (
        f'[kind.k]\ndescription = "K."\ncommand = ["k"]\non_end = ["{program}", "x"]\nwebhook = "http://127.0.0.1:9/"\n'
    )
    servers.script = Script(seconds=None)
    async with servers(told) as call:
        job_id = (await call("k"))["job_id"]
        record = call.engine.command(job_id).request.record
        assert (record["on_end"], record["webhook"]) == ([str(program), "x"], "http://127.0.0.1:9/")


async def test_a_kind_names_its_groups_and_callers_do_not(servers: Any) -> None:
    servers.script = Script(seconds=None)
    async with open_supervisor(servers.settings, engine=servers.engine) as sup:
        await sup.set_group("agents", limit=1)
        await sup.set_group("all")
    async with servers(ADMITTED, allow_commands=["sleep *"]) as call:
        first, second = [await call("slow") for _ in range(2)]
        assert [(job["groups"], job["priority"]) for job in (first, second)] == [(["agents", "all"], 7)] * 2
        assert (first["status"], second["status"]) == ("running", "queued")
        assert (second["queue_reason"], second["queue_position"]) == ("limit", 1)
        waits = "The job waits (for room in agents and all; next in line). Call job_wait"
        for told in (second, await call("job_status", job_id=second["job_id"])):
            assert told["next"].startswith(waits)
        (listed, _) = (await call("job_list"))["jobs"]
        assert (listed["queue_reason"], listed["queue_position"]) == ("limit", 1)
        for tool, arguments in (("slow", {}), ("job_start", {"command": ["sleep", "9"]})):
            for name, value in GIVEN.items():
                error = await call.refused(tool, **arguments, **{name: value})
                assert (error["code"], error["details"]) == ("invalid_arguments", {"argument": name})
        (free,) = [await call("job_start", command=["sleep", "9"])]
        assert ("groups" in free, "priority" in free, free["status"]) == (False, False, "running")
        tools = {tool.name: tool for tool in (await call.client.list_tools()).tools}
        for tool in ("slow", "job_start"):
            assert not tools[tool].input_schema["properties"].keys() & GIVEN.keys()
        servers.engine.command(first["job_id"]).finish()
        assert (await servers.engine.next()).job_id == first["job_id"]
        assert {(await servers.engine.next()).job_id for _ in range(2)} == {free["job_id"], second["job_id"]}


GIVEN = {
    "group": "all",
    "groups": ["all"],
    "priority": 1000,
    "weight": 1,
    "hold": False,
    "after": [],
    "retry": {"maximum_attempts": 9},
    "start_within_seconds": 5,
}


RETRIED = """
[kind.flaky]
description = "Fails at first."
command = ["flaky"]
retry = { maximum_attempts = 3, initial_interval = 0, retry_on = [75] }
"""


async def test_a_kind_names_its_retries(servers: Any) -> None:
    servers.script = Script(exit_code=75, seconds=None)
    async with servers(RETRIED) as call:
        job = await call("flaky")
        assert (job["maximum_attempts"], "attempt" in job) == (3, False)
        error = await call.refused("flaky", retry={"maximum_attempts": 9})
        assert (error["code"], error["details"]) == ("invalid_arguments", {"argument": "retry"})
        (await servers.engine.next()).finish(75)
        second = await servers.engine.next()
        second.write("answer")
        second.finish()
        ended = await call("job_wait", job_id=job["job_id"])
        assert (ended["job_id"], ended["attempt"], ended["status"]) == (second.job_id, 2, "done")
        assert (await call("job_result", job_id=job["job_id"]))["value"] == "answer"


async def test_a_group_that_was_removed_since_the_start_of_the_server(servers: Any) -> None:
    async with servers(ADMITTED) as call:
        error = await call.refused("slow")
        assert error["code"] == "group_not_found"
        assert servers.engine.commands == ()
