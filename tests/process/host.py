"""A program that embeds a supervisor and serves requests: a JSON object on each line of its input.

``{"number": 1, "do": "start", "args": [...], "named": {...}}`` calls that method; the answer has the
same number. ``abandon`` cancels a running call. At the end of input the program leaves its ``async with``.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import trio

import supervisor

calls: dict[int, trio.CancelScope] = {}


def shape(value: Any) -> Any:
    if value is None or isinstance(value, str | list | tuple):
        return value
    return supervisor.to_json(value)


async def handle(sup: supervisor.Supervisor, request: dict[str, Any]) -> None:
    answer: dict[str, Any] = {"number": request["number"]}
    with trio.CancelScope() as calls[request["number"]]:
        if (policy := request["named"].get("retry")) is not None:
            request["named"]["retry"] = supervisor.Retry(**policy)
        try:
            answer["value"] = shape(await getattr(sup, request["do"])(*request["args"], **request["named"]))
        except supervisor.SupervisorError as error:
            answer["error"] = error.code
    if calls.pop(request["number"]).cancelled_caught:
        answer["error"] = "abandoned"
    os.write(1, json.dumps(answer).encode() + b"\n")


class Loaded(logging.Handler):
    """Tells when this process has loaded all that it may need later."""

    def __init__(self) -> None:
        super().__init__()
        self.event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "installation_loaded":
            self._token.run_sync_soon(self.event.set)  # a thread has loaded it

    async def answer(self, number: int) -> None:
        await self.event.wait()
        os.write(1, json.dumps({"number": number, "value": "loaded"}).encode() + b"\n")


async def main() -> None:
    loaded = Loaded()
    logging.getLogger("supervisor").addHandler(loaded)
    logging.getLogger("supervisor").setLevel(logging.DEBUG)
    async with supervisor.open_supervisor() as sup, trio.open_nursery() as nursery:
        os.write(1, b'{"number": 0, "value": "ready"}\n')
        rest = b""
        async for chunk in trio.lowlevel.FdStream(os.dup(0)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if request["do"] == "abandon":
                    calls[request["args"][0]].cancel()
                elif request["do"] == "load":
                    nursery.start_soon(loaded.answer, request["number"])
                else:
                    nursery.start_soon(handle, sup, request)
        nursery.cancel_scope.cancel()


trio.run(main)
