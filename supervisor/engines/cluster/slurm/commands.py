"""Slurm's commands: what they are given, what their answers mean, and how a program without an event loop asks.

Nothing is run here except by ``SlurmSyncBackend``. ``slurm`` runs the same commands from a supervisor.

Jobs are known by their name, which holds the job's id: a controller that was killed may forget a submission
that it has acknowledged, and give the same number to the next one.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import attrs

from supervisor.engines.cluster.interface import JobReport, QueueState, Rejected, Submission, Unreachable
from supervisor.engines.cluster.slurm.options import OPTIONS
from supervisor.errors import InvalidArguments
from supervisor.model import Limits

__all__ = [
    "OLDEST",
    "SINFO",
    "SQUEUE",
    "VERSION",
    "Answer",
    "Command",
    "Partition",
    "SlurmSyncBackend",
    "ask",
    "cancel",
    "check_options",
    "check_version",
    "environment",
    "read_cancel",
    "read_show",
    "read_sinfo",
    "read_squeue",
    "read_submit",
    "show",
    "submit",
]

OLDEST: Final = (22, 5)
_PREFIX: Final = "supervisor-"
_SAFETY_MINUTES: Final = 2  # --time counts whole minutes, and is enforced up to another one late
_ANSWER_SECONDS: Final = 3.0  # a person waits for it
_BELIEVED_SECONDS: Final = 1.0

_QUEUED: Final = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
_RUNNING: Final = frozenset({"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED"})
_USABLE: Final = frozenset({"idle", "mixed", "allocated", "completing", "planned"})
_AFTER: Final = {"ok": "afterok", "any": "afterany", "failed": "afternotok", "start": "after"}
_OVERDUE: Final = frozenset({"TIMEOUT", "DEADLINE"})

# What its commands say when it is they who could not get an answer. Anything else that sbatch says is a refusal.
_OUT_OF_REACH: Final = re.compile(
    r"contact slurm controller|timed out|time-?out|connection (refused|reset|failure|closed)|zero bytes"
    r"|temporarily un|standby|unable to establish|resolve|name or service|authenticat|munge|no route|network is"
    r"|transport endpoint|insane message|incompatible|try again|configuration source|errno",
    re.IGNORECASE,
)

_KEPT: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "KRB5CCNAME")
_KEPT_OF_SLURM: Final = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
_TO_CLIENT: Final = ("SBATCH_",)  # its own defaults: a person's usual partition, say


@attrs.frozen(slots=True)
class Command:
    """A command of Slurm's, and what it reads."""

    argv: tuple[str, ...]
    stdin: bytes = b""


@attrs.frozen(slots=True)
class Answer:
    """What a command gave; ``status`` is ``None`` when it did not end in time."""

    status: int | None
    stdout: str = ""
    stderr: str = ""

    @property
    def complaint(self) -> str:
        """What it said about a failure, on one line."""
        if self.status is None and not self.stderr:
            return "no answer in time"
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return "; ".join(lines)[-400:] or f"exit status {self.status}"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return what Slurm's commands are given of an environment: nothing that a secret would stand in.

    ``sbatch`` hands its environment to the job and keeps a copy. What the job is to have travels by another way.
    """
    kept = {name: given[name] for name in (*_KEPT, *_KEPT_OF_SLURM) if name in given}
    return {**kept, **{name: value for name, value in given.items() if name.startswith(_TO_CLIENT)}}


# ---------------------------------------------------------------- options and version


def check_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options as they are recorded.

    Raises:
        InvalidArguments: there is no such option, or its value does not fit.
    """
    checked: dict[str, str] = {}
    for name, value in options.items():
        if name not in OPTIONS:
            message = f"the slurm engine has no option {name!r:.80}; it has {', '.join(sorted(OPTIONS))}"
            raise InvalidArguments(message)
        _, form, accepts = OPTIONS[name]
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if re.fullmatch(form, text) is None or text.startswith("-"):
            message = f"{name} is {value!r:.80}; the slurm engine accepts {accepts}"
            raise InvalidArguments(message)
        checked[name] = text
    return checked


_MIB: Final = 1 << 20


def limit_options(limits: Limits) -> dict[str, str]:
    """Return the options that limit a job: whole MiB and whole processors, rounded up."""
    options: dict[str, str] = {}
    if limits.memory_bytes is not None:
        options["memory"] = f"{-(-limits.memory_bytes // _MIB)}M"
    if limits.cpus is not None:
        options["cpus"] = str(math.ceil(limits.cpus))
    return options


VERSION: Final = Command(("sbatch", "--version"))
"""Tells the version."""


