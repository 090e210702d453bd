"""The keeper of a single job, which a cluster engine runs on a node as ``entry.py --job DIRECTORY``.

The job directory is on a file system that the submitter shares with the node, and holds

* ``orders``: the command and its environment, see ``Orders``; unlinked once read;
* ``stdin``: the input of the command, if it has any; unlinked once opened.

The claim decides: a cluster may run a job twice (a repeated submission, a node that came back), and a keeper that finds
the directory claimed leaves at once. From there on this is a keeper whose supervisor has gone. Beside that it touches
``heartbeat`` every few seconds: a node that the cluster has lost contact with may still be running. It learns
of stops in three ways: SIGUSR1, sent through the cluster; ``stop.json``, which it checks with every beat, for when the
cluster cannot be reached; and SIGTERM, by which the cluster itself ends a job.
"""

from __future__ import annotations

import _socket
import os
import signal
import sys
import time

from supervisor.jobdir import durability, factories, job_marks, records, stops
from supervisor.jobdir.records import ORDERS, STDIN
from supervisor.keeper import launches, loop, protocol, spawn, turns
from supervisor.keeper.orders import Orders
from supervisor.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["BEAT_NS", "HEARTBEAT", "ORDERS", "STDIN", "UNKNOWN_STATUS", "JobKeeper", "keep_one"]

HEARTBEAT: Final = "heartbeat"
BEAT_NS: Final = 5_000_000_000
UNKNOWN_STATUS: Final = 125  # not the command's: readers of the cluster's accounts learn nothing of the command

_ONLY_TOKEN: Final = 1
_SHOWN_WITHIN_SECONDS: Final = 20
# The cluster sets these for the place and the devices of a job, and knows better than the submitter.
_FROM_ENGINE: Final = (
    b"SLURM",
    b"CUDA_VISIBLE_DEVICES",
    b"ROCR_VISIBLE_DEVICES",
    b"GPU_DEVICE_ORDINAL",
    b"ZE_AFFINITY",
)


class JobKeeper(loop.Keeper):
    """Keeps one job to its end."""

    registers = False  # its claim identifies it
    makes_cgroups = False  # the cluster limits its jobs itself

    def __init__(self, directory: str) -> None:
        """Prepare as any keeper does, with a connection that this process holds both ends of."""
        self.peer, own = _socket.socketpair()
        os.dup2(own.fileno(), 0)
        own.close()
        super().__init__(directory)
        self.directory = directory
        self.identity["host"] = os.uname().nodename
        self.identity["engine_id"] = os.environ.get("SLURM_JOB_ID")
        self.status = UNKNOWN_STATUS
        self.beat_ns = 0
        signal.signal(signal.SIGTERM, turns.ignore)

    def go(self) -> int:
        """Run the job unless another keeper has claimed it; return the exit status of the keeper."""
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
            durable = durability.is_durable(records.read(self.directory, records.JOB) or {})
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
                stop_leftovers=False,  # the cluster ends leftovers with the job
                descriptors=len(given),
                settings=None,
                merge_stderr=orders.merge_stderr,
                no_new_privs=orders.no_new_privs,
                durable=durable,
            )
        )
        self.environments.clear()
        self.beat_ns = processes.boottime_ns() + BEAT_NS  # until then the claim proves the keeper
        self._find_stops()  # one may have been asked for before the launch
        self.peer.close()  # from here on this is a keeper whose supervisor has gone
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
            except FileNotFoundError:  # a shared file system may show new files a little later
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
        """Record that the command is not launched; return the exit status of the keeper."""
        records.create(self.directory, records.EXIT, factories.launch_failure(why, status, final=final))
        return UNKNOWN_STATUS

    # ------------------------------------------------------------ signals

    def _take_signals(self) -> set[int]:
        numbers = super()._take_signals()
        if signal.SIGTERM in numbers:  # first: the cluster has sent it to the command as well, which may be dead by now
            self._stop_by_engine()
        return numbers

    def _stop_by_engine(self) -> None:
        for child in list(self.children.values()):
            if child.exited is None:
                now = processes.boottime_ns()
                request = factories.stop_request("cancelled", "the engine", signalled_boot_ns=now)
                try:
                    if not records.create(self.directory, records.STOP, request):
                        stops.mark_stop(self.directory, signalled=now)
                except OSError as error:
                    self.journal.failure(error)
                self._begin_stop(child, "cancelled", "the engine")

    # ------------------------------------------------------------ heartbeat

    def _timeout_ms(self) -> int:
        until_beat = max(0, -(-(self.beat_ns - processes.boottime_ns()) // 1_000_000))
        return min(super()._timeout_ms(), until_beat)

    def _on_time(self) -> None:
        super()._on_time()
        if self.beat_ns <= processes.boottime_ns():
            self._beat()
            self._find_stops()

    def _beat(self) -> None:
        self.beat_ns = processes.boottime_ns() + BEAT_NS
        path = f"{self.directory}/{HEARTBEAT}"
        try:
            try:
                os.utime(path, follow_symlinks=False)
            except FileNotFoundError:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError:
            pass  # a full disk, a server that is away: the next beat may succeed

    def _more_of_the_end(self, child: launches.Child) -> dict[str, object]:
        """Return why it was stopped: readers may see a new line of ``stop.json`` later than this new file."""
        stopped = child.stop is not None and child.stop.signalled_ns is not None and child.stop.reached
        return {"stopped": child.why} if stopped else {}

    def _measure(self, child: launches.Child) -> dict[str, object]:
        found = super()._measure(child)
        self.leftovers.clear()  # this keeper must not hold the node for them
        return {**found, "may_grow": False}

    def _report_end(self, child: launches.Child, survivors: list[int]) -> None:
        super()._report_end(child, survivors)
        assert child.exited is not None  # noqa: S101  # set when its end was recorded
        code, number = child.exited.exit_code, child.exited.signal
        self.status = 128 + (number or 0) if code is None else code


def keep_one(directory: str) -> int:
    """Keep the job of ``directory``; return the exit status of the command, 128+N for a signal."""
    if not os.path.isdir(directory):
        sys.stderr.write(f"{directory} cannot be seen on this node: is it shared?\n")
        sys.stderr.flush()
        return UNKNOWN_STATUS
    return JobKeeper(directory).go()
