"""A command whose processes try to escape: ``tree.py FIFO WAY...``, each way a few words, executed in order.

Every process writes its pid into the FIFO when it has reached its place, also the first one.
"""

from __future__ import annotations

import os
import signal
import sys

told = os.open(sys.argv[1], os.O_WRONLY)


def report() -> None:
    os.write(told, b"%d\n" % os.getpid())


def rest() -> None:
    report()
    while True:
        signal.pause()


def become(program: str, words: list[str], environment: dict[str, str]) -> None:
    argv = [sys.executable, "-I", "-S", program, sys.argv[1], "--", *words]
    os.execve(sys.executable, argv, environment)


def keeper() -> str:
    """Return this program under a name that looks like a keeper's."""
    directory = f"{sys.argv[1]}.{os.getpid()}/keeper"
    os.makedirs(directory)
    os.symlink(__file__, f"{directory}/entry.py")
    return f"{directory}/entry.py"


def overwrite_environment() -> None:
    """Overwrite the memory of the initial environment, as setproctitle does."""
    import ctypes

    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    begin, end = int(fields[47]), int(fields[48])
    ctypes.memset(begin, ord("x"), end - begin - 1)


def go(words: list[str]) -> None:
    """Run in a new process, and go the way of ``words``."""
    for number, word in enumerate(words):
        if word == "deaf":
            for deaf in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(deaf, signal.SIG_IGN)
        elif word == "session":
            os.setsid()
        elif word == "group":
            os.setpgid(0, 0)
        elif word == "fork" and os.fork():
            os._exit(0)
        elif word == "parent" and os.fork():
            rest()
        elif word == "bare":
            become(__file__, words[number + 1 :], {})
        elif word == "forge":
            become(__file__, words[number + 1 :], {**os.environ, "SUPERVISOR_JOB_ID": "0" * 32})
        elif word == "keeper":
            become(keeper(), words[number + 1 :], {**os.environ, "SUPERVISOR_JOB_ID": "0" * 32})
        elif word == "overwrite":
            overwrite_environment()
        elif word == "stopped":
            report()
            os.kill(os.getpid(), signal.SIGSTOP)
    rest()


if sys.argv[2:3] == ["--"]:
    go(sys.argv[3:])
for way in sys.argv[2:]:
    if way == "leave":
        report()
        sys.exit(0)
    if os.fork() == 0:
        go(way.split())
rest()
