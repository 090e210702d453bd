"""The keeper of a single job, on a node where an engine for many machines has started it.

Standard library only. ``entry.py --job DIRECTORY`` is all that such an engine is given to run. What to
do stands in the job directory, on a file system that the submitter shares with the node:

* ``orders``: what to run, its environment included, see ``Orders``; unlinked once read;
* ``stdin``: what the command reads, if anything; unlinked once opened.

The claim decides: an engine may run a job twice (a submission that was repeated, a node that came back),
and whoever finds the directory claimed leaves without having read a thing. From there on this is a keeper
like any other, whose supervisor has gone: it launches, records, watches the deadline, ends the tree. Beside
that it has a pulse (``heartbeat`` is touched every few seconds, so that others can tell a node that an
engine has lost sight of from one that is gone) and hears of stops in three ways: SIGUSR1, sent through the
engine; a look at the directory with every beat, for when the engine cannot be reached; and SIGTERM, by
which the engine itself ends a job.
"""

from __future__ import annotations

import _socket
import os
import signal
import sys
import time

from supervisor.jobdir import factories, job_marks, records
from supervisor.keeper import launches, loop, protocol, spawn
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["BEAT_NS", "HEARTBEAT", "ORDERS", "STDIN", "UNKNOWN_STATUS", "JobKeeper", "Orders", "keep_one"]

ORDERS: Final = "orders"
STDIN: Final = "stdin"
HEARTBEAT: Final = "heartbeat"
BEAT_NS: Final = 5_000_000_000
UNKNOWN_STATUS: Final = 125  # never the command's: whoever reads it from the engine learns nothing of the command

_ONLY_TOKEN: Final = 1
_SHOWN_WITHIN_SECONDS: Final = 20
# What the engine gives a job to find its place and its devices by; it knows better than the submitter.
_FROM_ENGINE: Final = (
    b"SLURM",
    b"CUDA_VISIBLE_DEVICES",
    b"ROCR_VISIBLE_DEVICES",
    b"GPU_DEVICE_ORDINAL",
    b"ZE_AFFINITY",
)


class Orders:
    """What a keeper is to run.

    On disk these are fields, each ended by a NUL, that begin with a letter for what they are: this is read by
    whatever Python a node has, a hundred times a second if need be, and JSON would take as long as all the rest.
    """

    __slots__ = ("argv", "begun_ns", "deadline", "environment", "grace", "job_id", "limit", "workspace")

    def __init__(
        self,
        *,
        job_id: str,
        argv: list[bytes],
        workspace: bytes,
        environment: dict[bytes, bytes],
        deadline: float | None,
        grace: float,
        limit: int,
        begun_ns: int | None,
    ) -> None:
        """Take what was asked for; ``begun_ns`` is when its time began to run, if not with its start."""
        self.job_id = job_id
        self.argv = argv
        self.workspace = workspace
        self.environment = environment
        self.deadline = deadline
        self.grace = grace
        self.limit = limit
        self.begun_ns = begun_ns

    def encode(self) -> bytes:
        """Return what stands on disk."""
        fields = [b"i" + self.job_id.encode("ascii"), b"w" + self.workspace]
        fields += [b"a" + word for word in self.argv]
        fields += [b"e" + name + b"=" + value for name, value in self.environment.items()]
        numbers = ((b"d", self.deadline), (b"g", self.grace), (b"l", self.limit), (b"b", self.begun_ns))
        fields += [tag + repr(number).encode("ascii") for tag, number in numbers if number is not None]
        return b"".join(field + b"\0" for field in fields)

    @classmethod
    def decode(cls, data: bytes) -> Orders:
        """Return what ``encode`` has written.

        Raises:
            KeyError, ValueError: it has not.
        """
        fields: dict[bytes, list[bytes]] = {}
        for field in data.split(b"\0")[:-1]:
            fields.setdefault(field[:1], []).append(field[1:])
        deadline, begun = fields.get(b"d"), fields.get(b"b")
        return cls(
            job_id=fields[b"i"][0].decode("ascii"),
            argv=fields[b"a"],
            workspace=fields[b"w"][0],
            environment=dict(entry.split(b"=", 1) for entry in fields.get(b"e", ())),
            deadline=float(deadline[0]) if deadline else None,
            grace=float(fields[b"g"][0]),
            limit=int(fields[b"l"][0]),
            begun_ns=int(begun[0]) if begun else None,
        )

    def seconds_left(self) -> float | None:
        """Return how long the command may run from now on."""
        if self.deadline is None or self.begun_ns is None:
            return self.deadline
        return self.deadline - (time.time_ns() - self.begun_ns) / 1e9


