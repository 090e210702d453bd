"""The program of the keeper: ``python -I -S .../keeper/entry.py STATE_ROOT``, with a socket to its supervisor as stdin.

It detaches and runs ``loop``, which is a module of its own because Python compiles a script at every start.
``entry.py --job DIRECTORY`` keeps the one job of that directory, on the machine where an engine started it: see
``single_job``.
"""

import os
import sys


def prepare(package: str) -> None:
    """Make modules of ``package``, the directory of ``supervisor``, importable without the files ``__init__.py``.

    Only the keeper's files may be there, and leaving out the four saves 0.3 ms of some 11.
    """
    for name in ("", "/jobdir", "/keeper", "/system"):
        module = type(sys)(f"supervisor{name.replace('/', '.')}")
        module.__path__ = [package + name]
        sys.modules[module.__name__] = module
    # Its names mean something to the compiler only; reading its file takes 0.2 ms.
    future = sys.modules.setdefault("__future__", type(sys)("__future__"))
    future.__dict__.setdefault("annotations", None)
    import _signal  # type: ignore[import-not-found]  # part of every Python, and of no stubs

    # `signal` without its enumerations, which take a third of the start of a keeper.
    sys.modules.setdefault("signal", _signal)


def main() -> None:
    """Detach from the session and the process tree of the supervisor, then keep jobs."""
    prepare(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if sys.argv[1] == "--job":  # an engine started this process and watches its session, so it stays in it
        from supervisor.keeper.single_job import keep_one

        os._exit(keep_one(sys.argv[2]))  # an orderly end takes longer than many jobs
    os.setsid()
    if os.fork():
        os._exit(0)  # the supervisor waits for this process; the keeper becomes a child of init
    os.chdir(sys.argv[1])  # relative names stay valid when the state root is renamed
    from supervisor.keeper.loop import Keeper

    Keeper(".").run()
    os._exit(0)  # also with threads that hang on a file system


if __name__ == "__main__":
    main()