def check_version(answer: Answer) -> None:
    """Check that this Slurm can be used.

    Raises:
        Rejected: it is too old, or says nothing sensible.
        Unreachable: it does not say in time.
    """
    if answer.status is None:
        raise Unreachable(answer.complaint)
    found = re.search(r"(\d+)\.(\d+)", answer.stdout)
    if answer.status != 0 or found is None:
        message = f"sbatch --version failed: {answer.complaint}"
        raise Rejected(message)
    if (int(found[1]), int(found[2])) < OLDEST:
        message = f"this is Slurm {found[0]}; 22.05 or newer is needed"
        raise Rejected(message)


# ---------------------------------------------------------------- the five operations


def submit(submission: Submission) -> Command:
    """Return the command that submits a job."""
    argv = [
        "sbatch",
        "--parsable",
        f"--job-name={_PREFIX}{submission.key}",
        f"--comment={_PREFIX}{submission.key}",
        "--no-requeue",  # a node that is lost to sight may still be running it
        "--nodes=1",
        "--ntasks=1",
        "--chdir=/",
        f"--output={submission.directory.replace('%', '%%')}/engine.log",
        "--open-mode=append",
        "--input=/dev/null",
        "--export=ALL",  # of an environment that holds nothing of the job's; NONE would load the login one
    ]
    if submission.deadline_seconds is not None:
        limit = submission.deadline_seconds + submission.grace_seconds
        argv.append(f"--time={int(-(-limit // 60)) + _SAFETY_MINUTES}")
    if submission.after:
        argv += ["--dependency=" + ",".join(f"{_AFTER[when]}:{handle}" for when, handle in submission.after)]
        argv.append("--kill-on-invalid-dep=yes")  # else Slurm has it pending for ever
    if submission.begin_ns is not None and (left_ns := submission.begin_ns - time.time_ns()) > 0:
        argv.append(f"--begin=now+{-(-left_ns // 10**9)}")  # a time of the day would be read in Slurm's time zone
    argv += [f"{OPTIONS[name][0]}={value}" for name, value in submission.options.items() if name in OPTIONS]
    script = f"#!/bin/sh\nexec {shlex.join(submission.command)}\n"
    return Command(tuple(argv), os.fsencode(script))


def read_submit(answer: Answer) -> str:
    """Return the number of the job that was submitted.

    Raises:
        Rejected: Slurm has refused it.
        Unreachable: it may or may not have been accepted.
    """
    number = answer.stdout.strip().partition(";")[0]
    if answer.status == 0 and number.isdigit():
        return number
    if answer.status is None or answer.status == 0 or answer.status < 0 or _OUT_OF_REACH.search(answer.stderr):
        raise Unreachable(answer.complaint)
    raise Rejected(answer.complaint)


SQUEUE: Final = Command(("squeue", "--noheader", "--me", "--states=all", "--format=%A|%T|%r|%j"))
"""Lists all jobs of this user, ended ones as long as Slurm keeps them."""


def read_squeue(answer: Answer, cache: dict[str, tuple[str, JobReport]] | None = None) -> dict[str, JobReport]:
    """Return what it says, by key. Of several jobs of one name the one that is furthest from its end counts.

    ``seen`` keeps what each line meant from one call to the next: of thousands of jobs few have anything new.

    Raises:
        Unreachable: it failed.
    """
    if answer.status != 0:
        raise Unreachable(answer.complaint)
    lines = answer.stdout.splitlines()
    known = {} if cache is None else cache
    now = {line: known.get(line) or _read_line(line) for line in lines}
    if cache is not None:
        cache.clear()
        cache.update(now)
    reports: dict[str, JobReport] = {}
    for name, report in now.values():
        there = reports.get(name)
        if there is None or (there.queue_state is QueueState.ENDED and report.queue_state is not QueueState.ENDED):
            reports[name] = report
    reports.pop("", None)
    return reports


def _read_line(line: str) -> tuple[str, JobReport]:
    """Return the key and the word of a line, an empty key for a job that is not of ours."""
    handle, _, rest = line.partition("|")
    state, _, rest = rest.partition("|")
    reason, ours, name = rest.rpartition(f"|{_PREFIX}")
    return name if ours and handle.isdigit() else "", _report(handle, state, reason)


def _report(handle: str, state: str, reason: str) -> JobReport:
    if state in _QUEUED:
        return JobReport(queue_state=QueueState.QUEUED, handle=handle, reason=reason, state=state)
    if state in _RUNNING:
        return JobReport(queue_state=QueueState.RUNNING, handle=handle, state=state)
    return JobReport(
        queue_state=QueueState.ENDED,
        handle=handle,
        state=state,
        cancelled=state.startswith("CANCELLED"),
        overdue=state in _OVERDUE,
        unsatisfied=reason == "DependencyNeverSatisfied",
    )


def cancel(key: str, *, nudge: bool) -> Command:
    """Return the command that ends a job, or that has its keeper look at the job directory."""
    signal = ("--batch", "--signal=USR1") if nudge else ()
    return Command(("scancel", "--me", *signal, f"--name={_PREFIX}{key}"))