class JobKeeper(loop.Keeper):
    """Keeps one job to its end."""

    registers = False  # its claim says who it is

    def __init__(self, directory: str) -> None:
        """Prepare as any keeper does, with a supervisor's end of the line that leads nowhere."""
        ours, theirs = _socket.socketpair()
        os.dup2(theirs.fileno(), 0)
        theirs.close()
        super().__init__(directory)
        self.nobody: _socket.socket = ours
        self.directory = directory
        self.identity["host"] = os.uname().nodename
        self.identity["engine_id"] = os.environ.get("SLURM_JOB_ID")
        self.status = UNKNOWN_STATUS
        self.beat_ns = 0
        signal.signal(signal.SIGTERM, _heard)

    def go(self) -> int:
        """Run the job unless somebody else has claimed it; return what to exit with."""
        if not records.take_claim(self.directory, self.claim):
            return 0
        try:
            orders = self._take_orders()
            deadline = orders.seconds_left()
            if deadline is not None and deadline <= 0:
                now = processes.boottime_ns()
                request = factories.stop_request("deadline", "keeper", signalled_boot_ns=now, gone=True)
                records.create(self.directory, records.STOP, request)
                return self._refuse("its deadline had passed before it could be launched")
            given = self._open(orders)
            self.connection.add_descriptors(given)
        except spawn.LaunchError as error:
            return self._refuse(f"on {os.uname().nodename}: {error.message}", error.status, final=error.final)
        except (OSError, KeyError, ValueError) as error:
            why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{ORDERS}: {error!r}"
            return self._refuse(f"on {os.uname().nodename}: {why}")
        self._launch(
            protocol.Launch(
                token=_ONLY_TOKEN,
                directory=self.directory,
                argv=orders.argv,
                environment=_ONLY_TOKEN,
                changes={job_marks.MARK: orders.job_id.encode("ascii")},
                deadline_seconds=deadline,
                grace_seconds=orders.grace,
                output_limit=orders.limit,
                stop_leftovers=False,  # the engine ends what is left with the job
                descriptors=len(given),
            )
        )
        self.environments.clear()
        self.beat_ns = processes.boottime_ns() + BEAT_NS  # until then the claim is the sign of life
        self._look_for_stops()  # one may have been asked for before there was anything to stop
        self.nobody.close()  # a keeper whose supervisor has gone: the deadline is its own from here on
        self.run()
        return self.status

    # ------------------------------------------------------------ launching

    def _take_claim(self, directory: str) -> bool:
        del directory
        return True  # taken before anything was read

    def _take_orders(self) -> Orders:
        path = f"{self.directory}/{ORDERS}"
        give_up = time.monotonic() + _SHOWN_WITHIN_SECONDS
        while True:
            try:
                with open(path, "rb") as file:
                    orders = Orders.decode(file.read())
                break
            except FileNotFoundError:  # a shared file system may show what was just written a little later
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.5)
        os.unlink(path)
        given = {name: value for name, value in os.environb.items() if name.startswith(_FROM_ENGINE)}
        self._handle(protocol.SetEnvironment(token=_ONLY_TOKEN, variables={**orders.environment, **given}))
        return orders

    def _open(self, orders: Orders) -> list[int]:
        try:
            workspace = os.open(orders.workspace, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            final = error.errno in spawn.NO_WORKSPACE
            message = f"{os.fsdecode(orders.workspace)}: {error.strerror}"
            raise spawn.LaunchError(UNKNOWN_STATUS, message, final=final) from None
        path = f"{self.directory}/{STDIN}"
        try:
            stdin = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return [workspace]
        os.unlink(path)
        return [workspace, stdin]

    def _refuse(self, why: str, status: int = UNKNOWN_STATUS, *, final: bool = False) -> int:
        """Record that the command is not launched; return what to exit with."""
        records.create(self.directory, records.EXIT, factories.launch_failure(why, status, final=final))
        return UNKNOWN_STATUS

    # ------------------------------------------------------------ what comes in

    def _hear(self) -> set[int]:
        numbers = super()._hear()
        if signal.SIGTERM in numbers:  # first: the engine has sent it to the command as well, which may be dead by now
            self._stop_by_engine()
        return numbers

    def _stop_by_engine(self) -> None:
        for child in list(self.children.values()):
            if child.exited is None:
                now = processes.boottime_ns()
                request = factories.stop_request("cancelled", "the engine", signalled_boot_ns=now)
                try:
                    if not records.create(self.directory, records.STOP, request):
                        records.mark_stop(self.directory, signalled=now)
                except OSError as error:
                    self.journal.failure(error)
                self._begin_stop(child, "cancelled", "the engine")

    # ------------------------------------------------------------ the pulse

    def _timeout_ms(self) -> int:
        until_beat = max(0, -(-(self.beat_ns - processes.boottime_ns()) // 1_000_000))
        return min(super()._timeout_ms(), until_beat)

    def _on_time(self) -> None:
        super()._on_time()
        if self.beat_ns <= processes.boottime_ns():
            self._beat()
            self._look_for_stops()

    def _beat(self) -> None:
        self.beat_ns = processes.boottime_ns() + BEAT_NS
        path = f"{self.directory}/{HEARTBEAT}"
        try:
            try:
                os.utime(path, follow_symlinks=False)
            except FileNotFoundError:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError:
            pass  # a full disk, a server that is away: the next beat may be felt

    def _told_with_the_end(self, child: launches.Child) -> dict[str, object]:
        """Say why it was stopped: what a further line of ``stop.json`` says may be seen later than this new file."""
        stopped = child.stop is not None and child.stop.signalled_ns is not None and child.stop.reached
        return {"stopped": child.why} if stopped else {}

    def _measure(self, child: launches.Child) -> dict[str, object]:
        found = super()._measure(child)
        self.leftovers.clear()  # it must not hold the node because of them
        return {**found, "may_grow": False}

    def _settled(self, child: launches.Child, survivors: list[int]) -> None:
        super()._settled(child, survivors)
        assert child.exited is not None  # noqa: S101  # only jobs that ended come here
        code, number = child.exited.exit_code, child.exited.signal
        self.status = 128 + (number or 0) if code is None else code


def _heard(_number: int, _frame: object) -> None:
    """Do nothing: the descriptor that the signal made readable says it all."""


def keep_one(directory: str) -> int:
    """Keep the job of ``directory``; return what to exit with: as the command did, 128+N for a signal."""
    if not os.path.isdir(directory):
        sys.stderr.write(f"{directory} cannot be seen on this node: is it shared?\n")
        sys.stderr.flush()
        return UNKNOWN_STATUS
    return JobKeeper(directory).go()
