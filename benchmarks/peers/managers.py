"""Process managers, which keep programs running: ``supervisord`` and ``circusd``, each used to run a command once."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import importlib.util
import itertools
import json
import shlex
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Cannot
from benchmarks.peers import PATIENCE_SECONDS, PausedSession, Session, debian_version, own_environment

__all__ = ["Circus", "Supervisord"]

_ENDED: Final = {"EXITED", "FATAL", "STOPPED"}
_LONGEST_JOB_SECONDS: Final = 60.0
"""One of these takes half a minute for a GiB."""


@contextlib.contextmanager
def _daemon(argv: Sequence[str], folder: Path, socket_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon in the foreground, from the time when its socket exists; it is ended by its pid."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=folder, env=own_environment(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not socket_path.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                reason = f"{Path(argv[0]).name} did not come up: {(folder / 'log').read_text()[-200:]}"
                raise Cannot(reason)
            time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    """Keeps its connection, unlike ``supervisorctl``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)
        self._kept: _UnixConnection | None = None

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._kept is None:
            self._kept = _UnixConnection(self._path)
        return self._kept

    def hang_up(self) -> None:
        if self._kept is not None:
            self._kept.close()


class Supervisord:
    """Programs are slots in its configuration; a job is one run of a slot. Only the latest run is remembered."""

    name = "supervisord"
    about = (
        "a program for each job in flight, started repeatedly by XML-RPC on a unix socket; it stores the last end of a"
        " program, and no earlier run"
    )

    def version(self) -> str:
        return debian_version("supervisor", "supervisord")

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        (folder / "conf.d").mkdir()
        config = folder / "supervisord.conf"
        config.write_text(
            f"[unix_http_server]\nfile={folder}/socket\nchmod=0700\n"
            f"[supervisord]\nlogfile={folder}/supervisord.log\npidfile={folder}/pid\nchildlogdir={folder}\n"
            "nodaemon=true\nloglevel=warn\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[include]\nfiles={folder}/conf.d/*.conf\n",
            encoding="utf-8",
        )
        with _daemon(["supervisord", "-c", str(config)], folder, folder / "socket") as daemon:
            session = _SupervisordSession(daemon, folder)
            session.rest()
            try:
                yield session
            finally:
                session.close()


class _SupervisordSession(PausedSession):
    def __init__(self, daemon: subprocess.Popen[bytes], folder: Path) -> None:
        super().__init__(daemon)
        self._folder = folder
        self._groups: dict[tuple[str, ...], str] = {}
        self._numbers = itertools.count()
        self._transport = _UnixTransport(folder / "socket")
        self._proxy = xmlrpc.client.ServerProxy("http://localhost", self._transport)
        self._ask: Any = self._proxy.supervisor

    def close(self) -> None:
        self._transport.hang_up()

    def _group(self, argv: Sequence[str], slots: int) -> str:
        """Configure a program with its slots, and return its name."""
        name = f"program{next(self._numbers)}"
        command = shlex.join(argv).replace("%", "%%")
        (self._folder / "conf.d" / f"{name}.conf").write_text(
            f"[program:{name}]\ncommand={command}\nprocess_name=%(process_num)s\nnumprocs={slots}\n"
            "autostart=false\nautorestart=false\nstartsecs=0\nstartretries=0\nredirect_stderr=false\n"
            f"stdout_logfile={self._folder}/{name}-%(process_num)s.out\nstdout_logfile_maxbytes=0\n"
            "stopasgroup=true\nkillasgroup=true\nstopwaitsecs=1\n",
            encoding="utf-8",
        )
        self._ask.reloadConfig()
        self._ask.addProcessGroup(name)
        return name

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        key = tuple(argv)
        if key not in self._groups:
            self._groups[key] = self._group(argv, flight)
        group = self._groups[key]
        slots = [f"{group}:{number}" for number in range(flight)]
        left, running = jobs, set[str]()
        free = [*slots]
        while left or running:
            batch = [free.pop() for _ in range(min(len(free), left))]
            calls = [{"methodName": "supervisor.startProcess", "params": [slot, False]} for slot in batch]
            calls += [{"methodName": "supervisor.getProcessInfo", "params": [slot]} for slot in running]
            # It answers with bare values, which xmlrpc.client.MultiCall does not accept.
            answers: Any = self._proxy.system.multicall(calls)
            for started in answers[: len(batch)]:
                if started is not True:
                    raise Cannot(str(started))
            for info in answers[len(batch) :]:
                if info["statename"] in _ENDED:
                    if info["exitstatus"] != 0:
                        raise AssertionError(info)
                    slot = f"{info['group']}:{info['name']}"
                    running.discard(slot)
                    free.append(slot)
            running.update(batch)
            left -= len(batch)

    def start(self, argv: Sequence[str]) -> str:
        slot = f"{self._group(argv, 1)}:0"
        self._ask.startProcess(slot, False)  # to wait fails if the command has ended by then
        return slot

    def status(self, job: str) -> Mapping[str, Any]:
        info: Mapping[str, Any] = self._ask.getProcessInfo(job)
        return info

    def wait(self, job: str) -> None:
        while self.status(job)["statename"] not in _ENDED:
            pass  # there is no other interface; each query is a request of its own

    def output(self, job: str) -> bytes:
        return (self._folder / f"{job.replace(':', '-')}.out").read_bytes()

    def list(self) -> int:
        return len(self._ask.getAllProcessInfo())

    def stop(self, job: str) -> None:
        self._ask.stopProcess(job)


