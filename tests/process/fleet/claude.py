"""A stand-in for ``claude -p``: works in turns, keeps its session on disk, and meets the usage limit of its account.

``FLEET`` is the directory of the account, and names what it does:

``settings``   JSON: ``turns`` of each task, ``turn_seconds``, ``limit_at`` (the launches that meet a limit: their
               numbers, or ``every`` so many), ``reset_seconds``, ``words`` (what it says of the limit in place of an
               event), ``work`` (the name of a file that it appends its prompt to, once it has done its task)
``launches``   a byte for each launch
``reset``      when the limit ends, in seconds since the epoch
``log``        a line of JSON for what each launch did: ``begin``, then ``done`` or ``limited``, with the cost that it
               has said
``sessions/``  a file for each session: its prompt, and how many turns are done

As the program does, it refuses to resume a session without a turn, and to begin one under an id that is in use.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import Any, NoReturn

ACCOUNT = os.environ["FLEET"]
COST_OF_A_TURN = 0.0625  # sums of it are exact
TOKENS_OF_A_TURN = 100


def append(name: str, content: bytes) -> int:
    """Append to a file of the account; return its size then."""
    descriptor = os.open(f"{ACCOUNT}/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, content)
    size = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.close(descriptor)
    return size


def read(name: str) -> Any:
    try:
        with open(f"{ACCOUNT}/{name}", "rb") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None


def write(name: str, content: Any) -> None:
    with open(f"{ACCOUNT}/{name}.{os.getpid()}", "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.rename(file.name, f"{ACCOUNT}/{name}")


def say(**members: Any) -> None:
    os.write(1, (json.dumps(members) + "\n").encode())


def refuse(message: str) -> NoReturn:
    os.write(2, f"{message}\n".encode())
    sys.exit(1)


def main() -> None:
    words = sys.argv[1:]
    how, session_id = words[0], words[1]
    stored = read(f"sessions/{session_id}")
    if how == "--resume":
        if stored is None or not stored["turns"]:
            refuse(f"No conversation found with session ID: {session_id}")
        if not sys.stdin.read():
            refuse("Error: Input must be provided")
    elif how == "--session-id":
        if stored is not None and stored["turns"]:
            refuse(f"Error: Session ID {session_id} is already in use.")
        stored = {"prompt": words[words.index("-p") + 1], "turns": 0}
    else:
        refuse(f"error: unknown option '{how}'")
    assert stored is not None
    settings, number = read("settings"), append("launches", b".")
    facts = {"prompt": stored["prompt"], "session": session_id, "how": how, "number": number}
    append("log", json.dumps({"what": "begin", **facts, "at": time.time()}).encode() + b"\n")
    say(type="system", subtype="init", session_id=session_id)
    if number in settings.get("limit_at", ()) or (settings.get("every") and number % settings["every"] == 0):
        write("reset", math.ceil(time.time() + settings["reset_seconds"]))
    turns = 0
    while stored["turns"] < settings["turns"]:
        reset = read("reset") or 0
        if time.time() < reset:
            limited(facts, turns, reset, settings.get("words"))
        time.sleep(settings["turn_seconds"])
        turns += 1
        stored["turns"] += 1
        write(f"sessions/{session_id}", stored)
    if "work" in settings:
        with open(settings["work"], "a", encoding="utf-8") as file:
            file.write(f"{stored['prompt']}\n")
    append("log", json.dumps({"what": "done", **facts, "cost": turns * COST_OF_A_TURN}).encode() + b"\n")
    say(type="result", subtype="success", is_error=False, result=f"did {stored['prompt']}", **sums(session_id, turns))


def sums(session_id: str, turns: int) -> dict[str, Any]:
    usage = {"input_tokens": turns, "output_tokens": turns * TOKENS_OF_A_TURN}
    return {"session_id": session_id, "num_turns": turns, "usage": usage, "total_cost_usd": turns * COST_OF_A_TURN}


def limited(facts: dict[str, Any], turns: int, reset: int, words: str | None) -> NoReturn:
    """Say that the limit is met, as the program does, and exit."""
    append("log", json.dumps({"what": "limited", **facts, "cost": turns * COST_OF_A_TURN}).encode() + b"\n")
    if words is None:
        say(
            type="rate_limit_event",
            rate_limit_info={"status": "rejected", "resetsAt": reset, "rateLimitType": "five_hour"},
        )
    text = words or "You've hit your session limit"
    say(
        type="result",
        subtype="success",
        is_error=True,
        api_error_status=429,
        result=text,
        **sums(facts["session"], turns),
    )
    sys.exit(1)


main()
