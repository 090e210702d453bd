"""A command whose processes try to escape: ``tree.py FIFO WAY...``, each way a few words, done in their order.

Every process writes its pid into the FIFO when it is where it wants to be, the first one included.
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


def go(words: list[str]) -> None:
    """Be in a new process, and go the way of ``words``."""
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
            argv = [sys.executable, "-S", __file__, sys.argv[1], "--", *words[number + 1 :]]
            os.execve(sys.executable, argv, {})
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
