"""Deliveries by real processes, whose supervisors and receivers are killed."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.store import outbox
from tests.process.conftest import PATIENCE, Host, World

pytest.importorskip("h11")

RECEIVER = Path(__file__).with_name("receiver.py")


class Receiver:
    """A receiver of webhooks that can be killed, and started again on its port."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.log = world.directory / "received"
        self.log.touch()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        words = [sys.executable, "-S", str(RECEIVER), str(self.port), str(self.log)]
        self._process = subprocess.Popen([*words, str(self._world.root / "webhook-secret")])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def received(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()]


@pytest.fixture
def receiver(world: World) -> Iterator[Receiver]:
    made = Receiver(world)
    yield made
    made.kill()


def command(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", *words, "--json"], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def until_empty(world: World, patience: float = PATIENCE) -> None:
    """Wait until everything is delivered; other processes do it, without an event for this one."""
    give_up = time.monotonic() + patience
    while outbox.pending(str(world.root)):
        assert time.monotonic() < give_up, command("deliveries")
        time.sleep(0.05)


def retry_all(world: World) -> None:
    """Make all attempts due now: a test does not wait for back-offs."""
    for delivery_id in outbox.pending(str(world.root)):
        outbox.revive(str(world.root), delivery_id)


def test_the_end_of_a_job_that_outlives_its_supervisor_is_delivered(world: World, receiver: Receiver) -> None:
    """The keeper starts the process that delivers."""
    fifo = world.fifo()
    host = world.host()
    job_id = host.start(
        "sh", "-c", f"read line < {fifo}; exit 3", webhook=receiver.url, on_end=["/bin/cp", "/dev/stdin", "end"]
    )
    receiver.start()
    host.kill()
    fifo.open()
    give_up = time.monotonic() + PATIENCE
    while not (receiver.received() and (world.directory / "end").exists()):
        assert time.monotonic() < give_up, command("deliveries")
        time.sleep(0.05)
    until_empty(world)
    assert receiver.received() == [[f"evt_{job_id}", job_id, job_id, "1", "failed"]]
    assert json.loads((world.directory / "end").read_text())["data"]["exit_code"] == 3


def test_the_command_line_lists_retries_and_removes_deliveries(world: World, receiver: Receiver) -> None:
    host = world.host()
    job_id = host.start("true", webhook=receiver.url + "/secret-word")
    host.call("wait", job_id)
    give_up = time.monotonic() + PATIENCE
    while not (found := command("deliveries")["deliveries"]) or not found[0]["failures"]:
        assert time.monotonic() < give_up
    assert found[0]["delivery_id"] == f"{job_id}.webhook"
    assert found[0]["to"] == f"http://127.0.0.1:{receiver.port}"
    assert "refused" in found[0]["error"]
    assert "secret-word" not in json.dumps(found)
    assert command("deliveries", "--dead")["deliveries"] == []
    (delivery,) = filter(None, [outbox.read(str(world.root), f"{job_id}.webhook")])
    outbox.bury(str(world.root), delivery)
    assert command("deliveries", "--dead")["deliveries"][0]["state"] == "dead"
    shown = subprocess.run([sys.executable, "-m", "supervisor", "list"], capture_output=True, text=True, check=True)
    assert "1 delivery is dead: see `supervisor deliveries --dead`." in shown.stderr
    checks = {each["name"]: each for each in command("doctor")["checks"]}
    assert checks["deliveries"]["message"] == "1 delivery is dead"
    receiver.start()
    assert command("deliveries", "--retry", job_id[:8])["state"] == "waiting"
    until_empty(world)
    assert len(receiver.received()) == 1
    assert command("deliveries", "--retry", job_id)["error"]["code"] == "invalid_arguments"
    receiver.kill()
    second = host.start("true", webhook=receiver.url)
    host.call("wait", second)
    assert command("deliveries", "--rm", second[:8])["removed"] == f"{second}.webhook"
    assert outbox.pending(str(world.root)) == []


def storm(world: World, receiver: Receiver, jobs: int, kills: int, seed: int) -> None:
    """Start jobs, kill senders and the receiver at random meanwhile, and compare what has arrived."""
    chance = random.Random(seed)
    started: dict[str, int] = {}
    receiver.start()
    host: Host = world.host()
    portions = [jobs // kills + (number < jobs % kills) for number in range(kills)]
    for number, portion in enumerate(portions):
        policy = {"maximum_attempts": 2, "initial_interval": 0.01, "retry_on": ["job_failed"]}
        calls: list[tuple[int, int]] = []
        for _ in range(portion):
            attempts = 2 if chance.random() < 0.3 else 1
            words, options = ["true"], {}
            if attempts == 2:
                words, options = ["false"], {"retry": policy}
            calls.append((host.ask("start", words, webhook=receiver.url, **options), attempts))
        started |= {host.answer(call)["job_id"]: attempts for call, attempts in calls}
        time.sleep(chance.random() * 0.3)
        if chance.random() < 0.7:
            host.kill()
            host = world.host()
        if chance.random() < 0.7:
            receiver.kill()
            if number % 2:
                time.sleep(chance.random() * 0.2)
            receiver.start()
        retry_all(world)
    give_up = time.monotonic() + PATIENCE + jobs / 10
    while len({each[0] for each in receiver.received()}) < sum(started.values()):
        assert time.monotonic() < give_up, f"{len(receiver.received())} of {sum(started.values())}"
        retry_all(world)
        time.sleep(0.5)
    until_empty(world, PATIENCE + jobs / 10)
    host.leave()
    check(receiver.received(), started)
    until_gone(world)


def until_gone(world: World) -> None:
    """Wait until the processes that were started when supervisors were killed have found nothing to do, and ended."""
    give_up = time.monotonic() + PATIENCE
    while left := list((world.root / ".keepers").iterdir()):
        assert time.monotonic() < give_up, left
        time.sleep(0.05)


def check(received: list[list[str]], started: dict[str, int]) -> None:
    first: dict[str, list[str]] = {}
    for event in received:
        first.setdefault(event[0], event)
        assert first[event[0]] == event, "the same id has another body"
    arrived: dict[str, list[int]] = {}
    for event_id, job_id, series_id, attempt, _ in first.values():
        assert event_id == f"evt_{job_id}"
        arrived.setdefault(series_id, []).append(int(attempt))
    assert arrived == {job_id: list(range(1, attempts + 1)) for job_id, attempts in started.items()}


def test_every_end_arrives_in_order_whatever_is_killed(world: World, receiver: Receiver) -> None:
    storm(world, receiver, jobs=24, kills=4, seed=7)


@pytest.mark.chaos
def test_a_thousand_ends_arrive_in_order_whatever_is_killed(world: World, receiver: Receiver) -> None:
    storm(world, receiver, jobs=1000, kills=40, seed=random.randrange(2**32))
