"""The programs that are killed: embedded supervisors and command lines, forked from the driver for speed.

Each writes its observations line by line into a log of its own, so that nothing is lost when it is killed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import points
import trio
from commands import GRACE_SECONDS, Command

import supervisor
from supervisor.cli import main as command_line
from supervisor.engines.local import keeper_client
from supervisor.jobs.catalog import Catalog
from supervisor.keeper import entry as keeper_entry
from supervisor.store import schema, sqlite

HERE = Path(__file__).parent
ADDED = "ALTER TABLE jobs ADD COLUMN chaos TEXT"


def settings(root: Path) -> supervisor.Settings:
    return supervisor.Settings(state_dir=root, stop_grace_seconds=GRACE_SECONDS)


class Log:
    """Lines of JSON, each written with one call."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, event: str, **facts: Any) -> None:
        os.write(self._descriptor, json.dumps({"event": event, **facts}).encode() + b"\n")


def processes_of(token: str) -> list[int]:
    """Return the processes of a job, by a variable of the tests in their environment, without those of supervisor."""
    found: list[int] = []
    wanted = f"CHAOS_TOKEN={token}".encode()
    try:
        names = os.listdir("/proc")
    except OSError:  # a program that has run out of descriptors: the driver checks again at the end
        return found
    for name in filter(str.isdecimal, names):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            environment = file.read().split(b"\0")
            if wanted in environment and any(each.startswith(b"SUPERVISOR_JOB_ID=") for each in environment):
                found.append(int(name))
    return found


def _tell_tasks(*_: object) -> None:
    """Write to stderr what each task of Trio waits for; a program that hangs is asked for that."""
    lines: list[str] = []

    def walk(task: trio.lowlevel.Task, depth: int) -> None:
        lines.append("  " * depth + task.name)
        lines.extend(f"{'  ' * depth}  {frame.f_code.co_filename}:{line}" for frame, line in task.iter_await_frames())
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                walk(child, depth + 1)

    root = trio.lowlevel.current_root_task()
    if root is not None:
        walk(root, 0)
    os.write(2, "\n".join(lines).encode() + b"\n")


