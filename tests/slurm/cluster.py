"""A Slurm cluster of one controller and three nodes on loopback, for as long as it is needed.

``python tests/slurm/cluster.py`` brings one up in a temporary directory, prints the ``SLURM_CONF`` that
leads to it, and takes it down when it is interrupted; ``--install`` installs what Debian packages it needs
first. The tests use ``Cluster`` itself.

Configuration, munge key and socket, state, spool and logs are all its own: a Slurm that is installed on this
machine is not touched. Every daemon is a child of this process, in the foreground, and is ended by its pid.
Runs as root or not; as somebody else than root the nodes run jobs for that user only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

NODES = ("n1", "n2", "n3")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "munged")
SBIN = "/usr/sbin:/sbin"
PATIENCE = 60.0
NOT_HERE = 77  # as automake has it: what is needed cannot be had on this machine

CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool.%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0
SwitchType=switch/none
MpiDefault=none
JobRequeue=0
ReturnToService=2
KillWait=3
MinJobAge=3600
SlurmdTimeout=20
SlurmctldTimeout=30
MessageTimeout=10
InactiveLimit=0
MaxArraySize=2
MaxJobCount=20000
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
PartitionName=small Nodes=n3 MaxTime=60 State=UP
"""


def missing() -> list[str]:
    """Return the programs that are not installed here."""
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def install() -> None:
    """Install Debian's Slurm if it is not there.

    Raises:
        RuntimeError: it cannot be, for the reason that the message gives.
    """
    absent = missing()
    if not absent:
        return
    if shutil.which("apt-get") is None:
        message = f"{', '.join(absent)} are not installed, and there is no apt-get here to install {' '.join(PACKAGES)}"
        raise RuntimeError(message)
    if os.geteuid() != 0:
        message = f"{', '.join(absent)} are not installed; as root: apt-get install {' '.join(PACKAGES)}"
        raise RuntimeError(message)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES])
    for arguments in commands:
        try:
            done = subprocess.run(["apt-get", *arguments], env=quiet, check=False, timeout=300, capture_output=True)
        except subprocess.TimeoutExpired:
            message = f"apt-get {arguments[0]} did not end within 5 minutes"
            raise RuntimeError(message) from None
        if done.returncode:
            message = f"apt-get {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()[-400:]}"
            raise RuntimeError(message)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Cluster:
    """A cluster in a directory of its own, which must be short enough for the path of a socket.

    ``wrapped_in``: a command that the nodes' daemons are run by, to see other file systems than we do for instance.

    Attributes:
        environment: what its clients need in theirs.
    """

    def __init__(self, directory: Path, wrapped_in: Sequence[str] = ()) -> None:
        self.directory = directory
        self._wrapped_in = wrapped_in
        self.configuration = directory / "slurm.conf"
        path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
        # The daemons must not hand what the tests were given on to the jobs.
        self._environment = {"PATH": path, "SLURM_CONF": str(self.configuration), "LANG": "C.UTF-8"}
        self.environment = {"SLURM_CONF": str(self.configuration), "PATH": path}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    # ------------------------------------------------------------ up and down

    def up(self) -> None:
        """Bring it up and wait until every node is idle."""
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.directory / name).mkdir(mode=0o700)
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        port, *ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={each} CPUs=8 RealMemory=2000 State=UNKNOWN"
            + (" Feature=big" if name == "n3" else "")
            for name, each in zip(NODES, ports, strict=True)
        )
        import pwd

        user = pwd.getpwuid(os.geteuid()).pw_name
        text = CONFIGURATION.format(
            host=host, port=port, user=user, directory=self.directory, nodes=nodes, names=",".join(NODES)
        )
        self.configuration.write_text(text, encoding="utf-8")
        self.start_munge()
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        self.wait_idle()

    def down(self) -> None:
        """End every daemon, and what of the jobs is left, by pid."""
        for process in reversed(self.daemons.values()):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.daemons.clear()
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        """Return the pids of everything that still belongs to this cluster: step daemons and what they run."""
        wanted = f"SLURM_CONF={self.configuration}".encode()
        found: list[int] = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError):
                    environment = Path("/proc", name, "environ").read_bytes().split(b"\0")
                    if wanted in environment and (b"SLURM_JOB_ID" in b"\0".join(environment) or _is_step(name)):
                        found.append(int(name))
        return found

    def _start(self, name: str, argv: Sequence[str]) -> None:
        with (self.directory / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.directory,
                start_new_session=True,
            )

    def start_munge(self) -> None:
        """Start the daemon that vouches for users, and wait for its socket."""
        at = str(self.directory)
        files = [f"--{name}-file={at}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", ["munged", "--foreground", "--force", *files, f"--socket={at}/munge.socket"])
        self._until((self.directory / "munge.socket").exists, "munged")

    def start_controller(self) -> None:
        """Start the controller and wait until it answers."""
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.configuration)])
        self._until(lambda: self.client("scontrol", "ping").returncode == 0, "slurmctld")

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self._start(name, [*self._wrapped_in, "slurmd", "-D", "-N", name, "-f", str(self.configuration)])

    def kill(self, name: str) -> None:
        """SIGKILL a daemon: ``slurmctld``, or a node by its name. What a node runs goes on."""
        process = self.daemons.pop(name)
        process.kill()
        process.wait()

    def kill_node(self, name: str) -> None:
        """SIGKILL a node's daemon and everything that it runs, as if its power had failed."""
        steps = [pid for pid in self.left() if self._node_of(pid) == name]
        self.kill(name)
        for pid in steps:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pause(self, name: str) -> None:
        """SIGSTOP a daemon: it is there, and does not answer."""
        self.daemons[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a daemon go on."""
        self.daemons[name].send_signal(signal.SIGCONT)

    def mend(self) -> None:
        """Bring back what was killed or paused, and wait until all of it is well."""
        for process in self.daemons.values():
            process.send_signal(signal.SIGCONT)
        if "slurmctld" not in self.daemons:
            self.start_controller()
        for name in NODES:
            if name not in self.daemons:
                self.start_node(name)
        self.wait_idle()

    @staticmethod
    def _node_of(pid: int) -> str | None:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        for entry in environment:
            if entry.startswith(b"SLURMD_NODENAME="):
                return entry.partition(b"=")[2].decode()
        return None if b"slurmstepd" not in words else _node_of_step(pid)

    # ------------------------------------------------------------ asking

    def client(self, *argv: str, timeout: float = 30, **rest: object) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands."""
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            argv, env=self._environment, capture_output=True, text=True, timeout=timeout, check=False, **rest
        )

    def wait_idle(self) -> None:
        """Wait until every node can take jobs."""

        def idle() -> bool:
            states = self.client("sinfo", "-h", "-N", "-p", "main", "-o", "%T").stdout.split()
            return len(states) == len(NODES) and set(states) <= {"idle", "mixed", "allocated", "completing"}

        self._until(idle, "the nodes")

    def _until(self, ready: object, what: str) -> None:
        assert callable(ready)
        give_up = time.monotonic() + PATIENCE
        while not ready():
            if time.monotonic() > give_up:
                logs = "\n".join(
                    f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
                    for path in (*self.directory.glob("*.log"), *self.directory.glob("*.out"))
                )
                message = f"{what} did not come up within {PATIENCE:.0f} s\n{logs}"
                raise RuntimeError(message)
            time.sleep(0.05)  # other programs come up; none of them tells us when