def read_cancel(answer: Answer) -> None:
    """Check that the request has arrived; that there is nothing (left) to cancel is no failure.

    Raises:
        Unreachable: it may not have arrived.
    """
    if answer.status is None or (answer.status != 0 and _OUT_OF_REACH.search(answer.stderr)):
        raise Unreachable(answer.complaint)


def show(handle: str) -> Command:
    """Return the command that tells all about one job."""
    return Command(("scontrol", "--oneliner", "show", "job", handle))


def read_show(answer: Answer) -> JobReport | None:
    """Return how a job ended, ``None`` when Slurm does not know it (any more) or it has not.

    Raises:
        Unreachable: it cannot be asked.
    """
    if answer.status != 0:
        if answer.status is not None and "Invalid job id" in answer.stderr:
            return None
        raise Unreachable(answer.complaint)
    facts = dict(re.findall(r"(JobId|JobState|ExitCode)=(\S+)", answer.stdout))
    report = _report(facts.get("JobId", ""), facts.get("JobState", ""), "")
    if report.queue_state is not QueueState.ENDED:
        return None
    code, _, number = facts.get("ExitCode", "").partition(":")
    known = code.isdigit() and number == "0" and report.state in {"COMPLETED", "FAILED"}
    return attrs.evolve(report, exit_code=int(code) if known else None)


# ---------------------------------------------------------------- what there is to run on


@attrs.frozen(slots=True, kw_only=True)
class Partition:
    """A partition, as far as it matters for a submission.

    Attributes:
        name: its name.
        default: whether jobs go there that name none.
        up: whether it takes jobs and starts them.
        nodes: how many nodes it has.
        usable: how many of them are in working order, busy or not.
    """

    name: str
    default: bool
    up: bool
    nodes: int
    usable: int


SINFO: Final = Command(("sinfo", "--noheader", "--format=%P|%a|%T|%D"))
"""Lists partitions and what their nodes are up to."""


def read_sinfo(answer: Answer) -> list[Partition]:
    """Return the partitions, in the order in which they are listed.

    Raises:
        Unreachable: it failed.
    """
    if answer.status != 0:
        raise Unreachable(answer.complaint)
    found: dict[str, Partition] = {}
    for line in filter(None, map(str.strip, answer.stdout.splitlines())):  # one for each partition and state
        name, _, rest = line.partition("|")
        up, _, rest = rest.partition("|")
        state, _, count = rest.partition("|")
        nodes = int(count) if count.isdigit() else 0
        # Marks at the end: saving power, waking up, about to be used; any other is of a node that cannot be used.
        usable = nodes if state.rstrip("~#-") in _USABLE else 0
        there = found.get(name)
        found[name] = Partition(
            name=name.removesuffix("*"),
            default=name.endswith("*"),
            up=up == "up",
            nodes=nodes + (there.nodes if there else 0),
            usable=usable + (there.usable if there else 0),
        )
    return list(found.values())


# ---------------------------------------------------------------- without an event loop


def ask(command: Command) -> Answer:
    """Run a command for at most 3 seconds."""
    try:
        done = subprocess.run(
            command.argv,
            env=environment(os.environ),
            input=command.stdin,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(None)
    except OSError as error:
        return Answer(None, stderr=str(error))
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


class SlurmSyncBackend:
    """A ``SyncBackend``: asks Slurm briefly, once for all jobs, and not again at once if it does not answer."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._words: Mapping[str, JobReport] | None = None
        self._asked = -_BELIEVED_SECONDS
        self._silent_until = 0.0

    def observe(self, keys: Collection[str]) -> Mapping[str, JobReport]:
        """Say where these jobs stand."""
        now = time.monotonic()
        if now - self._asked >= _BELIEVED_SECONDS:
            self._words = None
            if now >= self._silent_until:
                try:
                    self._words = read_squeue(ask(SQUEUE))
                except Unreachable:
                    self._silent_until = time.monotonic() + 2 * _ANSWER_SECONDS
            self._asked = time.monotonic()
        if self._words is None:
            return dict.fromkeys(keys, JobReport(queue_state=QueueState.UNREACHABLE))
        return {key: self._words[key] for key in keys if key in self._words}

    def cancel(self, key: str, *, nudge: bool = False) -> bool:
        """Ask for a job to be ended."""
        try:
            read_cancel(ask(cancel(key, nudge=nudge)))
        except Unreachable:
            return False
        self._asked = -_BELIEVED_SECONDS  # it changes what is known
        return True

    def collect(self, handle: str) -> JobReport | None:
        """Return the engine's word about an end."""
        try:
            return read_show(ask(show(handle)))
        except Unreachable:
            return None
