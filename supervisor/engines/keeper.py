"""The keeper: parent of the job processes, small, detached, and alive for as long as they are.

This file is what ``ps`` shows: ``python -I -S .../engines/keeper.py STATE_ROOT``. It only
detaches and hands over to ``keeper_loop``, which is imported rather than run so that its
compiled form is used (a script is compiled anew at every start).

Standard input is a socket to the supervisor that started it. As ``keeper.py --job DIRECTORY`` it keeps
the one job of that directory, on whatever machine an engine started it, see ``keeper_job``.
"""

import os
import sys


def main() -> None:
    """Leave the session and the process tree of whoever started us, then keep jobs."""
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import _signal  # type: ignore[import-not-found]  # part of every Python, and of no stubs

    # The same without its enumerations, which would take a third of the time that we need to start.
    sys.modules.setdefault("signal", _signal)
    if sys.argv[1] == "--job":  # an engine started us, and watches what belongs to us: we stay where we are
        from keeper_job import keep_one  # type: ignore[import-not-found]  # as below

        os._exit(keep_one(sys.argv[2]))  # taking the interpreter down in good order would take longer than the job may
    os.setsid()
    if os.fork():
        os._exit(0)  # our parent waits for this; the child belongs to init from here on
    os.chdir(sys.argv[1])  # where the state root goes when it is renamed, we and all our names in it go as well
    from keeper_loop import Keeper  # type: ignore[import-not-found]  # found beside this file, outside the package

    Keeper(".").run()
    os._exit(0)  # whatever still hangs on a file system has been given up


if __name__ == "__main__":
    main()
