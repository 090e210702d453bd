"""An error while looking is no reason to do anything: commands that wait, end, print, and forget meet every error.

Each command runs as in a shell of its own, with one call of the package failing, once or for good. It answers with
the truth, with what was known before, or with an error that can be retried. Jobs that it is not about stay as they
are on disk; one that it is about is never reported wrongly and never half forgotten.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from supervisor.cli.app import app
from supervisor.engines.local import liveness_cache, stopping
from supervisor.jobdir import records
from supervisor.jobs import bulk
from supervisor.store import Row
from supervisor.system import processes
from tests.faults.test_looks import ERRORS, STATES, Shim, Site, World, shim, world
from tests.process.conftest import World as Processes
from tests.process.conftest import world as process_world

__all__ = ["process_world", "shim", "world"]  # fixtures

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs /proc")

ONCE, FOR_GOOD = 1, 1 << 30
Answer = dict[str, Any]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, state_dir: Path) -> None:
    """Let a cancel give up soon where nothing can be seen; ``state_dir`` is also that of the worlds."""
    del state_dir
    monkeypatch.setattr(bulk, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(stopping, "_BLIND_SECONDS", 0.05)
    monkeypatch.setattr(stopping, "BACKSTOP_SECONDS", 0.2)


def run(*words: str) -> Answer:
    """Run a command in this process, as if in one that knows nothing yet; return what it printed."""
    liveness_cache._known.clear()
    processes.forget_facts()
    done = CliRunner().invoke(app, [*words, "--json"])
    answer: Answer = json.loads(done.stdout)
    return {**answer, "rc": done.exit_code}


def files_of(directory: str) -> dict[str, object]:
    """Return all that is in a job directory: what links lead to, what files hold; nothing where there is none."""
    found = sorted(Path(directory).iterdir()) if Path(directory).exists() else []
    return {path.name: os.readlink(path) if path.is_symlink() else path.read_bytes() for path in found}


@attrs.frozen
class Job:
    """A job, and what is true of it."""

    row: Row
    status: str
    code: int | None
    directory: str
    leader: subprocess.Popen[bytes]

    @property
    def job_id(self) -> str:
        return self.row.job_id

    @property
    def ended_as(self) -> str:
        """How it is told once it was cancelled: without its directory only its end is known."""
        return "cancelled" if Path(self.directory).exists() else "failed"

    def is_told_rightly(self) -> bool:
        told = run("status", self.job_id)
        return (told.get("status"), told.get("exit_code")) == (self.status, self.code)


class Bystanders:
    """Jobs in every state that a command is not about, and what no job has told of yet."""

    def __init__(self, world: World) -> None:
        self.jobs = [job(world, state) for state in ("kept", "unkept", "ended_on_record")]
        assert all(each.is_told_rightly() for each in self.jobs)
        layout = world.catalog.layout
        owner, workspace = layout.owners.register(), self.jobs[0].row.workspace_key
        self._announced = layout.make_job(workspace, "a" * 32, b"")  # by a start that is under way
        self._directories = [each.directory for each in self.jobs] + [self._announced]
        self.owner = f"{layout.root}/.owners/{owner}"
        self._files = self._now()

    def _now(self) -> list[dict[str, object]]:
        return [files_of(directory) for directory in self._directories]

    def changes(self) -> list[object]:
        """Return what is not as it was."""
        now = zip(self._directories, self._files, self._now(), strict=True)
        changed: list[object] = [each for each in now if each[1] != each[2]]
        return changed if Path(self.owner).exists() else [*changed, f"{self.owner} is gone"]


def job(world: World, state: str) -> Job:
    row, status, code = getattr(world, state)()
    return Job(row, status, code, world.catalog.directory(row), world.children[-1])


def is_retryable(answer: Answer) -> bool:
    """Whether it is an error that says nothing about a job: the state root may be closed to us, all else passes."""
    error = answer.get("error")
    if error is None:
        return False
    closed = (
        "cannot use the ",
        "cannot look at the job: ",
        "cannot ask for the stop: ",
        "cannot discard the job directory: ",
    )
    message: str = error["message"]
    if error["code"] == "invalid_settings":  # the configuration file is closed to us
        return message.endswith(("cannot be read: Permission denied", "cannot be read: Operation not permitted"))
    return bool(error["retryable"]) or (error["code"] == "permission_denied" and message.startswith(closed))


# ---------------------------------------------------------------- what each command may say and do


def check_wait(answer: Answer, of: Job, before: dict[str, object]) -> bool:
    told = answer.get("job", answer)
    right = (told.get("status"), told.get("exit_code")) == (of.status, of.code)
    if of.status == "running" or "exit.json" in before:
        right = right and files_of(of.directory) == before
    return right or (is_retryable(answer) and told.get("status") in {None, "running"})


def check_logs(answer: Answer, of: Job, before: dict[str, object]) -> bool:
    if files_of(of.directory) != before:
        return False
    return answer.get("value") == "out" or is_retryable(answer)


def check_forgetting(answer: Answer, of: Job, before: dict[str, object]) -> bool:
    """A job goes as a whole or not at all, and only one that has ended; its output is handed over before that."""
    there = Path(of.directory).exists()
    if of.status == "running":
        return there and files_of(of.directory) == before and is_retryable(answer)
    if there:
        return files_of(of.directory) == before and is_retryable(answer)
    return bool(answer.get("forgotten") == [of.job_id] or "stdout_bytes" in answer.get("job", {}))


def check_cancel(answer: Answer, of: Job, before: dict[str, object]) -> bool:
    if of.status != "running":
        return files_of(of.directory) == before and (is_retryable(answer) or answer.get("status") == of.status)
    if answer.get("status") == of.ended_as:
        return of.leader.poll() is not None
    return is_retryable(answer)


Check = Callable[[Answer, Job, dict[str, object]], bool]
DEEDS: dict[str, tuple[tuple[str, ...], Check]] = {
    "wait": (("wait", "--timeout", "0"), check_wait),
    "logs": (("logs",), check_logs),
    "rm": (("rm",), check_forgetting),
    "consume": (("result", "--consume"), check_forgetting),
    "cancel": (("cancel",), check_cancel),
}
CASES = [
    *(("wait", state) for state in STATES),
    *(("logs", state) for state in ("kept", "ended_on_record")),
    *(("rm", state) for state in ("unkept", "ended_on_record")),
    *(("consume", state) for state in ("unkept", "ended_on_record")),
    *(("cancel", state) for state in ("unkept", "ended_on_record", "without_directory")),
]


def with_output(of: Job) -> Job:
    if Path(of.directory).exists():
        Path(of.directory, records.STDOUT).write_text("out")
    return of


Fault = tuple[Site, int, int, int]


def faults_on_the_way(shim: Shim, *deeds: Callable[[], object]) -> Iterator[Fault]:
    """Yield a call that is on the way of a command, an error, how often it comes, and how often it does not before.

    Every error meets each call where it is made first; one of them meets it where it is made last as well.
    """
    shim.seen.clear()
    for deed in deeds:
        deed()
    for site, times in sorted(shim.seen.items()):
        count = times // len(deeds)
        for skipped in sorted({0, count - 1} & set(range(max(1, count)))):
            for number in ERRORS if not skipped else (errno.EMFILE,):
                yield site, number, ONCE, skipped
                yield site, number, FOR_GOOD, skipped


@pytest.mark.parametrize(("deed", "state"), CASES)
def test_a_command_that_meets_an_error_does_nothing_because_of_it(
    world: World, shim: Shim, deed: str, state: str
) -> None:
    words, check = DEEDS[deed]
    others = Bystanders(world)
    of = with_output(job(world, state))
    before = files_of(of.directory)
    wrong: list[object] = []
    for case in list(faults_on_the_way(shim, partial(run, *words, of.job_id))):
        if files_of(of.directory) != before or deed == "cancel":
            of = with_output(job(world, state))
            before = files_of(of.directory)
        shim.arm(*case)
        answer = run(*words, of.job_id)
        shim.fails = None
        if not check(answer, of, before):
            wrong.append((*case, answer))
        assert not others.changes(), case
        if deed == "cancel" and of.status == "running":
            again = run(*words, of.job_id)
            assert again.get("status") == of.ended_as, (case, answer, again)
            assert of.leader.wait(60) is not None
        elif Path(of.directory).exists() and not of.is_told_rightly():
            wrong.append((*case, "told wrongly afterwards"))
    assert not wrong, "\n".join(map(str, wrong))
    assert all(each.is_told_rightly() for each in others.jobs)


def test_a_cancel_by_way_of_the_keeper_that_meets_an_error(process_world: Processes, shim: Shim) -> None:
    host = process_world.host()
    wrong: list[object] = []
    for case in list(faults_on_the_way(shim, *[lambda: run("cancel", host.start("sleep", "600"))] * 3)):
        job_id = host.start("sleep", "600")
        leader = process_world.leader(job_id)
        shim.arm(*case)
        answer = run("cancel", job_id)
        shim.fails = None
        if not is_retryable(answer) and (answer.get("status") != "cancelled" or leader.alive):
            wrong.append((*case, answer))
        again = run("cancel", job_id)
        assert again.get("status") == "cancelled", (case, answer, again)
        assert not leader.alive, case
    assert not wrong, "\n".join(map(str, wrong))


EXPIRED = 1


def test_prune_that_meets_an_error_forgets_nothing_because_of_it(world: World, shim: Shim) -> None:
    others = Bystanders(world)
    row_lost = with_output(job(world, "unkept"))  # claimed, and known to its directory alone
    claim = records.keeper_claim(*world.stranger, processes.boot_id(), processes.pid_namespace())
    assert records.take_claim(row_lost.directory, claim)
    before = files_of(row_lost.directory)

    def arrange() -> Job:
        """Have one job to forget, one that is half forgotten already, and one whose row is missing."""
        of = with_output(job(world, "ended_on_record"))
        half = job(world, "ended_on_record")
        assert of.is_told_rightly()
        assert half.is_told_rightly()
        index = world.catalog.index
        index._db.execute("UPDATE jobs SET expires_ns = ? WHERE job_id = ?", (EXPIRED, of.job_id))
        world.catalog.layout.discard(half.row.workspace_key, half.job_id)
        index.write(lambda: index.delete(row_lost.job_id))
        return of

    arrange()
    wrong: list[object] = []
    for case in list(faults_on_the_way(shim, lambda: run("prune", "--all"))):
        of = arrange()
        kept = files_of(of.directory)
        shim.arm(*case)
        answer = run("prune", "--all")
        shim.fails = None
        assert not others.changes(), case
        assert files_of(row_lost.directory) == before, case
        gone = not Path(of.directory).exists()
        if not is_retryable(answer) and not (gone and of.job_id in answer.get("forgotten", ())):
            wrong.append((*case, answer))
        if not gone and files_of(of.directory) != kept:
            wrong.append((*case, "half forgotten"))
        run("prune", "--all")
        if not row_lost.is_told_rightly():
            wrong.append((*case, "told wrongly afterwards"))
    assert not wrong, "\n".join(map(str, wrong))
    assert all(each.is_told_rightly() for each in others.jobs)