def fork(plan: list[dict[str, Any]], directory: Path, name: str, body: Callable[[Log], int], *, newer: bool) -> int:
    """Run ``body`` in a process of its own and return its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, _tell_tasks)
        output = os.open(directory / f"{name}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        errors = os.open(directory / f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((null, 0), (output, 1), (errors, 2)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.update(
            CHAOS_PLAN=json.dumps(plan),
            CHAOS_HITS=str(directory / "hits"),
            CHAOS_PARENT=str(os.getpid()),
            CHAOS_KEEPER=str(Path(keeper_entry.__file__).parent),
            CHAOS_DIRECTORY=str(HERE),
        )
        names = ("PLAN", "HITS", "PARENT", "KEEPER", "DIRECTORY", "ROOT")
        keeper_client._KEPT_VARIABLES += tuple(f"CHAOS_{each}" for each in names)
        if any(step["point"] in points.KEEPER for step in plan):
            keeper_entry.__file__ = str(HERE / "keeper" / "entry.py")
        if newer:
            schema.MIGRATIONS += (ADDED,)
            sqlite.VERSION += 1
        points.install(points.SUPERVISOR, points.module_of_package, keeper=False)
        status = body(Log(directory / f"{name}.log"))
    except BaseException:  # noqa: BLE001  # a forked child must never return into the driver
        os.write(2, traceback.format_exc().encode())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)


def environment_for(token: str) -> dict[str, str]:
    return {"CHAOS_TOKEN": token, "CHAOS_MARKS": os.environ["CHAOS_MARKS"]}


# ---------------------------------------------------------------- an embedded supervisor


async def _tend(sup: supervisor.Supervisor, log: Log, command: Command, after: float, then: str, later: float) -> None:
    await trio.sleep(after)
    log.note("starting", token=command.token)
    try:
        job = await sup.start(
            command.argv,
            stdin=command.stdin,
            deadline_seconds=command.deadline,
            env=os.environ | environment_for(command.token),
            idempotency_key=command.key,
        )
    except supervisor.SupervisorError as error:
        log.note("refused", token=command.token, code=error.code, message=error.message)
        return
    at = time.monotonic()
    log.note("acked", token=command.token, job_id=job.job_id, status=job.status, reason=job.reason, at=at)
    await trio.sleep(later)
    try:
        if then == "cancel":
            log.note("cancelling", job_id=job.job_id)
            job = await sup.cancel(job.job_id)
            log.note("cancelled", job_id=job.job_id, left=processes_of(command.token), status=job.status)
        elif then in {"wait", "consume"}:
            job = await sup.wait(job.job_id)
        log.note("seen", job_id=job.job_id, status=job.status, code=job.exit_code, signal=job.signal)
        if then == "consume":
            log.note("consuming", job_id=job.job_id)
            await sup.result(job.job_id, consume=True)
            log.note("consumed", job_id=job.job_id)
    except supervisor.SupervisorError as error:
        log.note("error", token=command.token, job_id=job.job_id, code=error.code, message=error.message)


async def _adopt(sup: supervisor.Supervisor, log: Log, nursery: trio.Nursery) -> None:
    async def see(job_id: str) -> None:
        with contextlib.suppress(supervisor.SupervisorError):
            job = await sup.wait(job_id)
            log.note("seen", job_id=job.job_id, status=job.status, code=job.exit_code, signal=job.signal)

    try:
        jobs = (await sup.list(limit=1000)).jobs
    except supervisor.SupervisorError as error:
        log.note("unlisted", code=error.code, message=error.message)
        return
    for job in jobs:
        nursery.start_soon(see, job.job_id)


def host(
    root: Path,
    leave: int,
    tasks: list[tuple[Command, float, str, float]],
    *,
    adopts: bool,
) -> Callable[[Log], int]:
    """Return a program that embeds a supervisor until the other end of ``leave`` is closed."""

    async def main(log: Log) -> None:
        async with supervisor.open_supervisor(settings(root)) as sup, trio.open_nursery() as nursery:
            log.note("open")
            for task in tasks:
                nursery.start_soon(_tend, sup, log, *task)
            if adopts:
                nursery.start_soon(_adopt, sup, log, nursery)
            await trio.lowlevel.wait_readable(leave)
            log.note("leaving")
            nursery.cancel_scope.cancel()

    def body(log: Log) -> int:
        try:
            trio.run(main, log)
        except supervisor.SupervisorError as error:  # bare, so opening failed: its tasks would raise a group
            log.note("unopened", code=error.code, message=error.message)
        except OSError as error:  # Trio itself had no descriptor
            log.note("unopened", code="", message=str(error))
        return 0

    return body


# ---------------------------------------------------------------- a command line


def cli(*argv: str) -> Callable[[Log], int]:
    return lambda _: command_line(list(argv))


def starting(command: Command, stdin: Path) -> list[str]:
    """Return the words of ``supervisor start`` for a command."""
    words = ["start", "--json"]
    for name, value in environment_for(command.token).items():
        words += ["--env", f"{name}={value}"]
    if command.stdin is not None:
        stdin.write_bytes(command.stdin)
        words += ["--stdin", str(stdin)]
    if command.deadline is not None:
        words += ["--deadline", str(command.deadline)]
    if command.key is not None:
        words += ["--key", command.key]
    return [*words, "--", *command.argv]


# ---------------------------------------------------------------- who looks at the end


def judge(root: Path, known: list[str], endless: set[str]) -> Callable[[Log], int]:
    """Return a program that ends endless commands, waits for the others, and reports what is on record."""

    def body(log: Log) -> int:
        with Catalog(settings(root)) as catalog:
            ids = dict.fromkeys(known)
            for job in catalog.list(limit=1000).jobs:
                ids[job.job_id] = None
            kept, asked = [], []
            for job_id in ids:
                with contextlib.suppress(supervisor.JobNotFound):
                    kept.append(catalog.status(job_id))
            for job in kept:
                if job.argv[-1] in endless and not job.status.terminal:
                    asked.append(job.job_id)
                    log.note("cancelling", job_id=job.job_id)
            for job_id, end in zip(asked, catalog.cancel_all(asked), strict=True):
                if isinstance(end, supervisor.SupervisorError):
                    log.note("error", job_id=job_id, code=end.code, message=end.message)
                else:
                    log.note("cancelled", job_id=job_id, status=end.status, left=processes_of(end.argv[-1]))
            with contextlib.suppress(supervisor.JobNotFound):
                catalog.wait([job.job_id for job in kept], timeout=10)
            for job_id in ids:
                _tell(catalog, log, job_id)
        return 0

    return body


def _tell(catalog: Catalog, log: Log, job_id: str) -> None:
    try:
        job = catalog.status(job_id)
    except supervisor.JobNotFound:
        log.note("missing", job_id=job_id)
        return
    value: str | None = None
    with contextlib.suppress(supervisor.SupervisorError):
        result = catalog.result(job_id)
        if isinstance(result.value, str):
            plain = result.encoding is None
            value = base64.b64encode(result.value.encode()).decode() if plain else result.value
    log.note("judged", job_id=job_id, job=supervisor.to_json(job), value=value)