class Circus:
    """A watcher for each job, without respawn; ends are events and are not recorded."""

    name = "circus"
    about = "a watcher for each job, without respawn, controlled over its socket; an end is an event without a record"

    def version(self) -> str:
        if importlib.util.find_spec("circus") is None:
            raise Cannot("not installed (PyPI's circus)")
        return importlib.metadata.version("circus")

    @contextlib.contextmanager
    def opened(self, folder: Path, flight: int) -> Iterator[Session]:
        (folder / "circus.ini").write_text(
            f"[circus]\nendpoint = ipc://{folder}/socket\npubsub_endpoint = ipc://{folder}/events\n"
            f"statsd = false\ncheck_delay = 0.05\nloglevel = WARNING\n",
            encoding="utf-8",
        )
        argv = [sys.executable, "-m", "circus.circusd", str(folder / "circus.ini")]
        with _daemon(argv, folder, folder / "socket") as daemon:
            session = _CircusSession(daemon, folder)
            session.rest()
            try:
                yield session
            finally:
                session.close()


class _CircusSession(PausedSession):
    def __init__(self, daemon: subprocess.Popen[bytes], folder: Path) -> None:
        import zmq
        from circus.client import CircusClient

        super().__init__(daemon)
        self._folder = folder
        self._numbers = itertools.count()
        self._client = CircusClient(endpoint=f"ipc://{folder}/socket", timeout=PATIENCE_SECONDS)
        self._events: Any = zmq.Context.instance().socket(zmq.SUB)
        self._events.setsockopt(zmq.SUBSCRIBE, b"watcher.")
        self._events.connect(f"ipc://{folder}/events")
        self._ended: dict[str, int] = {}
        self.wait(self.start(["true"]))  # the subscription works once an event has arrived

    def close(self) -> None:
        self._client.stop()
        self._events.close(linger=0)

    def _hear(self) -> None:
        """Receive the next end of a process."""
        if not self._events.poll(_LONGEST_JOB_SECONDS * 1e3):
            raise Cannot("the end of a job was never told")
        topic, body = self._events.recv_multipart()
        _, name, what = topic.decode().split(".")
        if what == "reap":
            self._ended[name] = json.loads(body)["exit_code"]

    def _tell(self, command: str, **properties: object) -> Mapping[str, Any]:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer: Mapping[str, Any] = self._client.send_message(command, **properties)
            if answer.get("status") != "error":
                return answer
            if "already running" not in answer["reason"] or time.monotonic() > give_up:  # one command at a time
                raise Cannot(answer["reason"])

    def run_all(self, argv: Sequence[str], jobs: int, flight: int) -> None:
        running: set[str] = set()
        started = 0
        while started < jobs or running:
            while len(running) < flight and started < jobs:
                running.add(self.start(argv))
                started += 1
            if not running & self._ended.keys():
                self._hear()
            for name in running & self._ended.keys():
                if self._ended[name] != 0:
                    raise AssertionError(name)
                self._tell("rm", name=name)
                running.discard(name)

    def start(self, argv: Sequence[str]) -> str:
        name = f"job{next(self._numbers)}"
        options = {
            "respawn": False,
            "copy_env": True,
            "warmup_delay": 0,
            "graceful_timeout": 1,
            "stdout_stream": {"class": "FileStream", "filename": str(self._folder / f"{name}.out")},
        }
        self._tell("add", name=name, cmd=argv[0], args=[*argv[1:]], options=options, start=True)
        return name

    def wait(self, job: str) -> None:
        while job not in self._ended:
            self._hear()

    def output(self, job: str) -> bytes:
        return (self._folder / f"{job}.out").read_bytes()

    def status(self, job: str) -> object:
        return self._tell("status", name=job)

    def list(self) -> int:
        return len(self._tell("list")["watchers"])

    def stop(self, job: str) -> None:
        self._tell("stop", name=job, waiting=True)
