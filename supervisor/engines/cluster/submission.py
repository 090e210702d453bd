"""Handing a job of a batch engine over: what the node needs is put in place, and the engine told until it answers."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import trio

from supervisor import log
from supervisor.engines.cluster.interface import ADMISSION, Backend, Rejected, Submission, Unreachable
from supervisor.engines.cluster.reconcile import drop_secrets, is_unclaimed
from supervisor.engines.interface import LaunchRequest
from supervisor.engines.staging import program_in, write_orders
from supervisor.jobdir import factories, records
from supervisor.jobdir.records import ORDERS

__all__ = ["Submitter", "rule_out"]

_LONGEST_PAUSE_SECONDS: Final = 10.0
_MAX_THREADS: Final = 4  # forty write a hundred jobs no faster, and have to be started and take turns


class Submitter:
    """Submits jobs to one engine.

    Args:
        backend: the engine.
        python: what runs the keeper on the nodes.
    """

    def __init__(self, backend: Backend, python: str) -> None:
        """Put nothing anywhere yet."""
        self.complaint = ""  # why the engine could not be reached when that was tried last
        self._backend = backend
        self._python = python
        self._programs: dict[str, str] = {}
        self._placing = threading.Lock()
        self._threads = trio.CapacityLimiter(_MAX_THREADS)

    async def prepare(self, request: LaunchRequest) -> Submission | None:
        """Put everything in place that the node needs; ``None`` for a job that was claimed or submitted before.

        Raises:
            OSError: it cannot be written.
        """
        return await trio.to_thread.run_sync(self._prepare, request, limiter=self._threads)

    def _prepare(self, request: LaunchRequest) -> Submission | None:
        directory = request.directory
        if not is_unclaimed(directory) or os.path.lexists(f"{directory}/{records.SUBMISSION}"):
            return None
        if not os.path.lexists(f"{directory}/{ORDERS}"):  # a job that may have to wait has had them from the beginning
            write_orders(request)
        return self._submission(
            directory,
            request.options,
            deadline_seconds=request.deadline_seconds,
            grace_seconds=request.grace_seconds,
        )

    async def again(self, directory: str) -> Submission | None:
        """Return the submission of a job that no node has run and whose orders are still there, to be repeated."""
        return await trio.to_thread.run_sync(self._again, directory, limiter=self._threads)

    def _again(self, directory: str) -> Submission | None:
        job = records.read(directory, records.JOB)
        if not job or not is_unclaimed(directory) or not os.path.exists(f"{directory}/{ORDERS}"):
            return None
        return self._submission(
            directory,
            job.get("engine_options", {}),
            deadline_seconds=job.get("deadline_seconds"),
            grace_seconds=job.get("grace_seconds", 5.0),
        )

    def _submission(self, directory: str, options: Mapping[str, Any], **times: Any) -> Submission:
        shared = os.path.dirname(directory)
        with self._placing:  # jobs that are started at once would each compile it
            if shared not in self._programs:
                self._programs[shared] = program_in(shared)
        admission = options.get(ADMISSION, {})
        return Submission(
            key=os.path.basename(directory),
            directory=directory,
            command=(self._python, "-I", "-S", self._programs[shared], "--job", directory),
            options=options,
            after=[(when, handle) for when, handle in admission.get("after", ())],
            begin_ns=admission.get("begin_ns"),
            **times,
        )

    async def submit(self, submission: Submission, *, again: bool = False) -> str:
        """Submit until it is accepted or refused; more than once if the answer gets lost, as the claim permits.

        ``again``: another process may have submitted the job, so the cluster is first asked whether it knows the job.

        Raises:
            Rejected: it was refused, or there is nothing to submit any more.
        """
        pause = 0.5
        while True:
            try:
                if again and submission.key in (known := await self._backend.recover([submission.key])):
                    number = known[submission.key]
                    break
                number = await self._backend.submit(submission)
            except Unreachable as problem:
                self.complaint = str(problem)
                log.info("engine_unreachable", engine=self._backend.name, error=str(problem))
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                if not await trio.to_thread.run_sync(is_unclaimed, submission.directory, limiter=self._threads):
                    message = "it was claimed meanwhile: by a node, or by a cancel"
                    raise Rejected(message) from None
                with contextlib.suppress(Unreachable):  # it may have been accepted all the same
                    known = await self._backend.recover([submission.key])
                    if submission.key in known:
                        number = known[submission.key]
                        break
            else:
                break
        note: dict[str, object] = {"engine": self._backend.name, "handle": number, "submitted_ns": time.time_ns()}
        noted = partial(records.replace, submission.directory, records.SUBMISSION, note)
        await trio.to_thread.run_sync(noted, limiter=self._threads)
        return number


def rule_out(directory: str, why: str) -> bool:
    """Rule that a job will not run, even if its engine has it after all; ``False`` when it has been claimed."""
    try:
        if not records.take_claim(directory, records.NOBODY):
            return False
        drop_secrets(directory)
        records.create(directory, records.EXIT, factories.launch_failure(why))
    except OSError as error:
        log.warning("ruling_not_recorded", job_id=os.path.basename(directory), error=str(error))
    return True
