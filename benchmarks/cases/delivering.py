"""Deliveries at the end of a job: how late a command and a webhook are, and what they cost other jobs."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

import attrs
import trio

import supervisor
from benchmarks.cases.throughput import TRUE
from benchmarks.figures import OURS, Figure, interleaved
from benchmarks.plan import Plan
from supervisor.store import outbox

__all__ = ["deliveries"]

_BY_HAND: Final = "by hand, after wait()"
_WITHOUT: Final = "without deliveries"
_FLIGHT: Final = 16
_PATIENCE_SECONDS: Final = 60.0


@attrs.define
class _Arrivals:
    """When each event arrived, by the wall clock, by the id of its job."""

    port: int
    at: dict[str, float] = attrs.field(factory=dict[str, float])

    async def all_of(self, jobs: list[supervisor.Job]) -> None:
        """Return when the ends of these jobs have arrived."""
        with trio.fail_after(_PATIENCE_SECONDS):
            while not all(job.job_id in self.at for job in jobs):  # noqa: ASYNC110  # a thread of a server tells it
                await trio.sleep(0.001)


@contextlib.contextmanager
def _receiving() -> Generator[_Arrivals]:
    """Receive webhooks on loopback, in a thread."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            now = time.time()
            event: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
            arrivals.at.setdefault(event["data"]["job_id"], now)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # it overrides a method
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        arrivals = _Arrivals(port=server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield arrivals
        finally:
            server.shutdown()
            thread.join()


def deliveries(plan: Plan) -> Iterator[Figure]:
    """Measure from the recorded end of a job to its deliveries, and the rate of jobs that have some."""
    yield _commands(plan)
    if find_spec("h11") is None:
        plan.tell("deliveries: no webhooks without the extra `webhooks`")
        return
    yield _webhooks(plan)
    yield from _rates(plan)


async def _settled(sup: supervisor.Supervisor) -> None:
    """Return when no delivery is left: a process of its own would make it after the supervisor is closed."""
    with trio.fail_after(_PATIENCE_SECONDS):
        while outbox.is_any_pending(str(sup.settings.state_dir)):  # noqa: ASYNC110  # a delivery wakes no task
            await trio.sleep(0.01)


def _since(ended: datetime | None, moment: float) -> float:
    if ended is None:
        raise AssertionError
    return (moment - ended.timestamp()) * 1e3


def _text_of(place: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return place.read_text(encoding="ascii")
    return ""


def _commands(plan: Plan) -> Figure:
    times = plan.pick(2, 15, 60)
    clock = shutil.which("date") or "/bin/date"

    async def told(place: Path) -> float:
        with trio.fail_after(_PATIENCE_SECONDS):
            while not (said := _text_of(place)).endswith("\n"):  # noqa: ASYNC110  # another process writes it
                await trio.sleep(0.001)
        return float(said)

    def measure(*, by_hand: bool) -> Callable[[], float]:
        async def body(sup: supervisor.Supervisor) -> float:
            folder = plan.fresh("told")
            taken: list[float] = []
            for number in range(times):
                place = folder / str(number)
                command = ["sh", "-c", f"{clock} +%s.%N > {place}"]
                job = await sup.start(TRUE, on_end=None if by_hand else command)
                ended = await sup.wait(job.job_id)
                if by_hand:
                    await sup.start(command)
                taken.append(_since(ended.completed_at, await told(place)))
            await _settled(sup)
            return median(taken)

        return lambda: plan.ours(body)

    values, missing = interleaved(plan.rounds, {OURS: measure(by_hand=False), _BY_HAND: measure(by_hand=True)})
    return Figure(
        case="deliveries", name="end of a job until its on_end command runs", unit="ms", values=values,
        missing=missing, note="from the end by the keeper's clock; the delivery is a job of its own, also by hand",
    )  # fmt: skip


def _webhooks(plan: Plan) -> Figure:
    times = plan.pick(2, 20, 100)

    def measure(*, by_hand: bool) -> Callable[[], float]:
        def post(port: int, job: supervisor.Job) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
            connection.request("POST", "/", json.dumps({"data": {"job_id": job.job_id}}))
            connection.getresponse().read()
            connection.close()

        async def body(sup: supervisor.Supervisor) -> float:
            taken: list[float] = []
            with _receiving() as arrivals:
                for _ in range(times):
                    url = f"http://127.0.0.1:{arrivals.port}/"
                    job = await sup.start(TRUE, webhook=None if by_hand else url)
                    ended = await sup.wait(job.job_id)
                    if by_hand:
                        await trio.to_thread.run_sync(post, arrivals.port, ended)
                    await arrivals.all_of([ended])
                    taken.append(_since(ended.completed_at, arrivals.at[job.job_id]))
                await _settled(sup)
            return median(taken)

        return lambda: plan.ours(body)

    values, missing = interleaved(plan.rounds, {OURS: measure(by_hand=False), _BY_HAND: measure(by_hand=True)})
    return Figure(
        case="deliveries", name="end of a job until its webhook arrives", unit="ms", values=values, missing=missing,
        note="from the end by the keeper's clock, to a receiver on loopback",
    )  # fmt: skip


def _rates(plan: Plan) -> Iterator[Figure]:
    jobs = plan.pick(10, 100, 400)
    delivered: list[float] = []

    def measure(*, webhooks: bool) -> Callable[[], float]:
        async def body(sup: supervisor.Supervisor) -> float:
            with _receiving() as arrivals:
                url = f"http://127.0.0.1:{arrivals.port}/" if webhooks else None
                left = iter(range(jobs))
                made: list[supervisor.Job] = []

                async def work() -> None:
                    for _ in left:
                        job = await sup.start(TRUE, webhook=url)
                        made.append(await sup.wait(job.job_id))

                begun = time.perf_counter()
                async with trio.open_nursery() as nursery:
                    for _ in range(_FLIGHT):
                        nursery.start_soon(work)
                rate = jobs / (time.perf_counter() - begun)
                if webhooks:
                    await arrivals.all_of(made)
                    delivered.append(jobs / (time.perf_counter() - begun))
                    await _settled(sup)
            return rate

        return lambda: plan.ours(body)

    values, missing = interleaved(plan.rounds, {OURS: measure(webhooks=True), _WITHOUT: measure(webhooks=False)})
    note = f"{_FLIGHT} in flight, a webhook each to one receiver, of which four are under way at a time"
    yield Figure(
        case="deliveries", name="jobs to a recorded exit, each with a webhook", unit="1/s", values=values,
        missing=missing, note=note,
    )  # fmt: skip
    yield Figure(
        case="deliveries", name="jobs until their webhooks have arrived", unit="1/s",
        values={OURS: delivered, _WITHOUT: values[_WITHOUT]}, note=note,
    )  # fmt: skip
