"""Lines that are no message: every request in them is answered, with its own id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import INVALID_REQUEST, PARSE_ERROR, JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from mcp_types.jsonrpc import ErrorData

from supervisor.mcp_server.transports import messages

DEEP = b"[" * 100_000


def refused(found: object) -> list[tuple[Any, int]]:
    assert isinstance(found, Iterator), found
    lines = [refusal.line() for refusal in found]
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in lines)
    told = [json.loads(line) for line in lines]
    assert all(each["jsonrpc"] == "2.0" and each["error"]["message"] for each in told)
    return [(each["id"], each["error"]["code"]) for each in told]


@pytest.mark.parametrize(
    ("line", "request_id", "code"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}', 7, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":"s","method":"ping","params":[1,{"id":8}]}', "s", INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":"x"}', 7, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":0}', 7, INVALID_REQUEST),
        (b'{"id":7,"method":"ping"}', 7, INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":7,"method":"ping"}', 7, INVALID_REQUEST),
        (b'{"jsonrpc":2.0,"id":7,"method":"ping"}', 7, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', 7, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7}', 7, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', 1.5, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping","params":[]}', None, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping","params":[]}', None, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":[7],"method":"ping","params":[]}', None, INVALID_REQUEST),
        (b'{"id":7,"id":8,"method":"ping"}', 8, INVALID_REQUEST),
        (b'{"params":{"id":9},"id":7,"method":"ping"}', 7, INVALID_REQUEST),
        (b'{"params":{"x":"\\"id\\":9,"},"method":"ping", "id" : 7 }', 7, INVALID_REQUEST),
        (b'{"id":"a\\"b\\\\","method":"ping"}', 'a"b\\', INVALID_REQUEST),
        (b'{"id":"\\ud800","method":"ping"}', "\ud800", INVALID_REQUEST),
        (b'{"id":"\\u00e9","method":"ping"}', "\u00e9", INVALID_REQUEST),
        (b'{"id":-3,"method":"ping"}', -3, INVALID_REQUEST),
        (b'{"id":%b,"method":"ping"}' % (b"9" * 309), int("9" * 309), INVALID_REQUEST),
        (b"7", None, INVALID_REQUEST),
        (b'"id"', None, INVALID_REQUEST),
        (b"null", None, INVALID_REQUEST),
        (b"{}", None, INVALID_REQUEST),
        (b"[]", None, INVALID_REQUEST),
        (b"hello", None, PARSE_ERROR),
        (b"\x00\x00", None, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"p\x00ng"}', 7, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"p\xffng"}', 7, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"p\xed\xa0\x80"}', 7, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping"', 7, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping"}}', 7, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping",}', 7, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":"unended', 7, PARSE_ERROR),
        (b"{'id':7}", None, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"method":"x","params":{"a":' + DEEP, 7, PARSE_ERROR),
        (b'{"params":{"a":%b%b},"id":7,"method":"x"}' % (DEEP, b"]" * len(DEEP)), 7, PARSE_ERROR),
        ('{"jsonrpc":"2.0","id":7}'.encode("utf-16"), None, PARSE_ERROR),
    ],
)
def test_what_cannot_be_taken(line: bytes, request_id: object, code: int) -> None:
    assert refused(messages.parse(line)) == [(request_id, code)]


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":7,"result":{}}',
        b'{"jsonrpc":"2.0","id":7,"result":[]}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":"\xff"}}',
        b'{"id":7,"error":{"code":1,"message":"m"}}',
        b'{"jsonrpc":"2.0","error":null,"id":7}',
    ],
)
def test_an_answer_is_not_answered(line: bytes) -> None:
    """Its id is the server's: a host would take an error with that id for the answer to a request of its own."""
    assert refused(messages.parse(line)) == []


