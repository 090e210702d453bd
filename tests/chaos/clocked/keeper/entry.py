"""The keeper of a round of ``queues.py``: its wall clock is the one of the round, as for the other processes.

A keeper has few variables in its environment, so the clock is found beside the state root, and the package from here.
"""

import os
import sys


def follow_clock(base: str) -> None:
    import mmap
    import struct
    import time

    with open(f"{base}/clock", "rb") as file:
        shared = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real, unpack = time.time_ns, struct.Struct("<q").unpack_from
    time.time_ns = lambda: real() + unpack(shared)[0]
    time.time = lambda: time.time_ns() / 1e9


def main() -> None:
    package = os.path.abspath(f"{os.path.dirname(__file__)}/../../../../supervisor")
    sys.path.append(f"{package}/keeper")
    from entry import prepare

    prepare(package)
    follow_clock(os.path.dirname(sys.argv[1]))
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir(sys.argv[1])
    from supervisor.keeper.loop import Keeper

    Keeper(".").run()
    os._exit(0)


if __name__ == "__main__":
    main()
