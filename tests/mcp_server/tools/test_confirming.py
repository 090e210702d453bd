"""Kinds that ask the user before a job is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from mcp import MCPError
from mcp_types import ElicitResult, InputRequiredResult, ListRootsResult, Root
from trio.testing import MockClock

from supervisor.mcp_server.tools import confirming
from supervisor.testing import Script

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")  # roots, by the SDK
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])
KINDS = """
[kind.spend]
description = "Spend money."
command = ["claude", "-p", "{prompt}"]
deadline_seconds = 600
confirm = true
parameters.prompt = { type = "string" }
"""
RUNS = Script(seconds=None)


class User:
    """A user who gives the same answer to each question."""

    def __init__(self, action: str) -> None:
        self.action = action
        self.asked: list[str] = []

    async def __call__(self, _: Any, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        assert params.requested_schema == {"type": "object", "properties": {}}
        return ElicitResult.model_validate({"action": self.action})


@ERAS
async def test_the_user_is_asked_what_is_to_be_started_and_where(servers: Any, tmp_path: Path, era: str) -> None:
    servers.script = RUNS
    user = User("accept")
    async with servers(KINDS, era=era, elicitation_callback=user) as call:
        job = await call("spend", prompt="why?\nIt is free.\u202e")
        assert (job["status"], len(servers.engine.commands)) == ("running", 1)
    (asked,) = user.asked
    assert asked.splitlines() == [
        "Start a job of spend? Spend money.",
        f'in "{tmp_path / "workspace"}"',
        'prompt: "why?\\nIt is free.\\u202e"',
        "for at most 10 min 00 s",
    ]


@ERAS
@pytest.mark.parametrize(("action", "says"), [("decline", "has declined"), ("cancel", "has closed the question")])
async def test_without_consent_nothing_is_started(servers: Any, era: str, action: str, says: str) -> None:
    async with servers(KINDS, era=era, elicitation_callback=User(action)) as call:
        error = await call.refused("spend", prompt="x")
        assert (error["code"], error["details"]) == ("not_confirmed", {"answer": action})
        assert says in error["message"]
        assert (await call("job_list"))["jobs"] == []
    assert servers.engine.commands == ()


@ERAS
async def test_a_host_that_cannot_ask_is_refused(servers: Any, era: str) -> None:
    async with servers(KINDS, era=era) as call:
        error = await call.refused("spend", prompt="x")
        assert error["code"] == "feature_unavailable"
        assert "offers no elicitation" in error["message"]
    assert servers.engine.commands == ()


@ERAS
async def test_a_mistake_is_refused_before_the_user_is_asked(servers: Any, era: str) -> None:
    user = User("accept")
    async with servers(KINDS, era=era, elicitation_callback=user) as call:
        for wrong in (
            {"prompt": 5},
            {"prompt": "x", "workspace": "/nowhere"},
            {"prompt": "x", "deadline_seconds": 601},
        ):
            assert (await call.refused("spend", **wrong))["code"] == "invalid_arguments"
    assert user.asked == []


@ERAS
async def test_what_starts_nothing_is_not_asked_about(servers: Any, era: str) -> None:
    servers.script = RUNS
    user = User("accept")
    async with servers(KINDS, era=era, elicitation_callback=user) as call:
        first = await call("spend", prompt="x", idempotency_key="k")
        user.action = "decline"
        assert (await call("spend", prompt="x", idempotency_key="k"))["job_id"] == first["job_id"]
        assert (await call.refused("spend", prompt="y", idempotency_key="k"))["code"] == "idempotency_conflict"
    assert len(user.asked) == len(servers.engine.commands) == 1


@ERAS
async def test_roots_come_before_the_question(servers: Any, tmp_path: Path, era: str) -> None:
    servers.script = RUNS
    project = tmp_path / "project"
    project.mkdir()
    user = User("accept")

    async def roots(_: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=f"file://{project}")])

    async with servers(KINDS, era=era, elicitation_callback=user, list_roots_callback=roots) as call:
        assert (await call("spend", prompt="x"))["workspace"] == str(project)
    assert len(user.asked) == 1
    assert str(project) in user.asked[0]


async def test_a_user_who_does_not_answer_starts_nothing(servers: Any, mock_clock: MockClock) -> None:
    asked = trio.Event()
    errors: list[Any] = []

    async def silent(_: Any, __: Any) -> ElicitResult:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    async with servers(KINDS, elicitation_callback=silent) as call, trio.open_nursery() as nursery:

        async def ask() -> None:
            errors.append(await call.refused("spend", prompt="x"))

        nursery.start_soon(ask)
        while not asked.is_set():
            await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(confirming._ANSWER_SECONDS + 1)
        while not errors:
            await trio.testing.wait_all_tasks_blocked()
    assert (errors[0]["code"], errors[0]["retryable"]) == ("not_confirmed", True)
    assert servers.engine.commands == ()


async def test_a_host_that_refuses_the_question_starts_nothing(servers: Any) -> None:
    async def refuse(_: Any, __: Any) -> ElicitResult:
        raise MCPError(-1, "no window")

    async with servers(KINDS, elicitation_callback=refuse) as call:
        error = await call.refused("spend", prompt="x")
        assert (error["code"], error["details"]) == ("not_confirmed", {"answer": "none"})
    assert servers.engine.commands == ()


async def test_a_call_that_is_cancelled_while_the_user_thinks_starts_nothing(servers: Any) -> None:
    asked, answers = trio.Event(), trio.Event()

    async def slow(_: Any, __: Any) -> ElicitResult:
        asked.set()
        await answers.wait()
        return ElicitResult(action="accept")

    async with servers(KINDS, elicitation_callback=slow) as call:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: call("spend", prompt="x"))
            await asked.wait()
            nursery.cancel_scope.cancel()
        answers.set()
        assert (await call("job_list"))["jobs"] == []
    assert servers.engine.commands == ()


# ---------------------------------------------------------------- the client repeats its call

ACCEPT = {"confirm": ElicitResult(action="accept")}


class Rounds:
    """A client of 2026-07-28 that sends each round by itself."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def __call__(self, state: str | None = None, responses: Any = None, **arguments: Any) -> Any:
        return await self._call.client.session.call_tool(
            "spend", arguments, input_responses=responses, request_state=state, allow_input_required=True
        )

    async def asks(self, *given: Any, **arguments: Any) -> str:
        """Send a round that has to be answered with a question, and return its state."""
        answer = await self(*given, **arguments)
        assert isinstance(answer, InputRequiredResult), answer
        assert answer.request_state is not None
        return answer.request_state


