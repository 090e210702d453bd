"""The OpenAPI document, made from the table of operations and from the classes whose JSON they return."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import attrs

from supervisor._version import __version__
from supervisor.http.problems import MEDIA_TYPE
from supervisor.mcp_server.config.arguments import Parameter
from supervisor.model import ErrorInfo, Explanation, GroupInfo, Job
from supervisor.model.schedules import ScheduleInfo
from supervisor.web.operations import JSON, Operation

__all__ = ["document"]

_SIMPLE: Final[Mapping[Any, Mapping[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    type(None): {"type": "null"},
    Any: {},
}
_OK: Final = {"type": "boolean"}
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}


def _of_type(hint: Any) -> dict[str, Any]:
    """Return the schema of the JSON of a value with this annotation."""
    if hint in _SIMPLE:
        return dict(_SIMPLE[hint])
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return {"anyOf": [_of_type(each) for each in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _of_type(arguments[0])}
    if origin is not None:  # a mapping
        return {"type": "object"}
    if issubclass(hint, enum.Enum):  # a reader passes over members that it does not know
        return {"type": "string", "examples": [each.value for each in hint]}
    return _of_class(hint) if attrs.has(hint) else {"type": "object"}


def _of_class(cls: type, **more: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    properties = {**more, **{each.name: _of_type(hints[each.name]) for each in attrs.fields(cls)}}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> dict[str, Any]:
    result = _object(ok=_OK, job=_reference("Job"))
    result["properties"] |= {
        "job_id": _TEXT,
        "kind": _TEXT,
        "value": {},
        "encoding": _TEXT,
        "error": _of_class(ErrorInfo),
    }
    logs = _object(
        ok=_OK,
        job_id=_TEXT,
        stream=_TEXT,
        value=_TEXT,
        offset=_COUNT,
        next_offset=_COUNT,
        size=_COUNT,
        ended={"type": "boolean"},
    )
    logs["properties"] |= {"encoding": _TEXT, "restarted": _OK, "truncated": _OK}
    problem = _object(
        ok=_OK, error=_of_class(ErrorInfo), type=_TEXT, title=_TEXT, status={"type": "integer"}, detail=_TEXT
    )
    problem["properties"] |= {"job": _reference("Job")}
    text_or_null = {"type": ["string", "null"]}
    return {
        "Job": _of_class(Job, ok=_OK),
        "JobPage": _object(ok=_OK, jobs={"type": "array", "items": _reference("Job")}, next_cursor=text_or_null),
        "Result": result,
        "Logs": logs,
        "Explanation": _of_class(Explanation, ok=_OK),
        "Group": _of_class(GroupInfo, ok=_OK),
        "Schedule": _of_class(ScheduleInfo, ok=_OK),
        "Schedules": _object(ok=_OK, schedules={"type": "array", "items": _reference("Schedule")}),
        "Removed": _object(ok=_OK, removed=_TEXT),
        "Groups": _object(ok=_OK, groups={"type": "array", "items": _reference("Group")}),
        "SpendReport": _object(
            ok=_OK,
            by=_TEXT,
            since=text_or_null,
            spend={"type": "array", "items": {"type": "object"}},
            total={"type": "object"},
        ),
        "Forgotten": _object(ok=_OK, job_id=_TEXT),
        "Document": {"type": "object"},
        "Text": _TEXT,
        "Problem": problem,
    }


def _in_body(parameter: Parameter) -> dict[str, Any]:
    """Return the schema of a member of a body; ``null`` counts as absent, unless the operation says otherwise."""
    shape = attrs.evolve(parameter, lists_bounds=True).schema()
    return shape if parameter.required else {"anyOf": [shape, {"type": "null"}]}


def _outside(parameter: Parameter, where: str) -> dict[str, Any]:
    """Return the description of a parameter in the query or in a header."""
    shape = parameter.schema()
    description = shape.pop("description", "")
    if parameter.type == "labels":
        shape = {"type": "array", "items": {"type": "string", "pattern": "="}}
    described = {"name": parameter.name, "in": where, "required": parameter.required, "schema": shape}
    return {**described, "description": description} if description else described


def _operation(operation: Operation) -> dict[str, Any]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    parameters += [_outside(each, "query") for each in operation.query]
    parameters += [_outside(each, "header") for each in operation.headers]
    responses: dict[str, Any] = {
        str(operation.status): {
            "description": "Done.",
            "content": {operation.media: {"schema": _reference(operation.answer)}},
        },
        "default": {"description": "Refused.", "content": {MEDIA_TYPE: {"schema": _reference("Problem")}}},
    }
    if any(each.name == "If-None-Match" for each in operation.headers):
        responses["304"] = {"description": "Unchanged."}
    identifier = "_".join(part.strip("{}") for part in operation.path.split("/") if part not in {"", "v1"})
    shape: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}_{identifier}".replace(".", "_"),
        "summary": operation.summary,
        "responses": responses,
    }
    if parameters:
        shape["parameters"] = parameters
    if operation.body:
        body = {
            "type": "object",
            "properties": {each.name: _in_body(each) for each in operation.body},
            "required": [each.name for each in operation.body if each.required],
            "additionalProperties": False,
        }
        shape["requestBody"] = {"content": {JSON: {"schema": body}}}
    return shape


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of these operations."""
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trio-supervisor",
            "version": __version__,
            "description": "Jobs, their output and their groups. A client passes over members, states, reasons and "
            "codes that it does not know.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
