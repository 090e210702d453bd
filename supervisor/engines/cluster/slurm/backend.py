"""Slurm, to a supervisor: its commands with time-outs and a limit to how many run at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

import trio

from supervisor.engines.cluster.interface import JobReport, Rejected, Submission, Unreachable
from supervisor.engines.cluster.slurm import commands
from supervisor.engines.cluster.slurm.commands import Answer, Command
from supervisor.engines.limits import Granted, granted
from supervisor.model import Limits

__all__ = ["Slurm"]

# Its clients give up by themselves when the controller is away, after MessageTimeout or so: 10 s as a rule.
_COMMAND_SECONDS: Final = 20.0
_MAX_AT_ONCE: Final = 4


class Slurm:
    """A ``Backend``: Slurm's command line, 22.05 and newer.

    What stands of ``SLURM_CONF`` and its kin in the environment when this is made leads to the cluster.
    """

    name = "slurm"

    def __init__(self) -> None:
        """Ask nothing yet."""
        self._environment = commands.environment(os.environ)
        self._limiter = trio.CapacityLimiter(_MAX_AT_ONCE)
        self._seen: dict[str, tuple[str, JobReport]] = {}
        self._version_checked = False
        self._checking = trio.Lock()

    def limit(self, limits: Limits) -> Granted:
        """Return the options that limit a job; Slurm has none for the number of processes."""
        return granted(limits, {"pids": "Slurm does not limit the processes of a job"}, commands.limit_options(limits))

    async def submit(self, submission: Submission) -> str:
        """Hand a job over, and return its number."""
        if not self._version_checked:
            async with self._checking:
                if not self._version_checked:
                    commands.check_version(await self._run(commands.VERSION))
                    self._version_checked = True
        return commands.read_submit(await self._run(commands.submit(submission)))

    async def observe(self, keys: Collection[str]) -> Mapping[str, JobReport]:
        """Say where these jobs stand: one ``squeue``, however many there are."""
        del keys  # it lists all that are ours
        answer = await self._run(commands.SQUEUE)
        return commands.read_squeue(answer, self._seen)

    async def cancel(self, key: str, *, nudge: bool = False) -> None:
        """Ask for a job to be ended, or its keeper to look."""
        commands.read_cancel(await self._run(commands.cancel(key, nudge=nudge)))

    async def collect(self, handle: str) -> JobReport | None:
        """Return Slurm's word about an end."""
        return commands.read_show(await self._run(commands.show(handle)))

    async def recover(self, keys: Collection[str]) -> Mapping[str, str]:
        """Return the numbers of those of these jobs that Slurm knows."""
        reports = await self.observe(keys)
        return {
            key: report.handle for key in keys if (report := reports.get(key)) is not None and report.handle is not None
        }

    async def _run(self, command: Command) -> Answer:
        run = partial(
            trio.run_process,
            list(command.argv),
            stdin=command.stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=self._environment,
        )
        done: subprocess.CompletedProcess[bytes] | None = None
        try:
            async with self._limiter:
                with trio.move_on_after(_COMMAND_SECONDS):
                    done = await run()
        except FileNotFoundError:
            message = f"{command.argv[0]} is not on PATH here: install Slurm's client commands"
            if command.argv[0] == "sbatch":
                raise Rejected(message) from None
            raise Unreachable(message) from None
        except OSError as error:  # no process, no descriptor to spare
            raise Unreachable(str(error)) from error
        if done is None:
            return Answer(None)
        return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