def _is_step(pid: str) -> bool:
    return b"slurmstepd" in Path("/proc", pid, "cmdline").read_bytes()


def _node_of_step(pid: int) -> str | None:
    """Return the node of a step daemon, which stands in the environment of what it runs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    for child in children:
        for entry in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"SLURMD_NODENAME="):
                return entry.partition(b"=")[2].decode()
    return None


@contextlib.contextmanager
def running(wrapped_in: Sequence[str] = ()) -> Iterator[Cluster]:
    """Give a cluster that is up, and take it down."""
    directory = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(directory, wrapped_in)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Bring a cluster up until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--install", action="store_true", help="install Debian's packages first if they are missing")
    parser.add_argument("--only-install", action="store_true", help="install them and leave")
    asked = parser.parse_args()
    try:
        if asked.install or asked.only_install:
            install()
    except RuntimeError as problem:
        print(problem)  # noqa: T201
        sys.exit(NOT_HERE)
    if asked.only_install:
        return
    if missing():
        sys.exit(f"cluster.py: {', '.join(missing())} are not installed; try --install as root")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), running() as cluster:
        print(f"export SLURM_CONF={cluster.configuration} PATH={cluster.environment['PATH']}", flush=True)  # noqa: T201
        signal.pause()


if __name__ == "__main__":
    main()