@pytest.fixture
def modern(servers: Any) -> Any:
    servers.script = RUNS
    return servers(KINDS, era="auto", elicitation_callback=User("accept"))


async def test_an_answer_starts_one_job_however_often_it_is_sent(servers: Any, modern: Any) -> None:
    async with modern as call:
        rounds = Rounds(call)
        state = await rounds.asks(prompt="x")
        first = (await rounds(state, ACCEPT, prompt="x")).structured_content
        again = (await rounds(state, ACCEPT, prompt="x")).structured_content
        assert (again["job_id"], len(servers.engine.commands)) == (first["job_id"], 1)
        servers.engine.commands[0].finish()
        await call("job_wait", job_id=first["job_id"])
        await call("job_consume_result", job_id=first["job_id"])
        late = await rounds(state, ACCEPT, prompt="x")
        assert late.structured_content["error"]["code"] == "not_confirmed"
    assert len(servers.engine.commands) == 1


async def test_two_calls_with_one_answer_at_a_time_start_one_job(servers: Any, modern: Any) -> None:
    async with modern as call:
        rounds = Rounds(call)
        state = await rounds.asks(prompt="x")
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: rounds(state, ACCEPT, prompt="x"))
    assert len(servers.engine.commands) == 1


async def test_an_answer_counts_for_the_request_that_was_shown(servers: Any, modern: Any) -> None:
    async with modern as call:
        rounds = Rounds(call)
        state = await rounds.asks(prompt="x")
        for other in ({"prompt": "y"}, {"prompt": "x", "deadline_seconds": 5}, {"prompt": "x", "labels": {"a": "b"}}):
            await rounds.asks(state, ACCEPT, **other)
    assert servers.engine.commands == ()


async def test_consent_that_was_not_asked_for_is_none(
    servers: Any, modern: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with modern as call:
        rounds = Rounds(call)
        good = await rounds.asks(prompt="x")
        forged = good[:-1] + ("0" if good[-1] != "0" else "1")
        for state in (None, "", ".", "x.y", forged, f"{good}x", f"x{good}", "\u00e9.\u00e9"):
            await rounds.asks(state, ACCEPT, prompt="x")
        await rounds.asks(good, None, prompt="x")
        monkeypatch.setattr(confirming, "_ANSWER_SECONDS", 0.0)  # it is too old
        await rounds.asks(good, ACCEPT, prompt="x")
    assert servers.engine.commands == ()
    async with servers(KINDS, era="auto", elicitation_callback=User("accept")) as call:  # another server
        await Rounds(call).asks(good, ACCEPT, prompt="x")
    assert servers.engine.commands == ()


async def test_of_answers_that_are_forgotten_none_counts(
    servers: Any, modern: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirming, "_MAX_USED", 1)
    states: Sequence[str]
    async with modern as call:
        rounds = Rounds(call)
        states = [await rounds.asks(prompt=each) for each in "abc"]
        for prompt, state in zip("ab", states, strict=False):
            assert not (await rounds(state, ACCEPT, prompt=prompt)).is_error
        await rounds.asks(states[0], ACCEPT, prompt="a")  # it has a job, and a state that does not count any more
        assert not (await rounds(states[2], ACCEPT, prompt="c")).is_error
    assert len(servers.engine.commands) == 3


async def test_a_wrong_kind_of_answer_is_no_consent(servers: Any, modern: Any) -> None:
    async with modern as call:
        rounds = Rounds(call)
        state = await rounds.asks(prompt="x")
        answer = await rounds(state, {"confirm": ListRootsResult(roots=[])}, prompt="x")
        assert answer.structured_content["error"]["code"] == "not_confirmed"
    assert servers.engine.commands == ()
