"""The OpenAPI document: valid, true, and a source of requests that must not break the server."""

from __future__ import annotations

from typing import Any

import httpx2
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from supervisor.testing import Script
from supervisor.web.app import OPERATIONS
from supervisor.web.openapi import document
from tests.web.conftest import Serve

DOCUMENT = document(OPERATIONS)
JSON = "application/json"


def is_valid(shape: Any, name: str) -> None:
    jsonschema.Draft202012Validator({**DOCUMENT, "$ref": f"#/components/schemas/{name}"}).validate(shape)


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_it_has_every_path_of_the_contract() -> None:
    job = "/v1/jobs/{job_id}"
    assert {(method.upper(), path) for path, held in DOCUMENT["paths"].items() for method in held} >= {
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("GET", job),
        ("DELETE", job),
        *(("GET", f"{job}/{each}") for each in ("result", "logs", "explain")),
        *(("POST", f"{job}/{each}") for each in ("cancel", "hold", "release", "pause", "resume", "rerun")),
        ("GET", "/v1/groups"),
        ("PUT", "/v1/groups/{name}"),
        *(("POST", f"/v1/groups/{{name}}/{each}") for each in ("pause", "resume")),
        ("GET", "/v1/schedules"),
        ("PUT", "/v1/schedules/{name}"),
        ("DELETE", "/v1/schedules/{name}"),
        *(("POST", f"/v1/schedules/{{name}}/{each}") for each in ("pause", "resume", "run")),
        ("GET", "/v1/spend"),
        ("GET", "/v1/events"),
        ("GET", "/metrics"),
        ("GET", "/v1/openapi.json"),
    }


async def test_the_answers_have_the_schemas_that_it_says(serve_here: Serve) -> None:
    async with serve_here() as here, here.client() as client:
        assert (await client.get("/v1/openapi.json")).json() == DOCUMENT
        here.script = Script(stdout="x\n")
        started = await client.post("/v1/jobs", json={"kind": "say", "parameters": {"word": "x"}}, params={"wait": 30})
        path = f"/v1/jobs/{started.json()['job_id']}"
        is_valid(started.json(), "Job")
        assert set(started.json()) == set(DOCUMENT["components"]["schemas"]["Job"]["properties"])
        for tail, name in (("", "Job"), ("/result", "Result"), ("/logs", "Logs"), ("/explain", "Explanation")):
            is_valid((await client.get(f"{path}{tail}")).json(), name)
        is_valid((await client.get("/v1/jobs")).json(), "JobPage")
        is_valid((await client.put("/v1/groups/g", json={"limit": 1})).json(), "Group")
        is_valid((await client.post("/v1/groups/g/pause", json={"reason": "x"})).json(), "Group")
        is_valid((await client.get("/v1/groups")).json(), "Groups")
        daily = {"kind": "say", "parameters": {"word": "x"}, "cron": "@yearly"}
        is_valid((await client.put("/v1/schedules/s", json=daily)).json(), "Schedule")
        is_valid((await client.get("/v1/schedules")).json(), "Schedules")
        is_valid((await client.post("/v1/schedules/s/run")).json(), "Job")
        is_valid((await client.delete("/v1/schedules/s")).json(), "Removed")
        is_valid((await client.get("/v1/spend")).json(), "SpendReport")
        here.script = Script(exit_code=1)
        failed = await client.post("/v1/jobs", json={"kind": "say", "parameters": {"word": "x"}}, params={"wait": 30})
        is_valid((await client.get(f"/v1/jobs/{failed.json()['job_id']}/result")).json(), "Result")
        is_valid((await client.delete(path)).json(), "Forgotten")
        is_valid((await client.get(path)).json(), "Problem")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def values_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that a schema allows, as far as it is used here."""
    if "anyOf" in schema:
        return st.one_of(*map(values_of, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string":
            return st.text(min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 30), 30))
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            return st.floats(schema.get("minimum"), schema.get("maximum"))
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(values_of(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
        case "object" if "properties" in schema:
            members = {name: values_of(held) for name, held in schema["properties"].items()}
            return st.fixed_dictionaries({}, optional=members)
        case "object":
            return st.dictionaries(st.sampled_from(["word", "fifo", "job_id", "when"]), st.text(max_size=5), max_size=2)
        case _:
            return st.none()


JOB_IDS = ["0" * 32, "x", "..", "%00", "\u00e9", "a/b"]
SLOW = {"wait"}  # a wait is as long as it says


def requests() -> st.SearchStrategy[tuple[str, str, dict[str, Any], Any]]:
    each: list[st.SearchStrategy[tuple[str, str, dict[str, Any], Any]]] = []
    for path, methods in DOCUMENT["paths"].items():
        for method, held in methods.items():
            if path == "/v1/events":
                continue  # does not end
            listed = [one for one in held.get("parameters", ()) if one["in"] == "query" and one["name"] not in SLOW]
            query = st.fixed_dictionaries(
                {}, optional={one["name"]: values_of(one["schema"]) | st.text(max_size=5) for one in listed}
            )
            content = held.get("requestBody", {}).get("content", {}).get(JSON, {}).get("schema")
            body = st.none() if content is None else values_of(content) | ANYTHING
            name = st.sampled_from(JOB_IDS) | st.text(min_size=1, max_size=10)
            each.append(
                st.tuples(st.just(method.upper()), name.map(lambda name, path=path: path_of(path, name)), query, body)
            )
    return st.one_of(*each)


def path_of(path: str, name: str) -> str:
    from urllib.parse import quote

    return path.replace("{job_id}", quote(name, safe="")).replace("{name}", quote(name, safe=""))


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
async def test_no_request_that_it_describes_breaks_the_server(serve_here: Serve) -> None:
    import trio

    async with serve_here(allow_commands=["echo *"]) as here, here.client() as client:

        async def send(method: str, path: str, query: dict[str, Any], body: Any) -> None:
            try:
                content = None if body is None else json_of(body)
            except (ValueError, UnicodeEncodeError):
                return
            headers = {} if content is None else {"Content-Type": JSON}
            answer = await client.request(method, path, params=query, content=content, headers=headers)
            check(answer)

        @settings(
            max_examples=150,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        )
        @given(requests())
        def fuzz(request: tuple[str, str, dict[str, Any], Any]) -> None:
            trio.from_thread.run(send, *request)

        await trio.to_thread.run_sync(fuzz)


def json_of(body: Any) -> bytes:
    import json

    return json.dumps(body).encode()


def check(answer: httpx2.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        is_valid(answer.json(), "Problem")