def test_each_request_of_a_batch_is_answered() -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": "two", "method": "ping"},
        {"jsonrpc": "2.0", "id": 3, "result": {}},
        {"jsonrpc": "2.0", "id": True, "method": "ping"},
        17,
    ]
    assert refused(messages.parse(json.dumps(batch).encode())) == [(1, INVALID_REQUEST), ("two", INVALID_REQUEST)]
    assert refused(messages.parse(json.dumps(batch[1:2]).encode())) == [(None, INVALID_REQUEST)]


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        (b'{"id":1,"method":"m"}{"id":"two","method":"m"}', [1, "two"]),
        (b'{"id":1,"method":"m","params":{"id":8}} {"method":"n"} {"id":3,"method":"m"', [1, 3]),
        (b'{"method":"n"}{"id":2,"method":"m"}', [None, 2]),
        (b'{"id":1,"result":{}}{"id":2,"method":"m"}', [2]),
        (b'[{"id":1,"method":"m"},', [1]),
        (b' [{"id":1,"method":"m"},{"id":2,"method":"m","params":[{"id":8}]},{"id":3,', [1, 2, 3]),
        (b'[{"id":1,"method":"m"}][{"id":2,"method":"m"}]', [1, 2]),
        (b'[["id"],', [None]),
    ],
)
def test_each_request_of_a_line_that_is_no_json_is_answered(line: bytes, ids: list[object]) -> None:
    assert refused(messages.parse(line)) == [(each, PARSE_ERROR) for each in ids]


@pytest.mark.parametrize(
    ("line", "params"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"\\ud800"}}', {"a": "\ud800"}),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"x\\udc00y"}}', {"a": "x\udc00y"}),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":7,"method":"m"}\r', None),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1,"a":2}}', {"a": 2}),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1e400}}', {"a": float("inf")}),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"\\u0000"}}', {"a": "\0"}),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":null,"more":1}', None),
    ],
)
def test_what_is_odd_and_taken(line: bytes, params: object) -> None:
    found = messages.parse(line)
    assert isinstance(found, JSONRPCRequest)
    assert (found.id, found.params) == (7, params)


def test_other_messages() -> None:
    assert isinstance(messages.parse(b'{"jsonrpc":"2.0","method":"m"}'), JSONRPCNotification)
    assert isinstance(messages.parse(b'{"jsonrpc":"2.0","id":1,"result":{}}'), JSONRPCResponse)


@pytest.mark.parametrize(
    ("head", "tail", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"xxx', b'xxx"}}', 7),
        (b'{"method":"m","params":{"id":9,"a":"xxx', b'xxx","id":9},"jsonrpc":"2.0","id":7}', 7),
        (b'{"method":"m","params":{"a":"xxx', b'xxx"}, "id": "s", "jsonrpc": "2.0", "method": "m"} ', "s"),
        (b'{"method":"m","params":{"a":"xxx', b'xxx"},"jsonrpc":"2.0","id":7}\r', 7),
        (b'{"method":"m","params":{"a":"xxx', b'xxx","id":9}}', None),
        (b'{"method":"m","params":{"a":"xxx', b'xxx\\"id\\":9}', None),
        (b"xxxx", b"xxxx", None),
    ],
)
def test_a_line_that_is_too_long(head: bytes, tail: bytes, request_id: object) -> None:
    assert refused(messages.too_long(head, tail, 9)) == [(request_id, INVALID_REQUEST)]


def test_an_answer_that_is_too_long() -> None:
    assert refused(messages.too_long(b'{"jsonrpc":"2.0","result":{"a":"', b'"},"id":7}', 9)) == []


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,\\idmethod70 \ud800'), max_size=40))
def test_whatever_it_is_there_is_a_message_or_an_answer(line: bytes | str) -> None:
    """A refusal is a line of JSON for any refused line."""
    data = line if isinstance(line, bytes) else line.encode(errors="surrogatepass")
    found = messages.parse(data)
    if isinstance(found, Iterator):
        refused(found)
    refused(messages.too_long(data, data, 9))


def test_looking_for_an_id_is_linear() -> None:
    """Quotes that are never closed, for each of which a search could run to the end once more."""
    for data in (b'"' + b'\\"' * 400_000, b'{"' + b"\\" * 800_001, b'{"a":' + b'"id":' * 200_000):
        refused(messages.too_long(data, data[-65536:], 9))


def test_an_answer_that_cannot_be_written() -> None:
    odd = JSONRPCError(jsonrpc="2.0", id=7, error=ErrorData(code=1, message="m", data={"uri": "\ud800"}))
    assert json.loads(messages.dumped(odd))["error"]["data"] == {"uri": "\ud800"}
    endless: list[Any] = []
    endless.append(endless)
    for value in (endless, object()):
        told = json.loads(messages.dumped(JSONRPCResponse(jsonrpc="2.0", id="seven", result={"a": value})))
        assert (told["id"], told["error"]["message"]) == ("seven", "The answer cannot be written as JSON")
